"""Every answer stands as an example of its own, once, with its teachers' weight."""

from __future__ import annotations

from typing import Any

import pytest
from cases import FAILED, case, dense, room

from potstill.contracts import Choice
from potstill.plugins import load_plugin

NLI = load_plugin("tasks", "nli")
CHAT = load_plugin("tasks", "conversation")


def mixed(task: Any, *replies: Any, weights: tuple[float, ...], samples: int = 1) -> Choice:
    (choice,) = load_plugin("combiners", "mixture").choose([case(task, *replies, samples=samples)], room(task, *weights))
    return choice


def texts(choice: Choice) -> list[str]:
    return [one.reply.text for one in choice.chosen]


def test_all_answers_are_kept_and_identical_ones_once() -> None:
    choice = mixed(CHAT, "Restart it.", "Unplug it.", "restart  it.", "Wait.", weights=(1, 1, 1, 2))
    assert texts(choice) == ["Restart it.", "Unplug it.", "Wait."]
    assert choice.weights == pytest.approx((2 / 5, 1 / 5, 2 / 5))
    assert (choice.agreement, choice.finding) == (None, None)


def test_answers_that_failed_or_cannot_be_read_leave_the_rows_weight_to_the_others() -> None:
    choice = mixed(NLI, FAILED, "Maybe", "neutral", "entailment", weights=(1, 1, 1, 3))
    assert texts(choice) == ["neutral", "entailment"]
    assert choice.weights == pytest.approx((1 / 4, 3 / 4))


def test_samples_share_too() -> None:
    choice = mixed(NLI, "neutral", "neutral", "entailment", "neutral", samples=2, weights=(1, 1))
    assert [(one.teacher, one.sample) for one in choice.chosen] == [(0, 0), (1, 0)]
    assert choice.weights == pytest.approx((3 / 4, 1 / 4))


def test_full_weights_count_every_answer_as_a_row() -> None:
    combiner = load_plugin("combiners", {"kind": "mixture", "weights": "full"})
    (choice,) = combiner.choose([case(NLI, "neutral", "entailment")], room(NLI, 1, 5))
    assert (texts(choice), choice.weights) == (["neutral", "entailment"], ())


def test_where_nothing_can_be_read_nothing_is_kept() -> None:
    choice = mixed(NLI, "Maybe", FAILED, weights=(1, 1))
    assert choice.chosen == ()
    assert choice.finding is not None
    assert choice.finding.reason == "no nli answer in the text"


def test_answers_that_teach_the_same_are_one_and_those_that_may_not_teach_are_left_out() -> None:
    task = load_plugin("tasks", {"kind": "summarization", "chain_of_density": True, "max_summary_words": 4})
    same = [dense("Someone is ill.", "Ana is ill."), dense("A person is ill.", "Ana is ill.")]
    long = dense("Ana.", "Ana is ill and stays at home.")
    choice = mixed(task, long, *same, dense("Ana.", "Ana is well."), weights=(1, 1, 1, 1))
    assert texts(choice) == [same[0], dense("Ana.", "Ana is well.")]
    assert choice.weights == pytest.approx((2 / 3, 1 / 3))
    assert texts(mixed(task, long, long, weights=(1, 1))) == [long], "refused by the task's own rule, with its reason"
