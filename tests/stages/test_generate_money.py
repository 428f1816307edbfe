"""The money of generate, against a server that does not tell what an answer took, is busy, slow, or gives up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer

from potstill.answers.budget import BudgetError
from potstill.errors import JobFailedError, TeacherError
from potstill.job import Job
from potstill.journal import Journal, Spend
from potstill.runfolder import RunFolder, read_rows, write_rows
from potstill.stages import generate, report
from potstill.types import Example, Message

PRICE = {"input_per_million": 1000.0, "output_per_million": 1000.0}
PROMPT, ANSWER = 16 + len("no 10"), 20
MOST = (PROMPT + ANSWER) * 1000.0 / 1e6
"""Dollars that "no 10" can cost, until it is known how few tokens its bytes are."""


def _job(folder: Path, *teachers: dict[str, Any], **fields: Any) -> Job:
    (folder / "student").mkdir(exist_ok=True)
    usual = {"kind": "openai_api", "model": "big", "max_attempts": 1, "backoff_s": 0.01, "max_concurrency": 1, **PRICE}
    settings = {"probe_rows": 0, "smoke_rows": 0, "min_kept_share": 0.0, "resamples": 0, **fields.pop("generate", {})}
    return Job(
        folder=folder, name="run", task={"kind": "classification", "labels": ["yes", "no"], "max_answer_tokens": ANSWER},
        data="train.jsonl", teacher=[{**usual, **one} for one in teachers], student="./student",
        train={"losses": ["cross_entropy"]}, generate=settings, **fields,
    )  # fmt: skip


def _fill(job: Job, questions: list[str]) -> RunFolder:
    folder = RunFolder(job.run_path)
    write_rows(folder.data / "train.jsonl", (Example(q, (Message("user", q),)).as_dict() for q in questions))
    write_rows(folder.data / "validation.jsonl", [])
    return folder


def _spent(job: Job, folder: RunFolder) -> Spend:
    """What the run has spent, which is the same in the journal, the state, the events and the report."""
    with Journal(job.journal_path) as journal:
        parts = journal.spent(folder.run_id())
    spent = sum(parts.values(), Spend())
    told = spent.as_dict()
    event = [row for row in read_rows(folder.path / "events.jsonl") if row["event"] == "spend"][-1]
    shown = report.costs(job.teachers, parts, {})
    assert folder.state()["spend"] == told == {name: event[name] for name in told}
    assert shown["total_usd"] == told["cost_usd"]
    assert shown["says"].startswith("at most ") == bool(told["estimated"])
    return spent


QUESTIONS = [f"no {n}" for n in range(10, 30)]
SILENT = {question: ["always no usage"] for question in QUESTIONS}


@pytest.mark.parametrize(
    "budget", [{"max_cost_usd": 5.5 * MOST}, {"max_tokens": int(5.5 * (PROMPT + ANSWER))}], ids=["dollars", "tokens"]
)
def test_a_cap_holds_over_all_starts_where_the_server_tells_no_usage(budget: dict[str, Any], tmp_path: Path) -> None:
    with ChatServer(faults=SILENT, answer=lambda q: "no") as server:
        job = _job(tmp_path, {"base_url": server.url}, budget=budget)
        folder = _fill(job, QUESTIONS)
        for _ in range(3):
            with pytest.raises(BudgetError, match="5 requests, 205 tokens and"):
                generate.run(job, folder)
            assert server.asked.total() == 5
        spent = _spent(job, folder)
    assert (spent.answers, spent.estimated, spent.requests) == (5, 5, 5)
    assert (spent.prompt_tokens, spent.completion_tokens) == (5 * PROMPT, 5 * ANSWER)
    assert spent.cost_usd == pytest.approx(5 * MOST)


def test_a_budget_that_comes_later_counts_what_was_spent_without_one(tmp_path: Path) -> None:
    with ChatServer(faults=SILENT, answer=lambda q: "no") as server:
        folder = _fill(_job(tmp_path, {"base_url": server.url}), QUESTIONS[:5])
        generate.run(_job(tmp_path, {"base_url": server.url}), folder)
        _fill(_job(tmp_path, {"base_url": server.url}), QUESTIONS)
        job = _job(tmp_path, {"base_url": server.url}, budget={"max_tokens": int(5.5 * (PROMPT + ANSWER))})
        with pytest.raises(BudgetError):
            generate.run(job, folder)
        assert server.asked.total() == 5


@pytest.mark.parametrize("fault", ["slow", "half", "half a body", "reset", "500"])
def test_what_may_have_been_paid_for_stays_spent_after_a_restart(fault: str, tmp_path: Path) -> None:
    with ChatServer(faults={question: [f"always {fault}"] for question in QUESTIONS}) as server:
        job = _job(tmp_path, {"base_url": server.url, "timeout_s": 0.2}, budget={"max_cost_usd": 3.5 * MOST})
        folder = _fill(job, QUESTIONS)
        for _ in range(2):
            with pytest.raises(BudgetError):
                generate.run(job, folder)
            assert server.asked.total() == 3
        spent = _spent(job, folder)
    assert (spent.failures, spent.estimated, spent.unpriced, spent.cost_usd) == (3, 3, 0, pytest.approx(3 * MOST))


def test_what_a_busy_server_refuses_costs_nothing_and_holds_nothing(tmp_path: Path) -> None:
    faults = {question: ["429 soon", "503", "429 soon"] for question in QUESTIONS}
    with ChatServer(faults=faults, answer=lambda q: "no") as server:
        job = _job(tmp_path, {"base_url": server.url, "max_attempts": 6}, budget={"max_cost_usd": 1.9 * MOST})
        folder = _fill(job, QUESTIONS[:8])
        generate.run(job, folder)
        assert server.asked == dict.fromkeys(QUESTIONS[:8], 4)
        spent = _spent(job, folder)
    assert (spent.answers, spent.requests, spent.estimated) == (8, 32, 0)
    assert spent.cost_usd == pytest.approx(8 * 4 * 1000.0 / 1e6), "two tokens of prompt and two of answer"


@pytest.mark.parametrize("why", ["no credit", "smoke gate"])
def test_when_one_teacher_stops_what_is_under_way_at_another_arrives(why: str, tmp_path: Path) -> None:
    bad: dict[str, Any] = {"faults": {QUESTIONS[0]: ["always quota"]}} if why == "no credit" else {"answer": lambda q: "Hm?"}
    slowly = {question: ["slow"] for question in QUESTIONS[:4]}
    with ChatServer(faults=slowly, answer=lambda q: "no") as slow, ChatServer(delay_s=0.3, **bad) as other:
        teachers = [
            {"base_url": slow.url, "name": "slow", "max_concurrency": 4},
            {"base_url": other.url, "name": "other"},
        ]
        smoke = {"smoke_rows": 1, "min_kept_share": 0.5} if why == "smoke gate" else {}
        job = _job(tmp_path, *teachers, generate=smoke)
        folder = _fill(job, QUESTIONS)
        with pytest.raises(TeacherError if why == "no credit" else JobFailedError, match=why):
            generate.run(job, folder)
        spent = _spent(job, folder)
        assert spent.requests == slow.asked.total() + other.asked.total()
        assert (slow.asked.total(), other.asked.total()) == ((1 if smoke else 4), 1)
        assert spent.answers == slow.asked.total() + (1 if smoke else 0)
        slow.faults, other.faults, other.delay_s, other.answer = {}, {}, 0.0, lambda q: "no"
        generate.run(_job(tmp_path, *teachers), folder)
        assert slow.asked == dict.fromkeys(QUESTIONS, 1), "what had arrived is not asked again"


CHILD = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_generate_money import _job
from potstill.answers import asking
from potstill.runfolder import RunFolder
from potstill.stages import generate
asking.GRACE_S = float(sys.argv[5])
job = _job(Path(sys.argv[1]), {"base_url": sys.argv[2], "max_concurrency": 4})
async def cell():
    generate.run(job, RunFolder(job.run_path))
try:
    if sys.argv[4] == "notebook":  # its loop leaves Ctrl-C to Python, unlike asyncio.run
        asyncio.new_event_loop().run_until_complete(cell())
    else:
        generate.run(job, RunFolder(job.run_path))
except KeyboardInterrupt:
    print("interrupted")
"""


def _interrupted(folder: Path, server: ChatServer, where: str, grace_s: float, at: int) -> None:
    """Runs generate in a process that gets a Ctrl-C when the server has been asked `at` times; it is waited for."""
    command = [sys.executable, "-c", CHILD, str(folder), server.url, str(Path(__file__).parent), where, str(grace_s)]
    paths = os.pathsep.join(filter(None, (str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH"))))
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": paths}) as child:
        try:
            while server.asked.total() < at:
                assert child.poll() is None
                time.sleep(0.02)
            child.send_signal(signal.SIGINT)
            assert child.communicate(timeout=60)[0].decode().strip() == "interrupted"
        finally:
            child.kill()


@pytest.mark.parametrize("where", ["command line", "notebook"])
def test_ctrl_c_takes_nothing_new_and_keeps_what_is_under_way(where: str, tmp_path: Path) -> None:
    with ChatServer(delay_s=0.5, answer=lambda q: "no") as server:
        job = _job(tmp_path, {"base_url": server.url, "max_concurrency": 4})
        folder = _fill(job, [f"no {n}" for n in range(400)])
        _interrupted(tmp_path, server, where, grace_s=30.0, at=8)
        spent = _spent(job, folder)
        assert (spent.answers, spent.failures) == (server.asked.total(), 0)
        assert 8 <= server.asked.total() <= 16


@pytest.mark.parametrize("where", ["command line", "notebook"])
def test_what_ctrl_c_does_not_wait_for_counts_as_dear_as_it_may_be(where: str, tmp_path: Path) -> None:
    faults = {question: ["slow"] for question in QUESTIONS[1:]}
    with ChatServer(faults=faults, answer=lambda q: "no") as server:
        job = _job(tmp_path, {"base_url": server.url, "max_concurrency": 4})
        folder = _fill(job, QUESTIONS)
        _interrupted(tmp_path, server, where, grace_s=0.05, at=3)
        spent = _spent(job, folder)
        assert spent.requests >= server.asked.total()
        assert (spent.failures, spent.estimated) == (spent.requests - spent.answers, spent.failures)
        assert spent.failures >= 1
        assert spent.cost_usd >= spent.failures * MOST
