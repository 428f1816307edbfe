from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer
from pydantic import ConfigDict, Field

from potstill.answers.asking import MOST_UNRECORDED, PENDING, Asked, Asking, Inquiry, once, replay
from potstill.answers.asking import ask as ask_all
from potstill.answers.budget import Budget, BudgetError, Purse
from potstill.contracts import Requests, Teacher
from potstill.errors import PotstillError, TeacherError
from potstill.journal import Journal, Payer, Spend
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

    async def answers(self, requests: Requests) -> AsyncIterator[tuple[Request, Reply]]:
        async for request in requests:
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


def ask(
    teacher: Teacher, requests: Iterable[Request], journal: Journal, use: Callable[[Request, Reply], None] | None = None
) -> Asked:
    asking = Asking(teacher, map(once, requests), lambda pair: use(*pair) if use else None)
    ask_all([asking], journal)
    return asking.spent


def recorded(teacher: Teacher, requests: Iterable[Request], journal: Journal) -> Iterator[tuple[Request, Reply | None]]:
    for request, reply in replay(teacher, map(once, requests), journal):
        yield request, None if reply == PENDING else reply


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


def _chat(number: int, questions: str) -> Inquiry[tuple[int, list[str]]]:
    """Asks turn by turn, each with the answers before it."""
    messages: tuple[Message, ...] = ()
    said = []
    for question in questions:
        messages = (*messages, Message("user", question))
        reply = yield Request(f"row {number}", messages)
        if reply.error is not None:
            break
        said.append(reply.text)
        messages = (*messages, Message("assistant", reply.text))
    return number, said


def test_an_inquiry_goes_on_with_what_it_was_answered_and_is_walked_again_for_nothing(tmp_path: Path) -> None:
    chats = ["abc", "abd", "x", ""]
    found: dict[int, list[str]] = {}
    with Journal(tmp_path / "journal.sqlite") as journal:
        teacher = Counting()
        ask_all([Asking(teacher, (_chat(n, c) for n, c in enumerate(chats)), lambda pair: found.update([pair]))], journal)
        assert found == {0: ["A", "B", "C"], 1: ["A", "B", "D"], 2: ["X"], 3: []}
        assert sorted(teacher.asked) == ["a", "b", "c", "d", "x"]  # "a", then "b" after "A", are the same for two rows
        again = Counting()
        ask_all([Asking(again, [_chat(0, "abce")], lambda pair: found.update([pair]))], journal)
        assert (again.asked, found[0]) == (["e"], ["A", "B", "C", "E"])
        assert list(replay(again, (_chat(n, c) for n, c in enumerate(["abd", "aq"])), journal)) == [
            (0, ["A", "B", "D"]),
            (1, ["A"]),
        ]


def test_several_teachers_are_asked_in_one_round_and_each_pays_for_itself(tmp_path: Path) -> None:
    payers = [Payer("run", "generate", name) for name in ("one", "two")]
    with Journal(tmp_path / "journal.sqlite") as journal:
        askings = [Asking(Counting(name=payer.teacher), map(once, _requests("ab")), lambda _: None, payer) for payer in payers]
        ask_all(askings, journal)
        ask_all([Asking(Counting(name="one", fails=("c",)), map(once, _requests("abc")), lambda _: None, payers[0])], journal)
        spent = journal.spent("run")
    assert spent[payers[0]] == Spend(2, 1, 2 + 41, 4 + 256, 1.0, 1, 3, 1), "nobody told what the failure took"
    assert spent[payers[1]] == Spend(2, 0, 2, 4, 1.0, 0, 2)


@pytest.mark.parametrize(
    ("budget", "asked"),
    [({"max_requests": 7}, 7), ({"max_tokens": 100}, 0), ({"max_cost_usd": 4.2}, 8)],
    ids=["requests", "tokens", "dollars"],
)
def test_the_cap_is_never_passed_and_a_higher_one_goes_on(budget: dict[str, Any], asked: int, tmp_path: Path) -> None:
    class Priced(Counting):
        def price(self) -> Any:
            return self

        def cost(self, prompt_tokens: int | None, completion_tokens: int | None) -> float:
            return 0.5

    questions = [f"question {n}" for n in range(40)]
    payer = Payer("run", "generate", "counting")
    with Journal(tmp_path / "journal.sqlite") as journal:
        teacher = Priced()
        purse = Purse(Budget(**budget), Spend())
        with pytest.raises(BudgetError, match=f"the budget is used up .*budget.{next(iter(budget))}"):
            ask_all([Asking(teacher, map(once, _requests(questions, max_tokens=2)), lambda _: None, payer)], journal, purse)
        assert len(teacher.asked) >= 5
        assert (len(teacher.asked) == asked) or "max_tokens" in budget
        spent = journal.spent("run")[payer]
        assert spent.requests <= budget.get("max_requests", 99)
        assert spent.cost_usd <= budget.get("max_cost_usd", 99)
        assert spent.prompt_tokens + spent.completion_tokens <= budget.get("max_tokens", 9999)
        more = Priced()
        purse = Purse(Budget(max_requests=1000, max_cost_usd=1000, max_tokens=10**6), spent)
        ask_all([Asking(more, map(once, _requests(questions, max_tokens=2)), lambda _: None, payer)], journal, purse)
        assert sorted(teacher.asked + more.asked) == sorted(questions)


def test_a_gate_holds_the_rest_back_until_it_opens(tmp_path: Path) -> None:
    teacher = Counting()
    at_opening: list[int] = []

    def use(pair: tuple[Request, Reply]) -> None:
        if int(pair[0].example_id.split()[1]) == 3:
            at_opening.append(len(teacher.asked))

    with Journal(tmp_path / "journal.sqlite") as journal:
        asking = Asking(teacher, map(once, _requests("abcdefgh")), use, may_start=lambda: float("inf") if at_opening else 4)
        ask_all([asking], journal)
    assert at_opening == [4]
    assert len(teacher.asked) == 8


def test_two_teachers_asked_the_same_hold_their_own_money() -> None:
    purse, one, two = Purse(Budget(max_requests=2), Spend()), Counting().price(), Counting(name="two").price()
    request = next(iter(_requests("a")))
    assert purse.reserve(request, one)
    assert purse.reserve(request, two)
    purse.settle(request, Reply("A"), one)
    assert purse.under_way.requests == 1
    assert not purse.reserve(request, one)
    purse.settle(request, Reply("A"), two)
    assert (purse.under_way.requests, purse.spent.requests) == (0, 2)


class Waiting(Counting):
    """Has `at_once` requests under way, whose answers come when the gate opens; it stops in order."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    gate: threading.Event = Field(default_factory=threading.Event)
    at_once: int = 3

    async def answers(self, requests: Requests) -> AsyncIterator[tuple[Request, Reply]]:
        under_way: list[Request] = []
        while len(under_way) < self.at_once and (request := requests.take()) is not None:
            self.asked.append(request.messages[-1].content)
            under_way.append(request)
        while not self.gate.is_set():
            await asyncio.sleep(0.01)
        for request in under_way:
            yield request, Reply(request.messages[-1].content.upper(), prompt_tokens=1, completion_tokens=2, cost_usd=0.5)
        async for pair in super().answers(requests):
            yield pair


class Failing(Counting):
    """Cannot be asked at all, and lets the answers of another go on their way as it says so."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    opens: threading.Event = Field(default_factory=threading.Event)

    async def answers(self, requests: Requests) -> AsyncIterator[tuple[Request, Reply]]:
        requests.take()
        await asyncio.sleep(0.05)
        requests.when_stopped(self.opens.set)
        raise TeacherError("no credit left")
        yield  # it is a generator


def test_the_fault_of_one_teacher_lets_what_is_under_way_at_another_arrive_and_asks_nothing_new(tmp_path: Path) -> None:
    slow = Waiting(name="slow")
    payer = Payer("run", "generate", "slow")
    used: list[str] = []
    with Journal(tmp_path / "journal.sqlite") as journal:
        askings: list[Asking[Any]] = [
            Asking(slow, map(once, _requests("abcdefgh")), lambda pair: used.append(pair[1].text), payer),
            Asking(Failing(name="failing", opens=slow.gate), map(once, _requests("abc")), lambda _: None),
        ]
        with pytest.raises(TeacherError, match=r"^no credit left$"):
            ask_all(askings, journal)
        assert slow.asked == list("abc")
        assert used == ["A", "B", "C"]
        assert journal.spent("run")[payer] == Spend(3, 0, 3, 6, 1.5, 0, 3)
        texts = [reply and reply.text for _, reply in recorded(slow, _requests("abcd"), journal)]
    assert texts == ["A", "B", "C", None]


def test_where_several_reasons_meet_the_budget_is_named_last(tmp_path: Path) -> None:
    class Hungry(Counting):
        """Wants to send its request again and again."""

        async def answers(self, requests: Requests) -> AsyncIterator[tuple[Request, Reply]]:
            async for request in requests:
                while requests.again(request):
                    pass
                yield request, Reply("", "error", attempts=5, error="HTTP 500")

    for order in (1, -1):
        with Journal(tmp_path / f"journal{order}.sqlite") as journal:
            askings = [
                Asking(Hungry(name="hungry"), map(once, _requests("ab")), lambda _: None),
                Asking(Failing(name="failing"), map(once, _requests("abc")), lambda _: None),
            ][::order]
            with pytest.raises(TeacherError, match=r"^no credit left; and the budget is used up \(budget.max_requests=6\)"):
                ask_all(askings, journal, Purse(Budget(max_requests=6), Spend()))


def test_a_budget_that_one_teacher_meets_stops_no_other_under_way(tmp_path: Path) -> None:
    class Dear(Counting):
        def price(self) -> Any:
            return self

        def cost(self, prompt_tokens: int | None, completion_tokens: int | None) -> float:
            return 100.0

    class Cheap(Dear):
        def cost(self, prompt_tokens: int | None, completion_tokens: int | None) -> float:
            return 0.5

    cheap = Cheap(name="cheap")
    askings = [Asking(one, map(once, _requests("abcd")), lambda _: None) for one in (Dear(name="dear"), cheap)]
    with Journal(tmp_path / "journal.sqlite") as journal, pytest.raises(BudgetError, match=r"budget\.max_cost_usd=10"):
        ask_all(askings, journal, Purse(Budget(max_cost_usd=10.0), Spend()))
    assert cheap.asked == list("abcd")


def _locked(path: Path) -> sqlite3.Connection:
    """A disk that takes no writes until this is closed."""
    lock = sqlite3.connect(path, isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    return lock


def _until_it_stays(count: Callable[[], int]) -> int:
    """A count that has begun and no longer grows."""
    seen = [-1] * 20
    while len(set(seen)) > 1 or seen[0] < 1:
        seen = [*seen[1:], count()]
        time.sleep(0.02)
    return seen[0]


def test_a_teacher_is_not_listened_to_while_too_much_waits_for_the_disk(tmp_path: Path) -> None:
    teacher = Counting()
    with Journal(tmp_path / "journal.sqlite") as journal:
        lock = _locked(journal.path)
        asking = threading.Thread(target=ask, args=(teacher, _requests(map(str, range(2000))), journal))
        asking.start()
        most = _until_it_stays(lambda: len(teacher.asked))
        lock.close()
        asking.join(60)
    assert most == MOST_UNRECORDED + 1, "the one that is more cannot be handed on"
    assert len(teacher.asked) == 2000


def test_a_server_is_not_asked_for_more_than_the_disk_takes(tmp_path: Path) -> None:
    with ChatServer() as server, Journal(tmp_path / "journal.sqlite") as journal:
        fields = {"kind": "openai_api", "base_url": server.url, "model": "big", "max_concurrency": 4}
        lock = _locked(journal.path)
        asking = threading.Thread(target=ask, args=(load_plugin("teachers", fields), _requests(map(str, range(50))), journal))
        asking.start()
        most = _until_it_stays(server.asked.total)
        lock.close()
        asking.join(60)
    assert most == 2 * 4
    assert server.asked == {str(n): 1 for n in range(50)}


def test_a_journal_that_cannot_be_written_stops_the_asking_with_its_own_words(tmp_path: Path) -> None:
    teacher = Counting()
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal._connection.execute("PRAGMA query_only=1")
        with pytest.raises(PotstillError, match="cannot be written"):
            ask(teacher, _requests(map(str, range(5000))), journal)
    assert len(teacher.asked) < 5000
