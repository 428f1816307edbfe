"""One distribution of several teachers, p = sum_t w_t p_t, as its own top-k cells, without the logits of a whole batch.

Each teacher's distribution is softened by the temperature first and mixed then, as averages of teachers' soft targets are
(Hinton et al. 2015; You et al. 2017). The top k and the tail are those of the mixture: the top k of each teacher alone would
not give it.

The weights w_t may differ from token to token: by how sure a teacher is there, or by what it gives to a true answer.
Names of tensors carry their shape: N tokens (n of one chunk), H hidden size, W words, T teachers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch

from .cells import CHUNK_BYTES, Cells, Head, logits

LIVE_COPIES = 3
"""One teacher's scores, the mixture so far, and their sum."""


class Voice(NamedTuple):
    """What one teacher's model says of N tokens, and its share of the mixture, of all tokens or of each [N]; shares of a token
    add up to 1."""

    hidden_NH: torch.Tensor
    head: Head
    share: float | torch.Tensor


@torch.no_grad()
def weighed(
    voices: Sequence[Voice], by: Literal["confidence", "gold"], target_N: torch.Tensor, is_gold_N: torch.Tensor
) -> list[Voice]:
    """The voices with a share for each token; by gold, tokens of a text that is no gold answer keep the shares they have."""
    prior_T = torch.tensor([voice.share for voice in voices], dtype=torch.float64)
    told_TN = torch.stack([_entropies(voice) if by == "confidence" else _target_logp(voice, target_N) for voice in voices])
    if by == "confidence":
        shares_TN = confident_shares(prior_T, told_TN)
    else:
        shares_TN = torch.where(is_gold_N, gold_shares(prior_T, told_TN), prior_T[:, None])
    return [voice._replace(share=share_N) for voice, share_N in zip(voices, shares_TN, strict=True)]


def confident_shares(prior_T: torch.Tensor, entropy_TN: torch.Tensor) -> torch.Tensor:
    """w_t exp(-H_t), made to add up to 1 [T, N]: the entropy in nats of each teacher's own distribution, before softening.

    exp(-H) is 1 for a teacher that is sure and 1 / W for one that knows nothing of W words.
    """
    return (prior_T.log()[:, None] - entropy_TN).softmax(dim=0)


def gold_shares(prior_T: torch.Tensor, logp_TN: torch.Tensor) -> torch.Tensor:
    """w_t (1 - exp(L_t) / sum_u exp(L_u)), made to add up to 1 [T, N], with L_t = -log p_t(gold), before softening.

    With equal weights this is CA-MKD's equation for teachers' predictions (Zhang et al. 2022, arXiv 2201.00007), of which two
    teachers get p_1 / (p_1 + p_2) and p_2 / (p_1 + p_2). A single teacher gets all.
    """
    if len(prior_T) == 1:
        return torch.ones_like(logp_TN)
    loss_TN = -logp_TN.clamp_min(-1e30)  # where all are impossible all count the same
    shares_TN = prior_T[:, None] * (1 - loss_TN.softmax(dim=0))
    return shares_TN / shares_TN.sum(dim=0)


def _entropies(voice: Voice) -> torch.Tensor:
    found = [z_nW.logsumexp(dim=1) - (z_nW.softmax(dim=1) * z_nW).sum(dim=1) for _, z_nW in _scores(voice)]
    return torch.cat(found).double().cpu()


def _target_logp(voice: Voice, target_N: torch.Tensor) -> torch.Tensor:
    """Log-probabilities [N] of the text's own words; -inf of one that the head has no row for."""
    found = []
    for rows, z_nW in _scores(voice):
        target_n = target_N[rows].to(z_nW.device)
        known_n = target_n < voice.head.num_words
        logp_n = z_nW.gather(1, target_n.where(known_n, 0)[:, None])[:, 0] - z_nW.logsumexp(dim=1)
        found.append(logp_n.masked_fill(~known_n, -torch.inf))
    return torch.cat(found).double().cpu()


def _scores(voice: Voice) -> Iterator[tuple[slice, torch.Tensor]]:
    """One teacher's scores [n, W] of all its tokens, chunk by chunk."""
    size = max(1, CHUNK_BYTES // (4 * voice.head.num_words * LIVE_COPIES))
    for start in range(0, len(voice.hidden_NH), size):
        yield slice(start, start + size), _scores_of(voice, slice(start, start + size))


def _scores_of(voice: Voice, rows: slice) -> torch.Tensor:
    hidden_NH, head = voice.hidden_NH, voice.head
    exact = torch.float64 if hidden_NH.dtype == torch.float64 else torch.float32
    words_WH = head.weight_VH[: head.num_words].to(hidden_NH.dtype)
    bias_W = None if head.bias_V is None else head.bias_V[: head.num_words].to(exact)
    return logits(hidden_NH[rows], words_WH, bias_W, head, exact)


@torch.no_grad()
def mixed_cells(voices: Sequence[Voice], top_k: int, temperature: float) -> Cells:
    """The mixture's top-k log-probabilities at temperature T, chunk by chunk.

    A word that one teacher's head has no row for gets nothing from that teacher.
    """
    num_words = max(voice.head.num_words for voice in voices)
    num_tokens = voices[0].hidden_NH.shape[0]
    size = max(1, CHUNK_BYTES // (4 * num_words * LIVE_COPIES))
    tops = [_mixed_part(voices, slice(start, start + size), temperature, num_words).topk(min(top_k, num_words), dim=1)
            for start in range(0, num_tokens, size)]  # fmt: skip
    return Cells(torch.cat([top.indices for top in tops]), torch.cat([top.values for top in tops]))


@torch.no_grad()
def cells_with_targets(voices: Sequence[Voice], target_N: torch.Tensor, top_k: int, temperature: float) -> Cells:
    """The same with each token's own word in one more column, -1 where the top k have it: [N, k + 1]."""
    num_words = max(voice.head.num_words for voice in voices)
    size = max(1, CHUNK_BYTES // (4 * num_words * LIVE_COPIES))
    index, logp = [], []
    for start in range(0, len(target_N), size):
        rows = slice(start, start + size)
        p_nW, own_n1 = _mixed_part(voices, rows, temperature, num_words), target_N[rows, None].to(voices[0].hidden_NH.device)
        top = p_nW.topk(min(top_k, num_words), dim=1)
        is_there_n1 = (top.indices == own_n1).any(dim=1, keepdim=True)
        index.append(torch.cat([top.indices, own_n1.masked_fill(is_there_n1, -1)], dim=1))
        logp.append(torch.cat([top.values, p_nW.gather(1, own_n1).masked_fill(is_there_n1, -torch.inf)], dim=1))
    return Cells(torch.cat(index), torch.cat(logp))


def _mixed_part(voices: Sequence[Voice], rows: slice, temperature: float, num_words: int) -> torch.Tensor:
    """log p of these tokens [n, W]."""
    mixed_nW: torch.Tensor | None = None
    for voice in voices:
        z_nW = _scores_of(voice, rows) / temperature
        z_nW -= z_nW.logsumexp(dim=1, keepdim=True) - _log_share(voice.share, rows, z_nW)
        if z_nW.shape[1] < num_words:
            z_nW = torch.nn.functional.pad(z_nW, (0, num_words - z_nW.shape[1]), value=-torch.inf)
        mixed_nW = z_nW if mixed_nW is None else torch.logaddexp(mixed_nW, z_nW)
    assert mixed_nW is not None, "a mixture has at least one voice"
    return mixed_nW


def _log_share(share: float | torch.Tensor, rows: slice, like: torch.Tensor) -> float | torch.Tensor:
    return math.log(share) if isinstance(share, float) else share[rows, None].log().to(like)
