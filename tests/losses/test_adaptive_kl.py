from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from distributions import drawn, gradient, logs

from potstill.errors import JobError
from potstill.kernels.cells import Cells, Head, Term, cell_losses
from potstill.plugins import load_plugin


def akl(mu: float = 0.5) -> Any:
    return load_plugin("losses", {"kind": "adaptive_kl", "mu": mu})


FORWARD, REVERSE = load_plugin("losses", "forward_kl"), load_plugin("losses", "reverse_kl")


def held(loss: Any, student_NC: torch.Tensor, teacher_NC: torch.Tensor) -> Any:
    """The loss with the weights that it has here: what its gradient is that of."""
    share_N = loss.head_share(student_NC, teacher_NC)
    return lambda s, t: share_N * FORWARD.formula(s, t) + (1 - share_N) * REVERSE.formula(s, t)


def test_the_value_is_that_computed_by_hand() -> None:
    student, teacher = logs([0.25, 0.5, 0.25]), logs([0.5, 0.3, 0.2])
    forward = 0.5 * math.log(2) + 0.3 * math.log(0.6) + 0.2 * math.log(0.8)
    reverse = 0.25 * math.log(0.5) + 0.5 * math.log(5 / 3) + 0.25 * math.log(1.25)
    # gaps 0.25, 0.2, 0.05. A head of 0.6 is the first two words: 0.45 of 0.5. A head of 0.4 is the first: 0.25 of 0.5.
    assert float(akl(0.6).formula(student, teacher)) == pytest.approx(0.9 * forward + 0.1 * reverse)
    assert float(akl(0.4).formula(student, teacher)) == pytest.approx(0.5 * forward + 0.5 * reverse)


def test_the_head_is_half_of_the_teachers_probability_by_default() -> None:
    # The first word holds 0.6 alone; gaps 0.3, 0 and 0.3.
    student, teacher = logs([0.3, 0.3, 0.4]), logs([0.6, 0.3, 0.1])
    assert float(load_plugin("losses", "adaptive_kl").head_share(student, teacher)) == pytest.approx(0.5)


def test_words_that_are_equally_likely_stand_on_the_same_side_of_the_cut() -> None:
    # 0.25 four times: two would hold the half, and which two is nobody's business; all four are the head.
    student, teacher = logs([0.4, 0.3, 0.2, 0.1]), logs([0.25, 0.25, 0.25, 0.25])
    assert float(akl().head_share(student, teacher)) == 1.0


def test_a_head_of_thousands_of_words_is_found_too() -> None:
    # 3,000 words of 0.6 / 3,000 each tie and hold the half between them; beside it a head of one word of 0.9.
    teacher = logs([0.6 / 3000] * 3000 + [0.4 / 4000] * 4000 + [0.0], [0.9] + [0.1 / 6999] * 6999 + [0.0])
    student = logs([0.0] * 7000 + [1.0], [0.0] * 7000 + [1.0])
    # The student gives all to a word of the tail: the gaps sum to 2, the heads' to what they hold.
    assert akl().head_share(student, teacher).tolist() == pytest.approx([0.3, 0.45])


def test_a_sure_teacher_has_a_head_of_one_word() -> None:
    # gaps 1/2 and 1/4 + 1/4: forward ln 2, reverse 1/2 ln 1/2 + 2 * 1/4 (ln 1/4 + 30)
    value = akl().formula(logs([0.25, 0.5, 0.25]), logs([0.0, 1.0, 0.0]))
    assert float(value) == pytest.approx(0.5 * math.log(2) + 0.5 * (0.5 * math.log(0.5) + 0.5 * (math.log(0.25) + 30)))


@pytest.mark.parametrize("mu", [0.1, 0.5, 0.9])
def test_its_gradient_holds_the_weights_constant(mu: float) -> None:
    loss = akl(mu)
    scores, teacher = drawn(5, 7, 2.0, 0), drawn(5, 7, 2.0, 1).log_softmax(-1)
    formula = held(loss, scores.log_softmax(-1), teacher)
    leaf = scores.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: formula(x.log_softmax(-1), teacher), (leaf,))
    wanted = torch.autograd.grad(formula(leaf.log_softmax(-1), teacher).sum(), leaf)[0]
    torch.testing.assert_close(gradient(loss, scores, teacher), wanted)


def test_the_engine_gives_that_gradient_too() -> None:
    hidden, weight = drawn(4, 3, 1.0, 0).requires_grad_(), drawn(9, 3, 1.0, 1).requires_grad_()
    top = drawn(4, 9, 2.0, 2).log_softmax(-1).topk(3)
    head, cells = Head(weight, None, 1.0, None, 9), Cells(top.indices, top.values)
    ours = cell_losses(hidden, head, [Term(akl().formula, cells, 1.0, 1.0)])[0]
    student = torch.log_softmax(hidden @ weight.T, -1).gather(1, cells.index_NK)
    both = [torch.cat([part, torch.log1p(-part.exp().sum(1, keepdim=True))], dim=1) for part in (student, cells.logp_NK)]
    plain = held(akl(), both[0].detach(), both[1])(*both).sum()
    torch.testing.assert_close(ours, plain)
    for own, wanted in zip(
        torch.autograd.grad(ours, (hidden, weight)), torch.autograd.grad(plain, (hidden, weight)), strict=True
    ):
        torch.testing.assert_close(own, wanted)


@pytest.mark.parametrize("mu", [0.0, 1.0])
def test_a_head_of_nothing_or_of_everything_is_refused(mu: float) -> None:
    with pytest.raises(JobError, match="mu"):
        akl(mu)
