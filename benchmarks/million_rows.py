"""Seconds and memory of prepare, generate and validate as rows grow tenfold and tenfold again: flat, and under 2 GiB.

    python benchmarks/million_rows.py [--sizes 10000 100000 1000000] [--profile STAGE]

Rows are short chats, a third of them with gold, a twentieth of them twice. The teacher is scripted and echoes, so what is
measured is our own work: reading, keys, the journal with every answer synced, checks. Each stage runs in a process of its
own, as it does when a run goes on where it stopped; peak memory is the kernel's count for that process.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from potstill.job import Job
from potstill.plugins import verb
from potstill.runfolder import RunFolder, count_rows

STAGES = ("prepare", "generate", "validate")
SYSTEM = "You are the support of a small telecom company. Answer in one sentence."


def write_chats(path: Path, num_rows: int) -> None:
    with path.open("w") as file:
        for number in range(num_rows):
            name = number if number % 20 else number // 2
            question = (
                f"My router number {name} shows a red light since {name % 30} days and the line drops, what can I do about it?"
            )
            chat = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
            if number % 3 == 0:
                chat.append(
                    {"role": "assistant", "content": f"Restart router {name}, wait a minute, and call us if it stays red."}
                )
            file.write(json.dumps({"messages": chat, "meta": {"number": number}}) + "\n")


def job_in(folder: Path) -> Job:
    (folder / "student").mkdir(exist_ok=True)
    teacher = {"kind": "scripted", "echo": True}
    return Job(folder=folder, name="run", task="conversation", data="rows.jsonl", teacher=teacher, student="./student")


def run_stage(stage: str, folder: Path, *, profiled: bool) -> dict[str, float]:
    """Runs a stage in this process; its seconds, and the most memory that the process has had."""
    job = job_in(folder)
    run = verb(f"stages.{stage}:run")
    profile = cProfile.Profile()
    start, cpu = time.perf_counter(), time.process_time()
    if profiled:
        profile.runcall(run, job, RunFolder(job.run_path))
        pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(40)
    else:
        run(job, RunFolder(job.run_path))
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"seconds": time.perf_counter() - start, "cpu_s": time.process_time() - cpu, "peak_bytes": peak}


def measure(num_rows: int, profiled: str | None) -> list[dict[str, float]]:
    """The stages one after another over fresh rows, each in a child process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_chats(folder / "rows.jsonl", num_rows)
        found = []
        for stage in STAGES:
            more = ["--profile", stage] if profiled == stage else []
            command = [sys.executable, __file__, "--stage", stage, "--folder", name, *more]
            done = subprocess.run(
                command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
            )
            found.append(json.loads(done.stdout))
        kept = count_rows(folder / "runs" / "run" / "answers" / "kept.jsonl")
        assert 0.7 * num_rows < kept < num_rows, kept
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--profile", choices=STAGES, help="print where this stage's time goes")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        print(json.dumps(run_stage(arguments.stage, arguments.folder, profiled=arguments.profile is not None)))
        return
    table = Table("stage", "rows", "seconds", "microseconds a row", "of CPU", "peak MiB")
    for num_rows in arguments.sizes:
        for stage, one in zip(STAGES, measure(num_rows, arguments.profile), strict=True):
            per_row = [f"{1e6 * one[name] / num_rows:,.0f}" for name in ("seconds", "cpu_s")]
            table.add_row(stage, f"{num_rows:,}", f"{one['seconds']:,.1f}", *per_row, f"{one['peak_bytes'] / 2**20:,.0f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
