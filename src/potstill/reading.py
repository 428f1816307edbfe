"""Reads the answer out of a model's text: code fences, JSON objects, "The answer is ..." and labels named in a sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from .texts import normalised, without_thinking

_FENCED = re.compile(r"\A```[\w+-]*[ \t]*\n?(.*?)\n?(?:```|\Z)\s*\Z", re.DOTALL)
_JSON_FENCE = re.compile(r"```json[ \t]*\n?(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)
_WORDS_FOR_ANSWER = r"(?:answer|label|category|class|intent|relation(?:ship)?|classification|result)"
_LEAD = re.compile(
    rf"\A(?:(?:so|therefore|thus|hence),?\s+)?(?:(?:the|my)\s+)?(?:(?:final|correct|best|predicted)\s+)?"
    rf"{_WORDS_FOR_ANSWER}\s*(?:is\s*:?|would be|[:=])\s*",
    re.IGNORECASE,
)
_INNER_LEAD = re.compile(rf"{_WORDS_FOR_ANSWER}\s*(?:is\s*:?|[:=])\s*(.+)", re.IGNORECASE)
_NEGATION = re.compile(r"(?:\bnot|n't|\bnever|\bnor|\bneither|\brather than|\bno)\s+(?:an?\s+|the\s+)?\Z")
_ANSWER_KEYS = (
    "label",
    "answer",
    "final_answer",
    "class",
    "category",
    "intent",
    "relation",
    "result",
    "output",
    "response",
    "summary",
    "text",
)
_EMPHASIS = " \t\r\n*_`"
_EDGE = " \t\r\n\"'`*_“”‘’«».,;:!?()[]{}"
SHORT_LABEL = 3
"""A label shorter than this ("a", "no") is never looked for inside a sentence."""


def unwrapped(text: str) -> str:
    """The answer inside a code fence, a JSON object, emphasis or a lead-in; the text itself where there is none.

    >>> unwrapped('```json\\n{"label": "neutral"}\\n```'), unwrapped("The answer is: **Paris**.")
    ('neutral', 'Paris')
    >>> unwrapped("Paris")
    'Paris'
    """
    inner = without_thinking(text)
    tagged = _JSON_FENCE.search(inner)
    fenced = tagged or _FENCED.match(inner)
    if fenced:
        inner = fenced[1].strip()
    found = _from_json(inner)
    return _LEAD.sub("", (inner if found is None else found).strip(_EMPHASIS)).strip(_EMPHASIS).rstrip(_EMPHASIS + ".,;:!")


def _from_json(text: str) -> str | None:
    """The answer that a JSON value holds; None where the text is no JSON or it is unclear which part is the answer."""
    if not text.startswith(("{", "[", '"')):
        return None
    try:
        value, _ = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None
    return _answer_in(value)


def _answer_in(value: Any) -> str | None:
    if isinstance(value, Mapping):
        by_key = {str(key).casefold(): inner for key, inner in value.items()}
        known = next((by_key[key] for key in _ANSWER_KEYS if key in by_key), None)
        value = known if known is not None else next(iter(value.values())) if len(value) == 1 else None
    elif isinstance(value, list):
        value = value[0] if len(value) == 1 else None
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, str | int | float) else None


def label_key(text: str) -> str:
    """What two spellings of one label share: case, spaces, underscores, hyphens and edge punctuation do not count.

    >>> label_key("Card Arrival.") == label_key("card_arrival"), label_key("c++") == label_key("c")
    (True, False)
    """
    return re.sub(r"[\s_\-]+", "", normalised(text).strip(_EDGE))


def read_label(text: str, spellings: Mapping[str, str]) -> str | None:
    """The one label a text gives; None when it gives none, or several.

    `spellings` maps a spelling to its label. The whole answer, a line of it, what follows "the answer is" and at last a
    label named in a sentence are tried in this order; a label after "not" does not count.

    >>> read_label("Hm. It is not neutral, so entailment.", {"neutral": "neutral", "entailment": "entailment"})
    'entailment'
    """
    answer = unwrapped(text)
    by_key, mention = _index(tuple(spellings.items()))
    whole = by_key.get(label_key(answer))
    if whole is not None:
        return whole
    lines = [line for line in answer.splitlines() if line.strip()]
    alone = {by_key[key] for line in lines if (key := label_key(_LEAD.sub("", line.strip(_EDGE)))) in by_key}
    if alone:
        return alone.pop() if len(alone) == 1 else None
    named = [labels for found in _INNER_LEAD.findall(answer) if (labels := _mentioned(found, by_key, mention))]
    labels = named[-1] if named else _mentioned(answer, by_key, mention)
    return labels.pop() if len(labels) == 1 else None


@lru_cache(maxsize=64)
def _index(spellings: tuple[tuple[str, str], ...]) -> tuple[dict[str, str], re.Pattern[str] | None]:
    """Labels by their keys, and a pattern that finds them in a sentence, longest first."""
    by_key = {label_key(spelling): label for spelling, label in spellings}
    spaced = {re.sub(r"[\s_\-]+", " ", normalised(spelling)).strip() for spelling, _ in spellings}
    long = sorted((form for form in spaced if len(form) >= SHORT_LABEL), key=len, reverse=True)
    mention = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, long))})(?!\w)") if long else None
    return by_key, mention


def _mentioned(text: str, by_key: Mapping[str, str], mention: re.Pattern[str] | None) -> set[str]:
    whole = by_key.get(label_key(text))
    if whole is not None:
        return {whole}
    if mention is None:
        return set()
    spaced = re.sub(r"[\s_\-]+", " ", normalised(text))
    return {by_key[label_key(hit[0])] for hit in mention.finditer(spaced) if not _NEGATION.search(spaced[: hit.start()][-40:])}
