"""The parts of the test rows on which the student does worst, as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .card import Table
from .numbers import interval, percent, points

Json = Mapping[str, Any]
MOST = 10
OTHERS = ("teacher", "control", "baseline")
DASH = "–"


def weak_spots(slices: Sequence[Json]) -> list[Table]:
    """The ten worst parts, worst first, and how many there are; nothing where the rows cannot be parted."""
    if not slices:
        return []
    names = [name for name in ("student", *OTHERS) if name in slices[0]["systems"]]
    rows = [_row(one, names) for one in slices[:MOST]]
    with_gap = any("student_minus_teacher" in one for one in slices)
    columns = ["", "rows", *names, *(["student − teacher, points"] if with_gap else [])]
    title = f"the {MOST} worst of {len(slices)} parts" if len(slices) > MOST else "all parts"
    return [Table(f"{title}, worst first", columns, rows)]


def _row(one: Json, names: Sequence[str]) -> list[str]:
    cells = [_score(one["systems"][name], with_interval=name == "student") for name in names]
    gap = one.get("student_minus_teacher")
    ends = [] if gap is None else [DASH if gap["value"] is None else f"{points(gap['value'])} {interval(gap)}".strip()]
    return [f"{one['field']}: {one['value']}", f"{one['n']:,}", *cells, *ends]


def _score(score: Json, *, with_interval: bool) -> str:
    if score["value"] is None:
        return DASH
    return f"{percent(score['value'])} {interval(score)}" if with_interval else percent(score["value"])
