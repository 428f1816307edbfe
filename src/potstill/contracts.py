"""THE page: what a plug-in of each family must offer. One file in a family's folder is one plug-in.

A plug-in is a frozen pydantic model. Its file's name is its `kind`, its fields are its YAML keys, the first line of
its docstring is its help text, and its method does the work:

    # losses/forward_kl.py          ->  losses: [{kind: forward_kl, weight: 0.75}]
    class ForwardKl(Loss):
        \"\"\"KL(teacher || student): the student covers everything the teacher considers likely.\"\"\"
        needs: ClassVar[Signal] = Signal.TOPK

        def formula(self, student_logp_NC, teacher_logp_NC): ...

Losses and exporters have pages of their own, `loss_contracts.py` and `export_contracts.py`; all are imported from here.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from .export_contracts import Artefact as Artefact
from .export_contracts import Exporter as Exporter
from .export_contracts import Runtime as Runtime
from .loss_contracts import Build as Build
from .loss_contracts import Inside as Inside
from .loss_contracts import LayerLoss as LayerLoss
from .loss_contracts import Loss as Loss
from .plugins import Plugin as Plugin
from .types import INSTRUCTION_OF_AIM, Example, Message, Reply, Request, Sampling, Signal
from .types import Price as Price

FAMILIES = ("tasks", "teachers", "combiners", "checks", "losses", "metrics", "exporters", "compute")


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

    def prompt(self, example: Example, aim: str = "answer") -> tuple[Message, ...]:
        """The messages that the student gets, in training and in evaluation; `aim` as in `taught`."""
        return extended(extended(example.messages, self.system_prompt), INSTRUCTION_OF_AIM.get(aim))

    def teacher_prompt(self, example: Example) -> tuple[Message, ...]:
        """The messages that a teacher gets: the student's, unless the task asks teachers for more (a chain of thought)."""
        return self.prompt(example)

    @property
    def max_teacher_tokens(self) -> int:
        """The longest answer asked of a teacher, in tokens."""
        return self.max_answer_tokens

    @property
    def max_student_tokens(self) -> int:
        """The longest answer asked of a student, in tokens: more where it learns to reason before it answers."""
        return self.max_answer_tokens

    def taught(self, example: Example, text: str) -> Sequence[Taught]:
        """What the student learns from a teacher's text or the gold: one lesson, or several that are weighted."""
        del example
        return (Taught(text),)

    def unusable(self, text: str) -> str | None:
        """Why a teacher's text may not teach though an answer is read in it (too long a summary); another sample may."""
        del text
        return None

    def labels_asked(self) -> tuple[str, ...]:
        """The closed set that an answer is chosen from, for teachers that give label probabilities; () where it is open."""
        return ()

    def answer_schema(self) -> str | None:
        """The JSON schema, as text, that teachers with structured output are held to; None for free text."""
        return None

    @abstractmethod
    def read(self, text: str) -> str | None:
        """The answer in a model's text, normalised; None when there is none to be read."""

    @abstractmethod
    def right(self, text: str, example: Example) -> float | None:
        """1.0 or 0.0, whether `text` answers the row as its gold does; None when the row has no gold to compare with."""


@dataclass(frozen=True, slots=True)
class Taught:
    """One text to be learned, what of the answer it is, and how much it counts."""

    text: str
    aim: str = "answer"
    weight: float = 1.0


def extended(messages: tuple[Message, ...], instruction: str | None) -> tuple[Message, ...]:
    """The messages with an instruction behind the row's own system message, or as one where it has none.

    >>> extended((Message("system", "You are Ada."), Message("user", "Hi")), "Be short.")[0].content
    'You are Ada.\\n\\nBe short.'
    """
    if not instruction:
        return messages
    if messages[0].role == "system":
        return (Message("system", f"{messages[0].content}\n\n{instruction}"), *messages[1:])
    return (Message("system", instruction), *messages)


class AdaptSettings(BaseModel):
    """Training a local teacher on gold rows before it teaches, with the student's own training code."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: tuple[str, ...] = Field(default=(), description="files with gold rows; default: the job's train rows that have gold")
    epochs: float = Field(default=3.0, gt=0)
    learning_rate: float | None = Field(default=None, gt=0)
    batch_size: int = Field(default=16, ge=1)


class Requests:
    """What a teacher is to answer, handed out as it may be asked: an answer may lead to more, and a budget to fewer.

    A teacher that asks one by one writes `async for request in requests`; one that asks many at a time calls `take`. Every
    request that is taken is answered, with a Reply that has an `error` at worst: others may wait for it.
    """

    def __init__(self, requests: Iterable[Request]) -> None:
        self._waiting = iter(requests)

    def take(self) -> Request | None:
        """The next request that may be asked now; None when there is none at this moment."""
        return next(self._waiting, None)

    def __aiter__(self) -> Requests:
        return self

    async def __anext__(self) -> Request:
        """The next request, as soon as there is one; ends when none will come."""
        request = self.take()
        if request is None:
            raise StopAsyncIteration
        return request

    def again(self, request: Request) -> bool:
        """Whether the budget allows to send a request once more; each call counts as one more attempt under way."""
        del request
        return True

    def ended(self, request: Request, attempt: Reply) -> None:
        """One attempt has ended, and `attempt` says what it took by itself, so that nothing more is held for it.

        A teacher that repeats tells this of every attempt, before it asks for another; one that does not need not.
        """
        del request, attempt

    def give_back(self, request: Request) -> None:
        """A request that was taken was not sent, or will be found again where it was: it costs nothing now."""
        del request

    def when_stopped(self, do: Callable[[], None]) -> None:
        """Has `do` called when nothing more is to be sent: what is under way may arrive, what waits is given back."""
        del do


class Teacher(Plugin):
    """A model that answers. It retries by itself; one bad reply is a Reply with `error`, never an exception."""

    gives: ClassVar[Signal] = Signal.TEXT
    gives_label_probabilities: ClassVar[bool] = False
    """Whether its replies hold `label_probabilities` where a request names labels."""
    name: str | None = Field(default=None, description="what reports call it; default: its model's name, or its kind")
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False, description="how much it counts beside other teachers")
    temperature: float = Field(default=0.0, ge=0, description="sampling temperature; 0 is greedy")
    top_p: float = Field(default=1.0, gt=0, le=1)
    adapt: AdaptSettings | None = Field(default=None, description="train the teacher on gold rows first; local teachers only")

    @property
    def label(self) -> str:
        """What reports call it."""
        model = str(getattr(self, "model", None) or self.kind)
        return self.name or (Path(model).name if model.startswith((".", "/", "~")) else model)

    def sampling(self, max_tokens: int) -> Sampling:
        """How it is asked; teachers with more settings than these add theirs."""
        return Sampling(max_tokens, self.temperature, self.top_p)

    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """All that decides an answer beside the request (endpoint, model, revision): part of the journal's key."""

    @abstractmethod
    def answers(self, requests: Requests) -> AsyncIterator[tuple[Request, Reply]]:
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
class Room:
    """What checks and combiners may look at beyond one answer.

    `data` is the run's data folder (train.jsonl, validation.jsonl, test.jsonl). `ask` has requests answered by a teacher
    through the journal and within the budget, in their order; it raises JobError where nothing may be asked (prepare).
    """

    task: Task
    data: Path
    teachers: tuple[Teacher, ...]
    ask: Callable[[Teacher, Sequence[Request]], list[Reply]]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One teacher's answer to one row: which teacher of the job, which sample, the reply, and what the task reads in it;
    `said` are the teacher's own earlier answers, where it was asked turn by turn."""

    teacher: int
    sample: int
    reply: Reply
    answer: str | None
    said: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Case:
    """A row with all answers to it. A candidate whose reply has an `error` is no answer."""

    example: Example
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """The candidates that may teach, and the share of the answers that agree with them; or why none may. `weights` is how
    much each chosen one counts as an example; none are given where each counts 1."""

    chosen: tuple[Candidate, ...] = ()
    agreement: float | None = None
    finding: Finding | None = None
    weights: tuple[float, ...] = ()


class Combiner(Plugin):
    """Makes one answer of several: of several teachers, or of several samples of one."""

    answers_vote: ClassVar[bool] = True
    """Whether the share of the answers that give a label tells how likely it is; not where one is picked against the others."""

    def asks(self, example: Example, teachers: Sequence[Teacher], task: Task) -> Sequence[int]:
        """Which teachers, by number, are asked about a row; default: all."""
        del example, task
        return range(len(teachers))

    def problems(self, teachers: Sequence[Teacher], task: Task) -> list[str]:
        """What `potstill check` finds wrong before anything is asked: a rule that names no teacher of the job."""
        return []

    def consults(self, num_rows: int, num_answers: int) -> Sequence[tuple[Teacher, int]]:
        """The models beside the teachers that it will ask, each with how many requests at most, where the gold does not decide,
        for so many rows with so many answers each: part of the bill before a run, as `Check.asks` is."""
        del num_rows, num_answers
        return ()

    @abstractmethod
    def choose(self, cases: Sequence[Case], room: Room) -> list[Choice]:
        """One choice for each case, in their order."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Why a check refuses an answer. `again`: another sample of the same teacher may be better."""

    reason: str
    again: bool = False


@dataclass(frozen=True, slots=True)
class Answered:
    """What a check looks at: a row and the answer that may teach it; no `reply` where prompts alone are looked at.

    `agreement` is the share of the answers to this row that agree with this one, where there were several.
    """

    example: Example
    reply: Reply | None
    source: str = "teacher"
    agreement: float | None = None


class Watch:
    """One run of a check over all answers, in order, some at a time; it may remember what it saw.

    This one asks the check's `refuse` for each. A check that compares answers with one another makes its own.
    """

    def __init__(self, check: Check, room: Room) -> None:
        self.check = check
        self.room = room

    def look(self, answers: Sequence[Answered]) -> list[Finding | Answered | None]:
        """For each: None when it may stay as it is, a changed Answered (redacted), or a Finding when it may not stay."""
        task, check = self.room.task, self.check
        return [check.refuse(one.example, one.reply, task) if one.reply else None for one in answers]

    def report(self) -> dict[str, Any]:
        """What the data card says of this check beside its counts; `alarm` is a sentence for the reader."""
        return {}


class Check(Plugin):
    """Looks at answers before they may teach. Most look at one at a time and need `refuse` alone."""

    def refuse(self, example: Example, reply: Reply, task: Task) -> Finding | None:
        """None when the answer may stay. Also asked as soon as a reply arrives, so that a bad one is sampled anew."""
        del example, reply, task
        return None

    def problems(self, teachers: Sequence[Teacher], task: Task) -> list[str]:
        """What `potstill check` finds wrong before anything is asked: a judge that cannot be reached, or is the teacher."""
        del teachers, task
        return []

    def asks(self, num_answers: int) -> Sequence[tuple[Teacher, int]]:
        """The models that it will ask, each with how many requests, for so many answers: part of the bill before a run."""
        del num_answers
        return ()

    def watch(self, room: Room) -> Watch:
        """A fresh look at all answers of one split."""
        return Watch(self, room)


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


class Compute(Plugin):
    """Where a job runs."""

    @abstractmethod
    def start(self, job_file: Path, run_folder: Path) -> int:
        """Starts the job in a process of its own and returns its id."""
