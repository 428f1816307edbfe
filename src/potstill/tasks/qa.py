"""qa: a short answer to a question about a text."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from ..contracts import Task
from ..overlap import accepted_answers
from ..reading import unwrapped
from ..texts import squad_form
from ..types import Example


class Qa(Task):
    """Question answering: right when the answer equals one of meta.answers, or the gold, in the form SQuAD compares."""

    metrics: ClassVar[tuple[str, ...]] = ("token_f1",)
    max_answer_tokens: int = Field(default=48, ge=1, description="longest answer asked for, in tokens")

    def read(self, text: str) -> str | None:
        """The answer in SQuAD's form: lower case, no punctuation, no articles.

        >>> Qa().read("The answer is: the Eiffel Tower.")
        'eiffel tower'
        """
        return squad_form(unwrapped(text)) or None

    def right(self, text: str, example: Example) -> float | None:
        answers = accepted_answers(example)
        if not answers:
            return None
        return float(self.read(text) in {squad_form(answer) for answer in answers})
