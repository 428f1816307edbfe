"""The job's sections: what it says about data, asking, checking and comparing."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationInfo, field_validator, model_validator

from .answers.invention import InventSettings
from .contracts import Check
from .plugins import load_plugin
from .recipe import Settings, job_folder, listed

Paths = Annotated[tuple[str, ...], BeforeValidator(listed)]


def load_checks(value: Any, info: ValidationInfo) -> tuple[Check, ...]:
    return tuple(v if isinstance(v, Check) else load_plugin("checks", v, job_folder(info)) for v in listed(value))


class Columns(Settings):
    """Which columns of the user's files hold what, where they are not `messages` or `prompt`/`completion`."""

    prompt: str
    gold: str | None = None
    system: str | None = None
    id: str | None = None


class DataSettings(Settings):
    """The user's files. A split without a file of its own is taken from train, by a hash of the prompt."""

    folder: str | None = Field(default=None, description="where the files' relative paths start; default: the job file's folder")
    train: Paths = Field(default=(), description="files with prompts, with gold or without; needed unless all are invented")
    unlabelled: Paths = Field(default=(), description="more files of train prompts; their answers are ignored")
    validation: Paths = ()
    test: Paths = ()
    columns: Columns | None = None
    validation_share: float = Field(default=0.1, gt=0, lt=0.5, description="share of train, where no validation file is named")
    test_share: float = Field(default=0.1, gt=0, lt=0.5, description="share of train, where no test file is named")
    max_gold_rows: int | None = Field(
        default=None, ge=0, description="how many train rows keep their gold; the rest become prompts only"
    )
    max_train_rows: int | None = Field(default=None, ge=1)
    max_validation_rows: int | None = Field(default=1000, ge=1)
    max_test_rows: int | None = Field(default=None, ge=1)
    min_valid_share: float = Field(
        default=0.7, ge=0, le=1, description="the job stops when fewer rows than this share are usable"
    )
    invent: InventSettings = Field(default=InventSettings(), description="new prompts, where there are few")
    checks: tuple[SerializeAsAny[Check], ...] = Field(
        default=("contamination",), validate_default=True, description="checks of the train prompts before anything is asked"
    )

    @field_validator("checks", mode="before")
    @classmethod
    def _load(cls, value: Any, info: ValidationInfo) -> Any:
        return load_checks(value, info)

    @model_validator(mode="after")
    def _has_rows(self) -> DataSettings:
        if not self.train and not self.invent.num_prompts:
            raise ValueError("'train' is missing; name files with prompts, or have them invented (data.invent)")
        if not self.train and not (self.validation and self.test):
            raise ValueError("'train' is missing; without it data.validation and data.test must name files")
        return self


class GenerateSettings(Settings):
    """Asking the teachers."""

    when_gold: Literal["keep", "teacher"] = Field(
        default="keep", description="keep: rows with gold teach their gold; teacher: ask the teacher for every row"
    )
    min_kept_share: float = Field(
        default=0.7, ge=0, le=1, description="the job stops when fewer answers than this share are usable"
    )
    samples: int = Field(default=1, ge=1, description="answers asked of each teacher for each prompt; see combine")
    longer: int = Field(default=2, ge=0, description="how often an answer that was cut is asked again with twice the limit")
    resamples: int = Field(default=2, ge=0, description="how often an answer that checks refuse is sampled anew")
    smoke_rows: int = Field(
        default=16, ge=0, description="the first rows of each teacher; unless min_kept_share of them pass, no more is spent"
    )
    probe_rows: int = Field(
        default=64, ge=0, description="rows with gold that a teacher answers first: its accuracy before it teaches"
    )
    min_teacher_accuracy: float | None = Field(
        default=None, ge=0, le=1, description="the job stops when the whole interval of a teacher's accuracy lies below this"
    )


class ValidateSettings(Settings):
    """Which checks an answer must pass before it may teach."""

    checks: tuple[SerializeAsAny[Check], ...] = Field(
        default=("finish_reason", "empty", "readable", "refusals", "class_balance", "diversity", "personal_data"),
        validate_default=True,
    )

    @field_validator("checks", mode="before")
    @classmethod
    def _load(cls, value: Any, info: ValidationInfo) -> Any:
        return load_checks(value, info)


class EvaluateSettings(Settings):
    """The comparison on the test rows."""

    baseline: bool = Field(default=True, description="score the untouched student too")
    control: bool = Field(default=True, description="train and score a student on plain text alone, with the same budget")
    control_on: Literal["auto", "gold", "teacher"] = Field(
        default="auto", description="the control's text: auto is the gold rows where there are any, else the teacher's answers"
    )
    latency_rows: int = Field(default=32, ge=2, description="rows answered one by one to measure latency")
    bootstrap_samples: int = Field(default=2000, ge=100)
    seed: int = 0
