"""Batched text generation with a local causal language model.

    for row in generate(model, tokenizer, prompts, Sampling(max_tokens=64)):
        print(row.index, row.text, row.finish_reason)

Prompts are sorted by length, padded on the left and batched to a budget of tokens, so a batch holds many short rows or few
long ones. Shapes: B rows of a batch, P its longest prompt, T its longest answer, both in tokens.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from .errors import ModelError
from .rendering import stop_ids
from .types import Sampling

BATCH_TOKENS = 8192
TOKENS_BETWEEN_LOOKS = 8
SEED_STEP = 1_000_003  # prime: batches of neighbouring seeds do not meet


@dataclass(frozen=True, slots=True)
class Generated:
    """One prompt's answer; `seconds` is how long its whole batch took, `last_of_batch` that the next row must be waited for."""

    index: int
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    last_of_batch: bool


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    options: Sampling,
    *,
    batch_tokens: int = BATCH_TOKENS,
    seed: int = 0,
) -> Iterator[Generated]:
    """Answers to token-id prompts, longest prompts first, as each batch finishes; `index` points into `prompts`.

    `batch_tokens` bounds rows x (longest prompt + max_tokens) of a batch; 1 is one row at a time. Greedy answers do not depend
    on the batch; sampled ones are decided by `seed` and the batches. Raises ModelError when one row does not fit the memory.
    """
    stops = stop_ids(tokenizer)
    config = generation_config(model, tokenizer, options, stops)
    waiting = list(reversed(token_batches(prompts, options.max_tokens, batch_tokens)))
    number = 0
    while waiting:
        batch = waiting.pop()
        start = time.perf_counter()
        try:
            answers = _answer(model, config, [prompts[index] for index in batch], seed * SEED_STEP + number)
        except torch.OutOfMemoryError:
            waiting.extend(_halves(batch, prompts))
            continue
        number += 1
        seconds = time.perf_counter() - start
        for index, ids in zip(batch, answers, strict=True):
            text, reason, length = _read(tokenizer, stops, ids)
            yield Generated(index, text, reason, len(prompts[index]), length, seconds, index == batch[-1])


def token_batches(prompts: Sequence[list[int]], max_tokens: int, batch_tokens: int) -> list[list[int]]:
    """Indices of the prompts in batches, longest first, each within the budget or of one row.

    >>> token_batches([[1], [1, 2, 3], [1, 2]], max_tokens=1, batch_tokens=8)
    [[1, 2], [0]]
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(prompts)), key=lambda i: -len(prompts[i])):
        rows = 1 + len(batches[-1]) if batches else 0
        if rows and rows * (len(prompts[batches[-1][0]]) + max_tokens) <= batch_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


@torch.inference_mode()
def _answer(model: PreTrainedModel, config: GenerationConfig, prompts: list[list[int]], seed: int) -> list[list[int]]:
    """Generated ids of one batch, each row perhaps with padding behind its stop token.

    Every few tokens the finished rows leave the batch: on a CPU, which computes all rows that are in it, answers of mixed
    length would otherwise each cost as much as the longest.
    """
    longest = max(len(prompt) for prompt in prompts)
    pad = int(config.pad_token_id)
    ids_BT = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts], device=model.device)
    mask_BT = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    stops = frozenset(config.eos_token_id or ())
    answers: list[list[int]] = [[] for _ in prompts]
    rows, cache = list(range(len(prompts))), None
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), only(model, config):
        torch.manual_seed(seed)
        for num_new in _rounds(config.max_new_tokens, len(prompts)):
            out = model.generate(  # type: ignore[operator]
                input_ids=ids_BT,
                attention_mask=mask_BT,
                past_key_values=cache,
                max_new_tokens=num_new,
                return_dict_in_generate=True,
            )
            new_BT, cache = out.sequences[:, ids_BT.shape[1] :], out.past_key_values
            for row, ids in zip(rows, new_BT.tolist(), strict=True):
                answers[row] += ids
            going = [place for place, row in enumerate(rows) if stops.isdisjoint(answers[row])]
            if not going:
                break
            ids_BT, mask_BT = out.sequences, torch.cat([mask_BT, torch.ones_like(new_BT)], dim=1)
            if len(going) < len(rows) and _can_shrink(cache):
                chosen = torch.tensor(going, device=model.device)
                cache.batch_select_indices(chosen)
                ids_BT, mask_BT, rows = ids_BT[chosen], mask_BT[chosen], [rows[place] for place in going]
    return answers


def _can_shrink(cache: Any) -> bool:
    """Whether rows can be taken out of the cache: the states of linear attention have no such operation."""
    layers: list[Any] = getattr(cache, "layers", [])
    return bool(layers) and all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


def _rounds(max_tokens: int, num_rows: int) -> Iterator[int]:
    """How many tokens to generate before looking who has finished; one row alone ends by itself.

    >>> list(_rounds(20, 2)), list(_rounds(20, 1))
    ([8, 8, 4], [20])
    """
    step = TOKENS_BETWEEN_LOOKS if num_rows > 1 else max_tokens
    for start in range(0, max_tokens, step):
        yield min(step, max_tokens - start)


@contextlib.contextmanager
def only(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """Keeps the checkpoint's own generation settings (a repetition penalty, a top_k) out: only what the job says is used."""
    wrapped: Any = getattr(model, "get_base_model", None)  # peft's wrapper copies its config inwards
    holders = [model, wrapped()] if wrapped else [model]
    own = [holder.generation_config for holder in holders]
    try:
        model.generation_config = config
        yield
    finally:
        for holder, before in zip(holders, own, strict=True):
            holder.generation_config = before


def generation_config(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, options: Sampling, stops: list[int]
) -> GenerationConfig:
    """What `generate` of transformers is told of an answer: how it is sampled, where it ends, and which rows are no words."""
    num_words = 1 + max(tokenizer.get_vocab().values())
    rows = int(model.config.get_text_config().vocab_size)
    settings = {
        "max_new_tokens": options.max_tokens,
        "eos_token_id": stops,
        "pad_token_id": tokenizer.pad_token_id,
        "suppress_tokens": list(range(num_words, rows)) or None,  # padded rows of the vocabulary are not words
        "do_sample": options.temperature > 0,
    }
    if options.temperature > 0:
        settings.update(temperature=options.temperature, top_p=options.top_p, top_k=0)
    config: GenerationConfig = GenerationConfig.from_dict(settings)
    return config


def _halves(batch: list[int], prompts: Sequence[list[int]]) -> list[list[int]]:
    """A batch that did not fit the memory, as two, the first to be tried last in the list."""
    if len(batch) == 1:
        raise ModelError(
            f"the device's memory does not hold one row of {len(prompts[batch[0]]):,} prompt tokens; "
            "lower task.max_answer_tokens, leave out long rows, or use a smaller model"
        )
    torch.cuda.empty_cache()
    middle = len(batch) // 2
    return [batch[middle:], batch[:middle]]


class _Text(NamedTuple):
    text: str
    finish_reason: str
    num_tokens: int


def _read(tokenizer: PreTrainedTokenizerBase, stops: list[int], ids: list[int]) -> _Text:
    """The answer up to its stop token, which counts as one of its tokens."""
    end = next((place for place, token in enumerate(ids) if token in stops), None)
    kept = ids if end is None else ids[:end]
    text = str(tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False))
    return _Text(text, "length", len(ids)) if end is None else _Text(text, "stop", end + 1)
