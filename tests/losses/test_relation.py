from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from potstill.contracts import Build
from potstill.errors import JobError
from potstill.plugins import load_plugin

LOSS = load_plugin("losses", "relation")
F64 = torch.float64


def maps(*heads: list[float]) -> torch.Tensor:
    """One token's relations, as log-probabilities [1, R, T]."""
    return torch.tensor([heads], dtype=F64).log()


def test_the_value_is_that_computed_by_hand() -> None:
    student, teacher = maps([0.5, 0.5], [0.25, 0.75]), maps([0.5, 0.5], [0.75, 0.25])
    # the second head: 3/4 ln 3 - 1/4 ln 3 = ln(3) / 2, the first 0
    assert float(LOSS.formula(student, teacher)) == pytest.approx(math.log(3) / 4)


def test_the_gradient_of_the_scores_is_the_difference_of_probabilities() -> None:
    scores = torch.tensor([[[0.3, -1.0, 2.0], [0.0, 0.5, 1.0]]], dtype=F64, requires_grad=True)
    teacher = maps([0.2, 0.3, 0.5], [0.0, 0.5, 0.5])
    (gradient,) = torch.autograd.grad(LOSS.formula(scores.log_softmax(-1), teacher).sum(), scores)
    torch.testing.assert_close(gradient, (scores.softmax(-1) - teacher.exp()).detach() / 2)


def test_keys_that_no_one_sees_add_nothing() -> None:
    assert float(LOSS.formula(maps([0.2, 0.8, 0.0]), maps([0.6, 0.4, 0.0]))) == pytest.approx(
        float(LOSS.formula(maps([0.2, 0.8]), maps([0.6, 0.4])))
    )
    nothing = torch.full((1, 2, 3), -torch.inf, dtype=F64, requires_grad=True)
    value = LOSS.formula(nothing, nothing.detach())
    (gradient,) = torch.autograd.grad(value.sum(), nothing)
    assert (value.item(), gradient.abs().sum().item()) == (0.0, 0.0)


def test_scores_of_ten_thousands_stay_finite() -> None:
    scores = torch.tensor([[[1e4, -1e4, 0.0]]], requires_grad=True)
    value = LOSS.formula(scores.log_softmax(-1), torch.tensor([[[-1e4, 1e4, 0.0]]]).log_softmax(-1))
    (gradient,) = torch.autograd.grad(value.sum(), scores)
    assert value.item() == pytest.approx(2e4)
    assert torch.isfinite(gradient).all()


def test_heads_must_divide_the_widths_that_are_looked_at_in_both_models() -> None:
    widths: Any = {"queries": 32, "keys": 16, "values": 16}
    other: Any = {"queries": 24, "keys": 24, "values": 24}
    one, two = Build("A", 2, 32, 4, widths), Build("B", 2, 24, 3, other)
    chosen = load_plugin("losses", {"kind": "relation", "relation_heads": 16})
    assert chosen.problem(one, one) is None
    assert chosen.problem(one, two) == "has relation_heads: 16, which must divide 24, the widths"
    assert LOSS.problem(one, two) is None
    assert LOSS.num_relation_heads(one, two) == 4
    assert LOSS.num_relation_heads(two, two) == 3


@pytest.mark.parametrize("of", [[], ["hidden"], "queries and keys"])
def test_relations_of_nothing_or_of_something_else_are_refused(of: Any) -> None:
    with pytest.raises(JobError, match="of"):
        load_plugin("losses", {"kind": "relation", "of": of})
