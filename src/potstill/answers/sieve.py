"""Checks in a row: what one refuses, the next does not see; each with its counts before and after for the data card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..contracts import Answered, Check, Finding, Room, Watch

REASONS_KEPT = 20
"""Different reasons that a check's counts name; a reason that quotes the answer could be another one for every row."""


class Sifted(NamedTuple):
    """An answer after all checks, changed where one redacted it; `reason` says which one refused it and why."""

    answered: Answered
    reason: str | None


@dataclass
class _Mesh:
    """One check at work."""

    name: str
    watch: Watch
    before: int = 0
    changed: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def look(self, answers: Sequence[Answered]) -> list[Sifted]:
        sifted = []
        self.before += len(answers)
        for one, said in zip(answers, self.watch.look(answers), strict=True):
            if isinstance(said, Finding):
                known = said.reason in self.reasons or len(self.reasons) < REASONS_KEPT
                self.reasons[said.reason if known else "other reasons"] += 1
                sifted.append(Sifted(one, said.reason))
            else:
                self.changed += said is not None
                sifted.append(Sifted(said or one, None))
        return sifted

    def report(self) -> dict[str, Any]:
        refused = self.reasons.total()
        counts = {"before": self.before, "after": self.before - refused, "refused": refused}
        more = {"changed": self.changed} if self.changed else {}
        reasons = {"reasons": dict(self.reasons.most_common())} if refused else {}
        return {**counts, **more, **reasons, **self.watch.report()}


class Sieve:
    """The checks of a job over one split, some answers at a time, in the order of the rows."""

    def __init__(self, checks: Sequence[Check], room: Room) -> None:
        names = [check.kind for check in checks]
        numbered = [f"{name} {names[: at + 1].count(name)}" if names.count(name) > 1 else name for at, name in enumerate(names)]
        self._meshes = [_Mesh(name, check.watch(room)) for name, check in zip(numbered, checks, strict=True)]

    def sift(self, answers: Sequence[Answered]) -> list[Sifted]:
        """Every answer with the first reason against it, in order."""
        found = [Sifted(one, None) for one in answers]
        for mesh in self._meshes:
            open_at = [at for at, one in enumerate(found) if one.reason is None]
            for at, sifted in zip(open_at, mesh.look([found[at].answered for at in open_at]), strict=True):
                found[at] = sifted
        return found

    def report(self) -> dict[str, Any]:
        """Each check's counts, and what else it has to say."""
        return {mesh.name: mesh.report() for mesh in self._meshes}
