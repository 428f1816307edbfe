from __future__ import annotations

from typing import ClassVar

import torch

from ..contracts import Loss
from ..types import Signal


class UniversalLogit(Loss):
    """Universal logit distillation: how far the sorted distributions are apart, whatever their words; any two tokenizers."""

    needs: ClassVar[Signal] = Signal.TOPK
    ranked: ClassVar[bool] = True

    def formula(self, student_logp_NC: torch.Tensor, teacher_logp_NC: torch.Tensor) -> torch.Tensor:
        """sum over ranks of |p_(i) - q_(i)|, [N], 0 to 2 (Boizard et al. 2024, arXiv 2402.12030).

        Cells are ranks here: the first holds the likeliest word of each, the last all below the ranks that are compared. It is
        the Wasserstein distance between the two where any word is as far from any other. Where p = q its gradient jumps.
        """
        return (student_logp_NC.exp() - teacher_logp_NC.exp()).abs().sum(dim=-1)
