"""Class balance: a collapse raises an alarm, a small sample does not."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.contracts import Answered, Room, Watch
from potstill.plugins import load_plugin
from potstill.types import Example, Message, Reply

ASKED = (Message("user", "?"),)
LABELS = ("entailment", "neutral", "contradiction")


def room(folder: Path, gold: dict[str, int], task: str | dict[str, Any] = "nli") -> Room:
    labels = [label for label, number in gold.items() for _ in range(number)]
    half = len(labels) // 2
    for split, some in (("train", labels[:half]), ("validation", labels[half:])):
        rows = [Example(f"{split}{at}", ASKED, label).as_dict() for at, label in enumerate(some)]
        rows.append(Example(f"{split} bare", ASKED).as_dict())
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Room(load_plugin("tasks", task), folder, (), lambda teacher, requests: [])


def answered(text: str, source: str = "teacher") -> Answered:
    return Answered(Example("row", ASKED), Reply(text), source)


def report(where: Room, given: dict[str, int]) -> dict[str, Any]:
    watch = load_plugin("checks", "class_balance").watch(where)
    for label, number in given.items():
        assert watch.look([answered(label)] * number) == [None] * number
    return dict(watch.report())


def test_both_histograms_are_reported(tmp_path: Path) -> None:
    said = report(room(tmp_path, {"entailment": 50, "neutral": 50}), {"Entailment.": 30, "neutral": 10, "who knows": 2})
    assert said["teacher"] == {"entailment": 0.75, "neutral": 0.25}
    assert said["gold"] == {"entailment": 0.5, "neutral": 0.5}
    assert said["rows"] == {"teacher": 40, "gold": 100, "unreadable": 2}
    assert said["total_variation"]["value"] == 0.25
    assert said["total_variation"]["low"] < 0.25 < said["total_variation"]["high"]


EVEN = dict.fromkeys(LABELS, 100)


@pytest.mark.parametrize(
    ("gold", "given", "words"),
    [
        (EVEN, {"entailment": 100, "contradiction": 100}, "hardly ever gives 'neutral' (0.0%, gold 33.3%)"),
        (EVEN, {"entailment": 280, "neutral": 10, "contradiction": 10}, "says 'entailment' to 93% of the rows (gold 33%)"),
        (EVEN, {"entailment": 100, "contradiction": 100, "neutral": 1}, "hardly ever gives 'neutral'"),
        (EVEN, {"entailment": 200, "neutral": 50, "contradiction": 50}, "would have to change their label"),
        ({}, {"entailment": 200}, "no gold to compare with"),
        ({"neutral": 90, "entailment": 10}, {"neutral": 300}, "hardly ever gives 'entailment'"),
    ],
)
def test_a_collapse_raises_an_alarm(gold: dict[str, int], given: dict[str, int], words: str, tmp_path: Path) -> None:
    assert words in report(room(tmp_path, gold), given)["alarm"]


@pytest.mark.parametrize(
    ("gold", "given"),
    [
        (EVEN, {"entailment": 4}),
        (EVEN, {"entailment": 3, "contradiction": 4}),
        ({"entailment": 2}, {"neutral": 3}),
        (EVEN, {"entailment": 110, "neutral": 100, "contradiction": 90}),
        ({"neutral": 95, "entailment": 5}, {"neutral": 290, "entailment": 10}),
        ({}, {"entailment": 10}),
        ({}, {"entailment": 150, "neutral": 50}),
        (EVEN, {}),
    ],
)
def test_few_rows_or_small_differences_raise_none(gold: dict[str, int], given: dict[str, int], tmp_path: Path) -> None:
    assert "alarm" not in report(room(tmp_path, gold), given)


@pytest.mark.parametrize(("num_labels", "num_gold", "num_given"), [(3, 30, 30), (77, 1000, 500), (151, 3000, 10000)])
def test_two_samples_of_one_source_raise_no_alarm(num_labels: int, num_gold: int, num_given: int, tmp_path: Path) -> None:
    chance = random.Random(5)
    weights = [chance.random() ** 2 for _ in range(num_labels)]
    drawn = [chance.choices(range(num_labels), weights, k=number) for number in (num_gold, num_given)]
    gold, given_ = ({f"label_{label}": some.count(label) for label in set(some)} for some in drawn)
    assert "alarm" not in report(room(tmp_path, gold, "classification"), given_)


def test_many_labels_are_shown_as_the_commonest_and_the_rest(tmp_path: Path) -> None:
    labels = {f"label_{number}": 100 - number for number in range(60)}
    said = report(room(tmp_path, labels, "classification"), {**labels, "new": 10})
    assert len(said["gold"]) == len(said["teacher"]) == 21
    assert sum(said["teacher"].values()) == pytest.approx(1, abs=0.01)


def test_gold_that_teaches_is_not_the_teachers_answer(tmp_path: Path) -> None:
    watch = load_plugin("checks", "class_balance").watch(room(tmp_path, EVEN))
    watch.look([answered("neutral", "gold")] * 50 + [Answered(Example("row", ASKED), None)])
    assert watch.report()["rows"]["teacher"] == 0


def test_a_task_without_labels_says_nothing(tmp_path: Path) -> None:
    watch = load_plugin("checks", "class_balance").watch(room(tmp_path, EVEN, "summarization"))
    assert type(watch) is Watch
    assert watch.look([answered("A summary.")]) == [None]
    assert watch.report() == {}


COUNTS = st.dictionaries(st.sampled_from(LABELS), st.integers(0, 300))


@settings(max_examples=25)
@given(gold=COUNTS, answers=COUNTS)
def test_the_distance_lies_between_its_ends(gold: dict[str, int], answers: dict[str, int], tmp_path_factory: Any) -> None:
    said = report(room(tmp_path_factory.mktemp("data"), gold), answers)
    if sum(gold.values()) and sum(answers.values()):
        distance = said["total_variation"]
        assert 0 <= distance["low"] <= distance["value"] <= distance["high"] <= 1
    else:
        assert "total_variation" not in said
