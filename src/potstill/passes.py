"""A step's gradients, micro-batch by micro-batch, in the memory that there is.

When memory runs out, the micro-batch is halved and the step begins anew: the rows of a step, and so the result, stay the same.
With several processes all halve together, so the gradients are exchanged only when every process has its own. Where weights are
split over the processes (`sharding.py`), each pass gathers them and gives each process its part of the gradients: there every
process makes as many passes as the others, and memory that runs out ends the run.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from torch import nn

from .batches import Batch, Row, make_batches
from .errors import JobFailedError
from .freed_memory import FreedMemory
from .objective import Objective, Signals, Told
from .prefetch import Prefetch
from .transfer import TeacherInsides

Result = TypeVar("Result")
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
"""What RuntimeErrors of devices without an exception of their own say (CPU, MPS)."""


@dataclass
class Passes:
    """Forward and backward passes over rows. `token_budget`, the positions of one micro-batch, falls when memory runs out;
    `say` hears of it."""

    accelerator: Accelerator
    module: nn.Module
    objective: Objective
    token_budget: int
    sharded: bool
    pad_id: int
    packing: bool
    bf16: bool
    signals: Signals | None
    insides: TeacherInsides | None
    say: Callable[[str], None]
    freed: FreedMemory = field(default_factory=FreedMemory)

    def __post_init__(self) -> None:
        self._ahead = Prefetch(self._laid_out)

    def gradients(self, rows: Sequence[Row], coming: Sequence[Row] = ()) -> torch.Tensor:
        """Leaves the step's gradients in the parameters, and returns the loss of this process's share. The batches of the rows
        that come next, where they are known, are made ready meanwhile."""
        num_targets = sum(row.weighed_targets for row in rows)
        own = self._own(rows)
        share = self.accelerator.num_processes / num_targets

        def learn() -> torch.Tensor:
            self.module.zero_grad()
            loss = torch.zeros((), device=self.accelerator.device)
            passes = self._ahead.take(own, self.token_budget)
            if coming:
                self._ahead.begin(self._own(coming), self.token_budget)
            num_idle = self._most(len(passes)) - len(passes) if self.sharded else 0
            for batch, told in passes:
                loss += self._pass(batch, told or self._ask(batch, own), share)
            for _ in range(num_idle):
                ((batch, told),) = self._laid_out(rows[:1], self.token_budget)
                self._pass(batch, told or self._ask(batch, rows[:1]), 0.0)
            return loss

        loss = self._in_memory(learn, own)
        if not self.sharded:
            self._exchange()
        if self.accelerator.device.type == "cpu":
            self.freed.give_back()
        return loss

    def _own(self, rows: Sequence[Row]) -> Sequence[Row]:
        return rows[self.accelerator.process_index :: self.accelerator.num_processes]

    def _laid_out(self, rows: Sequence[Row], token_budget: int) -> list[tuple[Batch, Told | None]]:
        """The rows' batches, each with its signals where they are on the disk and all that is asked for."""
        is_read = getattr(self.signals, "on_disk", False) and self.objective.transfer is None
        batches = make_batches(rows, range(len(rows)), token_budget=token_budget, packing=self.packing, pad_id=self.pad_id)
        return [(batch, self._ask(batch, rows) if is_read else None) for batch in batches]

    def _ask(self, batch: Batch, rows: Sequence[Row]) -> Told | None:
        return self.objective.ask(batch, rows, self.signals, self.insides)

    def _pass(self, batch: Batch, told: Told | None, share: float) -> torch.Tensor:
        """One forward and backward pass; `share` of its loss."""
        with contextlib.nullcontext() if self.sharded else self.accelerator.no_sync(self.module):
            device = self.accelerator.device
            with self.autocast():
                total: torch.Tensor = self.module(batch.to(device), told and told.to(device))[0]
            self.accelerator.backward(total * share)
        return total.detach() * share

    def text_loss(self, rows: Sequence[Row]) -> float:
        """The summed cross entropy of the rows' targets, each by its weight."""

        def score() -> float:
            total = 0.0
            for batch in self._batches(rows):
                with self.autocast():
                    total += float(self.objective.text_loss(batch.to(self.accelerator.device)))
            return total

        return self._in_memory(score, rows)

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.accelerator.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    def _batches(self, rows: Sequence[Row]) -> list[Batch]:
        return make_batches(rows, range(len(rows)), token_budget=self.token_budget, packing=self.packing, pad_id=self.pad_id)

    def _in_memory(self, work: Callable[[], Result], rows: Sequence[Row]) -> Result:
        """The work's result; every time that it runs out of memory, here or in another process, the micro-batch is halved."""
        random_states = random_states_of(self.accelerator.device)
        while True:
            result, fault = None, ""
            try:
                result = work()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                fault = str(error).splitlines()[0] if str(error) else "out of memory"
                if self.sharded:  # the others wait for this process in the middle of a pass
                    raise JobFailedError(
                        f"memory ran out ({fault}) with micro-batches of {self.token_budget:,} positions and weights split over "
                        f"{self.accelerator.num_processes} processes; lower train.micro_batch_tokens, or set "
                        f"train.gradient_checkpointing: true"
                    ) from None
            if not self._any_process(bool(fault)):
                assert result is not None
                return result
            self._halve(rows, fault)
            restore_random_states(random_states)

    def _halve(self, rows: Sequence[Row], fault: str) -> None:
        """After a fault here or, where there is none, in another process; raises JobFailedError when no half is left."""
        longest = max((row.length for row in rows), default=0)
        used = max((batch.input_ids_BT.numel() for batch in self._batches(rows)), default=0)
        if self._any_process(bool(fault) and used <= longest):
            raise JobFailedError(
                f"memory ran out on one row of {longest:,} tokens ({fault or 'in another process'}); set "
                f"train.gradient_checkpointing: true, lower student.max_length, use student.adaptation: lora, or a machine "
                f"with more memory"
            )
        self.module.zero_grad()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        before = self.token_budget
        if fault:
            self.token_budget = max(longest, min(before, used) // 2)
        self.say(
            f"memory ran out ({fault or 'in another process'}) with micro-batches of {before:,} positions; they are now "
            f"{self.token_budget:,}, with the same rows in each step (train.micro_batch_tokens)"
        )

    def _any_process(self, here: bool) -> bool:
        if self.accelerator.num_processes == 1:
            return here
        flag = torch.tensor(float(here), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum") > 0)

    def _most(self, here: int) -> int:
        numbers = torch.tensor([float(here)], device=self.accelerator.device)
        return int(self.accelerator.gather(numbers).max())

    def _exchange(self) -> None:
        """The mean of all processes' gradients; one without rows of its own gives zeros."""
        if self.accelerator.num_processes == 1:
            return
        parameters = [p for p in self.module.parameters() if p.requires_grad]
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        pending = [torch.distributed.all_reduce(p.grad, async_op=True) for p in parameters]
        for work in pending:
            work.wait()
        for parameter in parameters:
            assert parameter.grad is not None
            parameter.grad /= self.accelerator.num_processes


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch says that no memory was left."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(words in str(error).lower() for words in OUT_OF_MEMORY)


def random_states_of(device: torch.device) -> dict[str, torch.Tensor]:
    """The random generators that dropout draws from."""
    states = {"cpu": torch.get_rng_state()}
    return {**states, "cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else states


def restore_random_states(states: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])
