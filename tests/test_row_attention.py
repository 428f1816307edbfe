"""Attention row by row says and teaches what torch's does, and leaves to torch what it does not know."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, MistralConfig, MistralForCausalLM, PreTrainedModel

from potstill.row_attention import BLOCK, NAME, _RowAttention, blocks_of, use_row_attention
from potstill.student import hidden_states, load_model


def mask(rows: list[list[int]], num_positions: int, window: int = 10_000) -> torch.Tensor:
    """What packed rows of these lengths may see; what is left of a line is padding, of which each token sees itself."""
    seen_BTT = torch.zeros(len(rows), num_positions, num_positions, dtype=torch.bool)
    for line, lengths in enumerate(rows):
        start = 0
        for length in [*lengths, *[1] * (num_positions - sum(lengths))]:
            for t in range(start, start + length):
                seen_BTT[line, t, max(start, t - window + 1) : t + 1] = True
            start += length
    return seen_BTT


def both_ways(seen_BTT: torch.Tensor, heads: int, key_heads: int, dtype: torch.dtype) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Output and gradients, by torch and by rows."""
    torch.manual_seed(0)
    lines, positions = seen_BTT.shape[:2]
    parts = [torch.randn(lines, h, positions, 8, dtype=dtype, requires_grad=True) for h in (heads, key_heads, key_heads)]
    d_out = torch.randn(lines, positions, heads, 8, dtype=dtype)
    shared = heads // key_heads
    query, key, value = parts
    plain = functional.scaled_dot_product_attention(
        query, key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1), attn_mask=seen_BTT[:, None], scale=0.3
    ).transpose(1, 2)
    ours = _RowAttention.apply(query, key, value, 0.3, blocks_of(seen_BTT))
    gradients = [torch.autograd.grad(out, parts, d_out) for out in (plain, ours)]
    return [(plain, ours), *zip(*gradients, strict=True)]


@settings(max_examples=25, deadline=None)
@given(
    lines=st.lists(st.lists(st.integers(1, 200), min_size=1, max_size=4), min_size=1, max_size=3),
    padding=st.integers(0, 5),
    window=st.sampled_from([3, 150, 10_000]),
    heads=st.sampled_from([(2, 2), (4, 2), (3, 1)]),
)
def test_rows_windows_and_padding_give_what_torch_gives(
    lines: list[list[int]], padding: int, window: int, heads: tuple[int, int]
) -> None:
    seen_BTT = mask(lines, max(sum(line) for line in lines) + padding, window)
    for plain, ours in both_ways(seen_BTT, *heads, torch.float64):
        torch.testing.assert_close(ours, plain, atol=1e-12, rtol=1e-10)


def test_its_gradient_is_that_of_its_value() -> None:
    torch.manual_seed(0)
    blocks = blocks_of(mask([[3, 2, 1], [5]], 7))
    parts = [torch.randn(2, heads, 7, 3, dtype=torch.float64, requires_grad=True) for heads in (4, 2, 2)]
    assert torch.autograd.gradcheck(lambda *states: _RowAttention.apply(*states, 0.5, blocks), parts)


def test_scores_of_any_size_stay_finite() -> None:
    blocks = blocks_of(mask([[200]], 200))
    for size in (0.0, 1e4):
        parts = [torch.full((1, 1, 200, 4), size, requires_grad=True) for _ in range(3)]
        out = _RowAttention.apply(*parts, 1.0, blocks)
        torch.testing.assert_close(out, torch.full_like(out, size))
        assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(out.sum(), parts))


def test_blocks_are_cut_where_rows_begin_and_hold_no_other_rows_keys() -> None:
    blocks = blocks_of(mask([[100, 100, 300]], 500))
    assert blocks is not None
    assert [(block.start, block.end, block.first) for block in blocks[:2]] == [(0, 100, 0), (100, 200, 100)]
    assert all(block.first == 200 for block in blocks[2:])
    assert max(block.end - block.start for block in blocks) == BLOCK


def test_any_other_mask_has_no_blocks() -> None:
    seen_BTT = mask([[6]], 6)
    assert blocks_of(torch.ones_like(seen_BTT)) is None
    holed = seen_BTT.clone()
    holed[0, 4, 2] = False
    assert blocks_of(holed) is None
    blind = seen_BTT.clone()
    blind[0, 3] = False
    assert blocks_of(blind) is None


def gradients(model: PreTrainedModel, ids: torch.Tensor, positions: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    hidden = hidden_states(model, ids, positions)
    (hidden * torch.linspace(-1, 1, hidden.numel()).view_as(hidden)).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def tiny(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    shape = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "max_position_embeddings": 512, "pad_token_id": 0}  # fmt: skip
    if kind == "sliding":
        return MistralForCausalLM(MistralConfig(**shape, sliding_window=5)).eval()
    types = ["sliding_attention", "full_attention"]
    return Gemma3ForCausalLM(Gemma3TextConfig(**shape, head_dim=8, sliding_window=5, layer_types=types)).eval()


@pytest.mark.parametrize("family", ["student_folder", "phi3_folder", "sliding", "mixed"])
def test_a_model_learns_the_same_from_packed_lines(family: str, request: pytest.FixtureRequest) -> None:
    model = load_model(str(request.getfixturevalue(family))) if family.endswith("folder") else tiny(family)
    ids = torch.arange(120).view(2, 60).remainder(50)
    positions = torch.stack([torch.cat([torch.arange(n) for n in line]) for line in ((20, 25, 15), (58, 1, 1))])
    with torch.no_grad():
        hidden = hidden_states(model, ids, positions)
    plain = gradients(model, ids, positions)
    assert use_row_attention(model)
    assert model.config._attn_implementation == NAME
    with torch.no_grad():
        torch.testing.assert_close(hidden_states(model, ids, positions), hidden, atol=2e-5, rtol=1e-4)
    ours = gradients(model, ids, positions)
    for name, gradient in plain.items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-5 * float(gradient.abs().max()) + 1e-9, rtol=1e-3)


def test_its_bf16_is_as_near_to_the_truth_as_torchs() -> None:
    seen_BTT = mask([[100, 156], [256]], 256)
    torch.manual_seed(0)
    exact = [torch.randn(2, 4, 256, 32, dtype=torch.float64) for _ in range(4)]
    found = []
    for dtype, ours in ((torch.float64, False), (torch.bfloat16, False), (torch.bfloat16, True)):
        query, key, value, d_out = (part.bfloat16().to(dtype).requires_grad_() for part in exact)
        if ours:
            out = _RowAttention.apply(query, key, value, 0.2, blocks_of(seen_BTT)).transpose(1, 2)
        else:
            out = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen_BTT[:, None], scale=0.2)
        found.append([out.double(), *(g.double() for g in torch.autograd.grad(out, (query, key, value), d_out.detach()))])
    truth, torchs, rows = found
    for is_right, theirs, mine in zip(truth, torchs, rows, strict=True):
        assert (mine - is_right).norm() < max(2 * (theirs - is_right).norm(), 0.008 * is_right.norm())


def test_generation_with_a_cache_and_padding_goes_on_as_before(student_folder: Path) -> None:
    model = load_model(str(student_folder))
    ids, seen = torch.arange(5, 25).view(2, 10), torch.ones(2, 10, dtype=torch.int64)
    seen[0, :4] = 0
    wanted = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    before = model.generate(ids, attention_mask=seen, **wanted)
    assert use_row_attention(model)
    assert torch.equal(model.generate(ids, attention_mask=seen, **wanted), before)


def test_a_saved_model_knows_nothing_of_it(student_folder: Path, tmp_path: Path) -> None:
    model = load_model(str(student_folder))
    assert use_row_attention(model)
    model.save_pretrained(tmp_path)
    assert NAME not in (tmp_path / "config.json").read_text()
    assert load_model(str(tmp_path)).config._attn_implementation == "sdpa"


def test_a_model_that_computes_its_maps_otherwise_is_left_alone(student_folder: Path) -> None:
    model = load_model(str(student_folder))
    model.set_attn_implementation("eager")
    assert not use_row_attention(model)
    assert model.config._attn_implementation == "eager"


def test_sharp_attention_in_bf16_is_as_near_to_exact_as_torchs() -> None:
    """Copying heads have scores of 30 and more, which bf16 rounds by 0.1: whoever keeps scores in it mixes up neighbours."""
    torch.manual_seed(1)
    query, key, value = (torch.randn(1, 2, 96, 64).bfloat16() * factor for factor in (6, 6, 1))
    d_out = torch.randn(1, 96, 2, 64).bfloat16()
    seen_BTT = mask([[60, 36]], 96)

    def results(dtype: torch.dtype, ours: bool) -> list[torch.Tensor]:
        parts = [part.to(dtype).requires_grad_() for part in (query, key, value)]
        if ours:
            out = _RowAttention.apply(*parts, 0.125, blocks_of(seen_BTT))
        else:
            out = functional.scaled_dot_product_attention(*parts, attn_mask=seen_BTT[:, None], scale=0.125).transpose(1, 2)
        return [one.double() for one in (out.detach(), *torch.autograd.grad(out, parts, d_out.to(dtype)))]

    exact, torchs, own = (results(*how) for how in ((torch.float64, False), (torch.bfloat16, False), (torch.bfloat16, True)))
    for truth, theirs, mine in zip(exact, torchs, own, strict=True):
        assert (mine - truth).norm() < 1.3 * (theirs - truth).norm()
