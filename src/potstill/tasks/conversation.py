"""conversation: the next reply of an assistant, one turn or many."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from ..contracts import Task
from ..text.overlap import listed_values
from ..text.texts import normalised, states, without_thinking
from ..types import Example


class Conversation(Task):
    """The next reply in a chat: right when it states every one of meta.required_values, whole words and whole numbers.

    A row without required values is right when the reply equals the gold apart from case and white space, a strict rule;
    `without_values: skip` leaves such rows out of the accuracy instead.
    """

    metrics: ClassVar[tuple[str, ...]] = ("required_values", "bleu", "chrf", "rouge_l", "repetition")
    max_answer_tokens: int = Field(default=160, ge=1, description="longest answer asked for, in tokens")
    without_values: Literal["exact", "skip"] = Field(
        default="exact", description="rows without required values: exact match, or not scored"
    )
    turns: Literal["keep_gold", "regenerate", "continue"] = Field(
        default="keep_gold",
        description="keep_gold: the assistant's turns and gold of a row stay, the teacher answers what is missing; regenerate: "
        "it answers every turn anew, its own earlier answers before it; continue: earlier turns stay, the last is the teacher's",
    )

    def read(self, text: str) -> str | None:
        """The reply, white space collapsed.

        >>> Conversation().read("  Your code is\\n 1234. ")
        'Your code is 1234.'
        """
        return " ".join(without_thinking(text).split()) or None

    def right(self, text: str, example: Example) -> float | None:
        reply = self.read(text) or ""
        values = listed_values(example.meta.get("required_values"))
        if values:
            return float(all(states(reply, value) for value in values))
        if example.gold is None or self.without_values == "skip":
            return None
        return float(normalised(reply) == normalised(example.gold))
