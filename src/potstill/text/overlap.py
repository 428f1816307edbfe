"""How much a text overlaps with what a row expects: ROUGE and the token F1 of SQuAD, for words of any script."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rouge_score.rouge_scorer import RougeScorer

from ..types import Example
from .texts import normalised, squad_form, words


class _Words:
    """rouge-score's own tokenizer keeps a-z and 0-9 only: identical Thai texts would score 0."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


_SCORERS = {kind: RougeScorer([kind], tokenizer=_Words()) for kind in ("rouge1", "rouge2", "rougeL")}


def listed_values(value: Any) -> tuple[str, ...]:
    """The texts and numbers of a list in a row's meta; none where it holds no list."""
    items = value if isinstance(value, list | tuple) else [value]
    return tuple(
        str(item) for item in items if isinstance(item, str | int | float) and not isinstance(item, bool) and str(item).strip()
    )


def accepted_answers(example: Example) -> tuple[str, ...]:
    """What counts as a right answer: meta.answers where there are some, or else the gold."""
    return listed_values(example.meta.get("answers")) or listed_values(example.gold)


def references(example: Example) -> tuple[str, ...]:
    """What a free text is compared with: the gold and meta.references, each once."""
    return tuple(dict.fromkeys((*listed_values(example.gold), *listed_values(example.meta.get("references")))))


def rouge_l(text: str, references: Sequence[str]) -> float:
    """F1 of the longest common subsequence of words (Lin 2004), 0 to 1, with the best of the references.

    >>> rouge_l("the cat sat", ["the cat sat down"]), rouge_l("แมวนั่ง", ["แมวนั่ง"])
    (0.8571428571428571, 1.0)
    """
    return _rouge(text, references, "rougeL")


def rouge_n(text: str, references: Sequence[str], n: int) -> float:
    """F1 of the shared words (n = 1) or pairs of neighbouring words (n = 2), 0 to 1, with the best of the references.

    >>> rouge_n("the cat sat", ["sat the cat"], 1), rouge_n("the cat sat", ["sat the cat"], 2)
    (1.0, 0.5)
    """
    return _rouge(text, references, f"rouge{n}")


def _rouge(text: str, references: Sequence[str], kind: str) -> float:
    if any(normalised(text) == normalised(reference) for reference in references):
        return 1.0  # also of one word, which has no pair
    scorer = _SCORERS[kind]
    return max((float(scorer.score(reference, text)[kind].fmeasure) for reference in references), default=0.0)


def token_f1(text: str, answers: Sequence[str]) -> float:
    """F1 of the words two answers share, in SQuAD's form, 0 to 1, with the best of the answers.

    >>> token_f1("the red house", ["a red house", "blue"]), round(token_f1("red", ["red house"]), 3)
    (1.0, 0.667)
    """
    return max((_pair_f1(squad_form(text), squad_form(answer)) for answer in answers), default=0.0)


def _pair_f1(text: str, answer: str) -> float:
    if text == answer:
        return 1.0
    given, wanted = Counter(_tokens(text)), Counter(_tokens(answer))
    shared = (given & wanted).total()
    return 2 * shared / (given.total() + wanted.total()) if shared else 0.0


def _tokens(form: str) -> list[str]:
    """SQuAD splits at spaces; a script without spaces is split by letter."""
    return form.split() if form.isascii() else [token for part in form.split() for token in (words(part) or [part])]
