from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field

from ..contracts import Build, Inside, LayerLoss
from ..types import Signal


class AttentionMse(LayerLoss):
    """Squared difference of the attention maps, summed over the keys: where each token looks."""

    needs: ClassVar[Signal] = Signal.HIDDEN
    heads: Literal["averaged", "matched"] = Field(
        default="averaged", description="averaged: the mean map of all heads; matched: head by head, where both have as many"
    )

    def looks_at(self) -> Sequence[Inside]:
        return ("attention",)

    def problem(self, student: Build, teacher: Build) -> str | None:
        if self.heads == "averaged" or student.num_heads == teacher.num_heads:
            return None
        return f"has heads: matched, and the student has {student.num_heads} heads, the teacher {teacher.num_heads}; use averaged"

    def formula(self, student_logp_NAT: torch.Tensor, teacher_logp_NAT: torch.Tensor) -> torch.Tensor:
        """sum over keys of (q - p)^2, the mean over heads, [N]; of probabilities, where TinyBERT (arXiv 1909.10351, eq. 7) takes
        the scores before the softmax, and a sum, so that a longer line of a batch makes no value smaller."""
        apart_NAT = student_logp_NAT.exp() - teacher_logp_NAT.exp()
        if self.heads == "averaged":
            apart_NAT = apart_NAT.mean(dim=1, keepdim=True)
        return apart_NAT.square().sum(dim=-1).mean(dim=1)
