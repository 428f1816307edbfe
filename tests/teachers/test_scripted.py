from __future__ import annotations

import asyncio

from potstill.contracts import Requests
from potstill.plugins import load_plugin
from potstill.types import Message, Reply, Request


def _ask(question: str, **fields: object) -> Reply:
    async def first() -> Reply:
        teacher = load_plugin("teachers", {"kind": "scripted", **fields})
        _, reply = await anext(teacher.answers(Requests([Request("row", (Message("user", question),))])))
        return reply

    return asyncio.run(first())


def test_the_whole_message_wins_over_a_part_of_it() -> None:
    replies = {"red": "a part", "red light": "the whole"}
    assert _ask("red light", replies=replies).text == "the whole"
    assert _ask("a red light", replies=replies).text == "a part"


def test_without_a_fitting_reply_comes_the_default_then_the_echo_then_an_error() -> None:
    assert _ask("hello", default="hi", echo=True).text == "hi"
    assert _ask("hello", echo=True).text == "hello"
    assert _ask("hello").error


def test_another_script_is_another_identity() -> None:
    one, other = (load_plugin("teachers", {"kind": "scripted", "default": text}) for text in ("a", "b"))
    assert one.identity() != other.identity()
