"""The export stage writes each export whole, and leaves out with a note what an architecture does not allow."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from potstill.job import Job
from potstill.plugins import load_plugin
from potstill.runfolder import RunFolder, read_rows
from potstill.stages import export

REFUSING = """
from pathlib import Path
from potstill.contracts import Exporter

class Refusing(Exporter):
    "Takes no Llama."
    def problem(self, architecture): return f"{architecture} is not taken"
    def export(self, model_folder, target_folder): raise AssertionError
"""


def make_job(folder: Path, student: Path) -> Job:
    (folder / "refusing.py").write_text(REFUSING)
    (folder / "rows.jsonl").write_text(json.dumps({"prompt": "a", "completion": "b"}) + "\n")
    exports = ["safetensors", {"kind": "./refusing.py"}]
    return Job(
        folder=folder, name="n", task="conversation", data="rows.jsonl", teacher="scripted", student=str(student), exports=exports
    )


def test_exports_are_written_and_what_cannot_be_is_noted(tmp_path: Path, student_folder: Path) -> None:
    job = make_job(tmp_path, student_folder)
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(student_folder, folder.model)
    export.run(job, folder)
    export.run(job, folder)
    assert [path.name for path in folder.exports.iterdir()] == ["safetensors"]
    events = list(read_rows(folder.path / "events.jsonl"))
    assert events[0]["event"] == "exported"
    assert events[0]["size_bytes"] > 0
    assert "LlamaForCausalLM is not taken" in events[1]["message"]


FAILING = """
from potstill.contracts import Exporter
from potstill.errors import ModelError

class Failing(Exporter):
    "Finds out late that it cannot."
    def problem(self, architecture): return None
    def export(self, model_folder, target_folder):
        (target_folder / "half").write_text("a half")
        raise ModelError("this tokenizer is not known there")
"""


def test_an_export_that_fails_is_noted_leaves_nothing_and_harms_no_other(tmp_path: Path, student_folder: Path) -> None:
    (tmp_path / "failing.py").write_text(FAILING)
    job = make_job(tmp_path, student_folder)
    job = job.model_copy(update={"exports": (load_plugin("exporters", "./failing.py", tmp_path), *job.exports[:1])})
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(student_folder, folder.model)
    export.run(job, folder)
    assert [path.name for path in folder.exports.iterdir()] == ["safetensors"]
    note, done = read_rows(folder.path / "events.jsonl")
    assert note["message"].endswith("left out: this tokenizer is not known there")
    assert done["event"] == "exported"


def test_the_settings_of_the_exporters_decide_the_output(tmp_path: Path, student_folder: Path) -> None:
    job = make_job(tmp_path, student_folder)
    changed = job.model_copy(update={"exports": job.exports[:1]})
    assert json.dumps(export.inputs(job)) != json.dumps(export.inputs(changed))
