from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field

from ..contracts import Loss
from ..kernels.divergences import FLOOR, Floor, relative_entropy, reverse_relative_entropy
from ..types import Signal

MANY = 1024
"""Words among which the head is looked for first."""


class AdaptiveKl(Loss):
    """Forward and reverse KL, weighted token by token: forward where the likely words differ, reverse where the rest does."""

    needs: ClassVar[Signal] = Signal.TOPK
    mu: float = Field(default=0.5, gt=0, lt=1, description="teacher probability of the head, its likeliest words")
    floor: Floor = FLOOR

    def formula(self, student_logp_NC: torch.Tensor, teacher_logp_NC: torch.Tensor) -> torch.Tensor:
        """w KL(p || q) + (1 - w) KL(q || p), [N], with w of `head_share` held constant (AKL, arXiv 2404.02657)."""
        head_N = self.head_share(student_logp_NC, teacher_logp_NC)
        forward_N = relative_entropy(teacher_logp_NC, student_logp_NC)
        reverse_N = reverse_relative_entropy(student_logp_NC, teacher_logp_NC, self.floor)
        return head_N * forward_N + (1 - head_N) * reverse_N

    @torch.no_grad()
    def head_share(self, student_logp_NC: torch.Tensor, teacher_logp_NC: torch.Tensor) -> torch.Tensor:
        """The head's share of sum |p - q| [N]; a half where p = q. The head is the fewest likeliest cells that hold `mu`,
        with all that are as likely as the last of them, so that the order of cells never matters."""
        p_NC = teacher_logp_NC.exp()
        gap_NC = (p_NC - student_logp_NC.exp()).abs()
        likely_NK = p_NC.topk(min(MANY, p_NC.shape[-1]), dim=-1).values  # sorting a whole vocabulary takes five times as long
        if bool((likely_NK.sum(dim=-1) < self.mu).any()):
            likely_NK = p_NC.sort(dim=-1, descending=True).values
        needed_NK = likely_NK.cumsum(dim=-1) - likely_NK < self.mu
        least_N = likely_NK.where(needed_NK, torch.inf).amin(dim=-1)
        head_N = (gap_NC * (p_NC >= least_N[:, None])).sum(dim=-1)
        whole_N = gap_NC.sum(dim=-1)
        return torch.where(whole_N > 0, head_N / whole_N, 0.5)
