"""The runs in a folder: list them, find one by name. Reads the run folders only, so it needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from .errors import DataError, ModelError, did_you_mean
from .runfolder import RunFolder, read_json


class RunSummary(NamedTuple):
    """One line of `potstill list`."""

    name: str
    status: str
    stage: str | None
    verdict: str


def list_runs(folder: Path) -> list[RunSummary]:
    """Every run of a folder, by name."""
    found = []
    for path in sorted(folder.glob("*/state.json")):
        try:
            state = RunFolder(path.parent).state()
        except ModelError:  # one damaged run hides no other
            found.append(RunSummary(path.parent.name, "damaged", None, ""))
            continue
        found.append(RunSummary(path.parent.name, state.get("status", "unknown"), state.get("stage"), verdict(path.parent)))
    return found


def verdict(run: Path) -> str:
    """The report's one sentence; empty while there is no report."""
    report = run / "report.json"
    return str(read_json(report).get("verdict", "")) if report.is_file() else ""


def systems(run: Path) -> dict[str, Any]:
    """The report's numbers of teacher, baseline, control and student; empty while there is no report."""
    report = run / "report.json"
    found: dict[str, Any] = read_json(report).get("systems", {}) if report.is_file() else {}
    return found


def find_run(place: Path) -> RunFolder:
    """A run by its folder or by its name in ./runs; raises DataError with the known runs."""
    for folder in (place, Path("runs") / place):
        if (folder / "state.json").is_file():
            return RunFolder(folder)
    known = [run.name for run in list_runs(Path("runs"))]
    rest = did_you_mean(str(place), known) if known else "there are no runs in ./runs; name the run's folder"
    raise DataError(f"no run {str(place)!r}: {rest}")
