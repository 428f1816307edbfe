"""Models that transformers loads, as runtimes that can be asked for scores: the student, and exports that it reads back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from .classifier import has_label_head, label_scores
from .student import load_as


class TransformersRuntime:
    """In fp32 on the processor, whatever the weights are stored in."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model = model
        self.tokenizer = tokenizer

    @torch.no_grad()
    def logits(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        ids_BT = torch.tensor([list(ids)])
        if has_label_head(self.model):
            return np.asarray(label_scores(self.model, ids_BT, torch.tensor([len(ids)])).numpy())
        return np.asarray(self.model(input_ids=ids_BT).logits[0].float().numpy())

    def token_ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def load_runtime(folder: Path, *, gguf_file: str | None = None, config_of: Path | None = None) -> TransformersRuntime:
    """The model and tokenizer of a folder, or of a GGUF file in it; raises ModelError with the reason.

    `config_of` names the folder whose settings hold, where the reader of the file leaves some out (the width of heads).
    """
    options: dict[str, Any] = {} if gguf_file is None else {"gguf_file": gguf_file}
    config = AutoConfig.from_pretrained(config_of or folder)
    is_classifier = any(str(name).endswith("ForSequenceClassification") for name in config.architectures or ())
    kind: Any = AutoModelForSequenceClassification if is_classifier else AutoModelForCausalLM
    model = load_as(kind, str(folder), "cpu", torch.float32, config=config, **options)
    return TransformersRuntime(model, AutoTokenizer.from_pretrained(folder, **options))
