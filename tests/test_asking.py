from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer
from pydantic import Field

from potstill.asking import ask, recorded
from potstill.contracts import Teacher
from potstill.errors import TeacherError
from potstill.journal import Journal
from potstill.plugins import load_plugin
from potstill.types import Message, Reply, Request, Sampling


class Counting(Teacher):
    """Answers in upper case, remembers what it was asked, and stops before a question named in `ends_at`."""

    asked: list[str] = Field(default_factory=list)
    name: str = "counting"
    ends_at: str = ""
    fails: tuple[str, ...] = ()

    def identity(self) -> Mapping[str, Any]:
        return {"model": self.name}

    async def answers(self, requests: Iterable[Request]) -> AsyncIterator[tuple[Request, Reply]]:
        for request in requests:
            question = request.messages[-1].content
            if question == self.ends_at:
                raise TeacherError("no credit left")
            self.asked.append(question)
            if question in self.fails:
                yield request, Reply("", "error", error="HTTP 500")
            else:
                yield request, Reply(question.upper(), prompt_tokens=1, completion_tokens=2, cost_usd=0.5)


def _requests(questions: Iterable[str], system: str = "Be kind.", **sampling: Any) -> Iterator[Request]:
    for n, question in enumerate(questions):
        yield Request(f"row {n}", (Message("system", system), Message("user", question)), Sampling(**sampling))


def test_only_what_is_missing_is_asked(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.sqlite") as journal:
        first = Counting()
        spent = ask(first, _requests("abc"), journal)
        assert (spent.asked, spent.from_journal, spent.cost_usd, spent.prompt_tokens) == (3, 0, 1.5, 3)
        again = Counting()
        seen: dict[str, str] = {}
        spent = ask(again, _requests("abXc"), journal, lambda request, reply: seen.update({request.example_id: reply.text}))
        assert again.asked == ["X"]
        assert (spent.asked, spent.from_journal, spent.cost_usd) == (1, 3, 0.5)
        assert seen == {"row 0": "A", "row 1": "B", "row 2": "X", "row 3": "C"}


@pytest.mark.parametrize(
    "changed", [{"system": "Be rude."}, {"temperature": 0.5}, {"top_p": 0.5}, {"max_tokens": 5}], ids=lambda c: next(iter(c))
)
def test_a_changed_setting_asks_again(changed: dict[str, Any], tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.sqlite") as journal:
        ask(Counting(), _requests("ab"), journal)
        teacher = Counting()
        ask(teacher, _requests("ab", **changed), journal)
        assert teacher.asked == ["a", "b"]
        other = Counting(name="other model")
        ask(other, _requests("ab"), journal)
        assert other.asked == ["a", "b"]


def test_the_same_question_in_many_rows_is_asked_once(tmp_path: Path) -> None:
    teacher = Counting()
    seen: list[str] = []
    with Journal(tmp_path / "journal.sqlite") as journal:
        spent = ask(teacher, _requests(["a", "b"] * 400), journal, lambda request, _: seen.append(request.example_id))
    assert sorted(teacher.asked) == ["a", "b"]
    assert (len(seen), spent.asked) == (800, 2)


def test_a_failed_row_is_told_and_asked_again_next_time(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.sqlite") as journal:
        errors: list[str | None] = []
        spent = ask(Counting(fails=("b",)), _requests("abc"), journal, lambda _, reply: errors.append(reply.error))
        assert (spent.asked, spent.failed, sorted(filter(None, errors))) == (3, 1, ["HTTP 500"])
        teacher = Counting()
        assert ask(teacher, _requests("abc"), journal).failed == 0
        assert teacher.asked == ["b"]


def test_what_arrived_before_the_teacher_stopped_is_kept(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.sqlite") as journal:
        with pytest.raises(TeacherError, match="no credit"):
            ask(Counting(ends_at="c"), _requests("abcd"), journal)
        texts = [reply and reply.text for _, reply in recorded(Counting(), _requests("abcd"), journal)]
    assert texts == ["A", "B", None, None]


def test_an_answer_is_in_the_journal_before_it_is_used(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.sqlite") as journal, Journal(tmp_path / "journal.sqlite") as other:

        def look(request: Request, reply: Reply) -> None:
            assert next(recorded(Counting(), [request], other))[1] == reply

        ask(Counting(), _requests("abc"), journal, look)


def test_a_fault_in_the_users_of_replies_comes_out_as_it_is(tmp_path: Path) -> None:
    def fail(request: Request, reply: Reply) -> None:
        raise ZeroDivisionError

    with Journal(tmp_path / "journal.sqlite") as journal, pytest.raises(ZeroDivisionError):
        ask(Counting(), _requests("abc"), journal, fail)


def test_it_works_where_a_loop_is_running_already(tmp_path: Path) -> None:
    async def notebook() -> int:
        with Journal(tmp_path / "journal.sqlite") as journal:
            return ask(Counting(), _requests("abc"), journal).asked

    assert asyncio.run(notebook()) == 3


def test_cancelling_keeps_what_arrived(tmp_path: Path) -> None:
    with ChatServer(faults={"slow one": ["always slow"]}) as server, Journal(tmp_path / "journal.sqlite") as journal:
        teacher = load_plugin("teachers", {"kind": "openai_api", "base_url": server.url, "model": "big"})
        start = time.monotonic()

        def interrupt(request: Request, reply: Reply) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            ask(teacher, _requests(["quick one", "slow one"]), journal, interrupt)
        assert time.monotonic() - start < 0.9
        assert [reply is not None for _, reply in recorded(teacher, _requests(["quick one", "slow one"]), journal)] == [
            True,
            False,
        ]


def test_two_jobs_share_the_journal_and_a_changed_prompt_pays_for_itself_alone(tmp_path: Path) -> None:
    with ChatServer() as server:
        teacher = load_plugin("teachers", {"kind": "openai_api", "base_url": server.url, "model": "big"})
        for questions in (["a", "b", "c"], ["a", "b, changed", "c"]):
            with Journal(tmp_path / "journal.sqlite") as journal:
                ask(teacher, _requests(questions), journal)
        assert server.asked == {"a": 1, "b": 1, "b, changed": 1, "c": 1}
