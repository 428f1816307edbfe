from __future__ import annotations

import pytest

from potstill.plugins import load_plugin
from potstill.types import Example, Message, Reply

ROW = Example("row", (Message("user", "Hi"),))


@pytest.mark.parametrize(
    ("reply", "refused"), [(Reply("text"), False), (Reply(" \n"), True), (Reply(""), True), (Reply("", error="HTTP 500"), True)]
)
def test_an_answer_without_text_is_refused(reply: Reply, refused: bool) -> None:
    assert (load_plugin("checks", "empty").refuse(ROW, reply, None) is not None) == refused
