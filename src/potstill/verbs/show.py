"""`potstill show RUN`: a run's state, stages and scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..runfolder import read_json
from ..runs import find_run, verdict
from ..terminal import say, say_json, say_table
from ..types import STAGES


def show(place: Path, as_json: bool) -> None:
    """Prints what the run folder says; nothing is computed."""
    folder = find_run(place)
    state = folder.state()
    report = folder.path / "report.json"
    systems = read_json(report).get("systems", {}) if report.is_file() else {}
    if as_json:
        say_json(
            {"name": folder.path.name, "folder": str(folder.path), **state, "verdict": verdict(folder.path), "systems": systems}
        )
        return
    say(f"run     {folder.path.name} ({folder.path})")
    say(f"status  {state.get('status', 'unknown')}{_progress(state)}")
    if state.get("reason"):
        say(f"reason  {state['reason']}")
    done = state.get("stages", {})
    rows = [(stage, f"{done[stage]['seconds']:.1f} s", done[stage]["finished_at"]) for stage in STAGES if stage in done]
    if rows:
        say()
        say_table(("stage", "took", "finished"), rows)
    if systems:
        say()
        say_table(
            ("system", "parameters", "accuracy", "95% interval", "n", "latency p50"), [_line(*pair) for pair in systems.items()]
        )
    if verdict(folder.path):
        say()
        say(verdict(folder.path))


def _progress(state: dict[str, Any]) -> str:
    if state.get("status") != "running":
        return ""
    progress = state.get("progress") or {}
    count = f" {progress['label']} {progress['done']}/{progress['total']}" if progress else ""
    return f" ({state.get('stage', '')}{count})"


def _line(name: str, system: dict[str, Any]) -> tuple[object, ...]:
    accuracy = system.get("accuracy") or {}
    interval = f"{accuracy['low']:.3f} to {accuracy['high']:.3f}" if accuracy.get("low") is not None else accuracy.get("why")
    value = None if accuracy.get("value") is None else f"{accuracy['value']:.3f}"
    parameters = None if system.get("parameters") is None else f"{system['parameters']:,}"
    latency = None if system.get("latency_p50_s") is None else f"{system['latency_p50_s']:.3f} s"
    return name, parameters, value, interval, accuracy.get("n"), latency
