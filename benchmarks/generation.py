"""Rows a second of batched generation against one row at a time, as a ratio in one run.

    python benchmarks/generation.py [--model FOLDER] [--rows 96] [--max-tokens 48]

Without --model it takes the starter teacher, or, where that is not there, a random Llama of its size. Both ways use the same
code, model and prompts; the rounds alternate, so that a busy machine slows both.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
import zlib
from pathlib import Path

if not any(name.startswith("OMP_") for name in os.environ):
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

import torch
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from potstill.catalog import STARTER_MODELS
from potstill.generation import BATCH_TOKENS, generate
from potstill.rendering import load_tokenizer, prompt_ids
from potstill.student import best_device, count_parameters, load_model
from potstill.types import Message, Sampling

TOPICS = ["the router shows a red light", "the printer prints empty pages", "the screen stays black", "mail does not arrive"]


def questions(rows: int) -> list[str]:
    chance = random.Random(0)
    return [" and ".join(chance.choices(TOPICS, k=chance.randint(1, 6))) + f", case {n}. What now?" for n in range(rows)]


def random_llama(vocab_size: int) -> PreTrainedModel:
    """About 10 million parameters, the starter teacher's size."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        tie_word_embeddings=True,
        eos_token_id=None,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


class Words:
    """A tokenizer of hashed words, for the random model: what `generate` needs and no more."""

    num_words = 4096
    pad_token_id = num_words
    eos_token_id = num_words + 1
    eos_token = "<end>"

    def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
        ids = [zlib.crc32(word.encode()) % self.num_words for word in text.split()]
        return {"input_ids": [self.eos_token_id] if text == self.eos_token else ids}

    def apply_chat_template(self, turns: list[dict[str, str]], *, add_generation_prompt: bool, **_: object) -> str:
        return " ".join(turn["content"] for turn in turns) + ("" if add_generation_prompt else self.eos_token)

    def get_vocab(self) -> dict[str, int]:
        return {str(number): number for number in range(self.num_words + 2)}

    def decode(self, ids: list[int], **_: object) -> str:
        return " ".join(map(str, ids))


def rows_per_second(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]], options: Sampling, batch_tokens: int
) -> float:
    start = time.perf_counter()
    count = sum(1 for _ in generate(model, tokenizer, prompts, options, batch_tokens=batch_tokens))
    return count / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=STARTER_MODELS / "starter-teacher")
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-tokens", type=int, default=BATCH_TOKENS)
    parser.add_argument("--device", default=best_device())
    given = parser.parse_args()
    if given.model.is_dir():
        tokenizer, model = load_tokenizer(str(given.model)), load_model(str(given.model), device=given.device)
    else:
        tokenizer, model = Words(), random_llama(Words.num_words + 2).to(given.device)  # type: ignore[assignment, arg-type]
    prompts = [prompt_ids(tokenizer, [Message("user", question)]) for question in questions(given.rows)]
    options = Sampling(max_tokens=given.max_tokens)
    alone, batched = [], []
    rows_per_second(model, tokenizer, prompts[:4], options, given.batch_tokens)  # warms up
    for turn in range(given.rounds):
        few = prompts[turn :: max(1, given.rows // 16)]
        alone.append(rows_per_second(model, tokenizer, few, options, 1))
        batched.append(rows_per_second(model, tokenizer, prompts, options, given.batch_tokens))
    table = Table(title=f"{count_parameters(model) / 1e6:.1f}M parameters on {given.device}, {torch.get_num_threads()} threads")
    table.caption = f"prompts of {sum(map(len, prompts)) / len(prompts):.0f} tokens, answers of up to {given.max_tokens}"
    for column in ("way", "rows/s (median)", "ratio"):
        table.add_column(column, justify="left" if column == "way" else "right")
    slow, fast = statistics.median(alone), statistics.median(batched)
    table.add_row("one by one", f"{slow:.1f}", "1.0")
    table.add_row(f"batches of {given.batch_tokens:,} tokens", f"{fast:.1f}", f"{fast / slow:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
