"""What teachers give to each label of a closed set together: the probabilities that they say, and the votes of their answers.

    p(label) = sum_t w_t p_t(label) / sum of the w of the teachers that say anything

p_t is the mean over a teacher's samples: of a reply's own `label_probabilities`, or of its answer alone with all of the
probability. Answers that failed, cannot be read or were refused say nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from ..contracts import Candidate


def label_shares(candidates: Sequence[Candidate], labels: Sequence[str], weights: Sequence[float]) -> dict[str, float] | None:
    """Each label's probability, adding up to 1; None where a single answer says no more than its text.

    `weights` are those of the job's teachers.
    """
    told = [(one.teacher, given) for one in candidates if (given := _given(one, labels)) is not None]
    if not told or (len(candidates) == 1 and candidates[0].reply.label_probabilities is None):
        return None
    samples: dict[int, int] = defaultdict(int)
    for teacher, _ in told:
        samples[teacher] += 1
    total = sum(weights[teacher] for teacher in samples)
    found = dict.fromkeys(labels, 0.0)
    for teacher, given in told:
        share = weights[teacher] / (total * samples[teacher])
        for label in labels:
            found[label] += share * given.get(label, 0.0)
    return found


def _given(one: Candidate, labels: Sequence[str]) -> Mapping[str, float] | None:
    if one.answer is None or one.reply.error is not None:
        return None
    said = one.reply.label_probabilities
    if said is not None:
        total = sum(said.get(label, 0.0) for label in labels)
        return {label: said.get(label, 0.0) / total for label in labels} if total > 0 else None
    return {one.answer: 1.0} if one.answer in labels else None
