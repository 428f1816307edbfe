"""What a loss on layers costs: forward and backward of one packed batch, as a multiple of cross entropy alone, in one run.

    python benchmarks/layers.py [--threads 1] [--rounds 5]

A student of 6 layers and hidden size 256 learns from a teacher of 12 layers and 512 that runs beside it. The rounds of all losses
alternate, and CPU seconds are counted, as other programs may run. That values and gradients are right is checked in
tests/test_transfer.py and tests/test_objective.py.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

if not any(name.startswith("OMP_") for name in os.environ):
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM

from potstill.batches import Batch, Row, make_batches
from potstill.objective import Objective
from potstill.plugins import load_plugin
from potstill.student import count_parameters
from potstill.teacher_signals import LiveSignals, SignalShape
from potstill.transfer import TeacherInsides

WORDS, PROMPT, ANSWER, ROWS = 8000, 192, 64, 8
JOBS: dict[str, list[str]] = {
    "cross_entropy": [],
    "forward_kl, live": ["forward_kl"],
    "hidden_mse": ["hidden_mse"],
    "hidden_cosine": ["hidden_cosine"],
    "attention_kl": ["attention_kl"],
    "attention_mse": ["attention_mse"],
    "relation": ["relation"],
    "forward_kl, live, and hidden_mse": ["forward_kl", "hidden_mse"],
}


def llama(hidden: int, layers: int) -> LlamaForCausalLM:
    torch.manual_seed(hidden)
    config = LlamaConfig(
        vocab_size=WORDS, hidden_size=hidden, intermediate_size=3 * hidden, num_hidden_layers=layers,
        num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=2048, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.eval()
    return model


def seconds_of(
    objective: Objective, batch: Batch, rows: list[Row], signals: LiveSignals | None, insides: TeacherInsides
) -> float:
    start = time.process_time()
    total, _ = objective(batch, objective.ask(batch, rows, signals, insides))
    total.backward()
    seconds = time.process_time() - start
    objective.zero_grad()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    draw = np.random.default_rng(0)
    sizes = [PROMPT, ANSWER] * ROWS
    ids = iter([draw.integers(5, WORDS, size).astype(np.int32) for size in sizes])
    rows = [Row(prompt, answer) for prompt, answer in zip(ids, ids, strict=True)]
    (batch,) = make_batches(rows, range(ROWS), token_budget=10**6, packing=True, pad_id=0)
    made = {}
    # Jobs that look at attention change how their models compute it, so they have models of their own.
    models = {eager: (llama(256, 6), llama(512, 12)) for eager in (False, True)}
    for name, kinds in JOBS.items():
        student, teacher = models[name.startswith("attention")]
        signals = LiveSignals(teacher, WORDS, SignalShape(64, 1.0, 10**6, "fp32")) if "forward_kl" in kinds else None
        losses = [load_plugin("losses", kind) for kind in ("cross_entropy", *kinds)]
        made[name] = Objective(student, WORDS, losses, 1.0, teacher), signals, TeacherInsides(teacher, "fp32")
    found: dict[str, list[float]] = {name: [] for name in made}
    for number in range(options.rounds + 1):
        for name, (objective, signals, insides) in made.items():
            taken = seconds_of(objective, batch, rows, signals, insides)
            if number:  # the first round warms up
                found[name].append(taken)
    medians = {name: statistics.median(taken) for name, taken in found.items()}
    table = Table("losses beside cross_entropy", "CPU seconds", "times cross_entropy", "times forward_kl, live")
    for name, median in medians.items():
        first, other = (f"{median / medians[base]:.2f}" for base in ("cross_entropy", "forward_kl, live"))
        table.add_row(name, f"{median:.2f} ({min(found[name]):.2f} to {max(found[name]):.2f})", first, other)
    told = [f"{count_parameters(model) / 1e6:.1f}M" for model in (made["relation"][0].model, made["relation"][2].model)]
    Console(width=120).print(
        f"student {told[0]}, teacher {told[1]}, {ROWS} rows of {PROMPT + ANSWER} tokens, {ANSWER} of them targets, "
        f"{options.threads} thread(s), fp32, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}"
    )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
