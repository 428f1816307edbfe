from __future__ import annotations

import pytest

from potstill.plugins import load_plugin
from potstill.types import Example, Message, Reply

ROW = Example("row", (Message("user", "Hi"),))


@pytest.mark.parametrize(("reason", "refused"), [("stop", False), ("eos", False), ("length", True), ("content_filter", True)])
def test_an_answer_that_was_cut_is_refused(reason: str, refused: bool) -> None:
    check = load_plugin("checks", "finish_reason")
    assert (check.refuse(ROW, Reply("text", reason), None) is not None) == refused
