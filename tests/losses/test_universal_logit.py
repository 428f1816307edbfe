from __future__ import annotations

import pytest
import torch
from distributions import drawn, gradient, logs

from potstill.plugins import load_plugin

LOSS = load_plugin("losses", "universal_logit")


def test_the_value_is_that_computed_by_hand() -> None:
    # |0.6 - 0.5| + |0.3 - 0.25| + |0.1 - 0.25|
    assert float(LOSS.formula(logs([0.5, 0.25, 0.25]), logs([0.6, 0.3, 0.1]))) == pytest.approx(0.3, abs=1e-15)


def test_it_lies_between_0_and_2() -> None:
    assert float(LOSS.formula(logs([1.0, 0.0]), logs([0.0, 1.0]))) == 2.0
    assert float(LOSS.formula(logs([0.0, 1.0]), logs([0.0, 1.0]))) == 0.0


def test_the_gradient_of_the_scores_moves_probability_to_the_ranks_that_lack_it() -> None:
    scores, teacher = drawn(3, 7, 2.0, 0), drawn(3, 7, 2.0, 1).log_softmax(-1)
    q, sign = scores.softmax(-1), (scores.softmax(-1) - teacher.exp()).sign()
    torch.testing.assert_close(gradient(LOSS, scores, teacher), q * (sign - (q * sign).sum(-1, keepdim=True)))
