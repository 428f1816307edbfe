"""What a loss must offer: a formula over log-probabilities, or over what student and teacher compute inside.

Names of tensors carry their shape: N target tokens, C cells (k singletons and one tail), H hidden size, A attention heads,
R relation heads, T keys.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from .plugins import Plugin
from .types import Signal

if TYPE_CHECKING:
    import torch


class Loss(Plugin):
    """A formula over the log-probabilities that student and teacher give to the same cells.

    Masking, temperature, the factor T^2 and the division by the global number of target tokens happen once, outside.
    """

    needs: ClassVar[Signal] = Signal.TEXT
    takes_samples: ClassVar[bool] = False
    """Whether it is linear in the teacher's probabilities, so that random-sampled signals give its gradient without bias."""
    ranked: ClassVar[bool] = False
    """Whether its cells are ranks: the likeliest word of each, the second likeliest and so on, whatever words they are."""
    weight: float = Field(default=1.0, ge=0.0, description="share of this loss in the weighted sum")
    final_weight: float | None = Field(
        default=None, ge=0.0, description="the weight at the end, reached linearly (train.ramp_share); default: it stays"
    )

    @abstractmethod
    def formula(self, student_logp_NC: torch.Tensor, teacher_logp_NC: torch.Tensor) -> torch.Tensor:
        """One value a token [N], differentiable in the student's log-probabilities.

        A loss that needs text alone gets two cells: the target token (teacher probability 1) and everything else.
        """


Inside = Literal["hidden", "attention", "queries", "keys", "values"]
LAYERS = ("even", "last", "all")


@dataclass(frozen=True, slots=True)
class Build:
    """What a loss may know of a model: layers, hidden size, attention heads, the widths of queries, keys and values, all heads
    together ({} where it is not known how the model makes them), and the layers that make no attention maps."""

    architecture: str
    depth: int
    width: int
    num_heads: int
    widths: Mapping[Inside, int]
    without_maps: tuple[int, ...] = ()


class LayerLoss(Loss):
    """A formula over what student and teacher compute inside, for pairs of layers; its value is the mean over the pairs.

    `formula` gets tensors with one row a target token. "hidden": states [N, H], the student's as wide as the teacher's, by a
    learned projection where they are not. "attention": the log-probability of each key [N, A, T]. "queries", "keys" or
    "values": that of each key in softmax(X X^T / sqrt(width of a head)) [N, R, T]. A key that the token cannot see has -inf, so
    that the value of a token does not depend on its neighbours in a line. The temperature has no part in it.
    """

    needs: ClassVar[Signal] = Signal.HIDDEN
    layers: Literal["even", "last", "all"] | tuple[tuple[int, int], ...] = Field(
        default="even",
        description="which layer learns from which: even (spread over the teacher's depth), last, all (both as deep), or pairs "
        "[student's, teacher's] such as [[1, 2], [2, 4]]; 1 is the first layer, 0 the embeddings",
    )

    @field_validator("layers", mode="before")
    @classmethod
    def _even_last_all_or_pairs(cls, value: Any) -> Any:
        def is_pair(one: Any) -> bool:
            whole = isinstance(one, list | tuple) and all(type(layer) is int and layer >= 0 for layer in one)
            return whole and len(one) == 2

        if value in LAYERS or (isinstance(value, list | tuple) and value and all(is_pair(one) for one in value)):
            return value
        raise ValueError(f"{value!r} is neither even, last, all nor a list of pairs [student's layer, teacher's layer]")

    def looks_at(self) -> Sequence[Inside]:
        """What of each layer is compared; of several, the mean."""
        return ("hidden",)

    def problem(self, student: Build, teacher: Build) -> str | None:
        """Why these two models cannot be compared so; None where they can."""
        del student, teacher
        return None

    def projects(self, student: Build, teacher: Build) -> bool:
        """Whether the student's hidden states go through a learned projection to the teacher's width."""
        return student.width != teacher.width

    def num_relation_heads(self, student: Build, teacher: Build) -> int:
        """Into how many heads queries, keys and values are split."""
        del student, teacher
        return 1
