"""Every metric by hand-computed values, and the contract that all keep."""

from __future__ import annotations

from typing import Any

import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from potstill.contracts import Scored
from potstill.plugins import load_plugin, plugin_kinds
from potstill.types import Example, Message

KINDS = [info.kind for info in plugin_kinds("metrics")]


def row(text: str, gold: str | None, right: float | None = None, **meta: Any) -> Scored:
    return Scored(Example("1", (Message("user", "?"),), gold, meta), text, right)


def value(kind: str, rows: list[Scored], task: str = "qa") -> float | None:
    found: float | None = load_plugin("metrics", kind).value(rows, load_plugin("tasks", task))
    return found


def value_of(kind: str, one: Scored, task: str = "summarization") -> float | None:
    found: float | None = load_plugin("metrics", kind).value([one], load_plugin("tasks", task))
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


@pytest.mark.parametrize(
    ("texts", "golds"),
    [
        (["the cat sat on", "a dog ran far away from home", ""], ["the cat sat on the mat today", "a dog ran home", "x"]),
        (["我们今天去北京", "他说明天可能会下雨"], ["我们今天去北京大学参加会议", "他说明天可能会下很大的雨"]),
        (["ab", "y"], ["a", "x"]),
    ],
)
def test_chrf_is_sacrebleus_corpus_chrf(texts: list[str], golds: list[str]) -> None:
    rows = [row(text, gold) for text, gold in zip(texts, golds, strict=True)]
    assert value("chrf", rows, "summarization") == pytest.approx(sacrebleu.corpus_chrf(texts, [golds]).score)


@given(st.lists(st.tuples(st.text(max_size=30), st.text(min_size=1, max_size=30).filter(str.strip)), min_size=1, max_size=4))
def test_chrf_is_sacrebleus_for_any_texts(pairs: list[tuple[str, str]]) -> None:
    texts, golds = [text for text, _ in pairs], [gold for _, gold in pairs]
    rows = [row(text, gold) for text, gold in pairs]
    with_thoughts = any("<think>" in text for text in texts)
    assert with_thoughts or value("chrf", rows) == pytest.approx(sacrebleu.corpus_chrf(texts, [golds]).score)


def test_chrf_takes_the_best_reference() -> None:
    rows = [row("abc", "xyz", references=["abd"])]
    assert value("chrf", rows) == value("chrf", [row("abc", "abd")])


def test_rouge_1_and_2_count_words_and_pairs_of_words() -> None:
    # 3 of 4 words are shared, and the pair "sat on": precision 1/3, recall 1/2
    assert value("rouge_1", [row("he sat on it", "sat on it")]) == pytest.approx(2 * 0.75 * 1 / 1.75)
    assert value("rouge_2", [row("he sat on mats", "sat on it")]) == pytest.approx(2 * (1 / 3) * (1 / 2) / (5 / 6))
    assert value("rouge_2", [row("Yes", "yes")]) == 1.0
    assert value("rouge_1", [row("แมว", "แมว นั่ง")]) == pytest.approx(2 * 3 / (3 + 5))


def test_compression_is_the_share_of_the_words_that_are_left() -> None:
    asked = Example("1", (Message("system", "Be short."), Message("user", "one two three four")), "one")
    assert value_of("compression", Scored(asked, "one two", None)) == 0.5
    assert value("compression", [row("one two", "one")]) is None  # "?" has no word


def test_repetition_is_the_share_of_runs_of_four_words_that_came_before() -> None:
    # 8 words have 5 runs of four; abcd abcd has the first run twice
    assert value("repetition", [row("a b c d a b c d", "x")]) == pytest.approx(1 / 5)
    assert value("repetition", [row("a b c d e f g h", "x")]) == 0.0
    assert value("repetition", [row("no " * 100, "x")]) == pytest.approx(96 / 97)
    assert value("repetition", [row("a b c", "x")]) is None


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
    best = {"bleu": 100.0, "chrf": 100.0, "summary_words": 7.0, "compression": None, "repetition": None}.get(kind, 1.0)
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
