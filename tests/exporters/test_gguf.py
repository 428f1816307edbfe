"""GGUF files read back by transformers say what the student says, for every family that is written."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_tokenizer, save_llama
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    Phi3Config,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

pytest.importorskip("gguf")
from gguf import GGUFReader

from potstill.errors import ModelError
from potstill.exporters.gguf import Gguf
from potstill.formats.gguf_tokens import rule_of, tokens_of

TEXT = "Hello, 12 apples — naïve Straße 🙂 私は猫です\n\n  ok?"
SHAPE: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}  # fmt: skip
LLAMA31 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
CONFIGS: dict[str, Any] = {
    "Llama, tied": lambda **more: LlamaConfig(**SHAPE, tie_word_embeddings=True, **more),
    "Llama, biases, heads wider than the rest": lambda **more: LlamaConfig(**SHAPE, attention_bias=True, head_dim=32, **more),
    "Phi-3": lambda **more: Phi3Config(**SHAPE, original_max_position_embeddings=256, **more),
    "Qwen 2": lambda **more: Qwen2Config(**SHAPE, **more),
    "Qwen 3": lambda **more: Qwen3Config(**SHAPE, head_dim=16, **more),
}


def save(folder: Path, name: str, **more: Any) -> Path:
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    model = AutoModelForCausalLM.from_config(CONFIGS[name](vocab_size=len(tokenizer) + 5, **ends, **more))
    for parameter in model.parameters():  # biases and norms too: zeros and ones would hide a mistake
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(ids).logits
    return found


def both(student: Path, out: Path, precision: str) -> tuple[torch.Tensor, torch.Tensor]:
    ids = AutoTokenizer.from_pretrained(student)([TEXT], return_tensors="pt")["input_ids"]
    own = {"config": AutoConfig.from_pretrained(student)}  # transformers' reader leaves the width of heads out of some families
    back = AutoModelForCausalLM.from_pretrained(out, gguf_file=f"model-{precision}.gguf", dtype=torch.float32, **own)
    return logits(AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32), ids), logits(back, ids)


@pytest.mark.parametrize("name", CONFIGS)
def test_half_precision_says_the_same(tmp_path: Path, name: str) -> None:
    student = save(tmp_path / "student", name)
    Gguf(precisions="f16").export(student, tmp_path / "out")
    ours, back = both(student, tmp_path / "out", "f16")
    assert (ours - back).abs().max() < 0.005 * ours.abs().max()


@pytest.mark.parametrize(("precision", "most"), [("q8_0", 0.05), ("q4_k_m", 0.4)])
def test_fewer_bits_say_nearly_the_same_in_less_room(tmp_path: Path, precision: str, most: float) -> None:
    student = save_llama(tmp_path / "student", hidden=256, layers=2)
    Gguf(precisions=("f16", precision)).export(student, tmp_path / "out")
    ours, back = both(student, tmp_path / "out", precision)
    assert (ours - back).abs().max() < most * ours.abs().max()
    sizes = [(tmp_path / "out" / f"model-{name}.gguf").stat().st_size for name in ("f16", precision)]
    assert sizes[1] < (0.6 if precision == "q8_0" else 0.45) * sizes[0]


def test_rows_that_do_not_divide_get_a_type_that_takes_them(tmp_path: Path) -> None:
    student = save_llama(tmp_path / "student", hidden=48, layers=1)  # 48: neither K-quants nor blocks of 32
    Gguf(precisions="q4_k_m").export(student, tmp_path / "out")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(tmp_path / "out" / "model-q4_k_m.gguf").tensors}
    assert kinds["blk.0.attn_k.weight"] == "F16"
    assert kinds["blk.0.ffn_down.weight"] == "Q8_0"  # 96 wide
    assert kinds["output_norm.weight"] == "F32"
    ours, back = both(student, tmp_path / "out", "q4_k_m")
    assert (ours - back).abs().max() < 0.05 * ours.abs().max()


def test_the_tokenizer_and_its_template_come_along(tmp_path: Path) -> None:
    student = save(tmp_path / "student", "Llama, tied")
    Gguf(precisions="f16").export(student, tmp_path / "out")
    before = AutoTokenizer.from_pretrained(student)
    after = AutoTokenizer.from_pretrained(tmp_path / "out", gguf_file="model-f16.gguf")
    assert after(TEXT, add_special_tokens=False)["input_ids"] == before(TEXT, add_special_tokens=False)["input_ids"]
    assert after.chat_template == before.chat_template
    fields = GGUFReader(tmp_path / "out" / "model-f16.gguf").fields
    assert fields["tokenizer.ggml.eos_token_id"].contents() == before.eos_token_id
    assert fields["tokenizer.ggml.pre"].contents() == "gpt-2"
    assert not fields["tokenizer.ggml.add_bos_token"].contents()
    assert len(fields["tokenizer.ggml.tokens"].contents()) == len(before) + 5
    assert (tmp_path / "out" / "Modelfile").read_text(encoding="utf-8").startswith("FROM ./model-f16.gguf")


def test_llama_31s_frequencies_are_those_of_transformers(tmp_path: Path) -> None:
    student = save(tmp_path / "student", "Llama, tied", rope_parameters=LLAMA31)
    Gguf(precisions="f16").export(student, tmp_path / "out")
    (factors,) = [t.data for t in GGUFReader(tmp_path / "out" / "model-f16.gguf").tensors if t.name == "rope_freqs.weight"]
    config = LlamaConfig(**SHAPE, rope_parameters=LLAMA31)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 10000.0 ** -(np.arange(0, 16, 2) / 16)
    assert plain / factors == pytest.approx(scaled.numpy(), rel=1e-5)
    assert factors[0] == 1
    assert factors[-1] == 8


def test_an_unknown_rope_scaling_is_refused_in_one_sentence(tmp_path: Path) -> None:
    scaling = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 2.0, "original_max_position_embeddings": 128}
    student = save(tmp_path / "student", "Llama, tied", rope_parameters=scaling)
    with pytest.raises(ModelError, match="'yarn'"):
        Gguf().export(student, tmp_path / "out")


def test_a_weight_too_large_for_half_precision_is_kept(tmp_path: Path) -> None:
    student = save(tmp_path / "student", "Llama, tied")
    model = AutoModelForCausalLM.from_pretrained(student)
    model.model.layers[0].mlp.down_proj.weight.data[0, 0] = 1e6
    model.save_pretrained(student)
    Gguf(precisions="f16").export(student, tmp_path / "out")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(tmp_path / "out" / "model-f16.gguf").tensors}
    assert (kinds["blk.0.ffn_down.weight"], kinds["blk.1.ffn_down.weight"]) == ("BF16", "F16")


def test_architectures_that_are_not_written_are_named_before_training() -> None:
    assert Gguf().problem("LlamaForCausalLM") is None
    assert "BertForMaskedLM" in str(Gguf().problem("BertForMaskedLM"))


def sentencepiece_tokenizer() -> PreTrainedTokenizerFast:
    """As Llama 2's and Phi-3's: BPE over characters with byte fallback, blanks as marks."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=special[:3], initial_alphabet=[])
    tokenizer.train_from_iterator(["the cat sat on the mat and the dog sat there"] * 5, trainer)
    spec = json.loads(tokenizer.to_str())
    words = [*special, *(word for word in spec["model"]["vocab"] if word not in special)]
    spec["model"]["vocab"] = {word: index for index, word in enumerate(words)}
    spec["added_tokens"] = [{**one, "id": words.index(one["content"])} for one in spec["added_tokens"]]
    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(spec)), bos_token="<s>", eos_token="</s>")
    made.chat_template = make_tokenizer().chat_template
    return made


def test_sentencepiece_words_get_scores_bytes_and_marks() -> None:
    tokenizer = sentencepiece_tokenizer()
    found = tokens_of(tokenizer, len(tokenizer) + 2)
    assert (found.model, found.pre, found.add_space_prefix, found.merges) == ("llama", "default", True, [])
    kinds = dict(zip(found.words, found.types, strict=True))
    padding = f"[PAD{len(tokenizer)}]"
    assert [kinds[word] for word in ("<unk>", "</s>", "<0x41>", "▁the", padding)] == [2, 3, 6, 1, 5]
    scores = dict(zip(found.words, found.scores, strict=True))
    assert 0 >= scores["at"] > scores["▁the"] > scores["▁there"]  # what is merged first scores highest


def merged(text: str, words: dict[str, float]) -> list[str]:
    """llama.cpp's way: always join the neighbours whose word has the highest score."""
    parts = list("▁" + text.replace(" ", "▁"))
    while True:
        pairs = [(words[a + b], -i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in words]
        if not pairs:
            return parts
        place = -max(pairs)[1]
        parts[place : place + 2] = [parts[place] + parts[place + 1]]


@pytest.mark.parametrize("text", ["the cat sat on the mat", "there the dog", "that hen"])
def test_merging_by_score_gives_the_tokenizers_words(text: str) -> None:
    tokenizer = sentencepiece_tokenizer()
    found = tokens_of(tokenizer, len(tokenizer))
    words = dict(zip(found.words, found.scores, strict=True))
    assert merged(text, words) == tokenizer.tokenize(text)


def spec_of(tokenizer: Tokenizer) -> Any:
    return json.loads(tokenizer.to_str())


def test_splitting_rules_are_known_by_what_they_do() -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert rule_of(spec_of(tokenizer)) == "gpt-2"
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    with pytest.raises(ModelError, match="add_prefix_space"):
        rule_of(spec_of(tokenizer))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(ModelError, match="Whitespace"):
        rule_of(spec_of(tokenizer))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(ModelError, match="Lowercase"):
        rule_of(spec_of(tokenizer))


def test_a_tokenizer_that_is_no_bpe_is_refused() -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    with pytest.raises(ModelError, match="WordLevel"):
        tokens_of(tokenizer, 5)
