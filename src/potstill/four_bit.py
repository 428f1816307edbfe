"""4-bit weights under low-rank adapters: QLoRA (Dettmers et al. 2023, arXiv 2305.14314), through bitsandbytes.

    model = load_as(AutoModelForCausalLM, "./student", "cuda", torch.float32, **loading("cuda", torch.bfloat16))

Linear layers are NF4 with doubly quantised scales, and products are made in the compute dtype; embeddings, norms and the head
keep the precision of the rest. Names of tensors carry their shape: O outputs, I inputs of a layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import bitsandbytes
import peft
import torch
from torch import nn
from transformers import BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from .student import causal_model

ADAPTER = "default"
"""The name that peft gives to the only adapter of a model."""


def loading(device: str, compute: torch.dtype) -> dict[str, Any]:
    """What `from_pretrained` is told, beside the rest."""
    quantisation = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute
    )
    return {"quantization_config": quantisation, "device_map": {"": device}}


def keep_as_stored(model: nn.Module) -> None:
    """On processors with bf16, bitsandbytes would lay the weights out anew at the first evaluation, with coarser scales, and so
    change what the model says in the middle of a training."""
    for _, layer in four_bit_layers(model):
        layer.support_avx512bf16_for_cpu = False


def compute_exactly(model: nn.Module) -> None:
    """Has products made in fp32 from now on, to compare scores by."""
    for _, layer in four_bit_layers(model):
        layer.compute_dtype = torch.float32


def four_bit_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    return ((name, module) for name, module in model.named_modules() if isinstance(module, bitsandbytes.nn.Linear4bit))


@torch.no_grad()
def merged(model: peft.PeftModel) -> nn.Module:
    """The model with plain fp32 weights: those that were used, with the adapters in them. The adapters are gone afterwards."""
    inner = causal_model(model)
    for name, module in list(inner.named_modules()):
        if isinstance(module, peft.tuners.lora.LoraLayer):
            layer: Any = module
            whole = _plain(layer.get_base_layer(), layer.get_delta_weight(ADAPTER))
        elif isinstance(module, bitsandbytes.nn.Linear4bit) and not name.endswith(".base_layer"):
            whole = _plain(module, None)
        else:
            continue
        parent, _, last = name.rpartition(".")
        setattr(inner.get_submodule(parent), last, whole)
    del inner.config.quantization_config
    stands_alone: Any = inner
    stands_alone.is_loaded_in_4bit = stands_alone.is_quantized = False
    stands_alone.hf_quantizer = None
    return inner


def _plain(layer: Any, delta_OI: torch.Tensor | None) -> nn.Module:
    """An ordinary layer of the weights that a layer used, of the kind that it was before it was quantised."""
    weight_OI = layer.weight.data
    if isinstance(layer, bitsandbytes.nn.Linear4bit):
        weight_OI = bitsandbytes.functional.dequantize_4bit(weight_OI, layer.weight.quant_state)
    weight_OI = weight_OI.float()
    if delta_OI is not None:
        weight_OI = weight_OI + delta_OI.float()
    outputs, inputs = weight_OI.shape
    if getattr(layer, "source_cls", nn.Linear) is Conv1D:  # GPT-2's, which keeps its weights the other way round
        conv: nn.Module = Conv1D(outputs, inputs)
        conv.weight, conv.bias = nn.Parameter(weight_OI.T.contiguous()), nn.Parameter(layer.bias.data.float())
        return conv
    made: nn.Module = nn.utils.skip_init(nn.Linear, inputs, outputs, bias=layer.bias is not None, device=weight_OI.device)
    made.weight = nn.Parameter(weight_OI)
    if layer.bias is not None:
        made.bias = nn.Parameter(layer.bias.data.float())
    return made
