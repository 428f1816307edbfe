"""What the cases of steps.py share: models of real configurations with random weights, token ids, clocks."""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

LENGTH = 512
ROWS = 2
"""Of a step."""
TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
QWEN3 = {"vocab_size": 151_936, "num_key_value_heads": 8, "head_dim": 128, "rope_theta": 1e6, "max_position_embeddings": 40_960}


def config_of(size: str) -> Any:
    """SmolLM2-135M, Qwen3-1.7B, Qwen3-8B, as their config.json has them; `tiny` and its teacher for a look at the script."""
    if size == "135M":
        return LlamaConfig(vocab_size=49_152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
                           num_attention_heads=9, num_key_value_heads=3, max_position_embeddings=8192, rope_theta=1e5,
                           tie_word_embeddings=True)  # fmt: skip
    if size == "1.7B":
        return Qwen3Config(hidden_size=2048, intermediate_size=6144, num_hidden_layers=28, num_attention_heads=16,
                           tie_word_embeddings=True, **QWEN3)  # fmt: skip
    if size == "8B":
        return Qwen3Config(hidden_size=4096, intermediate_size=12_288, num_hidden_layers=36, num_attention_heads=32,
                           tie_word_embeddings=False, **QWEN3)  # fmt: skip
    return Qwen3Config(**{**QWEN3, "vocab_size": 1024, "num_key_value_heads": 2, "head_dim": 16}, hidden_size=64,
                       intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, tie_word_embeddings=True)  # fmt: skip


def random_model(size: str, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    config = config_of(size)
    kind: Any = LlamaForCausalLM if isinstance(config, LlamaConfig) else Qwen3ForCausalLM
    return kind(config).to(dtype)


def make(size: str, folder: Path) -> dict[str, Any]:
    """A model with random weights, and a tokenizer that knows as many words."""
    model = random_model(size)
    model.save_pretrained(folder)
    words = {f"w{number}": number for number in range(model.config.vocab_size)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="w1", pad_token="w2", unk_token="w0")
    made.chat_template = TEMPLATE
    made.save_pretrained(folder)
    return {"parameters": sum(p.numel() for p in model.parameters())}


def ids_of(vocabulary: int, count: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(5, vocabulary, (count, LENGTH)).astype(np.int32)


class Memory(threading.Thread):
    """The most that the process held above its start, on the processor or the GPU."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.process = psutil.Process()
        self.first = self.most = self.process.memory_info().rss
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self.start()

    def run(self) -> None:
        while True:
            self.most = max(self.most, self.process.memory_info().rss)
            time.sleep(0.01)

    def megabytes(self) -> float:
        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated() / 2**20
        return (self.most - self.first) / 2**20


def timed(once: Callable[[int], float | None], repeats: int, tokens: int) -> dict[str, Any]:
    """The first call's result is the loss that is compared; its time is not counted."""
    memory, seconds, cpu = Memory(), [], []
    loss = once(0)
    for repeat in range(repeats):
        started, started_cpu = time.perf_counter(), time.process_time()
        once(repeat + 1)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
        cpu.append(time.process_time() - started_cpu)
    return {"seconds": seconds, "cpu": cpu, "tokens": tokens, "loss": loss, "memory_mb": memory.megabytes()}


def config_vocabulary(folder: Path) -> int:
    return int(json.loads((folder / "config.json").read_text())["vocab_size"])


def options_of(description: str | None) -> argparse.Namespace:
    """Of one case; sets the threads."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case")
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--size", default="135M")
    parser.add_argument("--targets", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    return options


def device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "processor"
