"""Losses against a teacher that is there with its own projection: every word is a cell.

Tokens go in blocks. A block's student and teacher logits are one product each, in the products' dtype; then a few rows at a time,
in the cache, become log-probabilities, formula, and by autograd g = dL/dl. With G = sum of g and q = softmax(z),

    dL/dz_j = g_j - q_j G

takes the place of the student's logits, and two more products carry it on: 6 N V H + 2 N V Ht operations, whatever the formula.
Terms over a few words run on the same logits.

Names of tensors carry their shape: N tokens of the block, n of some rows, H hidden size, V words of the head (no padding).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from .entries import LN2, Group
from .sparse import Result, by_temperature, no_result, parts
from .terms import Cells, Full, Head, Term, value_of
from .tiles import TILE_WEIGHTS, HeadTiles, Wants, bend, product_dtype, put, put_product, unbend

DENSE_BYTES = {"cpu": 160 * 2**20, "cuda": 4 * 2**30}
"""What a block's logits may hold, student and teachers together."""
ROWS_ELEMENTS = {"cpu": 2**18, "cuda": 2**27}
"""Logits of the rows that a formula sees at once: a handful of arrays of them fit into a processor's cache."""


_Name = tuple[int, int]
"""Which teacher: several terms may have the same."""


class _Teacher(NamedTuple):
    """What one teacher says of a block: its products, before bias, scale and softcap."""

    head: Head
    raw_NV: torch.Tensor


def dense_losses(hidden_NH: torch.Tensor, head: Head, terms: Sequence[Term], wants: Wants) -> Result:
    """Any terms; those with a Full teacher see all words. Raises ValueError where its tokens or words are not the student's."""
    result = no_result(hidden_NH, head, len(terms), wants)
    teachers = {_name(term.cells): term.cells for term in terms if isinstance(term.cells, Full)}
    for full in teachers.values():
        _check(full, hidden_NH, head)
    budget = DENSE_BYTES.get(hidden_NH.device.type, DENSE_BYTES["cuda"])
    per_token = head.num_words * product_dtype(hidden_NH).itemsize * (1 + len(teachers))
    for rows in parts(len(hidden_NH), budget // per_token):
        heard = {name: _Teacher(full.head, _products(full.hidden_NH[rows], full.head)) for name, full in teachers.items()}
        raw_NV = _products(hidden_NH[rows], head)
        _Block(rows, head, terms, result, wants.any).make_gradient(raw_NV, heard)
        heard.clear()
        if wants.any:
            _carry_on(hidden_NH[rows], raw_NV, rows, head, result)
    return result


def _name(full: Full) -> _Name:
    return id(full.hidden_NH), id(full.head.weight_VH)


def _check(full: Full, hidden_NH: torch.Tensor, head: Head) -> None:
    if full.head.num_words != head.num_words or len(full.hidden_NH) != len(hidden_NH):
        raise ValueError(
            f"the teacher says {len(full.hidden_NH)} tokens over {full.head.num_words} words and the student {len(hidden_NH)} "
            f"over {head.num_words}; both must be equal: give a teacher with the student's vocabulary"
        )


def _head_tiles(hidden_NH: torch.Tensor, head: Head) -> HeadTiles:
    width = max(1, min(head.num_words, TILE_WEIGHTS // hidden_NH.shape[1]))
    return HeadTiles(head, product_dtype(hidden_NH), width)


def _products(hidden_NH: torch.Tensor, head: Head) -> torch.Tensor:
    """h W^T [N, V] in the products' dtype."""
    tiles = _head_tiles(hidden_NH, head)
    low_NH = hidden_NH.to(product_dtype(hidden_NH))
    raw_NV = low_NH.new_empty(len(low_NH), head.num_words)
    for number in range(len(tiles)):
        torch.mm(low_NH, tiles.weight(number).T, out=raw_NV[:, tiles.words(number)])
    return raw_NV


class _Block:
    """One block of tokens on its way from logits to the gradient of the products."""

    def __init__(self, rows: slice, head: Head, terms: Sequence[Term], result: Result, learning: bool) -> None:
        self.rows, self.head, self.result, self.learning = rows, head, result, learning
        self.terms = by_temperature(terms)
        self.words = slice(0, head.num_words)

    def make_gradient(self, raw_NV: torch.Tensor, heard: dict[_Name, _Teacher]) -> None:
        """Adds to the terms' sums, and puts the gradient of the products in their place."""
        head, exact, bias_V = self.head, self.result.sums.dtype, self.result.bias_V
        d_bias_V = torch.zeros(head.num_words if bias_V is not None else 0, dtype=exact, device=raw_NV.device)
        for part in parts(len(raw_NV), ROWS_ELEMENTS.get(raw_NV.device.type, ROWS_ELEMENTS["cuda"]) // head.num_words):
            z_nV = bend(raw_NV[part].to(exact, copy=True), head, self.words)
            dz_nV = torch.zeros_like(z_nV)
            for temperature, some in self.terms.items():
                soft_nV = z_nV / temperature
                full = {number: term for number, term in some.items() if isinstance(term.cells, Full)}
                if full:
                    spoken = {name: _logp(teacher, part, temperature, exact) for name, teacher in heard.items()}
                    self._add_full(full, soft_nV.log_softmax(dim=1), spoken, part, dz_nV)
                if len(full) < len(some):
                    few = {number: term for number, term in some.items() if isinstance(term.cells, Cells)}
                    self._add_few(few, soft_nV, part, dz_nV)
            if self.learning:
                raw_NV[part] = unbend(dz_nV, z_nV, head)
            if bias_V is not None:
                d_bias_V += dz_nV.sum(dim=0)
        if bias_V is not None:
            put(bias_V[self.words], d_bias_V, first=self.rows.start == 0)

    def _here(self, part: slice) -> slice:
        return slice(self.rows.start + part.start, self.rows.start + part.stop)

    def _add_full(
        self, terms: dict[int, Term], logq_nV: torch.Tensor, spoken: dict[_Name, torch.Tensor], part: slice, dz_nV: torch.Tensor
    ) -> None:
        """Terms of one temperature, over every word."""
        whole_n1 = torch.zeros_like(logq_nV[:, :1])
        for number, term in terms.items():
            assert isinstance(term.cells, Full)
            value, g_nV = value_of(term, logq_nV, spoken[_name(term.cells)], self._here(part), self.learning)
            self.result.sums[number] += value
            if g_nV is not None:
                dz_nV.add_(g_nV, alpha=term.share)
                whole_n1 += g_nV.sum(dim=1, keepdim=True) * term.share
        if self.learning:
            dz_nV.addcmul_(logq_nV.mul_(1.0 / LN2).exp2_(), whole_n1, value=-1.0)

    def _add_few(self, terms: dict[int, Term], soft_nV: torch.Tensor, part: slice, dz_nV: torch.Tensor) -> None:
        """Terms of one temperature, over the words that their teachers name: the two passes of `sparse.py`, on one tile."""
        group = Group(terms, self._here(part), self.head, soft_nV.dtype)
        (place,) = group.places([0, self.head.num_words])
        group.see(soft_nV.clone() if self.learning else soft_nV, 1.0 / LN2, 0, place)
        for number, value in group.settle(self.learning).items():
            self.result.sums[number] += value
        if self.learning:
            dz_nV += group.give(soft_nV, 1.0 / LN2, 0, place)


def _logp(teacher: _Teacher, part: slice, temperature: float, exact: torch.dtype) -> torch.Tensor:
    z_nV = bend(teacher.raw_NV[part].to(exact, copy=True), teacher.head, slice(0, teacher.head.num_words))
    return z_nV.div_(temperature).log_softmax(dim=1)


def _carry_on(hidden_NH: torch.Tensor, dz_NV: torch.Tensor, rows: slice, head: Head, result: Result) -> None:
    """From the gradient of the products to those of hidden states and head."""
    tiles, low_NH = _head_tiles(hidden_NH, head), hidden_NH.to(dz_NV.dtype)
    d_hidden_NH = None if result.hidden_NH is None else torch.zeros_like(hidden_NH, dtype=result.sums.dtype)
    for number in range(len(tiles)):
        words = tiles.words(number)
        if result.weight_VH is not None:
            put_product(result.weight_VH[words], dz_NV[:, words].T, low_NH, first=rows.start == 0)
        if d_hidden_NH is not None:
            put_product(d_hidden_NH, dz_NV[:, words], tiles.weight(number), first=False)
    if result.hidden_NH is not None and d_hidden_NH is not None:
        result.hidden_NH[rows] = d_hidden_NH
