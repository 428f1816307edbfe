"""Chain of thought: a teacher reasons before it answers; the student learns the answer, both in one text, or each apart.

The instruction stands behind the user's own system prompt, so labels and rules of the user stay. What is taught:

    answer                  the bare answer alone
    rationale_then_answer   "It rains, so he is wet.\\nAnswer: entailment": the student reasons too, and needs the room
    multitask               the answer to the row's own prompt, and the rationale to a prompt that asks for it (Hsieh et
                            al. 2023, Distilling step-by-step, arXiv 2305.02301): reasoning helps to learn, costs no answer time
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ..contracts import Taught, extended
from ..types import REASONED_ANSWER, Message
from .reading import reasoned

MARK = "Answer:"
NUMBER_MARK = "####"
"""As GSM8K ends its solutions."""
_ASKED = (
    "Before you answer, reason step by step in plain words. Then write one last line that begins with '{mark}' and holds nothing "
    "but the final answer, in the form that is asked for; a request to answer briefly is about that last line."
)


class ChainOfThought(BaseModel):
    """How a teacher is made to reason, and what of it the student learns."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    student_learns: Literal["answer", "rationale_then_answer", "multitask"] = Field(
        default="answer", description="the bare answer, reasoning and then the answer, or both as two weighted lessons"
    )
    max_rationale_tokens: int = Field(default=400, ge=1, description="room for the reasoning, beside the answer's, in tokens")
    rationale_weight: float = Field(
        default=1.0, gt=0, description="multitask: what a rationale counts beside its answer; 1 is the same, however long it is"
    )

    @property
    def reasons_aloud(self) -> bool:
        """Whether the student itself writes its reasoning before the answer."""
        return self.student_learns == "rationale_then_answer"


def spelled_out(value: Any, **usual: Any) -> Any:
    """`true` and `false` where a mapping is meant; `usual` are a task's own defaults."""
    if isinstance(value, bool):
        return usual if value else None
    return {**usual, **value} if isinstance(value, Mapping) else value


Thought = Annotated[
    ChainOfThought | None,
    BeforeValidator(spelled_out, json_schema_input_type=bool | ChainOfThought | None),
    Field(description="have teachers reason before they answer: true, or student_learns and other settings"),
]
"""The type of a task's field `chain_of_thought`."""


def asked(messages: tuple[Message, ...], thought: ChainOfThought | None, mark: str = MARK) -> tuple[Message, ...]:
    """The prompt of a teacher: the student's, and the request to reason."""
    return messages if thought is None else extended(messages, _ASKED.format(mark=mark))


def teacher_room(thought: ChainOfThought | None) -> int:
    """How many tokens more than an answer's a teacher may take."""
    return 0 if thought is None else thought.max_rationale_tokens


def student_room(thought: ChainOfThought | None) -> int:
    """How many tokens more than an answer's a student may take."""
    return thought.max_rationale_tokens if thought is not None and thought.reasons_aloud else 0


def lessons(thought: ChainOfThought | None, text: str, answer: str | None, mark: str = MARK) -> tuple[Taught, ...]:
    """What is taught of a teacher's text whose final answer is `answer`; without a chain of thought the text as it is.

    A rationale has many more tokens than its answer. Its weight is divided by how much longer it is, so that both count as
    the loss L_label + weight * L_rationale of the paper, where each is a mean over its own tokens.
    """
    if thought is None:
        return (Taught(text),)
    rationale = reasoned(text, hashes=mark == NUMBER_MARK).rationale
    if answer is None or why_unusable(thought, text, mark) is not None:
        return ()
    bare = f"{mark} {answer}" if mark == NUMBER_MARK else answer
    if thought.reasons_aloud:
        return (Taught(f"{rationale}\n{mark} {answer}", REASONED_ANSWER),)
    if thought.student_learns == "answer" or not rationale:
        return (Taught(bare),)
    weight = thought.rationale_weight * len(bare) / len(rationale)
    return Taught(bare), Taught(rationale, "rationale", round(weight, 6))


def why_unusable(thought: ChainOfThought | None, text: str, mark: str = MARK) -> str | None:
    """Why a text may not teach though its answer can be read: the student is to learn reasoning, and it has none."""
    if thought is None or thought.student_learns == "answer":
        return None
    found = reasoned(text, hashes=mark == NUMBER_MARK)
    return None if found.rationale else "no reasoning before the answer"
