"""Agreement: which of several answers to one row the others stand behind, and how far.

    found = elect(case, task, weights, compare="answers")     # None where no answer can be read
    found.winner, found.agreement, found.tied

One rule for labels, numbers and free text, minimum Bayes risk: the answer y with the greatest expected gain

    agreement(y) = sum_i w_i gain(y, y_i) / sum of the w of ALL answers that were asked for

With gain 1 for equal parsed answers and 0 for others this is the weighted majority vote (self-consistency, Wang et al. 2022,
arXiv 2203.11171). Free texts are never equal; there the gain is the F1 of the words that two texts share (ROUGE-1), and y is
the medoid, the text that all others are nearest to (Kumar and Byrne 2004; that both are one rule: Bertsch et al. 2023, arXiv
2310.01387).

A teacher that failed, and an answer that cannot be read, stand in the denominator and agree with nothing: no answer that is
lost makes the others look more certain. Sums are exact fractions, so that neither order nor rounding decides a vote.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal, NamedTuple

from ..contracts import Candidate, Case, Choice, Finding, Task
from ..text.texts import without_thinking, words

Compare = Literal["auto", "answers", "texts"]
FREE_TEXT_METRICS = {"rouge_l", "bleu"}
CUT = ("length", "content_filter")


class Elected(NamedTuple):
    """The answer with the highest agreement, 0 to 1, None where there was one answer alone, which agrees with nothing.

    `tied`: another answer has the same agreement, and the winner is only the first of them.
    """

    winner: Candidate
    agreement: float | None
    tied: bool


def elect(case: Case, task: Task, weights: Sequence[float], compare: Compare = "auto") -> Elected | None:
    """The candidate with the highest agreement; of equals the first by `ranked`. `weights` are those of the job's teachers."""
    voters = readable(case, task)
    if not voters:
        return None
    by_text = compares_texts(task, compare)
    gain: Callable[[Any, Any], Fraction] = _words_shared if by_text else _same
    keys: list[Any] = [Counter(words(_wording(one, task))) if by_text else one.answer for one in voters]
    exact = [Fraction(repr(float(weight))) for weight in weights]  # as the job writes it: 0.1 + 0.2 is 0.3
    votes = [exact[one.teacher] for one in voters]
    scores = [sum((vote * gain(key, other) for vote, other in zip(votes, keys, strict=True)), Fraction()) for key in keys]
    best = scores.index(max(scores))
    tied = any(score == scores[best] and gain(key, keys[best]) != 1 for key, score in zip(keys, scores, strict=True))
    if len(case.candidates) == 1:
        return Elected(voters[best], None, tied)
    total = sum((exact[one.teacher] for one in case.candidates), Fraction())
    return Elected(voters[best], float(scores[best] / total), tied)


def ranked(case: Case, task: Task) -> list[Candidate]:
    """The candidates that answered, by the job's order of teachers, then by sample; last those that may not teach as they are,
    cut or unusable by the task's own rule: they vote, and speak only where no other does."""

    def place(one: Candidate) -> tuple[bool, int, int]:
        spoiled = one.reply.finish_reason in CUT or task.unusable(one.reply.text) is not None
        return spoiled, one.teacher, one.sample

    return sorted((one for one in case.candidates if one.reply.error is None), key=place)


def readable(case: Case, task: Task) -> list[Candidate]:
    """Those of `ranked` in which the task reads an answer: only they can be chosen, and only they vote."""
    return [one for one in ranked(case, task) if one.answer is not None]


def is_free_text(task: Task) -> bool:
    """Whether the task's answers are wordings, which are never equal: such a task is scored by the words shared."""
    return not FREE_TEXT_METRICS.isdisjoint(task.metrics)


def compares_texts(task: Task, compare: Compare) -> bool:
    """Whether answers are compared by their words, and not as the task reads them."""
    return compare == "texts" or (compare == "auto" and is_free_text(task))


def none_usable(case: Case, task: Task) -> Choice:
    """The choice where no candidate can be read: what a lone answer would be refused for."""
    errors = [one.reply.error for one in case.candidates if one.reply.error is not None]
    if len(errors) < len(case.candidates):
        return Choice(finding=Finding(f"no {task.kind} answer in the text"))
    return Choice(finding=Finding(f"no answer: {errors[0]}" if errors else "no answer: no teacher was asked"))


def _wording(one: Candidate, task: Task) -> str:
    """The words that are compared: the answer itself where it is free text, else all that the teacher said."""
    return (one.answer or "") if is_free_text(task) else without_thinking(one.reply.text)


def _same(one: str, other: str) -> Fraction:
    return Fraction(int(one == other))


def _words_shared(one: Mapping[str, int], other: Mapping[str, int]) -> Fraction:
    """F1 of two bags of words; texts without words are alike."""
    if one == other:
        return Fraction(1)
    shared = sum(min(count, other.get(word, 0)) for word, count in one.items())
    return Fraction(2 * shared, sum(one.values()) + sum(other.values()))
