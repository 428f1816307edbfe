"""Rows a second of batched generation against one row at a time, as a ratio in one run.

    python benchmarks/generation.py [--model FOLDER] [--rows 96] [--max-tokens 48]

Two models: a random Llama of the starter teacher's size, whose answers all have full length, and the model itself, which ends
most of its answers early. Both ways use the same code and prompts; their rounds alternate, so that a busy machine slows both.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
import zlib
from pathlib import Path
from typing import Any, NamedTuple

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


class Subject(NamedTuple):
    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


class Rate(NamedTuple):
    """Rows a second, and the mean length of their answers in tokens."""

    rows_per_s: float
    answer_tokens: float


def rate(subject: Subject, prompts: list[list[int]], options: Sampling, batch_tokens: int) -> Rate:
    start = time.perf_counter()
    rows = list(generate(subject.model, subject.tokenizer, prompts, options, batch_tokens=batch_tokens))
    seconds = time.perf_counter() - start
    return Rate(len(rows) / seconds, sum(row.completion_tokens for row in rows) / len(rows))


def compare(subject: Subject, given: argparse.Namespace) -> list[str]:
    """One line of the table; the rounds of both ways alternate."""
    prompts = [prompt_ids(subject.tokenizer, [Message("user", question)]) for question in questions(given.rows)]
    options = Sampling(max_tokens=given.max_tokens)
    alone, batched = [], []
    rate(subject, prompts[:4], options, given.batch_tokens)  # warms up
    for turn in range(given.rounds):
        alone.append(rate(subject, prompts[turn :: max(1, given.rows // 16)], options, 1))
        batched.append(rate(subject, prompts, options, given.batch_tokens))
    slow, fast = (statistics.median(one.rows_per_s for one in rates) for rates in (alone, batched))
    lengths = [f"{sum(map(len, prompts)) / len(prompts):.0f}", f"{batched[0].answer_tokens:.0f}"]
    parameters = f"{count_parameters(subject.model) / 1e6:.1f}M"
    return [subject.name, parameters, *lengths, f"{slow:.1f}", f"{fast:.1f}", f"{fast / slow:.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=STARTER_MODELS / "starter-teacher")
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-tokens", type=int, default=BATCH_TOKENS)
    parser.add_argument("--device", default=best_device())
    given = parser.parse_args()
    words: Any = Words()
    subjects = [Subject("random Llama", random_llama(Words.num_words + 2).to(given.device), words)]
    if given.model.is_dir():
        name = str(given.model)
        subjects.append(Subject(given.model.name, load_model(name, device=given.device), load_tokenizer(name)))
    table = Table(title=f"generation on {given.device}, {torch.get_num_threads()} threads, {given.batch_tokens:,} tokens a batch")
    for column in ("model", "parameters", "prompt tokens", "answer tokens", "one by one, rows/s", "batched, rows/s", "ratio"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for subject in subjects:
        table.add_row(*compare(subject, given))
    Console().print(table)


if __name__ == "__main__":
    main()
