"""Answers of a model in training, sampled with continuous refill: a row that ends makes room for one that waits.

    Writer(model, tokenizer, Sampling(temperature=1.0)).write([Ask([5, 6, 7], 64, "row 1, step 0")])

A row's random numbers are its own (Philox, keyed by `Ask.seed`), one for each token, and find the token on the cumulated
probabilities. So a row's answer does not depend on the rows beside it, on how many processes share the work, or on what stood
in the batch before: only on the seed, the prompt and the weights (to rounding, which moves a token where its random number falls
within 1e-6 of a boundary).

Names of tensors carry their shape: B rows, V words, H hidden size.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

from .caches import Running, begin, can_mix, go_on, join, leave
from .errors import ModelError
from .generation import BATCH_TOKENS, generation_config, only, token_batches
from .kernels.cells import logits
from .rendering import stop_ids
from .student import head_of
from .types import Sampling

JOIN_AT = 8
"""Waiting rows join when so many parts of the places are one part free: reading prompts one by one costs more than a few
places that stay empty for some tokens."""


class Ask(NamedTuple):
    """A prompt, how many tokens its answer may have at most, and what its random numbers are made from."""

    prompt: Sequence[int]
    limit: int
    seed: str


class Writer:
    """Samples answers of a model; `options.max_tokens` has no part in it, each `Ask` has its own limit.

    `batch_tokens` bounds rows x (prompt + limit) of those that are answered at once. `mixes` says whether rows join and leave
    a running batch; where an architecture does not allow that, batches stay together until their longest answer has ended.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, options: Sampling, *,
        batch_tokens: int = BATCH_TOKENS, bf16: bool = False,
    ) -> None:  # fmt: skip
        self.model = model
        self.options = options
        self.batch_tokens = batch_tokens
        self.bf16 = bf16
        self.stops = frozenset(stop_ids(tokenizer))
        self.pad_id = int(tokenizer.pad_token_id)
        self.num_words = 1 + max(tokenizer.get_vocab().values())
        self.config = generation_config(model, tokenizer, Sampling(), sorted(self.stops))
        with resting(model):
            self.mixes = can_mix(model)

    @torch.no_grad()
    def write(self, asks: Sequence[Ask]) -> list[list[int]]:
        """Each prompt's answer: token ids up to and with the end token, or as many as its limit allows without one.

        Raises ModelError when one row does not fit the memory.
        """
        while True:
            try:
                with resting(self.model), torch.autocast(self.model.device.type, dtype=torch.bfloat16, enabled=self.bf16):
                    return self._refilled(asks) if self.mixes else self._batch_by_batch(asks)
            except torch.OutOfMemoryError:
                self._halve(asks)

    def _refilled(self, asks: Sequence[Ask]) -> list[list[int]]:
        answers: list[list[int]] = [[] for _ in asks]
        chances = [uniforms(ask.seed, ask.limit) for ask in asks]
        waiting = sorted(range(len(asks)), key=lambda row: _width(asks[row]))
        rows: list[int] = []
        running: Running | None = None
        while waiting or rows:
            new = self._joining(waiting, rows, asks)
            if new:
                read = begin(self.model, [asks[row].prompt for row in new], self.pad_id)
                running = join(running, read) if rows and running else read
                rows += new
            assert running is not None
            ids_B = self._draw(running.last_BH, [chances[row][len(answers[row])] for row in rows])
            for row, word in zip(rows, ids_B.tolist(), strict=True):
                answers[row].append(word)
            going = [place for place, row in enumerate(rows) if not self._has_ended(answers[row], asks[row])]
            if going and len(going) < len(rows):
                running, ids_B = leave(running, going), ids_B[going]
            rows = [rows[place] for place in going]
            running = go_on(self.model, running, ids_B) if rows else None
        return answers

    def _joining(self, waiting: list[int], rows: Sequence[int], asks: Sequence[Ask]) -> list[int]:
        """Takes from the end of `waiting`, where the widest are, what joins now."""
        if not waiting:
            return []
        widest = max(_width(asks[row]) for row in (*rows, waiting[-1]))
        places = max(1, self.batch_tokens // widest)
        free = min(places - len(rows), len(waiting))
        if free <= 0 or (rows and free < len(waiting) and free * JOIN_AT < places):
            return []
        return [waiting.pop() for _ in range(free)]

    def _has_ended(self, answer: Sequence[int], ask: Ask) -> bool:
        return answer[-1] in self.stops or len(answer) >= ask.limit

    def _draw(self, last_BH: torch.Tensor, chances: Sequence[float]) -> torch.Tensor:
        """The next word of each row, from the scores that its last hidden state gives."""
        head = head_of(self.model, self.num_words)
        words_WH = head.weight_VH[: head.num_words].to(last_BH.dtype)
        bias_W = None if head.bias_V is None else head.bias_V[: head.num_words].float()
        return draw(logits(last_BH, words_WH, bias_W, head, torch.float32), chances, self.options)

    def _batch_by_batch(self, asks: Sequence[Ask]) -> list[list[int]]:
        """The same draws where rows cannot join a running batch; rows of one limit share it, so that none goes beyond its own."""
        answers: list[list[int]] = [[] for _ in asks]
        for limit in sorted({ask.limit for ask in asks}):
            rows = [row for row, ask in enumerate(asks) if ask.limit == limit]
            for batch in token_batches([list(asks[row].prompt) for row in rows], limit, self.batch_tokens):
                for place, ids in zip(batch, self._whole_batch([asks[rows[place]] for place in batch], limit), strict=True):
                    ended = next((number for number, word in enumerate(ids, 1) if word in self.stops), limit)
                    answers[rows[place]] = ids[:ended]
        return answers

    def _whole_batch(self, asks: Sequence[Ask], limit: int) -> list[list[int]]:
        model: Any = self.model
        width = max(len(ask.prompt) for ask in asks)
        ids_BT = torch.tensor([[self.pad_id] * (width - len(ask.prompt)) + list(ask.prompt) for ask in asks])
        mask_BT = torch.tensor([[0] * (width - len(ask.prompt)) + [1] * len(ask.prompt) for ask in asks])
        drawn = LogitsProcessorList([_Drawn(width, [uniforms(ask.seed, limit) for ask in asks], self)])
        with only(self.model, self.config):
            out = model.generate(
                input_ids=ids_BT.to(model.device), attention_mask=mask_BT.to(model.device), logits_processor=drawn,
                max_new_tokens=limit,
            )  # fmt: skip
        answers: list[list[int]] = out[:, width:].tolist()
        return answers

    def _halve(self, asks: Sequence[Ask]) -> None:
        if self.batch_tokens <= min(_width(ask) for ask in asks):  # each row was alone
            widest = max(_width(ask) for ask in asks)
            raise ModelError(
                f"the device's memory does not hold one row of {widest:,} tokens, prompt and own answer, beside the training; "
                "lower train.on_policy.max_answer_tokens, leave out long rows, or use a smaller model"
            )
        torch.cuda.empty_cache()
        self.batch_tokens //= 2


class _Drawn(LogitsProcessor):
    """Leaves `generate` the one word that a row's random number chooses."""

    def __init__(self, width: int, chances: Sequence[npt.NDArray[np.float64]], writer: Writer) -> None:
        self.width = width
        self.chances = chances
        self.writer = writer

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        place = input_ids.shape[1] - self.width
        words_BV = scores[:, : self.writer.num_words].float()
        ids_B = draw(words_BV, [chances[place] for chances in self.chances], self.writer.options)
        return torch.full_like(scores, -torch.inf).scatter(1, ids_B[:, None], 0.0)


def draw(logits_BV: torch.Tensor, chances: Sequence[float], options: Sampling) -> torch.Tensor:
    """The word of each row whose share of the cumulated probabilities its random number in [0, 1) falls into; at temperature
    0 the likeliest. With `top_p`, of the likeliest words that have so much probability together."""
    if options.temperature == 0:
        return logits_BV.argmax(1)
    exact = torch.float32 if logits_BV.device.type == "mps" else torch.float64  # 150,000 terms add up
    p_BV = (logits_BV / options.temperature).softmax(1)
    words_BV = None
    if options.top_p < 1:
        p_BV, words_BV = p_BV.sort(1, descending=True)
        before_BV = p_BV.cumsum(1) - p_BV
        p_BV = p_BV.masked_fill(before_BV >= options.top_p, 0.0)
    below_BV = p_BV.to(exact).cumsum(1)
    at_B1 = torch.tensor(chances, dtype=exact, device=logits_BV.device)[:, None] * below_BV[:, -1:]
    found_B1 = torch.searchsorted(below_BV, at_B1, right=True).clamp_max(p_BV.shape[1] - 1)
    return (found_B1 if words_BV is None else words_BV.gather(1, found_B1))[:, 0]


def uniforms(seed: str, count: int) -> npt.NDArray[np.float64]:
    """Random numbers in [0, 1) that the seed alone decides; more of them begin with the same."""
    key = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:16])
    return np.random.Generator(np.random.Philox(key=key)).random(count)


def _width(ask: Ask) -> int:
    return len(ask.prompt) + ask.limit


@contextlib.contextmanager
def resting(model: nn.Module) -> Iterator[None]:
    """The model without dropout, and with the cache that activations made anew exclude; each module as it was afterwards."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training
