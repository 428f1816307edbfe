"""Every test row with every system's answer, inside the page itself: packed here, read and filtered by reader.js."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

Json = Mapping[str, Any]
MOST_ROWS = 20_000
"""More would make a page that no browser likes to open; these are spread evenly over the file, and the page says so."""
MOST_VALUES = 30
MOST_FIELDS = 12


class Shown(NamedTuple):
    """A test row with what the systems said to it, by their names: {text, right, finish_reason, error?}."""

    id: str
    messages: Sequence[Json]
    gold: str | None
    meta: Json
    said: Mapping[str, Json]


class Packed(NamedTuple):
    """The rows as text for the page: base64 of gzip of JSON. `num_rows` stand in it, of `num_all`."""

    text: str
    num_rows: int
    num_all: int


NO_ROWS = Packed("", 0, 0)


def packed(rows: Iterable[Shown], num_all: int) -> Packed:
    """The rows for `reader.js`: {"systems": [names], "fields": {name: [values]}, "rows": [[id, messages, gold, meta, said]]}.

    `said` holds [text, right, why it is no whole answer or ""] for each system, `meta` the place of the row's value in each of
    the fields that a person can filter by, -1 where it has none.
    """
    step = max(1, -(-num_all // MOST_ROWS))
    kept = [row for number, row in enumerate(rows) if number % step == 0]
    systems = list(kept[0].said) if kept else []
    fields = fields_of([row.meta for row in kept])
    places = {name: {value: number for number, value in enumerate(values)} for name, values in fields.items()}
    body = {
        "systems": systems,
        "fields": fields,
        "rows": [
            [
                row.id,
                [[message["role"], message["content"]] for message in row.messages],
                row.gold,
                [found.get(str(row.meta.get(name)), -1) for name, found in places.items()],
                [_said(row.said[name]) for name in systems],
            ]
            for row in kept
        ],
    }
    plain = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
    return Packed(base64.b64encode(gzip.compress(plain, mtime=0)).decode(), len(kept), num_all)


def fields_of(metas: Sequence[Json]) -> dict[str, list[str]]:
    """The meta fields that part the rows into a few groups, with their values: texts, numbers and yes or no."""
    found: dict[str, set[str]] = {}
    crowded: set[str] = set()
    for meta in metas:
        for name, value in meta.items():
            if name in crowded or value is None:
                continue
            values = found.setdefault(name, set())
            if isinstance(value, str | int | float | bool):
                values.add(str(value))
            if len(values) > MOST_VALUES or not isinstance(value, str | int | float | bool):
                crowded.add(name)
    useful = {name: sorted(values) for name, values in found.items() if name not in crowded and len(values) > 1}
    return dict(list(useful.items())[:MOST_FIELDS])


def _said(answer: Json) -> list[Any]:
    why = answer.get("error") or ("cut at the longest allowed length" if answer["finish_reason"] == "length" else "")
    return [answer["text"], answer["right"], why]
