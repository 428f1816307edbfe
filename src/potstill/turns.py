"""A conversation whose assistant turns are answered anew, one by one: each prompt holds the teacher's own earlier answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from .types import Example, Message


class Turn(NamedTuple):
    """A prompt that ends where the assistant is to speak, and what is taught there."""

    example: Example
    target: str


def num_turns(example: Example) -> int:
    """How often the assistant speaks: its earlier turns in the prompt, and the answer.

    >>> num_turns(Example("a", (Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "Bye"))))
    2
    """
    return 1 + sum(message.role == "assistant" for message in example.messages)


def at_turn(example: Example, said: Sequence[str]) -> Example:
    """The row where the assistant is to speak for the time after `said`, with `said` in the place of its earlier turns.

    The last turn is the row itself, with its gold and meta, which are about the last answer; an earlier one has the turn that
    stands in the row as its gold and no meta, and its id says which it is.

    >>> row = Example("a", (Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "Bye")), "See you")
    >>> [(message.role, message.content) for message in at_turn(row, ["Hey!"]).messages]
    [('user', 'Hi'), ('assistant', 'Hey!'), ('user', 'Bye')]
    >>> at_turn(row, []).id, at_turn(row, []).gold, at_turn(row, ["Hey!"]).gold
    ('a#1', 'Hello', 'See you')
    """
    messages: list[Message] = []
    place = 0
    for message in example.messages:
        if message.role == "assistant":
            if place == len(said):
                return replace(example, id=f"{example.id}#{place + 1}", messages=tuple(messages), gold=message.content, meta={})
            message = Message("assistant", said[place])
            place += 1
        messages.append(message)
    return replace(example, messages=tuple(messages))


def turn_lessons(example: Example, said: Sequence[str], text: str) -> list[Turn]:
    """What a regenerated conversation teaches: every turn of the assistant after the teacher's own earlier ones, `text` last.

    With nothing in `said` it is the row as it is, whatever turns stand in it.

    >>> row = Example("a", (Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "Bye")))
    >>> [(turn.example.id, turn.target) for turn in turn_lessons(row, ["Hey!"], "Take care!")]
    [('a#1', 'Hey!'), ('a', 'Take care!')]
    """
    if not said:
        return [Turn(example, text)]
    return [Turn(at_turn(example, said[:place]), target) for place, target in enumerate((*said, text))]
