from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from distributions import drawn, gradient, logs

from potstill.errors import JobError
from potstill.plugins import load_plugin


def skew(alpha: float = 0.1) -> Any:
    return load_plugin("losses", {"kind": "skew_kl", "alpha": alpha})


def test_the_value_is_that_computed_by_hand() -> None:
    # m = 1/10 p + 9/10 q = (0.275, 0.725): 1/2 ln(0.5 / 0.275) + 1/2 ln(0.5 / 0.725)
    by_hand = 0.5 * math.log(20 / 11) + 0.5 * math.log(20 / 29)
    assert float(load_plugin("losses", "skew_kl").formula(logs([0.25, 0.75]), logs([0.5, 0.5]))) == pytest.approx(by_hand)


def test_the_gradient_of_the_scores_has_its_closed_form() -> None:
    scores, teacher = drawn(3, 7, 2.0, 0), drawn(3, 7, 2.0, 1).log_softmax(-1)
    q, p = scores.softmax(-1), teacher.exp()
    ratio = p / (0.3 * p + 0.7 * q)
    wanted = -0.7 * q * (ratio - (q * ratio).sum(-1, keepdim=True))
    torch.testing.assert_close(gradient(skew(0.3), scores, teacher), wanted)


def test_it_goes_to_forward_kl_as_alpha_goes_to_0() -> None:
    student, teacher = drawn(4, 9, 1.0, 0).log_softmax(-1), drawn(4, 9, 1.0, 1).log_softmax(-1)
    forward = load_plugin("losses", "forward_kl").formula(student, teacher)
    torch.testing.assert_close(skew(1e-7).formula(student, teacher), forward, rtol=1e-4, atol=1e-5)


def test_a_word_that_the_student_excludes_costs_no_more_than_minus_log_alpha() -> None:
    assert float(skew(0.1).formula(logs([0.0, 1.0]), logs([1.0, 0.0]))) == pytest.approx(math.log(10))


@pytest.mark.parametrize("alpha", [0.0, 1.0, -1.0])
def test_an_alpha_that_mixes_nothing_is_refused(alpha: float) -> None:
    with pytest.raises(JobError, match="alpha"):
        skew(alpha)
