"""A student with tokens of its own beside a teacher's: how the tokens lie, what of the teacher's probability reaches words of the
student, what laying them beside each other costs, and what it teaches.

    python benchmarks/crossing.py [--task conversation] [--rows 300] [--steps 300] [--words 1000] [--seeds 1]

The teacher is the starter pack's. The student is a small Llama with random weights and a byte-level BPE of so many words, trained
on the rows' texts. It learns gold texts, as many steps with each objective; what is compared is the cross entropy of held-out
texts, in nats a byte.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from potstill.aligned_signals import AlignedSignals
from potstill.batches import Row, make_batches
from potstill.crossing import aligned_signals
from potstill.job import Job
from potstill.pupil import pupil_of
from potstill.runfolder import RunFolder
from potstill.starter import model_path, rows
from potstill.training import Training, train
from potstill.types import Example, Lesson, Message

TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
OBJECTIVES: dict[str, list[Any]] = {
    "cross entropy": ["cross_entropy"],
    "0.25 cross entropy + 0.75 forward KL": [{"kind": "cross_entropy", "weight": 0.25}, {"kind": "forward_kl", "weight": 0.75}],
    "0.25 cross entropy + 0.75 universal": [
        {"kind": "cross_entropy", "weight": 0.25},
        {"kind": "universal_logit", "weight": 0.75},
    ],
}


def save_student(folder: Path, texts: Sequence[str], num_words: int, seed: int) -> Path:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    trainer = trainers.BpeTrainer(vocab_size=num_words, special_tokens=special, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>")
    wrapped.chat_template = TEMPLATE
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(wrapped), hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=wrapped.eos_token_id, pad_token_id=wrapped.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return folder


def lessons_of(task: str, split: str, count: int) -> list[Lesson]:
    found = []
    for number, row in enumerate(rows(task, split, count)):
        *asked, answer = (Message(one["role"], one["content"]) for one in row["messages"])
        found.append(Lesson(Example(f"{split} {number}", tuple(asked)), answer.content, "gold"))
    return found


def how_they_lie(console: Console, signals: AlignedSignals, learned: Sequence[Row]) -> None:
    batch = make_batches(learned, range(len(learned)), token_budget=2**14, packing=True, pad_id=0)[0]
    started = time.process_time()
    told = signals.cells(batch, learned)
    seconds = time.process_time() - started
    starts_N = torch.diff(told.span_N, prepend=torch.tensor([-1])) != 0
    sizes_G = torch.bincount(told.span_N)
    reached_N, named_N = (logp.double().exp().sum(dim=1) for logp in (told.cells.logp_NK, told.ranks_NK))
    is_word_N = starts_N & ((told.cells.index_NK >= 0).sum(dim=1) > 1)
    console.print(
        f"{len(told.span_N):,} tokens of the student in {len(sizes_G):,} groups, {float((sizes_G == 1).double().mean()):.0%} of "
        f"them of one; of the {float(named_N[is_word_N].mean()):.4f} that the teacher gives to its likeliest words, "
        f"{float(reached_N[is_word_N].mean()):.4f} reach a word of the student; {1e6 * seconds / len(told.span_N):.1f} "
        "CPU-microseconds a token to lay them out"
    )


def held_out_loss(training: Training, num_bytes: int) -> tuple[float, float]:
    """Nats a byte of the best checkpoint, and CPU seconds."""
    started = time.process_time()
    trained = train(training)
    assert trained.best_loss is not None
    return trained.best_loss * sum(len(row.answer) for row in training.validation) / num_bytes, time.process_time() - started


def measure(console: Console, home: Path, arguments: argparse.Namespace) -> None:
    lessons, held_out = (lessons_of(arguments.task, split, count) for split, count in
                         (("train", arguments.rows), ("validation", 100)))  # fmt: skip
    texts = [text for one in lessons for text in (one.target, *(message.content for message in one.example.messages))]
    num_bytes = sum(len(one.target.encode()) for one in held_out)
    table = Table("objective", "nats a byte, each seed", "CPU seconds")
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in OBJECTIVES}
    for seed in range(arguments.seeds):
        student = save_student(home / f"student-{seed}", texts, arguments.words, seed)
        for name, losses in OBJECTIVES.items():
            settings = {"losses": losses, "seed": seed, "validations": 6, "patience": 6, "learning_rate": 2e-3}
            job = Job(folder=home, name=f"{name.replace(' ', '-').replace('+', 'and')}-{seed}", task=arguments.task, data="x",
                      teacher={"kind": "huggingface", "model": str(model_path("starter-teacher"))}, student=str(student),
                      train=settings)  # fmt: skip
            pupil, run = pupil_of(job), RunFolder(job.run_path)
            learned, tested = pupil.encode(lessons).rows, pupil.encode(held_out).rows
            signals = aligned_signals(job, run, pupil, lessons, learned) if len(losses) > 1 else None
            if signals is not None and seed == 0 and "forward" in name:
                how_they_lie(console, signals, learned)
            training = Training("student", job.student, job.train, job.train.losses, learned, tested, run, run.model, signals,
                                num_steps=arguments.steps)  # fmt: skip
            found[name].append(held_out_loss(training, num_bytes))
    for name, results in found.items():
        seconds = np.mean([one[1] for one in results])
        table.add_row(name, ", ".join(f"{one[0]:.4f}" for one in results), f"{seconds:.0f}")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="conversation")
    for name, default in (("rows", 300), ("steps", 300), ("words", 1000), ("seeds", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    with TemporaryDirectory() as home:
        measure(Console(width=140), Path(home), arguments)


if __name__ == "__main__":
    main()
