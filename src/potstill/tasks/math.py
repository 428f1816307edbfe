"""math: word problems with one number as the answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pydantic import Field, field_validator

from ..contracts import Task, Taught
from ..text.equivalence import stated
from ..text.quantities import Quantity, decimal, quantities
from ..text.rationale import NUMBER_MARK, Thought, asked, lessons, spelled_out, student_room, teacher_room, why_unusable
from ..text.reading import json_answer, unwrapped
from ..text.texts import without_thinking
from ..types import Example, Message

_HASHES = re.compile(r"####\s*(.+)")
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_ALGEBRA = re.compile(r"\\(?:sqrt|pi|sin|cos|tan|log|ln|infty|theta)\b|\^|[√π∞]|(?<![A-Za-z])\d*[xyz](?![A-Za-z])")
"""What makes a gold answer an expression: no number in it stands for the whole."""
_STATED = re.compile(r"\banswer[*_]*\s*(?:is|:|=)+\s*(.+)", re.IGNORECASE)


class Math(Task):
    """Word problems: right when the number equals meta.answer, or the number of the gold, exactly.

    Where the gold is an expression (a root, a variable), an answer is right when it is written the same; the check against_gold
    compares by algebra.

    A solution is its own chain of thought, so teachers reason anyway; `chain_of_thought` makes sure of it, gives it room, and
    lets the student learn the number alone ("#### 7") or the reasoning apart.
    """

    max_answer_tokens: int = Field(default=320, ge=1, description="longest answer asked for, in tokens")
    chain_of_thought: Thought = None

    @field_validator("chain_of_thought", mode="before")
    @classmethod
    def _reasons_aloud(cls, value: Any) -> Any:
        """A number without its reasoning teaches next to nothing, so the reasoning is taught with it unless the job says else."""
        return spelled_out(value, student_learns="rationale_then_answer")

    def read(self, text: str) -> str | None:
        """The final number: after '####', in \\boxed{}, after "the answer is", or the last one of the last line.

        >>> Math().read("2 + 2 = 4\\n#### 1,234.0"), Math().read("\\\\boxed{\\\\frac{1}{2}}."), Math().read("Who knows")
        ('1234', '0.5', None)
        """
        found = _final(text)
        return None if found is None else decimal(found.value)

    def right(self, text: str, example: Example) -> float | None:
        answer = example.meta.get("answer")
        if isinstance(answer, bool) or not isinstance(answer, str | int | float):
            answer = example.gold
        if answer is not None and _ALGEBRA.search(stated(str(answer))):
            return float(_spelt(stated(without_thinking(text))) == _spelt(stated(str(answer))))
        wanted = None if answer is None else _final(str(answer))
        if wanted is None:
            return None
        found = _final(text)
        return float(found is not None and found.equals(wanted))

    def teacher_prompt(self, example: Example) -> tuple[Message, ...]:
        return asked(self.prompt(example), self.chain_of_thought, NUMBER_MARK)

    @property
    def max_teacher_tokens(self) -> int:
        return self.max_answer_tokens + teacher_room(self.chain_of_thought)

    @property
    def max_student_tokens(self) -> int:
        return self.max_answer_tokens + student_room(self.chain_of_thought)

    def taught(self, example: Example, text: str) -> Sequence[Taught]:
        del example
        return lessons(self.chain_of_thought, text, self.read(text), NUMBER_MARK)

    def unusable(self, text: str) -> str | None:
        return why_unusable(self.chain_of_thought, text, NUMBER_MARK)


def _spelt(expression: str) -> str:
    """An expression without what only dresses it: spaces, dollar signs, \\left and \\right, the full stop."""
    return re.sub(r"\\(?:left|right)|\\[,!;]|[\s$]|\.$", "", expression.strip())


def _final(text: str) -> Quantity | None:
    plain = without_thinking(text)
    held = json_answer(plain)
    if held is not None:
        plain = held
    for pattern in (_HASHES, _BOXED, _STATED):
        marked = pattern.findall(plain)
        if marked and (found := _first(marked[-1])) is not None:
            return found
    lines = [line for line in unwrapped(plain).splitlines() if line.strip()]
    found_last = quantities(lines[-1]) if lines else []
    return found_last[-1] if found_last else None


def _first(text: str) -> Quantity | None:
    """The first number, but of "5 + 7 = 12 apples" the one behind the last equals sign."""
    for part in reversed(text.split("=")):
        if found := quantities(part):
            return found[0]
    return None
