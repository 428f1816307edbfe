"""Texts of several tokens as one cell: what a student gives to a span of its tokens, and to anything else.

A teacher of another tokenizer may say in one token, or with one probability, what the student says in several. By the chain
rule log q(span) is the sum of the log-probabilities of its tokens, each after those before it. Anything else is: the first
token deviates, or the first is kept and the second deviates, and so on, so

    log(1 - q(span)) = log-sum-exp over j of (sum of log q_i for i < j) + log(1 - q_j)

which holds for a rest of 1e-30 as for one of 0.9, as each token's tail is known by itself. Autograd carries a formula's gradient
back to the tokens' own cells, and the engine goes on from there.

Names of tensors carry their shape: N tokens, G spans, M spans of several tokens, L tokens of the longest, C cells of a token.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

import torch

NO_CELL = -1e4
"""The log-probability of a cell that holds no word: exp of it is 0, and 0 times it is still 0."""


class Spanned(NamedTuple):
    """The cells of each span, and which token is its first."""

    logp_GC: torch.Tensor
    first_G: torch.Tensor


def spanned(logp_NC: torch.Tensor, span_N: torch.Tensor) -> Spanned:
    """Tokens' cells as spans' cells. A span of one token keeps its cells; one of several has its text in the first cell, all
    else in the last, and nothing between. The first cell of each of its tokens must be that token, the last one all others."""
    starts_N = starts_of(span_N)
    first_G = starts_N.nonzero()[:, 0]
    if len(first_G) == len(span_N):
        return Spanned(logp_NC, first_G)
    size_G = torch.diff(first_G, append=first_G.new_tensor([len(span_N)]))
    several_M = (size_G > 1).nonzero()[:, 0]
    at_L = torch.arange(int(size_G.max()), device=span_N.device)
    inside_ML = at_L < size_G[several_M, None]
    token_ML = (first_G[several_M, None] + at_L).clamp_max_(len(span_N) - 1)
    own_ML = logp_NC[:, 0][token_ML].masked_fill(~inside_ML, 0.0)
    kept_ML = own_ML.cumsum(dim=1)
    deviates_ML = kept_ML - own_ML + logp_NC[:, -1].clamp_min(NO_CELL)[token_ML]
    logp_GC = logp_NC.index_select(0, first_G)
    logp_GC[several_M, 0] = kept_ML[:, -1]
    logp_GC[several_M, -1] = deviates_ML.masked_fill(~inside_ML, -torch.inf).logsumexp(dim=1)
    return Spanned(logp_GC, first_G)


def starts_of(span_N: torch.Tensor) -> torch.Tensor:
    """Whether a token is the first of its span; tokens of a span are neighbours."""
    starts_N = torch.ones_like(span_N, dtype=torch.bool)
    starts_N[1:] = span_N[1:] != span_N[:-1]
    return starts_N


def untorn(edges: Sequence[int], spans: Sequence[torch.Tensor]) -> list[int]:
    """Edges that cut tokens into parts, each moved back to where it tears no span; those that fall together are one."""
    if not spans:
        return list(edges)
    allowed_N = torch.stack([starts_of(span_N) for span_N in {id(span_N): span_N for span_N in spans}.values()]).all(dim=0)
    allowed = [*allowed_N.nonzero()[:, 0].tolist(), len(allowed_N)]
    return sorted({allowed[bisect_right(allowed, edge) - 1] for edge in edges})
