"""A model as one GGUF file: llama.cpp's names of settings and weights, in half or in fewer bits.

    write_gguf(Path("model"), Path("model-q8_0.gguf"), "q8_0")

Weights are read file by file and written as they come, so memory holds one of them and what is not yet on the disk.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
import numpy.typing as npt
import torch
from gguf import GGMLQuantizationType as Kind
from safetensors import safe_open
from transformers import PreTrainedTokenizerBase

from ..errors import ModelError
from ..rendering import load_tokenizer, stop_ids
from .gguf_tokens import tokens_of
from .k_quants import q4_k, q6_k

Json = Mapping[str, Any]
Floats = npt.NDArray[np.float32]
FAMILIES = {
    "LlamaForCausalLM": gguf.MODEL_ARCH.LLAMA,
    "MistralForCausalLM": gguf.MODEL_ARCH.LLAMA,
    "Phi3ForCausalLM": gguf.MODEL_ARCH.PHI3,
    "Qwen2ForCausalLM": gguf.MODEL_ARCH.QWEN2,
    "Qwen3ForCausalLM": gguf.MODEL_ARCH.QWEN3,
}
FILE_TYPES = {
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "q4_k_m": gguf.LlamaFileType.MOSTLY_Q4_K_M,
}
LARGEST_HALF = 65504.0


class Plan(NamedTuple):
    """The model's settings, and how its weights are stored."""

    config: Json
    family: gguf.MODEL_ARCH
    precision: str

    @property
    def depth(self) -> int:
        return int(self.config["num_hidden_layers"])


def write_gguf(model_folder: Path, file: Path, precision: str) -> dict[str, int]:
    """Writes the file and returns how many weights are stored in each type; raises ModelError for what llama.cpp cannot run."""
    config = json.loads((model_folder / "config.json").read_text(encoding="utf-8"))
    plan = Plan(config, FAMILIES[config["architectures"][0]], precision)
    tokenizer = load_tokenizer(str(model_folder))
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[plan.family], use_temp_file=True)
    counts: dict[str, int] = {}
    try:
        _settings(writer, plan, model_folder.name)
        _tokenizer(writer, tokenizer, int(config["vocab_size"]))
        for name, weight in (*_rope_factors(plan), *_weights(model_folder, plan)):
            kind = kind_of(name, weight, plan)
            counts[kind.name.lower()] = counts.get(kind.name.lower(), 0) + weight.size
            writer.add_tensor(name, _stored(weight, kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
    return counts


def _settings(writer: gguf.GGUFWriter, plan: Plan, name: str) -> None:
    config = plan.config
    heads = int(config["num_attention_heads"])
    head_dim = int(config.get("head_dim") or config["hidden_size"] // heads)
    rope = _rope(config)
    writer.add_name(name)
    writer.add_file_type(FILE_TYPES[plan.precision])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(int(config["vocab_size"]))
    writer.add_context_length(int(config["max_position_embeddings"]))
    writer.add_embedding_length(int(config["hidden_size"]))
    writer.add_feed_forward_length(int(config["intermediate_size"]))
    writer.add_block_count(plan.depth)
    writer.add_head_count(heads)
    writer.add_head_count_kv(int(config.get("num_key_value_heads") or heads))
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    writer.add_rope_freq_base(float(rope.get("rope_theta", 10000.0)))
    writer.add_rope_dimension_count(int(head_dim * float(rope.get("partial_rotary_factor", 1.0))))
    if config.get("sliding_window") and plan.family == gguf.MODEL_ARCH.PHI3:
        writer.add_sliding_window(int(config["sliding_window"]))
    kind = rope.get("rope_type", "default")
    if kind == "longrope":
        original = int(rope.get("original_max_position_embeddings") or config["original_max_position_embeddings"])
        writer.add_rope_scaling_orig_ctx_len(original)
        scale = int(config["max_position_embeddings"]) / original
        factor = rope.get("attention_factor") or (math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0)
        writer.add_rope_scaling_attn_factors(float(factor))
    elif kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))
    elif kind not in ("default", "llama3"):
        raise ModelError(f"rope scaling of the type {kind!r} is not written to GGUF here; take another export")


def _rope(config: Json) -> Json:
    """Rotary settings: transformers 5 keeps them together, older checkpoints apart."""
    together = config.get("rope_parameters")
    if isinstance(together, Mapping):
        return together
    scaling = dict(config.get("rope_scaling") or {})
    kind = scaling.pop("type", None) or scaling.get("rope_type", "default")
    apart = {name: config[name] for name in ("rope_theta", "partial_rotary_factor") if name in config}
    return {**apart, **scaling, "rope_type": kind}


def _tokenizer(writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerBase, num_rows: int) -> None:
    tokens = tokens_of(tokenizer, num_rows)
    writer.add_tokenizer_model(tokens.model)
    writer.add_tokenizer_pre(tokens.pre)
    writer.add_token_list(tokens.words)
    writer.add_token_types(tokens.types)
    if tokens.model == "gpt2":
        writer.add_token_merges(tokens.merges)
    else:
        writer.add_token_scores(tokens.scores)
        writer.add_add_space_prefix(tokens.add_space_prefix)
    writer.add_add_bos_token(tokens.add_bos)
    ends = stop_ids(tokenizer)
    writer.add_eos_token_id(ends[-1])
    if len(ends) > 1:
        writer.add_eot_token_id(ends[0])
    for add, token in ((writer.add_bos_token_id, tokenizer.bos_token_id), (writer.add_pad_token_id, tokenizer.pad_token_id)):
        if token is not None:
            add(int(token))
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def _rope_factors(plan: Plan) -> Iterator[tuple[str, Floats]]:
    """What llama.cpp divides each rotary frequency by: Llama 3.1's rule, or the two lists of Phi's longrope."""
    rope = _rope(plan.config)
    if rope.get("rope_type") == "longrope":
        for length in ("long", "short"):
            yield f"rope_factors_{length}.weight", np.array(rope[f"{length}_factor"], dtype=np.float32)
    if rope.get("rope_type") == "llama3":
        heads = int(plan.config["num_attention_heads"])
        head_dim = int(plan.config.get("head_dim") or plan.config["hidden_size"] // heads)
        yield "rope_freqs.weight", _llama3_factors(rope, head_dim)


def _llama3_factors(rope: Json, head_dim: int) -> Floats:
    """1 for waves much shorter than the old context, `factor` for much longer ones, and a smooth way between them."""
    base, factor = float(rope["rope_theta"]), float(rope["factor"])
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    wave = 2 * math.pi * base ** (np.arange(0, head_dim, 2) / head_dim)
    turns = float(rope["original_max_position_embeddings"]) / wave
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    found: Floats = (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)
    return found


def _weights(model_folder: Path, plan: Plan) -> Iterator[tuple[str, Floats]]:
    """Every weight by llama.cpp's name; a head that is tied to the embeddings is not stored twice."""
    names = gguf.get_tensor_name_map(plan.family, plan.depth)
    tied = bool(plan.config.get("tie_word_embeddings"))
    for path in sorted(model_folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as stored:
            for own in stored.keys():  # noqa: SIM118 - safe_open is no mapping
                if own.endswith("rotary_emb.inv_freq") or (tied and own == "lm_head.weight"):
                    continue
                name = names.get_name(own, try_suffixes=(".weight", ".bias"))
                if name is None:
                    raise ModelError(f"llama.cpp has no place for the weight {own} in its {plan.family.name.lower()} models")
                weight = stored.get_tensor(own).to(torch.float32).numpy()
                yield name, _turned(own, weight, plan)


def _turned(own: str, weight: Floats, plan: Plan) -> Floats:
    """Llama's queries and keys with the halves of each head's rotary pairs side by side, as llama.cpp turns them."""
    if plan.family != gguf.MODEL_ARCH.LLAMA or not any(part in own for part in ("q_proj", "k_proj")):
        return weight
    heads = int(plan.config["num_attention_heads"])
    if "k_proj" in own:
        heads = int(plan.config.get("num_key_value_heads") or heads)
    pairs = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return pairs.swapaxes(1, 2).reshape(weight.shape)


def kind_of(name: str, weight: Floats, plan: Plan) -> Kind:
    """How a weight is stored. Vectors stay in fp32; a matrix whose rows do not divide gets the next type that takes it."""
    if weight.ndim == 1:
        return Kind.F32
    half = Kind.F16 if float(np.abs(weight).max(initial=0.0)) <= LARGEST_HALF else Kind.BF16
    if plan.precision == "f16":
        return half
    width = weight.shape[-1]
    if plan.precision == "q4_k_m" and width % 256 == 0:
        return Kind.Q6_K if _needs_more_bits(name, plan) else Kind.Q4_K
    return Kind.Q8_0 if width % 32 == 0 else half


def _needs_more_bits(name: str, plan: Plan) -> bool:
    """llama.cpp's mixture of medium size: the head, and the values and down projections of some layers, where errors hurt."""
    if name == "output.weight" or (name == "token_embd.weight" and plan.config.get("tie_word_embeddings")):
        return True
    if not any(part in name for part in ("attn_v.", "attn_qkv.", "ffn_down.")):
        return False
    if "attn_qkv." in name:
        return False
    layer, depth = int(name.split(".")[1]), plan.depth
    return layer < depth // 8 or layer >= 7 * depth // 8 or (layer - depth // 8) % 3 == 2


def _stored(weight: Floats, kind: Kind) -> npt.NDArray[Any]:
    if kind == Kind.Q4_K:
        return q4_k(weight)
    if kind == Kind.Q6_K:
        return q6_k(weight)
    return np.asarray(gguf.quants.quantize(weight, kind))
