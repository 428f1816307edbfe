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


class Shown(NamedTuple):
    """A test row with what the systems said to it, by their names: {text, right, finish_reason, error?}."""

    id: str
    messages: Sequence[Json]
    gold: str | None
    said: Mapping[str, Json]


class Packed(NamedTuple):
    """The rows as text for the page: base64 of gzip of JSON. `num_rows` stand in it, of `num_all`."""

    text: str
    num_rows: int
    num_all: int


NO_ROWS = Packed("", 0, 0)


def packed(rows: Iterable[Shown], groups: Mapping[str, Sequence[str | None]], num_all: int) -> Packed:
    """The rows for `reader.js`: {"systems": [names], "fields": {name: [values]}, "rows": [[id, messages, gold, meta, said]]}.

    `said` holds [text, right, why it is no whole answer or ""] for each system. `groups` are the fields that a person can filter
    by, with each row's value; `meta` is the place of the row's among all values of each, -1 where it has none.
    """
    step = max(1, -(-num_all // MOST_ROWS))
    kept = [row for number, row in enumerate(rows) if number % step == 0]
    systems = list(kept[0].said) if kept else []
    some = {name: list(values[::step]) for name, values in groups.items()}
    fields = {name: list(dict.fromkeys(value for value in values if value is not None)) for name, values in some.items()}
    places = {name: {value: number for number, value in enumerate(values)} for name, values in fields.items()}
    body = {
        "systems": systems,
        "fields": fields,
        "rows": [
            [
                row.id,
                [[message["role"], message["content"]] for message in row.messages],
                row.gold,
                [places[name].get(values[number] or "", -1) for name, values in some.items()],
                [_said(row.said[name]) for name in systems],
            ]
            for number, row in enumerate(kept)
        ],
    }
    plain = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
    return Packed(base64.b64encode(gzip.compress(plain, mtime=0)).decode(), len(kept), num_all)


def _said(answer: Json) -> list[Any]:
    why = answer.get("error") or ("cut at the longest allowed length" if answer["finish_reason"] == "length" else "")
    return [answer["text"], answer["right"], why]
