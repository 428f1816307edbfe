"""Load, adapt and save a model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import peft
import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from .errors import ModelError
from .kernels.cells import Head
from .plugins import optional
from .runfolder import replaced_folder

transformers_logging.disable_progress_bar()  # our own bar says more; theirs breaks it, and pipes


MERGE_TOLERANCE = 1e-3
"""Share of the largest score that merging adapters may move a score by: rounding in fp32 moves them by 1e-6."""


class LoraShape(NamedTuple):
    """Low-rank adapters as peft takes them."""

    rank: int
    alpha: int
    dropout: float
    target_modules: tuple[str, ...]
    magnitudes: bool = False
    """DoRA: the size of each weight row is learned apart from its direction."""


def best_device() -> str:
    """cuda, mps or cpu: the best that this machine has."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def load_model(
    model: str,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    device: str | None = None,
    dtype: torch.dtype | None = None,
) -> PreTrainedModel:
    """A causal language model in eval mode; fp32 on the CPU and the checkpoint's own precision elsewhere, unless told."""
    return load_as(AutoModelForCausalLM, model, device, dtype, revision=revision, trust_remote_code=trust_remote_code)


def load_four_bit(model: str, device: str, compute: torch.dtype, **loading: Any) -> PreTrainedModel:
    """A causal language model whose linear layers are 4-bit, with products in the dtype `compute`; raises ModelError."""
    options = optional("four_bit:loading")(device, compute)
    loaded = load_as(AutoModelForCausalLM, model, device, torch.float32, **options, **loading)
    optional("four_bit:keep_as_stored")(loaded)
    return loaded


def load_as(kind: Any, model: str, device: str | None, dtype: torch.dtype | None, **options: Any) -> PreTrainedModel:
    """A model as one of transformers' Auto classes loads it, in eval mode; raises ModelError with the reason."""
    device = device or best_device()
    wanted: Any = dtype or (torch.float32 if device == "cpu" else "auto")
    try:
        loaded: PreTrainedModel = kind.from_pretrained(model, dtype=wanted, use_safetensors=True, **options)
    except (OSError, ValueError, KeyError, SafetensorError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"no model could be loaded from {model!r}: {reason}") from None
    nn.Module.to(loaded, device)
    loaded.eval()
    return loaded


def add_lora(model: PreTrainedModel, shape: LoraShape, heads: Sequence[str] = ()) -> PreTrainedModel:
    """Puts low-rank adapters into the model's layers, in place; only they are trained, and a classifier's `heads` whole."""
    targets: Any = shape.target_modules[0] if shape.target_modules == ("all-linear",) else list(shape.target_modules)
    kind: dict[str, Any] = {"task_type": "SEQ_CLS", "modules_to_save": list(heads)} if heads else {"task_type": "CAUSAL_LM"}
    config = peft.LoraConfig(
        r=shape.rank,
        lora_alpha=shape.alpha,
        lora_dropout=shape.dropout,
        target_modules=targets,
        use_dora=shape.magnitudes,
        **kind,
    )
    try:
        wrapped: Any = peft.get_peft_model(model, config)
    except ValueError as error:
        raise ModelError(f"LoRA does not fit this model: {str(error).splitlines()[0]}") from None
    adapted: PreTrainedModel = wrapped  # it stands in for the model everywhere, though it is no subclass
    return adapted


def causal_model(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside, without peft's wrapper."""
    inner = model.get_base_model() if isinstance(model, peft.PeftModel) else model
    assert isinstance(inner, PreTrainedModel)
    return inner


def head_of(model: nn.Module, num_words: int) -> Head:
    """The projection onto the vocabulary. `num_words` of its rows are real; padded ones get no probability."""
    inner = causal_model(model)
    layer = inner.get_output_embeddings()
    config = inner.config.get_text_config()
    softcap = getattr(config, "final_logit_softcapping", None)
    scale = getattr(config, "logit_scale", None)
    if scale is None and getattr(config, "logits_scaling", None):
        scale = 1.0 / config.logits_scaling
    bias = getattr(layer, "bias", None)
    return Head(layer.weight, bias, float(scale or 1.0), softcap, min(num_words, layer.weight.shape[0]))


def hidden_states(model: nn.Module, input_ids_BT: torch.Tensor, position_ids_BT: torch.Tensor) -> torch.Tensor:
    """Last hidden states [B, T, H], after the final norm; positions that restart at 0 separate packed examples."""
    inner = causal_model(model)
    out = inner.base_model(input_ids=input_ids_BT, position_ids=position_ids_BT, use_cache=False)
    hidden: torch.Tensor = out.last_hidden_state
    return hidden


@torch.no_grad()
def keeps_packed_rows_apart(model: nn.Module) -> bool:
    """Whether a row in a packed line is blind to the row before it.

    Recurrent and convolutional layers (Mamba, Qwen3-Next, LFM2) and models that make their own mask (OPT, Bloom, Falcon)
    are not: packed, their rows would be learned with their neighbours in sight, and no error would say so.
    """
    num_words = causal_model(model).config.get_text_config().vocab_size
    device = next(model.parameters()).device
    positions_BT = torch.arange(8, device=device).repeat(1, 2)
    lines = [torch.arange(start, start + 8, device=device).remainder(num_words) for start in (0, 8, 16)]
    one, other = (hidden_states(model, torch.cat([before, lines[2]])[None], positions_BT)[0, 8:].float() for before in lines[:2])
    return bool((one - other).abs().max() <= 1e-6 * one.abs().max())


def layers_of(body: nn.Module, depth: int) -> list[nn.Module]:
    """The layers of a model: its first list of so many modules; none where there is no such list."""
    lists = (module for module in body.modules() if isinstance(module, nn.ModuleList) and len(module) == depth)
    return list(next(lists, nn.ModuleList()))


def count_parameters(model: nn.Module) -> int:
    """All parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def load_config(model: str, *, revision: str | None = None, trust_remote_code: bool = False) -> PretrainedConfig:
    """A model's configuration without its weights; raises ModelError."""
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"no configuration could be loaded from {model!r}: {reason}") from None
    return config


def context_of(model: str, *, revision: str | None = None, trust_remote_code: bool = False) -> int | None:
    """How many tokens a model takes; None where its configuration does not say."""
    config = load_config(model, revision=revision, trust_remote_code=trust_remote_code)
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def stored_dtype(model: str, *, revision: str | None = None, trust_remote_code: bool = False) -> torch.dtype:
    """The precision of a checkpoint as it is stored; fp32 where its configuration says none."""
    dtype = getattr(load_config(model, revision=revision, trust_remote_code=trust_remote_code), "dtype", None)
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


def save_model(model: nn.Module, tokenizer: PreTrainedTokenizerBase, folder: Path, dtype: torch.dtype) -> None:
    """Writes merged safetensors in `dtype` and the tokenizer; the folder appears whole or not at all."""
    if isinstance(model, peft.PeftModel):
        model = merged(model)
    with replaced_folder(folder) as part:
        causal_model(nn.Module.to(model, dtype)).save_pretrained(part)
        tokenizer.save_pretrained(part)


@torch.no_grad()
def merged(model: peft.PeftModel) -> nn.Module:
    """The model with its adapters in its weights; raises ModelError where that changes what it says."""
    model.eval()
    device = next(model.parameters()).device
    ids_BT = torch.arange(16, device=device).remainder(causal_model(model).config.get_text_config().vocab_size)[None]
    is_four_bit = bool(getattr(causal_model(model), "is_loaded_in_4bit", False))
    if is_four_bit:  # peft would merge into 4 bits again
        optional("four_bit:compute_exactly")(model)
    before = model(input_ids=ids_BT).logits.float()
    whole: nn.Module = optional("four_bit:merged")(model) if is_four_bit else model.merge_and_unload()
    gap = float((whole(input_ids=ids_BT).logits.float() - before).abs().max() / before.abs().max().clamp_min(1e-6))
    if not gap <= MERGE_TOLERANCE:
        raise ModelError(
            f"the adapters could not be merged: the merged model's scores are {gap:.1%} away from those of the trained one; "
            f"use student.adaptation: full, or other student.lora.target_modules"
        )
    return whole


def copy_model(source: Path, target: Path) -> None:
    with replaced_folder(target) as part:
        shutil.copytree(source, part, dirs_exist_ok=True)


def read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ModelError(f"{path} cannot be read; is {str(folder)!r} a model folder?") from None
    return config
