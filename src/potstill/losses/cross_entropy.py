from __future__ import annotations

from typing import ClassVar

import torch

from ..contracts import Loss
from ..kernels.cells import target_loss
from ..types import Signal


class CrossEntropy(Loss):
    """Cross entropy on the text: -log of the student's probability of the target token."""

    needs: ClassVar[Signal] = Signal.TEXT

    def formula(self, student_logp_NC: torch.Tensor, teacher_logp_NC: torch.Tensor) -> torch.Tensor:
        """The first cell is the target token; the teacher gives it probability 1."""
        return target_loss(student_logp_NC, teacher_logp_NC)
