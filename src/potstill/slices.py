"""Scores of parts of the test rows: by any meta field of a few values, by the length of what is asked, by language.

A whole can look well while a part of it fails; the parts on which the student does worst come first.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .errors import MissingPackageError
from .scoring import Answer, Resampling
from .statistics import difference, mean_score
from .text.languages import language_by_script, language_of
from .text.texts import count_words
from .types import Example

Json = dict[str, Any]
Groups = Mapping[str, Sequence[str | None]]
"""For each field, each row's value as text; None where a row has none."""
MOST_VALUES = 30
MOST_FIELDS = 12
LEAST_ROWS = 10
"""Of fewer rows nothing can be said: the interval of 10 of 10 right begins at 72%."""
LENGTH, LANGUAGE = "words asked", "language"


def groups_of(examples: Sequence[Example]) -> dict[str, list[str | None]]:
    """How the rows can be parted: by meta fields of 2 to 30 plain values, and by length and language where these differ."""
    names = dict.fromkeys(name for example in examples for name in example.meta)
    found = {name: [_plain(example.meta.get(name)) for example in examples] for name in names}
    useful = {name: values for name, values in found.items() if _parts(values) and _are_plain(name, examples)}
    some = dict(itertools.islice(useful.items(), MOST_FIELDS))
    derived = {LENGTH: _lengths(examples), LANGUAGE: [_language(example) for example in examples]}
    return {**some, **{name: values for name, values in derived.items() if name not in some and _parts(values)}}


def _plain(value: Any) -> str | None:
    return str(value) if isinstance(value, str | int | float) else None


def _are_plain(name: str, examples: Sequence[Example]) -> bool:
    return all(isinstance(example.meta.get(name), str | int | float | None) for example in examples)


def _parts(values: Sequence[str | None]) -> bool:
    return 2 <= len(set(values) - {None}) <= MOST_VALUES


def _lengths(examples: Sequence[Example]) -> list[str | None]:
    """Each row's quarter of the prompts' lengths; quarters that begin and end with the same length are one."""
    counts = [sum(count_words(message.content) for message in example.messages) for example in examples]
    edges = sorted({int(edge) for edge in np.quantile(counts, (0.25, 0.5, 0.75))}) if counts else []
    bounds = [0, *edges, max(counts, default=0)]
    names = [f"up to {bounds[1]:,}", *(f"{low + 1:,} to {high:,}" for low, high in itertools.pairwise(bounds[1:]))]
    return [names[int(np.searchsorted(edges, count))] for count in counts]


def _language(example: Example) -> str | None:
    text = example.messages[-1].content
    try:
        return language_of(text)
    except MissingPackageError:  # what a script says of itself needs no package
        return language_by_script(text)


def slice_scores(groups: Groups, answers: Mapping[str, Sequence[Answer]], how: Resampling) -> list[Json]:
    """[{field, value, n, systems: {name: Score}, student_minus_teacher?: Score}, ...], where the student does worst first.

    Scores are accuracies; a part with fewer than 10 rows that have gold is left out.
    """
    right = {name: [answer.right for answer in rows] for name, rows in answers.items()}
    found = [
        one
        for field, values in groups.items()
        for value in sorted({value for value in values if value is not None})
        if (one := _part(field, value, [i for i, v in enumerate(values) if v == value], right, how)) is not None
    ]
    return sorted(found, key=_badness)


def _part(
    field: str, value: str, rows: Sequence[int], right: Mapping[str, Sequence[float | None]], how: Resampling
) -> Json | None:
    own = {name: [values[i] for i in rows] for name, values in right.items()}
    n = max((sum(value is not None for value in values) for values in own.values()), default=0)
    if n < LEAST_ROWS:
        return None
    scores = {name: mean_score(values, how.samples, how.seed).as_dict() for name, values in own.items()}
    part: Json = {"field": field, "value": value, "n": n, "systems": scores}
    if {"student", "teacher"} <= set(own):
        gap = difference(own["student"], own["teacher"], how.samples, how.seed)
        part["student_minus_teacher"] = gap.as_dict()
    return part


def _badness(part: Json) -> tuple[float, float]:
    """What the student loses at least comes first, then what it gets right at most; without a teacher the latter alone."""
    gap, own = part.get("student_minus_teacher"), part["systems"].get("student")
    return (gap["high"] if gap and gap["high"] is not None else 0.0, own["high"] if own and own["high"] is not None else 1.0)
