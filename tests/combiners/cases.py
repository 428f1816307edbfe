"""Rows with several answers, made by hand for the tests of combiners."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from potstill.contracts import Candidate, Case, Room, Task, Teacher
from potstill.plugins import load_plugin
from potstill.types import Example, Message, Reply, Request

FAILED = Reply("", "error", error="HTTP 500")


@cache
def teachers(*weights: float) -> tuple[Teacher, ...]:
    """Teachers a, b, c, ... with these weights."""
    return tuple(
        load_plugin("teachers", {"kind": "scripted", "name": chr(ord("a") + place), "weight": weight})
        for place, weight in enumerate(weights)
    )


def example(text: str = "Premise: a. Hypothesis: b.", gold: str | None = None, **meta: Any) -> Example:
    return Example("1", (Message("system", "You are Ada."), Message("user", text)), gold, meta)


def case(task: Task, *replies: str | Reply, samples: int = 1, row: Example | None = None) -> Case:
    """A row's answers: `samples` of the first teacher, then those of the next."""
    candidates = []
    for place, said in enumerate(replies):
        reply = said if isinstance(said, Reply) else Reply(said)
        answer = None if reply.error is not None else task.read(reply.text)
        candidates.append(Candidate(place // samples, place % samples, reply, answer))
    return Case(row or example(), tuple(candidates))


def room(
    task: Task, *weights: float, ask: Callable[[Teacher, Sequence[Request]], list[Reply]] | None = None, path: Path = Path()
) -> Room:
    def nobody(judge: Teacher, requests: Sequence[Request]) -> list[Reply]:
        raise AssertionError(f"{judge.label} was asked {len(requests)} requests")

    return Room(task, path, teachers(*weights), ask or nobody)


def dense(*passes: str) -> str:
    """A teacher's chain of density: each pass denser than the one before."""
    return json.dumps([{"Missing_Entities": "", "Denser_Summary": text} for text in passes])
