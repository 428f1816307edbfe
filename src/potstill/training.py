"""The training loop: one for student, control and adapted teacher.

Each optimiser step takes `batch_size` rows of the epoch's shuffled order, runs them in micro-batches, and divides the
summed loss by the step's GLOBAL number of target tokens, each counted by its row's weight: accumulation, packing and
number of processes never change the result. A run killed at any step and resumed equals the unbroken one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .batches import Row
from .checkpoints import Checkpoint, load_newest, load_weights, save_checkpoint, save_weights
from .contracts import Loss
from .curriculum import paced
from .errors import JobError, JobFailedError
from .feeding import Feed, Shuffled
from .interrupts import deferred_interrupt
from .learner import Learner, make_classifier, make_learner, make_optimizer
from .objective import Objective, Signals, Softening
from .on_policy import OnPolicy, on_policy
from .passes import Passes, random_states_of, restore_random_states
from .progress import Progress
from .ramps import ramps_at
from .recipe import StudentSettings, TrainSettings, rate_at
from .runfolder import RunFolder, fingerprint
from .sharding import gathered, parted, parted_state, shard, wants_shards, whole
from .student import causal_model, save_model, stored_dtype
from .transfer import TeacherInsides
from .types import Score


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
    labels: tuple[str, ...] = ()
    """What a student with a classification head chooses from; () for one that writes."""
    told: str = ""
    """Names what teachers give to the labels of the rows, or whose insides they show, by content."""
    insides: TeacherInsides | None = None
    """The teacher that losses on layers compare with, in memory while the student learns."""

    def identity(self, learning_rate: float) -> str:
        """What a checkpoint must have been made with to be resumed."""
        losses = [loss.model_dump(mode="json") for loss in self.losses]
        settings = self.settings.model_dump(mode="json", exclude={"losses", "micro_batch_tokens", "packing", "checkpoint_every"})
        rows = [row.digest() if row.weight == 1.0 else [row.digest(), row.weight] for row in self.rows]
        parts = [self.role, self.student.identity(), settings, losses, rows, learning_rate, self.num_steps]
        return fingerprint(*parts, *([self.labels, self.told] if self.labels or self.told else []))


class Trained(NamedTuple):
    """How a training went."""

    steps: int
    best_step: int
    best_loss: float | None
    best_score: Score | None
    learning_rate: float
    stopped_early: bool


def train(training: Training) -> Trained:
    """Trains, keeps the best checkpoint, and writes the merged model into `training.out`."""
    return _Loop(training).run()


class _Loop:
    """The state of one training run."""

    def __init__(self, training: Training) -> None:
        self.t = training
        settings = training.settings
        self.accelerator = Accelerator()
        self.device = self.accelerator.device
        torch.manual_seed(settings.seed)
        self.learner = self._learner(self.device)
        self.objective = Objective(
            self.learner.model, self.learner.num_words, training.losses, settings.temperature,
            training.insides.model if training.insides else None, settings.seed,
        )  # fmt: skip
        packing = settings.packing and not training.labels and self._keeps_rows_apart()
        sharded = wants_shards(self.accelerator)
        if sharded:
            if settings.on_policy is not None or training.insides is not None:
                raise JobError("with weights split over processes (FSDP), train.on_policy and losses on layers are impossible; "
                               "launch without FSDP, or leave them out")  # fmt: skip
            if training.student.adaptation == "qlora":
                raise JobError("4-bit weights are not split over processes (FSDP); launch without FSDP, or set "
                               "student.adaptation to lora")  # fmt: skip
            shard(self.objective, self.learner.model, self.device)
        self.trained = {**self.learner.trained, **self.objective.own_parameters}
        optimizer = make_optimizer(self.trained.values(), self.learner.learning_rate, settings.weight_decay)
        self.module: Any = self.objective
        self.optimizer: Any = optimizer
        if not sharded:
            self.module, self.optimizer = self.accelerator.prepare(self.objective, optimizer)
        self.passes = Passes(
            self.accelerator, self.module, self.objective, settings.micro_batch_tokens, sharded,
            int(self.learner.tokenizer.pad_token_id), packing, self.learner.bf16, training.signals, training.insides,
            lambda message: self._event("note", message=f"{training.role}: {message}"),
        )  # fmt: skip
        self.feed: Feed = Shuffled(training.rows, settings.batch_size, settings.seed)
        self.num_steps = training.num_steps or max(1, math.ceil(settings.epochs * self.feed.steps_per_epoch))
        if settings.curriculum != "none":
            self.feed = paced(training.rows, settings, self.num_steps, training.signals)
        self.own: OnPolicy | None = None
        if settings.on_policy is not None:
            self.own = on_policy(self.feed, settings, self.num_steps, self.learner, training.student, self.accelerator)
            self.feed = self.own
        self.validate_every = max(1, math.ceil(self.num_steps / settings.validations))
        self.checkpoint_every = settings.checkpoint_every or self.validate_every
        self.home = training.folder.checkpoints / training.role
        self.identity = training.identity(self.learner.learning_rate)
        self.counters: dict[str, Any] = {"best": None, "lowest": None, "worse": 0, "seconds": 0.0}

    def _learner(self, device: torch.device) -> Learner:
        if self.t.labels:
            return make_classifier(self.t.student, self.t.settings, device, self.t.labels)
        return make_learner(self.t.student, self.t.settings, device)

    def _keeps_rows_apart(self) -> bool:
        """Whether student and teacher are blind to the other rows of a packed line; says so where they are not."""
        signals, transfer = self.t.signals, self.objective.transfer
        apart = self.learner.keeps_rows_apart and (signals is None or signals.takes_packed)
        apart = apart and (transfer is None or transfer.takes_packed)
        if not apart:
            self._event(
                "note", message=f"{self.t.role}: rows are not packed, because this architecture would let them see each other"
            )
        return apart

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
        started = time.perf_counter()
        rows = self.feed.rows_of(step)
        rate = rate_at(step, self.num_steps, self.t.settings, self.learner.learning_rate)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        ramped = self._ramp(step)
        self.module.train()
        loss = self.passes.gradients(rows, self._rows_after(step))
        norm = whole(nn.utils.clip_grad_norm_(self.trained.values(), self.t.settings.max_grad_norm))
        self.optimizer.step()
        seconds = time.perf_counter() - started
        self.counters["seconds"] += seconds
        value = float(self.accelerator.reduce(loss, "mean"))
        if not math.isfinite(value):
            raise JobFailedError(
                f"training the {self.t.role} diverged: the loss of step {step + 1} is {value}; lower the learning rate (it is "
                f"{self.learner.learning_rate:g}), or set train.precision to fp32"
            )
        tokens_per_s = sum(row.length for row in rows) / seconds
        self._event("step", step=step + 1, steps=self.num_steps, loss=value, learning_rate=rate, gradient_norm=float(norm),
                    tokens_per_s=round(tokens_per_s, 1), **ramped, **(self.own.told(rows) if self.own else {}))  # fmt: skip
        return f"loss {value:.3f}  {tokens_per_s:,.0f} tokens/s"

    def _rows_after(self, step: int) -> Sequence[Row]:
        """Of the next step; none where they depend on the weights."""
        return [] if self.own or step + 1 >= self.num_steps else self.feed.rows_of(step + 1)

    def _ramp(self, step: int) -> dict[str, Any]:
        """Sets the step's weights and temperature, and returns those that change over the run, for the log."""
        settings, losses = self.t.settings, self.t.losses
        ramps = ramps_at(step, self.num_steps, settings, losses)
        self.objective.take(ramps)
        if isinstance(self.t.signals, Softening):
            self.t.signals.soften(ramps.temperature)
        weights = {"weights": list(ramps.weights)} if any(loss.final_weight is not None for loss in losses) else {}
        return weights | ({} if settings.final_temperature is None else {"temperature": ramps.temperature})

    @torch.no_grad()
    def _validate(self, step: int) -> None:
        """Mean cross entropy of the validation targets, weighed as in training, and the task's score; keeps the best weights."""
        self.module.eval()
        loss = self._validation_loss()
        with gathered(self.objective):
            score = self.t.score(causal_model(self.learner.model), self.learner.tokenizer) if self.t.score else None
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
            weights = whole(self.trained)
            if self.accelerator.is_main_process:
                self.home.mkdir(parents=True, exist_ok=True)
                save_weights(self.home / "best.safetensors", weights)

    def _validation_loss(self) -> float | None:
        count = sum(row.weighed_targets for row in self.t.validation)
        return self.passes.text_loss(self.t.validation) / count if count else None

    def _save(self, step: int) -> None:
        if self.own:
            self.counters["own_answers"] = self.own.waiting(step)
        weights, optimizer = whole(self.trained), whole(self.optimizer.state_dict())
        if self.accelerator.is_main_process:
            checkpoint = Checkpoint(step, weights, optimizer, random_states_of(self.device), self.counters)
            save_checkpoint(self.home, checkpoint, self.identity)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> int:
        found = load_newest(self.home, self.identity, lambda message: self._event("note", message=message))
        if found is None:
            return 0
        _load(self.trained, found.weights)
        self.optimizer.load_state_dict(parted_state(found.optimizer, self.optimizer))
        restore_random_states(found.random_states)
        self.counters = found.counters
        if self.own:
            self.own.restore(found.counters["own_answers"])
        self._event("note", message=f"{self.t.role}: resumed at step {found.step} of {self.num_steps}")
        return found.step

    def _finish(self, step: int, stopped_early: bool) -> Trained:
        best = self.counters["best"]
        self.accelerator.wait_for_everyone()  # the main process may still be writing the best weights
        if self.accelerator.is_main_process:
            learner, student = self.learner, self.t.student
            if self.passes.sharded:
                learner = self._learner(torch.device("cpu"))
            _load(learner.trained, load_weights(self.home / "best.safetensors"))
            dtype = stored_dtype(student.model, revision=student.revision, trust_remote_code=student.trust_remote_code)
            save_model(learner.model, learner.tokenizer, self.t.out, dtype)
        self.accelerator.wait_for_everyone()
        self.accelerator.free_memory()
        score = Score(**best["score"]) if best["score"] else None
        done = Trained(step, best["step"], best["loss"], score, self.learner.learning_rate, stopped_early)
        seconds = round(self.counters["seconds"], 1)
        self._event("trained", steps=step, best_step=done.best_step, stopped_early=stopped_early, seconds=seconds,
                    learning_rate=self.learner.learning_rate, bf16=self.learner.bf16)  # fmt: skip
        return done

    def _event(self, event: str, **fields: Any) -> None:
        if self.accelerator.is_main_process:
            self.t.folder.event(event, role=self.t.role, **fields)


@torch.no_grad()
def _load(trained: Mapping[str, nn.Parameter], weights: Mapping[str, torch.Tensor]) -> None:
    for name, parameter in trained.items():
        parameter.copy_(parted(weights[name], parameter))


def _rank(found: dict[str, Any]) -> tuple[float, float]:
    """The task's score first; a lower loss decides between equals (it does not predict accuracy)."""
    return (found["score"]["value"] if found["score"] else 0.0, found["step"] if found["loss"] is None else -found["loss"])
