"""route: each row is answered by one teacher, which rules choose."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ..answers.voting import elect, none_usable, ranked
from ..contracts import Case, Choice, Combiner, Room, Task, Teacher
from ..errors import JobError, did_you_mean
from ..text.languages import language_of, require_languages
from ..text.texts import words
from ..types import Example

NAMED = "its name, or its place in the job's list, from 1"


class _Rule(BaseModel):
    """One rule: it takes a row when all of its conditions hold."""

    model_config = ConfigDict(frozen=True, extra="forbid", title="Rule")

    teacher: int | str = Field(description=f"who answers: {NAMED}")
    task: str | None = Field(default=None, description="the row's meta.task, or else the job's task, is this")
    language: str | tuple[str, ...] = Field(
        default=(), description="the user's turns are in this language, or one of these, as ISO 639 codes"
    )
    min_words: int | None = Field(default=None, ge=1, description="the whole prompt has at least as many words")
    max_words: int | None = Field(default=None, ge=1, description="the whole prompt has at most as many words")
    contains: str | None = Field(default=None, description="a regular expression that is found in the user's turns")
    meta: Mapping[str, Any] = Field(default={}, description="values that the row's meta has, such as {source: qed}")

    @field_validator("language")
    @classmethod
    def _can_be_told(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        require_languages(_listed(value))
        return value

    @field_validator("contains")
    @classmethod
    def _is_an_expression(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"{value!r} is not a regular expression ({error})") from None
        return value

    @model_validator(mode="after")
    def _has_a_condition(self) -> _Rule:
        conditions = (self.task, self.min_words, self.max_words, self.contains, self.language or None, self.meta or None)
        if all(condition is None for condition in conditions):
            raise ValueError(
                f"the rule for the teacher {self.teacher!r} has no condition (task, language, min_words, max_words, contains or "
                "meta); `default` takes the rows that no rule takes"
            )
        if self.min_words is not None and self.max_words is not None and self.min_words > self.max_words:
            raise ValueError(f"min_words {self.min_words} is more than max_words {self.max_words}, so no row fits")
        return self

    def takes(self, example: Example, task: Task) -> bool:
        """Whether every condition holds; the cheap ones are looked at first."""
        if self.task is not None and example.meta.get("task", task.kind) != self.task:
            return False
        if any(name not in example.meta or example.meta[name] != value for name, value in self.meta.items()):
            return False
        asked = "\n".join(message.content for message in example.messages if message.role == "user")
        if self.contains is not None and not re.search(self.contains, asked):
            return False
        if self.min_words is not None or self.max_words is not None:
            length = sum(len(words(message.content)) for message in example.messages)
            if length < (self.min_words or 0) or (self.max_words is not None and length > self.max_words):
                return False
        return not self.language or language_of(asked) in _listed(self.language)


def _listed(languages: str | tuple[str, ...]) -> tuple[str, ...]:
    return (languages,) if isinstance(languages, str) else languages


class Route(Combiner):
    """Sends each row to one teacher, by task, language, length, words or the row's meta; the first rule that fits decides.

    With several samples of that teacher, the answer that most of them agree on is kept, as `vote` does.
    """

    rules: tuple[_Rule, ...] = Field(min_length=1, description="in order; the first whose conditions all hold names the teacher")
    default: int | str = Field(default=1, description=f"who answers rows that no rule takes: {NAMED}")

    def asks(self, example: Example, teachers: Sequence[Teacher], task: Task) -> Sequence[int]:
        chosen = next((rule.teacher for rule in self.rules if rule.takes(example, task)), self.default)
        return (_number(chosen, teachers),)

    def choose(self, cases: Sequence[Case], room: Room) -> list[Choice]:
        return [_choice(case, room) for case in cases]

    def problems(self, teachers: Sequence[Teacher], task: Task) -> list[str]:
        del task
        found = []
        for name in dict.fromkeys((*(rule.teacher for rule in self.rules), self.default)):
            try:
                _number(name, teachers)
            except JobError as error:
                found.append(str(error))
        return found


def _choice(case: Case, room: Room) -> Choice:
    if len(case.candidates) == 1:  # nothing to choose from: the checks judge the answer
        answered = tuple(ranked(case, room.task))
        return Choice(answered) if answered else none_usable(case, room.task)
    found = elect(case, room.task, [1.0] * len(room.teachers))
    return Choice((found.winner,), found.agreement) if found else none_usable(case, room.task)


def _number(name: int | str, teachers: Sequence[Teacher]) -> int:
    """The teacher's number, from 0; raises JobError where no teacher, or more than one, is meant."""
    labels = [teacher.label for teacher in teachers]
    if isinstance(name, int):
        if not 1 <= name <= len(labels):
            raise JobError(f"combine/route: there is no teacher number {name}; the job has {len(labels)}, counted from 1")
        return name - 1
    places = [number for number, label in enumerate(labels) if label == name]
    if not places:
        raise JobError(f"combine/route: no teacher is called {name!r}: {did_you_mean(name, labels)}")
    if len(places) > 1:
        raise JobError(
            f"combine/route: {len(places)} teachers are called {name!r}; give each its own `name`, or write its place in the list"
        )
    return places[0]
