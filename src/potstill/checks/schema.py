"""Refuses answers that are not the JSON they should be."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple, NoReturn

import jsonschema_rs
from pydantic import Field, field_validator
from typing_extensions import override

from ..contracts import Answered, Check, Finding, Room, Task, Teacher, Watch
from ..errors import JobError
from ..text.texts import without_thinking
from ..types import Example, Reply

STARTS_TRIED = 8
_FENCE = re.compile(r"```[\w+-]*[ \t]*\n?(.*?)(?:```|\Z)", re.DOTALL)
_OPENS = re.compile(r"[\[{]")


class Schema(Check):
    """Refuses an answer whose JSON does not follow a schema; a code fence or words around the JSON are no fault."""

    json_schema: dict[str, Any] | bool | None = Field(default=None, description="the JSON schema; default: the task's own")
    bare: bool = Field(default=True, description="teach the JSON alone, without a code fence or words around it")

    @field_validator("json_schema")
    @classmethod
    def _is_a_schema(cls, value: Any) -> Any:
        if value is not None:
            try:
                _validator(json.dumps(value))
            except ValueError as error:
                raise ValueError(f"it is no JSON schema: {str(error).splitlines()[0]}") from None
        return value

    @override
    def refuse(self, example: Example, reply: Reply, task: Task) -> Finding | None:
        found = self._best(reply.text, task)
        if found is None:
            return Finding("not JSON", again=True)
        return Finding(f"not the schema's JSON: {found.problem}", again=True) if found.problem else None

    @override
    def problems(self, teachers: Sequence[Teacher], task: Task) -> list[str]:
        return [_no_schema(task)] if self._schema(task) is None else []

    @override
    def watch(self, room: Room) -> Watch:
        return _Watch(self, room)

    def _schema(self, task: Task) -> str | None:
        return task.answer_schema() if self.json_schema is None else json.dumps(self.json_schema)

    def _best(self, text: str, task: Task) -> _Found | None:
        """The first JSON in a text that follows the schema, or else the first; None where there is none."""
        schema = self._schema(task)
        if schema is None:
            raise JobError(_no_schema(task))
        first = None
        for inner, value in _values(text):
            found = _Found(inner, _problem(value, _validator(schema)))
            if found.problem is None:
                return found
            first = first or found
        return first


class _Watch(Watch):
    """Takes the JSON out of what stands around it, so that the student does not learn to write a fence now and then."""

    check: Schema

    @override
    def look(self, answers: Sequence[Answered]) -> list[Finding | Answered | None]:
        said = super().look(answers)
        return [self._bared(one) if finding is None else finding for one, finding in zip(answers, said, strict=True)]

    def _bared(self, one: Answered) -> Answered | None:
        if one.reply is None or one.source == "gold" or not self.check.bare:
            return None
        found = self.check._best(one.reply.text, self.room.task)
        if found is None or found.text == one.reply.text.strip():
            return None
        return replace(one, reply=replace(one.reply, text=found.text, logprobs=None))


class _Found(NamedTuple):
    """JSON in a text, as it is written there, and where it breaks the schema."""

    text: str
    problem: str | None


def _values(text: str) -> Iterator[tuple[str, Any]]:
    """The JSON values of a text with how each is written: the whole, what fences hold, then what stands among words."""
    inner = without_thinking(text)
    for part in (inner, *_FENCE.findall(inner)):
        try:
            yield part.strip(), _checked(_DECODER.decode(part.strip()))
        except (ValueError, RecursionError):
            continue
    place = 0
    for _ in range(STARTS_TRIED):
        opened = _OPENS.search(inner, place)
        if opened is None:
            return
        place = opened.end()
        try:
            value, place = _DECODER.raw_decode(inner, opened.start())
            yield inner[opened.start() : place], _checked(value)
        except (ValueError, RecursionError):
            continue


def _checked(value: Any) -> Any:
    """The value; raises ValueError for half a character, which is no text anywhere else."""
    json.dumps(value, ensure_ascii=False).encode()
    return value


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is too large")
    return value


_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite)


@lru_cache(maxsize=16)
def _validator(schema: str) -> jsonschema_rs.Validator:
    """Raises ValueError where the schema is none, or names one that is not inside it: nothing is fetched."""
    return jsonschema_rs.validator_for(json.loads(schema), offline=True)


def _problem(value: Any, validator: jsonschema_rs.Validator) -> str | None:
    """Where the value breaks which rule; it quotes nothing of the value, so that the same fault is counted as one."""
    error = next(iter(validator.iter_errors(value)), None)
    if error is None:
        return None
    place = "".join("[]" if isinstance(part, int) else f".{part}" for part in error.instance_path).removeprefix(".")
    rule = next((part for part in reversed(error.schema_path) if isinstance(part, str)), "false")
    return f"{place or 'the whole'} breaks {rule}"


def _no_schema(task: Task) -> str:
    return f"checks/schema: the task {task.kind!r} has no schema of its own; give the check a json_schema"
