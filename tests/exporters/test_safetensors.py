"""The half-precision export loads by itself and says what the student says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import save_llama
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from potstill.errors import ModelError
from potstill.exporters.safetensors import Safetensors


def test_the_export_loads_back_equal_to_rounding_in_half_the_bytes(tmp_path: Path, student_folder: Path) -> None:
    Safetensors().export(student_folder, tmp_path / "out")
    before = AutoModelForCausalLM.from_pretrained(student_folder, dtype=torch.float32)
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert after.dtype == torch.float16
    for (name, one), (_, other) in zip(before.named_parameters(), after.named_parameters(), strict=True):
        assert torch.allclose(one, other.float(), rtol=1e-3, atol=1e-6), name
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(student_folder).chat_template
    assert (tmp_path / "out" / "generation_config.json").is_file()
    size = (tmp_path / "out" / "model.safetensors").stat().st_size
    assert size < 0.6 * (student_folder / "model.safetensors").stat().st_size


def test_a_weight_too_large_for_float16_makes_the_export_bfloat16(tmp_path: Path) -> None:
    folder = save_llama(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] = 1e6
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    Safetensors().export(folder, tmp_path / "out")
    exported = load_file(tmp_path / "out" / "model.safetensors")
    assert exported["model.norm.weight"].dtype == torch.bfloat16
    assert torch.isfinite(exported["model.norm.weight"]).all()


def test_a_folder_without_whole_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(ModelError, match="train the student again"):
        Safetensors().export(tmp_path / "model", tmp_path / "out")
