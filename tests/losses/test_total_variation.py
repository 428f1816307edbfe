from __future__ import annotations

import pytest
import torch
from distributions import drawn, gradient, logs

from potstill.plugins import load_plugin

LOSS = load_plugin("losses", "total_variation")


def test_the_value_is_that_computed_by_hand() -> None:
    # (|1/2 - 1/4| + |1/2 - 3/4|) / 2
    assert float(LOSS.formula(logs([0.25, 0.75]), logs([0.5, 0.5]))) == pytest.approx(0.25)


def test_distributions_that_share_no_word_are_1_apart() -> None:
    assert float(LOSS.formula(logs([0.0, 0.5, 0.5]), logs([1.0, 0.0, 0.0]))) == pytest.approx(1.0)


def test_the_gradient_of_the_scores_has_its_closed_form() -> None:
    scores, teacher = drawn(3, 7, 2.0, 0), drawn(3, 7, 2.0, 1).log_softmax(-1)
    q = scores.softmax(-1)
    side = (q - teacher.exp()).sign()
    torch.testing.assert_close(gradient(LOSS, scores, teacher), 0.5 * q * (side - (q * side).sum(-1, keepdim=True)))


def test_it_is_symmetric() -> None:
    one, other = drawn(4, 9, 3.0, 0).log_softmax(-1), drawn(4, 9, 3.0, 1).log_softmax(-1)
    torch.testing.assert_close(LOSS.formula(one, other), LOSS.formula(other, one))
