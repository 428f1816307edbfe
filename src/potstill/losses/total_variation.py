from __future__ import annotations

from typing import ClassVar

import torch

from ..contracts import Loss
from ..types import Signal


class TotalVariation(Loss):
    """Total variation: the probability that the student would have to move to agree with the teacher, 0 to 1."""

    needs: ClassVar[Signal] = Signal.TOPK

    def formula(self, student_logp_NC: torch.Tensor, teacher_logp_NC: torch.Tensor) -> torch.Tensor:
        """half the sum over cells of |p - q|, [N] (f-distill, arXiv 2307.15190).

        Its gradient jumps where p = q: there torch takes 0, and rounding may take any value up to q / 2 either way.
        """
        return 0.5 * (student_logp_NC.exp() - teacher_logp_NC.exp()).abs().sum(dim=-1)
