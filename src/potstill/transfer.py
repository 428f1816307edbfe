"""Losses on the insides of student and teacher: which layers meet, with which projections, and what that costs.

DistilBERT and Patient KD (arXiv 1908.09355) compare hidden states, TinyBERT (arXiv 1909.10351) hidden states by a learned
projection and attention maps, MiniLM (arXiv 2002.10957, 2012.15828) relations of queries, keys and values.

Names of tensors carry their shape: N target tokens, B lines, T positions of a line (the keys), H hidden size, A attention heads,
R relation heads, D width of one, M most targets of a line.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel

from .batches import Batch
from .contracts import Build, Inside, LayerLoss
from .errors import JobError
from .insides import (
    OUTPUTS,
    Insides,
    Place,
    attention_modules,
    examine,
    looks_ahead,
    prefers_eager,
    rehearse,
    visible_keys,
    watching,
)
from .recipe import uses_bf16
from .student import hidden_states, keeps_packed_rows_apart

LEAST = 1e-30
"""Attention below this counts as this: a map is a softmax already, and 0 has no logarithm. It gets no gradient there."""


class Pair(NamedTuple):
    """A layer of the student and the one of the teacher that it learns from."""

    student: int
    teacher: int


def pairs_of(loss: LayerLoss, student: Build, teacher: Build) -> list[Pair]:
    """The loss's `layers` for two models of known depth; raises JobError when they do not fit.

    `even`: layer i of L learns from the first of the teacher's L' layers that is at least as deep, ceil(i L' / L); the last from
    the last. With L' a multiple of L this is TinyBERT's uniform map.
    """
    deep, other = student.depth, teacher.depth
    if loss.layers == "even":
        return [Pair(layer, -(-layer * other // deep)) for layer in range(1, deep + 1)]
    if loss.layers == "last":
        return [Pair(deep, other)]
    if loss.layers == "all":
        if deep != other:
            raise JobError(
                f"train.losses: {loss.kind} with layers: all needs models of one depth, and {student.architecture} has {deep} "
                f"layers and {teacher.architecture} {other}; use even, last, or pairs [student's layer, teacher's layer]"
            )
        return [Pair(layer, layer) for layer in range(1, deep + 1)]
    assert not isinstance(loss.layers, str)
    least = 0 if tuple(loss.looks_at()) == ("hidden",) else 1
    for pair in loss.layers:
        for who, layer, build in (("student", pair[0], student), ("teacher", pair[1], teacher)):
            if not least <= layer <= build.depth:
                raise JobError(
                    f"train.losses: {loss.kind} pairs layers {list(pair)}, and the {who} {build.architecture} has layers {least} "
                    f"to {build.depth}; each pair is [student's layer, teacher's layer]"
                )
    return [Pair(*pair) for pair in loss.layers]


def layer_problem(loss: LayerLoss, student: Build, teacher: Build) -> str | None:
    """Why this loss is impossible between two models; None where it is possible."""
    try:
        pairs = pairs_of(loss, student, teacher)
    except JobError as error:
        return str(error)
    for number, build in enumerate((student, teacher)):
        bare = sorted({pair[number] for pair in pairs} & set(build.without_maps)) if "attention" in loss.looks_at() else []
        if bare:
            return (
                f"train.losses: {loss.kind} compares attention maps, and layer {bare[0]} of {build.architecture} makes none; "
                "name layers that do (layers: [[student's, teacher's], ...]), or use hidden_mse"
            )
        missing = [inside for inside in loss.looks_at() if inside not in OUTPUTS and inside not in build.widths]
        if missing:
            return (
                f"train.losses: {loss.kind} needs {', '.join(missing)}, and how {build.architecture} makes them is not known "
                "(known: LLaMA, Qwen and others with q_proj, k_proj and v_proj in each layer, Phi-3, GPT-2, BERT, DistilBERT); "
                "use attention_kl or hidden_mse"
            )
    problem = loss.problem(student, teacher)
    return problem and f"train.losses: {loss.kind} {problem}"


class TeacherInsides:
    """A teacher that stays in memory while the student learns: its hidden states are never kept.

    One token of one layer takes 2 H bytes, 8 kB at H = 4,096, where its 64 likeliest words take 384; and a map takes T numbers
    a head. It sees the very lines that the student sees, so its keys are the student's keys.
    """

    def __init__(self, model: PreTrainedModel, precision: str = "auto") -> None:
        self.model = model
        self.bf16 = uses_bf16(precision, model.device.type, model.config.get_text_config().hidden_size)

    @contextlib.contextmanager
    def watched(self, places: Collection[Place]) -> Iterator[dict[Place, torch.Tensor]]:
        """Records what any forward pass of the teacher shows meanwhile."""
        with watching(self.model, places) as seen:
            yield seen

    @torch.no_grad()
    def read(self, batch: Batch) -> None:
        """One forward pass over the student's own lines."""
        moved = batch.to(self.model.device)
        with torch.autocast(self.model.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            hidden_states(self.model, moved.input_ids_BT, moved.position_ids_BT)


class _Plan(NamedTuple):
    loss: LayerLoss
    pairs: list[Pair]
    num_heads: int


class Transfer(nn.Module):
    """The layer losses of one training. Its parameters, the projections, are trained with the student and not saved with it."""

    def __init__(self, losses: Sequence[LayerLoss], student: PreTrainedModel, teacher: PreTrainedModel, seed: int = 0) -> None:
        """Raises JobError when a loss is impossible between the two. Maps need attention that builds them, so where a loss looks
        at attention both models compute it that way from now on, and the student without dropout: a map with holes diverges from
        every other."""
        super().__init__()
        own, other = examine(student), examine(teacher)
        for loss in losses:
            if (problem := layer_problem(loss, own, other)) is not None:
                raise JobError(problem)
        self.plans = [_Plan(loss, pairs_of(loss, own, other), loss.num_relation_heads(own, other)) for loss in losses]
        self.weights = [loss.weight for loss in losses]
        looked_at = {inside for loss in losses for inside in loss.looks_at()}
        self.without_dropout: tuple[nn.Module, ...] = ()
        if "attention" in looked_at:
            prefers_eager(student)
            prefers_eager(teacher)
            self.without_dropout = tuple(attention_modules(student))
        for model, whose in ((student, "student"), (teacher, "teacher")):
            model.eval()
            rehearse(model, self.places(whose))
        ahead = looks_ahead(student), looks_ahead(teacher)
        if "attention" in looked_at and ahead[0] != ahead[1]:
            raise JobError(
                f"train.losses: attention maps of {own.architecture} and {other.architecture} cover different tokens, for one of "
                "them sees later tokens and the other does not; use relation or hidden_mse"
            )
        self.looks_ahead = all(ahead)
        self.takes_packed = keeps_packed_rows_apart(student) and keeps_packed_rows_apart(teacher)
        self.projections = _projections(self.plans, own, other, seed)

    def places(self, whose: str) -> set[Place]:
        """What the losses look at in the student or in the teacher."""
        return {(inside, getattr(pair, whose)) for plan in self.plans for inside in plan.loss.looks_at() for pair in plan.pairs}

    def forward(self, student: Insides, teacher: Insides, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """The weighted sum over the targets, and each loss's own sum without its weight, detached; the caller divides."""
        visible_NT = visible_keys(batch, self.looks_ahead)
        values = [self._value(number, student, teacher, batch, visible_NT) for number in range(len(self.plans))]
        counts_N = batch.weight_N
        sums = torch.stack([(value_N if counts_N is None else value_N * counts_N.to(value_N.dtype)).sum() for value_N in values])
        weights = torch.tensor(self.weights, dtype=sums.dtype, device=sums.device)
        return (sums * weights).sum(), sums.detach()

    def _value(self, number: int, student: Insides, teacher: Insides, batch: Batch, visible_NT: torch.Tensor) -> torch.Tensor:
        """One loss's value of each target [N]: the mean over the pairs of layers and over what is looked at."""
        found, plan = [], self.plans[number]
        for inside in plan.loss.looks_at():
            for pair in plan.pairs:
                own, other = student[inside, pair.student], teacher[inside, pair.teacher].detach()
                if inside == "hidden":
                    name = _name(number, pair)
                    own = own.flatten(0, 1).index_select(0, batch.at_N)
                    own = self.projections[name](own) if name in self.projections else own
                    other = other.flatten(0, 1).index_select(0, batch.at_N)
                with torch.autocast(batch.at_N.device.type, enabled=False):
                    one, two = (_compared(inside, exact(x), batch, visible_NT, plan.num_heads) for x in (own, other))
                    found.append(plan.loss.formula(one, two))
        return torch.stack(found).mean(dim=0)


def exact(x: torch.Tensor) -> torch.Tensor:
    """fp32, whatever precision the products had; float64 stays."""
    return x if x.dtype == torch.float64 else x.float()


def map_logp(weights_BATT: torch.Tensor, batch: Batch, visible_NT: torch.Tensor) -> torch.Tensor:
    """Log-probabilities [N, A, T] that each head gives to the keys of the targets."""
    line_N, at_N = batch.at_N // weights_BATT.shape[-1], batch.at_N % weights_BATT.shape[-1]
    logp_NAT = weights_BATT[line_N, :, at_N].clamp_min(LEAST).log()
    return logp_NAT.masked_fill(~visible_NT[:, None], -torch.inf)


def relation_logp(vectors_BTW: torch.Tensor, batch: Batch, visible_NT: torch.Tensor, num_heads: int) -> torch.Tensor:
    """log softmax(X X^T / sqrt(D)) [N, R, T] of the targets' rows, in R heads of width D = W / R (arXiv 2012.15828, eq. 5)."""
    num_lines, length = vectors_BTW.shape[:2]
    heads_BTRD = vectors_BTW.unflatten(-1, (num_heads, -1))
    line_N, at_N = batch.at_N // length, batch.at_N % length
    per_line_B = torch.bincount(line_N, minlength=num_lines)
    slot_N = torch.arange(len(line_N), device=line_N.device) - (per_line_B.cumsum(0) - per_line_B)[line_N]  # targets come by line
    place_BM = torch.zeros(num_lines, int(per_line_B.max()), dtype=torch.long, device=line_N.device)
    place_BM[line_N, slot_N] = at_N
    own_BMRD = heads_BTRD[torch.arange(num_lines, device=line_N.device)[:, None], place_BM]
    scores_BRMT = own_BMRD.transpose(1, 2) @ heads_BTRD.permute(0, 2, 3, 1) * heads_BTRD.shape[-1] ** -0.5
    scores_NRT: torch.Tensor = scores_BRMT[line_N, :, slot_N]
    return scores_NRT.masked_fill(~visible_NT[:, None], -torch.inf).log_softmax(dim=-1)


def _compared(inside: Inside, found: torch.Tensor, batch: Batch, visible_NT: torch.Tensor, num_heads: int) -> torch.Tensor:
    if inside == "hidden":
        return found
    if inside == "attention":
        return map_logp(found, batch, visible_NT)
    return relation_logp(found, batch, visible_NT, num_heads)


def _name(number: int, pair: Pair) -> str:
    """A projection's name: which loss, and the layers that it joins."""
    return f"{number}-{pair.student}-{pair.teacher}"


def _projections(plans: Sequence[_Plan], student: Build, teacher: Build, seed: int) -> nn.ModuleDict:
    """A matrix W for each pair of layers, without a bias (TinyBERT, eq. 8), drawn from the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    made = nn.ModuleDict()
    for number, plan in enumerate(plans):
        if "hidden" not in plan.loss.looks_at() or not plan.loss.projects(student, teacher):
            continue
        for pair in plan.pairs:
            layer = nn.utils.skip_init(nn.Linear, student.width, teacher.width, bias=False)
            nn.init.normal_(layer.weight, std=student.width**-0.5, generator=generator)
            made[_name(number, pair)] = layer
    return made
