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


def test_a_blank_answer_is_sampled_again_and_one_that_never_came_was_tried_enough() -> None:
    check = load_plugin("checks", "empty")
    assert check.refuse(ROW, Reply(" "), None).again
    assert not check.refuse(ROW, Reply("", error="HTTP 500"), None).again
