"""Agreement: the share of a row's answers that agree, as the combiner counted it."""

from __future__ import annotations

from pathlib import Path

from potstill.contracts import Answered, Finding, Room
from potstill.plugins import load_plugin
from potstill.types import Example, Message, Reply

ROW = Example("row", (Message("user", "Hi"),))
ROOM = Room(load_plugin("tasks", "nli"), Path("nowhere"), (), lambda teacher, requests: [])


def answered(agreement: float | None, source: str = "teacher") -> Answered:
    return Answered(ROW, Reply("neutral"), source, agreement)


def test_an_answer_that_too_few_agree_with_is_refused() -> None:
    watch = load_plugin("checks", {"kind": "agreement", "min_agreement": 0.6}).watch(ROOM)
    found = watch.look([answered(1.0), answered(0.6), answered(0.59), answered(None), answered(0.2, "gold")])
    assert found == [None, None, Finding("fewer than 60% of the answers agree"), None, None]
    said = watch.report()
    assert said["rows_with_several_answers"] == 3
    assert said["rows_with_one_answer"] == 1
    assert said["unanimous"] == 1
    assert round(said["mean_agreement"], 3) == 0.73
    assert "alarm" not in said


def test_a_prompt_alone_stays() -> None:
    watch = load_plugin("checks", "agreement").watch(ROOM)
    assert watch.look([Answered(ROW, None, agreement=0.0)]) == [None]
    assert "alarm" not in watch.report()


def test_single_answers_raise_an_alarm_since_nothing_could_disagree() -> None:
    watch = load_plugin("checks", "agreement").watch(ROOM)
    watch.look([answered(None)] * 3)
    assert "more than one answer" in watch.report()["alarm"]
