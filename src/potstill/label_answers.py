"""Test rows answered by a classifier: the text of an answer is its likeliest label, and every label's probability is kept."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from .classifier import classify, load_classifier, longest_text
from .contracts import Task
from .errors import ModelError
from .labels import read_of
from .rendering import load_tokenizer, read_ids
from .scoring import Answer, judge
from .types import Example


class LabelAnswers(NamedTuple):
    """The rows' answers in their order, and how many rows a second were answered in batches."""

    answers: list[Answer]
    rows_per_s: float | None


@dataclass(frozen=True)
class Classifier:
    """A model on this machine with a head for these labels, or one that gets a fresh head drawn from `seed`."""

    model: str
    labels: tuple[str, ...]
    revision: str | None = None
    trust_remote_code: bool = False
    seed: int = 0

    @property
    def loading(self) -> dict[str, Any]:
        return {"revision": self.revision, "trust_remote_code": self.trust_remote_code}

    def tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(self.model, reads_only=True, **self.loading)

    def texts(self, task: Task, examples: Sequence[Example]) -> list[list[int]]:
        """Token ids of what it reads of each row; raises ModelError where a chat template refuses one."""
        tokenizer = self.tokenizer()
        return [read_ids(tokenizer, read_of(task, example)) for example in examples]

    def answers(self, task: Task, examples: Sequence[Example], tell: Callable[[int], None]) -> LabelAnswers:
        """One for each row; one that cannot be rendered or is too long got no answer. `tell` hears of each row that is done."""
        tokenizer = self.tokenizer()
        model = load_classifier(self.model, self.labels, tokenizer, seed=self.seed, **self.loading)
        longest = longest_text(model.config, tokenizer)
        found: dict[str, Answer] = {}
        asked: list[Example] = []
        texts: list[list[int]] = []
        for example in examples:
            try:
                text = read_ids(tokenizer, read_of(task, example))
                if longest is not None and len(text) > longest:
                    raise ModelError(f"the row has {len(text):,} tokens and the model takes {longest:,}")
            except ModelError as error:
                tell(1)
                found[example.id] = judge(task, example, "", "error", str(error))
                continue
            asked.append(example)
            texts.append(text)
        start = time.perf_counter()
        for one in classify(model, texts):
            tell(1)
            given = {label: round(share, 6) for label, share in zip(self.labels, one.probabilities, strict=True)}
            answer = judge(task, asked[one.number], self.labels[one.best], "stop")
            found[answer.id] = replace(answer, label_probabilities=given)
        seconds = time.perf_counter() - start
        del model  # the next system, and the measuring process, need the memory
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return LabelAnswers([found[example.id] for example in examples], len(asked) / seconds if asked else None)
