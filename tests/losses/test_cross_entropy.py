from __future__ import annotations

import math

import pytest
import torch
from distributions import logs

from potstill.plugins import load_plugin

LOSS = load_plugin("losses", "cross_entropy")


def test_the_value_is_that_computed_by_hand() -> None:
    # -ln 1/4: the first cell is the target, whatever the second is
    assert float(LOSS.formula(logs([0.25, 0.75]), logs([1.0, 0.0]))) == pytest.approx(math.log(4))


def test_it_is_forward_kl_to_a_teacher_that_is_sure_of_the_text() -> None:
    student = logs([0.25, 0.75], [0.9, 0.1])
    forward = load_plugin("losses", "forward_kl").formula(student, logs([1.0, 0.0], [1.0, 0.0]))
    torch.testing.assert_close(LOSS.formula(student, logs([1.0, 0.0], [1.0, 0.0])), forward)
