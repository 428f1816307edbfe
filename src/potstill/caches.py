"""Rows that are being answered together, one token at a time, on one cache of keys and values.

The rows' tokens end at the same place, with padding before the shorter ones: so a row may join, padded on the left to the length
of the others or they to its, and a row may leave, and with the longest goes the padding of the rest. Positions count each row's
own tokens.

Names of tensors carry their shape: B rows, P positions of new prompts, L positions in the cache, H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from .student import causal_model, hidden_states

ALIKE = 1e-3
"""Share of the largest hidden state by which one of a mixed cache may differ from one computed whole: rounding makes 1e-6."""


class Running(NamedTuple):
    """Rows with their cache, which of its places hold tokens, and the last hidden state of each."""

    cache: Any
    mask_BL: torch.Tensor
    last_BH: torch.Tensor


def begin(model: nn.Module, prompts: Sequence[Sequence[int]], pad_id: int) -> Running:
    """The rows of these prompts, read whole."""
    device, longest = next(model.parameters()).device, max(len(prompt) for prompt in prompts)
    ids_BP = torch.tensor([[pad_id] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    mask_BP = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    return _read(model, ids_BP, mask_BP, (mask_BP.cumsum(1) - 1).clamp_min(0), None)


def go_on(model: nn.Module, running: Running, ids_B: torch.Tensor) -> Running:
    """The same rows, each with one more token."""
    mask_BL = functional.pad(running.mask_BL, (0, 1), value=1)
    return _read(model, ids_B[:, None], mask_BL, mask_BL.sum(1, keepdim=True) - 1, running.cache)


def _read(model: nn.Module, ids: torch.Tensor, mask_BL: torch.Tensor, positions: torch.Tensor, cache: Any) -> Running:
    out = causal_model(model).base_model(
        input_ids=ids, attention_mask=mask_BL, position_ids=positions, past_key_values=cache, use_cache=True
    )
    return Running(out.past_key_values, mask_BL, out.last_hidden_state[:, -1])


def join(running: Running, new: Running) -> Running:
    """Both groups of rows as one, the new ones behind; the cache of the first is used up."""
    length = max(running.mask_BL.shape[1], new.mask_BL.shape[1])
    for one, other in zip(running.cache.layers, new.cache.layers, strict=True):
        if not one.is_initialized:  # it shares the keys of another layer
            continue
        kept = _kept(one, length)
        one.keys = torch.cat([_as_long(one.keys, kept), _as_long(other.keys, kept)])
        one.values = torch.cat([_as_long(one.values, kept), _as_long(other.values, kept)])
        _told(one, length)
    masks = [functional.pad(part.mask_BL, (length - part.mask_BL.shape[1], 0)) for part in (running, new)]
    return Running(running.cache, torch.cat(masks), torch.cat([running.last_BH, new.last_BH]))


def leave(running: Running, staying: Sequence[int]) -> Running:
    """The rows at these places alone, without padding that all of them have; the cache given is used up."""
    chosen_B = torch.tensor(staying, device=running.mask_BL.device)
    mask_BL = running.mask_BL[chosen_B]
    length = int(mask_BL.sum(1).max())
    for layer in running.cache.layers:
        if layer.is_initialized:
            kept = _kept(layer, length)
            layer.keys, layer.values = (tensor[chosen_B, :, -kept:] for tensor in (layer.keys, layer.values))
            _told(layer, length)
    return Running(running.cache, mask_BL[:, -length:], running.last_BH[chosen_B])


def _kept(layer: Any, length: int) -> int:
    """How many of the last positions a layer keeps: one with a sliding window no more than its next token sees."""
    return min(length, layer.sliding_window - 1) if type(layer) is DynamicSlidingWindowLayer else length


def _told(layer: Any, length: int) -> None:
    if type(layer) is DynamicSlidingWindowLayer:
        layer.cumulative_length = length


def _as_long(tensor: torch.Tensor, length: int) -> torch.Tensor:
    """Keys or values [B, heads, L, width] with zeros before them, which the mask hides."""
    return functional.pad(tensor, (0, 0, length - tensor.shape[2], 0))


@torch.no_grad()
def can_mix(model: nn.Module) -> bool:
    """Whether rows may join and leave a running cache and still be what they are alone.

    The states of recurrent layers cannot be padded afterwards, and some models make masks or positions of their own; so the
    kinds of layers are looked at, and it is tried on two short rows.
    """
    first, second = [1, 2, 3, 4, 5, 6], [7, 3]
    try:
        running = begin(model, [first], 0)
        if not all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in running.cache.layers):
            return False
        next_B = torch.tensor([8, 9], device=running.mask_BL.device)
        both = go_on(model, join(go_on(model, running, next_B[:1]), begin(model, [second], 0)), next_B)
        seen = [both.last_BH[0], both.last_BH[1]]
        seen += [go_on(model, leave(both, [1]), next_B[:1]).last_BH[0]]
        whole = [_alone(model, ids) for ids in ([*first, 8, 8], [*second, 9], [*second, 9, 8])]
    except (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return False
    gaps = [float((one - other).abs().max() / other.abs().max()) for one, other in zip(seen, whole, strict=True)]
    return max(gaps) <= ALIKE


def _alone(model: nn.Module, ids: Sequence[int]) -> torch.Tensor:
    ids_BT = torch.tensor([ids], device=next(model.parameters()).device)
    return hidden_states(model, ids_BT, torch.arange(len(ids), device=ids_BT.device)[None])[0, -1]
