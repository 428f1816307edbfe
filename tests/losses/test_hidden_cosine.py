from __future__ import annotations

import pytest
import torch

from potstill.contracts import Build
from potstill.plugins import load_plugin

LOSS = load_plugin("losses", "hidden_cosine")
F64 = torch.float64


def test_the_value_is_that_computed_by_hand() -> None:
    # the same direction, a right angle, the opposite, and 1 - (3*4 + 4*3) / (5*5) = 1/25
    student = torch.tensor([[1.0, 2.0], [1.0, 0.0], [1.0, 2.0], [3.0, 4.0]], dtype=F64)
    teacher = torch.tensor([[2.0, 4.0], [0.0, 5.0], [-2.0, -4.0], [4.0, 3.0]], dtype=F64)
    assert LOSS.formula(student, teacher).tolist() == pytest.approx([0.0, 1.0, 2.0, 0.04])


def test_the_gradient_turns_a_state_and_does_not_stretch_it() -> None:
    student = torch.tensor([[3.0, 4.0]], dtype=F64, requires_grad=True)
    teacher = torch.tensor([[1.0, 0.0]], dtype=F64)
    (gradient,) = torch.autograd.grad(LOSS.formula(student, teacher).sum(), student)
    # -(t / |s| - (s.t) s / |s|^3) = -(1/5 - 3*3/125, -3*4/125)
    assert gradient[0].tolist() == pytest.approx([-0.128, 0.096])
    assert float((gradient * student.detach()).sum()) == pytest.approx(0.0)
    assert torch.autograd.gradcheck(lambda x: LOSS.formula(x, teacher), (student,))


def test_states_of_zero_and_of_ten_thousands_stay_finite() -> None:
    student = torch.tensor([[0.0, 0.0], [1e4, -1e4], [1e-6, 0.0]], requires_grad=True)
    value = LOSS.formula(student, torch.tensor([[1.0, 2.0], [-1e4, 1e4], [0.0, 0.0]]))
    (gradient,) = torch.autograd.grad(value.sum(), student)
    assert value.tolist() == pytest.approx([1.0, 2.0, 1.0])
    assert torch.isfinite(gradient).all()


def test_a_projection_stands_where_widths_differ_or_where_it_is_asked_for() -> None:
    one, other = (Build("A", 2, width, 2, {}) for width in (8, 16))
    assert LOSS.projects(one, other)
    assert not LOSS.projects(one, one)
    assert load_plugin("losses", {"kind": "hidden_cosine", "projection": "always"}).projects(one, one)
