"""The generated corpus: its format, its held-out combinations and the truth of its answers."""

import re
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from potstill.starter.corpus import TASKS, conversation, general, math, nli, qa, rows, summarization
from potstill.starter.corpus.drawing import SPLITS, split_of

MODULES = {
    "nli": nli,
    "conversation": conversation,
    "qa": qa,
    "math": math,
    "summarization": summarization,
    "general": general,
}


def _every_row(task: str) -> Iterator[dict[str, Any]]:
    for split in SPLITS:
        yield from rows(task, split, 300, seed=7)


def _prompt(row: dict[str, Any]) -> str:
    return "\n".join(message["content"] for message in row["messages"][:-1])


def _reply(row: dict[str, Any]) -> str:
    return str(row["messages"][-1]["content"])


@pytest.mark.parametrize("task", MODULES)
def test_roles_alternate_and_the_assistant_is_last(task: str) -> None:
    for row in _every_row(task):
        roles = [message["role"] for message in row["messages"]]
        turns = roles[1:] if roles[0] == "system" else roles
        assert turns == ["user", "assistant"] * (len(turns) // 2)
        assert all(message["content"].strip() for message in row["messages"])


@pytest.mark.parametrize("task", MODULES)
def test_the_same_arguments_give_the_same_rows_and_another_seed_gives_others(task: str) -> None:
    first = list(rows(task, "train", 40, seed=3))
    assert first == list(rows(task, "train", 40, seed=3))
    assert first != list(rows(task, "train", 40, seed=4))


@pytest.mark.parametrize("task", MODULES)
def test_a_combination_occurs_in_one_split_only(task: str) -> None:
    prompts = {split: {_prompt(row) for row in rows(task, split, 400)} for split in SPLITS}
    assert not prompts["train"] & prompts["test"]
    assert not prompts["train"] & prompts["validation"]
    random = Random(0)
    seen = {split_of(task, *MODULES[task].draw(random).combination) for _ in range(300)}
    assert seen == set(SPLITS)


def test_the_product_and_problem_of_a_test_conversation_never_meet_in_train() -> None:
    def asked(split: str) -> set[tuple[str, str]]:
        return {(row["meta"]["product"], row["meta"]["asked"]) for row in rows("conversation", split, 1500)}

    train, test = asked("train"), asked("test")
    assert not train & test
    # Both halves of a held-out pair are known from other pairs.
    assert {product for product, _ in test} <= {product for product, _ in train}
    assert {problem for _, problem in test} <= {problem for _, problem in train}


def test_required_values_stand_in_the_prompt_and_in_the_reply() -> None:
    for row in _every_row("conversation"):
        assert row["meta"]["required_values"]
        for value in row["meta"]["required_values"]:
            assert value in _prompt(row)
            assert value in _reply(row)


def test_a_step_given_earlier_does_not_satisfy_the_required_values() -> None:
    for row in rows("conversation", "test", 200):
        earlier = [m["content"] for m in row["messages"][:-1] if m["role"] == "assistant"]
        # After the colon stands what the agent said; before it the problem's name.
        said = [text.split(": ")[-1] for text in earlier]
        assert not any(all(value in text for value in row["meta"]["required_values"]) for text in said)


def test_math_answers_are_arithmetically_right() -> None:
    for row in _every_row("math"):
        equations = re.findall(r"(\d+) ([-+x/]) (\d+) = (\d+)\.", _reply(row))
        assert equations
        for left, sign, right, result in equations:
            assert math.calculate(int(left), sign, int(right)) == int(result)
            assert sign != "/" or int(left) % int(right) == 0
        assert _reply(row).endswith(f"\n#### {equations[-1][3]}")
        assert row["meta"]["answer"] == equations[-1][3]


def test_math_numbers_come_from_the_story_or_an_earlier_step() -> None:
    for row in _every_row("math"):
        known = set(re.findall(r"\d+", _prompt(row)))
        for left, _, right, result in re.findall(r"(\d+) ([-+x/]) (\d+) = (\d+)\.", _reply(row)):
            assert {left, right} <= known
            known.add(result)


def test_qa_answers_are_spans_of_the_context() -> None:
    for row in _every_row("qa"):
        context = _prompt(row).split("\n\nQuestion:")[0]
        assert row["meta"]["answers"][0] == _reply(row)
        # A span at the beginning of a sentence has a capital there and none in the answer.
        assert all(answer.lower() in context.lower() for answer in row["meta"]["answers"])


def test_nli_labels_are_the_replies_and_about_equally_frequent() -> None:
    labels = [_reply(row) for row in rows("nli", "train", 900)]
    for label in nli.LABELS:
        assert 0.25 < labels.count(label) / len(labels) < 0.42


def test_summaries_state_the_key_facts() -> None:
    for row in _every_row("summarization"):
        for fact in row["meta"]["key_facts"]:
            assert fact in _reply(row)


def test_an_unknown_task_or_split_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown starter task"):
        rows("poetry", "train", 1)
    with pytest.raises(ValueError, match="unknown split"):
        list(rows("nli", "dev", 1))


def test_every_task_is_listed() -> None:
    assert set(TASKS) < set(MODULES)
