"""The cards of counts that prepare and validate write, as small tables: nothing of them is left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from .numbers import interval, percent

WORDS = {
    "read": "rows read",
    "rejected": "rows rejected",
    "valid_share": "usable share",
    "gold_withheld": "gold answers withheld",
    "rejected_by_reason": "rejected, by reason",
    "duplicates": "exact duplicates removed",
    "leakage": "rows removed because they stand in another split too",
    "left_out": "left out by a limit of the job",
    "refused": "refused by checks",
    "checks": "checks",
    "teacher_accuracy_before_teaching": "teacher's accuracy on gold, before it teaches",
    "total_variation_distance": "distance of the two histograms",
    "train_in_test": "train rows in test",
    "train_in_validation": "train rows in validation",
    "validation_in_test": "validation rows in test",
    "input": "rows asked",
    "success_ratio": "accepted share",
    "reasons": "rejected, by reason",
    "teacher_accuracy_on_gold": "teacher's accuracy on gold",
}
SHARES = ("valid_share", "success_ratio", "min_valid_share")
COSTS = ("cost_usd", "prompt_tokens", "completion_tokens")


class Table(NamedTuple):
    """A small table; `columns` is empty where it is names and values."""

    title: str
    columns: list[str]
    rows: list[list[str]]


def card_tables(card: Mapping[str, Any]) -> list[Table]:
    """The card's single values first, then each part by its name. What it cost stands elsewhere in the report."""
    plain = {key: value for key, value in card.items() if key not in COSTS and not _is_unused(value)}
    plain = {key: 0 if _is_all_zero(value) else value for key, value in plain.items()}
    single = [[label(key), shown(value, key)] for key, value in plain.items() if _is_single(value)]
    tables = [Table("", [], single)] if single else []
    for key, value in plain.items():
        if not _is_single(value) and value:
            tables += _part(label(key), value)
    return tables


def _part(title: str, value: Any) -> list[Table]:
    if isinstance(value, Mapping):
        inner = list(value.values())
        if all(_is_score(one) for one in inner):
            return [Table(title, [], [[label(name), shown(one)] for name, one in value.items()])]
        if all(isinstance(one, Mapping) for one in inner):
            return [matrix(title, {label(name): one for name, one in value.items()})]
        if any(isinstance(one, Mapping) and not _is_score(one) for one in inner):
            nested = card_tables(value)
            return [Table(f"{title}: {table.title}".rstrip(": "), table.columns, table.rows) for table in nested]
        return [Table(title, [], [[label(name), shown(one, name)] for name, one in value.items()])]
    if all(isinstance(one, Mapping) for one in value):
        return [matrix(title, {str(one.get("file", number)): {**one, "file": None} for number, one in enumerate(value, 1)})]
    return [Table(title, [], [["", shown(one)] for one in value])]


def matrix(title: str, rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """Rows with the same keys, side by side; counts within a cell are summed."""
    keys = list(dict.fromkeys(key for row in rows.values() for key, value in row.items() if value is not None))
    cells = [[name, *(shown(_sum(row.get(key)), key) for key in keys)] for name, row in rows.items()]
    return Table(title, ["", *(key.replace("_", " ") for key in keys)], cells)


def _sum(value: Any) -> Any:
    counts = isinstance(value, Mapping) and all(isinstance(count, int) for count in value.values())
    return sum(value.values()) if counts else value


def _is_all_zero(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(one, int) and one == 0 for one in value.values())


def shown(value: Any, key: str = "") -> str:
    """A value of a card in words; None is unknown, never zero.

    >>> [shown(12345), shown(0.973, "valid_share"), shown(None), shown({"empty": 3})]
    ['12,345', '97.3%', 'unknown', 'empty 3']
    """
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        if _is_score(value):
            return f"{percent(value['value'])} {interval(value)}".strip() if value["value"] is not None else str(value["why"])
        return ", ".join(f"{label(name)} {shown(inner)}" for name, inner in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(shown(inner) for inner in value) or "none"
    if isinstance(value, int | float):
        return percent(value) if key in SHARES else f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
    return str(value)


def label(key: str) -> str:
    """
    >>> [label("valid_share"), label("token_f1"), label("macro_f1"), label("bleu")]
    ['usable share', 'token F1', 'macro F1', 'BLEU']
    """
    text = WORDS.get(str(key), str(key).replace("_", " "))
    return text.upper() if text == "bleu" else text.replace("rouge l", "ROUGE-L").replace(" f1", " F1")


def _is_unused(value: Any) -> bool:
    """A part about files of which there are none, such as those that a teacher is adapted on."""
    return isinstance(value, Mapping) and value.get("files") == []


def _is_single(value: Any) -> bool:
    return _is_score(value) or not isinstance(value, Mapping | list | tuple)


def _is_score(value: Any) -> bool:
    return isinstance(value, Mapping) and {"value", "low", "high", "n"} <= set(value)
