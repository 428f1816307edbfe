"""A job: YAML or Python in, one frozen and fully checked Job out.

    potstill check job.yaml --set train.learning_rate=1e-4

Least job: name, task, data, teacher, student. All else has a default that `potstill plan` prints.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic
import yaml
from pydantic import Field, SerializeAsAny, ValidationInfo, field_validator, model_validator

from .answers.budget import Budget
from .catalog import student_settings, teacher_settings
from .contracts import Combiner, Compute, Exporter, Loss, Task, Teacher
from .curriculum import curriculum_problem
from .errors import JobError, did_you_mean
from .heads import LABEL_TEMPERATURE, head_problem, loss_problem, tells_labels
from .learner import adaptation_problem
from .plugins import explain, load_plugin
from .ramps import ramp_problem
from .recipe import Settings, StudentSettings, TrainSettings, job_folder, listed, own_answers_problem
from .runfolder import RunFolder
from .sections import DataSettings, EvaluateSettings, GenerateSettings, ValidateSettings
from .types import Signal

SECRET_NAME = re.compile(
    r"(x[-_])?api[-_]?key|(proxy[-_])?authorization|((access|auth|bearer|refresh)[-_]?)?token|(client[-_]?)?secret|password", re.I
)
SECRET = re.compile(r"\b(Bearer [A-Za-z0-9._~+/-]{8,}|sk-[A-Za-z0-9_-]{8,}|hf_[A-Za-z0-9]{16,}|AKIA[0-9A-Z]{12,})")
NEEDED = {signal: f"{signal.name.lower()} log-probabilities" for signal in Signal} | {Signal.HIDDEN: "hidden states"}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Job(Settings):
    """Everything that decides a run. Build it with keywords, `Job(name=..., task=..., ...)`, or `load_job(path)`."""

    folder: Path = Field(default_factory=Path.cwd, exclude=True, description="where relative paths start")
    name: str
    description: str = ""
    task: SerializeAsAny[Task]
    data: DataSettings
    teacher: SerializeAsAny[Teacher] = Field(description="who answers; a list of several is the first one and more_teachers")
    more_teachers: tuple[SerializeAsAny[Teacher], ...] = ()
    combine: SerializeAsAny[Combiner] | None = Field(
        default=None, description="how one answer is made of several; default where there are several: vote"
    )
    student: StudentSettings
    budget: Budget = Budget()
    generate: GenerateSettings = GenerateSettings()
    validation: ValidateSettings = Field(default_factory=ValidateSettings)
    train: TrainSettings = Field(default_factory=TrainSettings)
    evaluate: EvaluateSettings = EvaluateSettings()
    exports: tuple[SerializeAsAny[Exporter], ...] = Field(default=("safetensors",), validate_default=True)
    compute: SerializeAsAny[Compute] = Field(default="local", validate_default=True)
    runs: str = Field(default="runs", description="the folder that holds the run folders")
    journal: str | None = Field(
        default=None, description="the journal's file; default: journal.sqlite in the runs folder, shared by its jobs"
    )

    def __init__(self, **fields: Any) -> None:
        refuse_secrets(fields)
        if isinstance(fields.get("teacher"), list | tuple) and fields["teacher"]:
            first, *more = fields["teacher"]
            fields = {**fields, "teacher": first, "more_teachers": [*more, *fields.get("more_teachers", ())]}
        try:
            super().__init__(**fields)
        except pydantic.ValidationError as error:
            raise JobError(explain(error, type(self))) from None

    @field_validator("name")
    @classmethod
    def _name_is_a_folder_name(cls, value: str) -> str:
        if not NAME.fullmatch(value):
            raise ValueError(f"name {value!r} must be letters, digits, '.', '_' or '-' (it names the run folder)")
        if value == "signals":
            raise ValueError("name 'signals' is taken by the folder of kept signals beside the runs; choose another")
        return value

    @field_validator("data", mode="before")
    @classmethod
    def _data_may_be_a_path(cls, value: Any) -> Any:
        return {"train": value} if isinstance(value, str | list | tuple) else value

    @field_validator("student", mode="before")
    @classmethod
    def _student_by_name(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, StudentSettings):
            return value
        if not isinstance(value, str | Mapping):
            raise ValueError(f"{value!r} is neither a model's name nor a mapping with 'model'")
        fields = {"model": value} if isinstance(value, str) else {str(key): inner for key, inner in value.items()}
        if isinstance(fields.get("model"), str):
            fields["model"] = student_settings(fields["model"], job_folder(info))
        return fields

    @field_validator("teacher", mode="before")
    @classmethod
    def _teacher_by_name(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, Teacher):
            return value
        return load_plugin("teachers", teacher_settings(value, job_folder(info)), job_folder(info))

    @field_validator("more_teachers", mode="before")
    @classmethod
    def _teachers_by_name(cls, value: Any, info: ValidationInfo) -> Any:
        return tuple(cls._teacher_by_name(one, info) for one in listed(value))

    @field_validator("task", "compute", "combine", mode="before")
    @classmethod
    def _plugin(cls, value: Any, info: ValidationInfo) -> Any:
        family = {"task": "tasks", "compute": "compute", "combine": "combiners"}[str(info.field_name)]
        return load_plugin(family, value, job_folder(info)) if isinstance(value, str | Mapping) else value

    @field_validator("exports", mode="before")
    @classmethod
    def _exporters(cls, value: Any, info: ValidationInfo) -> Any:
        return tuple(v if isinstance(v, Exporter) else load_plugin("exporters", v, job_folder(info)) for v in listed(value))

    @model_validator(mode="after")
    def _answers_are_combined(self) -> Job:
        several = len(self.teachers) > 1 or self.generate.samples > 1
        if several and self.combine is None:
            object.__setattr__(self, "combine", load_plugin("combiners", "vote"))
        labels = [teacher.label for teacher in self.teachers]
        twice = next((label for label in labels if labels.count(label) > 1), None)
        if twice is not None:
            raise ValueError(f"two teachers are called {twice!r}; give them different names: teacher: [{{name: ...}}, ...]")
        if self.generate.samples > 1 and (greedy := [one.label for one in self.teachers if one.temperature == 0]):
            raise ValueError(
                f"generate.samples is {self.generate.samples} and the teacher {greedy[0]!r} is greedy (temperature 0), so all "
                "samples would be the same; set its temperature, such as 0.7"
            )
        return self

    @model_validator(mode="after")
    def _student_has_a_head_for_the_task(self) -> Job:
        object.__setattr__(self, "student", self.student.with_head())
        if (problem := adaptation_problem(self.student)) is not None:
            raise ValueError(problem)
        if self.student.head == "labels":
            if (problem := head_problem(self.student, self.task, self.train)) is not None:
                raise ValueError(problem)
            if "temperature" not in self.train.model_fields_set:
                object.__setattr__(self, "train", self.train.model_copy(update={"temperature": LABEL_TEMPERATURE}))
        return self

    @model_validator(mode="after")
    def _own_answers_can_be_scored(self) -> Job:
        on_policy = self.train.on_policy
        if on_policy is not None:
            if (problem := own_answers_problem(self.train, self.teachers, chooses_labels=bool(self.labels))) is not None:
                raise ValueError(problem)
            longest = on_policy.max_answer_tokens or self.task.max_student_tokens
            decided = {"on_policy": on_policy.model_copy(update={"max_answer_tokens": longest}), "signals": "live"}
            object.__setattr__(self, "train", self.train.model_copy(update=decided))
        return self

    @model_validator(mode="after")
    def _losses_fit_the_teacher(self) -> Job:
        losses = self.train.losses or self._default_losses()
        if self.labels and (problem := loss_problem(losses, self.teachers, self._tells_labels)) is not None:
            raise ValueError(problem)
        for loss in () if self.labels else losses:
            for teacher in self.teachers:
                if loss.needs > teacher.gives and not (loss.needs == Signal.TOPK and self.reads_replies):
                    wayout = ", or set the top_logprobs of every teacher" if hasattr(teacher, "top_logprobs") else ""
                    raise ValueError(
                        f"train.losses: {loss.kind} needs {NEEDED[loss.needs]}, and the teacher "
                        f"{teacher.kind} gives {teacher.gives.name.lower()} only; use cross_entropy, or a local teacher{wayout}"
                    )
            if loss.needs == Signal.HIDDEN and self.more_teachers:
                raise ValueError(
                    f"train.losses: {loss.kind} compares the student's layers with one teacher's, and this job has "
                    f"{len(self.teachers)} teachers; name one, or use losses on log-probabilities, which are mixed"
                )
        for teacher in self.teachers:
            if teacher.adapt is not None and teacher.local_model() is None:
                raise ValueError(f"teacher.adapt trains weights on this machine; the teacher {teacher.kind} has none here")
        if any(teacher.adapt is not None for teacher in self.more_teachers):
            raise ValueError("teacher.adapt works for the first teacher of a job only")
        if not self.train.losses:
            object.__setattr__(self, "train", self.train.model_copy(update={"losses": losses}))
        if self.reads_replies and not self.labels and (problem := self._replies_problem()) is not None:
            raise ValueError(problem)
        if self.train.signals == "sampled" and not self.labels and (problem := self._sampling_problem()) is not None:
            raise ValueError(problem)
        if (problem := curriculum_problem(self.train) or ramp_problem(self.train) or self._mixing_problem()) is not None:
            raise ValueError(problem)
        return self

    def _sampling_problem(self) -> str | None:
        for loss in self.train.on_cells():
            if not loss.takes_samples:
                return (
                    f"train.signals is sampled, and train.losses: {loss.kind} is not linear in the teacher's probabilities, so "
                    "draws would bias it; set train.signals to top_k or auto, or take forward_kl alone"
                )
            if not self._teaches_here:
                return "train.signals is sampled, and draws need a teacher whose weights are on this machine; set it to auto"
        return None

    def _replies_problem(self) -> str | None:
        if not self.train.on_cells():
            return None
        if self.train.signals == "live":
            return "train.signals is live, and the log-probabilities of this job come with replies, once; set it to auto"
        if self.train.temperature != 1.0:
            return (
                f"train.temperature is {self.train.temperature:g}, and the log-probabilities of this job come with replies: the "
                "words that a server does not name cannot be softened; set it to 1"
            )
        return None

    @property
    def reads_replies(self) -> bool:
        """Whether log-probabilities come with the replies: no teacher has weights here, and each has `top_logprobs`."""
        return all(one.local_model() is None and one.sampling(1).top_logprobs > 0 for one in self.teachers)

    def _mixing_problem(self) -> str | None:
        if self.train.mix_by == "weight":
            return None
        why = "no loss of this job is on distributions"
        if self.train.on_cells():
            why = "not all teachers have weights on this machine" if not self._teaches_here else "this job has one teacher"
            if self._teaches_here and self.more_teachers:
                return None
        return f"train.mix_by is {self.train.mix_by}, and {why}; name several local teachers, or leave it out"

    @property
    def _teaches_here(self) -> bool:
        return all(teacher.local_model() is not None for teacher in self.teachers)

    @property
    def samples_signals(self) -> bool:
        """Whether signals are draws from the teachers' distribution (`train.signals`, with `auto` decided)."""
        takes_samples = all(loss.takes_samples for loss in self.train.on_cells())
        return self.train.signals == "sampled" or (self.train.signals == "auto" and takes_samples and self._teaches_here)

    @property
    def teachers(self) -> tuple[Teacher, ...]:
        """All teachers of the job, in its order."""
        return (self.teacher, *self.more_teachers)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that the student's head chooses from, in the order of its outputs; () for a student that writes."""
        return self.task.labels_asked() if self.student.head == "labels" else ()

    @property
    def _tells_labels(self) -> bool:
        return tells_labels(self.teachers, self.generate.samples, self.combine)

    def _default_losses(self) -> tuple[Loss, ...]:
        gives = all(teacher.gives >= Signal.TOPK for teacher in self.teachers) or self.reads_replies
        told = self._tells_labels if self.labels else gives
        if told:
            return (
                load_plugin("losses", {"kind": "cross_entropy", "weight": 0.25}),
                load_plugin("losses", {"kind": "forward_kl", "weight": 0.75}),
            )
        return (load_plugin("losses", "cross_entropy"),)

    @property
    def run_path(self) -> Path:
        return self.path(self.runs) / self.name

    @property
    def journal_path(self) -> Path:
        return self.path(self.journal) if self.journal else self.path(self.runs) / "journal.sqlite"

    @property
    def signals_path(self) -> Path:
        """Kept signals are found by content, so all jobs of a runs folder share them, as they do the journal."""
        return self.path(self.runs) / "signals"

    def teacher_for(self, folder: RunFolder) -> Teacher:
        """The teacher that answers: with the run's adapted weights, once `teacher.adapt` has made them."""
        if self.teacher.adapt is None or not folder.teacher.is_dir():
            return self.teacher
        return self.teacher.model_copy(update={"model": str(folder.teacher), "name": self.teacher.label})

    def teachers_for(self, folder: RunFolder) -> tuple[Teacher, ...]:
        """All teachers, the first one as `teacher_for` has it."""
        return (self.teacher_for(folder), *self.more_teachers)

    def path(self, name: str) -> Path:
        """A path of the job, from the job's own folder."""
        return (self.folder / os.path.expanduser(name)).resolve()

    def data_path(self, name: str) -> Path:
        """A data file's path: from `data.folder`, which starts at the job's own folder."""
        return (self.path(self.data.folder or ".") / os.path.expanduser(name)).resolve()

    def resolved(self) -> dict[str, Any]:
        """The job with every default filled in, ready for YAML; secrets are references only."""
        return self.model_dump(mode="json")


def load_job(path: Path, overrides: Sequence[str] = ()) -> Job:
    """Reads a job file and applies `a.b=c` overrides; raises JobError with the sentence for the user."""
    if not path.is_file():
        raise JobError(f"job file {str(path)!r} does not exist; `potstill init` writes one")
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise JobError(f"job file {path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(fields, dict):
        raise JobError(f"job file {path} must hold keys such as name, task, data, teacher and student")
    for override in overrides:
        set_override(fields, override)
    known = [name for name in Job.model_fields if name != "folder"]
    for key in fields:
        if key not in known:
            raise JobError(f"{path}: unknown key {key!r}: {did_you_mean(str(key), known)}")
    return Job(folder=path.resolve().parent, **fields)


def set_override(fields: dict[str, Any], override: str) -> None:
    """Applies one `a.b=c`; the value is read as YAML, so `1e-4`, `true` and `[a, b]` mean what they look like.

    >>> job = {"train": {"epochs": 3}}
    >>> set_override(job, "train.learning_rate=1e-4"); job
    {'train': {'epochs': 3, 'learning_rate': 0.0001}}
    """
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise JobError(f"--set takes key=value, such as train.learning_rate=1e-4 (got {override!r})")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise JobError(f"--set {dotted}: {text!r} is not YAML; quote it as in a job file") from None
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        value = float(value)  # YAML 1.1 reads 1e-4 as a string
    here = fields
    *parents, last = dotted.split(".")
    for parent in parents:
        inner = here.get(parent)
        if isinstance(inner, str):  # a short form: `teacher: starter-teacher`, `task: nli`
            inner = {"kind" if parent == "task" else "train" if parent == "data" else "model": inner}
        if not isinstance(inner, dict | None):
            raise JobError(f"--set {dotted}: {parent!r} is not a mapping in this job; set it whole, as YAML")
        here[parent] = inner = dict(inner or {})
        here = inner
    here[last] = value


def refuse_secrets(fields: Any, where: str = "") -> None:
    """Raises JobError when a key stands in clear text anywhere in a job; the value is not repeated."""
    if isinstance(fields, Mapping):
        for key, value in fields.items():
            refuse_secrets(value, f"{where}.{key}" if where else str(key))
    elif isinstance(fields, list | tuple):
        for value in fields:
            refuse_secrets(value, where)
    elif isinstance(fields, str):
        is_key = SECRET_NAME.fullmatch(where.rpartition(".")[2]) and not fields.startswith("env:")
        if is_key or SECRET.search(fields):
            raise JobError(
                f"{where}: a key must not stand in the job; put it into an environment variable and write env:NAME, "
                f"such as env:OPENAI_API_KEY"
            )


def job_schema() -> dict[str, Any]:
    """The job's JSON schema for editors; `task`, `teacher` and the lists of plug-ins also take a bare kind."""
    return Job.model_json_schema(mode="validation")
