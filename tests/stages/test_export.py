"""The export stage writes each export whole, and leaves out with a note what an architecture does not allow."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from potstill.job import Job
from potstill.plugins import load_plugin
from potstill.rendering import load_tokenizer
from potstill.runfolder import RunFolder, read_json, read_rows, write_rows
from potstill.stages import export
from potstill.types import Example, Message

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
    assert sorted(path.name for path in folder.exports.iterdir()) == ["parity.json", "safetensors"]
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
    assert sorted(path.name for path in folder.exports.iterdir()) == ["parity.json", "safetensors"]
    note, done, _ = read_rows(folder.path / "events.jsonl")
    assert note["message"].endswith("left out: this tokenizer is not known there")
    assert done["event"] == "exported"


DAMAGED = """
import functools
from potstill.contracts import Artefact, Exporter
from potstill.exporters.safetensors import Safetensors
from potstill.runtimes import load_runtime

class Damaged(Exporter):
    "Writes a cut file."
    def problem(self, architecture): return None
    def export(self, model_folder, target_folder):
        Safetensors().export(model_folder, target_folder)
        file = target_folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:2000])
    def artefacts(self, model_folder, target_folder):
        load = functools.partial(load_runtime, target_folder)
        return [Artefact("damaged", (target_folder / "model.safetensors",), "transformers", load, 0.9)]
"""


def test_what_was_written_is_compared_and_what_fails_is_not_offered(tmp_path: Path, student_folder: Path) -> None:
    (tmp_path / "damaged.py").write_text(DAMAGED)
    job = make_job(tmp_path, student_folder)
    job = job.model_copy(update={"exports": (*job.exports[:1], load_plugin("exporters", "./damaged.py", tmp_path))})
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(student_folder, folder.model)
    export.run(job, folder)
    good, bad = read_json(folder.exports / "parity.json")
    assert (good["name"], good["passed"]) == ("safetensors", True)
    assert good["agreement"]["value"] > 0.99
    assert (bad["name"], bad["passed"]) == ("damaged", False)
    (damaged,) = (folder.exports / "damaged.py").glob("*.safetensors*")
    assert damaged.name == "model.safetensors.failed"


def test_the_students_own_answers_are_what_is_compared_on(tmp_path: Path, student_folder: Path) -> None:
    job = make_job(tmp_path, student_folder)
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(student_folder, folder.model)
    folder.data.mkdir()
    folder.evaluation.mkdir()
    rows = [Example(str(i), (Message("user", f"question {i}"),), "gold").as_dict() for i in range(3)]
    said = [{"id": str(i), "text": "one two three", "right": 1.0, "finish_reason": "stop"} for i in range(2)]
    write_rows(folder.data / "test.jsonl", rows)
    write_rows(folder.evaluation / "student.jsonl", [*said, {**said[0], "id": "2", "text": "", "error": "too long"}])
    export.run(job, folder)
    (found,) = read_json(folder.exports / "parity.json")
    num_tokens = len(load_tokenizer(str(student_folder))("one two three", add_special_tokens=False)["input_ids"])
    assert found["tokens"] == 2 * (num_tokens + 1)  # after the prompt, and after each token of the answer


def test_the_settings_of_the_exporters_decide_the_output(tmp_path: Path, student_folder: Path) -> None:
    job = make_job(tmp_path, student_folder)
    changed = job.model_copy(update={"exports": job.exports[:1]})
    assert json.dumps(export.inputs(job)) != json.dumps(export.inputs(changed))
