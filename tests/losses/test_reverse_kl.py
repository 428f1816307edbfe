from __future__ import annotations

import math

import pytest
import torch
from distributions import drawn, gradient, logs

from potstill.errors import JobError
from potstill.plugins import load_plugin

LOSS = load_plugin("losses", "reverse_kl")


def test_the_value_is_that_computed_by_hand() -> None:
    # 1/4 ln((1/4) / (1/2)) + 3/4 ln((3/4) / (1/2)) = -0.173287 + 0.304099
    assert float(LOSS.formula(logs([0.25, 0.75]), logs([0.5, 0.5]))) == pytest.approx(0.130812, abs=1e-6)


def test_the_gradient_of_the_scores_has_its_closed_form() -> None:
    scores, teacher = drawn(3, 7, 2.0, 0), drawn(3, 7, 2.0, 1).log_softmax(-1)
    student = scores.log_softmax(-1)
    wanted = student.exp() * (student - teacher - LOSS.formula(student, teacher)[:, None])
    torch.testing.assert_close(gradient(LOSS, scores, teacher), wanted)


def test_a_word_that_the_teacher_excludes_counts_as_the_floor() -> None:
    # 1/2 (ln 1/2 - ln 1) + 1/2 (ln 1/2 - floor) = -ln 2 - floor / 2
    student, teacher = logs([0.5, 0.5]), logs([1.0, 0.0])
    assert float(LOSS.formula(student, teacher)) == pytest.approx(15 - math.log(2))
    assert float(load_plugin("losses", {"kind": "reverse_kl", "floor": -8}).formula(student, teacher)) == pytest.approx(
        4 - math.log(2)
    )
    # q (log q - floor - L) with L as above: 1/2 (-ln 2 + 30 - 15 + ln 2) = 7.5 on the excluded word, pushed down
    torch.testing.assert_close(gradient(LOSS, student, teacher), torch.tensor([[-7.5, 7.5]], dtype=torch.float64))


def test_log_probabilities_above_the_floor_are_untouched() -> None:
    teacher = torch.tensor([[-29.0, math.log1p(-math.exp(-29.0))]], dtype=torch.float64)
    assert float(LOSS.formula(logs([1.0, 0.0]), teacher)) == pytest.approx(29.0)


@pytest.mark.parametrize("floor", [0.0, 1.0, -math.inf, math.nan])
def test_a_floor_that_is_none_is_refused(floor: float) -> None:
    with pytest.raises(JobError, match="floor"):
        load_plugin("losses", {"kind": "reverse_kl", "floor": floor})
