"""summarization: a short text for a long one."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from ..contracts import Task
from ..overlap import listed_values, references, rouge_l
from ..texts import states, without_thinking
from ..types import Example


class Summarization(Task):
    """A summary: right when it states all meta.key_facts, or else when its ROUGE-L with the best reference reaches 0.5.

    References are meta.references and the gold. The bar is a convention, not a law: read the metric rouge_l beside it.
    """

    metrics: ClassVar[tuple[str, ...]] = ("rouge_l", "bleu")
    max_answer_tokens: int = Field(default=160, ge=1, description="longest answer asked for, in tokens")
    min_rouge_l: float = Field(default=0.5, gt=0, le=1, description="ROUGE-L F1 from which a summary without key facts is right")

    def read(self, text: str) -> str | None:
        """The summary, white space collapsed.

        >>> Summarization().read("<think>Long.</think> Ana is ill.")
        'Ana is ill.'
        """
        return " ".join(without_thinking(text).split()) or None

    def right(self, text: str, example: Example) -> float | None:
        summary = self.read(text) or ""
        facts = listed_values(example.meta.get("key_facts"))
        if facts:
            return float(all(states(summary, fact) for fact in facts))
        known = references(example)
        return float(rouge_l(summary, known) >= self.min_rouge_l) if known else None
