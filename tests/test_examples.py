"""The example jobs are right: every key is known, and the data folder is a setting."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from potstill.job import load_job
from potstill.runfolder import RunFolder, read_json
from potstill.stages import prepare

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_loads_and_prepares_the_folder_it_is_given(
    path: Path, tmp_path: Path, teacher_folder: Path, student_folder: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for split, count in (("train", 1200), ("validation", 5), ("test", 5)):
        rows = (
            {"messages": [{"role": "user", "content": f"{split} {n}"}, {"role": "assistant", "content": "refund"}]}
            for n in range(count)
        )
        (data / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"data.folder": data, "runs": tmp_path / "runs", "teacher.model": teacher_folder, "student.model": student_folder}
    job = load_job(path, [f"{key}={value}" for key, value in settings.items()] + ["teacher.kind=huggingface"])
    prepare.run(job, RunFolder(job.run_path))
    card = read_json(job.run_path / "data" / "card.json")
    assert card["splits"]["train"] == {"rows": 1200, "gold": 1000, "unlabelled": 200, "taken_from_train": False}
    assert card["adapt"]["rows"] == 1200
