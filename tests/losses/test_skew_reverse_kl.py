from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from distributions import drawn, gradient, logs

from potstill.errors import JobError
from potstill.plugins import load_plugin


def skew(alpha: float = 0.1) -> Any:
    return load_plugin("losses", {"kind": "skew_reverse_kl", "alpha": alpha})


def test_the_value_is_that_computed_by_hand() -> None:
    # m = 1/10 q + 9/10 p = (0.475, 0.525): 1/4 ln(0.25 / 0.475) + 3/4 ln(0.75 / 0.525)
    by_hand = 0.25 * math.log(10 / 19) + 0.75 * math.log(10 / 7)
    value = load_plugin("losses", "skew_reverse_kl").formula(logs([0.25, 0.75]), logs([0.5, 0.5]))
    assert float(value) == pytest.approx(by_hand)


def test_the_gradient_of_the_scores_has_its_closed_form() -> None:
    scores, teacher = drawn(3, 7, 2.0, 0), drawn(3, 7, 2.0, 1).log_softmax(-1)
    q, p = scores.softmax(-1), teacher.exp()
    mixture = 0.3 * q + 0.7 * p
    slope = (q / mixture).log() + 1 - 0.3 * q / mixture  # of q log(q / m), in q
    wanted = q * (slope - (q * slope).sum(-1, keepdim=True))
    torch.testing.assert_close(gradient(skew(0.3), scores, teacher), wanted)


def test_it_goes_to_reverse_kl_as_alpha_goes_to_0() -> None:
    student, teacher = drawn(4, 9, 1.0, 0).log_softmax(-1), drawn(4, 9, 1.0, 1).log_softmax(-1)
    reverse = load_plugin("losses", "reverse_kl").formula(student, teacher)
    torch.testing.assert_close(skew(1e-7).formula(student, teacher), reverse, rtol=1e-4, atol=1e-5)


def test_a_word_that_the_teacher_excludes_costs_no_more_than_minus_log_alpha() -> None:
    assert float(skew(0.1).formula(logs([0.0, 1.0]), logs([1.0, 0.0]))) == pytest.approx(math.log(10))


@pytest.mark.parametrize("alpha", [0.0, 1.0, -1.0])
def test_an_alpha_that_mixes_nothing_is_refused(alpha: float) -> None:
    with pytest.raises(JobError, match="alpha"):
        skew(alpha)
