from __future__ import annotations

import math

import pytest
import torch

from potstill.kernels.divergences import mixed_logp, relative_entropy, reverse_relative_entropy

F64 = torch.float64


def logs(*probabilities: float) -> torch.Tensor:
    return torch.tensor([probabilities], dtype=F64).log()


def test_relative_entropy_is_that_computed_by_hand_and_0_log_0_is_0() -> None:
    # 1/2 ln((1/2) / (1/4)) + 1/2 ln((1/2) / (3/4)) = 1/2 ln(4/3)
    assert float(relative_entropy(logs(0.5, 0.5, 0.0), logs(0.25, 0.75, 0.0))) == pytest.approx(0.5 * math.log(4 / 3))
    assert float(relative_entropy(logs(1.0, 0.0), logs(0.5, 0.5))) == pytest.approx(math.log(2))


def test_the_floor_bounds_the_teachers_log_probability_alone() -> None:
    assert float(reverse_relative_entropy(logs(0.0, 1.0), logs(1.0, 0.0), -8.0)) == pytest.approx(8.0)
    assert float(reverse_relative_entropy(logs(1.0, 0.0), logs(1.0, 0.0), -8.0)) == 0.0


def test_a_mixture_is_that_of_the_probabilities() -> None:
    mixed = mixed_logp(logs(0.5, 0.5, 0.0), logs(0.0, 0.25, 0.0), 0.2).exp()
    torch.testing.assert_close(mixed, torch.tensor([[0.1, 0.1 + 0.2, 0.0]], dtype=F64))


@pytest.mark.parametrize("share", [1e-9, 0.5, 1 - 1e-9])
def test_a_mixture_is_differentiable_where_neither_has_any(share: float) -> None:
    one = torch.tensor([[0.0, -math.inf]], requires_grad=True)
    other = torch.tensor([[-math.inf, -math.inf]], requires_grad=True)
    slopes = torch.autograd.grad(mixed_logp(one, other, share).exp().sum(), (one, other))
    assert all(bool(torch.isfinite(slope).all()) for slope in slopes)
    assert slopes[0].tolist() == [[pytest.approx(share), 0.0]]
