"""A teacher whose weights are on this machine."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from pydantic import Field
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..contracts import Price, Requests, Teacher
from ..errors import ModelError
from ..generation import BATCH_TOKENS, Generated, generate
from ..rendering import load_tokenizer, prompt_ids
from ..runfolder import fingerprint, folder_digest
from ..student import load_model
from ..types import Reply, Request, Sampling, Signal

SORTED_TOGETHER = 2048
"""Requests that are held and sorted by length together: enough for full batches, few enough for any memory."""


class HuggingFace(Teacher):
    """Any causal language model in a local folder or on the hub; gives every token's probabilities and hidden states."""

    gives: ClassVar[Signal] = Signal.HIDDEN
    model: str = Field(description="folder, or hub id")
    revision: str | None = Field(default=None, description="the hub's branch, tag or commit")
    trust_remote_code: bool = Field(default=False, description="run code that comes with the checkpoint")
    batch_tokens: int = Field(default=BATCH_TOKENS, ge=1, description="tokens in one batch of generation; memory bounds it")

    def identity(self) -> Mapping[str, Any]:
        folder = Path(self.model)
        revision = folder_digest(folder) if folder.is_dir() else (self.revision or "main")
        model = None if folder.is_dir() else self.model
        return {"kind": "huggingface", "model": model, "revision": revision}

    async def answers(self, requests: Requests) -> AsyncIterator[tuple[Request, Reply]]:
        loaded: _Loaded | None = None
        try:
            while window := await _window(requests):
                loaded = loaded or self._load()
                for request, row in self._answer(loaded, window):
                    yield request, self._reply(row)
                    if isinstance(row, Generated) and row.last_of_batch:
                        await asyncio.sleep(0)  # where the journal takes the batch, and Ctrl-C gets its turn
        finally:
            del loaded
            _free()

    def local_model(self) -> str | None:
        return self.model

    def loading(self) -> dict[str, Any]:
        return {"revision": self.revision, "trust_remote_code": self.trust_remote_code}

    def price(self) -> Price:
        return Price(0.0, 0.0)

    def problems(self) -> list[str]:
        try:
            load_tokenizer(self.model, **self.loading())
        except ModelError as error:
            return [f"teacher: {error}"]
        return []

    def _load(self) -> _Loaded:
        return _Loaded(load_model(self.model, **self.loading()), load_tokenizer(self.model, **self.loading()))

    def _answer(self, loaded: _Loaded, window: list[Request]) -> Iterator[tuple[Request, Generated | str]]:
        """The window's rows as they are generated; a string says why the model cannot be asked a row."""

        def asked_alike(request: Request) -> tuple[Any, ...]:
            sampling = request.sampling
            return sampling.max_tokens, sampling.temperature, sampling.top_p, request.sample_index

        for _, group in groupby(sorted(window, key=asked_alike), key=asked_alike):
            alike: list[Request] = []
            prompts: list[list[int]] = []
            for request in group:
                prompt = loaded.prompt(request)
                if isinstance(prompt, str):
                    yield request, prompt
                else:
                    alike.append(request)
                    prompts.append(prompt)
            seed = int(fingerprint([request.content() for request in alike[:1]])[:8], 16)
            sampling = alike[0].sampling if alike else Sampling()
            for row in generate(loaded.model, loaded.tokenizer, prompts, sampling, batch_tokens=self.batch_tokens, seed=seed):
                yield alike[row.index], row

    def _reply(self, row: Generated | str) -> Reply:
        if isinstance(row, str):
            return Reply("", "error", cost_usd=0.0, error=row)
        return Reply(
            text=row.text,
            finish_reason=row.finish_reason,
            prompt_tokens=row.prompt_tokens,
            completion_tokens=row.completion_tokens,
            cost_usd=self.price().cost(row.prompt_tokens, row.completion_tokens),
            latency_s=round(row.seconds, 4),
        )


async def _window(requests: Requests) -> list[Request]:
    """All that may be asked now, up to a limit; waits for the first; nothing when none will come."""
    first = await anext(requests, None)
    window = [] if first is None else [first]
    while window and len(window) < SORTED_TOGETHER and (request := requests.take()) is not None:
        window.append(request)
    return window


class _Loaded(NamedTuple):
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    def prompt(self, request: Request) -> list[int] | str:
        """The prompt's ids, or why this model cannot take it."""
        try:
            ids = prompt_ids(self.tokenizer, request.messages)
        except ModelError as error:
            return str(error)
        longest = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if longest is not None and len(ids) >= longest:
            return f"the prompt has {len(ids):,} tokens and the teacher takes {longest:,}"
        return ids


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
