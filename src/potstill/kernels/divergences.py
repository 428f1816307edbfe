"""Sums over cells that the losses on distributions share, in log space, finite for probabilities of exactly 0 and 1.

Names of tensors carry their shape: N target tokens, C cells.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field

LOG_ZERO = -1e30
"""Stands for log 0: finite, so that 0 log 0 is 0 and 0 times a loss is 0 without a case of its own; exp of it is 0."""

Floor = Annotated[
    float,
    Field(
        lt=0,
        gt=LOG_ZERO,
        allow_inf_nan=False,
        description="least log-probability of a teacher's cell in reverse KL, which a probability of 0 would make infinite",
    ),
]
FLOOR = -30.0
"""1e-13: far below what the tail of float32 log-probabilities resolves (1e-7), so real cells are hardly touched."""


def relative_entropy(logp_NC: torch.Tensor, logq_NC: torch.Tensor) -> torch.Tensor:
    """KL(p || q) = sum over cells of p (log p - log q) [N], differentiable in both; 0 log 0 is 0.

    Where p > 0 and q is exactly 0 it is not infinite but p times 1e30: a token that counts nothing adds 0 and not NaN.
    """
    return (logp_NC.exp() * (logp_NC.clamp_min(LOG_ZERO) - logq_NC.clamp_min(LOG_ZERO))).sum(dim=-1)


def reverse_relative_entropy(student_logp_NC: torch.Tensor, teacher_logp_NC: torch.Tensor, floor: float) -> torch.Tensor:
    """KL(q || p) [N] of the student's q, with the teacher's log p no lower than `floor`."""
    return relative_entropy(student_logp_NC, teacher_logp_NC.clamp_min(floor))


def mixed_logp(one_NC: torch.Tensor, other_NC: torch.Tensor, share: float) -> torch.Tensor:
    """log(share a + (1 - share) b) [N, C] from log a and log b, differentiable in both; 0 < share < 1."""
    return torch.logaddexp(one_NC.clamp_min(LOG_ZERO) + math.log(share), other_NC.clamp_min(LOG_ZERO) + math.log1p(-share))
