"""What a model computes inside, recorded in an ordinary forward pass: hidden states, attention maps, queries, keys, values.

    with watching(model, [("hidden", 2), ("queries", 1)]) as seen:
        hidden_states(model, batch.input_ids_BT, batch.position_ids_BT)
    seen["hidden", 2]

Layers are numbered from 1; the hidden states of layer 0 are the embeddings, those of the last layer come after the final norm.
Names of tensors carry their shape: B lines, T positions, H hidden size, A attention heads, W width of queries, keys or values,
N target tokens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import AutoModel, PretrainedConfig, PreTrainedModel

from .batches import Batch
from .contracts import Build, Inside
from .errors import JobError
from .student import causal_model, hidden_states, layers_of

Place = tuple[Inside, int]
"""What is looked at, and in which layer."""
Insides = Mapping[Place, torch.Tensor]
"""hidden [B, T, H], attention [B, A, T, T], queries, keys and values [B, T, W]."""

OUTPUTS = {"hidden": "hidden_states", "attention": "attentions"}
"""What transformers' models give when they are asked: output_hidden_states, output_attentions."""
NAMES: dict[str, Inside] = {
    "q_proj": "queries", "query": "queries", "q_lin": "queries",
    "k_proj": "keys", "key": "keys", "k_lin": "keys",
    "v_proj": "values", "value": "values", "v_lin": "values",
}  # fmt: skip
"""How the projections are called in LLaMA and its many kin, in BERT, and in DistilBERT."""
FUSED = {"phi3": "qkv_proj", "gpt2": "c_attn"}
"""Model types that make all three at once: queries, keys and values stand side by side. Other fused layers interleave them by
head (GPT-NeoX) or differ by version (Falcon), so their output is not cut by a guess."""


class Source(NamedTuple):
    """Where a layer's queries, keys or values come from: a module, and the part of its output."""

    module: nn.Module
    start: int
    width: int


@contextlib.contextmanager
def watching(model: nn.Module, places: Collection[Place]) -> Iterator[dict[Place, torch.Tensor]]:
    """Fills the dict in each forward pass that is made meanwhile; the values are part of the graph where one is built."""
    seen: dict[Place, torch.Tensor] = {}
    parts = [place for place in places if place[0] not in OUTPUTS]
    sources = projections(model) if parts else []
    hooks = _watch_outputs(causal_model(model).base_model, [place for place in places if place[0] in OUTPUTS], seen)
    hooks += [_watch_part(sources[layer - 1][inside], (inside, layer), seen) for inside, layer in parts if sources]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _watch_outputs(body: nn.Module, places: Collection[Place], seen: dict[Place, torch.Tensor]) -> list[Any]:
    """Has the model give more than its last hidden states, and keeps what is wanted of it."""
    more = {f"output_{OUTPUTS[inside]}": True for inside, _ in places}

    def ask(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        del module
        return args, {**kwargs, **more}

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        del module, args
        for inside, layer in places:
            given = getattr(output, OUTPUTS[inside], None) or ()
            found = dict(enumerate(given, start=0 if inside == "hidden" else 1)).get(layer)
            if found is not None:  # hybrid models have layers without attention
                seen[inside, layer] = found

    return [body.register_forward_pre_hook(ask, with_kwargs=True), body.register_forward_hook(keep)] if more else []


def _watch_part(source: Source, place: Place, seen: dict[Place, torch.Tensor]) -> Any:
    def keep(module: nn.Module, args: Any, output: torch.Tensor) -> None:
        del module, args
        seen[place] = output[..., source.start : source.start + source.width]

    return source.module.register_forward_hook(keep)


def examine(model: nn.Module) -> Build:
    """Depth, hidden size, heads, and the widths of queries, keys and values where it is known how they are made."""
    inner = causal_model(model)
    config = inner.config.get_text_config()
    found = projections(model)
    widths: dict[Inside, int] = {inside: source.width for inside, source in found[0].items()} if found else {}
    heads = int(getattr(config, "num_attention_heads", None) or 0)  # Mamba has none, and hidden states all the same
    blocks = enumerate(layers_of(inner.base_model, config.num_hidden_layers), start=1)
    without = tuple(number for number, block in blocks if not _attentions(block))  # the other layers of hybrids
    return Build(type(inner).__name__, int(config.num_hidden_layers), int(config.hidden_size), heads, widths, without)


def examine_config(config: PretrainedConfig, trust_remote_code: bool = False) -> Build:
    """The same without weights: the model is laid out on torch's meta device, which holds no numbers."""
    with torch.device("meta"):
        model: PreTrainedModel = AutoModel.from_config(config, trust_remote_code=trust_remote_code)
    return examine(model)


def projections(model: nn.Module) -> list[dict[Inside, Source]]:
    """Each layer's three sources; [] where a layer does not have exactly one of each, or they are of different widths."""
    inner = causal_model(model)
    config = inner.config.get_text_config()
    heads = getattr(config, "num_attention_heads", None)
    if not heads:
        return []
    queries = int(getattr(config, "head_dim", None) or config.hidden_size // heads) * int(heads)
    blocks = layers_of(inner.base_model, config.num_hidden_layers)
    found = [_sources(block, FUSED.get(config.model_type), queries) for block in blocks]
    kinds = {tuple(sorted((inside, source.width) for inside, source in one.items())) for one in found}
    whole = len(kinds) == 1 and len(found[0]) == 3 and found[0]["queries"].width == queries
    return found if whole else []


def prefers_eager(model: nn.Module) -> None:
    """Has the model compute attention so that its maps can be seen. Fused attention never builds them."""
    causal_model(model).set_attn_implementation("eager")


def attention_modules(model: nn.Module) -> list[nn.Module]:
    """The modules that make attention maps, by their class names."""
    return _attentions(causal_model(model))


@torch.no_grad()
def rehearse(model: nn.Module, places: Collection[Place]) -> None:
    """One short forward pass; raises JobError when a place shows nothing or something of another shape."""
    inner = causal_model(model)
    build = examine(model)
    device = next(model.parameters()).device
    ids_BT = torch.arange(8, device=device).remainder(inner.config.get_text_config().vocab_size)[None]
    with watching(model, places) as seen:
        _run(model, ids_BT)
    for inside, layer in places:
        shape = {"hidden": (1, 8, build.width), "attention": (1, build.num_heads, 8, 8)}.get(inside)
        shape = shape or (1, 8, build.widths.get(inside, 0))
        found = seen.get((inside, layer))
        if found is None or tuple(found.shape) != shape:
            was = "nothing" if found is None else f"a tensor of shape {tuple(found.shape)}"
            raise JobError(
                f"{build.architecture} shows {was} for the {inside} of layer {layer}, where {shape} is expected; choose other "
                f"layers (train.losses: layers), or a loss that looks at hidden states"
            )


@torch.no_grad()
def looks_ahead(model: nn.Module) -> bool:
    """Whether a position sees the positions after it, as in encoders."""
    inner = causal_model(model)
    ids_BT = torch.arange(8, device=next(model.parameters()).device).remainder(inner.config.get_text_config().vocab_size)[None]
    changed_BT = ids_BT.clone()
    changed_BT[0, -1] = 0
    one, other = (_run(model, ids)[0, 0].float() for ids in (ids_BT, changed_BT))
    return bool((one - other).abs().max() > 1e-6 * one.abs().max())


def visible_keys(batch: Batch, ahead: bool) -> torch.Tensor:
    """Which positions of its line each target may see [N, T]: those of its own row, and the later ones where `ahead`."""
    positions_BT = batch.position_ids_BT
    rows_BT = (positions_BT == 0).cumsum(dim=1)  # padding has positions of 0 each, so each is a row of its own
    line_N, at_N = batch.at_N // positions_BT.shape[1], batch.at_N % positions_BT.shape[1]
    seen_NT = rows_BT[line_N] == rows_BT[line_N, at_N][:, None]
    if not ahead:
        seen_NT = seen_NT & (torch.arange(positions_BT.shape[1], device=at_N.device) <= at_N[:, None])
    return seen_NT


def _run(model: nn.Module, ids_BT: torch.Tensor) -> torch.Tensor:
    return hidden_states(model, ids_BT, torch.arange(ids_BT.shape[1], device=ids_BT.device)[None])


def _attentions(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if "Attention" in type(module).__name__]


def _sources(block: nn.Module, fused: str | None, queries: int) -> dict[Inside, Source]:
    found: dict[Inside, Source] = {}
    for path, module in block.named_modules():
        name = path.rpartition(".")[2]
        width = _output_width(module)
        if name == fused and width is not None and (width - queries) % 2 == 0:
            other = (width - queries) // 2
            return {
                "queries": Source(module, 0, queries),
                "keys": Source(module, queries, other),
                "values": Source(module, queries + other, other),
            }
        if name in NAMES and width is not None:
            if NAMES[name] in found:
                return {}  # two attentions in one layer
            found[NAMES[name]] = Source(module, 0, width)
    return found


def _output_width(module: nn.Module) -> int | None:
    """Of a linear layer (with adapters, too), or of GPT-2's Conv1D, which calls it nf."""
    width = getattr(module, "out_features", None) or getattr(module, "nf", None)
    return int(width) if isinstance(width, int) else None
