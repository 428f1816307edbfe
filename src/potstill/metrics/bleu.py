"""bleu: shared runs of up to four words, over the whole test set."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

from pydantic import Field
from sacrebleu.metrics.bleu import BLEU

from ..contracts import Metric, Scored, Task
from ..text.overlap import references
from ..text.texts import UNSPACED, without_thinking

ONE_WORD_TASKS = ("nli", "classification")
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
_KANA_OR_UNSPACED = re.compile(rf"[\u3040-\u30ff]|(?![\u3400-\u4dbf\u4e00-\u9fff])[{UNSPACED}]")


class Bleu(Metric):
    """Corpus BLEU of sacrebleu, 0 to 100; not given for tasks whose answers are single words, where it means nothing."""

    tokenize: Literal["auto", "13a", "zh", "char", "intl"] = Field(
        default="auto",
        description="sacrebleu's tokenizer; auto: zh for Chinese, char for other scripts without spaces, or else 13a",
    )

    def value(self, rows: Sequence[Scored], task: Task) -> float | None:
        known = [(row.text, found) for row in rows if (found := references(row.example))]
        if task.kind in ONE_WORD_TASKS or not known:
            return None
        if 2 * sum(len(found[0].split()) == 1 and not _tokenizer_for(found[0]) for _, found in known) > len(known):
            return None
        rows_counts = [_counts(text, found, self.tokenize) for text, found in known]
        total = [sum(column) for column in zip(*rows_counts, strict=True)]
        return float(BLEU.compute_bleu(total[0:4], total[4:8], total[8], total[9], smooth_method="exp").score)


class _Counts(NamedTuple):
    """What one row adds to corpus BLEU: shared and given n-grams of 1 to 4 words, and both lengths."""

    shared_1: int
    shared_2: int
    shared_3: int
    shared_4: int
    given_1: int
    given_2: int
    given_3: int
    given_4: int
    length: int
    reference_length: int


def _tokenizer_for(text: str) -> str | None:
    if _KANA_OR_UNSPACED.search(text):
        return "char"
    return "zh" if _HAN.search(text) else None


@lru_cache(maxsize=65536)
def _counts(text: str, known: tuple[str, ...], tokenize: str) -> _Counts:
    """Cached, since the bootstrap asks for the same row some 2,000 times."""
    name = (_tokenizer_for(known[0]) or "13a") if tokenize == "auto" else tokenize
    score = _scorer(name).sentence_score(without_thinking(text), list(known))
    return _Counts._make([*score.counts, *score.totals, score.sys_len, score.ref_len])


@lru_cache(maxsize=8)
def _scorer(name: str) -> BLEU:
    return BLEU(tokenize=name, effective_order=True)
