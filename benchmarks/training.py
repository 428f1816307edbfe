"""Training tokens/s and peak memory of Potstill's step against the plain way, for cross entropy and for KD.

    python benchmarks/training.py [--steps 12] [--threads 2]

Plain: rows padded to the longest of the batch, logits of every position in memory, `torch.nn.functional` losses; KD with
a dense live teacher. Potstill: packed rows, answer positions only, chunked cells (kernels/cells.py); KD from kept top-64
signals. One child process per variant, turn about, so that peak memory is each variant's own; the table gives ratios.
The student is a random Llama of the real architecture with a 32,000-word vocabulary; lengths are lognormal.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

import numpy as np
import psutil
import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from potstill.batches import Batch, Row, make_batches
from potstill.kernels.cells import Cells, Term, cell_losses, teacher_cells, text_cells
from potstill.plugins import load_plugin
from potstill.student import head_of, hidden_states

VOCABULARY = 32_000
BATCH_ROWS = 16
TOP_K = 64
VARIANTS = ("plain cross entropy", "potstill cross entropy", "plain KD", "potstill KD")


def llama(hidden: int, layers: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=8,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)


def make_rows(count: int) -> list[Row]:
    random = np.random.default_rng(0)
    prompts = np.clip(random.lognormal(4.2, 0.6, count), 8, 480).astype(int)
    answers = np.clip(random.lognormal(3.3, 0.6, count), 2, 160).astype(int)
    return [
        Row(random.integers(5, VOCABULARY, p).astype(np.int32), random.integers(5, VOCABULARY, a).astype(np.int32))
        for p, a in zip(prompts, answers, strict=True)
    ]


def plain_loss(model: LlamaForCausalLM, teacher: LlamaForCausalLM | None, batch: Batch) -> torch.Tensor:
    """Every logit of the padded batch, then the loss at the answer positions."""
    mask_BT = (batch.position_ids_BT > 0) | (torch.arange(batch.input_ids_BT.shape[1]) == 0)
    logits_NV = model(input_ids=batch.input_ids_BT, attention_mask=mask_BT.long()).logits.flatten(0, 1)[batch.at_N].float()
    loss = functional.cross_entropy(logits_NV, batch.target_N)
    if teacher is None:
        return loss
    with torch.no_grad():
        other_NV = teacher(input_ids=batch.input_ids_BT, attention_mask=mask_BT.long()).logits.flatten(0, 1)[batch.at_N].float()
    divergence = functional.kl_div(
        functional.log_softmax(logits_NV, -1), functional.log_softmax(other_NV, -1), log_target=True, reduction="batchmean"
    )
    return 0.25 * loss + 0.75 * divergence


def potstill_loss(model: LlamaForCausalLM, batch: Batch, cells: Cells | None, num_targets: int) -> torch.Tensor:
    hidden_NH = hidden_states(model, batch.input_ids_BT, batch.position_ids_BT).flatten(0, 1)[batch.at_N]
    entropy, kl = load_plugin("losses", "cross_entropy"), load_plugin("losses", "forward_kl")
    terms = [Term(entropy.formula, text_cells(batch.target_N), 1.0 if cells is None else 0.25, 1.0)]
    if cells is not None:
        terms.append(Term(kl.formula, cells, 0.75, 1.0))
    return cell_losses(hidden_NH, head_of(model, VOCABULARY), terms)[0] / num_targets


def kept_signals(teacher: LlamaForCausalLM, batches: list[list[Batch]]) -> list[list[Cells]]:
    """Captured once, before the clock runs: what a job does in its capture stage."""
    found = []
    for step in batches:
        with torch.no_grad():
            hidden = [hidden_states(teacher, b.input_ids_BT, b.position_ids_BT).flatten(0, 1)[b.at_N] for b in step]
        found.append([teacher_cells(h, head_of(teacher, VOCABULARY), TOP_K, 1.0) for h in hidden])
    return found


def measure(variant: str, steps: int, threads: int) -> dict[str, float]:
    torch.set_num_threads(threads)
    rows = make_rows(BATCH_ROWS * (steps + 1))
    ours, with_teacher = variant.startswith("potstill"), variant.endswith("KD")
    model = llama(256, 4)
    teacher = llama(512, 4).eval() if with_teacher else None
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    numbers = [range(s * BATCH_ROWS, (s + 1) * BATCH_ROWS) for s in range(steps + 1)]
    batches = [make_batches(rows, n, token_budget=10**6 if not ours else 2048, packing=ours, pad_id=0) for n in numbers]
    signals = kept_signals(teacher, batches) if ours and teacher is not None else None
    if ours:
        teacher = None  # it leaves the memory
    before = psutil.Process().memory_info().rss
    peak, started = before, time.perf_counter()
    for step, parts in enumerate(batches):
        if step == 1:  # the first step warms up
            started = time.perf_counter()
        num_targets = sum(len(rows[n].answer) for n in numbers[step])
        optimizer.zero_grad()
        for place, batch in enumerate(parts):
            if ours:
                loss = potstill_loss(model, batch, signals[step][place] if signals else None, num_targets)
            else:
                loss = plain_loss(model, teacher, batch)
            peak = max(peak, psutil.Process().memory_info().rss)
            loss.backward()
        optimizer.step()
        peak = max(peak, psutil.Process().memory_info().rss)
    seconds = time.perf_counter() - started
    tokens = sum(rows[n].length for part in numbers[1:] for n in part)
    return {"tokens_per_s": tokens / seconds, "peak_mb": (peak - before) / 2**20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--variant", choices=VARIANTS)
    options = parser.parse_args()
    if options.variant:
        print(json.dumps(measure(options.variant, options.steps, options.threads)))
        return
    found: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    for _ in range(options.repeats):
        for variant in VARIANTS:
            command = [sys.executable, __file__, "--variant", variant, "--steps", str(options.steps)]
            done = subprocess.run([*command, "--threads", str(options.threads)], check=True, capture_output=True, text=True)
            found[variant].append(json.loads(done.stdout.splitlines()[-1]))
    print_table(found, options)


def print_table(found: dict[str, list[dict[str, float]]], options: argparse.Namespace) -> None:
    table = Table(title=f"{options.steps} steps of {BATCH_ROWS} rows, {options.threads} threads, median of {options.repeats}")
    for column in ("variant", "tokens/s", "times plain", "memory above the start, MB", "of plain"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    for variant in VARIANTS:
        plain = variant.replace("potstill", "plain")
        speed = float(np.median([run["tokens_per_s"] for run in found[variant]]))
        memory = float(np.median([run["peak_mb"] for run in found[variant]]))
        ratios = [a["tokens_per_s"] / b["tokens_per_s"] for a, b in zip(found[variant], found[plain], strict=True)]
        share = memory / float(np.median([run["peak_mb"] for run in found[plain]]))
        table.add_row(variant, f"{speed:,.0f}", f"{np.median(ratios):.2f}", f"{memory:,.0f}", f"{share:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
