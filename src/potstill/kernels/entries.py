"""The words that the teachers of one temperature name, and all that the engine knows of them: logits, values, gradients.

Names of tensors carry their shape: N tokens (of one block), K entries of one term, E entries of all terms of the temperature,
U distinct (token, word) pairs in the order of the words, so that those of a vocabulary tile are one slice; C = K + 1 cells.

Let E also name a token's set of entries. Outside it, with tail = log-sum-exp of the logits outside E,

    dL/dz_j = A exp(z_j - tail),   A = sum over terms of share (g_tail exp(tail - tail_t) - G exp(tail - all))

for a term's g_c = dL/dl_c, G = sum of all g_c, and tail_t = log-sum-exp of all that is outside the term's own words. All
exponents are at most 0, and nothing is a difference of probabilities: it holds for a tail of 1e-30 as for one of 0.9.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch

from .spans import NO_CELL, untorn
from .terms import Cells, Head, Term, tail_logp, value_of

EPILOGUE_ELEMENTS = 2**17
"""Cells that a formula sees at once: its temporaries stay in the cache and out of the memory's peak."""
LN2 = math.log(2.0)


class Pairs(NamedTuple):
    """The distinct (token, word) pairs of a block, and where each entry of each term finds its own."""

    row_U: torch.Tensor
    word_U: torch.Tensor
    slot_NE: torch.Tensor
    first_NE: torch.Tensor
    """Whether the entry is the first that names its word."""
    empty_NE: torch.Tensor
    """Whether the entry is no cell: index -1, or a word that the same term named before."""


def pairs_of(index_NE: torch.Tensor, term_E: torch.Tensor, num_words: int) -> Pairs:
    """Sorts by word, then token; a word of -1 comes behind all others."""
    num_tokens, num_entries = index_NE.shape
    rows_N1 = torch.arange(num_tokens, device=index_NE.device)[:, None]
    key_M, order_M = (index_NE.where(index_NE >= 0, num_words) * num_tokens + rows_N1).flatten().sort(stable=True)
    first_M = torch.ones_like(key_M, dtype=torch.bool)
    first_M[1:] = key_M[1:] != key_M[:-1]
    term_M = term_E[order_M % num_entries]
    again_M = ~first_M
    again_M[1:] &= term_M[1:] == term_M[:-1]
    unique_U = key_M[first_M]

    def by_entry(sorted_M: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(sorted_M).index_copy_(0, order_M, sorted_M).view(num_tokens, num_entries)

    return Pairs(
        row_U=(unique_U % num_tokens).int(),
        word_U=torch.div(unique_U, num_tokens, rounding_mode="floor").int(),
        slot_NE=by_entry((first_M.cumsum(0) - 1).int()),
        first_NE=by_entry(first_M),
        empty_NE=by_entry(again_M).logical_or_(index_NE < 0),
    )


class Group:
    """The terms of one temperature over the tokens `rows`. Logits are kept softened and in base 2: y = z / (T ln 2).

    Call `see` for every tile, `settle` once, and then `give` for every tile.
    """

    def __init__(self, terms: dict[int, Term], rows: slice, head: Head, exact: torch.dtype) -> None:
        self.terms, self.rows, self.head = terms, rows, head
        self.temperature = next(iter(terms.values())).temperature
        parts = [_cells(term).index_NK[rows] for term in terms.values()]
        device, widths = parts[0].device, [part.shape[1] for part in parts]
        self.columns = [slice(sum(widths[:t]), sum(widths[: t + 1])) for t in range(len(widths))]
        term_E = torch.arange(len(widths), device=device).repeat_interleave(torch.tensor(widths, device=device))
        self.pairs = pairs_of(torch.cat(parts, dim=1) if len(parts) > 1 else parts[0], term_E, head.num_words)
        num_tokens = len(self.pairs.slot_NE)
        self.y_U = torch.full(self.pairs.word_U.shape, -torch.inf, dtype=exact, device=device)
        self.grad_U = torch.zeros_like(self.y_U)
        self.outside_N1 = torch.zeros(num_tokens, 1, dtype=exact, device=device)  # A of the file's head
        self.top_N1 = torch.full_like(self.outside_N1, torch.finfo(exact).min)
        self.mass_N1 = torch.zeros_like(self.outside_N1)  # sum of 2^(y - top) outside the entries
        self.tail_N1 = torch.empty_like(self.outside_N1)  # top + log2(mass), with 0 in place of -inf

    def places(self, bounds: Sequence[int]) -> list[slice]:
        """The pairs of each tile, for tiles that begin at `bounds` (the last ends there)."""
        edges = torch.tensor(bounds, dtype=torch.int32, device=self.pairs.word_U.device)
        at = torch.searchsorted(self.pairs.word_U, edges).tolist()
        return [slice(start, end) for start, end in pairwise(at)]

    def see(self, z_NW: torch.Tensor, factor: float, start: int, place: slice) -> None:
        """Takes in the logits of the words from `start` on, and spoils them; y is `factor` times these."""
        at_M = self._at(z_NW, start, place)
        flat = z_NW.view(-1)
        self.y_U[place] = flat.index_select(0, at_M).mul_(factor)
        flat.index_fill_(0, at_M, -torch.inf)
        top_N1 = torch.maximum(self.top_N1, z_NW.amax(dim=1, keepdim=True).mul_(factor))
        self.mass_N1 *= (self.top_N1 - top_N1).exp2_()
        self.mass_N1 += torch.add(-top_N1, z_NW, alpha=factor, out=z_NW).exp2_().sum(dim=1, keepdim=True)
        self.top_N1 = top_N1

    def give(self, z_NW: torch.Tensor, factor: float, start: int, place: slice) -> torch.Tensor:
        """Turns the logits of the words from `start` on into their gradient, in place."""
        at_M = self._at(z_NW, start, place)
        torch.add(-self.tail_N1, z_NW, alpha=factor, out=z_NW).exp2_().mul_(self.outside_N1)
        z_NW.view(-1).index_copy_(0, at_M, self.grad_U[place])
        return z_NW

    def _at(self, y_NW: torch.Tensor, start: int, place: slice) -> torch.Tensor:
        return self.pairs.row_U[place].long() * y_NW.shape[1] + (self.pairs.word_U[place] - start)

    def settle(self, learning: bool) -> dict[int, torch.Tensor]:
        """Each term's sum; when `learning`, the gradients that `give` hands out."""
        sums = {number: torch.zeros((), dtype=self.y_U.dtype, device=self.y_U.device) for number in self.terms}
        tail_N1 = self.top_N1 + self.mass_N1.log2()
        num_tokens, num_entries = self.pairs.slot_NE.shape
        size = max(1, EPILOGUE_ELEMENTS // num_entries)
        member_TU = self._members() if len(self.terms) > 1 else None
        spans = [term.span_N[self.rows] for term in self.terms.values() if term.span_N is not None]
        for start, end in pairwise(untorn([*range(0, num_tokens, size), num_tokens], spans)):
            part = slice(start, end)
            self._settle_rows(part, LN2 * tail_N1[part], member_TU, sums, learning)
        self.tail_N1 = torch.where(tail_N1 == -torch.inf, 0.0, tail_N1)
        return sums

    def _members(self) -> torch.Tensor:
        """Whether a term names a pair's word as its own."""
        member_TU = torch.zeros(len(self.terms), len(self.y_U), dtype=torch.bool, device=self.y_U.device)
        for number, columns in enumerate(self.columns):
            member_TU[number].index_fill_(0, self.pairs.slot_NE[:, columns].flatten().long(), True)
        return member_TU

    def _settle_rows(
        self, part: slice, tail_n1: torch.Tensor, member_TU: torch.Tensor | None, sums: dict[int, torch.Tensor], learning: bool
    ) -> None:
        """The epilogue of some tokens; natural logarithms from here on."""
        slot_nE = self.pairs.slot_NE[part].long()
        once_nE = self.pairs.first_NE[part]
        z_nE = LN2 * self.y_U[slot_nE]
        all_n1 = torch.logaddexp(tail_n1, z_nE.where(once_nE, -torch.inf).logsumexp(dim=1, keepdim=True))
        by_word_nE = torch.zeros_like(z_nE)  # gradients of pairs, at their first entry
        by_cell_nE = torch.zeros_like(z_nE)  # gradients of the terms' own cells
        whole_n1 = torch.zeros_like(tail_n1)
        for number, (name, term) in enumerate(self.terms.items()):
            columns = self.columns[number]
            if member_TU is None:
                others_nE, rest_n1 = None, tail_n1
            else:
                others_nE = z_nE.where(once_nE & ~member_TU[number][slot_nE], -torch.inf)
                rest_n1 = torch.logaddexp(tail_n1, others_nE.logsumexp(dim=1, keepdim=True))
            empty_nK = self.pairs.empty_NE[part, columns]
            own_nK = (z_nE[:, columns] - all_n1).masked_fill_(empty_nK, NO_CELL)
            value, g_nC = self._value(term, part, own_nK, rest_n1 - all_n1, learning)
            sums[name] += value
            if g_nC is None:
                continue
            g_nC = g_nC * term.share
            num_own = own_nK.shape[1]
            by_cell_nE[:, columns] = g_nC[:, :num_own].masked_fill(empty_nK, 0.0)
            whole_n1 += by_cell_nE[:, columns].sum(dim=1, keepdim=True) + g_nC[:, num_own:].sum(dim=1, keepdim=True)
            if g_nC.shape[1] > num_own:
                g_tail_n1 = g_nC[:, num_own:]
                self.outside_N1[part] += g_tail_n1 * _share_of(tail_n1, rest_n1)
                if others_nE is not None:
                    by_word_nE += g_tail_n1 * _share_of(others_nE, rest_n1)
        if learning:
            by_word_nE -= whole_n1 * (z_nE - all_n1).exp_().where(once_nE, 0.0)
            self._keep(part, slot_nE, by_word_nE + by_cell_nE, tail_n1 - all_n1, whole_n1)

    def _value(
        self, term: Term, part: slice, own_nK: torch.Tensor, rest_n1: torch.Tensor, learning: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        rows = slice(self.rows.start + part.start, self.rows.start + part.stop)
        teacher_nC = _cells(term).logp_NK[rows].to(own_nK.dtype)
        if own_nK.shape[1] == self.head.num_words and term.span_N is None:  # every word is a cell of its own
            return value_of(term, own_nK, teacher_nC, rows, learning)
        teacher_nC = torch.cat([teacher_nC, tail_logp(teacher_nC)[:, None]], dim=1)
        return value_of(term, torch.cat([own_nK, rest_n1], dim=1), teacher_nC, rows, learning)

    def _keep(
        self, part: slice, slot_nE: torch.Tensor, grad_nE: torch.Tensor, tail_logq_n1: torch.Tensor, whole_n1: torch.Tensor
    ) -> None:
        self.outside_N1[part] -= whole_n1 * tail_logq_n1.exp()
        self.grad_U.index_add_(0, slot_nE.flatten(), grad_nE.flatten())


def _share_of(part: torch.Tensor, whole_n1: torch.Tensor) -> torch.Tensor:
    """exp(part - whole), 0 for a part of -inf even where the whole is -inf too."""
    return torch.where(part == -torch.inf, 0.0, (part - whole_n1).exp())


def _cells(term: Term) -> Cells:
    assert isinstance(term.cells, Cells)
    return term.cells
