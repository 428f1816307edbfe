"""Whether an exported model still says what the student says: a certificate for each file.

Both read the student's own prompts and answers. At every token of an answer their scores are compared, and which word each
would choose; and both cut texts of several scripts into tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .contracts import Artefact, Runtime
from .errors import PotstillError
from .statistics import wilson

Json = dict[str, Any]
MIXED = (
    "Hello, 12 apples — naïve Straße, it's 3.50 €!",
    "私は猫です。你好，世界 안녕하세요",
    "สวัสดีครับ مرحبا שלום नमस्ते",
    "x = [1, 2];\n\tif (a != b) { return; }  // ok\n\n",
    "🙂👩‍👩‍👧 \u00a0fin\u200b",
)


class Asked(NamedTuple):
    """One text to compare on: its tokens, and from which on scores count (the last token of the prompt)."""

    ids: Sequence[int]
    start: int


class Reference(NamedTuple):
    """What the student says: the log-probabilities [T, V] of each text from its start on, and the tokens of the mixed texts."""

    asked: Sequence[Asked]
    logp_TV: list[npt.NDArray[np.float32]]
    tokens: list[list[int]]


def reference_of(student: Runtime, asked: Sequence[Asked]) -> Reference:
    """The student's scores, kept for all artefacts; without texts the mixed ones are compared on, from their first token."""
    tokens = [student.token_ids(text) for text in MIXED]
    some = [*asked] or [Asked(ids, 0) for ids in tokens]
    return Reference(some, [_logp(student, one) for one in some], tokens)


def _logp(runtime: Runtime, asked: Asked) -> npt.NDArray[np.float32]:
    z_TV = runtime.logits(asked.ids)
    z_TV = z_TV[min(asked.start, len(z_TV) - 1) :].astype(np.float64)
    z_TV -= z_TV.max(axis=1, keepdims=True)
    return np.asarray(z_TV - np.log(np.exp(z_TV).sum(axis=1, keepdims=True)), dtype=np.float32)


def certificate(artefact: Artefact, reference: Reference) -> Json:
    """{name, runtime, size_bytes, tokens, agreement: Score, largest_difference, mean_kl, tokenizer, passed, why}.

    `agreement` is the share of tokens on which both would choose the same word, with Wilson's 95% interval; `largest_difference`
    is in log-probability, among words that the student gives at least 1 in 1,000; `why` says what failed.
    """
    head: Json = {"name": artefact.name, "runtime": artefact.runtime, "size_bytes": artefact.size_bytes}
    try:
        runtime = artefact.load()
        theirs = [_logp(runtime, one) for one in reference.asked]
        cut = sum(runtime.token_ids(text) == ids for text, ids in zip(MIXED, reference.tokens, strict=True))
    except (PotstillError, MemoryError) as error:
        return {**head, "passed": False, "why": f"it could not be loaded: {error or 'memory ran out'}"}
    same = gap = kl = 0.0
    count = 0
    for one, other in zip(reference.logp_TV, theirs, strict=True):
        if one.shape != other.shape or not np.isfinite(other).all():
            return {**head, "passed": False, "why": "its scores have another shape than the student's, or are no numbers"}
        p = np.exp(one.astype(np.float64))
        same += float((one.argmax(axis=1) == other.argmax(axis=1)).sum())
        gap = max(gap, float(np.abs(one - other)[p >= 1e-3].max(initial=0.0)))
        kl += float((p * (one - other)).sum())
        count += len(one)
    ends = wilson(same, count)
    share = same / count
    found = {
        **head, "tokens": count, "agreement": {"value": share, "low": ends.low, "high": ends.high, "n": count},
        "largest_difference": gap, "mean_kl": kl / count, "tokenizer": f"{cut} of {len(MIXED)}",
    }  # fmt: skip
    why = _failure(artefact, ends.high, share, cut)
    return {**found, "passed": why is None, "why": why}


def _failure(artefact: Artefact, high: float, share: float, cut: int) -> str | None:
    """What makes it unfit: tokens cut otherwise, or choices that differ more than so few bits explain."""
    if cut < len(MIXED):
        return f"its tokenizer cuts {len(MIXED) - cut} of {len(MIXED)} texts of mixed scripts otherwise than the student's"
    if high < artefact.least_agreement:
        return f"it chooses as the student does on {share:.1%} of the tokens, and {artefact.least_agreement:.0%} are asked of it"
    return None
