"""What each check found, as tables: the counts of all beside one another, then what some have to say beyond them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .card import Table, card_tables, label, matrix, shown

COUNTS = ("before", "after", "refused", "changed")
BESIDE = ("teacher", "gold")
"""Parts that are read side by side: what the teacher's answers are like, and what the gold is like."""


def check_tables(checks: Mapping[str, Mapping[str, Any]], title: str = "checks") -> list[Table]:
    """The tables of a card's `checks`; an alarm stands first.

    >>> (alarms, counts) = check_tables({"diversity": {"before": 9, "after": 9, "refused": 0, "alarm": "All the same."}})
    >>> alarms.rows, counts.rows
    ([['diversity', 'All the same.']], [['diversity', '9', '9', '0']])
    """
    if not any(said["before"] for said in checks.values()):
        return []
    used = [name for name in COUNTS if any(name in said for said in checks.values())]
    alarms = [[label(name), str(said["alarm"])] for name, said in checks.items() if said.get("alarm")]
    counts = [[label(name), *(shown(said.get(key, 0)) for key in used)] for name, said in checks.items()]
    tables = [Table(f"{title}: alarms", [], alarms)] if alarms else []
    tables.append(Table(title, ["", *used], counts))
    for name, said in checks.items():
        tables += _more(label(name), {key: value for key, value in said.items() if key not in (*COUNTS, "alarm")})
    return tables


def _more(name: str, said: Mapping[str, Any]) -> list[Table]:
    """A check's own findings; what is empty says nothing."""
    told = {key: value for key, value in said.items() if value not in ({}, [], None, 0)}
    beside = {key: told.pop(key) for key in BESIDE if isinstance(told.get(key), Mapping)}
    tables = [matrix(f"{name}: teacher and gold", beside)] if len(beside) == len(BESIDE) else card_tables(beside)
    if any(key != "action" for key in told):
        tables += [Table(f"{name}: {one.title}".rstrip(": "), one.columns, one.rows) for one in card_tables(told)]
    return tables
