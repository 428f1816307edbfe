"""`potstill list [FAMILY]`: the runs in a folder, or the plug-ins of a family."""

from __future__ import annotations

from pathlib import Path

from ..contracts import FAMILIES
from ..errors import JobError, did_you_mean
from ..plugins import plugin_kinds
from ..runs import list_runs
from ..terminal import hint, say_json, say_table


def list_(what: str, runs: Path, as_json: bool) -> None:
    """Prints a table; lines with tabs where stdout is no terminal."""
    if what != "runs" and what not in FAMILIES:
        raise JobError(f"unknown list {what!r}: {did_you_mean(what, ['runs', *FAMILIES])}")
    found = list_runs(runs) if what == "runs" else plugin_kinds(what)
    if as_json:
        say_json([row._asdict() for row in found])
    elif found:
        say_table(found[0]._fields, found)
    else:
        hint(f"no runs in {runs}; `potstill run job.yaml` makes one, --runs names another folder")
