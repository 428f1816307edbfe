"""The training loop: one for student, control and adapted teacher.

Each optimiser step takes `batch_size` rows of the epoch's shuffled order, runs them in micro-batches, and divides the
summed loss by the step's GLOBAL number of target tokens, each counted by its row's weight: accumulation, packing and
number of processes never change the result. A run killed at any step and resumed equals the unbroken one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .batches import Batch, Row, make_batches, numbers_of_step
from .checkpoints import Checkpoint, load_newest, load_weights, save_checkpoint, save_weights
from .contracts import Loss
from .errors import JobFailedError
from .interrupts import deferred_interrupt
from .kernels.cells import Cells, Term, cell_losses, target_loss, text_cells
from .progress import Progress
from .recipe import StudentSettings, TrainSettings, default_learning_rate, rate_at, uses_bf16
from .rendering import load_tokenizer
from .runfolder import RunFolder, fingerprint
from .student import (
    LoraShape,
    add_lora,
    causal_model,
    count_parameters,
    head_of,
    hidden_states,
    keeps_packed_rows_apart,
    load_model,
    save_model,
    stored_dtype,
)
from .types import Score, Signal

BETAS = (0.9, 0.95)
"""Language models' usual ones: 0.999 remembers a thousand steps, which is longer than most distillations last."""


class Signals(Protocol):
    """Where the teacher's log-probabilities of a batch come from: the disk, or a live teacher."""

    takes_packed: bool

    def cells(self, batch: Batch, rows: Sequence[Row]) -> Cells: ...


class ScoreModel(Protocol):
    """Scores the model in training on validation rows."""

    def __call__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Score | None: ...


@dataclass(frozen=True)
class Training:
    """All that one training needs. `role` names its events and checkpoints: student, control or teacher."""

    role: str
    student: StudentSettings
    settings: TrainSettings
    losses: tuple[Loss, ...]
    rows: Sequence[Row]
    validation: Sequence[Row]
    folder: RunFolder
    out: Path
    signals: Signals | None = None
    score: ScoreModel | None = None
    num_steps: int | None = None
    """Optimiser steps, where not the epochs decide: the control takes as many as the student."""

    def identity(self, learning_rate: float) -> str:
        """What a checkpoint must have been made with to be resumed."""
        losses = [loss.model_dump(mode="json") for loss in self.losses]
        settings = self.settings.model_dump(mode="json", exclude={"losses", "micro_batch_tokens", "packing", "checkpoint_every"})
        rows = [row.digest() if row.weight == 1.0 else [row.digest(), row.weight] for row in self.rows]
        return fingerprint(self.role, self.student.identity(), settings, losses, rows, learning_rate, self.num_steps)


class Trained(NamedTuple):
    """How a training went."""

    steps: int
    best_step: int
    best_loss: float | None
    best_score: Score | None
    learning_rate: float
    stopped_early: bool


class _Module(nn.Module):
    """Model and losses as one module, so that a data-parallel wrapper sees the whole step."""

    def __init__(self, model: PreTrainedModel, num_words: int, losses: Sequence[Loss], temperature: float) -> None:
        super().__init__()
        self.model = model
        self.num_words = num_words
        self.losses = losses
        self.temperature = temperature

    def forward(self, batch: Batch, cells: Cells | None) -> tuple[torch.Tensor, torch.Tensor]:
        """The weighted sum over the batch's target tokens, and each loss's own sum."""
        head = head_of(self.model, self.num_words)
        hidden_BTH = hidden_states(self.model, batch.input_ids_BT, batch.position_ids_BT)
        hidden_NH = hidden_BTH.flatten(0, 1).index_select(0, batch.at_N)
        return cell_losses(hidden_NH, head, [self._term(loss, batch, cells) for loss in self.losses])

    def _term(self, loss: Loss, batch: Batch, cells: Cells | None) -> Term:
        if loss.needs == Signal.TEXT:
            return Term(loss.formula, text_cells(batch.target_N), loss.weight, 1.0, batch.weight_N)
        assert cells is not None
        return Term(loss.formula, cells, loss.weight, self.temperature, batch.weight_N)


def train(training: Training) -> Trained:
    """Trains, keeps the best checkpoint, and writes the merged model into `training.out`."""
    return _Loop(training).run()


class _Loop:
    """The state of one training run."""

    def __init__(self, training: Training) -> None:
        self.t = training
        settings, student = training.settings, training.student
        self.accelerator = Accelerator()
        torch.manual_seed(settings.seed)
        self.tokenizer = load_tokenizer(student.model, revision=student.revision, trust_remote_code=student.trust_remote_code)
        self.device = self.accelerator.device
        model = load_model(
            student.model,
            revision=student.revision,
            trust_remote_code=student.trust_remote_code,
            device=str(self.device),
            dtype=torch.float32,
        )
        self.learning_rate = settings.learning_rate or default_learning_rate(count_parameters(model), student.adaptation)
        self.packing = self._packs(model)
        self.bf16 = uses_bf16(settings.precision, self.device.type, model.config.get_text_config().hidden_size)
        if settings.gradient_checkpointing:
            enable: Any = model.gradient_checkpointing_enable
            enable()
        if student.adaptation == "lora":
            model = add_lora(model, LoraShape(**student.lora.model_dump()))
        self.num_words = max(self.tokenizer.get_vocab().values()) + 1
        module = _Module(model, self.num_words, training.losses, settings.temperature)
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.model = model
        optimizer = torch.optim.AdamW(
            _groups(self.trained, settings.weight_decay), lr=self.learning_rate, betas=BETAS, fused=True
        )
        self.module, self.optimizer = self.accelerator.prepare(module, optimizer)
        steps_per_epoch = math.ceil(len(training.rows) / settings.batch_size)
        self.num_steps = training.num_steps or max(1, math.ceil(settings.epochs * steps_per_epoch))
        self.validate_every = max(1, math.ceil(self.num_steps / settings.validations))
        self.checkpoint_every = settings.checkpoint_every or self.validate_every
        self.home = training.folder.checkpoints / training.role
        self.identity = training.identity(self.learning_rate)
        self.counters: dict[str, Any] = {"best": None, "lowest": None, "worse": 0, "seconds": 0.0}

    def _packs(self, model: PreTrainedModel) -> bool:
        """Packing as the job says, but for architectures that would mix the rows of a line."""
        takes = self.t.signals is None or self.t.signals.takes_packed
        if not self.t.settings.packing or (takes and keeps_packed_rows_apart(model)):
            return self.t.settings.packing
        self._event(
            "note", message=f"{self.t.role}: rows are not packed, because this architecture would let them see each other"
        )
        return False

    def run(self) -> Trained:
        start = self._resume()
        stopped_early = self.counters["worse"] >= self.t.settings.patience
        told = self.t.folder if self.accelerator.is_main_process else None  # one process speaks for all
        with Progress(told, f"train {self.t.role}", self.num_steps) as bar, deferred_interrupt() as interrupted:
            bar.advance(start)
            step = start
            while step < self.num_steps and not stopped_early:
                note = self._step(step)
                step += 1
                bar.advance(1, note=note)
                if step % self.validate_every == 0 or step == self.num_steps:
                    self._validate(step)
                    stopped_early = self.counters["worse"] >= self.t.settings.patience
                if step % self.checkpoint_every == 0 or stopped_early or interrupted.is_set():
                    self._save(step)
                if interrupted.is_set():
                    raise KeyboardInterrupt
        return self._finish(step, stopped_early)

    def _step(self, step: int) -> str:
        settings, started = self.t.settings, time.perf_counter()
        numbers = numbers_of_step(step, len(self.t.rows), settings.batch_size, settings.seed)
        num_targets = sum(self.t.rows[number].weighed_targets for number in numbers)
        own = numbers[self.accelerator.process_index :: self.accelerator.num_processes]
        # A process without rows of its own still joins the gradient exchange, with a share of nothing.
        batches = self._batches(self.t.rows, own or numbers[:1])
        share = self.accelerator.num_processes / num_targets if own else 0.0
        rate = rate_at(step, self.num_steps, settings, self.learning_rate)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.module.train()
        self.optimizer.zero_grad()
        loss = torch.zeros((), device=self.device)
        for number, batch in enumerate(batches):
            last = number == len(batches) - 1
            sync: AbstractContextManager[None] = nullcontext() if last else self.accelerator.no_sync(self.module)
            with sync:
                total, _ = self._forward(batch)
                self.accelerator.backward(total * share)
            loss += total.detach() * share
        norm = self.accelerator.clip_grad_norm_(self.trained.values(), settings.max_grad_norm)
        self.optimizer.step()
        seconds = time.perf_counter() - started
        self.counters["seconds"] += seconds
        value = float(self.accelerator.reduce(loss, "mean"))
        if not math.isfinite(value):
            raise JobFailedError(
                f"training the {self.t.role} diverged: the loss of step {step + 1} is {value}; lower the learning rate (it is "
                f"{self.learning_rate:g}), or set train.precision to fp32"
            )
        tokens_per_s = sum(self.t.rows[number].length for number in numbers) / seconds
        self._event("step", step=step + 1, steps=self.num_steps, loss=value, learning_rate=rate, gradient_norm=float(norm),
                    tokens_per_s=round(tokens_per_s, 1))  # fmt: skip
        return f"loss {value:.3f}  {tokens_per_s:,.0f} tokens/s"

    def _batches(self, rows: Sequence[Row], numbers: Sequence[int]) -> list[Batch]:
        settings = self.t.settings
        pad_id = int(self.tokenizer.pad_token_id)
        return make_batches(rows, numbers, token_budget=settings.micro_batch_tokens, packing=self.packing, pad_id=pad_id)

    def _forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        cells = None if self.t.signals is None else self.t.signals.cells(batch, self.t.rows)
        if cells is not None:
            cells = Cells(cells.index_NK.to(self.device), cells.logp_NK.to(self.device))
        with self._autocast():
            result: tuple[torch.Tensor, torch.Tensor] = self.module(batch.to(self.device), cells)
        return result

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    @torch.no_grad()
    def _validate(self, step: int) -> None:
        """Mean cross entropy of the validation targets, weighed as in training, and the task's score; keeps the best weights."""
        self.module.eval()
        loss = self._validation_loss()
        score = self.t.score(causal_model(self.model), self.tokenizer) if self.t.score else None
        self._event("validation", step=step, loss=loss, score=score.value if score else None, n=score.n if score else 0)
        found = {"step": step, "loss": loss, "score": score.as_dict() if score else None}
        best, lowest = self.counters["best"], self.counters["lowest"]
        is_best = best is None or _rank(found) > _rank(best)
        is_lowest = loss is not None and (lowest is None or loss < lowest)
        self.counters["worse"] = 0 if is_best or is_lowest else self.counters["worse"] + 1
        if is_lowest:
            self.counters["lowest"] = loss
        if is_best:
            self.counters["best"] = found
            if self.accelerator.is_main_process:
                self.home.mkdir(parents=True, exist_ok=True)
                save_weights(self.home / "best.safetensors", self.trained)

    def _validation_loss(self) -> float | None:
        head = head_of(self.model, self.num_words)
        total, count = 0.0, 0.0
        for batch in self._batches(self.t.validation, range(len(self.t.validation))):
            moved = batch.to(self.device)
            with self._autocast():
                hidden_BTH = hidden_states(self.model, moved.input_ids_BT, moved.position_ids_BT)
            hidden_NH = hidden_BTH.flatten(0, 1)[moved.at_N]
            term = Term(target_loss, text_cells(moved.target_N), 1.0, 1.0, moved.weight_N)
            total += float(cell_losses(hidden_NH, head, [term])[0])
            count += sum(self.t.validation[number].weighed_targets for number in batch.numbers)
        return total / count if count else None

    def _save(self, step: int) -> None:
        if self.accelerator.is_main_process:
            checkpoint = Checkpoint(step, dict(self.trained), self.optimizer.state_dict(), torch.get_rng_state(), self.counters)
            save_checkpoint(self.home, checkpoint, self.identity)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> int:
        found = load_newest(self.home, self.identity, lambda message: self._event("note", message=message))
        if found is None:
            return 0
        self._load(found.weights)
        self.optimizer.load_state_dict(found.optimizer)
        torch.set_rng_state(found.random_state)
        self.counters = found.counters
        self._event("note", message=f"{self.t.role}: resumed at step {found.step} of {self.num_steps}")
        return found.step

    def _load(self, weights: Mapping[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(weights[name])

    def _finish(self, step: int, stopped_early: bool) -> Trained:
        best = self.counters["best"]
        self.accelerator.wait_for_everyone()  # the main process may still be writing the best weights
        self._load(load_weights(self.home / "best.safetensors"))
        if self.accelerator.is_main_process:
            student = self.t.student
            dtype = stored_dtype(student.model, revision=student.revision, trust_remote_code=student.trust_remote_code)
            save_model(self.model, self.tokenizer, self.t.out, dtype)
        self.accelerator.wait_for_everyone()
        self.accelerator.free_memory()
        score = Score(**best["score"]) if best["score"] else None
        done = Trained(step, best["step"], best["loss"], score, self.learning_rate, stopped_early)
        seconds = round(self.counters["seconds"], 1)
        self._event("trained", steps=step, best_step=done.best_step, stopped_early=stopped_early, seconds=seconds,
                    learning_rate=self.learning_rate, bf16=self.bf16)  # fmt: skip
        return done

    def _event(self, event: str, **fields: Any) -> None:
        if self.accelerator.is_main_process:
            self.t.folder.event(event, role=self.t.role, **fields)


def _rank(found: dict[str, Any]) -> tuple[float, float]:
    """The task's score first; a lower loss decides between equals (it does not predict accuracy)."""
    return (found["score"]["value"] if found["score"] else 0.0, found["step"] if found["loss"] is None else -found["loss"])


def _groups(parameters: dict[str, nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; norms and biases do not."""
    matrices = [p for p in parameters.values() if p.dim() >= 2]
    vectors = [p for p in parameters.values() if p.dim() < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
