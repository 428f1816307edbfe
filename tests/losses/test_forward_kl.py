from __future__ import annotations

import math

import pytest
import torch
from distributions import drawn, gradient, logs

from potstill.plugins import load_plugin

LOSS = load_plugin("losses", "forward_kl")


def test_the_value_is_that_computed_by_hand() -> None:
    # 1/2 ln((1/2) / (1/4)) + 1/2 ln((1/2) / (3/4)) = 1/2 ln(4/3)
    assert float(LOSS.formula(logs([0.25, 0.75]), logs([0.5, 0.5]))) == pytest.approx(0.5 * math.log(4 / 3), abs=1e-15)


def test_the_gradient_of_the_scores_is_student_less_teacher() -> None:
    scores, teacher = drawn(3, 7, 2.0, 0), drawn(3, 7, 2.0, 1).log_softmax(-1)
    torch.testing.assert_close(gradient(LOSS, scores, teacher), scores.softmax(-1) - teacher.exp())


def test_a_word_that_the_student_excludes_is_dear_but_finite() -> None:
    assert float(LOSS.formula(logs([0.0, 1.0]), logs([0.5, 0.5]))) == pytest.approx(0.5e30)
    assert float(LOSS.formula(logs([0.0, 1.0]), logs([0.0, 1.0]))) == 0.0


def test_far_apart_log_probabilities_are_not_cut() -> None:
    student = torch.tensor([[-2e4, 0.0]], requires_grad=True)
    value = LOSS.formula(student, torch.tensor([[0.0, -math.inf]]))
    assert float(value.detach()) == 2e4
    assert torch.autograd.grad(value.sum(), student)[0].tolist() == [[-1.0, 0.0]]
