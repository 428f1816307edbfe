"""One answer in two tokenizers: what the teacher says of its tokens as cells of the student's words.

Groups of tokens (`alignment.py`) become cells.

- One token of each: a teacher's word that spells what a word of the student spells is that word's cell, and the rest of the
  teacher's distribution is the tail. The text's own token is always taken for the student's.
- Several tokens of either: two cells, just this text and anything else. Its log-probability is the sum of its tokens': the
  teacher's here, the student's in the loss (`kernels/spans.py`).

Exact is the probability that each model gives to the bytes of a group as its own tokens, by the chain rule. Approximate is that a
text has one tokenisation for each model, the one that its tokenizer gives, though others of the same bytes have some probability
too; and that two words that spell the same are taken for the same event, though a model that knows a longer word means by the
shorter one that the longer does not follow. At a temperature other than 1 each token's distribution is softened, not a group's.

Names of arrays carry their shape: T the teacher's tokens, N the student's, G groups, U words of all tokens, K cells of a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from .aligned_terms import Aligned
from .alignment import Groups
from .kernels.cells import Cells

Array = npt.NDArray[Any]


class Words(NamedTuple):
    """What a teacher says of its tokens: so many words each, with their log-probabilities; its own token is among them."""

    sizes_T: Array
    words_U: Array
    logp_U: Array


class Entries(NamedTuple):
    """Numbers that stand at a token: which token, which word, and its log-probability."""

    place_U: Array
    word_U: Array
    logp_U: Array


class RowCells(NamedTuple):
    """One row's part of `Aligned`: each token's group, whether a teacher says something of it, cells, and sorted ranks."""

    group_N: Array
    told_N: Array
    cells: Entries
    ranks: Entries


def untold(num_tokens: int) -> RowCells:
    """A row of which the teacher says nothing: it counts for no divergence."""
    nothing = Entries(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    return RowCells(np.arange(num_tokens), np.zeros(num_tokens, bool), nothing, nothing)


def cells_of_row(
    groups: Groups, teacher_T: Array, answer_N: Array, words: Words, maps: tuple[Array, Array], num_top: int | None
) -> RowCells:
    """`teacher_T` and `answer_N` are both sides' tokens. `maps` give the student's word for each of the teacher's (-1: none), in
    the first group and elsewhere. `num_top` words count besides, or including, the token itself; None: all that are given."""
    size_G, place_G = np.diff(groups.teacher_G, append=len(teacher_T)), groups.student_G
    student_size_G = np.diff(place_G, append=len(answer_N))
    group_T, group_N = (np.repeat(np.arange(len(size_G)), sizes) for sizes in (size_G, student_size_G))
    token_U = np.repeat(np.arange(len(teacher_T)), words.sizes_T)
    is_own_U = words.words_U == teacher_T[token_U]
    sum_G = np.bincount(group_T, weights=words.logp_U[is_own_U], minlength=len(size_G))
    counts_U = ~is_own_U | (num_top is None) | (words.sizes_T[token_U] <= (num_top or 0))
    is_single_G, is_told_G = (size_G == 1) & (student_size_G == 1), size_G > 0
    group_U = group_T[token_U]
    word_U = np.where(group_U == 0, maps[0][words.words_U], maps[1][words.words_U])
    word_U = np.where(is_own_U, answer_N[place_G[group_U]], word_U)
    one_U = is_single_G[group_U] & counts_U & (word_U >= 0)
    several_M = np.flatnonzero((~is_single_G & is_told_G)[group_N])
    sum_M = np.where(np.isin(several_M, place_G), sum_G[group_N[several_M]], -np.inf)
    single = _merged(Entries(place_G[group_U[one_U]], word_U[one_U], words.logp_U[one_U]))
    several = Entries(several_M, answer_N[several_M], sum_M.astype(np.float32))
    first_U = np.isin(token_U, groups.teacher_G[is_told_G]) & counts_U
    ranks = Entries(place_G[group_U[first_U]], word_U[first_U], words.logp_U[first_U])
    cells = Entries(*(np.concatenate(parts) for parts in zip(single, several, strict=True)))
    return RowCells(group_N, is_told_G[group_N], cells, ranks)


def _merged(entries: Entries) -> Entries:
    """Words of the teacher that are one word of the student at one place are one cell, with the sum of their probabilities."""
    order = np.lexsort((entries.word_U, entries.place_U))
    place_U, word_U, logp_U = (part[order] for part in entries)
    is_new_U = np.ones(len(order), bool)
    is_new_U[1:] = (place_U[1:] != place_U[:-1]) | (word_U[1:] != word_U[:-1])
    if is_new_U.all():
        return entries
    sum_U = np.logaddexp.reduceat(logp_U, np.flatnonzero(is_new_U))
    return Entries(place_U[is_new_U], word_U[is_new_U], sum_U)


def joined(rows: Sequence[RowCells]) -> Aligned:
    """The rows of a batch, one behind the other."""
    sizes = [len(row.group_N) for row in rows]
    starts = np.cumsum([0, *sizes])
    groups = np.cumsum([0, *(int(row.group_N[-1]) + 1 if len(row.group_N) else 0 for row in rows)])
    index_NK, logp_NK = _table(_behind([row.cells for row in rows], starts), starts[-1])
    _, ranks_NK = _table(_sorted(_behind([row.ranks for row in rows], starts)), starts[-1])
    span_N = np.concatenate([row.group_N + before for row, before in zip(rows, groups[:-1], strict=True)])
    told_N = np.concatenate([row.told_N for row in rows]).astype(np.float32)
    parts = (torch.from_numpy(array) for array in (index_NK, logp_NK, span_N, told_N, ranks_NK))
    index, logp, span, told, ranks = parts
    return Aligned(Cells(index, logp), span, told, ranks)


def _behind(parts: Sequence[Entries], starts: Array) -> Entries:
    places = np.concatenate([part.place_U + start for part, start in zip(parts, starts[:-1], strict=True)])
    return Entries(places, *(np.concatenate([part[column] for part in parts]) for column in (1, 2)))


def _sorted(entries: Entries) -> Entries:
    order = np.lexsort((-entries.logp_U, entries.place_U))
    return Entries(*(part[order] for part in entries))


def _table(entries: Entries, num_tokens: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Entries as rows of as many columns as the fullest token needs, at least one; what is left is no word."""
    order = np.argsort(entries.place_U, kind="stable")
    place_U = entries.place_U[order]
    counts_N = np.bincount(place_U, minlength=num_tokens)
    column_U = np.arange(len(order)) - np.repeat(np.cumsum(counts_N) - counts_N, counts_N)
    shape = (num_tokens, max(1, int(counts_N.max(initial=0))))
    index_NK, logp_NK = np.full(shape, -1, np.int64), np.full(shape, -np.inf, np.float32)
    index_NK[place_U, column_U], logp_NK[place_U, column_U] = entries.word_U[order], entries.logp_U[order]
    return index_NK, logp_NK
