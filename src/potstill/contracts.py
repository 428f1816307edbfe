"""THE page: what a plug-in of each family must offer. One file in a family's folder is one plug-in.

A plug-in is a frozen pydantic model. Its file's name is its `kind`, its fields are its YAML keys, the first line of
its docstring is its help text, and its method does the work:

    # losses/forward_kl.py          ->  losses: [{kind: forward_kl, weight: 0.75}]
    class ForwardKl(Loss):
        \"\"\"KL(teacher || student): the student covers everything the teacher considers likely.\"\"\"
        needs: ClassVar[Signal] = Signal.TOPK

        def formula(self, student_logp_NC, teacher_logp_NC): ...

Names of tensors carry their shape: N target tokens, C cells (k singletons and one tail), H hidden size, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from .types import Example, Message, Reply, Request, Signal

if TYPE_CHECKING:
    import torch

FAMILIES = ("tasks", "teachers", "checks", "losses", "metrics", "exporters", "compute")


class Plugin(BaseModel, ABC):
    """What every plug-in is: frozen, with no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    kind: str = Field(default="", description="the plug-in's file name")


class Task(Plugin):
    """What is to be learned: how a row becomes a prompt, how an answer is read back, when it is right.

    >>> from potstill.plugins import load_plugin
    >>> load_plugin("tasks", {"kind": "nli"}).read("Entailment.")
    'entailment'
    """

    metrics: ClassVar[tuple[str, ...]] = ()
    """The metrics that are reported beside accuracy."""
    max_answer_tokens: int = Field(default=128, ge=1, description="longest answer asked for, in tokens")
    system_prompt: str | None = Field(default=None, description="added to the row's own system message, never instead of it")

    def prompt(self, example: Example) -> tuple[Message, ...]:
        """The messages sent to teacher and student alike, in training and in evaluation."""
        if self.system_prompt is None:
            return example.messages
        if example.messages[0].role == "system":
            own = f"{example.messages[0].content}\n\n{self.system_prompt}"
            return (Message("system", own), *example.messages[1:])
        return (Message("system", self.system_prompt), *example.messages)

    @abstractmethod
    def read(self, text: str) -> str | None:
        """The answer in a model's text, normalised; None when there is none to be read."""

    @abstractmethod
    def right(self, text: str, example: Example) -> float | None:
        """1.0 or 0.0, whether `text` answers the row as its gold does; None when the row has no gold to compare with."""


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


class AdaptSettings(BaseModel):
    """Training a local teacher on gold rows before it teaches, with the student's own training code."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: tuple[str, ...] = Field(default=(), description="files with gold rows; default: the job's train rows that have gold")
    epochs: float = Field(default=3.0, gt=0)
    learning_rate: float | None = Field(default=None, gt=0)
    batch_size: int = Field(default=16, ge=1)


class Teacher(Plugin):
    """A model that answers. It retries by itself; one bad reply is a Reply with `error`, never an exception."""

    gives: ClassVar[Signal] = Signal.TEXT
    temperature: float = Field(default=0.0, ge=0, description="sampling temperature; 0 is greedy")
    top_p: float = Field(default=1.0, gt=0, le=1)
    adapt: AdaptSettings | None = Field(default=None, description="train the teacher on gold rows first; local teachers only")

    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """All that decides an answer beside the request (endpoint, model, revision): part of the journal's key."""

    @abstractmethod
    def answers(self, requests: Iterable[Request]) -> AsyncIterator[tuple[Request, Reply]]:
        """Each request with its reply, as they arrive, in any order. Raises TeacherError when none can be asked."""

    def problems(self) -> list[str]:
        """What `potstill check` finds wrong without spending: a missing key, an endpoint that does not answer."""
        return []

    def local_model(self) -> str | None:
        """The folder of the model's weights where they are on this machine; signals need it."""
        return None

    def loading(self) -> dict[str, Any]:
        """How the weights of `local_model` are loaded: revision and trust_remote_code, where they have any."""
        return {}

    def price(self) -> Price:
        return Price(None, None)


@dataclass(frozen=True, slots=True)
class Finding:
    """Why a check refuses an answer."""

    reason: str


class Check(Plugin):
    """Looks at one answer before it may teach."""

    @abstractmethod
    def refuse(self, example: Example, reply: Reply, task: Task) -> Finding | None:
        """None when the answer may stay."""


class Loss(Plugin):
    """A formula over the log-probabilities that student and teacher give to the same cells.

    Masking, temperature, the factor T^2 and the division by the global number of target tokens happen once, outside.
    """

    needs: ClassVar[Signal] = Signal.TEXT
    weight: float = Field(default=1.0, ge=0.0, description="share of this loss in the weighted sum")

    @abstractmethod
    def formula(self, student_logp_NC: torch.Tensor, teacher_logp_NC: torch.Tensor) -> torch.Tensor:
        """One value a token [N], differentiable in the student's log-probabilities.

        A loss that needs text alone gets two cells: the target token (teacher probability 1) and everything else.
        """


@dataclass(frozen=True, slots=True)
class Scored:
    """One test row as a metric sees it: the row, the text of the system under test, and the row's accuracy."""

    example: Example
    text: str
    right: float | None


class Metric(Plugin):
    """A number about a system's answers. A mean over rows gives `per_row` alone; any other metric gives `value` alone."""

    def per_row(self, row: Scored, task: Task) -> float | None:
        """One row's value where the metric is the mean of such values; None where it is not, or the row has none."""
        del row, task  # the default knows no row
        return None

    def value(self, rows: Sequence[Scored], task: Task) -> float | None:
        """The metric over these rows, any subset of them; None where it does not apply (BLEU of one-word labels)."""
        known = [value for row in rows if (value := self.per_row(row, task)) is not None]
        return sum(known) / len(known) if known else None


class Exporter(Plugin):
    """Turns the trained student into files that run somewhere."""

    @abstractmethod
    def problem(self, architecture: str) -> str | None:
        """Why this architecture cannot be exported, said before training; None when it can."""

    @abstractmethod
    def export(self, model_folder: Path, target_folder: Path) -> None:
        """Writes the artefact into `target_folder`."""


class Compute(Plugin):
    """Where a job runs."""

    @abstractmethod
    def start(self, job_file: Path, run_folder: Path) -> int:
        """Starts the job in a process of its own and returns its id."""
