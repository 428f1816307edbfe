"""Both teachers that ask in batches, against servers that count every row they take."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from batch_server import AnthropicBatchServer, BatchServer, OpenAiBatchServer

from potstill.answers.budget import Budget, Purse
from potstill.contracts import Requests
from potstill.errors import JobError, TeacherError
from potstill.journal import Journal, Spend, key
from potstill.plugins import load_plugin
from potstill.types import Message, Reply, Request

KINDS: dict[str, tuple[type[BatchServer], str]] = {
    "openai_batch": (OpenAiBatchServer, "gpt-4o-mini"),
    "anthropic_batch": (AnthropicBatchServer, "claude-haiku-4-5"),
}
QUESTIONS = [f"question {number}" for number in range(12)]
EVENTS = ["creating", "created", "looked", "halfway"]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def serving(kind: str, **options: Any) -> BatchServer:
    return KINDS[kind][0](**options)


def settings(kind: str, server: BatchServer, folder: Path, **fields: Any) -> dict[str, Any]:
    usual = {"base_url": server.url, "model": KINDS[kind][1], "state_folder": str(folder / "state"), "poll_s": 0.01}
    return {"kind": kind, **usual, "input_per_million": 10, "output_per_million": 100, **fields}


def asked(questions: Iterable[str]) -> Iterator[Request]:
    return (Request(q, (Message("system", "Be kind."), Message("user", q))) for q in questions)


def ask(teacher: Any, questions: Iterable[str]) -> dict[str, Reply]:
    async def collect() -> dict[str, Reply]:
        return {request.example_id: reply async for request, reply in teacher.answers(Requests(asked(questions)))}

    return asyncio.run(collect())


def ask_and_stop(teacher: Any, server: BatchServer) -> None:
    """Asks, and stops as Ctrl-C does when the batch has been looked at once."""

    async def stopped() -> None:
        answers = teacher.answers(Requests(asked(QUESTIONS)))
        first = asyncio.ensure_future(anext(answers))
        while not (server.taken and server.taken[0].looks):
            await asyncio.sleep(0.01)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await answers.aclose()

    asyncio.run(stopped())


def test_every_row_has_its_own_answer_whatever_the_order_and_costs_half(kind: str, tmp_path: Path) -> None:
    with serving(kind, looks_until_over=2) as server:
        teacher = load_plugin("teachers", settings(kind, server, tmp_path))
        replies = ask(teacher, QUESTIONS)
    assert {name: reply.text for name, reply in replies.items()} == {name: name.upper() for name in QUESTIONS}
    assert server.sizes == [12]
    reply = replies["question 3"]
    assert (reply.finish_reason, reply.prompt_tokens, reply.completion_tokens, reply.attempts) == ("stop", 10, 5, 1)
    assert reply.cost_usd == pytest.approx((10 * 10 + 5 * 100) / 1e6 / 2)
    assert teacher.price().input_per_million == 5


def test_rows_with_the_same_question_and_other_system_prompts_are_other_rows(kind: str, tmp_path: Path) -> None:
    async def collect(teacher: Any) -> list[str]:
        rows = [Request(name, (Message("system", name), Message("user", "same"))) for name in ("a", "b")]
        again = Request("c", (Message("system", "a"), Message("user", "same")))  # the first row once more
        return [request.example_id async for request, _ in teacher.answers(Requests([*rows, again]))]

    with serving(kind) as server:
        names = asyncio.run(collect(load_plugin("teachers", settings(kind, server, tmp_path))))
    assert sorted(names) == ["a", "b", "c"]
    assert server.accepted["same"] == 2


def test_many_rows_go_in_several_batches_and_no_more_of_them_at_once_than_allowed(kind: str, tmp_path: Path) -> None:
    with serving(kind, looks_until_over=2) as server:
        teacher = load_plugin("teachers", settings(kind, server, tmp_path, max_rows=5, max_batches=2))
        replies = ask(teacher, map(str, range(23)))
    assert len(replies) == 23
    assert server.sizes == [5, 5, 5, 5, 3]


def test_a_batch_is_no_larger_than_allowed(kind: str, tmp_path: Path) -> None:
    with serving(kind) as server:
        teacher = load_plugin("teachers", settings(kind, server, tmp_path, max_megabytes=0.002))
        replies = ask(teacher, [f"{number} {'x' * 600}" for number in range(6)])
    assert len(replies) == 6
    assert max(server.sizes) <= 3


@pytest.mark.parametrize(("fault", "attempts"), [("400", 1), ("500", 3), ("empty", 3), ("left out", 3)])
def test_a_row_that_fails_harms_no_other(kind: str, tmp_path: Path, fault: str, attempts: int) -> None:
    with serving(kind, faults={"bad": [fault] * 9}) as server:
        teacher = load_plugin("teachers", settings(kind, server, tmp_path))
        replies = ask(teacher, ["bad", *QUESTIONS])
    assert {name for name, reply in replies.items() if reply.error} == {"bad"}
    assert (replies["bad"].text, replies["bad"].attempts, server.accepted["bad"]) == ("", attempts, attempts)
    assert all(server.accepted[name] == 1 for name in QUESTIONS)
    paid = {"empty": 3 * (10 * 10 + 5 * 100) / 1e6 / 2, "left out": None}.get(fault, 0.0)
    assert replies["bad"].cost_usd == pytest.approx(paid)


def test_what_a_provider_does_not_tell_of_a_row_is_charged_at_the_most(kind: str, tmp_path: Path) -> None:
    with serving(kind, faults={"bad": ["left out"] * 9}) as server:
        teacher = load_plugin("teachers", settings(kind, server, tmp_path))
        price, purse = teacher.price(), Purse(Budget(), Spend())

        class Paid(Requests):
            def again(self, request: Request) -> bool:
                return purse.reserve(request, price)

            def ended(self, request: Request, attempt: Reply) -> None:
                purse.ended(request, attempt, price)

        rows = list(asked(["bad", "good"]))
        assert all(purse.reserve(row, price) for row in rows)
        held = purse.under_way.cost_usd / 2

        async def charges() -> dict[str, Spend]:
            return {row.example_id: purse.settle(row, reply, price) async for row, reply in teacher.answers(Paid(rows))}

        charged = asyncio.run(charges())
    assert (charged["bad"].estimated, charged["bad"].requests, charged["good"].estimated) == (1, 3, 0)
    assert charged["bad"].cost_usd == pytest.approx(3 * held, rel=0.01)
    assert purse.under_way.requests == 0


def test_a_batch_that_ends_early_keeps_its_answers_and_only_the_others_are_asked_again(kind: str, tmp_path: Path) -> None:
    with serving(kind, faults={name: ["expired"] for name in QUESTIONS[:4]}) as server:
        replies = ask(load_plugin("teachers", settings(kind, server, tmp_path)), QUESTIONS)
    assert all(reply.error is None for reply in replies.values())
    assert server.sizes == [12, 4]
    assert [replies[name].attempts for name in QUESTIONS[3:5]] == [2, 1]


def test_the_budget_is_asked_before_a_row_is_sent_again(kind: str, tmp_path: Path) -> None:
    class Poor(Requests):
        def again(self, request: Request) -> bool:
            return False

    async def collect(teacher: Any) -> list[Reply]:
        return [reply async for _, reply in teacher.answers(Poor(asked(["bad", "good"])))]

    with serving(kind, faults={"bad": ["expired"]}) as server:
        replies = asyncio.run(collect(load_plugin("teachers", settings(kind, server, tmp_path))))
    assert sorted(str(reply.error)[:15] for reply in replies) == ["None", "the batch ended"]
    assert server.accepted == {"bad": 1, "good": 1}


def test_a_batch_that_is_refused_for_one_row_is_split_until_that_row_fails_alone(kind: str, tmp_path: Path) -> None:
    with serving(kind, refused={"question 7"}) as server:
        replies = ask(load_plugin("teachers", settings(kind, server, tmp_path)), QUESTIONS)
    assert [name for name, reply in replies.items() if reply.error] == ["question 7"]
    assert "does not take this row" in str(replies["question 7"].error)
    assert server.accepted == {name: 1 for name in QUESTIONS if name != "question 7"}


def test_a_provider_that_refuses_everything_is_given_up(kind: str, tmp_path: Path) -> None:
    names = [str(number) for number in range(100)]
    with serving(kind, refused=set(names)) as server, pytest.raises(TeacherError, match="in a row"):
        ask(load_plugin("teachers", settings(kind, server, tmp_path, max_batches=100)), names)
    assert len(server.sizes) <= 60


def test_an_answer_to_the_sending_that_is_lost_sends_nothing_twice(kind: str, tmp_path: Path) -> None:
    with serving(kind, lost=1, hidden=1, looks_until_over=2) as server:
        replies = ask(load_plugin("teachers", settings(kind, server, tmp_path)), QUESTIONS)
    assert all(reply.error is None for reply in replies.values())
    assert server.accepted == dict.fromkeys(QUESTIONS, 1)


def test_a_download_that_breaks_off_is_begun_again_and_nothing_is_sent_again(kind: str, tmp_path: Path) -> None:
    with serving(kind, cut=3) as server:
        replies = ask(load_plugin("teachers", settings(kind, server, tmp_path)), QUESTIONS)
    assert {reply.text for reply in replies.values()} == {name.upper() for name in QUESTIONS}
    assert (server.cut, server.accepted) == (0, dict.fromkeys(QUESTIONS, 1))


def test_a_provider_that_is_away_for_a_while_is_waited_for(kind: str, tmp_path: Path) -> None:
    with serving(kind, out_of_order=6) as server:
        replies = ask(load_plugin("teachers", settings(kind, server, tmp_path)), QUESTIONS)
    assert len(replies) == 12
    assert server.accepted == dict.fromkeys(QUESTIONS, 1)


def test_a_provider_that_stays_away_ends_the_job_in_order(kind: str, tmp_path: Path) -> None:
    with serving(kind, out_of_order=10**6) as server, pytest.raises(TeacherError, match="run again to go on"):
        ask(load_plugin("teachers", settings(kind, server, tmp_path, patience_s=0.1)), QUESTIONS)
    assert not server.accepted


CHILD = """
import json, sys
from pathlib import Path
from potstill.answers.asking import Asking, ask, once
from potstill.journal import Journal
from potstill.plugins import load_plugin
from potstill.types import Message, Request

fields, path, names = json.loads(sys.argv[1])
teacher = load_plugin("teachers", fields)
rows = (Request(q, (Message("system", "Be kind."), Message("user", q))) for q in names)
with Journal(Path(path)) as journal:
    ask([Asking(teacher, (once(row) for row in rows), lambda outcome: None)], journal)
"""


def child(fields: dict[str, Any], folder: Path) -> subprocess.Popen[bytes]:
    arguments = json.dumps([fields, str(folder / "journal.sqlite"), QUESTIONS])
    return subprocess.Popen([sys.executable, "-c", CHILD, arguments], stderr=subprocess.PIPE)


def test_killed_at_every_step_in_turn_it_sends_no_row_twice_and_loses_none(kind: str, tmp_path: Path) -> None:
    """kill -9 in the midst of each step; each new process goes on where the last one was killed."""
    to_die_at = list(EVENTS)
    running: list[subprocess.Popen[bytes]] = []

    def seen(event: str) -> bool:
        if not to_die_at or event != to_die_at[0]:
            return False
        to_die_at.pop(0)
        os.kill(running[-1].pid, signal.SIGKILL)
        return True

    with serving(kind, looks_until_over=2, hidden=1, seen=seen) as server:
        fields = settings(kind, server, tmp_path)
        deaths = 0
        for _ in range(len(EVENTS) + 1):
            running.append(child(fields, tmp_path))
            _, told = running[-1].communicate(timeout=60)
            deaths += running[-1].returncode == -signal.SIGKILL
        assert (running[-1].returncode, told.decode()) == (0, "")
        teacher = load_plugin("teachers", fields)
        with Journal(tmp_path / "journal.sqlite") as journal:
            known = journal.get([key(teacher.identity(), request) for request in asked(QUESTIONS)])
            spent = journal.spend()
    assert (spent.answers, spent.cost_usd) == (12, pytest.approx(12 * (10 * 10 + 5 * 100) / 1e6 / 2))
    assert (deaths, to_die_at) == (len(EVENTS), [])
    assert server.accepted == dict.fromkeys(QUESTIONS, 1)
    assert sorted(reply.text for reply in known.values()) == sorted(name.upper() for name in QUESTIONS)


def test_two_processes_that_ask_the_same_share_one_batch(kind: str, tmp_path: Path) -> None:
    with serving(kind, looks_until_over=8) as server:
        fields = settings(kind, server, tmp_path, poll_s=0.1)
        (tmp_path / "other").mkdir()
        both = [child(fields, tmp_path), child(fields, tmp_path / "other")]
        told = [one.communicate(timeout=60)[1].decode() for one in both]
    assert ([one.returncode for one in both], told) == ([0, 0], ["", ""])
    assert server.accepted == dict.fromkeys(QUESTIONS, 1)


def test_stopping_leaves_the_batch_and_a_later_job_with_more_rows_takes_its_answers(kind: str, tmp_path: Path) -> None:
    with serving(kind, looks_until_over=10**6) as server:
        teacher = load_plugin("teachers", settings(kind, server, tmp_path))
        ask_and_stop(teacher, server)
        server.looks_until_over = 1
        replies = ask(teacher, [*QUESTIONS, "one more"])
    assert len(replies) == 13
    assert server.sizes == [12, 1]


def test_a_batch_of_another_account_is_told_and_never_sent_again(kind: str, tmp_path: Path) -> None:
    with serving(kind, looks_until_over=10**6) as server:
        teacher = load_plugin("teachers", settings(kind, server, tmp_path))
        ask_and_stop(teacher, server)
        server.taken.clear()
        with pytest.raises(TeacherError, match="does not know batch batch_1 with 12 rows"):
            ask(teacher, QUESTIONS)
    assert server.accepted == dict.fromkeys(QUESTIONS, 1)


def test_a_queue_that_is_full_is_waited_for_with_smaller_batches(tmp_path: Path) -> None:
    with OpenAiBatchServer(most_queued=5) as server:
        replies = ask(load_plugin("teachers", settings("openai_batch", server, tmp_path)), QUESTIONS)
    assert all(reply.error is None for reply in replies.values())
    assert server.accepted == dict.fromkeys(QUESTIONS, 1)
    assert server.sizes[0] == 12


def test_a_model_that_no_batch_can_have_ends_the_job_at_once(tmp_path: Path) -> None:
    with OpenAiBatchServer(refused=set(QUESTIONS), unknown_model=True) as server:
        teacher = load_plugin("teachers", settings("openai_batch", server, tmp_path))
        with pytest.raises(TeacherError, match="model_not_found"):
            ask(teacher, QUESTIONS)
        assert server.sizes == [12]
        server.refused.clear()
        assert len(ask(teacher, QUESTIONS)) == 12


@pytest.mark.parametrize(("kind", "live"), [("openai_batch", "openai_api"), ("anthropic_batch", "anthropic_api")])
def test_answers_have_the_same_place_in_the_journal_as_those_of_the_live_teacher(kind: str, live: str, tmp_path: Path) -> None:
    with serving(kind) as server:
        batched = load_plugin("teachers", settings(kind, server, tmp_path))
        one_by_one = load_plugin("teachers", {"kind": live, "base_url": server.url, "model": KINDS[kind][1]})
    assert batched.identity() == one_by_one.identity()
    assert batched.sampling(9) == one_by_one.sampling(9)


def test_no_secret_stands_in_the_record_of_batches(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POTSTILL_TEST_KEY", "sk-very-secret-0123456789")
    with serving(kind) as server:
        teacher = load_plugin("teachers", settings(kind, server, tmp_path, api_key="env:POTSTILL_TEST_KEY"))
        assert teacher.problems() == []
        assert not (tmp_path / "state").exists()  # looking leaves nothing behind
        ask(teacher, QUESTIONS)
        assert teacher.problems() == []
    assert b"very-secret" not in (tmp_path / "state" / "batches.sqlite").read_bytes()


def test_the_record_is_in_the_users_state_folder_where_no_other_is_named(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    with serving(kind) as server:
        ask(load_plugin("teachers", settings(kind, server, tmp_path, state_folder=None)), ["a"])
        named = load_plugin("teachers", settings(kind, server, tmp_path, state_folder="mine"), tmp_path / "job")
    with sqlite3.connect(tmp_path / "home" / "potstill" / "batches.sqlite") as record:
        assert record.execute("SELECT COUNT(*) FROM batches WHERE is_over").fetchone() == (1,)
    record.close()
    assert named.state_folder == tmp_path / "job" / "mine"


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_sent(kind: str, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    with serving(kind) as server:
        (problem,) = load_plugin("teachers", settings(kind, server, tmp_path)).problems()
    assert "name another one with the teacher's state_folder" in problem
    assert not server.calls


def test_more_than_the_provider_takes_is_refused_when_the_job_is_read(kind: str, tmp_path: Path) -> None:
    with serving(kind) as server, pytest.raises(JobError, match="max_rows"):
        load_plugin("teachers", settings(kind, server, tmp_path, max_rows=100_001))
