"""The command line as a person meets it: results on stdout, one sentence on stderr, the right exit code, no traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from chat_server import ChatServer
from conftest import make_tokenizer, save_llama

from potstill.cli import main
from potstill.runfolder import RunFolder, read_json, write_json


class Done(NamedTuple):
    code: int
    out: str
    err: str


Cli = Callable[..., Done]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Cli:
    """The real entry point in this process (torch is imported already), in tmp_path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)

    def call(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["potstill", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return Done(int(ended.value.code or 0), said.out, said.err)

    return call


def write_job(folder: Path, teacher: Path | str | dict[str, object], student: Path, **more: object) -> Path:
    """A least job on 24 NLI rows, half with gold."""
    rows = []
    for number in range(24):
        prompt = f"Premise: man {number} walks. Hypothesis: a person moves."
        gold = [{"role": "assistant", "content": "entailment"}] if number % 2 else []
        rows.append({"messages": [{"role": "user", "content": prompt}, *gold]})
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    fields = {"name": "one", "task": "nli", "data": "train.jsonl", "teacher": teacher, "student": str(student), **more}
    fields["teacher"] = str(teacher) if isinstance(teacher, Path) else teacher
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(fields))
    return path


def is_one_sentence(done: Done, code: int = 2) -> bool:
    """The user's mistake: its exit code, nothing on stdout, one line on stderr."""
    lines = done.err.strip().splitlines()
    return done.code == code and done.out == "" and len(lines) == 1 and lines[0].startswith("potstill: ")


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("task=nlj", "did you mean 'nli'"),
        ("teacher={kind: scriptd}", "did you mean 'scripted'"),
        ("teacher=deepseek-v4", "did you mean 'deepseek-v3'"),
        ("train.losses=[forward_kk]", "did you mean 'forward_kl'"),
        ("train.learning_rat=1", "did you mean 'learning_rate'"),
        ("trian=1", "did you mean 'train'"),
        ("data.train_shar=1", "unknown key 'data.train_shar'"),
        ("exports=[onxx]", "unknown exporters kind 'onxx'"),
        ("train.epochs=many", "train.epochs"),
        ("train.epochs=-1", "greater than 0"),
        ("name=../x", "it names the run folder"),
        ("teacher={kind: openai_api, base_url: 'http://x/v1', model: m, api_key: sk-abcdefghijklmnopqrst}", "env:NAME"),
        ("teacher={kind: openai_api, base_url: 'http://x/v1', model: m, api_key: secret-value}", "env:NAME"),
        ("teacher={kind: openai_api, base_url: 'http://x/v1', model: m, extra: {X-Api-Key: secret-value}}", "env:NAME"),
        ("teacher={kind: openai_api, base_url: 'http://x/v1', model: m, extra: {a: [Bearer secret-value]}}", "env:NAME"),
        ("student=./nowhere", "student folder './nowhere' does not exist"),
        ("teacher={kind: scripted, adapt: {epochs: 1}}", "teacher.adapt"),
        ("train.losses=[{kind: ./mine.py}]", "does not exist"),
        ("epochs", "--set takes key=value"),
        ("train.epochs=[", "is not YAML"),
        ("teacher=", "teacher: None is neither"),
        ("teacher={5: 6}", "teacher"),
        ("student=", "student: None is neither"),
        ("student=[a]", "student: ['a'] is neither"),
        ("exports=", "exports: None is neither"),
        ("train.losses=[5]", "losses: 5 is neither"),
        ("validation.checks=", "validation.checks: None is neither"),
        ("data.train=", "data.train: None is neither"),
    ],
)
def test_a_mistake_in_the_job_is_one_sentence(
    cli: Cli, tmp_path: Path, teacher_folder: Path, student_folder: Path, override: str, sentence: str
) -> None:
    job = write_job(tmp_path, teacher_folder, student_folder)
    done = cli("check", str(job), "--set", override)
    assert is_one_sentence(done)
    assert sentence in done.err
    assert "sk-abc" not in done.err
    assert "secret-value" not in done.err


def test_a_loss_that_the_teacher_cannot_serve_is_refused_before_anything_is_paid(
    cli: Cli, tmp_path: Path, student_folder: Path
) -> None:
    job = write_job(tmp_path, "deepseek-v3", student_folder, train={"losses": ["forward_kl"]})
    done = cli("run", str(job))
    assert is_one_sentence(done)
    assert "use cross_entropy, or a local teacher" in done.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "does not exist"),
        ("a: [", "is not YAML"),
        ("- 1", "must hold keys"),
        ("name: x", "'task' is missing"),
        ("1: 2", "unknown key 1"),
    ],
)
def test_a_job_file_that_cannot_be_read_is_one_sentence(cli: Cli, tmp_path: Path, content: str | None, sentence: str) -> None:
    if content is not None:
        (tmp_path / "job.yaml").write_text(content)
    done = cli("run", "job.yaml")
    assert is_one_sentence(done)
    assert sentence in done.err


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(None, "does not exist"), (b"", "is empty"), (b"\xff\xfe\x00", "UTF-16"), (b"\xe9t\xe9\n\xe9", "not UTF-8")],
)
def test_a_data_file_that_cannot_be_read_is_one_sentence(
    cli: Cli, tmp_path: Path, teacher_folder: Path, student_folder: Path, content: bytes | None, sentence: str
) -> None:
    job = write_job(tmp_path, teacher_folder, student_folder)
    (tmp_path / "train.jsonl").unlink()
    if content is not None:
        (tmp_path / "train.jsonl").write_bytes(content)
    done = cli("run", str(job))
    assert is_one_sentence(done)
    assert sentence in done.err
    checked = cli("check", str(job))
    assert checked.code == 2
    assert sentence in checked.out


def test_check_finds_a_good_job_good_and_says_it_in_json(
    cli: Cli, tmp_path: Path, teacher_folder: Path, student_folder: Path
) -> None:
    job = write_job(tmp_path, teacher_folder, student_folder)
    done = cli("check", str(job), "--json")
    found = json.loads(done.out)
    assert done.code == 0
    assert found["ok"] is True
    subjects = {finding["subject"] for finding in found["findings"]}
    assert {
        "data.train",
        "student tokenizer",
        "teacher tokenizer",
        "vocabularies",
        "losses",
        "lengths",
        "disk",
        "memory",
    } <= subjects
    assert not (tmp_path / "runs").exists(), "check writes nothing"


def test_check_counts_bad_rows_and_long_rows(cli: Cli, tmp_path: Path, teacher_folder: Path, student_folder: Path) -> None:
    job = write_job(tmp_path, teacher_folder, student_folder)
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write('{"messages": [{"role": "robot", "content": "x"}]}\nnot json\n')
        file.write(json.dumps({"prompt": "word " * 600, "completion": "neutral"}) + "\n")
    found = {(f["subject"], f["level"]): f["text"] for f in json.loads(cli("check", str(job), "--json").out)["findings"]}
    assert "2 of 27 rows are left out" in found["data.train", "warning"]
    assert "wrong role" in found["data.train", "warning"]
    assert "raise student.max_length" in found["lengths", "warning"]


def test_a_tokenizer_without_a_chat_template_is_a_problem(cli: Cli, tmp_path: Path, teacher_folder: Path) -> None:
    student = save_llama(tmp_path / "student")
    for file in student.glob("chat_template*"):
        file.unlink()
    job = write_job(tmp_path, teacher_folder, student)
    done = cli("check", str(job))
    assert done.code == 2
    assert "has no chat template; use an instruct model" in done.out
    assert is_one_sentence(cli("run", str(job)))


@pytest.mark.parametrize("role", ["teacher", "student"])
@pytest.mark.parametrize("damage", ["cut weights", "no weights", "no config"])
def test_a_damaged_model_is_found_before_anything_is_spent(
    cli: Cli, tmp_path: Path, teacher_folder: Path, student_folder: Path, role: str, damage: str
) -> None:
    broken = save_llama(tmp_path / "broken")
    weights = broken / "model.safetensors"
    if damage == "cut weights":
        weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    else:
        (weights if damage == "no weights" else broken / "config.json").unlink()
    folders = {"teacher": teacher_folder, "student": student_folder, role: broken}
    job = write_job(tmp_path, folders["teacher"], folders["student"])
    assert cli("check", str(job)).code == 2
    assert is_one_sentence(cli("run", str(job)))
    planned = cli("plan", str(job))
    assert planned.code == 0 or is_one_sentence(planned)


def test_a_tokenizer_without_a_pad_token_works(cli: Cli, tmp_path: Path, teacher_folder: Path) -> None:
    student = save_llama(tmp_path / "student")
    tokenizer = make_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(student)
    assert cli("check", str(write_job(tmp_path, teacher_folder, student))).code == 0


def test_chat_templates_that_differ_are_told_where_signals_are_used(cli: Cli, tmp_path: Path, student_folder: Path) -> None:
    teacher = save_llama(tmp_path / "teacher")
    for file in teacher.glob("chat_template*"):
        file.write_text(file.read_text().replace("<|assistant|>", "<|system|>Answer.<|end|><|assistant|>"))
    assert "chat template differs" in cli("check", str(write_job(tmp_path, teacher, student_folder))).out
    plain = write_job(tmp_path, teacher, student_folder, train={"losses": ["cross_entropy"]})
    assert "chat template differs" not in cli("check", str(plain)).out


def test_vocabularies_that_differ_say_which_losses_work(cli: Cli, tmp_path: Path, teacher_folder: Path) -> None:
    student = save_llama(tmp_path / "student", vocab_size=300)
    job = write_job(tmp_path, teacher_folder, student)
    done = cli("check", str(job))
    assert done.code == 0
    assert "aligned by bytes" in done.out
    refused = cli("check", str(job), "--set", "train.losses=[hidden_mse]")
    assert refused.code == 2
    assert "hidden_mse" in refused.out
    assert cli("check", str(job), "--set", "train.losses=[cross_entropy]").code == 0


def test_a_missing_key_and_a_silent_endpoint_are_problems(
    cli: Cli, tmp_path: Path, student_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    endpoint: dict[str, object] = {"kind": "openai_api", "base_url": "http://127.0.0.1:9/v1", "model": "m"}
    job = write_job(tmp_path, {**endpoint, "api_key": "env:NO_SUCH_KEY"}, student_folder)
    done = cli("check", str(job))
    assert done.code == 2
    assert "the environment variable NO_SUCH_KEY is not set" in done.out
    assert is_one_sentence(cli("run", str(job)))
    job = write_job(tmp_path, endpoint, student_folder)
    assert "does not answer" in cli("check", str(job)).out


def test_a_run_folder_in_use_is_told_with_its_holder(
    cli: Cli, tmp_path: Path, teacher_folder: Path, student_folder: Path
) -> None:
    job = write_job(tmp_path, teacher_folder, student_folder)
    with RunFolder(tmp_path / "runs" / "one").locked():
        done = cli("run", str(job))
    assert is_one_sentence(done)
    assert f"in use by process {os.getpid()}" in done.err


FULL_TEACHER = """
from pathlib import Path
from potstill.contracts import Teacher

class Full(Teacher):
    "A teacher that fills the disk."
    def identity(self): return {}
    def answers(self, requests): raise AssertionError
    def problems(self):
        with Path("/dev/full").open("w") as file:
            file.write("x")
        return []
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is always full")
def test_a_full_disk_is_one_sentence(cli: Cli, tmp_path: Path, student_folder: Path) -> None:
    (tmp_path / "full.py").write_text(FULL_TEACHER)
    job = write_job(tmp_path, {"kind": "./full.py"}, student_folder)
    done = cli("check", str(job))
    assert is_one_sentence(done)
    assert "the disk is full" in done.err


LIMITED = """
import resource, sys
limit = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
from potstill.cli import main
main()
"""


@pytest.mark.parametrize("kilobytes", [20, 60, 150])
def test_weights_that_find_no_room_are_one_sentence(tmp_path: Path, student_folder: Path, kilobytes: int) -> None:
    """A cut limit on a file's size stands in for a full disk: the journal, the best weights and a checkpoint meet it."""
    job = write_job(tmp_path, {"kind": "scripted", "default": "entailment"}, student_folder, train={"epochs": 1})
    command = [sys.executable, "-c", LIMITED, str(kilobytes * 1024), "run", str(job)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert "run again" in done.stderr or "run the same command again" in done.stderr


def test_a_run_folder_that_cannot_be_made_is_one_sentence(cli: Cli, tmp_path: Path, student_folder: Path) -> None:
    job = write_job(tmp_path, {"kind": "scripted", "default": "entailment"}, student_folder)
    done = cli("run", str(job), "--set", "runs=job.yaml")
    assert is_one_sentence(done)
    assert "job.yaml" in done.err


def test_plan_marks_defaults_and_estimates_without_writing(
    cli: Cli, tmp_path: Path, teacher_folder: Path, student_folder: Path
) -> None:
    job = write_job(tmp_path, teacher_folder, student_folder)
    done = cli("plan", str(job), "--set", "train.epochs=2")
    lines = done.out.splitlines()
    assert done.code == 0
    assert "  epochs: 2.0" in lines
    assert "  batch_size: 16  # default" in lines
    assert f"  model: {teacher_folder}" in lines
    assert "to do  train" in lines
    assert "cost      nothing (a local teacher)" in done.out
    assert not (tmp_path / "runs").exists()
    as_json = json.loads(cli("plan", str(job), "--json").out)
    assert as_json["estimate"]["teacher_requests"] > 0
    job = write_job(tmp_path, "deepseek-v3", student_folder)
    assert "cost      unknown" in cli("plan", str(job)).out


def test_init_writes_a_job_and_never_over_one(cli: Cli, tmp_path: Path) -> None:
    assert cli("init", "new", "--task", "nli").out.strip() == "new/job.yaml"
    again = cli("init", "new")
    assert is_one_sentence(again)
    assert "exists already" in again.err
    assert is_one_sentence(cli("init", "other", "--task", "poetry"))
    assert yaml.safe_load((tmp_path / "new" / "job.yaml").read_text())["task"] == "nli"


def test_list_show_and_report_read_the_run_folder(cli: Cli, tmp_path: Path) -> None:
    assert cli("list").out == ""
    run = tmp_path / "runs" / "one"
    stage = {"fingerprint": "f", "seconds": 1.5, "finished_at": "now"}
    write_json(run / "state.json", {"status": "running", "stage": "train", "stages": {"prepare": stage}})
    assert cli("list").out == "one\trunning\ttrain\t\n"
    assert is_one_sentence(cli("report", "one"))
    score = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 100}
    write_json(run / "report.json", {"verdict": "Good.", "systems": {"student": {"parameters": 7, "accuracy": score}}})
    (run / "report.html").write_text("<html></html>")
    shown = cli("show", "one").out
    assert "status  running (train)" in shown
    assert "student\t7\t0.500\t0.400 to 0.600\t100\t" in shown
    assert json.loads(cli("show", "one", "--json").out)["systems"]["student"]["parameters"] == 7
    assert cli("report", "runs/one").out == f"Good.\n{run / 'report.html'}\n"
    assert json.loads(cli("list", "--json").out)[0]["verdict"] == "Good."
    wrong = cli("show", "onee")
    assert is_one_sentence(wrong)
    assert "did you mean 'one'" in wrong.err


def test_schema_takes_the_least_job_and_knows_the_plug_ins_keys(cli: Cli) -> None:
    schema = json.loads(cli("schema").out)
    assert schema["additionalProperties"] is False
    assert "folder" not in schema["properties"]
    assert {"type": "string"} in schema["$defs"]["Teacher"]["anyOf"]
    assert any("base_url" in part.get("properties", {}) for part in schema["$defs"]["Teacher"]["anyOf"])
    assert {"type": "string"} in schema["$defs"]["DataSettings"]["anyOf"]


def test_a_chat_is_streamed_from_a_pipe(tmp_path: Path, student_folder: Path) -> None:
    command = [sys.executable, "-m", "potstill", "chat", str(student_folder), "--max-tokens", "3"]
    asked = "hello\n/system Be kind.\nhello\n/what\n/reset\n/exit\nnever asked\n"
    done = subprocess.run(command, input=asked, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") >= 2
    assert "unknown command /what" in done.stderr


def test_ctrl_c_stops_cleanly_and_the_same_command_continues(tmp_path: Path, student_folder: Path) -> None:
    with ChatServer(delay_s=30) as server:
        teacher: dict[str, object] = {"kind": "openai_api", "base_url": server.url, "model": "m"}
        job = write_job(tmp_path, teacher, student_folder, generate={"when_gold": "teacher"})
        command = [sys.executable, "-m", "potstill", "run", str(job)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        while not server.asked and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip() == f"potstill: stopped; the same command continues: potstill run {job}"
    assert out == ""
    assert read_json(tmp_path / "runs" / "one" / "state.json")["status"] == "stopped"


def test_the_entry_waits_passively_unless_told_otherwise(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OMP_")]:
        monkeypatch.delenv(name)
    cli("list")
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    cli("list")
    assert "OMP_WAIT_POLICY" not in os.environ


def test_an_unknown_verb_and_option_are_exit_code_2(cli: Cli) -> None:
    assert cli("distil").code == 2
    assert cli("list", "--colour").code == 2
    assert "Exit codes: 0 ok" in " ".join(cli("--help").out.split())


def test_help_list_and_show_answer_in_under_half_a_second(tmp_path: Path) -> None:
    """Processor time, so that a busy machine does not decide."""
    for arguments in (["--help"], ["list", "losses"], ["list"]):
        before = os.times()
        subprocess.run([sys.executable, "-m", "potstill", *arguments], cwd=tmp_path, capture_output=True, check=True)
        after = os.times()
        assert after.children_user + after.children_system - before.children_user - before.children_system < 0.5
