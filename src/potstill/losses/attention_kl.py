from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field

from ..contracts import Build, Inside, LayerLoss
from ..kernels.divergences import relative_entropy
from ..types import Signal


class AttentionKl(LayerLoss):
    """KL(teacher || student) of the attention maps: where each token looks."""

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
        """sum over keys of p (log p - log q), the mean over heads, [N] (MiniLM, arXiv 2002.10957, eq. 5)."""
        if self.heads == "averaged":
            student_logp_NAT, teacher_logp_NAT = (
                x_NAT.exp().mean(dim=1, keepdim=True).clamp_min(1e-30).log() for x_NAT in (student_logp_NAT, teacher_logp_NAT)
            )
        return relative_entropy(teacher_logp_NAT, student_logp_NAT).mean(dim=1)
