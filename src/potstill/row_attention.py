"""Attention on a processor that looks only where it may: each token at the keys of its own row, up to itself.

torch's attention there takes every key of a line and hides what may not be seen, in fp32; a line of twenty packed rows costs
as much as one row of its length. Here a line is cut into blocks of queries, each with the keys that any of them may see; the
four products of a block are those of the dtype of the states, bf16 at its full speed, and softmax and sums are fp32. As in
FlashAttention (arXiv 2205.14135) the maps are made again for the gradients, so memory grows with the tokens, not their square.

What may be seen is read from the mask that transformers makes for a layer: packed rows, sliding windows and padding are all
"keys from the first to itself". Any other mask, dropout in attention, sinks and softcaps are left to torch's attention.

Names of tensors carry their shape: B lines, T positions, H heads, J key heads (H / J queries each), D width of a head, N queries
of a block, K its keys.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from .student import causal_model, hidden_states

NAME = "potstill_rows"
BLOCK = 128
"""Queries at once: with two heads of 64 in three groups, a block's maps still fit in the cache."""
LOG2_E = 1.0 / math.log(2.0)
BEYOND = ("softcap", "s_aux", "position_bias", "cache")
"""What layers may ask of attention that is not known here."""
TOLERANCE = 1e-4
"""By how much of the largest hidden state two ways of attention may differ in fp32."""


class Block(NamedTuple):
    """Queries `start` to `end` of some lines with the keys from `first` on; `hide` is -inf where one of the last keys is not
    seen, and 0 elsewhere."""

    lines: slice
    start: int
    end: int
    first: int
    hide_NK: torch.Tensor


@torch.no_grad()
def use_row_attention(model: nn.Module) -> bool:
    """Has a model on a processor attend row by row, where its architecture lets itself be told how; says whether it does.

    A short packed line is run both ways, and where they disagree the model stays as it was.
    """
    inner = causal_model(model)
    if next(inner.parameters()).device.type != "cpu" or inner.config._attn_implementation != "sdpa" or inner.training:
        return False
    AttentionInterface.register(NAME, row_attention)
    AttentionMaskInterface.register(NAME, row_mask)
    positions_BT = torch.arange(9).repeat(1, 2)[:, :16]
    ids_BT = torch.arange(16).remainder(inner.config.get_text_config().vocab_size)[None]
    before = hidden_states(inner, ids_BT, positions_BT)
    inner.set_attn_implementation(NAME)
    after = hidden_states(inner, ids_BT, positions_BT)
    if bool((after - before).abs().max() <= TOLERANCE * before.abs().max()):
        return True
    inner.set_attn_implementation("sdpa")
    return False


def row_mask(*arguments: Any, **named: Any) -> torch.Tensor | None:
    """transformers' mask for torch's attention, which carries its blocks where it is one of rows."""
    mask: torch.Tensor | None = sdpa_mask(*arguments, **named)
    if (
        mask is not None
        and mask.dim() == 4
        and mask.dtype == torch.bool
        and mask.shape[1] == 1
        and mask.shape[2] == mask.shape[3]
    ):
        blocks: Any = mask
        blocks.blocks = blocks_of(mask[:, 0])
    return mask


def row_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls for a layer: queries [B, H, T, D], keys and values [B, J, T, D] to [B, T, H, D]."""
    blocks = _blocks_for(module, query, key, attention_mask, rest)
    if blocks is None or rest.get("dropout") or any(rest.get(name) is not None for name in BEYOND):
        output: tuple[torch.Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **rest)
        return output
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    scale = rest.get("scaling")
    apply: Any = _RowAttention.apply
    return apply(
        query.to(dtype), key.to(dtype), value.to(dtype), query.shape[-1] ** -0.5 if scale is None else scale, blocks
    ), None


def _blocks_for(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, rest: dict[str, Any]
) -> list[Block] | None:
    if query.shape[2] != key.shape[2] or query.shape[1] % key.shape[1]:
        return None
    if mask is not None:
        return getattr(mask, "blocks", None)
    told = rest.get("is_causal")
    is_causal = getattr(module, "is_causal", True) if told is None else told
    return _blocks_of_whole_lines(len(query), query.shape[2]) if is_causal else None


@lru_cache(maxsize=16)
def _blocks_of_whole_lines(num_lines: int, num_positions: int) -> list[Block]:
    return _cut(torch.zeros(1, num_positions, dtype=torch.int64), [slice(0, num_lines)])


def blocks_of(seen_BTT: torch.Tensor) -> list[Block] | None:
    """The blocks of a mask in which every query sees all keys from some first one to itself; None for any other."""
    at_T = torch.arange(seen_BTT.shape[1])
    first_BT = seen_BTT.to(torch.uint8).argmax(dim=-1)
    if not torch.equal(seen_BTT, (at_T >= first_BT[..., None]) & (at_T <= at_T[:, None])):
        return None
    if bool((first_BT == first_BT[:1]).all()):
        return _cut(first_BT[:1], [slice(0, len(first_BT))])
    return _cut(first_BT, [slice(line, line + 1) for line in range(len(first_BT))])


def _cut(first_BT: torch.Tensor, lines: Sequence[slice]) -> list[Block]:
    """At most BLOCK queries each; where rows begin among them, cut before the last that does, so that few keys are hidden."""
    num_positions = first_BT.shape[1]
    hide_TT = torch.full((min(BLOCK, num_positions),) * 2, -math.inf).triu(1)
    blocks = []
    for line, first_T in zip(lines, first_BT, strict=True):
        begins = torch.nonzero(first_T == torch.arange(num_positions)).flatten().tolist()
        start = 0
        while start < num_positions:
            end = min(start + BLOCK, num_positions)
            last = begins[bisect_right(begins, end) - 1]
            if end < num_positions and last > start:
                end = last
            blocks.append(_block(line, start, end, first_T[start:end], hide_TT))
            start = end
    return blocks


def _block(line: slice, start: int, end: int, first_N: torch.Tensor, hide_TT: torch.Tensor) -> Block:
    first, num = int(first_N.min()), end - start
    if bool((first_N == first).all()):
        return Block(line, start, end, first, hide_TT[:num, :num])
    hide_NK = torch.zeros(num, end - first)
    hide_NK[:, start - first :] = hide_TT[:num, :num]
    hide_NK[torch.arange(first, end) < first_N[:, None]] = -math.inf
    return Block(line, start, end, first, hide_NK)


class _RowAttention(torch.autograd.Function):
    """Keeps what comes in and out, and the log of each query's sum; scores are in base 2."""

    @staticmethod
    def forward(
        ctx: Any, query_BHTD: torch.Tensor, key_BJTD: torch.Tensor, value_BJTD: torch.Tensor, scale: float, blocks: list[Block]
    ) -> torch.Tensor:
        num_lines, num_heads, num_positions, _ = query_BHTD.shape
        out_BTHD = query_BHTD.new_empty((num_lines, num_positions, num_heads, value_BJTD.shape[-1]))
        log_BHT = query_BHTD.new_empty(query_BHTD.shape[:3], dtype=_exact(query_BHTD))
        for block in blocks:
            s = _scores(_queries(query_BHTD, block, key_BJTD.shape[1]), _keys(key_BJTD, block), scale, block)
            top = s.amax(dim=-1, keepdim=True)
            total = s.sub_(top).exp2_().sum(dim=-1, keepdim=True)
            if s.dtype == query_BHTD.dtype:
                mixed = torch.bmm(s, _keys(value_BJTD, block)).div_(total)
            else:  # divided first, so that the output is rounded but once
                mixed = torch.bmm(s.div_(total).to(query_BHTD.dtype), _keys(value_BJTD, block))
            here = (block.lines, slice(block.start, block.end))
            out_BTHD[here] = _apart(mixed, block, num_heads).transpose(1, 2)
            log_BHT[here[0], :, here[1]] = _apart(top.add_(total.log2_()), block, num_heads)[..., 0]
        ctx.save_for_backward(query_BHTD, key_BJTD, value_BJTD, out_BTHD, log_BHT)
        ctx.scale, ctx.blocks = scale, blocks
        return out_BTHD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out_BTHD: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query_BHTD, key_BJTD, value_BJTD, out_BTHD, log_BHT = ctx.saved_tensors
        num_heads, num_keys, exact = query_BHTD.shape[1], key_BJTD.shape[1], log_BHT.dtype
        dot_BHT1 = (d_out_BTHD.to(exact) * out_BTHD.to(exact)).sum(dim=-1).transpose(1, 2)[..., None]
        d_out_BHTD = d_out_BTHD.transpose(1, 2)
        d_query_BTHD = torch.empty_like(query_BHTD.transpose(1, 2), memory_format=torch.contiguous_format)
        d_key_BJTD, d_value_BJTD = (torch.zeros_like(t, dtype=exact) for t in (key_BJTD, value_BJTD))
        for block in ctx.blocks:
            query, key = _queries(query_BHTD, block, num_keys), _keys(key_BJTD, block)
            d_out, keys = _queries(d_out_BHTD, block, num_keys), slice(block.first, block.end)
            map_NK = _scores(query, key, ctx.scale, block).sub_(_queries(log_BHT[..., None], block, num_keys)).exp2_()
            low_NK = map_NK.to(query.dtype)
            d_value_BJTD[block.lines, :, keys] += torch.bmm(low_NK.mT, d_out).view_as(d_value_BJTD[block.lines, :, keys])
            d_map_NK = torch.bmm(d_out.to(exact), _keys(value_BJTD, block).mT.to(exact))
            d_map_NK.sub_(_queries(dot_BHT1, block, num_keys)).mul_(map_NK)
            d_score_NK = d_map_NK.to(query.dtype)
            d_query = _apart(torch.bmm(d_score_NK, key).mul_(ctx.scale), block, num_heads)
            d_query_BTHD[block.lines, block.start : block.end] = d_query.transpose(1, 2)
            d_key_BJTD[block.lines, :, keys] += torch.bmm(d_score_NK.mT, query).view_as(d_key_BJTD[block.lines, :, keys])
        d_key = d_key_BJTD.mul_(ctx.scale).to(key_BJTD.dtype)
        return d_query_BTHD.transpose(1, 2), d_key, d_value_BJTD.to(value_BJTD.dtype), None, None


def _exact(states: torch.Tensor) -> torch.dtype:
    return torch.float64 if states.dtype == torch.float64 else torch.float32


def _queries(states_BHTD: torch.Tensor, block: Block, num_keys: int) -> torch.Tensor:
    """[B J, (H / J) N, D]: the queries of all heads that share a key head, one under the other."""
    part = states_BHTD[block.lines, :, block.start : block.end]
    return part.reshape(len(part) * num_keys, -1, part.shape[-1])


def _keys(states_BJTD: torch.Tensor, block: Block) -> torch.Tensor:
    return states_BJTD[block.lines, :, block.first : block.end].flatten(0, 1)


def _apart(states: torch.Tensor, block: Block, num_heads: int) -> torch.Tensor:
    """[B, H, N, D] again."""
    return states.view(-1, num_heads, block.end - block.start, states.shape[-1])


def _scores(query: torch.Tensor, key: torch.Tensor, scale: float, block: Block) -> torch.Tensor:
    """log2 of the unnormalised attention [B J, (H / J) N, K]."""
    exact = _exact(query)  # a score of 40 rounded to bf16 is off by up to 0.125, which copying heads do not bear
    s = torch.bmm(query.to(exact), key.mT.to(exact)).mul_(scale * LOG2_E)
    num_hidden = block.hide_NK.shape[1]
    s.view(-1, block.end - block.start, key.shape[1])[..., key.shape[1] - num_hidden :].add_(block.hide_NK)
    return s
