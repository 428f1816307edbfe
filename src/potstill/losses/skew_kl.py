from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field

from ..contracts import Loss
from ..kernels.divergences import mixed_logp, relative_entropy
from ..types import Signal


class SkewKl(Loss):
    """KL(teacher || teacher and student mixed): forward KL that no missing student probability makes large."""

    needs: ClassVar[Signal] = Signal.TOPK
    alpha: float = Field(default=0.1, gt=0, lt=1, description="the teacher's share of the mixture; towards 0 it is forward_kl")

    def formula(self, student_logp_NC: torch.Tensor, teacher_logp_NC: torch.Tensor) -> torch.Tensor:
        """KL(p || alpha p + (1 - alpha) q), [N], at most -log alpha (DistiLLM, arXiv 2402.03898)."""
        return relative_entropy(teacher_logp_NC, mixed_logp(teacher_logp_NC, student_logp_NC, self.alpha))
