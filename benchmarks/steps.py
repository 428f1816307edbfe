"""Whole training steps beside transformers' and TRL's: C5, C6, C7, and on a GPU H4.

    nice -n 5 python benchmarks/steps.py [--only C5 C6 C7 H4] [--peers PYTHON] [--repeats 5] [--threads 1 2] [--quick]

C5: a step of a Llama of 135M parameters (SmolLM2-135M's configuration, random weights) on the processor, two rows of 512 tokens,
    every token a target, or the last 128 alone. Beside it transformers' Trainer with its defaults (fp32, fused AdamW), and the
    best that can be set by hand: weights in bf16, fused AdamW. Ours is `training.py`'s own step.
C6: scoring by such a model with its signals (50 draws a token) on the disk, beside forward passes that keep nothing: the body
    alone, with the logits of the targets in bf16, and transformers' model as it is called, which makes the logits of every
    position. All on the same packed batches under bf16 autocast; memory is the peak above that after loading.
C7: the steps of epochs that read kept signals (50 draws a token of a distribution by 1 / rank) and of plain cross entropy.
H4: a step of Qwen3-1.7B's configuration from kept signals, beside TRL's SFTTrainer and its DistillationTrainer with an 8B
    teacher. Needs CUDA; `--tiny` runs it on small models anywhere, to see that it works.

PYTHON is the interpreter of an environment with trl (and so transformers); without it, ours alone is timed.

Each case runs in a process of its own, once unmeasured and `--repeats` times measured; the tables have medians, and their ratios
are of CPU time where the device is a processor, because other programs disturb that less. The losses of the first step are
compared before anything is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

OURS, PEERS = (Path(__file__).parent / name for name in ("step_cases.py", "step_peers.py"))
C5 = ("potstill", "Trainer's defaults", "autocast, fused AdamW", "bf16 weights, fused AdamW")
C6 = ("potstill, signals on disk", "body alone", "body and the targets' logits", "transformers, all logits")
C7 = ("potstill, kept signals", "potstill, cross entropy")
H4 = ("potstill, kept signals", "potstill, cross entropy", "TRL SFT", "TRL distillation, 8B teacher")
H100_FLOPS = 989e12
"""An H100's or H200's products in bf16 a second (NVIDIA's data sheet, without sparsity)."""
LOSS_MAY_DIFFER = 0.02
"""Between fp32 and bf16, of 10.8."""


def measured(case: str, threads: int, options: argparse.Namespace, *more: str) -> dict[str, Any]:
    ours = case.startswith(("make", "cuda", "C6")) or "potstill" in case
    source = str(Path(__file__).resolve().parents[1] / "src")
    own = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": source, "PYTHONWARNINGS": "ignore",
           "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "false" if case.startswith("H4") else "true"}  # fmt: skip
    command = [
        sys.executable if ours else options.peers,
        str(OURS if ours else PEERS),
        case,
        "--threads",
        str(threads),
        "--repeats",
        str(options.repeats),
        *more,
    ]
    done = subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{case} failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    shown = Table(title=title)
    for number, column in enumerate(columns):
        shown.add_column(column, justify="right" if number else "left")
    for row in rows:
        shown.add_row(*row)
    Console().print(shown)


def speeds(found: dict[str, Any]) -> tuple[float, float, str]:
    """Tokens per CPU second and per second, medians, and the range of the first."""
    cpu = [found["tokens"] / seconds for seconds in found["cpu"]]
    wall = [found["tokens"] / seconds for seconds in found["seconds"]]
    return statistics.median(cpu), statistics.median(wall), f"{min(cpu):,.0f} to {max(cpu):,.0f}"


def compared(title: str, names: tuple[str, ...], found: dict[str, dict[str, Any]]) -> None:
    """One row a case; the ratio is the first case's speed over this one's."""
    base = speeds(found[names[0]])
    rows = []
    for name in names:
        cpu, wall, spread = speeds(found[name])
        memory = f"{found[name]['memory_mb']:,.0f}"
        rows.append((name, f"{cpu:,.0f}", spread, f"{base[0] / cpu:.2f}", f"{wall:,.0f}", memory))
    columns = ("case", "tokens / CPU s", "from, to", f"times, of {names[0]}", "tokens / s", "memory above the start, MB")
    table(title, columns, rows)


def same_loss(found: dict[str, dict[str, Any]]) -> None:
    losses = {name: one["loss"] for name, one in found.items() if one.get("loss") is not None}
    if max(losses.values()) - min(losses.values()) > LOSS_MAY_DIFFER:
        raise SystemExit(f"the first step's losses differ: {losses}")
    print("losses of the first step:", {name: round(loss, 4) for name, loss in losses.items()})


def run_c5(options: argparse.Namespace, threads: int, folder: str) -> None:
    for targets in (511, 128):
        more = ("--folder", folder, "--targets", str(targets))
        names = C5 if options.peers else C5[:1]
        found = {name: measured(f"C5 {name}", threads, options, *more) for name in names}
        same_loss(found)
        compared(f"C5: a step, {threads} thread(s), 2 rows of 512 tokens, {targets} targets each", names, found)


def run_c6(options: argparse.Namespace, threads: int, folder: str) -> None:
    found = {name: measured(f"C6 {name}", threads, options, "--folder", folder) for name in C6}
    compared(f"C6: teacher scoring, {threads} thread(s), rows of 512 tokens, 128 targets each", C6, found)
    for targets in (128, 448):
        one = measured(f"C6 {C6[0]}", threads, options, "--folder", folder, "--targets", str(targets), "--repeats", "1")
        print(f"memory above the start with {targets} targets a row: {one['memory_mb']:,.0f} MB")


def run_c7(options: argparse.Namespace, threads: int, folder: str) -> None:
    found = {name: measured(f"C7 {name}", threads, options, "--folder", folder, "--targets", "128") for name in C7}
    compared(f"C7: a step, {threads} thread(s), 2 rows of 512 tokens, 128 targets each", C7, found)


def run_h4(options: argparse.Namespace, has_cuda: bool) -> None:
    if not has_cuda and not options.tiny:
        print("H4: not measured (no CUDA device)")
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        size = "tiny" if options.tiny else "1.7B"
        student = measured("make", 1, options, "--size", size, "--folder", folder)
        for name in H4:
            if name.startswith("TRL") and not options.peers:
                continue
            more = ("--folder", folder, "--size", size, "--targets", "128")
            found = measured(f"H4 {name}", 2, options, *more)
            _, wall, _ = speeds(found)
            share = 6 * student["parameters"] * wall / H100_FLOPS
            rows.append((name, f"{wall:,.0f}", f"{share:.1%}", f"{found['memory_mb']:,.0f}", found["device"]))
    table("H4: a step of the student", ("case", "tokens / s", "MFU", "memory, MB", "device"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=["C5", "C6", "C7", "H4"], choices=["C5", "C6", "C7", "H4"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--peers", default="")
    parser.add_argument("--quick", action="store_true", help="two repetitions on one thread")
    parser.add_argument("--tiny", action="store_true", help="H4 on tiny models")
    options = parser.parse_args()
    if options.quick:
        options.repeats, options.threads = 2, [1]
    print(f"load average {os.getloadavg()[0]:.1f}")
    if set(options.only) & {"C5", "C6", "C7"}:
        with tempfile.TemporaryDirectory() as folder:
            measured("make", 1, options, "--size", "135M", "--folder", folder)
            for threads in options.threads:
                for name, run in (("C5", run_c5), ("C6", run_c6), ("C7", run_c7)):
                    if name in options.only:
                        run(options, threads, folder)
    if "H4" in options.only:
        run_h4(options, bool(measured("cuda", 1, options)["cuda"]))


if __name__ == "__main__":
    main()
