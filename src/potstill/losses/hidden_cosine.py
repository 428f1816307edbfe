from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch.nn import functional

from ..contracts import Build, LayerLoss
from ..types import Signal


class HiddenCosine(LayerLoss):
    """1 - cosine of the hidden states, through a learned projection where the widths differ."""

    needs: ClassVar[Signal] = Signal.HIDDEN
    projection: Literal["where_needed", "always"] = Field(
        default="where_needed", description="always: a learned matrix between student and teacher at equal widths too"
    )

    def projects(self, student: Build, teacher: Build) -> bool:
        return self.projection == "always" or super().projects(student, teacher)

    def formula(self, student_NH: torch.Tensor, teacher_NH: torch.Tensor) -> torch.Tensor:
        """1 - s.t / (|s| |t|), [N] (DistilBERT, arXiv 1910.01108, section 3); 1 where a state is 0."""
        return 1.0 - functional.cosine_similarity(student_NH, teacher_NH, dim=1)
