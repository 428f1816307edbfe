"""How a model is trained: the settings, and the defaults that depend on its size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, ValidationInfo, field_validator

from .architectures import stored_config, writes_text
from .contracts import Loss, Teacher
from .plugins import load_plugin
from .runfolder import folder_digest
from .types import Signal

WIDTH_WORTH_BF16 = 256
"""On a CPU with bf16 products, a step is 1.2 times faster at hidden size 256 and 1.7 at 512 (docs/log.md, 2026-11-22)."""


class Settings(BaseModel):
    """A part of the job: frozen, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def listed(value: Any) -> Any:
    """One word or mapping where a list is meant."""
    if not isinstance(value, str | Mapping | list | tuple):
        raise ValueError(f"{value!r} is neither a name nor a list of names")
    return (value,) if isinstance(value, str | Mapping) else value


def job_folder(info: ValidationInfo) -> Path:
    """Where relative paths of the job start."""
    return Path((info.data or {}).get("folder") or Path.cwd())


class LoraSettings(Settings):
    """Low-rank adaptation (LoRA: Hu et al. 2021, arXiv 2106.09685; DoRA: Liu et al. 2024, arXiv 2402.09353)."""

    rank: int = Field(default=64, ge=1)
    alpha: int = Field(default=128, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: Annotated[tuple[str, ...], BeforeValidator(listed)] = ("all-linear",)


class StudentSettings(Settings):
    """The small model: a folder, a hub id, or a name of the catalog."""

    model: str
    revision: str | None = None
    head: Literal["auto", "text", "labels"] = Field(
        default="auto",
        description="text: it writes its answers; labels: a classification head gives each label of the task its probability; "
        "auto: labels where the model does not write (BERT, RoBERTa, DeBERTa, ModernBERT)",
    )
    adaptation: Literal["full", "lora", "dora", "qlora"] = Field(
        default="full",
        description="full: all weights; lora, dora: low-rank adapters, merged at the end and checked to say the same; qlora: "
        "adapters over 4-bit weights (pip install 'potstill[qlora]')",
    )
    lora: LoraSettings = LoraSettings()
    layers: int | tuple[int, ...] | None = Field(
        default=None,
        description="start with some of the model's layers only: how many, evenly spread with the first and the last, or their "
        "numbers from 1, such as [1, 2, 12]; default: all",
    )
    freeze_embeddings: bool = Field(default=False, description="leave the words' vectors, and a head tied to them, as they are")
    freeze_layers: int = Field(default=0, ge=0, description="leave the first layers as they are, so many")
    trust_remote_code: bool = Field(default=False, description="run code that comes with a checkpoint")
    max_length: int | None = Field(default=None, ge=16, description="longest row in tokens; default: the context, at most 2,048")

    @field_validator("layers", mode="before")
    @classmethod
    def _so_many_layers_or_rising_numbers(cls, value: Any) -> Any:
        given = value if isinstance(value, list | tuple) else [] if value is None else [value]
        if any(type(layer) is not int or layer < 1 for layer in given) or value in ([], ()):
            raise ValueError(f"{value!r} is neither a number of layers nor a list of their numbers, counted from 1")
        if any(here >= after for here, after in pairwise(given)):
            raise ValueError(f"{list(given)} names a layer twice, or not in order; write the numbers from first to last")
        return value

    def identity(self) -> dict[str, Any]:
        """The settings and the content of the model's folder: other weights at the same place are another student."""
        folder = Path(self.model)
        head = {"head": self.head} if self.head == "labels" else {}
        rare = {"freeze_embeddings", "freeze_layers", "layers"}
        frozen = {name: value for name, value in self.model_dump(mode="json", include=rare).items() if value}
        plain = self.model_dump(mode="json", exclude={"head", *rare})
        settings = {**plain, **head, **frozen}
        return {**settings, "content": folder_digest(folder) if folder.is_dir() else None}

    def with_head(self) -> StudentSettings:
        """The same with `auto` decided by the model's config.json; undecided where that is not on this machine yet."""
        config = stored_config(self.model, self.revision) if self.head == "auto" else None
        if config is None:
            return self
        return self.model_copy(update={"head": "text" if writes_text(config) else "labels"})


class OnPolicySettings(Settings):
    """The student's own answers, scored by the teacher as it learns (GKD: Agarwal et al. 2023, arXiv 2306.13649)."""

    share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="lambda: the chance that a row has the student's own answer in place of the given one",
    )
    cold_start: float = Field(
        default=0.5, ge=0, le=1, description="share of the run's steps that learn from the given answers alone, first"
    )
    temperature: float = Field(default=1.0, ge=0, description="of sampling; 0: always the likeliest word")
    top_p: float = Field(
        default=1.0, gt=0, le=1, description="sample among the likeliest words with so much probability together"
    )
    max_answer_tokens: int | None = Field(
        default=None, ge=1, description="longest own answer; it ends there without an end token. Default: the task's for students"
    )
    steps_at_once: int = Field(
        default=1, ge=1, description="steps whose own answers are sampled together: faster, from weights as many steps old"
    )


class TrainSettings(Settings):
    """The training of the student; the control gets the same with cross entropy alone."""

    losses: tuple[SerializeAsAny[Loss], ...] = Field(default=(), description="default: what the teacher's signals allow")
    signals: Literal["auto", "sampled", "top_k", "live"] = Field(
        default="auto",
        description="sampled, top_k: the teacher scores once, draws or its likeliest words are kept, and it leaves the memory; "
        "live: it stays, and every word counts (of several teachers the likeliest); auto: sampled where every loss takes draws "
        "and the teacher is on this machine and has the student's tokens, live with on_policy, else top_k",
    )
    draws: int = Field(default=50, ge=1, le=4096, description="words drawn for a token from the teacher's distribution")
    mix_by: Literal["weight", "confidence", "gold"] = Field(
        default="weight",
        description="how the distributions of several local teachers are mixed: by their weights alone; times how sure each is "
        "at a token; or times what each gives to the tokens of a gold answer",
    )
    top_k: int = Field(default=64, ge=1, le=65536, description="teacher log-probabilities kept for a token, beside the tail")
    temperature: float = Field(
        default=1.0,
        gt=0,
        description="distillation temperature T; gradients are multiplied by T^2; default: 1, with a head of labels 4",
    )
    final_temperature: float | None = Field(
        default=None, gt=0, description="the temperature at the end, reached linearly; for a live teacher; default: it stays"
    )
    ramp_share: float = Field(
        default=1.0, gt=0, le=1, description="share of the run's steps until final_temperature and each final_weight"
    )
    epochs: float = Field(default=3.0, gt=0)
    batch_size: int = Field(default=16, ge=1, description="examples in one optimiser step, over all processes")
    micro_batch_tokens: int = Field(default=4096, ge=16, description="positions in one forward pass; never changes the result")
    packing: bool = True
    curriculum: Literal["none", "length", "confidence"] = Field(
        default="none",
        description="none: rows in random order; length: short answers first; confidence: rows first whose answers the teacher "
        "is sure of (the entropy of its kept signals). The pool that rows are drawn from grows until it holds all",
    )
    curriculum_share: float = Field(
        default=0.5, gt=0, le=1, description="share of the run's steps after which a curriculum's pool holds all rows"
    )
    on_policy: OnPolicySettings | None = Field(
        default=None, description="learn from the student's own answers too, which the teacher scores; {} takes the defaults"
    )
    learning_rate: float | None = Field(
        default=None,
        gt=0,
        description="default: 2e-4 with LoRA; else by size, 1e-3 (with a head of labels 3e-4) below 20M to 1e-5 above 3B",
    )
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_share: float = Field(default=0.05, ge=0, lt=1)
    weight_decay: float = Field(default=0.01, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    gradient_checkpointing: bool = False
    validations: int = Field(
        default=4, ge=1, description="how often the validation loss and score are taken, evenly over the run"
    )
    validation_rows: int = Field(default=100, ge=1, description="rows generated for the validation score")
    patience: int = Field(
        default=3, ge=1, description="validations with neither a better score nor a lower loss before an early stop"
    )
    checkpoint_every: int | None = Field(default=None, ge=1, description="steps; default: at each validation")
    seed: int = 0

    def on_cells(self) -> tuple[Loss, ...]:
        """The losses that compare distributions over words."""
        return tuple(loss for loss in self.losses if Signal.TEXT < loss.needs < Signal.HIDDEN)

    @field_validator("losses", mode="before")
    @classmethod
    def _load(cls, value: Any, info: ValidationInfo) -> Any:
        return tuple(v if isinstance(v, Loss) else load_plugin("losses", v, job_folder(info)) for v in listed(value))


def own_answers_problem(settings: TrainSettings, teachers: Sequence[Teacher], *, chooses_labels: bool) -> str | None:
    """Why a job with `train.on_policy` cannot be; None where it can."""
    if settings.on_policy is None:
        return None
    if chooses_labels:
        return "train.on_policy samples the student's answers, and a student with a head of labels writes none; leave it out"
    away = [teacher.label for teacher in teachers if teacher.local_model() is None]
    if away:
        return (
            f"train.on_policy has the student's samples scored while it learns, and the teacher {away[0]!r} has no weights on "
            "this machine; take one that has, or leave train.on_policy out"
        )
    if settings.signals in ("sampled", "top_k"):
        return (
            f"train.signals is {settings.signals}, which is kept of given answers, and the samples of train.on_policy are new in "
            "each step; set train.signals to live or auto"
        )
    if settings.losses and all(loss.needs == Signal.TEXT for loss in settings.losses):
        return (
            "train.on_policy needs a loss on distributions, as the student's own text is not taught as text; add one to "
            "train.losses, such as reverse_kl or jensen_shannon"
        )
    return None


def default_learning_rate(num_parameters: int, adaptation: str, *, classifies: bool = False) -> float:
    """Published starting points (torchtune, KDFlow, NeMo RL, Automodel); small models bear, and need, more.

    Classifiers are less patient: 3e-4 for small encoders (Turc et al. 2019, arXiv 1908.08962), 5e-5 for BERT-base (Devlin et
    al. 2018, arXiv 1810.04805).
    """
    if adaptation != "full":
        return 2e-4
    steps = ((20e6, 3e-4), (200e6, 5e-5), (3e9, 2e-5)) if classifies else ((20e6, 1e-3), (200e6, 2e-4), (3e9, 2e-5))
    return next((rate for size, rate in steps if num_parameters < size), 1e-5)


def uses_bf16(precision: str, device: str, hidden_size: int) -> bool:
    """Whether products run in bf16; weights, optimizer and losses stay fp32."""
    if precision != "auto":
        return precision == "bf16"
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    has_products = bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return device == "cpu" and has_products and hidden_size >= WIDTH_WORTH_BF16


def rate_at(step: int, num_steps: int, settings: TrainSettings, peak: float) -> float:
    """The learning rate of step 0, 1, ...: linear warm-up, then the schedule down to zero."""
    warmup = max(1, round(settings.warmup_share * num_steps))
    if step < warmup:
        return peak * (step + 1) / warmup
    if settings.schedule == "constant":
        return peak
    done = (step - warmup) / max(1, num_steps - warmup)
    fall = 0.5 * (1 + math.cos(math.pi * done)) if settings.schedule == "cosine" else 1 - done
    return peak * fall
