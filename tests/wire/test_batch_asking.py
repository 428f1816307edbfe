"""What asking by batches has to do with the job's money and its end; `teachers/test_batch_teachers.py` has the rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from batch_server import OpenAiBatchServer

from potstill.answers.asking import Asking, ask, once
from potstill.answers.budget import Budget, Purse
from potstill.contracts import Price, Requests, Teacher
from potstill.errors import TeacherError
from potstill.journal import Journal, Payer, Spend
from potstill.plugins import load_plugin
from potstill.types import Message, Reply, Request

QUESTIONS = [f"question {number}" for number in range(6)]
PAYER = Payer("run", "generate", "batches")


def _teacher(server: OpenAiBatchServer, folder: Path, **fields: Any) -> Any:
    usual = {"kind": "openai_batch", "base_url": server.url, "model": "gpt-4o-mini", "state_folder": str(folder / "state")}
    return load_plugin("teachers", {**usual, "poll_s": 0.01, "input_per_million": 10, "output_per_million": 100, **fields})


def _requests() -> list[Request]:
    return [Request(question, (Message("user", question),)) for question in QUESTIONS]


def test_a_stop_waits_for_no_batch_and_gives_its_rows_back_to_be_found_again(tmp_path: Path) -> None:
    class Stopping(Requests):
        back: tuple[str, ...] = ()

        def give_back(self, request: Request) -> None:
            self.back = (*self.back, request.example_id)

        def when_stopped(self, do: Any) -> None:
            self.stop = do

    async def stopped(teacher: Any, requests: Stopping) -> list[Reply]:
        async def collect() -> list[Reply]:
            return [reply async for _, reply in teacher.answers(requests)]

        asking = asyncio.create_task(collect())
        while not (server.taken and server.taken[0].looks):
            await asyncio.sleep(0.01)
        requests.stop()
        return await asking

    with OpenAiBatchServer(looks_until_over=10**6) as server:
        requests = Stopping(_requests())
        assert asyncio.run(stopped(_teacher(server, tmp_path, poll_s=3600.0), requests)) == []
        assert sorted(requests.back) == QUESTIONS
        server.looks_until_over = 0
        seen: list[str] = []
        with Journal(tmp_path / "journal.sqlite") as journal:
            ask([Asking(_teacher(server, tmp_path), map(once, _requests()), lambda pair: seen.append(pair[1].text))], journal)
    assert sorted(seen) == sorted(question.upper() for question in QUESTIONS)
    assert server.accepted == dict.fromkeys(QUESTIONS, 1)


def test_the_fault_of_another_teacher_does_not_wait_for_a_batch_and_charges_nothing_for_it(tmp_path: Path) -> None:
    class Fault(Teacher):
        def identity(self) -> Mapping[str, Any]:
            return {"model": "fault"}

        def price(self) -> Price:
            return Price(0.0, 0.0)

        async def answers(self, requests: Requests) -> AsyncIterator[tuple[Request, Reply]]:
            while not (server.taken and server.taken[0].looks):
                await asyncio.sleep(0.01)
            raise TeacherError("no credit left")
            yield  # it is a generator

    purse = Purse(Budget(max_cost_usd=100.0), Spend())
    with OpenAiBatchServer(looks_until_over=10**6) as server, Journal(tmp_path / "journal.sqlite") as journal:
        askings = [
            Asking(_teacher(server, tmp_path, poll_s=3600.0), map(once, _requests()), lambda _: None, PAYER),
            Asking(Fault(), map(once, _requests()), lambda _: None),
        ]
        with pytest.raises(TeacherError, match=r"^no credit left$"):
            ask(askings, journal, purse)
        assert server.accepted == dict.fromkeys(QUESTIONS, 1)
        assert journal.spent("run") == {}
    assert (purse.under_way.requests, purse.spent.requests) == (0, 0)


def test_a_row_that_is_sent_again_costs_the_tokens_of_all_its_answers(tmp_path: Path) -> None:
    with OpenAiBatchServer(faults={QUESTIONS[0]: ["empty", "empty", "good"]}) as server:
        with Journal(tmp_path / "journal.sqlite") as journal:
            purse = Purse(Budget(max_cost_usd=100.0), Spend())
            ask([Asking(_teacher(server, tmp_path), map(once, _requests()), lambda _: None, PAYER)], journal, purse)
            spent = journal.spent("run")[PAYER]
        assert server.accepted == {**dict.fromkeys(QUESTIONS, 1), QUESTIONS[0]: 3}
    assert (spent.answers, spent.requests, spent.estimated) == (6, 8, 0)
    assert (spent.prompt_tokens, spent.completion_tokens) == (8 * 10, 8 * 5)
    assert (purse.spent.requests, purse.under_way.requests) == (8, 0)
