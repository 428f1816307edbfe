"""What the verbs print: text for a person on stdout, JSON for machines, nothing but results when not on a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .runs import systems, verdict

MARKS = {"ok": "green", "warning": "yellow", "problem": "red"}


def say(text: str = "") -> None:
    """One line of the result, with no markup and no wrapping."""
    print(text)


def hint(text: str) -> None:
    """A line for a person who watches; nothing when nobody does."""
    if sys.stdout.isatty():
        print(text)


def warn(text: str) -> None:
    """A line beside the result, on stderr."""
    print(text, file=sys.stderr)


def say_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2, default=str))


def say_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """An aligned table on a terminal; tab-separated lines elsewhere, for cut and awk."""
    texts = [["" if cell is None else str(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for line in texts:
            print("\t".join(line))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for line in texts:
        table.add_row(*(Text(cell) for cell in line))
    Console().print(table)


def say_mark(level: str, subject: str, text: str) -> None:
    """One finding: ok, warning or problem; coloured on a terminal unless NO_COLOR is set."""
    line = Text.assemble((f"{level:<8}", MARKS[level]), f" {subject}: {text}")
    Console(soft_wrap=True, highlight=False).print(line)


def say_outcome(run: Path, as_json: bool) -> None:
    """How a run ended: the verdict and where the report lies; a person who watches also sees the comparison."""
    page = (run / "report.html").resolve()
    if as_json:
        say_json({"run": str(run.resolve()), "report": str(page), "verdict": verdict(run)})
        return
    if sys.stdout.isatty() and systems(run):
        say_systems(systems(run))
        say()
    say(verdict(run))
    say(str(page))


def say_systems(scored: dict[str, Any]) -> None:
    """The comparison, a line a system."""
    rows = [_system_line(name, system) for name, system in scored.items()]
    say_table(("system", "parameters", "accuracy", "95% interval", "n", "latency p50"), rows)


def _system_line(name: str, system: dict[str, Any]) -> tuple[object, ...]:
    accuracy = system.get("accuracy") or {}
    interval = f"{accuracy['low']:.3f} to {accuracy['high']:.3f}" if accuracy.get("low") is not None else accuracy.get("why")
    value = None if accuracy.get("value") is None else f"{accuracy['value']:.3f}"
    parameters = None if system.get("parameters") is None else f"{system['parameters']:,}"
    latency = None if system.get("latency_p50_s") is None else f"{system['latency_p50_s']:.3f} s"
    return name, parameters, value, interval, accuracy.get("n"), latency
