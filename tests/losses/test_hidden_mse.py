from __future__ import annotations

import pytest
import torch

from potstill.contracts import Build
from potstill.errors import JobError
from potstill.plugins import load_plugin

LOSS = load_plugin("losses", "hidden_mse")
NORMALIZED = load_plugin("losses", {"kind": "hidden_mse", "normalized": True})
F64 = torch.float64


def test_the_value_is_that_computed_by_hand() -> None:
    # ((1 - 3)^2 + (2 - 1)^2) / 2 = 2.5; the same states differ by nothing
    student, teacher = torch.tensor([[1.0, 2.0], [4.0, 4.0]], dtype=F64), torch.tensor([[3.0, 1.0], [4.0, 4.0]], dtype=F64)
    assert LOSS.formula(student, teacher).tolist() == [2.5, 0.0]


def test_normalized_states_differ_by_direction_alone() -> None:
    # (3, 4) and (4, -3) at length sqrt(2): a right angle, so |s - t|^2 = 2 + 2, over a width of 2
    student, teacher = torch.tensor([[3.0, 4.0], [1.0, 1.0]], dtype=F64), torch.tensor([[40.0, -30.0], [7.0, 7.0]], dtype=F64)
    assert NORMALIZED.formula(student, teacher).tolist() == pytest.approx([2.0, 0.0])


def test_the_gradient_is_two_over_the_width_times_the_difference() -> None:
    student = torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=F64, requires_grad=True)
    (gradient,) = torch.autograd.grad(LOSS.formula(student, torch.zeros(1, 4, dtype=F64)).sum(), student)
    assert gradient.tolist() == [[0.5, 1.0, 1.5, 2.0]]
    assert torch.autograd.gradcheck(lambda x: NORMALIZED.formula(x, torch.ones(1, 4, dtype=F64)), (student,))


def test_states_of_zero_and_of_ten_thousands_stay_finite() -> None:
    for loss in (LOSS, NORMALIZED):
        student = torch.tensor([[0.0, 0.0], [1e4, -1e4]], requires_grad=True)
        value = loss.formula(student, torch.tensor([[1.0, 2.0], [-1e4, 1e4]]))
        (gradient,) = torch.autograd.grad(value.sum(), student)
        assert torch.isfinite(value).all()
        assert torch.isfinite(gradient).all()


def test_a_projection_stands_where_widths_differ_or_where_it_is_asked_for() -> None:
    one, other = (Build("A", 2, width, 2, {}) for width in (8, 16))
    assert LOSS.projects(one, other)
    assert not LOSS.projects(one, one)
    assert load_plugin("losses", {"kind": "hidden_mse", "projection": "always"}).projects(one, one)
    with pytest.raises(JobError, match="projection"):
        load_plugin("losses", {"kind": "hidden_mse", "projection": "never"})
