"""Every metric by hand-computed values, and the contract that all keep."""

from __future__ import annotations

from typing import Any

import pytest
import sacrebleu

from potstill.contracts import Scored
from potstill.plugins import load_plugin, plugin_kinds
from potstill.types import Example, Message

KINDS = [info.kind for info in plugin_kinds("metrics")]


def row(text: str, gold: str | None, right: float | None = None, **meta: Any) -> Scored:
    return Scored(Example("1", (Message("user", "?"),), gold, meta), text, right)


def value(kind: str, rows: list[Scored], task: str = "qa") -> float | None:
    found: float | None = load_plugin("metrics", kind).value(rows, load_plugin("tasks", task))
    return found


def test_accuracy_is_the_share_of_right_rows_among_those_with_gold() -> None:
    assert value("accuracy", [row("a", "a", 1.0), row("b", "a", 0.0), row("c", None)]) == 0.5
    assert value("accuracy", [row("a", "a"), row("b", "a")]) == 0.5


def test_exact_match_and_token_f1_take_the_best_accepted_answer() -> None:
    rows = [row("the red house", "x", answers=["red house", "blue"]), row("red", "red house"), row("z", None)]
    assert value("exact_match", rows) == 0.5
    assert value("token_f1", rows) == pytest.approx((1 + 2 / 3) / 2)


def test_macro_f1_counts_every_label_the_same() -> None:
    # neutral: 3 rows, 2 found, 1 more given wrongly: F1 = 4/6; contradiction: 1 row, not found: 0
    rows = [row("neutral", "neutral"), row("Neutral.", "neutral"), row("?", "neutral"), row("neutral", "contradiction")]
    assert value("macro_f1", rows, "nli") == pytest.approx((4 / 6) / 2)
    assert value("macro_f1", rows[:1], "nli") == 1.0


def test_rouge_l_and_required_values() -> None:
    assert value("rouge_l", [row("a b", "a b"), row("x", "y", references=["x"])], "summarization") == 1.0
    rows = [
        row("1 and 2", "g", required_values=["1", "3"]),
        row("1", "g", required_values=["1"]),
        row("x", "g", required_values=[]),
    ]
    assert value("required_values", rows, "conversation") == 0.75


@pytest.mark.parametrize(
    "golds",
    [
        ["the cat sat on the mat today", "a dog ran far away from home"],
        ["我们今天去北京大学参加会议", "他说明天可能会下很大的雨"],
    ],
)
def test_bleu_is_sacrebleus_corpus_bleu(golds: list[str]) -> None:
    texts = [golds[0][:-3], golds[1]]
    wanted = sacrebleu.corpus_bleu(texts, [golds], tokenize="zh" if not golds[0].isascii() else "13a").score
    rows = [row(text, gold) for text, gold in zip(texts, golds, strict=True)]
    assert value("bleu", rows, "summarization") == pytest.approx(wanted)
    assert 0 < wanted < 100


def test_bleu_of_one_word_answers_is_not_given() -> None:
    sentences = [row("the cat sat on the mat", "the cat sat on the mat")]
    assert value("bleu", [row("neutral", "neutral")] * 3, "nli") is None
    assert value("bleu", sentences, "classification") is None
    assert value("bleu", [row("Paris", "Paris"), row("Rome", "Rome"), *sentences], "qa") is None
    assert value("bleu", sentences, "qa") == pytest.approx(100.0)
    assert value("bleu", [row("x", None)], "qa") is None


def test_bleu_of_nothing_answered_is_zero() -> None:
    assert value("bleu", [row("", "the cat sat on the mat")], "summarization") == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_rows_without_gold_have_no_value_and_gold_itself_has_the_best(kind: str) -> None:
    task = load_plugin("tasks", "conversation")
    metric = load_plugin("metrics", kind)
    assert metric.value([], task) is None
    assert metric.value([row("x", None)], task) is None
    gold = "please enter the code 1234 right now"
    best = {"bleu": 100.0, "summary_words": 7.0}.get(kind, 1.0)  # the one metric that is a length
    assert metric.value([row(gold, gold, required_values=["1234"])], task) == pytest.approx(best)


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_is_the_mean_of_its_rows_where_there_are_row_values(kind: str) -> None:
    task = load_plugin("tasks", "conversation")
    metric = load_plugin("metrics", kind)
    rows = [
        row("please enter 1234", "please enter 1234 now", required_values=["1234", "now"]),
        row("no", "yes it is", required_values=["yes"]),
    ]
    values = [metric.per_row(one, task) for one in rows]
    if None not in values:
        assert metric.value(rows, task) == pytest.approx(sum(values) / 2)
