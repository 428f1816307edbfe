"""What the loss engine is told: the projection, what a teacher says of each token, and the formulas to be summed.

Names of tensors carry their shape: N target tokens, H hidden size, V vocabulary, K teacher entries a token, C cells: for a
sparse teacher K + 1 (the K singletons and one tail cell that holds the rest of the vocabulary), for a dense one V.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from .spans import spanned

Formula = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(student_logp_NC, teacher_logp_NC) -> one value a token [N]: each token's from its own row alone, for the engine calls it on
any part of the rows. A word's probability is 0 where its log-probability is -inf; value and gradient stay finite there."""


class Head(NamedTuple):
    """The projection onto the vocabulary: logits = softcap(scale (h W^T + b)); only `num_words` rows are real words."""

    weight_VH: torch.Tensor
    bias_V: torch.Tensor | None
    scale: float
    softcap: float | None
    num_words: int


class Cells(NamedTuple):
    """What a teacher says of N tokens: K words each with log-probabilities; the tail holds what they leave.

    An index of -1 is no word, for tokens with fewer words than others; so is a word that its token was given before. Both need
    a log-probability of -inf.
    """

    index_NK: torch.Tensor
    logp_NK: torch.Tensor


class Full(NamedTuple):
    """A teacher that is there: its last hidden states and its head. The formula sees V singletons and no tail.

    Its hidden size and its padded rows may differ from the student's; `num_words` is the same.
    """

    hidden_NH: torch.Tensor
    head: Head


class Term(NamedTuple):
    """One loss of the weighted sum. Its value and gradient are multiplied by weight and temperature^2, and those of each
    token by what the token counts; None: all count 1.

    Neighbouring tokens of the same number in `span_N` are one cell's text (`spans.py`), for Cells alone: the formula gets one
    row a span, what the teacher says of it and what it counts stand at its first token. None: each token stands for itself.
    """

    formula: Formula
    cells: Cells | Full
    weight: float
    temperature: float
    counts_N: torch.Tensor | None = None
    span_N: torch.Tensor | None = None

    @property
    def share(self) -> float:
        """What its gradient with respect to the softened logits is multiplied by: T^2, and 1/T of the softening."""
        return self.weight * self.temperature


def tail_logp(logp_NK: torch.Tensor) -> torch.Tensor:
    """log(1 - sum of the K probabilities) [N]; -inf where they leave nothing (to the precision of the sum)."""
    rest_N = 1.0 - logp_NK.double().exp().sum(dim=-1)
    return torch.where(rest_N > 0, rest_N.clamp_min(1e-300).log(), -torch.inf).to(logp_NK.dtype)


def text_cells(target_N: torch.Tensor) -> Cells:
    """The text as a teacher that is sure: one cell of probability 1."""
    return Cells(target_N[:, None], torch.zeros(len(target_N), 1, device=target_N.device))


def target_loss(student_logp_NC: torch.Tensor, teacher_logp_NC: torch.Tensor) -> torch.Tensor:
    """Cross entropy with the text: the formula of the validation loss [N]."""
    return -student_logp_NC[:, 0]


def value_of(term: Term, student_logp_NC: torch.Tensor, teacher_logp_NC: torch.Tensor, rows: slice, learning: bool,
             ) -> tuple[torch.Tensor, torch.Tensor | None]:  # fmt: skip
    """The term's sum over these rows, and its gradient [n, C] with respect to the student's log-probabilities."""
    counts_N = None if term.counts_N is None else term.counts_N[rows]
    with torch.enable_grad():
        student_logp_NC = student_logp_NC.detach().requires_grad_(learning)
        seen_NC = student_logp_NC
        if term.span_N is not None:
            seen_NC, first_G = spanned(student_logp_NC, term.span_N[rows])
            teacher_logp_NC, counts_N = teacher_logp_NC[first_G], None if counts_N is None else counts_N[first_G]
        value_N = term.formula(seen_NC, teacher_logp_NC)
        if counts_N is not None:
            value_N = value_N * counts_N.to(value_N.dtype)
        value = value_N.sum()
    gradient_NC = torch.autograd.grad(value, student_logp_NC)[0] if learning else None
    return value.detach(), gradient_NC
