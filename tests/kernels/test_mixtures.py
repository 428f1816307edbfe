"""The mixture's cells are those of the dense mixture, however it is cut into chunks."""

from __future__ import annotations

import math

import pytest
import torch

from potstill.kernels import mixtures
from potstill.kernels.cells import Head, tail_logp, teacher_cells
from potstill.kernels.mixtures import Voice, confident_shares, gold_shares, mixed_cells, weighed
from potstill.kernels.sampling import drawn_words

NUM_TOKENS = 23


def voice(seed: int, hidden: int, words: int, share: float, **more: object) -> Voice:
    torch.manual_seed(seed)
    fields = {"bias_V": None, "scale": 1.0, "softcap": None, "num_words": words, **more}
    head = Head(torch.randn(words + 7, hidden, dtype=torch.float64), **fields)  # type: ignore[arg-type]
    return Voice(torch.randn(NUM_TOKENS, hidden, dtype=torch.float64), head, share)


def dense(voices: list[Voice], temperature: float, words: int) -> torch.Tensor:
    """The mixture's probabilities, straight from the formula."""
    mixed = torch.zeros(NUM_TOKENS, words, dtype=torch.float64)
    for hidden, head, share in voices:
        scores = hidden @ head.weight_VH.T[:, : head.num_words] * head.scale
        if head.softcap:
            scores = head.softcap * torch.tanh(scores / head.softcap)
        mixed[:, : head.num_words] += share * torch.softmax(scores / temperature, dim=-1)
    return mixed


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("chunk_bytes", [1, 4 * 50 * 3 * 4, 2**25])
def test_cells_are_those_of_the_dense_mixture(temperature: float, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixtures, "CHUNK_BYTES", chunk_bytes)
    voices = [voice(0, 16, 50, 0.5), voice(1, 8, 50, 0.3, scale=0.5), voice(2, 12, 50, 0.2, softcap=5.0)]
    cells = mixed_cells(voices, 6, temperature)
    wanted = dense(voices, temperature, 50).topk(6, dim=1)
    assert cells.index_NK.tolist() == wanted.indices.tolist()
    torch.testing.assert_close(cells.logp_NK, wanted.values.log(), atol=1e-12, rtol=0)
    torch.testing.assert_close(tail_logp(cells.logp_NK).exp(), 1 - wanted.values.sum(dim=1), atol=1e-12, rtol=0)


def test_one_voice_alone_says_what_the_teacher_says() -> None:
    hidden, head, share = voice(3, 16, 50, 1.0, bias_V=torch.arange(57, dtype=torch.float64) / 57)
    alone, mixed = teacher_cells(hidden.float(), head, 5, 2.0), mixed_cells([Voice(hidden.float(), head, share)], 5, 2.0)
    assert alone.index_NK.tolist() == mixed.index_NK.tolist()
    torch.testing.assert_close(alone.logp_NK, mixed.logp_NK, atol=1e-6, rtol=0)


def test_a_word_without_a_row_in_one_head_gets_the_other_teachers_share() -> None:
    small, large = voice(4, 8, 3, 0.5), voice(5, 8, 5, 0.5)
    cells = mixed_cells([small, large], 5, 1.0)
    wanted = dense([small, large], 1.0, 5)
    torch.testing.assert_close(cells.logp_NK, wanted.gather(1, cells.index_NK).log(), atol=1e-12, rtol=0)
    assert math.isclose(float(cells.logp_NK.exp().sum()), NUM_TOKENS)


def test_the_mixtures_top_is_not_the_top_of_any_one_teacher() -> None:
    """A word that is second with both teachers is first of the mixture: top k of each alone would have lost it."""
    ones = torch.ones(1, 1, dtype=torch.float64)
    left = Head(torch.tensor([[math.log(0.55)], [math.log(0.45)], [-50.0]], dtype=torch.float64), None, 1.0, None, 3)
    right = Head(torch.tensor([[-50.0], [math.log(0.45)], [math.log(0.55)]], dtype=torch.float64), None, 1.0, None, 3)
    cells = mixed_cells([Voice(ones, left, 0.5), Voice(ones, right, 0.5)], 1, 1.0)
    assert cells.index_NK.tolist() == [[1]]
    assert float(cells.logp_NK.exp()) == pytest.approx(0.45)


EVEN = torch.tensor([0.5, 0.5], dtype=torch.float64)


def test_shares_by_confidence_are_those_counted_by_hand() -> None:
    """A sure teacher counts 1, one that spreads over four words 1/4: 0.8 and 0.2; with weights of 1 to 3, 4/7 and 3/7."""
    entropies = torch.tensor([[0.0], [math.log(4)]], dtype=torch.float64)
    assert confident_shares(EVEN, entropies)[:, 0].tolist() == pytest.approx([0.8, 0.2])
    weights = torch.tensor([0.25, 0.75], dtype=torch.float64)
    assert confident_shares(weights, entropies)[:, 0].tolist() == pytest.approx([4 / 7, 3 / 7])


def test_shares_by_gold_are_those_counted_by_hand() -> None:
    """CA-MKD: with p = 0.8 and 0.2, exp(L) = 1.25 and 5, so 1 - 0.2 and 1 - 0.8. Three with 1/2, 1/4, 1/4: exp(L) = 2, 4, 4, so
    0.8, 0.6, 0.6, halved."""
    assert gold_shares(EVEN, torch.tensor([[0.8], [0.2]]).double().log())[:, 0].tolist() == pytest.approx([0.8, 0.2])
    third = torch.full((3,), 1 / 3, dtype=torch.float64)
    three = gold_shares(third, torch.tensor([[0.5], [0.25], [0.25]]).double().log())
    assert three[:, 0].tolist() == pytest.approx([0.4, 0.3, 0.3])
    assert gold_shares(torch.ones(1, dtype=torch.float64), torch.tensor([[-3.0]])).tolist() == [[1.0]]
    weights = torch.tensor([0.75, 0.25], dtype=torch.float64)
    assert gold_shares(weights, torch.tensor([[0.5], [0.5]]).double().log())[:, 0].tolist() == pytest.approx([0.75, 0.25])


@pytest.mark.parametrize("shares", [confident_shares, gold_shares])
def test_shares_of_a_token_add_up_to_1_whatever_the_teachers_say(shares: object) -> None:
    extreme = [0.0, 1e-8, 1.0, 30.0, 1e4]
    if shares is gold_shares:
        extreme = [-one for one in extreme] + [-torch.inf]
    pairs = torch.cartesian_prod(*[torch.tensor(extreme, dtype=torch.float64)] * 3).T
    prior = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    found = shares(prior, pairs)  # type: ignore[operator]
    assert bool((found >= 0).all())
    torch.testing.assert_close(found.sum(dim=0), torch.ones(pairs.shape[1], dtype=torch.float64))
    torch.testing.assert_close(shares(prior.flip(0), pairs.flip(0)).flip(0), found)  # type: ignore[operator]


@pytest.mark.parametrize("by", ["confidence", "gold"])
@pytest.mark.parametrize("chunk_bytes", [1, 2**25])
def test_a_weighed_mixture_is_the_dense_one_token_by_token(by: str, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against plain softmax: certainty before softening, the mixture after it; a word that one head lacks is impossible to it."""
    monkeypatch.setattr(mixtures, "CHUNK_BYTES", chunk_bytes)
    voices = [voice(0, 16, 50, 0.5), voice(1, 8, 40, 0.3, scale=0.5), voice(2, 12, 50, 0.2, softcap=5.0)]
    target = torch.arange(NUM_TOKENS) * 2
    gold = torch.arange(NUM_TOKENS) % 3 > 0
    apart = [dense([one._replace(share=1.0)], 1.0, 50) for one in voices]
    wanted = torch.zeros(NUM_TOKENS, 50, dtype=torch.float64)
    for token in range(NUM_TOKENS):
        prior = [one.share for one in voices]
        if by == "confidence":
            raw = [w * math.exp(-float(torch.special.entr(p[token]).sum())) for w, p in zip(prior, apart, strict=True)]
        elif gold[token]:
            losses = [1 / max(float(p[token, target[token]]), 1e-300) for p in apart]
            raw = [w * (1 - one / sum(losses)) for w, one in zip(prior, losses, strict=True)]
        else:
            raw = prior
        for one, share in zip(voices, raw, strict=True):
            wanted[token] += share / sum(raw) * dense([one._replace(share=1.0)], 2.5, 50)[token]
    mixed = weighed(voices, by, target, gold)  # type: ignore[arg-type]
    torch.testing.assert_close(sum(one.share for one in mixed), torch.ones(NUM_TOKENS, dtype=torch.float64))
    cells = mixed_cells(mixed, 50, 2.5)
    torch.testing.assert_close(cells.logp_NK, wanted.gather(1, cells.index_NK).log(), atol=1e-9, rtol=1e-9)
    middle = torch.full((NUM_TOKENS, 1), 0.5, dtype=torch.float64)
    assert torch.equal(
        drawn_words(mixed, middle, 2.5)[:, 0], (wanted.cumsum(1) > 0.5 * wanted.sum(1, keepdim=True)).int().argmax(1)
    )
