"""The loss engine beside plain torch, TRL, DistillKit and Liger: first whether it is right, then what it costs.

    python benchmarks/losses.py [--peers PYTHON] [--distillkit FOLDER] [--rows C1-512 ...] [--threads 1 2] [--quick]

PYTHON is that of an environment with torch, trl and liger-kernel, FOLDER one that holds DistillKit's package; what is not there
is said to be missing. Each case has a process of its own (loss_cases.py), so its peak of memory is its own. Seconds are medians
of the repetitions after one that is not counted, forward and backward; memory is the peak beyond inputs and gradients. Rows C
are for a processor; rows H need a CUDA device and are printed as not measured where there is none. `--quick`: one thread and two
repetitions.

Value and gradients of every function are compared with float64 on a slice, in fp32 and in bf16; the script ends with status 1
before it times anything where ours are wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from loss_cases import ROWS, functions
from rich.console import Console
from rich.table import Table

CASES = Path(__file__).with_name("loss_cases.py")
SOURCE = Path(__file__).parents[1] / "src"
OURS = "potstill"
EXACT = {"float32": (1e-5, 1e-5), "bfloat16": (1e-3, 2e-2)}
"""How far the value and the norms of the gradients may be from float64. Logits of deviation 2, rounded to bf16, are 0.4% off
at the largest, and so are their exponentials."""


def told(what: str, row: str, function: str, threads: int, given: argparse.Namespace) -> dict[str, Any]:
    """What the case's process says; a failure is its last line."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(SOURCE), "HF_HUB_OFFLINE": "1"}
    environment["TRL_EXPERIMENTAL_SILENCE"] = "1"
    words = [given.peers, CASES, what, "--row", row, "--function", function, "--threads", str(threads)]
    words += ["--repetitions", str(given.repetitions), *(["--distillkit", given.distillkit] if given.distillkit else [])]
    ran = subprocess.run(words, env=environment, capture_output=True, text=True)
    if ran.returncode:
        return {"missing": (ran.stderr.strip().splitlines() or [f"status {ran.returncode}"])[-1]}
    answer: dict[str, Any] = json.loads(ran.stdout.strip().splitlines()[-1])
    return answer


def checked(rows: list[str], given: argparse.Namespace) -> tuple[Table, list[str]]:
    """Distances to float64, and the rows in which ours are too far."""
    table = Table("row", "function", "dtype", "value off", "hidden gradient off", "head gradient off", "", box=None)
    wrong = []
    for row in rows:
        for function in functions(row):
            answer = told("check", row, function, 1, given)
            if "missing" in answer:
                table.add_row(row, function, "", "", "", "", answer["missing"])
            for dtype, off in answer.items() if "missing" not in answer else ():
                near = EXACT[dtype]
                right = all(distance <= most for distance, most in zip(off, (near[0], near[1], near[1]), strict=True))
                table.add_row(row, function, dtype, *(f"{distance:.1e}" for distance in off), verdict(right, dtype))
                if function == OURS and not right:
                    wrong.append(f"{row} {dtype}")
            if function == OURS and "missing" in answer:
                wrong.append(f"{row}: {answer['missing']}")
    return table, wrong


def verdict(right: bool, dtype: str) -> str:
    if right:
        return "as float64"
    return "further off than rounding of bf16" if dtype == "bfloat16" else "another definition"


def measured(row: str, threads: int, given: argparse.Namespace) -> Table:
    title = f"{row}, {threads} thread{'s' * (threads > 1)}" if ROWS[row].device == "cpu" else row
    table = Table("function", "CPU s", "from, to", "wall s", "times ours, CPU", "wall", "MB beyond", title=title, box=None)
    ours: dict[str, Any] = {}
    for function in functions(row):
        answer = told("time", row, function, threads, given)
        if "missing" in answer:
            table.add_row(function, f"missing: {answer['missing']}")
            continue
        ours = answer if function == OURS else ours
        ratios = [f"{answer[clock] / ours[clock]:.2f}" if ours else "" for clock in ("process", "wall")]
        spread = f"{answer['from']:.2f}, {answer['to']:.2f}"
        seconds = f"{answer['process']:.3f}", spread, f"{answer['wall']:.3f}"
        table.add_row(function, *seconds, *ratios, f"{answer['beyond'] / 2**20:.0f}")
    return table


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--peers", default=sys.executable, help="the Python of an environment with trl and liger-kernel")
    options.add_argument("--distillkit", help="a folder that holds DistillKit's package")
    options.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    options.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    options.add_argument("--repetitions", type=int, default=5)
    options.add_argument("--quick", action="store_true", help="one thread and two repetitions")
    options.add_argument("--checks-only", action="store_true", help="compare with float64 and time nothing")
    given = options.parse_args()
    if given.quick:
        given.threads, given.repetitions = [1], 2
    console = Console(width=170)
    here = [row for row in given.rows if ROWS[row].device == "cpu" or torch.cuda.is_available()]
    table, wrong = checked(here, given)
    console.print(table)
    if wrong:
        sys.exit("ours are not as float64: " + ", ".join(wrong))
    for row in () if given.checks_only else given.rows:
        if row not in here:
            console.print(f"{row}: not measured (no CUDA device)")
            continue
        for threads in given.threads if ROWS[row].device == "cpu" else [1]:
            console.print(f"load {os.getloadavg()[0]:.1f}")
            console.print(measured(row, threads, given))


if __name__ == "__main__":
    main()
