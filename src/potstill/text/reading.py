"""Reads the answer out of a model's text: code fences, JSON objects, reasoning before "Answer: ..." and labels in a sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from .texts import normalised, without_thinking

_FENCED = re.compile(r"\A```[\w+-]*[ \t]*\n?(.*?)\n?(?:```|\Z)\s*\Z", re.DOTALL)
_JSON_FENCE = re.compile(r"```json[ \t]*\n?(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)
_OPENS_JSON = re.compile(r"^[ \t]*(?=\{)", re.MULTILINE)
_OPENS_VALUE = re.compile(r"[\[{]")
_THOUGHT = re.compile(r"\A\s*<think>(.*?)</think>", re.DOTALL)
_WORDS_FOR_ANSWER = r"(?:answer|label|category|class|intent|relation(?:ship)?|classification|result)"
_BEFORE_THE_WORD = (
    r"(?:(?:so|therefore|thus|hence),?[ \t]+)?(?:(?:the|my)[ \t]+)?(?:(?:final|correct|best|predicted)[ \t]+)?"
    + _WORDS_FOR_ANSWER
)
_LEAD = re.compile(rf"\A(?:{_BEFORE_THE_WORD}\s*(?:is\s*:?|would be|[:=])\s*)+", re.IGNORECASE)
_INNER_LEAD = re.compile(rf"{_WORDS_FOR_ANSWER}\s*(?:is\s*:?|[:=])\s*(.+)", re.IGNORECASE)
_LINE_START = r"^[ \t>*_#\-–•]*"
_MARK = re.compile(
    rf"(?:{_LINE_START}|(?<=[.!?;)])[ \t]+[*_]*){_BEFORE_THE_WORD}[*_]*[ \t]*(?:is[ \t]*)?[:=][*_]*[ \t]*", re.I | re.MULTILINE
)
_MARK_OF_THE_LAST_LINE = re.compile(rf"{_LINE_START}{_BEFORE_THE_WORD}[ \t]+(?:is|would be)[ \t]+", re.I | re.MULTILINE)
_HEADING = re.compile(r"^[ \t]*(?:#{1,6}|\*\*)[ \t]*(?:final[ \t]+)?answer[ \t]*\**[ \t]*$", re.I | re.MULTILINE)
_TAGGED = re.compile(r"<(?:final_)?answer>", re.IGNORECASE)
_HASHES = re.compile(r"^[ \t]*####[ \t]*", re.MULTILINE)
_RATIONALE_LEAD = re.compile(
    r"\A[#*_\s]*(?:(?:step[- ]by[- ]step )?(?:reasoning|rationale|explanation|solution|because))[*_ \t]*:[*_]*\s*", re.IGNORECASE
)
_BULLET_LEFT = re.compile(r"\s*\n[ \t]*(?:\d+[.)]|[-*•>#]+)\Z")
_TAGS = re.compile(r"</?(?:think|thinking|rationale|reasoning|explanation|scratchpad)>", re.IGNORECASE)
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
_RATIONALE_KEYS = ("rationale", "reasoning", "chain_of_thought", "thought", "thoughts", "explanation", "reason", "steps", "why")
_EMPHASIS = " \t\r\n*_`"
_EDGE = " \t\r\n\"'`*_“”‘’«».,;:!?()[]{}"
_JSON_STARTS_TRIED = 8
SHORT_LABEL = 3
"""A label shorter than this ("a", "no") is never looked for inside a sentence."""


class Reasoned(NamedTuple):
    """A text in two: its reasoning, "" where there is none, and its final answer as it is written, None where none is marked."""

    rationale: str
    answer: str | None


def reasoned(text: str, *, hashes: bool = False) -> Reasoned:
    """Splits a text where its final answer is marked; `hashes`: GSM8K's "#### 7" is such a mark too.

    The last mark counts. Reasoning may stand before it, behind it, beside it in a JSON object, or in a <think> block.

    >>> reasoned("It rains, so he is wet.\\nAnswer: entailment")
    Reasoned(rationale='It rains, so he is wet.', answer='entailment')
    >>> reasoned('{"answer": "neutral", "rationale": "Nothing is said."}')
    Reasoned(rationale='Nothing is said.', answer='neutral')
    """
    inner = without_thinking(text)
    found = _from_object(inner)
    if found is None:
        found = _marked(inner, hashes=hashes) or Reasoned(inner if hashes else "", None)
    rationale = _clean(found.rationale)
    if not rationale and (thought := _THOUGHT.match(text)):
        rationale = _clean(thought[1])
    return Reasoned(rationale, found.answer)


def unwrapped(text: str) -> str:
    """The answer inside a code fence, a JSON object, emphasis, a lead-in or behind a mark; the text itself where there is none.

    >>> unwrapped('```json\\n{"label": "neutral"}\\n```'), unwrapped("The answer is: **Paris**.")
    ('neutral', 'Paris')
    >>> unwrapped("Paris"), unwrapped("France's capital is asked for.\\n**Final answer:** Paris")
    ('Paris', 'Paris')
    """
    inner = without_thinking(text)
    held = _from_object(inner)
    inner = _opened(inner) if held is None or held.answer is None else held.answer
    marked = _marked(inner)
    if marked is not None and marked.answer is not None:
        inner = marked.answer
    return _LEAD.sub("", inner.strip(_EMPHASIS)).strip(_EMPHASIS).rstrip(_EMPHASIS + ".,;:!")


def free_text(text: str) -> str:
    """A summary or another text of many words: without thinking, without a fence or JSON around it, white space collapsed.

    >>> free_text('```json\\n{"summary": "Ana is ill.\\\\nShe rests."}\\n```'), free_text("Ana  is ill.")
    ('Ana is ill. She rests.', 'Ana is ill.')
    """
    return " ".join(_opened(without_thinking(text)).split())


def json_answer(text: str) -> str | None:
    """The answer that a JSON object in a text holds; None where there is none."""
    held = _from_object(text)
    return None if held is None else held.answer


def json_values(text: str) -> Iterator[Any]:
    """The JSON arrays and objects in a text, in a fence or among stray words; what stands inside one is not a second."""
    inner = _unfenced(without_thinking(text))
    place = 0
    for _ in range(_JSON_STARTS_TRIED):
        opened = _OPENS_VALUE.search(inner, place)
        if opened is None:
            return
        value, end = _decoded(inner, opened.start())
        if value is not None:
            yield value
        place = max(end, opened.end())


def _opened(text: str) -> str:
    """What a fence or a JSON value around the whole text holds."""
    inner = _unfenced(text)
    if not inner.startswith(("{", "[", '"')):
        return inner
    value, end = _decoded(inner, 0)
    found, rest = _answer_in(value), inner[end:].strip()
    stray = rest and (not isinstance(value, Mapping) or _marked(rest) is not None)  # '"Emma" is a novel' is no JSON
    return inner if found is None or stray else found


def _unfenced(text: str) -> str:
    fenced = _JSON_FENCE.search(text) or _FENCED.match(text)
    return fenced[1].strip() if fenced else text


def _decoded(text: str, start: int) -> tuple[Any, int]:
    """The JSON value that begins at `start` and where it ends; None where there is none."""
    try:
        return json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        return None, start


def _from_object(text: str) -> Reasoned | None:
    """The rationale and the answer of a JSON object with stray words around it; None where a mark follows the object."""
    for opened in list(_OPENS_JSON.finditer(text))[:_JSON_STARTS_TRIED]:
        value, end = _decoded(text, opened.end())
        if not isinstance(value, Mapping):
            continue
        by_key = {str(key).casefold(): inner for key, inner in value.items()}
        if not any(key in by_key for key in _ANSWER_KEYS):
            continue
        answer = _answer_in(value)
        if answer is None or _marked(text[end:]) is not None:
            return None
        why = next((by_key[key] for key in _RATIONALE_KEYS if key in by_key), "")
        steps = why if isinstance(why, list) else [why]
        rationale = "\n".join(str(step) for step in steps if isinstance(step, str | int | float))
        return Reasoned(rationale or text[: opened.start()].replace("```json", "").replace("```", ""), answer)
    return None


def _answer_in(value: Any) -> str | None:
    """The answer that a JSON value holds; None where it is unclear which part is the answer."""
    if isinstance(value, Mapping):
        by_key = {str(key).casefold(): inner for key, inner in value.items()}
        known = next((by_key[key] for key in _ANSWER_KEYS if key in by_key), None)
        value = known if known is not None else next(iter(value.values())) if len(value) == 1 else None
    elif isinstance(value, list):
        value = value[0] if len(value) == 1 else None
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, str | int | float) else None


def _marked(text: str, *, hashes: bool = False) -> Reasoned | None:
    """What stands behind the last mark of an answer, and what stands before it, or behind the answer's line."""
    patterns = (_MARK, _HEADING, _TAGGED, _HASHES) if hashes else (_MARK, _HEADING, _TAGGED)
    marks = [hit for pattern in patterns for hit in pattern.finditer(text)]
    last_line = text.rstrip().rfind("\n") + 1
    if last_line and (weak := _MARK_OF_THE_LAST_LINE.match(text, last_line)):
        marks.append(weak)
    if not marks:
        return None
    mark = max(marks, key=lambda hit: hit.start())
    before, rest = text[: mark.start()], text[mark.end() :].lstrip(_EMPHASIS)
    answer, _, after = rest.partition("</" if mark.re is _TAGGED else "\n")
    return Reasoned(before if before.strip() else after.partition(">")[2] if mark.re is _TAGGED else after, answer.strip())


def _clean(rationale: str) -> str:
    return _BULLET_LEFT.sub("", _RATIONALE_LEAD.sub("", _TAGS.sub("", rationale)).strip())


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
