"""conversation: the values a reply must state."""

from __future__ import annotations

import pytest

from potstill.errors import JobError
from potstill.plugins import load_plugin
from potstill.tasks.conversation import Conversation
from potstill.types import Example, Message

ASKED = (Message("user", "My router shows a red light."),)
ROW = Example("1", ASKED, "Enter code 1234 by 8:45 pm.", {"required_values": ["1234", "8:45 PM"]})


def test_a_reply_is_right_when_it_states_every_required_value() -> None:
    assert Conversation().right("By 8:45  pm, please type 1234!", ROW) == 1.0
    assert Conversation().right("Please type 1234.", ROW) == 0.0
    assert Conversation().right("Type 12345 by 8:45 pm", ROW) == 0.0
    assert Conversation().right("", ROW) == 0.0


def test_without_required_values_the_reply_must_be_the_gold_or_is_not_scored() -> None:
    row = Example("1", ASKED, "Goodbye.", {"required_values": []})
    assert Conversation().right(" GOODBYE. ", row) == 1.0
    assert Conversation().right("Bye.", row) == 0.0
    assert Conversation(without_values="skip").right("Goodbye.", row) is None
    assert Conversation().right("Goodbye.", Example("1", ASKED)) is None


def test_the_turns_of_a_row_stay_gold_unless_the_job_says_else() -> None:
    assert Conversation().turns == "keep_gold"
    assert Conversation(turns="regenerate").turns == "regenerate"
    with pytest.raises(JobError, match="turns"):
        load_plugin("tasks", {"kind": "conversation", "turns": "all"})


def test_thinking_does_not_state_a_value() -> None:
    assert Conversation().right("<think>1234 and 8:45 pm</think> Hello", ROW) == 0.0
    assert Conversation().read("<think>cut") is None
