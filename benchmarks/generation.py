"""Rows a second of batched generation against one row at a time, and of answers of skewed lengths, as ratios in one run.

    python benchmarks/generation.py [--model FOLDER] [--rows 96] [--max-tokens 48]
    python benchmarks/generation.py --skewed [--size 135M]

Two models: a random Llama of the starter teacher's size, whose answers all have full length, and the model itself, which ends
most of its answers early. Both ways use the same code and prompts; their rounds alternate, so that a busy machine slows both.

`--skewed`: answers that end after lognormal numbers of tokens, which no way knows beforehand; three ways with the same tokens.
transformers' `generate`, a batch until its longest answer has ended; rows that leave when they end; and rows that wait taking
their places (`refill.py`), which is how a student's own answers are sampled. Tokens are those of the answers alone.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
import zlib
from collections.abc import Sequence
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
from potstill.refill import Ask, Writer
from potstill.rendering import load_tokenizer, prompt_ids
from potstill.student import best_device, count_parameters, load_model
from potstill.types import Message, Sampling

TOPICS = ["the router shows a red light", "the printer prints empty pages", "the screen stays black", "mail does not arrive"]


def questions(rows: int) -> list[str]:
    chance = random.Random(0)
    return [" and ".join(chance.choices(TOPICS, k=chance.randint(1, 6))) + f", case {n}. What now?" for n in range(rows)]


SIZES = {"8M": (256, 768, 8, 8, 4), "135M": (576, 1536, 30, 9, 3)}


def random_llama(vocab_size: int, size: str = "8M") -> PreTrainedModel:
    """Of the starter teacher's size, or as wide and deep as a SmolLM2 of 135M with fewer words."""
    torch.manual_seed(0)
    hidden, inner, layers, heads, key_heads = SIZES[size]
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
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


class Ending(Writer):
    """Ends answers after given numbers of tokens, by the number that is a row's seed."""

    lengths: Sequence[int] = ()
    refills = True

    def _has_ended(self, answer: Sequence[int], ask: Ask) -> bool:
        return len(answer) >= self.lengths[int(ask.seed)]

    def _joining(self, waiting: list[int], rows: Sequence[int], asks: Sequence[Ask]) -> list[int]:
        return super()._joining(waiting, rows, asks) if self.refills or not rows else []

    def _whole_batch(self, asks: Sequence[Ask], limit: int) -> list[list[int]]:
        longest = max(self.lengths[int(ask.seed)] for ask in asks)
        answers = super()._whole_batch(asks, longest)
        return [ids[: self.lengths[int(ask.seed)]] for ids, ask in zip(answers, asks, strict=True)]


WAYS = ("static", "rows leave", "refilled")


def skewed(model: PreTrainedModel, given: argparse.Namespace) -> Table:
    """Tokens a CPU-second of each way, whose rounds alternate; all must give the same answers."""
    chance = random.Random(0)
    lengths = [max(1, min(given.longest, int(chance.lognormvariate(3.2, 1.0)))) for _ in range(given.rows)]
    prompts = [[chance.randrange(Words.num_words) for _ in range(chance.randint(20, 60))] for _ in lengths]
    words: Any = Words()
    writer = Ending(model, words, Sampling(temperature=1.0), batch_tokens=given.batch_tokens)
    writer.lengths, writer.stops, writer.config.eos_token_id = lengths, frozenset(), None  # no word ends an answer
    asks = [Ask(prompt, given.longest, str(number)) for number, prompt in enumerate(prompts)]
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    for turn in range(given.rounds + 1):
        found = []
        for way in WAYS:
            writer.mixes, writer.refills = way != "static", way == "refilled"
            start = time.process_time()
            found.append(writer.write(asks))
            seconds = time.process_time() - start
            if turn:  # the first one warms up
                rates[way].append(sum(lengths) / seconds)
        assert found[0] == found[1] == found[2]
    mean, size = sum(lengths) / len(lengths), count_parameters(model) / 1e6
    table = Table(title=f"{len(asks)} answers of {mean:.0f} tokens, the longest {max(lengths)}; {size:.1f}M parameters, "
                  f"{torch.get_num_threads()} threads, {given.batch_tokens:,} tokens a batch")  # fmt: skip
    for column in ("way", "tokens a CPU-second", "from, to", "times static"):
        table.add_column(column, justify="left" if column == "way" else "right")
    slowest = statistics.median(rates["static"])
    for way, values in rates.items():
        middle = statistics.median(values)
        table.add_row(way, f"{middle:.0f}", f"{min(values):.0f}, {max(values):.0f}", f"{middle / slowest:.2f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=STARTER_MODELS / "starter-teacher")
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-tokens", type=int, default=BATCH_TOKENS)
    parser.add_argument("--device", default=best_device())
    parser.add_argument("--skewed", action="store_true", help="answers of lognormal lengths instead")
    parser.add_argument("--size", choices=SIZES, default="8M", help="of the random Llama with --skewed")
    parser.add_argument("--longest", type=int, default=256, help="most tokens of an answer with --skewed")
    given = parser.parse_args()
    if given.skewed:
        Console().print(skewed(random_llama(Words.num_words + 2, given.size).to(given.device), given))
        return
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
