"""summarization: a short text for a long one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field

from ..contracts import Task, Taught, extended
from ..text.overlap import listed_values, references, rouge_l
from ..text.reading import free_text, json_values
from ..text.texts import count_words, states, without_thinking
from ..types import Example, Message

PASSES = 4
TOKENS_OF_A_PASS = 40
"""Beside the summary itself: its missing entities, and the JSON around both."""
_LENGTH = "Write at most {words} words."
_DENSITY = (
    "Write the summary in {passes} passes, each denser than the one before. The first pass is a first summary of at most {words} "
    "words. For each later pass, name one to three informative entities of the text that the summary still lacks, then write the "
    "summary anew in at most {words} words so that it keeps every earlier entity and holds these too: fuse and compress, leave "
    "out filler, and state nothing that the text does not. Reply with nothing but a JSON list of {passes} objects with the keys "
    "missing_entities (a list) and denser_summary (the summary)."
)
_SUMMARY_KEYS = ("denser_summary", "summary", "text")
_PASS = re.compile(r"^[ \t>*_#\-]*(?:pass|summary|iteration)[ \t]*#?(\d)\b[^\n:]*:?[*_ \t]*", re.IGNORECASE | re.MULTILINE)
_ENTITIES = re.compile(r"^[ \t>*_#\-]*missing[ _]entities[^\n]*\n?", re.IGNORECASE | re.MULTILINE)
_SUMMARY = re.compile(r"^[ \t>*_#\-]*(?:denser[ _])?summary[*_ \t]*:[*_ \t]*", re.IGNORECASE | re.MULTILINE)


class Summarization(Task):
    """A summary: right when it states all meta.key_facts, or else when its ROUGE-L with the best reference reaches 0.5.

    References are meta.references and the gold. The bar is a convention, not a law: read the metric rouge_l beside it.
    """

    metrics: ClassVar[tuple[str, ...]] = (
        "rouge_l",
        "rouge_1",
        "rouge_2",
        "bleu",
        "chrf",
        "summary_words",
        "compression",
        "repetition",
    )
    max_answer_tokens: int = Field(default=160, ge=1, description="longest answer asked for, in tokens")
    min_rouge_l: float = Field(default=0.5, gt=0, le=1, description="ROUGE-L F1 from which a summary without key facts is right")
    chain_of_density: bool = Field(
        default=False, description="have teachers write four summaries, each denser than the last, of which the last is taught"
    )
    max_summary_words: int | None = Field(
        default=None,
        ge=1,
        description="words asked of teachers at most; longer ones never teach; default: 80 with chain_of_density",
    )

    @property
    def word_limit(self) -> int | None:
        return self.max_summary_words or (80 if self.chain_of_density else None)

    def read(self, text: str) -> str | None:
        """The summary, white space collapsed; of several passes the last.

        >>> Summarization().read("<think>Long.</think> Ana is ill.")
        'Ana is ill.'
        >>> Summarization(chain_of_density=True).read('[{"denser_summary": "Ana."}, {"denser_summary": "Ana is ill."}]')
        'Ana is ill.'
        """
        passes = _passes(text) if self.chain_of_density else []
        return (passes[-1] if passes else free_text(text)) or None

    def right(self, text: str, example: Example) -> float | None:
        summary = self.read(text) or ""
        facts = listed_values(example.meta.get("key_facts"))
        if facts:
            return float(all(states(summary, fact) for fact in facts))
        known = references(example)
        return float(rouge_l(summary, known) >= self.min_rouge_l) if known else None

    def teacher_prompt(self, example: Example) -> tuple[Message, ...]:
        wanted = _DENSITY if self.chain_of_density else _LENGTH if self.word_limit else None
        return extended(self.prompt(example), wanted and wanted.format(words=self.word_limit, passes=PASSES))

    @property
    def max_teacher_tokens(self) -> int:
        return PASSES * (self.max_answer_tokens + TOKENS_OF_A_PASS) if self.chain_of_density else self.max_answer_tokens

    def taught(self, example: Example, text: str) -> Sequence[Taught]:
        if not self.chain_of_density:
            return super().taught(example, text)
        passes = _passes(text)
        return (Taught(passes[-1]),) if passes else ()

    def unusable(self, text: str) -> str | None:
        """Why a teacher's summary may not teach: it is no chain of density, or longer than was asked for."""
        if self.chain_of_density and not _passes(text):
            return "no list of ever denser summaries"
        count = count_words(self.read(text) or "")
        limit = self.word_limit
        return f"a summary of {count} words, and max_summary_words is {limit}" if limit and count > limit else None


def _passes(text: str) -> list[str]:
    """The summaries of a chain of density in their order: a JSON list, or passes with numbers; none in a plain summary."""
    for value in json_values(text):
        inner = [part for part in value.values() if isinstance(part, list)] if isinstance(value, Mapping) else [value]
        if len(inner) == 1 and (found := [summary for item in inner[0] if (summary := _summary_in(item))]):
            return found
    plain = without_thinking(text)
    numbered = list(_PASS.finditer(plain))
    if len(numbered) < 2:
        return []
    ends = [hit.start() for hit in numbered[1:]] + [len(plain)]
    parts = [plain[hit.end() : end] for hit, end in zip(numbered, ends, strict=True)]
    plain_parts = (" ".join(_SUMMARY.sub("", _ENTITIES.sub("", part)).split()) for part in parts)
    return [part for part in plain_parts if part]


def _summary_in(item: Any) -> str | None:
    if not isinstance(item, Mapping):
        return None
    by_key = {str(key).casefold().replace(" ", "_"): inner for key, inner in item.items()}
    summary = next((by_key[key] for key in _SUMMARY_KEYS if key in by_key), None)
    return " ".join(summary.split()) or None if isinstance(summary, str) else None
