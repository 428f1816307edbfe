"""The job in the words that Azure ML users know: DistillationJob, for `MLClient.jobs.create_or_update`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic
from pydantic import BaseModel, ConfigDict, Field, field_validator

from .errors import JobError, did_you_mean
from .plugins import explain, plugin_kinds

# Azure's names of tasks, in lower case, to ours.
TASK_OF = {"nlu_qa": "qa", "question_answering": "qa", "text_summarization": "summarization", "chat": "conversation"}
# Other names of the same hyperparameter, in Azure's SDK and in its fine-tuning YAML.
SYNONYMS = {
    "n_epochs": "num_epochs",
    "num_train_epochs": "num_epochs",
    "per_device_train_batch_size": "batch_size",
}


class Entity(BaseModel):
    """Frozen, refuses unknown keys, and says what is wrong in one sentence."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except pydantic.ValidationError as error:
            raise JobError(f"{type(self).__name__}: {explain(error, type(self))}") from None


class Hyperparameters(Entity):
    """What may be set; strings such as "2e-5" are read as numbers. What is left out is chosen by potstill."""

    learning_rate: float | None = Field(default=None, gt=0)
    batch_size: int | None = Field(default=None, ge=1)
    num_epochs: float | None = Field(default=None, gt=0)
    temperature: float | None = Field(
        default=None,
        gt=0,
        description="softness of the teacher's output: the distillation temperature where the teacher gives "
        "log-probabilities, the sampling temperature where it gives text only",
    )

    def __init__(self, **fields: Any) -> None:
        if "learning_rate_multiplier" in fields:
            raise JobError("learning_rate_multiplier multiplies a rate that only Azure knows; write learning_rate instead")
        known: dict[str, Any] = {}
        for name, value in fields.items():
            ours = SYNONYMS.get(name, name)
            if ours in known:
                raise JobError(f"hyperparameters: {name!r} says {ours!r} a second time; write it once")
            known[ours] = value
        super().__init__(**known)


class DistillationJob(Entity):
    """One distillation: a teacher, a student, data and a task, with the brief's and Azure's names.

    >>> DistillationJob(teacher_model="deepseek-v3", student_model="phi-4-mini", training_data="./train.jsonl",
    ...                 task_type="NLU_QA", hyperparameters={"n_epochs": "2"}).task_type
    'qa'
    """

    teacher_model: str | dict[str, Any]
    student_model: str
    training_data: str
    validation_data: str | None = None
    test_data: str | None = None
    task_type: str
    hyperparameters: Hyperparameters = Hyperparameters()
    name: str | None = None
    description: str = ""

    @field_validator("task_type", mode="after")
    @classmethod
    def _task(cls, value: str) -> str:
        kinds = [info.kind for info in plugin_kinds("tasks")]
        word = value.lower().replace("-", "_")
        task = TASK_OF.get(word, word)
        if task not in kinds:
            raise ValueError(f"unknown task_type {value!r}: {did_you_mean(task, kinds)}")
        return task

    @field_validator("hyperparameters", mode="before")
    @classmethod
    def _hyperparameters(cls, value: Any) -> Any:
        return Hyperparameters(**value) if isinstance(value, Mapping) else value

    @property
    def run_name(self) -> str:
        """The given name, or one that follows from the content: the same job created twice continues, and pays once."""
        if self.name:
            return self.name
        content = json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()
        student = Path(self.student_model).name
        return f"{student}-{self.task_type}-{hashlib.sha256(content).hexdigest()[:8]}"

    @property
    def teacher_name(self) -> str:
        teacher = self.teacher_model
        return teacher if isinstance(teacher, str) else str(teacher.get("model") or teacher.get("kind"))

    def job_fields(self, folder: Path) -> dict[str, Any]:
        """The job file's fields, but for the temperature, whose place depends on the teacher; paths start at `folder`."""
        chosen = self.hyperparameters
        train = {"learning_rate": chosen.learning_rate, "batch_size": chosen.batch_size, "epochs": chosen.num_epochs}
        data = {"train": self.training_data, "validation": self.validation_data, "test": self.test_data}
        return {
            "name": self.run_name,
            "description": self.description,
            "task": self.task_type,
            "data": {split: str((folder / path).resolve()) for split, path in data.items() if path},
            "teacher": self.teacher_model,
            "student": self.student_model,
            "train": {key: value for key, value in train.items() if value is not None},
        }
