from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field

from ..contracts import Loss
from ..kernels.divergences import FLOOR, LOG_ZERO, Floor, relative_entropy, reverse_relative_entropy
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
        teacher_NC, student_NC = teacher_logp_NC.clamp_min(LOG_ZERO), student_logp_NC.clamp_min(LOG_ZERO)
        p_NC, q_NC = teacher_NC.exp(), student_NC.exp()
        # Where both underflow the mixture counts as the least number there is; what is multiplied by p and q is then 0.
        least = torch.finfo(p_NC.dtype).tiny
        mixture_NC = (self.beta * p_NC + (1 - self.beta) * q_NC).clamp_min(least).log()
        of_teacher_N = (p_NC * (teacher_NC - mixture_NC)).sum(dim=-1)
        return self.beta * of_teacher_N + (1 - self.beta) * (q_NC * (student_NC - mixture_NC)).sum(dim=-1)
