"""Other trainers' cases of steps.py, one in a process of its own, in an environment with trl (1.16) and datasets.

PYTHON benchmarks/step_peers.py "C5 Trainer's defaults" --folder MODEL --targets 511 --threads 1 --repeats 5
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from step_models import LENGTH, ROWS, Memory, config_vocabulary, device, ids_of, options_of, random_model, timed
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments
from trl import DistillationConfig, DistillationTrainer, SFTConfig, SFTTrainer

PROMPT = "w7 " * 200


def labelled(vocabulary: int, targets: int) -> list[dict[str, list[int]]]:
    found = []
    for ids in ids_of(vocabulary, ROWS).tolist():
        found.append({"input_ids": ids, "labels": [-100] * (LENGTH - targets) + ids[-targets:]})
    return found


class Clock(TrainerCallback):  # type: ignore[misc]
    """Seconds of each of Trainer's steps."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.cpu: list[float] = []

    def on_step_begin(self, *args: Any, **named: Any) -> None:
        del args, named
        self.started = time.perf_counter(), time.process_time()

    def on_step_end(self, *args: Any, **named: Any) -> None:
        del args, named
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self.started[0])
        self.cpu.append(time.process_time() - self.started[1])


def trainer_result(trainer: Any, clock: Clock, memory: Memory, tokens: int) -> dict[str, Any]:
    trainer.train()
    loss = next((float(line["loss"]) for line in trainer.state.log_history if "loss" in line), None)
    return {"seconds": clock.seconds[1:], "cpu": clock.cpu[1:], "tokens": tokens, "loss": loss, "memory_mb": memory.megabytes()}


def trainer_step(folder: Path, targets: int, repeats: int) -> dict[str, Any]:
    """transformers' Trainer as it comes, but for the number of rows and what it writes."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    clock, memory = Clock(), Memory()
    with tempfile.TemporaryDirectory() as place:
        arguments = TrainingArguments(place, per_device_train_batch_size=ROWS, max_steps=repeats + 1, save_strategy="no",
                                      logging_steps=1, report_to=[], disable_tqdm=True, dataloader_pin_memory=False)  # fmt: skip
        data: Any = [{name: torch.tensor(ids) for name, ids in row.items()} for row in labelled(model.config.vocab_size, targets)]
        trainer = Trainer(model, arguments, train_dataset=data, callbacks=[clock])
        return trainer_result(trainer, clock, memory, ROWS * LENGTH)


def hand_set_step(folder: Path, targets: int, repeats: int, autocast: bool) -> dict[str, Any]:
    """The plain loop, as one would write it for speed."""
    dtype = torch.float32 if autocast else torch.bfloat16
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).train()
    rows = labelled(model.config.vocab_size, targets)
    ids_BT, labels_BT = (torch.tensor([row[name] for row in rows]) for name in ("input_ids", "labels"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, fused=True)

    def once(step: int) -> float:
        del step
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss: torch.Tensor = model(input_ids=ids_BT, labels=labels_BT).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return timed(once, repeats, ROWS * LENGTH)


def trl_sft(folder: Path, targets: int, repeats: int) -> dict[str, Any]:
    """TRL's SFTTrainer in bf16, on the same token ids."""

    rows = [{"input_ids": ids, "completion_mask": [0] * (LENGTH - targets) + [1] * targets}
            for ids in ids_of(config_vocabulary(folder), ROWS * (repeats + 1)).tolist()]  # fmt: skip
    clock, memory = Clock(), Memory()
    with tempfile.TemporaryDirectory() as place:
        arguments = SFTConfig(place, max_steps=repeats + 1, bf16=torch.cuda.is_available(), max_length=LENGTH, **of_trl())
        trainer = SFTTrainer(str(folder), args=arguments, train_dataset=Dataset.from_list(rows), callbacks=[clock])
        return trainer_result(trainer, clock, memory, ROWS * LENGTH)


def trl_distillation(folder: Path, size: str, targets: int, repeats: int) -> dict[str, Any]:
    """TRL 1.16's DistillationTrainer, whose student always writes the answers itself: its step has that generation in it."""

    teacher = random_model("tiny" if size == "tiny" else "8B", torch.bfloat16)
    clock, memory = Clock(), Memory()
    with tempfile.TemporaryDirectory() as place:
        arguments = DistillationConfig(place, max_steps=repeats + 1, bf16=torch.cuda.is_available(),
                                       max_completion_length=targets, **of_trl())  # fmt: skip
        data = Dataset.from_list([{"prompt": PROMPT}] * ROWS * (repeats + 1))
        trainer = DistillationTrainer(str(folder), teacher, arguments, train_dataset=data, callbacks=[clock])
        return trainer_result(trainer, clock, memory, ROWS * LENGTH)


def of_trl() -> dict[str, Any]:
    return {"per_device_train_batch_size": ROWS, "gradient_accumulation_steps": 1, "save_strategy": "no", "report_to": [],
            "logging_steps": 1, "disable_tqdm": True}  # fmt: skip


def found_of(options: argparse.Namespace) -> dict[str, Any]:
    name, folder, targets, repeats = options.case.partition(" ")[2], options.folder, options.targets, options.repeats
    if name == "TRL SFT":
        return trl_sft(folder, targets, repeats)
    if name.startswith("TRL"):
        return trl_distillation(folder, options.size, targets, repeats)
    if name.startswith("Trainer"):
        return trainer_step(folder, targets, repeats)
    return hand_set_step(folder, targets, repeats, autocast=name.startswith("autocast"))


def main() -> None:
    options = options_of(__doc__)
    print(json.dumps({**found_of(options), "device": device()}))


if __name__ == "__main__":
    main()
