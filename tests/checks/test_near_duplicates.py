from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from potstill.contracts import Answered, Finding, Room, Watch
from potstill.plugins import load_plugin
from potstill.types import Example, Message, Reply

PROBLEM = (
    "Josh has 85 marbles. There are three times as many blue marbles as red ones, and the rest are yellow. How many are yellow?"
)


def watch(folder: Path, **fields: Any) -> Watch:
    room = Room(load_plugin("tasks", "conversation"), folder, (), lambda teacher, requests: [])
    looking: Watch = load_plugin("checks", {"kind": "near_duplicates", **fields}).watch(room)
    return looking


def row(name: str, *turns: str, gold: str | None = None, answer: str | None = None, system: str = "You are Ada.") -> Answered:
    roles = ("user", "assistant")
    messages = tuple(Message(roles[at % 2], turn) for at, turn in enumerate(turns))
    example = Example(name, (Message("system", system), *messages), gold)
    return Answered(example, None if answer is None else Reply(answer))


def kept(folder: Path, *rows: Answered, **fields: Any) -> list[bool]:
    return [not isinstance(found, Finding) for found in watch(folder, **fields).look(rows)]


@pytest.mark.parametrize(
    ("other", "stays"),
    [
        (PROBLEM.replace("85", "85.0").replace("85.0", "85 "), False),
        (PROBLEM.replace("There are", "There really are"), False),
        (PROBLEM.upper(), False),
        (PROBLEM.replace("85", "58"), True),
        (PROBLEM.replace("three", "four"), True),
        (PROBLEM.replace("as many", "more"), True),
        (PROBLEM.replace("the rest are yellow", "the rest are not yellow"), True),
        (PROBLEM.replace("How many are yellow", "How many blue ones does he have"), True),
    ],
)
def test_a_few_words_make_no_new_row_but_a_number_or_a_negation_does(tmp_path: Path, other: str, stays: bool) -> None:
    assert kept(tmp_path, row("one", PROBLEM), row("two", other)) == [True, stays]


def test_alike_prompts_with_other_answers_or_gold_stay(tmp_path: Path) -> None:
    premise = "A man in a hat holding a tool stands next to a {} hitched to a sled filled with hay in a hilly area."
    rows = [
        row(str(at), premise.format(animal), gold=gold) for at, (animal, gold) in enumerate([("dog", "yes"), ("horse", "no")])
    ]
    assert kept(tmp_path, *rows) == [True, True]
    assert kept(tmp_path, *rows, compare="prompt") == [True, False]
    same = [row(str(at), premise.format(animal), answer="yes") for at, animal in enumerate(["dog", "horse"])]
    assert kept(tmp_path, *same) == [True, False]


def test_system_messages_and_the_number_of_turns_are_identity(tmp_path: Path) -> None:
    assert kept(tmp_path, row("one", PROBLEM), row("two", PROBLEM, system="You are Bob.")) == [True, True]
    talk = ("I need a new card for my mother please", "Where shall I send it to?", "To the address that you have")
    longer = (*talk, "Done.", "I need a new card for my mother please")
    assert kept(tmp_path, row("one", *talk), row("two", *longer), row("three", *longer)) == [True, True, False]


def test_answers_alone_can_be_compared(tmp_path: Path) -> None:
    rows = [row(str(at), question, answer=PROBLEM) for at, question in enumerate(["Say it.", "Tell me about the marbles."])]
    assert kept(tmp_path, *rows, compare="answer") == [True, False]
    assert kept(tmp_path, *rows) == [True, True]


def test_pairs_are_shown_and_data_full_of_duplicates_raises_an_alarm(tmp_path: Path) -> None:
    draw = random.Random(4)
    texts = [" ".join(f"word{draw.randrange(900)}x" for _ in range(20)) for _ in range(60)]
    looking = watch(tmp_path)
    looking.look([row(f"first {at}", text) for at, text in enumerate(texts)])
    assert looking.report() == {}
    looking.look([row(f"again {at}", f"Please {text}") for at, text in enumerate(texts)])
    looking.look([])
    said = looking.report()
    assert said["pairs"] == [[f"again {at}", f"first {at}"] for at in range(5)]
    assert said["alarm"].startswith("50% of the rows are near duplicates of others")


def test_rows_without_words_are_left_alone(tmp_path: Path) -> None:
    assert kept(tmp_path, row("one", "?"), row("two", "?"), row("three", "🙂")) == [True, True, True]
