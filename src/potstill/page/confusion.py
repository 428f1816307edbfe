"""Classes in the report: a matrix of what is taken for what where the labels are few, the weakest ones where they are many."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup, escape

from .card import Table
from .numbers import interval, percent

Json = Mapping[str, Any]
MOST_IN_A_MATRIX = 12
MOST_IN_A_TABLE = 15
SQUARE, LETTER = 30, 6.2
LONGEST = 26
SYSTEMS = ("student", "teacher")
OTHER = "none of them"
DASH = "–"


def matrices(systems: Json) -> list[tuple[str, Markup]]:
    """The matrices of student and teacher; none where the labels are many, or the task has none."""
    found = []
    for name in SYSTEMS:
        classes = (systems.get(name) or {}).get("classes")
        if classes and len(classes["labels"]) <= MOST_IN_A_MATRIX:
            found.append((name, matrix(classes, name)))
    return found


def matrix(classes: Json, system: str) -> Markup:
    """Gold downwards, what was said to the right: each square as dark as its share of the row, with its count."""
    labels, counts = list(classes["labels"]), {(gold, said): count for gold, said, count in classes["taken"]}
    columns = [*labels, OTHER] if any(said == len(labels) for _, said in counts) else labels
    left = 12 + LETTER * max(len(_short(label)) for label in labels)
    top = 12 + 0.75 * LETTER * max(len(_short(label)) for label in columns)
    parts = []
    for gold, label in enumerate(labels):
        y = top + gold * SQUARE
        total = sum(counts.get((gold, said), 0) for said in range(len(columns)))
        parts.append(_text(left - 6, y + SQUARE / 2 + 4, label, "end"))
        parts += [
            _square(left + said * SQUARE, y, counts.get((gold, said), 0), total, gold == said) for said in range(len(columns))
        ]
    for said, label in enumerate(columns):
        x = left + said * SQUARE + SQUARE / 2
        turned = Markup('<g transform="translate({:.1f} {:.1f}) rotate(-48)">{}</g>')
        parts.append(turned.format(x, top - 6, _text(0, 0, label, "start")))
    width = left + len(columns) * SQUARE + 0.7 * LETTER * len(_short(columns[-1]))
    told = "; ".join(
        f"{labels[gold]} taken for {columns[said]} {count} times" for (gold, said), count in counts.items() if gold != said
    )
    told = f"{system}: gold downwards, what was said to the right. {told or 'No label is taken for another.'}"
    box = '<svg class="plot confusion" viewBox="0 0 {:.0f} {:.0f}" style="max-width:{:.0f}px" role="img" aria-label="{}">{}</svg>'
    height = top + len(labels) * SQUARE + 4
    return Markup(box).format(width, height, 1.25 * width, told, Markup("").join(parts))


def _square(x: float, y: float, count: int, total: int, is_right: bool) -> Markup:
    share = count / total if total else 0.0
    css = "hit" if is_right else "miss"
    box = Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{}" height="{}" rx="3" fill-opacity="{:.2f}"/>').format(
        css, x + 1, y + 1, SQUARE - 2, SQUARE - 2, 0.06 + 0.84 * share
    )
    if not count:
        return box
    dark = " dark" if share > 0.55 else ""
    number = Markup('<text class="count{}" x="{:.1f}" y="{:.1f}" text-anchor="middle">{}</text>')
    return box + number.format(dark, x + SQUARE / 2, y + SQUARE / 2 + 4, count)


def _text(x: float, y: float, label: str, anchor: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, escape(_short(label)))


def _short(label: str) -> str:
    return label if len(label) <= LONGEST else f"{label[: LONGEST - 1]}…"


def class_tables(systems: Json) -> list[Table]:
    """The student's classes, the weakest first, beside the teacher's F1, and what it takes for what most often."""
    student, teacher = ((systems.get(name) or {}).get("classes") for name in SYSTEMS)
    if not student:
        return []
    of_teacher = {one["label"]: one["f1"] for one in teacher["classes"]} if teacher else {}
    weakest = sorted(student["classes"], key=lambda one: (one["f1"], -one["n"]))
    rows = [_row(one, of_teacher.get(one["label"])) for one in weakest[:MOST_IN_A_TABLE]]
    all_shown = len(weakest) <= MOST_IN_A_TABLE
    title = "classes" if all_shown else f"the {MOST_IN_A_TABLE} weakest of {len(weakest)} classes"
    tables = [Table(f"{title}, weakest first", ["", "rows", "precision", "recall", "F1", "teacher's F1"], rows)]
    wrong = sorted((one for one in student["taken"] if one[0] != one[1] and one[2] > 1), key=lambda one: -one[2])[
        :MOST_IN_A_TABLE
    ]
    if wrong and len(student["labels"]) > MOST_IN_A_MATRIX:
        names = [*student["labels"], OTHER]
        said = [[_short(names[gold]), _short(names[given]), f"{count:,}"] for gold, given, count in wrong]
        tables.append(Table("taken for another most often", ["", "for", "rows"], said))
    return tables


def _row(one: Json, teachers_f1: float | None) -> list[str]:
    shares = [_with_interval(one[key]) for key in ("precision", "recall")]
    f1s = [DASH if f1 is None else f"{f1:.3f}" for f1 in (one["f1"], teachers_f1)]
    return [_short(one["label"]), f"{one['n']:,}", *shares, *f1s]


def _with_interval(score: Json) -> str:
    return DASH if score["value"] is None else f"{percent(score['value'])} {interval(score)}"
