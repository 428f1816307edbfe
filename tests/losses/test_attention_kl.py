from __future__ import annotations

import math

import pytest
import torch

from potstill.plugins import load_plugin

AVERAGED = load_plugin("losses", "attention_kl")
MATCHED = load_plugin("losses", {"kind": "attention_kl", "heads": "matched"})
F64 = torch.float64


def maps(*heads: list[float]) -> torch.Tensor:
    """One token's maps, as log-probabilities [1, A, T]."""
    return torch.tensor([heads], dtype=F64).log()


def test_the_value_is_that_computed_by_hand_head_by_head_and_of_the_mean_map() -> None:
    student, teacher = maps([0.5, 0.5], [0.25, 0.75]), maps([0.5, 0.5], [0.75, 0.25])
    # the second head: 3/4 ln 3 - 1/4 ln 3 = ln(3) / 2, the first 0
    assert float(MATCHED.formula(student, teacher)) == pytest.approx(math.log(3) / 4)
    # mean maps (3/8, 5/8) and (5/8, 3/8): 5/8 ln(5/3) - 3/8 ln(5/3)
    assert float(AVERAGED.formula(student, teacher)) == pytest.approx(math.log(5 / 3) / 4)


def test_averaged_maps_of_different_numbers_of_heads_are_compared() -> None:
    student, teacher = maps([0.5, 0.5]), maps([1.0, 0.0], [0.0, 1.0], [0.5, 0.5])
    assert float(AVERAGED.formula(student, teacher)) == pytest.approx(0.0)


@pytest.mark.parametrize("loss", [AVERAGED, MATCHED])
def test_keys_that_no_one_sees_add_nothing_and_a_key_that_the_teacher_ignores_neither(loss: object) -> None:
    formula = loss.formula  # type: ignore[attr-defined]
    short, long = (maps([0.2, 0.8]), maps([0.6, 0.4])), (maps([0.2, 0.8, 0.0]), maps([0.6, 0.4, 0.0]))
    assert float(formula(*short)) == pytest.approx(float(formula(*long)))
    # 1 ln(1 / 0.25)
    assert float(formula(maps([0.25, 0.75]), maps([1.0, 0.0]))) == pytest.approx(math.log(4))
    nothing = torch.full((1, 2, 3), -torch.inf, dtype=F64, requires_grad=True)
    value = formula(nothing, nothing.detach())
    (gradient,) = torch.autograd.grad(value.sum(), nothing)
    assert (value.item(), gradient.abs().sum().item()) == (0.0, 0.0)
