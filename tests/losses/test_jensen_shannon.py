from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from distributions import drawn, gradient, logs

from potstill.errors import JobError
from potstill.plugins import load_plugin


def jsd(beta: float) -> Any:
    return load_plugin("losses", {"kind": "jensen_shannon", "beta": beta})


def kl(kind: str) -> Any:
    return load_plugin("losses", kind)


def test_the_values_are_those_computed_by_hand() -> None:
    student, teacher = logs([0.25, 0.75]), logs([0.5, 0.5])
    # m = (3/8, 5/8): 1/2 (1/2 ln 4/3 + 1/2 ln 4/5) + 1/2 (1/4 ln 2/3 + 3/4 ln 6/5) = 0.0161346 + 0.0176874
    assert float(jsd(0.5).formula(student, teacher)) == pytest.approx(0.033822, abs=1e-6)
    # m = 1/4 p + 3/4 q = (5/16, 11/16): a quarter of the teacher's divergence from m and three of the student's
    by_hand = 0.25 * (0.5 * math.log(8 / 5) + 0.5 * math.log(8 / 11)) + 0.75 * (0.25 * math.log(4 / 5) + 0.75 * math.log(12 / 11))
    assert float(jsd(0.25).formula(student, teacher)) == pytest.approx(by_hand, abs=1e-15)


def test_the_gradient_of_the_scores_has_its_closed_form() -> None:
    scores, teacher = drawn(3, 7, 2.0, 0), drawn(3, 7, 2.0, 1).log_softmax(-1)
    q, p = scores.softmax(-1), teacher.exp()
    gap = q.log() - (0.3 * p + 0.7 * q).log()
    wanted = 0.7 * q * (gap - (q * gap).sum(-1, keepdim=True))
    torch.testing.assert_close(gradient(jsd(0.3), scores, teacher), wanted)


def test_it_is_forward_kl_at_0_and_reverse_kl_at_1() -> None:
    student, teacher = drawn(4, 9, 3.0, 0).log_softmax(-1), drawn(4, 9, 3.0, 1).log_softmax(-1)
    teacher = torch.cat([teacher, logs(*[[0.0]] * 4)], dim=1)  # a word of probability 0, where reverse KL has its floor
    student = torch.cat([student + math.log(0.5), logs(*[[0.5]] * 4)], dim=1)
    torch.testing.assert_close(jsd(0).formula(student, teacher), kl("forward_kl").formula(student, teacher))
    torch.testing.assert_close(jsd(1).formula(student, teacher), kl("reverse_kl").formula(student, teacher))


def test_divided_by_its_share_it_goes_to_those_limits() -> None:
    student, teacher = drawn(4, 9, 1.0, 0).log_softmax(-1), drawn(4, 9, 1.0, 1).log_softmax(-1)
    forward, reverse = kl("forward_kl").formula(student, teacher), kl("reverse_kl").formula(student, teacher)
    torch.testing.assert_close(jsd(1e-6).formula(student, teacher) / 1e-6, forward, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(jsd(1 - 1e-6).formula(student, teacher) / 1e-6, reverse, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_distributions_that_share_no_word_are_as_far_apart_as_it_goes(beta: float) -> None:
    # KL(p || beta p) = -ln beta and KL(q || (1 - beta) q) = -ln(1 - beta)
    most = -beta * math.log(beta) - (1 - beta) * math.log1p(-beta)
    assert float(jsd(beta).formula(logs([1.0, 0.0]), logs([0.0, 1.0]))) == pytest.approx(most)


@pytest.mark.parametrize("beta", [-0.1, 1.1, math.nan])
def test_a_beta_that_is_no_share_is_refused(beta: float) -> None:
    with pytest.raises(JobError, match="beta"):
        jsd(beta)
