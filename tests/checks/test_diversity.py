"""Diversity: answers that repeat one another raise an alarm, people's answers raise none."""

from __future__ import annotations

import json
import random
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.contracts import Answered, Room, Watch
from potstill.plugins import load_plugin
from potstill.types import Example, Message, Reply

ASKED = (Message("user", "?"),)
SYLLABLES = ["ba", "de", "fi", "go", "lu", "mar", "nes", "pi", "ro", "sta", "tu", "ver"]
WORDS = ["".join(parts) for parts in product(SYLLABLES, repeat=3)]


def texts(number: int, seed: int = 0) -> list[str]:
    """Different sentences of some 12 words."""
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=12)) for _ in range(number)]


def room(folder: Path, gold: list[str], task: str = "summarization") -> Room:
    rows = [Example(f"gold {at}", ASKED, text).as_dict() for at, text in enumerate(gold)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Room(load_plugin("tasks", task), folder, (), lambda teacher, requests: [])


def answered(number: int, text: str, source: str = "teacher") -> Answered:
    return Answered(Example(f"row {number}", ASKED), Reply(text), source)


def report(where: Room, answers: list[str], **fields: Any) -> dict[str, Any]:
    watch = load_plugin("checks", {"kind": "diversity", **fields}).watch(where)
    rows = [answered(number, text) for number, text in enumerate(answers)]
    for start in range(0, len(rows), 100):
        assert watch.look(rows[start : start + 100]) == [None] * len(rows[start : start + 100])
    return dict(watch.report())


def test_measures_are_what_they_say(tmp_path: Path) -> None:
    said = report(room(tmp_path, []), ["a b c d", "a b c e", "A  b c d"])
    assert said["answers"] == said["sampled"] == 3
    assert said["identical_answers"] == 0.3333
    assert said["commonest_answer"] == 0.6667
    measures = said["teacher"]
    assert measures["distinct_1"] == round(5 / 12, 3)
    assert measures["distinct_2"] == round(4 / 9, 3)
    assert measures["distinct_3"] == round(3 / 6, 3)
    # two of the three texts are each other's reference; a b c e has 3 of 4 words, 2 of 3, 1 of 2 and none, smoothed to 1/2
    assert measures["self_bleu"] == pytest.approx((100 + 100 + 100 * (3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** 0.25) / 3, abs=0.01)
    assert "alarm" not in said  # three answers are too few to say so


@pytest.mark.parametrize("with_gold", [True, False])
def test_different_answers_raise_no_alarm(with_gold: bool, tmp_path: Path) -> None:
    said = report(room(tmp_path, texts(120, 1) if with_gold else []), texts(300, 2))
    assert "alarm" not in said
    assert (said["gold"] is not None) == with_gold
    assert said["sampled"] == (120 if with_gold else 300)  # both are measured on as many texts


@pytest.mark.parametrize("with_gold", [True, False])
def test_a_teacher_that_repeats_itself_raises_an_alarm(with_gold: bool, tmp_path: Path) -> None:
    gold = texts(300, 1) if with_gold else []
    some = texts(300, 2)
    repeated = report(room(tmp_path, gold), ["I cannot help with that." if at % 3 else text for at, text in enumerate(some)])
    assert "66% identical" in repeated["alarm"]
    assert repeated["commonest_answer"] == pytest.approx(0.667, abs=0.01)
    frame = "Sure, here is the short summary you asked me for: {} I hope that this summary helps you, do let me know."
    framed = report(room(tmp_path, gold), [frame.format(text) for text in some])
    assert "self-BLEU" in framed["alarm"]
    assert "identical" not in framed["alarm"]


def test_answers_as_alike_as_the_gold_raise_none(tmp_path: Path) -> None:
    frame = "The customer {} asks for help with an order and wants to know when it will arrive at home."
    gold, given_ = ([frame.format(text) for text in texts(200, seed)] for seed in (1, 2))
    assert "alarm" in report(room(tmp_path, []), given_)
    assert "alarm" not in report(room(tmp_path, gold), given_)


def test_the_sample_is_the_same_in_any_order(tmp_path: Path) -> None:
    rows = [answered(number, text) for number, text in enumerate(texts(500))]
    reports = []
    for order in (rows, rows[::-1]):
        watch = load_plugin("checks", {"kind": "diversity", "sample": 60}).watch(room(tmp_path, []))
        watch.look(order)
        reports.append(watch.report())
    assert reports[0] == reports[1]
    assert reports[0]["sampled"] == 60


def test_samples_of_one_row_may_be_alike(tmp_path: Path) -> None:
    watch = load_plugin("checks", "diversity").watch(room(tmp_path, []))
    watch.look([answered(number // 4, text) for number, text in enumerate(t for t in texts(30) for _ in range(4))])
    assert watch.report()["identical_answers"] == 0


def test_gold_and_blank_answers_are_not_looked_at(tmp_path: Path) -> None:
    watch = load_plugin("checks", "diversity").watch(room(tmp_path, []))
    watch.look([answered(1, "x", "gold"), answered(2, " \n"), Answered(Example("3", ASKED), None)])
    assert watch.report() == {"answers": 0}


def test_labels_are_left_to_another_check(tmp_path: Path) -> None:
    watch = load_plugin("checks", "diversity").watch(room(tmp_path, [], "nli"))
    assert type(watch) is Watch


@settings(max_examples=20)
@given(st.lists(st.text(max_size=30), max_size=8))
def test_any_texts_are_measured(tmp_path_factory: Any, some: list[str]) -> None:
    said = report(room(tmp_path_factory.mktemp("data"), []), some)
    if said["answers"]:
        measures = said["teacher"]
        assert all(0 <= measures[name] <= 1 for name in ("distinct_1", "distinct_2", "distinct_3", "identical"))
        assert 0 <= measures["self_bleu"] <= 100.001
