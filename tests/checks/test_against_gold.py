"""An answer against the gold: the task decides, and algebra may only add what is equal."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from potstill.contracts import Answered, Finding, Room, Task
from potstill.errors import MissingPackageError
from potstill.plugins import load_plugin
from potstill.types import Example, Message, Reply

ASKED = (Message("user", "How many?"),)


def room(task: str | dict[str, Any]) -> Room:
    def ask(teacher: object, requests: Sequence[object]) -> list[Reply]:
        raise AssertionError("this check asks nobody")

    return Room(load_plugin("tasks", task), Path("nowhere"), (), ask)


def answered(text: str, gold: str | None, source: str = "teacher", **meta: Any) -> Answered:
    return Answered(Example("row", ASKED, gold, meta), Reply(text), source)


def refused(watch: Any, *answers: Answered) -> list[bool]:
    return [isinstance(found, Finding) for found in watch.look(answers)]


def test_a_wrong_answer_is_refused_and_a_right_one_or_one_without_gold_stays() -> None:
    watch = load_plugin("checks", "against_gold").watch(room("nli"))
    rows = [answered("Entailment.", "entailment"), answered("neutral", "entailment"), answered("neutral", None)]
    assert refused(watch, *rows) == [False, True, False]
    assert watch.report() == {"judged": 2, "right": 1, "wrong": 1, "not_judged": 1}


def test_gold_itself_and_prompts_are_not_looked_at() -> None:
    watch = load_plugin("checks", "against_gold").watch(room("nli"))
    rows = [answered("neutral", "entailment", "gold"), Answered(Example("row", ASKED, "entailment"), None)]
    assert watch.look(rows) == [None, None]
    assert watch.report()["judged"] == 0


def test_algebra_adds_what_is_equal_and_takes_nothing_away() -> None:
    watch = load_plugin("checks", {"kind": "against_gold", "workers": 1}).watch(room("math"))
    rows = [
        answered("#### 12", "#### 12"),
        answered("#### 13", "#### 12"),
        answered("So it is $10^3$.", "1000"),
        answered(r"\boxed{2\sqrt{3}}", r"\boxed{\sqrt{12}}"),
        answered(r"\boxed{2^3}", "9", answer=8),
        answered(r"\boxed{2^3}", "8", answer=9),
        answered("x + y = 4", "x + y = 3"),
        answered("nothing", "8"),
        answered("nothing", None),
    ]
    assert refused(watch, *rows) == [False, True, False, False, False, True, True, True, False]
    said = watch.report()
    assert said["math_verify"] == {"version": importlib.metadata.version("math-verify"), "equal": 3, "gave_up_on": 0}
    assert (said["judged"], said["right"], said["wrong"], said["not_judged"]) == (8, 4, 4, 1)
    assert [child for child in psutil.Process().children() if "math_worker.py" in " ".join(child.cmdline())] == []


def test_without_algebra_the_exact_reading_decides_alone() -> None:
    watch = load_plugin("checks", {"kind": "against_gold", "math_verify": "never"}).watch(room("math"))
    assert refused(watch, answered("So it is $10^3$.", "1000")) == [True]
    assert "math_verify" not in watch.report()


def test_free_text_is_judged_by_its_facts_alone_unless_the_job_asks_for_more() -> None:
    said, gold = "Your table is at 7 pm.", "We booked you in for 7 pm."
    rows = [answered(said, gold), answered(said, gold, required_values=["8 pm"]), answered(said, gold, required_values=["7 pm"])]
    assert refused(load_plugin("checks", "against_gold").watch(room("conversation")), *rows) == [False, True, False]
    strict = load_plugin("checks", {"kind": "against_gold", "free_text": True}).watch(room("conversation"))
    assert refused(strict, *rows) == [True, True, False]


def test_a_wrong_answer_is_asked_again_only_where_the_job_says_so() -> None:
    row, task = Example("row", ASKED, "entailment"), load_plugin("tasks", "nli")
    assert load_plugin("checks", "against_gold").refuse(row, Reply("neutral"), task) is None
    again = load_plugin("checks", {"kind": "against_gold", "resample": True})
    finding = again.refuse(row, Reply("neutral"), task)
    assert finding is not None
    assert finding.again
    assert again.refuse(row, Reply("entailment"), task) is None
    doubtful = Example("row", ASKED, "1000")
    assert again.refuse(doubtful, Reply("$10^3$"), load_plugin("tasks", "math")) is None  # algebra has not spoken yet


@pytest.mark.parametrize(("right", "wrong", "alarms"), [(0, 10, False), (8, 12, False), (10, 90, True), (60, 40, False)])
def test_a_teacher_that_is_mostly_wrong_raises_an_alarm(right: int, wrong: int, alarms: bool) -> None:
    watch = load_plugin("checks", "against_gold").watch(room("nli"))
    watch.look([answered("neutral", "neutral")] * right + [answered("neutral", "entailment")] * wrong)
    assert ("alarm" in watch.report()) == alarms


def test_a_strangers_task_is_judged_too() -> None:
    class Shout(Task):
        """Upper case."""

        def read(self, text: str) -> str | None:
            return text.upper()

        def right(self, text: str, example: Example) -> float | None:
            return None if example.gold is None else float(text.upper() == example.gold)

    where = Room(Shout(kind="./shout.py"), Path("nowhere"), (), lambda teacher, requests: [])
    watch = load_plugin("checks", "against_gold").watch(where)
    assert refused(watch, answered("yes", "YES"), answered("no", "YES")) == [False, True]


def test_math_verify_that_must_be_used_must_be_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.path", [str(tmp_path)])  # nothing is installed there
    with pytest.raises(MissingPackageError, match=r"pip install 'potstill\[math\]'"):
        load_plugin("checks", {"kind": "against_gold", "math_verify": "always"})
