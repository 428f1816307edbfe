"""The mixture's cells are those of the dense mixture, however it is cut into chunks."""

from __future__ import annotations

import math

import pytest
import torch

from potstill.kernels import mixtures
from potstill.kernels.cells import Head, tail_logp, teacher_cells
from potstill.kernels.mixtures import Voice, mixed_cells

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
