"""The words that every floor shares: messages, examples, requests, replies and scores."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, NamedTuple

Role = Literal["system", "user", "assistant"]
SPLITS = ("train", "validation", "test")
INSTRUCTION_OF_AIM = {"rationale": "Do not answer yet: write only the reasoning, step by step, that leads to the answer."}
"""What a student is told beside the row's own prompt, where a lesson teaches something other than the answer."""
REASONED_ANSWER = "reasoned_answer"
"""The aim of a lesson whose text is reasoning and then the answer, as only teachers are asked for it, not the student."""
STAGES = ("prepare", "adapt", "invent", "generate", "validate", "capture", "train", "evaluate", "export", "report")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: Role
    content: str

    def as_dict(self) -> dict[str, str]:
        return {"role": self.role, "content": self.content}


class Raw(NamedTuple):
    """One line or row of a user's file: its number (from 1), and the row or why there is none. `text` is its beginning."""

    line: int
    row: dict[str, Any] | None
    problem: str | None
    text: str


@dataclass(frozen=True, slots=True)
class Example:
    """One row of the user's data: a prompt, and the gold answer where there is one.

    `messages` is the prompt alone and ends with a user turn; `source` is "file:line".
    """

    id: str
    messages: tuple[Message, ...]
    gold: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "messages": [message.as_dict() for message in self.messages],
            "gold": self.gold,
            "meta": dict(self.meta),
            "source": self.source,
        }

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Example:
        messages = tuple(Message(m["role"], m["content"]) for m in row["messages"])
        return cls(row["id"], messages, row.get("gold"), row.get("meta") or {}, row.get("source", ""))


@dataclass(frozen=True, slots=True)
class Lesson:
    """One training example: a prompt and the text that the student learns, with where that text came from.

    `aim` says what of an answer is taught ("answer", "rationale" or "reasoned_answer"), `weight` how much it counts;
    `label_probabilities` is what the teachers together give to each label of a closed set, where they say or show it; `told`
    names the log-probabilities that came with just this text, by their fingerprint, and is empty where none did.
    """

    example: Example
    target: str
    target_source: Literal["gold", "teacher"]
    aim: str = "answer"
    weight: float = 1.0
    label_probabilities: Mapping[str, float] | None = None
    told: str = ""

    def as_dict(self) -> dict[str, Any]:
        row = {**self.example.as_dict(), "target": self.target, "target_source": self.target_source}
        if (self.aim, self.weight) != ("answer", 1.0):
            row |= {"aim": self.aim, "weight": self.weight}
        if self.told:
            row["told"] = self.told
        return row if self.label_probabilities is None else {**row, "label_probabilities": dict(self.label_probabilities)}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Lesson:
        example = Example.from_dict(row)
        how = row.get("aim", "answer"), row.get("weight", 1.0), row.get("label_probabilities"), row.get("told", "")
        return cls(example, row["target"], row["target_source"], *how)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a teacher is asked. Temperature 0 is greedy; `top_logprobs` is how many alternatives a token comes with."""

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    stop: tuple[str, ...] = ()
    top_logprobs: int = 0


ALWAYS_KEYED = ("max_tokens", "temperature", "top_p")
"""These stand in every journal key; a field that came later stands there only where it is set, so that old answers count."""


USUAL_SAMPLING = asdict(Sampling())


@dataclass(frozen=True, slots=True)
class Request:
    """One question to a teacher; its journal key covers every field here and the teacher's identity.

    `schema` is the JSON schema, as text, that the answer must follow; `labels` the closed set that it is chosen from, for
    teachers that give label probabilities.
    """

    example_id: str
    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    sample_index: int = 0
    schema: str | None = None
    labels: tuple[str, ...] = ()

    def content(self) -> dict[str, Any]:
        """Everything that decides the answer; the example's id does not."""
        sampling = {name: getattr(self.sampling, name) for name in USUAL_SAMPLING}  # asdict takes ten times as long
        content = {
            "messages": [message.as_dict() for message in self.messages],
            "sampling": {n: value for n, value in sampling.items() if n in ALWAYS_KEYED or value != USUAL_SAMPLING[n]},
            "sample_index": self.sample_index,
        }
        more = {"schema": self.schema, "labels": list(self.labels)}
        return {**content, **{name: value for name, value in more.items() if value}}


WITHOUT_NONE = ("logprobs", "label_probabilities")
STOPPED = "stopped"
"""The finish reason of a request that the end of the asking left without an answer: its row is as if it was never asked."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back for one request. `error` is set, and `text` is empty, when no usable answer came.

    Tokens are those that are known; `cost_usd` is 0 for a request that was refused before any work, and None as soon as a part
    of it is unknown.

    `logprobs` holds one [bytes in hex, log-probability, [[bytes in hex, log-probability], ...]] for each token of `text`,
    the likeliest alternatives first; `label_probabilities` what a teacher gives to each label of a closed set.
    """

    text: str
    finish_reason: str = "stop"
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost_usd: float | None = None
    latency_s: float | None = None
    attempts: int = 1
    error: str | None = None
    logprobs: list[Any] | None = None
    label_probabilities: Mapping[str, float] | None = None

    def as_dict(self) -> dict[str, Any]:
        row = {name: getattr(self, name) for name in self.__slots__}
        return {
            name: value for name, value in row.items() if value is not None or name not in ("logprobs", "label_probabilities")
        }


def summed(before: Reply, last: Reply) -> Reply:
    """The last reply with what both took: known tokens are added, and an unknown cost stays unknown.

    >>> both = summed(Reply("", "error", 3, 4, 0.5, error="blank"), Reply("yes", "stop", 3, 1, None))
    >>> both.text, both.attempts, both.prompt_tokens, both.completion_tokens, both.cost_usd
    ('yes', 2, 6, 5, None)
    """
    costs = (before.cost_usd, last.cost_usd)
    return replace(
        last,
        attempts=before.attempts + last.attempts,
        prompt_tokens=_sum(before.prompt_tokens, last.prompt_tokens),
        completion_tokens=_sum(before.completion_tokens, last.completion_tokens),
        cost_usd=None if None in costs else sum(cost for cost in costs if cost is not None),
    )


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None and other is None else (one or 0) + (other or 0)


class Signal(enum.IntEnum):
    """What a teacher gives and a loss needs, from least to most: Text < TopK < Full < Hidden."""

    TEXT = 0
    TOPK = 1
    FULL = 2
    HIDDEN = 3


@dataclass(frozen=True, slots=True)
class Score:
    """A number with its 95% interval and sample size; what is None could not be known, and `why` says why."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    why: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars for a million tokens; None is unknown, which is never zero."""

    input_per_million: float | None
    output_per_million: float | None

    def cost(self, prompt_tokens: int | None, completion_tokens: int | None) -> float | None:
        known = (self.input_per_million, self.output_per_million, prompt_tokens, completion_tokens)
        if any(part is None for part in known):
            return None
        return (self.input_per_million * prompt_tokens + self.output_per_million * completion_tokens) / 1e6  # type: ignore[operator]
