"""Small distributions for the tests of losses, and how a loss's gradient reaches the student's scores."""

from __future__ import annotations

import torch

from potstill.contracts import Loss


def logs(*rows: list[float]) -> torch.Tensor:
    """Log-probabilities [N, C] of probabilities, in float64; log 0 is -inf."""
    return torch.tensor(rows, dtype=torch.float64).log()


def drawn(n: int, c: int, spread: float, seed: int) -> torch.Tensor:
    """Scores [N, C] in float64."""
    return spread * torch.randn(n, c, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gradient(loss: Loss, student_NC: torch.Tensor, teacher_NC: torch.Tensor) -> torch.Tensor:
    """d loss / d scores [N, C], where the student's log-probabilities are the softmax of its scores."""
    scores_NC = student_NC.clone().requires_grad_()
    return torch.autograd.grad(loss.formula(scores_NC.log_softmax(-1), teacher_NC).sum(), scores_NC)[0]
