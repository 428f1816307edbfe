"""Personal data: counted, redacted or dropped, and never shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from potstill.contracts import Answered, Finding, Room, Watch
from potstill.errors import JobError
from potstill.plugins import load_plugin
from potstill.types import Example, Message, Reply

ROOM = Room(load_plugin("tasks", "conversation"), Path("nowhere"), (), lambda teacher, requests: [])
ROW = Example("row", (Message("user", "Who are you?"),))


def watch(**fields: Any) -> Watch:
    made: Watch = load_plugin("checks", {"kind": "personal_data", **fields}).watch(ROOM)
    return made


def answered(text: str) -> Answered:
    return Answered(ROW, Reply(text, logprobs=[["61", -0.1, []]]))


def test_by_default_it_counts_and_warns_and_changes_nothing() -> None:
    looking = watch()
    assert (
        looking.look([answered("ann@corp.io and bob@corp.io"), answered("+49 151 23456789"), answered("Nobody.")]) == [None] * 3
    )
    said = looking.report()
    assert said["rows"] == 2
    assert said["found"] == {"email": 2, "phone": 1}
    assert "2 rows hold personal data or secrets (2 e-mail addresses, 1 phone numbers)" in said["alarm"]
    assert "corp.io" not in json.dumps(said)


def test_redacting_changes_the_answer_and_forgets_log_probabilities_of_another_text() -> None:
    looking = watch(action="redact")
    changed, same = looking.look([answered("Mail ann@corp.io."), answered("Hello.")])
    assert isinstance(changed, Answered)
    assert changed.reply is not None
    assert changed.reply.text == "Mail <EMAIL>."
    assert changed.reply.logprobs is None
    assert changed.example is ROW
    assert same is None
    assert "alarm" not in looking.report()


def test_dropping_refuses_with_the_kinds_alone() -> None:
    found = watch(action="drop").look([answered("ann@corp.io, 4111 1111 1111 1111"), answered("Hello.")])
    assert found == [Finding("holds e-mail addresses and card numbers"), None]


def test_a_prompt_is_redacted_with_its_gold_and_its_meta() -> None:
    meta = {"required_values": ["415-286-4371", 7], "note": {"by": "ann@corp.io"}}
    row = Example("row", (Message("system", "Ann: ann@corp.io"), Message("user", "Her phone?")), "It is 415-286-4371.", meta)
    looking = watch(action="redact")
    (changed,) = looking.look([Answered(row, None)])
    assert isinstance(changed, Answered)
    assert [message.content for message in changed.example.messages] == ["Ann: <EMAIL>", "Her phone?"]
    assert changed.example.gold == "It is <PHONE>."
    assert changed.example.meta == {"required_values": ["<PHONE>", 7], "note": {"by": "<EMAIL>"}}
    assert (changed.example.id, changed.reply) == ("row", None)
    assert looking.report()["rows"] == 1


def test_only_the_kinds_named_are_looked_for() -> None:
    looking = watch(action="drop", kinds=["ip"])
    assert looking.look([answered("ann@corp.io"), answered("8.8.8.8")]) == [None, Finding("holds IP addresses")]
    assert watch(action="drop").look([answered("8.8.8.8")]) == [None]
    with pytest.raises(JobError, match="kinds"):
        watch(kinds=["name"])
