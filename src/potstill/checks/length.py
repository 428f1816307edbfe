"""Refuses answers that are too short or too long."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from pydantic import Field, model_validator
from typing_extensions import override

from ..contracts import Check, Finding, Task
from ..text.texts import without_thinking, words
from ..types import Example, Reply


class Length(Check):
    """Refuses an answer with fewer or more characters or words than the job allows, also against the length of its prompt.

    Reasoning in a <think> block does not count. In scripts without spaces each letter is a word.
    """

    min_characters: int | None = Field(default=None, ge=1, description="fewest characters")
    max_characters: int | None = Field(default=None, ge=1, description="most characters")
    min_words: int | None = Field(default=None, ge=1, description="fewest words")
    max_words: int | None = Field(default=None, ge=1, description="most words")
    min_ratio: float | None = Field(default=None, gt=0, description="fewest words for each word of what the user says last")
    max_ratio: float | None = Field(default=None, gt=0, description="most words for each word of what the user says last")

    @model_validator(mode="after")
    def _limits_make_sense(self) -> Self:
        names = ("characters", "words", "ratio")
        limits = {name: (getattr(self, f"min_{name}"), getattr(self, f"max_{name}")) for name in names}
        if all(limit is None for pair in limits.values() for limit in pair):
            raise ValueError("no limit is given; give at least one of min_ and max_ characters, words or ratio")
        for name, (low, high) in limits.items():
            if low is not None and high is not None and low > high:
                raise ValueError(f"min_{name} {low} is more than max_{name} {high}; nothing would pass")
        return self

    @override
    def refuse(self, example: Example, reply: Reply, task: Task) -> Finding | None:
        reason = next(self._faults(without_thinking(reply.text), example.messages[-1].content), None)
        return None if reason is None else Finding(reason, again=True)

    def _faults(self, text: str, prompt: str) -> Iterator[str]:
        yield from _outside("characters", len(text), self.min_characters, self.max_characters)
        count = len(words(text))
        yield from _outside("words", count, self.min_words, self.max_words)
        ratio = count / max(len(words(prompt)), 1)
        yield from _outside("words for each of the prompt's", ratio, self.min_ratio, self.max_ratio)


def _outside(what: str, value: float, low: float | None, high: float | None) -> Iterator[str]:
    if low is not None and value < low:
        yield f"fewer than {low:g} {what}"
    if high is not None and value > high:
        yield f"more than {high:g} {what}"
