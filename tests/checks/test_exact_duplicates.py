from __future__ import annotations

from pathlib import Path
from typing import Any

from potstill.contracts import Answered, Finding, Room
from potstill.plugins import load_plugin
from potstill.types import Example, Message, Reply


def kept(folder: Path, rows: list[tuple[str, str, str | None]], **fields: Any) -> list[bool]:
    """Whether each (system, user, answer) may stay; looked at two at a time."""
    room = Room(load_plugin("tasks", "conversation"), folder, (), lambda teacher, requests: [])
    watch = load_plugin("checks", {"kind": "exact_duplicates", **fields}).watch(room)
    answered = [
        Answered(Example(str(at), (Message("system", system), Message("user", user))), None if answer is None else Reply(answer))
        for at, (system, user, answer) in enumerate(rows)
    ]
    said = [found for at in range(0, len(rows), 2) for found in watch.look(answered[at : at + 2])]
    return [not isinstance(found, Finding) for found in said]


ROWS: list[tuple[str, str, str | None]] = [
    ("Ada", "Hello", "Hi"),
    ("Ada", " ＨELLO\n", "hi"),
    ("Ada", "Hello", "Good morning"),
    ("Bob", "Hello", "Hi"),
    ("Ada", "Hello!", "Hi"),
]


def test_a_prompt_with_the_same_answer_is_refused_the_second_time(tmp_path: Path) -> None:
    assert kept(tmp_path, ROWS) == [True, False, True, True, True]


def test_prompts_alone_and_answers_alone_can_be_compared(tmp_path: Path) -> None:
    assert kept(tmp_path, ROWS, compare="prompt") == [True, False, False, True, True]
    assert kept(tmp_path, ROWS, compare="answer") == [True, False, True, False, False]


def test_before_anything_is_asked_prompts_are_compared_with_their_gold(tmp_path: Path) -> None:
    room = Room(load_plugin("tasks", "nli"), tmp_path, (), lambda teacher, requests: [])
    asked = (Message("user", "Is it so?"),)
    rows = [Answered(Example(str(at), asked, gold), None) for at, gold in enumerate(["yes", "no", None, "Yes", None])]
    said = load_plugin("checks", "exact_duplicates").watch(room).look(rows)
    assert [isinstance(found, Finding) for found in said] == [False, False, False, True, True]
    answers = load_plugin("checks", {"kind": "exact_duplicates", "compare": "answer"}).watch(room).look(rows)
    assert [isinstance(found, Finding) for found in answers] == [False, False, False, True, False]


def test_each_split_is_looked_at_afresh(tmp_path: Path) -> None:
    check = load_plugin("checks", "exact_duplicates")
    room = Room(load_plugin("tasks", "nli"), tmp_path, (), lambda teacher, requests: [])
    row = [Answered(Example("a", (Message("user", "Hi"),)), Reply("yes"))]
    assert check.watch(room).look(row) == check.watch(room).look(row) == [None]
