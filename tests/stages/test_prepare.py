"""prepare on real files: what is written, what stops the job, and the sentence that says so."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from potstill.errors import DataError, JobFailedError
from potstill.job import Job
from potstill.runfolder import RunFolder, read_json, read_rows
from potstill.stages import prepare

DATA = os.environ.get("POTSTILL_DATA")


@pytest.fixture
def job_of(tmp_path: Path) -> Any:
    (tmp_path / "student").mkdir()

    def make(**data: Any) -> Job:
        return Job(folder=tmp_path, name="run", task="qa", teacher={"kind": "scripted"}, student="./student", data=data)

    return make


def write_jsonl(path: Path, prompts: list[str], **more: Any) -> None:
    path.write_text("".join(json.dumps({"prompt": prompt, "completion": "yes", **more}) + "\n" for prompt in prompts))


def prepared(job: Job) -> RunFolder:
    folder = RunFolder(job.run_path)
    prepare.run(job, folder)
    return folder


def test_every_format_gives_the_same_rows_and_a_card_that_adds_up(tmp_path: Path, job_of: Any) -> None:
    write_jsonl(tmp_path / "a.jsonl", ["one", "two"])
    (tmp_path / "b.json").write_text(json.dumps([{"prompt": "three", "completion": "yes"}, {"prompt": 3}, {"text": "?"}]))
    with (tmp_path / "c.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["prompt", "completion"], ["four\nlines", "yes"], ["one", "yes"]])
    table = pyarrow.Table.from_pylist([{"prompt": "five", "completion": "yes"}, {"prompt": "held out", "completion": "no"}])
    pyarrow.parquet.write_table(table, tmp_path / "d.parquet")
    write_jsonl(tmp_path / "v.jsonl", ["validation"])
    write_jsonl(tmp_path / "t.jsonl", ["Held  OUT", "test"])
    job = job_of(train=["a.jsonl", "b.json", "c.csv", "d.parquet"], validation="v.jsonl", test="t.jsonl", unlabelled="a.jsonl")
    folder = prepared(job)
    train = list(read_rows(folder.data / "train.jsonl"))
    assert [row["messages"][0]["content"] for row in train] == ["one", "two", "three", "3", "four\nlines", "five"]
    assert [row["source"] for row in train] == ["a.jsonl:1", "a.jsonl:2", "b.json:1", "b.json:1", "c.csv:2", "d.parquet:1"]
    card = read_json(folder.data / "card.json")
    assert (card["read"], card["rejected"], card["rejected_by_reason"]) == (14, 1, {"missing keys": 1})
    assert card["duplicates"] == {"train": 3, "validation": 0, "test": 0}
    assert card["leakage"] == {"train_in_test": 1, "train_in_validation": 0, "validation_in_test": 0}
    assert card["splits"]["train"] == {"rows": 6, "gold": 5, "unlabelled": 1, "taken_from_train": False}
    ended = card["rejected"] + sum(card["duplicates"].values()) + sum(card["leakage"].values()) + sum(card["left_out"].values())
    assert card["read"] == ended + sum(split["rows"] for split in card["splits"].values())
    assert [row["reason"].partition(":")[0] for row in read_rows(folder.data / "rejected.jsonl")] == ["missing keys"]
    assert sorted(path.name for path in folder.data.iterdir()) == [
        "card.json",
        "refused.jsonl",
        "rejected.jsonl",
        "test.jsonl",
        "train.jsonl",
        "validation.jsonl",
    ]


def test_a_train_file_alone_is_enough_and_a_rerun_writes_the_same_bytes(tmp_path: Path, job_of: Any) -> None:
    write_jsonl(tmp_path / "a.jsonl", [f"question {n}" for n in range(100)])
    folder = prepared(job_of(train="a.jsonl"))
    before = {path.name: path.read_bytes() for path in folder.data.iterdir()}
    assert all(read_json(folder.data / "card.json")["splits"][split]["rows"] > 0 for split in ("train", "validation", "test"))
    prepared(job_of(train="a.jsonl"))
    assert {path.name: path.read_bytes() for path in folder.data.iterdir()} == before


def test_named_columns_are_read_and_unlabelled_files_need_no_gold_column(tmp_path: Path, job_of: Any) -> None:
    (tmp_path / "a.csv").write_text("q;a;n\n" + "".join(f"frage {n};antwort;{n}\n" for n in range(30)))
    (tmp_path / "u.csv").write_text("q\nnoch eine\n")
    folder = prepared(job_of(train="a.csv", unlabelled="u.csv", columns={"prompt": "q", "gold": "a", "id": "n"}))
    rows = list(read_rows(folder.data / "train.jsonl"))
    assert rows[-1]["messages"] == [{"role": "user", "content": "noch eine"}]
    assert rows[-1]["gold"] is None
    assert all(row["gold"] == "antwort" and row["id"] == row["meta"]["n"] for row in rows[:-1])


def test_too_few_usable_rows_fail_the_job_with_the_counts_and_the_file_of_rejects(tmp_path: Path, job_of: Any) -> None:
    write_jsonl(tmp_path / "t.jsonl", ["t"])
    (tmp_path / "a.jsonl").write_text(
        '{"prompt": "a", "completion": "b"}\n' + '{"messages": [{"role": "bot", "content": "x"}]}\n' * 8
    )
    with pytest.raises(JobFailedError) as caught:
        prepared(job_of(train="a.jsonl", test="t.jsonl"))
    said = str(caught.value)
    assert said.startswith("only 2 of 10 rows are usable, and data.min_valid_share asks for 70%; most often: wrong role (8 rows)")
    assert "a.jsonl" in said
    assert len(list(read_rows(Path(said.rpartition(" ")[2])))) == 8
    assert caught.value.exit_code == 2


def test_a_good_share_goes_on_despite_bad_lines(tmp_path: Path, job_of: Any) -> None:
    write_jsonl(tmp_path / "a.jsonl", [f"question {n}" for n in range(50)])
    with (tmp_path / "a.jsonl").open("ab") as file:
        file.write(b'{"prompt": "caf\xe9"}\n{"prompt": "x", "completion": ""}\n{"prompt": "cut o')
    card = read_json(prepared(job_of(train="a.jsonl")).data / "card.json")
    assert card["rejected_by_reason"] == {"not UTF-8": 1, "empty answer": 1, "truncated": 1}


@pytest.mark.parametrize(
    ("train", "test", "said"),
    [
        (["a"], ["a"], "no train rows are left of the 2 rows read (removed because they stand in another split too: 1)"),
        (["a"], None, "no train rows are left"),
    ],
)
def test_a_split_without_rows_is_refused_with_what_to_do(
    tmp_path: Path, job_of: Any, train: list[str], test: list[str] | None, said: str
) -> None:
    write_jsonl(tmp_path / "a.jsonl", train)
    if test is not None:
        write_jsonl(tmp_path / "t.jsonl", test)
    with pytest.raises(DataError) as caught:
        prepared(job_of(train="a.jsonl", test="t.jsonl" if test is not None else ()))
    assert said in str(caught.value)


def test_a_split_whose_rows_are_all_wrong_says_what_is_wrong_with_them(tmp_path: Path, job_of: Any) -> None:
    write_jsonl(tmp_path / "t.jsonl", [f"question {n}" for n in range(20)])
    write_jsonl(tmp_path / "v.jsonl", ["validation"])
    (tmp_path / "a.jsonl").write_text('{"messages": [{"role": "bot", "content": "x"}]}\n' * 3)
    with pytest.raises(
        DataError, match=r"no train rows are usable; 3 were rejected, most often: wrong role .3 rows.; mend a.jsonl"
    ):
        prepared(job_of(train="a.jsonl", test="t.jsonl", validation="v.jsonl"))


@pytest.mark.parametrize(
    ("name", "content"), [("none.jsonl", None), ("empty.jsonl", b""), ("a.xlsx", b"PK"), ("utf16.jsonl", "{}".encode("utf-16"))]
)
def test_a_hopeless_file_is_refused_before_anything_is_written(
    tmp_path: Path, job_of: Any, name: str, content: bytes | None
) -> None:
    write_jsonl(tmp_path / "a.jsonl", ["a"])
    if content is not None:
        (tmp_path / name).write_bytes(content)
    job = job_of(train="a.jsonl", test=name)
    with pytest.raises(DataError, match=name):
        prepare.inputs(job)
    with pytest.raises(DataError, match=name):
        prepared(job)
    assert not (job.run_path / "data").exists()


def test_the_inputs_follow_the_files_content_and_the_settings(tmp_path: Path, job_of: Any) -> None:
    write_jsonl(tmp_path / "a.jsonl", ["a"])
    first = prepare.inputs(job_of(train="a.jsonl"))
    assert first == prepare.inputs(job_of(train="a.jsonl"))
    assert first != prepare.inputs(job_of(train="a.jsonl", max_gold_rows=1))
    assert first == prepare.inputs(job_of(train="a.jsonl", folder=str(tmp_path)))
    write_jsonl(tmp_path / "a.jsonl", ["b"])
    assert first != prepare.inputs(job_of(train="a.jsonl"))


def test_the_teachers_gold_rows_are_kept_apart_without_the_test_questions(tmp_path: Path, teacher_folder: Path) -> None:
    (tmp_path / "student").mkdir()
    write_jsonl(tmp_path / "a.jsonl", ["one", "one", "two", "three", "held out"])
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write('{"prompt": "bare"}\n{"prompt": ""}\n')
    write_jsonl(tmp_path / "t.jsonl", ["HELD out"])
    write_jsonl(tmp_path / "v.jsonl", ["three"])
    data = {"train": "a.jsonl", "test": "t.jsonl", "validation": "v.jsonl", "max_gold_rows": 1}
    teacher = {"kind": "huggingface", "model": str(teacher_folder), "adapt": {"data": ["a.jsonl"]}}
    job = Job(folder=tmp_path, name="run", task="qa", teacher=teacher, student="./student", data=data)
    folder = prepared(job)
    rows = list(read_rows(folder.data / "adapt.jsonl"))
    assert [(row["messages"][0]["content"], row["gold"]) for row in rows] == [("one", "yes"), ("two", "yes")]
    card = read_json(folder.data / "card.json")
    assert {name: card["adapt"][name] for name in ("rows", "leakage", "without_gold")} == {
        "rows": 2,
        "leakage": 2,
        "without_gold": 1,
    }
    assert card["adapt"]["files"][0]["duplicates"] == 1
    assert (card["read"], card["splits"]["train"]["gold"], card["gold_withheld"]) == (9, 1, 1)
    assert len(list(read_rows(folder.data / "rejected.jsonl"))) == 1
    assert prepare.inputs(job) != prepare.inputs(
        job.model_copy(update={"teacher": job.teacher.model_copy(update={"adapt": None})})
    )


@pytest.mark.skipif(DATA is None, reason="POTSTILL_DATA does not name the real data's folder")
def test_the_real_files_are_taken_whole(job_of: Any) -> None:
    for place in sorted(path for path in Path(str(DATA)).iterdir() if path.is_dir()):
        job = job_of(folder=str(place), train="train.jsonl", validation="validation.jsonl", test="test.jsonl", max_gold_rows=100)
        card = read_json(prepared(job).data / "card.json")
        assert card["rejected"] == 0
        assert sum(split["rows"] for split in card["splits"].values()) == card["read"]
        assert card["splits"]["train"]["gold"] == 100
