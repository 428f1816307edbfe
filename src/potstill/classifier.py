"""A model with a classification head: an encoder or a decoder that gives each label of a closed set its probability.

    model = load_classifier("bert-base-uncased", ("no", "yes"), tokenizer)
    for one in classify(model, [read_ids(tokenizer, messages)]):
        print(model.config.id2label[one.best], one.probabilities)

Names of tensors carry their shape: B lines (one row each), T positions, L labels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from .architectures import has_labels, labels_of
from .batches import Batch
from .errors import ModelError
from .generation import BATCH_TOKENS, token_batches
from .kernels.cells import Head
from .student import causal_model, load_as
from .text.reading import label_key

OFFSET_POSITIONS = ("roberta", "xlm-roberta", "xlm-roberta-xl", "roberta-prelayernorm", "camembert", "data2vec-text", "mpnet")
"""Families whose positions are counted from behind the padding token's id: their tables hold that many rows less."""
PROBLEM: Literal["single_label_classification"] = "single_label_classification"
UNSET_LENGTH = 10**9
"""Tokenizers that know no longest text give a number far above this one."""


def load_classifier(
    model: str,
    labels: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    seed: int = 0,
    **loading: Any,
) -> PreTrainedModel:
    """A model with one output for each label, in the order of `labels`, in eval mode; `loading`: revision, trust_remote_code.

    A checkpoint's own head is kept where it has these very labels, in any order; otherwise the head is drawn from `seed`.
    """
    own = labels_of(model, loading.get("revision"))
    kept = has_head_for(model, labels, loading.get("revision"))
    names = dict(enumerate(own if kept else labels))
    options = {**loading, "id2label": names, "label2id": {label: number for number, label in names.items()}}
    with torch.random.fork_rng(), _without_a_report():
        torch.manual_seed(seed)
        kind = AutoModelForSequenceClassification
        loaded = load_as(kind, model, device, dtype, ignore_mismatched_sizes=True, **options)
        if not kept and has_labels(model, loading.get("revision")):
            _draw_anew(loaded, len(labels))  # where it was taken over, it fits by its size alone
    if kept:
        _put_in_order(loaded, own, labels)
    loaded.config.problem_type = PROBLEM
    # Decoders find a row's last token by the padding token's id, so model and tokenizer must mean the same one.
    loaded.config.pad_token_id = loaded.config.get_text_config().pad_token_id = int(tokenizer.pad_token_id)
    return loaded


def has_head_for(model: str, labels: Sequence[str], revision: str | None = None) -> bool:
    """Whether a checkpoint's own head gives these very labels, apart from their order and spelling."""
    own = labels_of(model, revision)
    return len(own) == len(labels) and {label_key(label) for label in own} == {label_key(label) for label in labels}


def classifier_architecture(config: PretrainedConfig, architecture: str) -> str:
    """The architecture that a model has with a classification head; raises ModelError where transformers knows none."""
    mapping: Any = AutoModelForSequenceClassification._model_mapping
    known = mapping.get(type(config), None)
    if known is not None:
        return str((known[0] if isinstance(known, tuple) else known).__name__)
    own: dict[str, str] = getattr(config, "auto_map", None) or {}
    if "AutoModelForSequenceClassification" not in own:
        raise ModelError(f"transformers has no classification head for {architecture}; take a student of another architecture")
    return own["AutoModelForSequenceClassification"].rpartition(".")[2]


def longest_text(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """How many tokens a classifier takes; None where neither its configuration nor its tokenizer says."""
    inner = config.get_text_config()
    positions = getattr(inner, "max_position_embeddings", None)
    if positions is not None and inner.model_type in OFFSET_POSITIONS:
        positions -= int(inner.pad_token_id or 0) + 1
    said = int(tokenizer.model_max_length)
    known = [length for length in (positions, said if said < UNSET_LENGTH else None) if length is not None]
    return min(known, default=None)


def has_label_head(model: nn.Module) -> bool:
    """Whether a loaded model is a classifier."""
    return getattr(causal_model(model).config, "problem_type", None) == PROBLEM


def label_scores(model: nn.Module, input_ids_BT: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
    """The head's logits [B, L] in fp32 of lines that are padded on the right."""
    mask_BT = torch.arange(input_ids_BT.shape[1], device=input_ids_BT.device)[None] < lengths_B[:, None]
    out = causal_model(model)(input_ids=input_ids_BT, attention_mask=mask_BT.long())
    scores: torch.Tensor = out.logits.float()
    return scores


def label_outlook(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, Head]:
    """The logits of a batch of labelled rows as hidden states, and a head that leaves them as they are.

    With both, every loss over cells sees N = B targets and a vocabulary of L labels.
    """
    scores_BL = label_scores(model, batch.input_ids_BT, batch.at_N % batch.input_ids_BT.shape[1] + 1)
    num_labels = scores_BL.shape[1]
    return scores_BL, Head(torch.eye(num_labels, device=scores_BL.device), None, 1.0, None, num_labels)


class Classified(NamedTuple):
    """One text's probabilities, in the order of the model's labels; `number` is that of the text."""

    number: int
    probabilities: list[float]

    @property
    def best(self) -> int:
        return self.probabilities.index(max(self.probabilities))


@torch.inference_mode()
def classify(model: PreTrainedModel, texts: Sequence[Sequence[int]], batch_tokens: int = BATCH_TOKENS) -> Iterator[Classified]:
    """The labels' probabilities of token-id texts, longest texts first, as each batch finishes.

    `batch_tokens` bounds rows x longest text of a batch; 1 is one row at a time. Raises ModelError when one row does not fit
    the memory.
    """
    model.eval()
    waiting = list(reversed(token_batches([list(text) for text in texts], 0, batch_tokens)))
    while waiting:
        batch = waiting.pop()
        try:
            scores_BL = _scores(model, [texts[index] for index in batch])
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                longest = len(texts[batch[0]])
                raise ModelError(
                    f"the device's memory does not hold one row of {longest:,} tokens; use another student"
                ) from None
            torch.cuda.empty_cache()
            waiting += [batch[len(batch) // 2 :], batch[: len(batch) // 2]]
            continue
        for index, probabilities in zip(batch, scores_BL.softmax(dim=1).tolist(), strict=True):
            yield Classified(index, probabilities)


def head_modules(model: PreTrainedModel) -> list[str]:
    """The modules behind the body: what low-rank adapters leave alone and what is trained whole beside them."""
    body = model.base_model_prefix
    heads = [name for name, child in model.named_children() if name != body and any(True for _ in child.parameters())]
    pooler = getattr(getattr(model, body), "pooler", None)
    return [*heads, *([f"{body}.pooler"] if isinstance(pooler, nn.Module) else [])]


def body_projections(model: PreTrainedModel) -> list[str]:
    """Every linear layer of the body, by name: where LoRA's `all-linear` puts its adapters."""
    heads = head_modules(model)
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return [name for name in linear if not any(name == head or name.startswith(f"{head}.") for head in heads)]


def _scores(model: PreTrainedModel, texts: Sequence[Sequence[int]]) -> torch.Tensor:
    longest = max(len(text) for text in texts)
    pad = int(model.config.get_text_config().pad_token_id or 0)
    ids_BT = torch.tensor([[*text, *[pad] * (longest - len(text))] for text in texts], device=model.device)
    return label_scores(model, ids_BT, torch.tensor([len(text) for text in texts], device=model.device))


def _projection(model: PreTrainedModel, num_labels: int) -> nn.Linear:
    """The last layer: the one that gives a number for each label."""
    found = [module for module in model.modules() if isinstance(module, nn.Linear) and module.out_features == num_labels]
    assert found, type(model).__name__
    return found[-1]


@torch.no_grad()
def _draw_anew(model: PreTrainedModel, num_labels: int) -> None:
    last = _projection(model, num_labels)
    last.weight.normal_(std=float(getattr(model.config.get_text_config(), "initializer_range", 0.02)))
    if last.bias is not None:
        last.bias.zero_()


@torch.no_grad()
def _put_in_order(model: PreTrainedModel, own: Sequence[str], labels: Sequence[str]) -> None:
    """Sorts the rows of a checkpoint's head as the task has its labels, and takes the task's spelling."""
    place = {label_key(label): number for number, label in enumerate(own)}
    rows = [place[label_key(label)] for label in labels]
    last = _projection(model, len(labels))
    last.weight.copy_(last.weight[rows].clone())
    if last.bias is not None:
        last.bias.copy_(last.bias[rows].clone())
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {label: number for number, label in enumerate(labels)}


@contextlib.contextmanager
def _without_a_report() -> Iterator[None]:
    """transformers warns of every weight that a head draws anew; we say it in the report."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
