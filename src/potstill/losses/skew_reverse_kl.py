from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field

from ..contracts import Loss
from ..kernels.divergences import mixed_logp, relative_entropy
from ..types import Signal


class SkewReverseKl(Loss):
    """KL(student || student and teacher mixed): reverse KL that no missing teacher probability makes infinite."""

    needs: ClassVar[Signal] = Signal.TOPK
    alpha: float = Field(default=0.1, gt=0, lt=1, description="the student's share of the mixture; towards 0 it is reverse_kl")

    def formula(self, student_logp_NC: torch.Tensor, teacher_logp_NC: torch.Tensor) -> torch.Tensor:
        """KL(q || alpha q + (1 - alpha) p), [N], at most -log alpha (DistiLLM, arXiv 2402.03898)."""
        return relative_entropy(student_logp_NC, mixed_logp(student_logp_NC, teacher_logp_NC, self.alpha))
