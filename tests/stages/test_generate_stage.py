from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer

from potstill.errors import JobFailedError, TeacherError
from potstill.job import Job
from potstill.journal import Journal, key
from potstill.runfolder import RunFolder, read_rows, write_rows
from potstill.stages import generate
from potstill.types import Example, Message, Request, Sampling

TASK = '''
from potstill.contracts import Task

class Words(Task):
    """Any text that is not 'nothing'."""

    def read(self, text):
        return None if text == "nothing" else text.strip().lower() or None

    def right(self, text, example):
        return None if example.gold is None else float(self.read(text) == self.read(example.gold))
'''
LOSSES = ["cross_entropy"]


def _job(folder: Path, teacher: dict[str, Any], **fields: Any) -> Job:
    (folder / "words.py").write_text(TASK)
    (folder / "student").mkdir(exist_ok=True)
    task = {"kind": "./words.py", "max_answer_tokens": 20}
    train = {"losses": LOSSES}
    return Job(
        folder=folder, name="run", task=task, data="train.jsonl", teacher=teacher, student="./student", train=train, **fields
    )


def _fill(job: Job, train: list[tuple[str, str | None]], validation: list[tuple[str, str | None]] = ()) -> RunFolder:  # type: ignore[assignment]
    folder = RunFolder(job.run_path)
    for split, rows in {"train": train, "validation": validation}.items():
        examples = [Example(f"{split}-{n}", (Message("user", q),), gold) for n, (q, gold) in enumerate(rows)]
        write_rows(folder.data / f"{split}.jsonl", (example.as_dict() for example in examples))
    return folder


def _answers(folder: RunFolder, name: str = "answers.jsonl") -> dict[str, tuple[str, str]]:
    return {row["id"]: (row["text"], row["target_source"]) for row in read_rows(folder.answers / name)}


def test_rows_without_gold_are_asked_and_gold_is_kept(tmp_path: Path) -> None:
    job = _job(tmp_path, {"kind": "scripted", "replies": {"red": "restart", "blue": "wait"}}, generate={"probe_rows": 0})
    folder = _fill(job, [("red light", None), ("a", "gold a"), ("blue light", None)], [("blue", None), ("b", "gold b")])
    generate.run(job, folder)
    assert _answers(folder) == {
        "train-0": ("restart", "teacher"),
        "train-1": ("gold a", "gold"),
        "train-2": ("wait", "teacher"),
    }
    assert _answers(folder, "validation_answers.jsonl") == {"validation-0": ("wait", "teacher")}
    spent = {
        "answers": 3,
        "failures": 0,
        "requests": 3,
        "prompt_tokens": 5,
        "completion_tokens": 3,
        "cost_usd": 0.0,
        "estimated": 0,
    }
    assert folder.state()["spend"] == spent
    events = {row["event"] for row in read_rows(folder.path / "events.jsonl")}
    assert {"progress", "spend"} <= events


def test_the_teacher_answers_gold_rows_only_when_told_and_never_in_validation(tmp_path: Path) -> None:
    job = _job(tmp_path, {"kind": "scripted", "echo": True}, generate={"when_gold": "teacher"})
    folder = _fill(job, [("a", "gold a")], [("b", "gold b")])
    generate.run(job, folder)
    assert _answers(folder) == {"train-0": ("a", "teacher")}
    assert _answers(folder, "validation_answers.jsonl") == {}


def test_the_system_prompts_of_row_and_task_reach_the_teacher_with_the_sampling(tmp_path: Path) -> None:
    with ChatServer() as server:
        teacher = {"kind": "openai_api", "base_url": server.url, "model": "big", "temperature": 0.7, "top_p": 0.9}
        job = _job(tmp_path, teacher)
        messages = (Message("system", "Be kind."), Message("user", "a"), Message("assistant", "A"), Message("user", "b"))
        folder = _fill(job, [])
        write_rows(folder.data / "train.jsonl", [Example("row", messages).as_dict()])
        generate.run(job, folder)
    assert server.bodies[0]["messages"] == [message.as_dict() for message in messages]
    assert (server.bodies[0]["temperature"], server.bodies[0]["top_p"], server.bodies[0]["max_tokens"]) == (0.7, 0.9, 20)


def test_a_failed_row_is_written_with_its_reason_and_the_job_goes_on(tmp_path: Path) -> None:
    with ChatServer(faults={"bad": ["always 500"]}) as server:
        teacher = {"kind": "openai_api", "base_url": server.url, "model": "big", "max_attempts": 2, "backoff_s": 0.01}
        job = _job(tmp_path, teacher)
        folder = _fill(job, [(question, None) for question in ("a", "b", "c", "bad")])
        generate.run(job, folder)
    bad = [row for row in read_rows(folder.answers / "answers.jsonl") if row["error"]]
    assert [(row["id"], row["attempts"], row["text"]) for row in bad] == [("train-3", 2, "")]
    assert "HTTP 500" in bad[0]["error"]


def test_too_few_answers_stop_the_job_and_the_next_run_asks_for_the_missing_alone(tmp_path: Path) -> None:
    with ChatServer(faults={"bad": ["500", "500"], "worse": ["500", "500"]}) as server:
        teacher = {"kind": "openai_api", "base_url": server.url, "model": "big", "max_attempts": 2, "backoff_s": 0.01}
        job = _job(tmp_path, teacher)
        folder = _fill(job, [(question, None) for question in ("a", "bad", "worse")])
        with pytest.raises(JobFailedError, match="2 of 3 train rows got no answer"):
            generate.run(job, folder)
        generate.run(job, folder)
        assert server.asked == {"a": 1, "bad": 3, "worse": 3}
    assert _answers(folder)["train-2"] == ("WORSE", "teacher")
    assert folder.state()["spend"] == {**folder.state()["spend"], "answers": 3, "failures": 2, "requests": 7}


def test_a_teacher_that_cannot_be_asked_says_how_far_it_came(tmp_path: Path) -> None:
    with ChatServer(faults={"c": ["always quota"]}) as server:
        job = _job(tmp_path, {"kind": "openai_api", "base_url": server.url, "model": "big", "max_concurrency": 1})
        folder = _fill(job, [(question, None) for question in "abcd"])
        with pytest.raises(TeacherError, match=r"add credit.*2 of 4 answers"):
            generate.run(job, folder)
    assert folder.state()["spend"]["answers"] == 2


def test_a_huggingface_teacher_answers_through_the_journal(tmp_path: Path, teacher_folder: Path) -> None:
    job = _job(tmp_path, {"kind": "huggingface", "model": str(teacher_folder)})
    folder = _fill(job, [(f"question {n}", None) for n in range(5)] + [("long " * 600, None)])
    generate.run(job, folder)
    rows = list(read_rows(folder.answers / "answers.jsonl"))
    assert [row["id"] for row in rows] == [f"train-{n}" for n in range(6)]
    assert all(row["completion_tokens"] for row in rows[:5])
    assert "the teacher takes 512" in rows[5]["error"]
    before = folder.state()["spend"]["requests"]
    generate.run(job, folder)
    assert list(read_rows(folder.answers / "answers.jsonl")) == rows
    assert folder.state()["spend"]["requests"] == before + 1


CHILD = """
import sys
from pathlib import Path
from potstill.job import Job
from potstill.runfolder import RunFolder
from potstill.stages import generate
folder, url = Path(sys.argv[1]), sys.argv[2]
teacher = {"kind": "openai_api", "base_url": url, "model": "big", "max_concurrency": 8}
task = {"kind": "./words.py", "max_answer_tokens": 20}
train = {"losses": ["cross_entropy"]}
job = Job(folder=folder, name="run", task=task, data="train.jsonl", teacher=teacher, student="./student", train=train)
print("started", flush=True)
generate.run(job, RunFolder(job.run_path))
"""


def test_kill_9_loses_no_answer_that_arrived_and_pays_for_none_twice(tmp_path: Path) -> None:
    chance = random.Random(7)
    questions = [f"question {n}" for n in range(240)]
    with ChatServer(delay_s=0.04) as server:
        job = _job(tmp_path, {"kind": "openai_api", "base_url": server.url, "model": "big"})
        folder = _fill(job, [(question, None) for question in questions])
        kills, known, asked_at_kill = 0, set[str](), {}
        while True:
            child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path), server.url], stdout=subprocess.PIPE)
            assert child.stdout is not None
            child.stdout.readline()
            if kills < 4:
                time.sleep(chance.uniform(0.05, 0.4))
                os.kill(child.pid, signal.SIGKILL)
            ended = child.wait(60)
            child.stdout.close()
            if ended == 0:
                break
            assert ended == -signal.SIGKILL
            time.sleep(0.1)  # requests that were under way when the process died end at the server
            for question in known:
                assert server.asked[question] == asked_at_kill[question]
            kills += 1
            known = _in_journal(job, questions)
            asked_at_kill = dict(server.asked)
        assert kills == 4
        assert 0 < len(known) < len(questions)
        for question in known:
            assert server.asked[question] == asked_at_kill[question]
        assert max(server.asked.values()) <= 1 + kills
        # Eight under way and as many that wait for the disk: no more are taken before these are safe.
        assert sum(server.asked.values()) <= len(questions) + kills * 2 * 8
    assert {text for text, _ in _answers(folder).values()} == {question.upper() for question in questions}


def _in_journal(job: Job, questions: list[str]) -> set[str]:
    requests = {question: Request("", (Message("user", question),), Sampling(20)) for question in questions}
    with Journal(job.journal_path) as journal:
        found = journal.get([key(job.teacher.identity(), request) for request in requests.values()])
    return {question for question, request in requests.items() if key(job.teacher.identity(), request) in found}


def test_inputs_change_with_what_is_asked(tmp_path: Path) -> None:
    usual = generate.inputs(_job(tmp_path, {"kind": "scripted", "echo": True}))
    assert usual == generate.inputs(_job(tmp_path, {"kind": "scripted", "echo": True}))
    assert usual != generate.inputs(_job(tmp_path, {"kind": "scripted", "echo": True, "temperature": 0.5}))
    assert usual != generate.inputs(_job(tmp_path, {"kind": "scripted", "default": "x"}))
