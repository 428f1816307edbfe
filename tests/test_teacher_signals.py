"""A live teacher is loaded as the job says: its revision, and its own code only where that is trusted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import save_llama

from potstill.errors import ModelError
from potstill.plugins import load_plugin
from potstill.rendering import load_tokenizer
from potstill.teacher_signals import SignalShape, live_signals

OWN_CODE = """
from transformers import LlamaConfig, LlamaForCausalLM


class OwnConfig(LlamaConfig):
    model_type = "own"


class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


def test_signals_come_from_the_teacher_as_the_job_loads_it(tmp_path: Path, student_folder: Path) -> None:
    folder = save_llama(tmp_path / "own", hidden=64)
    (folder / "own.py").write_text(OWN_CODE)
    config = json.loads((folder / "config.json").read_text())
    auto_map = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": auto_map}))
    tokenizer = load_tokenizer(str(student_folder))
    shape = SignalShape(4, 1.0, 512)
    trusted = load_plugin("teachers", {"kind": "huggingface", "model": str(folder), "trust_remote_code": True})
    assert type(live_signals(trusted, tokenizer, shape).model).__name__ == "OwnForCausalLM"
    with pytest.raises(ModelError):
        live_signals(load_plugin("teachers", {"kind": "huggingface", "model": str(folder)}), tokenizer, shape)
