"""`potstill show RUN`: a run's state, stages and scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..runs import find_run, systems, verdict
from ..terminal import say, say_json, say_systems, say_table
from ..types import STAGES


def show(place: Path, as_json: bool) -> None:
    """Prints what the run folder says; nothing is computed."""
    folder = find_run(place)
    state = folder.state()
    scored = systems(folder.path)
    if as_json:
        named = {"name": folder.path.name, "folder": str(folder.path), **state}
        say_json({**named, "verdict": verdict(folder.path), "systems": scored})
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
    if scored:
        say()
        say_systems(scored)
    if verdict(folder.path):
        say()
        say(verdict(folder.path))


def _progress(state: dict[str, Any]) -> str:
    if state.get("status") != "running":
        return ""
    progress = state.get("progress") or {}
    count = f" {progress['label']} {progress['done']}/{progress['total']}" if progress else ""
    return f" ({state.get('stage', '')}{count})"
