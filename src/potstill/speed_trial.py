"""A few seconds of generation and training on a small random model, timed: what `potstill doctor` runs twice.

OMP_WAIT_POLICY=PASSIVE python -m potstill.speed_trial
"""

from __future__ import annotations

import json
import time
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

TOKENS = 64
STEPS = 4
ROWS, LENGTH = 8, 128


def trial() -> dict[str, Any]:
    """Tokens a second of greedy generation at batch 1, seconds of a training step, and what torch sees here."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=2048, hidden_size=256, intermediate_size=768, num_hidden_layers=4, num_attention_heads=4, eos_token_id=None
    )
    model = LlamaForCausalLM(config)
    cuda = torch.cuda.is_available()
    return {
        "tokens_per_s": round(_tokens_per_second(model.eval()), 1),
        "training_step_s": round(_training_step_seconds(model.train()), 4),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if cuda else "mps" if torch.backends.mps.is_available() else None,
    }


def _tokens_per_second(model: LlamaForCausalLM) -> float:
    _answer(model, 4)
    start = time.perf_counter()
    _answer(model, TOKENS)
    return TOKENS / (time.perf_counter() - start)


@torch.inference_mode()
def _answer(model: LlamaForCausalLM, num_tokens: int) -> None:
    """Greedy generation, one token at a time on the cached rest."""
    ids_BT, past = torch.arange(16)[None], None
    for _ in range(num_tokens):
        out = model(input_ids=ids_BT, past_key_values=past, use_cache=True)
        ids_BT, past = out.logits[:, -1:].argmax(-1), out.past_key_values


def _training_step_seconds(model: LlamaForCausalLM) -> float:
    """The median step of a few, the first left out."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    ids_BT = torch.randint(0, 2048, (ROWS, LENGTH))
    seconds = []
    for _ in range(STEPS + 1):
        start = time.perf_counter()
        model(input_ids=ids_BT, labels=ids_BT).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        seconds.append(time.perf_counter() - start)
    return sorted(seconds[1:])[STEPS // 2]


if __name__ == "__main__":
    print(json.dumps(trial()))
