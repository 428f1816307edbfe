from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field

from ..contracts import Loss
from ..kernels.divergences import FLOOR, Floor, mixed_logp, relative_entropy, reverse_relative_entropy
from ..types import Signal


class JensenShannon(Loss):
    """Generalised Jensen-Shannon divergence: between forward KL (beta 0) and reverse KL (beta 1), and bounded."""

    needs: ClassVar[Signal] = Signal.TOPK
    beta: float = Field(
        default=0.5, ge=0, le=1, description="the teacher's share of the mixture; 0 is forward KL and 1 reverse KL, as in GKD"
    )
    floor: Floor = FLOOR

    def formula(self, student_logp_NC: torch.Tensor, teacher_logp_NC: torch.Tensor) -> torch.Tensor:
        """beta KL(p || m) + (1 - beta) KL(q || m) with m = beta p + (1 - beta) q, [N] (GKD, arXiv 2306.13649).

        It goes to 0 as beta goes to 0 or 1; divided by beta it goes to KL(p || q), by 1 - beta to KL(q || p). At 0 and 1
        themselves it is, by GKD's convention, those limits; `floor` matters at 1 alone.
        """
        if self.beta == 0:
            return relative_entropy(teacher_logp_NC, student_logp_NC)
        if self.beta == 1:
            return reverse_relative_entropy(student_logp_NC, teacher_logp_NC, self.floor)
        mixture_NC = mixed_logp(teacher_logp_NC, student_logp_NC, self.beta)
        of_teacher_N = relative_entropy(teacher_logp_NC, mixture_NC)
        return self.beta * of_teacher_N + (1 - self.beta) * relative_entropy(student_logp_NC, mixture_NC)
