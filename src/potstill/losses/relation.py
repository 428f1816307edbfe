from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field

from ..contracts import Build, Inside, LayerLoss
from ..kernels.divergences import relative_entropy
from ..types import Signal


class Relation(LayerLoss):
    """KL(teacher || student) of how tokens relate by their queries, keys and values, as in MiniLM."""

    needs: ClassVar[Signal] = Signal.HIDDEN
    of: Annotated[tuple[Literal["queries", "keys", "values"], ...], Field(min_length=1)] = Field(
        default=("queries", "keys", "values"), description="whose relations: query-query, key-key, value-value; the mean of them"
    )
    relation_heads: int | None = Field(
        default=None,
        ge=1,
        description="heads that each is split into; default: the student's, or the most below that fit all widths",
    )

    def looks_at(self) -> Sequence[Inside]:
        return self.of

    def num_relation_heads(self, student: Build, teacher: Build) -> int:
        fitting = (count for count in range(student.num_heads, 0, -1) if not self._too_narrow(count, student, teacher))
        return self.relation_heads or next(fitting)

    def problem(self, student: Build, teacher: Build) -> str | None:
        wrong = self._too_narrow(self.relation_heads or 1, student, teacher)
        return (
            f"has relation_heads: {self.relation_heads}, which must divide {' and '.join(map(str, wrong))}, the widths"
            if wrong
            else None
        )

    def _too_narrow(self, count: int, student: Build, teacher: Build) -> list[int]:
        """The widths that do not split into so many heads; with grouped queries, keys and values are narrower than queries."""
        return sorted({build.widths[one] for build in (student, teacher) for one in self.of if build.widths[one] % count})

    def formula(self, student_logp_NRT: torch.Tensor, teacher_logp_NRT: torch.Tensor) -> torch.Tensor:
        """sum over keys of p (log p - log q), the mean over relation heads, [N] (arXiv 2012.15828, eq. 6)."""
        return relative_entropy(teacher_logp_NRT, student_logp_NRT).mean(dim=1)
