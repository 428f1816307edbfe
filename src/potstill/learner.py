"""The model in training: loaded in fp32, adapted as the job says, with its optimizer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .classifier import body_projections, head_modules, load_classifier
from .errors import ModelError
from .plugins import is_installed
from .recipe import StudentSettings, TrainSettings, default_learning_rate, uses_bf16
from .rendering import load_tokenizer
from .row_attention import use_row_attention
from .student import (
    LoraShape,
    add_lora,
    best_device,
    causal_model,
    count_parameters,
    keeps_packed_rows_apart,
    layers_of,
    load_four_bit,
    load_model,
)

BETAS = (0.9, 0.95)
"""Language models' usual ones: 0.999 remembers a thousand steps, which is longer than most distillations last."""


@dataclass(frozen=True)
class Learner:
    """A model that is about to be trained. `num_words` rows of its head are real words; `keeps_rows_apart` says whether
    rows of one packed line are blind to each other. One that chooses among `labels` has these for words."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    num_words: int
    learning_rate: float
    bf16: bool
    keeps_rows_apart: bool
    labels: tuple[str, ...] = ()

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """What the optimizer changes, by name."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}


def make_learner(student: StudentSettings, settings: TrainSettings, device: torch.device) -> Learner:
    """Loads and adapts the model; raises ModelError with the sentence for the user."""
    own: dict[str, Any] = {"revision": student.revision, "trust_remote_code": student.trust_remote_code}
    tokenizer = load_tokenizer(student.model, **own)
    if student.adaptation == "qlora":
        compute = torch.float32 if settings.precision == "fp32" else torch.bfloat16
        model = load_four_bit(student.model, str(device), compute, **own)
    else:
        model = load_model(student.model, **own, device=str(device), dtype=torch.float32)
    learning_rate = settings.learning_rate or default_learning_rate(count_parameters(model), student.adaptation)
    keeps_rows_apart = keeps_packed_rows_apart(model)
    bf16 = uses_bf16(settings.precision, device.type, model.config.get_text_config().hidden_size)
    if not bf16:  # in bf16 one of three seeds of the quickstart learned less with it: not explained yet (docs/log.md, 2026-11-24)
        use_row_attention(model)
    if settings.gradient_checkpointing:
        enable: Any = model.activation_checkpointing_enable
        enable()
    if student.adaptation != "full":
        model = add_lora(model, _lora_shape(student))
    freeze(model, student)
    num_words = int(max(tokenizer.get_vocab().values())) + 1
    return Learner(model, tokenizer, num_words, learning_rate, bf16, keeps_rows_apart)


def make_classifier(student: StudentSettings, settings: TrainSettings, device: torch.device, labels: tuple[str, ...]) -> Learner:
    """The same for a student with a head of labels, which is trained whole in any case; a line holds one row."""
    own: dict[str, Any] = {"revision": student.revision, "trust_remote_code": student.trust_remote_code}
    tokenizer = load_tokenizer(student.model, reads_only=True, **own)
    kind: dict[str, Any] = {"device": str(device), "dtype": torch.float32, "seed": settings.seed}
    model = load_classifier(student.model, labels, tokenizer, **kind, **own)
    learning_rate = settings.learning_rate or default_learning_rate(count_parameters(model), student.adaptation, classifies=True)
    bf16 = uses_bf16(settings.precision, device.type, model.config.get_text_config().hidden_size)
    if settings.gradient_checkpointing:
        enable: Any = model.activation_checkpointing_enable
        enable()
    if student.adaptation != "full":
        shape = _lora_shape(student)
        if shape.target_modules == ("all-linear",):
            shape = shape._replace(target_modules=tuple(body_projections(model)))
        model = add_lora(model, shape, heads=head_modules(model))
    freeze(model, student)
    return Learner(model, tokenizer, len(labels), learning_rate, bf16, keeps_rows_apart=False, labels=labels)


def adaptation_problem(student: StudentSettings) -> str | None:
    """Why the student cannot be adapted as the job says on this machine; None where it can."""
    if student.adaptation != "qlora":
        return None
    why = ""
    if student.head == "labels":
        why = "a student with a head of labels is too small to need 4 bits"
    elif not is_installed("bitsandbytes"):
        why = "the package bitsandbytes is not installed (pip install 'potstill[qlora]')"
    elif (device := best_device()) not in ("cuda", "cpu"):
        why = f"4-bit weights run on CUDA and on processors, and this machine has {device}"
    return f"student.adaptation is qlora, and {why}; set student.adaptation to lora" if why else None


def _lora_shape(student: StudentSettings) -> LoraShape:
    return LoraShape(**student.lora.model_dump(), magnitudes=student.adaptation == "dora")


def freeze(model: PreTrainedModel, student: StudentSettings) -> None:
    """Leaves out of the training what the job wants left as it is; raises ModelError where the model has fewer layers."""
    inner = causal_model(model)
    if student.freeze_embeddings:
        inner.get_input_embeddings().requires_grad_(False)
    layers = layers_of(inner, inner.config.get_text_config().num_hidden_layers)
    if student.freeze_layers > len(layers):
        raise ModelError(f"student.freeze_layers is {student.freeze_layers}, and the model has {len(layers)} layers")
    for layer in layers[: student.freeze_layers]:
        layer.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ModelError("nothing is left to be trained; lower student.freeze_layers, or train the embeddings")


def make_optimizer(trained: Iterable[nn.Parameter], learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """Fused AdamW; matrices decay, norms and biases do not."""
    parameters = list(trained)
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=BETAS, fused=True)
