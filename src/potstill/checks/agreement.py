"""Refuses answers that too few of the samples or teachers agree with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field
from typing_extensions import override

from ..contracts import Answered, Check, Finding, Room, Watch


class Agreement(Check):
    """Refuses an answer that fewer than `min_agreement` of the answers to its row agree with; a single answer stays."""

    min_agreement: float = Field(
        default=0.5, gt=0, le=1, description="least share of a row's answers that agree with the chosen one"
    )

    @override
    def watch(self, room: Room) -> Watch:
        return _Watch(self, room)


class _Watch(Watch):
    """Looks at the agreement that the combiner counted."""

    check: Agreement

    def __init__(self, check: Agreement, room: Room) -> None:
        super().__init__(check, room)
        self.num_single = 0
        self.num_compared = 0
        self.num_unanimous = 0
        self.total = 0.0

    @override
    def look(self, answers: Sequence[Answered]) -> list[Finding | Answered | None]:
        found: list[Finding | Answered | None] = []
        for one in answers:
            if one.reply is None or one.source == "gold" or one.agreement is None:
                self.num_single += one.reply is not None and one.source != "gold"
                found.append(None)
                continue
            self.num_compared += 1
            self.num_unanimous += one.agreement > 1 - 1e-9
            self.total += one.agreement
            too_few = one.agreement < self.check.min_agreement
            found.append(Finding(f"fewer than {self.check.min_agreement:.0%} of the answers agree") if too_few else None)
        return found

    @override
    def report(self) -> dict[str, Any]:
        said: dict[str, Any] = {
            "rows_with_several_answers": self.num_compared,
            "rows_with_one_answer": self.num_single,
            "unanimous": self.num_unanimous,
            "mean_agreement": self.total / self.num_compared if self.num_compared else None,
        }
        if self.num_single and not self.num_compared:
            said["alarm"] = (
                "no row has more than one answer, so agreement could refuse none: ask for several samples, or teachers"
            )
        return said
