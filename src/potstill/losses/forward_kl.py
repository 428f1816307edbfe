from __future__ import annotations

from typing import ClassVar

import torch

from ..contracts import Loss
from ..kernels.divergences import relative_entropy
from ..types import Signal


class ForwardKl(Loss):
    """KL(teacher || student): the student covers everything that the teacher considers likely."""

    needs: ClassVar[Signal] = Signal.TOPK
    takes_samples: ClassVar[bool] = True

    def formula(self, student_logp_NC: torch.Tensor, teacher_logp_NC: torch.Tensor) -> torch.Tensor:
        """sum over cells of p (log p - log q), [N] (Hinton et al. 2015, arXiv 1503.02531); 0 log 0 is 0."""
        return relative_entropy(teacher_logp_NC, student_logp_NC)
