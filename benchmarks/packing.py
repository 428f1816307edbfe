"""Packing lines: time and number of lines, beside TRL's `pack_dataset`, on several distributions of lengths.

    python benchmarks/packing.py [--rows 200000] [--capacity 2048] [--repeats 5] [--peers PYTHON] [--places-only]

PYTHON is the interpreter of an environment with trl and datasets; without it, ours alone is timed. Each variant runs in a
process of its own, on one thread, once unmeasured and then `--repeats` times; the table has medians,
and the ratios are of CPU time, which other programs on the machine disturb less. The variants:

- potstill, places: `pack`, from lengths to the rows of each line. This is the packing itself.
- potstill, tokens too: the same and then what TRL hands over, the packed `input_ids` as an Arrow column with `seq_lengths`.
- TRL, 1,000 at once: `pack_dataset(dataset, seq_length)` as its documentation has it; it packs each 1,000 rows apart.
- TRL, all at once: the same with `map_kwargs={"batch_size": None}`, to pack all rows together as ours does.
- TRL, strategy alone: its function `_pack_bfd` on the whole table, without `datasets`.
- TRL, places: the same on tokens that take no memory (Arrow's null type), so that no token is moved: its packing itself.

TRL's `pack_dataset` gets a `datasets.Dataset` with a column `input_ids` (32-bit) of these lengths; its cache is turned off.
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

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

START = """
import json, sys, time
import numpy as np, pyarrow as pa, pyarrow.compute as pc
pa.set_cpu_count(1)
path, variant, capacity, repeats = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
lengths = np.load(path)
offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
def table(tokens):
    return pa.table({"input_ids": pa.ListArray.from_arrays(offsets, tokens)})
def tokens():
    return pa.array((np.arange(offsets[-1]) % 32_000).astype(np.int32))
"""
FINISH = """
seconds, cpu = [], []
for repeat in range(repeats + 1):
    start, start_cpu = time.perf_counter(), time.process_time()
    lines = once()
    seconds.append(time.perf_counter() - start)
    cpu.append(time.process_time() - start_cpu)
print(json.dumps({"seconds": seconds[1:], "cpu": cpu[1:], "lines": lines}))
"""
OURS = """
from potstill.packing import pack
if variant.endswith("places"):
    def once():
        return len(pack(lengths, capacity))
else:
    held = table(tokens())
    def once():
        lines = pack(lengths, capacity)
        order = np.fromiter((row for line in lines for row in line), np.int64, len(lengths))
        ends = np.cumsum([len(line) for line in lines])
        column = pc.take(held["input_ids"].chunks[0], pa.array(order))
        of_rows = np.concatenate([[0], ends]).astype(np.int32)
        of_tokens = column.offsets.to_numpy()[of_rows]
        packed = pa.table({
            "input_ids": pa.ListArray.from_arrays(of_tokens, column.values),
            "seq_lengths": pa.ListArray.from_arrays(of_rows, pa.array(lengths[order])),
        })
        return packed.num_rows
"""
THEIRS = """
import datasets, trl
from trl.data_utils import _pack_bfd
datasets.disable_progress_bars()
datasets.disable_caching()
if variant.endswith("at once"):
    held = datasets.Dataset(table(tokens()))
    own = {"map_kwargs": {"batch_size": None}} if variant.endswith("all at once") else {}
    def once():
        return len(trl.pack_dataset(held, capacity, **own))
else:
    held = table(pa.nulls(int(offsets[-1])) if variant.endswith("places") else tokens())
    def once():
        return _pack_bfd(held, capacity).num_rows
"""
OUR_VARIANTS = ("potstill, places", "potstill, tokens too")
THEIR_VARIANTS = ("TRL, 1,000 at once", "TRL, all at once", "TRL, strategy alone", "TRL, places")
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OMP_THREAD_LIMIT", "POLARS_MAX_THREADS"), "1")


def distributions(num_rows: int, capacity: int) -> dict[str, npt.NDArray[np.int64]]:
    random = np.random.default_rng(0)
    short, long = random.integers(20, 120, num_rows), random.integers(capacity * 4 // 9, capacity * 3 // 4, num_rows)
    found = {
        "lognormal": random.lognormal(5.5, 0.8, num_rows),
        "lognormal, longer": random.lognormal(6.5, 1.0, num_rows),
        "uniform": random.integers(1, capacity + 1, num_rows),
        "all equal": np.full(num_rows, capacity * 3 // 20),
        "bimodal": np.where(random.random(num_rows) < 0.8, short, long),
    }
    return {name: np.clip(lengths, 1, capacity).astype(np.int64) for name, lengths in found.items()}


def measured(python: str, variant: str, lengths: Path, args: argparse.Namespace) -> dict[str, Any]:
    code = START + (OURS if variant in OUR_VARIANTS else THEIRS) + FINISH
    command = [python, "-c", code, str(lengths), variant, str(args.capacity), str(args.repeats)]
    own = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(lengths.parent), "TMPDIR": str(lengths.parent)}
    done = subprocess.run(command, env={**os.environ, **ONE_THREAD, **own}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{variant} failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--capacity", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peers", help="interpreter of an environment with trl and datasets")
    parser.add_argument("--places-only", action="store_true", help="leave out the variants that move tokens (gigabytes)")
    parser.add_argument("--only", nargs="*", help="distributions, by name; all without it")
    args = parser.parse_args()
    table = Table(
        "lengths",
        "variant",
        "ms",
        "CPU ms",
        "from",
        "to",
        "CPU, times the first",
        "lines",
        "at least",
        title=f"{args.rows:,} rows",
    )
    variants = dict.fromkeys(OUR_VARIANTS, sys.executable) | (dict.fromkeys(THEIR_VARIANTS, args.peers) if args.peers else {})
    if args.places_only:
        variants = {name: python for name, python in variants.items() if name.endswith("places")}
    with tempfile.TemporaryDirectory() as folder:
        for name, lengths in distributions(args.rows, args.capacity).items():
            if args.only and name not in args.only:
                continue
            np.save(path := Path(folder) / "lengths.npy", lengths)
            base = 0.0
            for variant, python in variants.items():
                found = measured(python, variant, path, args)
                middle = statistics.median(found["cpu"])
                base = base or middle
                times = (statistics.median(found["seconds"]), middle, min(found["cpu"]), max(found["cpu"]))
                least = -(-int(lengths.sum()) // args.capacity)
                table.add_row(
                    name,
                    variant,
                    *(f"{1e3 * each:,.1f}" for each in times),
                    f"{middle / base:.1f}",
                    f"{found['lines']:,}",
                    f"{least:,}",
                )
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
