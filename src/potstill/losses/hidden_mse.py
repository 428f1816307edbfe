from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch.nn import functional

from ..contracts import Build, LayerLoss
from ..types import Signal


class HiddenMse(LayerLoss):
    """Mean squared difference of the hidden states, through a learned projection where the widths differ."""

    needs: ClassVar[Signal] = Signal.HIDDEN
    projection: Literal["where_needed", "always"] = Field(
        default="where_needed", description="always: a learned matrix between student and teacher at equal widths too"
    )
    normalized: bool = Field(
        default=False, description="states are scaled to length sqrt(width) first, so their direction counts"
    )

    def projects(self, student: Build, teacher: Build) -> bool:
        return self.projection == "always" or super().projects(student, teacher)

    def formula(self, student_NH: torch.Tensor, teacher_NH: torch.Tensor) -> torch.Tensor:
        """mean over H of (s - t)^2, [N] (TinyBERT, arXiv 1909.10351, eq. 8); normalized as in Patient KD (arXiv 1908.09355)."""
        if self.normalized:
            length = student_NH.shape[1] ** 0.5
            student_NH, teacher_NH = (functional.normalize(x_NH, dim=1) * length for x_NH in (student_NH, teacher_NH))
        return (student_NH - teacher_NH).square().mean(dim=1)
