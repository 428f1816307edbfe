from __future__ import annotations

from typing import ClassVar

import torch

from ..contracts import Loss
from ..kernels.divergences import FLOOR, Floor, reverse_relative_entropy
from ..types import Signal


class ReverseKl(Loss):
    """KL(student || teacher): the student keeps to what the teacher considers likely."""

    needs: ClassVar[Signal] = Signal.TOPK
    floor: Floor = FLOOR

    def formula(self, student_logp_NC: torch.Tensor, teacher_logp_NC: torch.Tensor) -> torch.Tensor:
        """sum over cells of q (log q - max(log p, floor)), [N] (MiniLLM, arXiv 2306.08543, token by token).

        A cell that the teacher gives 0 costs the student q (log q - floor), finite and with a finite gradient.
        """
        return reverse_relative_entropy(student_logp_NC, teacher_logp_NC, self.floor)
