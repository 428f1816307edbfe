"""What each teacher of a job contributed and cost, as one table: a row a teacher, and all of them together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .card import Table
from .numbers import UNKNOWN, dollars, percent

TITLE = "what each teacher contributed and cost"
TOGETHER = "together"
NOTHING = "–"
Row = Mapping[str, Any]


class _Column(NamedTuple):
    """A column, the keys without which it says nothing, and its cell for a row beside the row of all together."""

    name: str
    needs: tuple[str, ...]
    cell: Callable[[Row, Row], str]


def _counted(name: str, key: str) -> _Column:
    return _Column(name, (key,), lambda row, _: UNKNOWN if row.get(key) is None else f"{row[key]:,}")


COLUMNS = (
    _counted("answers asked", "asked"),
    _counted("accepted", "accepted"),
    _counted("rejected", "rejected"),
    _counted("chosen to teach", "chosen"),
    _Column("share of the chosen", ("chosen",), lambda row, all_: _divided(row.get("chosen"), all_.get("chosen"), percent)),
    _counted("tokens in", "prompt_tokens"),
    _counted("tokens out", "completion_tokens"),
    _Column("cost", ("cost_usd",), lambda row, _: dollars(row.get("cost_usd"))),
    _Column(
        "cost of a chosen one", ("chosen", "cost_usd"), lambda row, _: _divided(row.get("cost_usd"), row.get("chosen"), dollars)
    ),
)


def contribution_tables(teachers: Mapping[str, Row]) -> list[Table]:
    """One table from the card's `teachers`: for each label asked, accepted, rejected, chosen, tokens and cost_usd.

    No table where there are fewer than two teachers: what a single one did is the rest of the card. A number that is not known
    makes the sum unknown too, and a column of which nothing is known is left out.

    >>> (table,) = contribution_tables({"a": {"chosen": 3, "cost_usd": 0.5}, "b": {"chosen": 1, "cost_usd": None}})
    >>> table.columns
    ['', 'chosen to teach', 'share of the chosen', 'cost', 'cost of a chosen one']
    >>> table.rows[0], table.rows[2]
    (['a', '3', '75.0%', '$0.50', '$0.17'], ['together', '4', '100%', 'unknown', 'unknown'])
    """
    if len(teachers) < 2:
        return []
    known = {key for row in teachers.values() for key, value in row.items() if value is not None}
    columns = [column for column in COLUMNS if known.issuperset(column.needs)]
    together = {key: _sum([row.get(key) for row in teachers.values()]) for key in known}
    rows = [
        [label, *(column.cell(row, together) for column in columns)] for label, row in (*teachers.items(), (TOGETHER, together))
    ]
    return [Table(TITLE, ["", *(column.name for column in columns)], rows)]


def _sum(values: list[Any]) -> Any:
    return None if None in values else sum(values)


def _divided(part: float | None, whole: float | None, words: Callable[[float | None], str]) -> str:
    return NOTHING if whole == 0 else words(None if part is None or whole is None else part / whole)
