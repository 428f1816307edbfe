"""The brief's own code, word for word, against a local server and a small model of the real Phi-3 architecture."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from chat_server import ChatServer

from potstill.client import MLClient
from potstill.entities import DistillationJob, Hyperparameters
from potstill.errors import JobError, JobFailedError
from potstill.job import load_job
from potstill.workspace import JobProcess, azure_status, catalog_entry, find_workspace

SAMPLE = """\
from potstill import MLClient
from potstill.entities import DistillationJob

ml_client = MLClient.from_config()
distillation_job = DistillationJob(
    teacher_model="deepseek-v3", student_model="phi-4-mini",
    training_data="./training_data.jsonl", validation_data="./validation_data.jsonl",
    task_type="conversation",
    hyperparameters={"learning_rate": 2e-5, "batch_size": 2, "num_epochs": 3, "temperature": 0.7})
job = ml_client.jobs.create_or_update(distillation_job)
job_status = ml_client.jobs.get(job.name)
print(f"Job status: {job_status.status}")
evaluation_results = ml_client.models.evaluate(model_name="phi-4-mini-distilled",
    test_data="./test_data.jsonl", metrics=["accuracy", "bleu_score", "inference_time"])
baseline_results = ml_client.models.evaluate(model_name="phi-4-mini-baseline", test_data="./test_data.jsonl")
print(evaluation_results["accuracy"] - baseline_results["accuracy"])
"""
PROBLEMS = ["red light", "no sound", "slow connection", "black screen", "lost password", "update fails", "overheating", "noise"]


def ask_word(question: str) -> str:
    return f"Please restart the router. Ticket {len(question)}."


def write_rows(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_workspace(folder: Path, server: ChatServer, student: Path) -> None:
    """Prompts without answers for training; validation and test with gold."""
    models = {"deepseek-v3": {"endpoint": server.url}, "phi-4-mini": {"folder": str(student)}}
    (folder / "config.json").write_text(json.dumps({"models": models}))
    prompts = [f"My {thing} has a problem: {problem}." for problem in PROBLEMS for thing in ("router", "phone")]
    user = [{"messages": [{"role": "user", "content": prompt}]} for prompt in prompts]
    write_rows(folder / "training_data.jsonl", [dict(row) for row in user[:10]])
    for name, part in (("validation_data", user[10:13]), ("test_data", user[13:])):
        rows = []
        for row in part:
            gold = {"role": "assistant", "content": "Please restart the router."}
            rows.append({"messages": [*row["messages"], gold], "meta": {"required_values": ["restart"]}})
        write_rows(folder / f"{name}.jsonl", [dict(row) for row in rows])


@pytest.mark.timeout(240)
def test_the_briefs_sample_runs_word_for_word(tmp_path: Path, phi3_folder: Path) -> None:
    with ChatServer(answer=ask_word) as server:
        write_workspace(tmp_path, server, phi3_folder)
        show = "\nimport json; print(json.dumps([evaluation_results, baseline_results, ml_client.jobs.get(job.name).status]))\n"
        (tmp_path / "sample.py").write_text(SAMPLE + show)
        done = subprocess.run([sys.executable, "sample.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        evaluation, baseline, status = json.loads(lines[-1])
        assert lines[0].removeprefix("Job status: ") in {"Starting", "Preparing", "Running"}
        assert float(lines[1]) == evaluation["accuracy"] - baseline["accuracy"]
        assert status == "Completed"
        assert set(evaluation) == {"accuracy", "bleu_score", "inference_time", "n", "intervals", "notes"}
        assert evaluation["inference_time"] > 0
        assert {"accuracy", "n"} <= set(baseline)
        assert server.asked.total() == 13, "each training prompt is asked once, and each of the three validation rows as a probe"
        assert [body["temperature"] for body in server.bodies].count(0.7) == 12, "the last is the test row, asked greedily"

        client = MLClient.from_config(tmp_path)
        job = client.jobs.list()[0]
        assert "sampling temperature" in job.description
        assert job.report is not None
        teacher = client.models.evaluate("deepseek-v3", str(tmp_path / "test_data.jsonl"))
        assert teacher["accuracy"] == 1.0
        log = job.run_folder / "log.txt"
        assert "Traceback" not in log.read_text()


def test_the_readme_shows_the_same_sample() -> None:
    readme = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
    assert SAMPLE in readme


def test_without_a_config_the_workspace_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workspace = find_workspace(tmp_path)
    assert workspace.folder == tmp_path / "potstill-workspace"
    assert "potstill-workspace" in capsys.readouterr().err


def test_a_config_is_found_in_a_parent_and_a_models_own_config_is_not_one(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"workspace_name": "w"}')
    inner = tmp_path / "models" / "phi"
    inner.mkdir(parents=True)
    (inner / "config.json").write_text('{"model_type": "phi3"}')
    assert find_workspace(inner).folder == tmp_path


@pytest.mark.parametrize("text", ["{", "[1]", '{"models": ["phi"]}'])
def test_a_broken_config_is_refused_in_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(JobError, match=r"config\.json"):
        MLClient.from_config(tmp_path)


def test_a_config_model_is_an_endpoint_or_a_folder(tmp_path: Path) -> None:
    by_url = catalog_entry("deepseek-v3", {"endpoint": "http://127.0.0.1:1/v1", "api_key": "env:KEY"}, tmp_path)
    assert by_url["endpoint"] == {
        "kind": "openai_api",
        "model": "deepseek-v3",
        "base_url": "http://127.0.0.1:1/v1",
        "api_key": "env:KEY",
    }
    assert by_url["parameters"] == 671_000_000_000
    assert catalog_entry("mine", {"folder": "models/mine"}, tmp_path) == {"folder": str(tmp_path / "models" / "mine")}
    with pytest.raises(JobError, match="did you mean 'folder'"):
        catalog_entry("mine", {"foldr": "x"}, tmp_path)


def test_azures_names_and_strings_are_understood() -> None:
    chosen = Hyperparameters(learning_rate="2e-5", n_epochs="2", per_device_train_batch_size="4")
    assert (chosen.learning_rate, chosen.num_epochs, chosen.batch_size) == (2e-5, 2.0, 4)
    job = DistillationJob(teacher_model="t", student_model="s", training_data="x", task_type="NLU_QA")
    assert job.task_type == "qa"
    assert job.run_name == job.run_name


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"task_type": "conversatio"}, "did you mean 'conversation'"),
        ({"task_type": "nli", "hyperparameters": {"learning_rat": 1}}, "did you mean 'learning_rate'"),
        ({"task_type": "nli", "hyperparameters": {"num_epochs": 1, "n_epochs": 2}}, "a second time"),
        ({"task_type": "nli", "hyperparameters": {"learning_rate_multiplier": 1}}, "write learning_rate"),
        ({"task_type": "nli", "hyperparameters": {"learning_rate": "fast"}}, "learning_rate"),
        ({"task_type": "nli", "validation_dat": "x"}, "did you mean 'validation_data'"),
        ({}, "'task_type' is missing"),
    ],
)
def test_a_wrong_job_is_refused_in_one_sentence(fields: dict[str, object], sentence: str) -> None:
    with pytest.raises(JobError, match=sentence):
        DistillationJob(teacher_model="t", student_model="s", training_data="x", **fields)


def test_an_entity_is_frozen() -> None:
    job = DistillationJob(teacher_model="t", student_model="s", training_data="x", task_type="nli")
    with pytest.raises(ValueError, match="frozen"):
        job.student_model = "other"  # type: ignore[misc]


def test_the_temperature_is_the_distillation_temperature_of_a_local_teacher(
    tmp_path: Path, teacher_folder: Path, student_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = MLClient(find_workspace(tmp_path))
    job = DistillationJob(
        teacher_model=str(teacher_folder),
        student_model=str(student_folder),
        training_data=str(tmp_path / "no.jsonl"),
        task_type="nli",
        hyperparameters={"temperature": 2},
        name="local",
    )
    with pytest.raises(JobFailedError, match=r"no\.jsonl does not exist"):
        client.jobs.wait(client.jobs.create_or_update(job).name)
    written = load_job(tmp_path / "potstill-workspace" / "jobs" / "local" / "job.yaml")
    assert written.train.temperature == 2
    assert written.teacher.temperature == 0
    assert "distillation temperature" in written.description
    assert client.jobs.get("local").status == "Failed"
    assert "distillation temperature" in capsys.readouterr().err


def test_a_job_can_be_cancelled_and_streamed(tmp_path: Path, phi3_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ChatServer(delay_s=30) as server:
        write_workspace(tmp_path, server, phi3_folder)
        client = MLClient.from_config(tmp_path)
        fields = {"training_data": str(tmp_path / "training_data.jsonl"), "task_type": "conversation", "name": "slow"}
        client.jobs.create_or_update(DistillationJob(teacher_model="deepseek-v3", student_model="phi-4-mini", **fields))
        deadline = time.monotonic() + 60
        while not server.asked and time.monotonic() < deadline:
            time.sleep(0.1)
        assert client.jobs.cancel("slow").status in {"CancelRequested", "Canceled"}
        with pytest.raises(JobFailedError, match="ended as Canceled"):
            client.jobs.stream("slow")
        assert "stage_started" in capsys.readouterr().out


def test_a_process_that_is_gone_without_an_end_does_not_respond(tmp_path: Path) -> None:
    process = JobProcess(tmp_path)
    assert azure_status({}, process) == "NotStarted"
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    process.remember(child.pid)
    assert azure_status({"status": "running", "stage": "train"}, process) == "Running"
    assert azure_status({"status": "running", "stage": "report"}, process) == "Finalizing"
    assert azure_status({}, process) == "Starting"
    early, late = "2000-01-01T00:00:00+00:00", "2100-01-01T00:00:00+00:00"
    assert azure_status({"status": "completed", "updated_at": early}, process) == "Starting", "that was the run before"
    assert azure_status({"status": "completed", "updated_at": late}, process) == "Completed"
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert azure_status({"status": "running", "stage": "train"}, process) == "NotResponding"
    assert azure_status({"status": "failed"}, process) == "Failed"
    assert azure_status({"status": "completed"}, process) == "Completed"
    child.wait()


def test_unknown_names_say_what_is_known(tmp_path: Path) -> None:
    client = MLClient(find_workspace(tmp_path))
    with pytest.raises(JobError, match="no jobs"):
        client.jobs.get("x")
    with pytest.raises(JobError, match="no jobs"):
        client.models.evaluate("phi-4-mini-distilled", "test.jsonl")


def test_a_key_in_clear_text_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    client = MLClient.from_config(tmp_path)
    teacher = {"kind": "openai_api", "base_url": "http://127.0.0.1:9/v1", "model": "m", "api_key": "my-own-secret"}
    job = DistillationJob(teacher_model=teacher, student_model="s", training_data="x", task_type="nli", name="n")
    with pytest.raises(JobError, match="env:NAME"):
        client.jobs.create_or_update(job)
    with pytest.raises(JobError, match="env:NAME"):
        catalog_entry("m", {"endpoint": "http://127.0.0.1:9/v1", "api_key": "my-own-secret"}, tmp_path)
    assert not list(tmp_path.rglob("*.yaml"))
