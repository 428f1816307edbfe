"""Kept signals: bytes a token beside what information theory allows, codec speed beside DistillKit's, and how far the gradient
of each kind of signal is from that of the teacher's whole distribution.

    python benchmarks/signals.py [--teacher FOLDER --student FOLDER --data train.jsonl ...] [--distillkit FOLDER]

Made teacher: 151,936 words whose frequencies fall as 1 / rank, each token's distribution one of its own around them, so sharp
that 50 draws find about 12 words. A real teacher: a model of this machine that scores the last message of each row of
files of `messages`, such as the quickstart's (see docs/log.md). All bytes of a store count: data, index, code.

Floors, in bytes a token: "sets" knows nothing of the words, log2 of the ways to choose so many of the vocabulary and to share
the draws among them; "words" knows how often each word is drawn over all tokens; "teacher" knows the teacher's distribution of
each token, as only the teacher does. Angles are between gradients of the student's output rows, summed over the batch.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from potstill.batches import Row, Sample, encode, make_batches
from potstill.codec import WordSets, decode, learn_code
from potstill.codec import encode as encode_sets
from potstill.kernels.cells import Cells, Head, Term, cell_losses, teacher_cells
from potstill.kernels.mixtures import Voice
from potstill.kernels.sampling import drawn_words
from potstill.plugins import load_plugin
from potstill.rendering import load_tokenizer
from potstill.signals import SignalStore
from potstill.student import head_of, hidden_states, load_model
from potstill.teacher_signals import cells_of, sets_of
from potstill.types import Message

DRAWS, ROW_TOKENS, REPEATS, VOCABULARY = 50, 128, 7, 151_936
BUDGET = {"k": 50, "exact_k": 1, "exact_dtype": "bfloat16", "polynomial_terms": [0, 1, "sqrt"], "term_dtype": "float32",
          "residual_bins": [], "delta_encoding": False, "error_diffusion": False}  # fmt: skip


class Told(NamedTuple):
    """Drawn words of many tokens in rows, and the floor of who knows the teacher; the others follow from the draws."""

    name: str
    sets: WordSets
    tokens_R: list[int]
    num_words: int
    teacher_floor: float


def log_factorial(numbers: Any) -> Any:
    return torch.lgamma(torch.as_tensor(numbers, dtype=torch.float64) + 1).numpy()


def bits_of(sets: WordSets, log_p_U: Any) -> float:
    """Bytes a token of these draws under the probabilities of their words: -log2 of the multinomial."""
    nats = (log_factorial(sets.numbers_U) - sets.numbers_U * log_p_U).sum() - len(sets.sizes_N) * float(log_factorial(DRAWS))
    return float(nats) / len(sets.sizes_N) / math.log(2) / 8


def floors(told: Told) -> tuple[float, float, float]:
    sizes, lf = told.sets.sizes_N, log_factorial
    ways = lf(told.num_words) - lf(sizes) - lf(told.num_words - sizes) + lf(DRAWS - 1) - lf(sizes - 1) - lf(DRAWS - sizes)
    seen = np.bincount(told.sets.words_U, minlength=told.num_words)[told.sets.words_U] / len(told.sets.words_U)
    # Given the size and the counts, the set costs log2(size!) less than its words one by one.
    words = -(np.log(seen)).sum() - lf(sizes).sum() + (lf(DRAWS - 1) - lf(sizes - 1) - lf(DRAWS - sizes)).sum()
    scale = len(sizes) * math.log(2) * 8
    size_bytes = math.log2(DRAWS) / 8
    return float(ways.sum()) / scale + size_bytes, float(words) / scale + size_bytes, told.teacher_floor


def made_teacher(num_tokens: int) -> Told:
    random = torch.Generator().manual_seed(0)
    rank = torch.randperm(VOCABULARY, generator=random)
    log_frequency = -torch.log(rank + 2.7)
    words, floor = [], 0.0
    for _ in range(0, num_tokens, 64):
        sharpness = torch.exp(0.45 * torch.randn(64, 1, generator=random) + 0.74)
        z = sharpness * (log_frequency + 1.6 * torch.randn(64, VOCABULARY, generator=random))
        log_p = torch.log_softmax(z, dim=1)
        drawn = torch.multinomial(log_p.exp(), DRAWS, replacement=True, generator=random)
        sets = sets_of(drawn.numpy())
        token = torch.arange(64).repeat_interleave(torch.from_numpy(sets.sizes_N))
        floor += bits_of(sets, log_p[token, torch.from_numpy(sets.words_U).long()].double().numpy()) * 64
        words.append(drawn)
    drawn_ND = torch.cat(words).numpy()
    rows = [ROW_TOKENS] * (len(drawn_ND) // ROW_TOKENS)
    return Told("made, 151,936 words", sets_of(drawn_ND[: sum(rows)]), rows, VOCABULARY, floor / len(drawn_ND))


def rows_of(path: Path, tokenizer: Any, limit: int) -> list[Row]:
    samples = []
    for line in path.read_text(encoding="utf-8").splitlines()[:limit]:
        *asked, last = json.loads(line)["messages"]
        samples.append(Sample([Message(one["role"], one["content"]) for one in asked], last["content"]))
    return encode(samples, tokenizer, 1024).rows


class Spoken(NamedTuple):
    """Teacher's and student's last hidden states of the same target tokens, with their heads."""

    teacher_NH: torch.Tensor
    teacher_head: Head
    student_NH: torch.Tensor
    student_head: Head


@torch.no_grad()
def spoken(teacher: Path, student: Path, rows: list[Row], tokenizer: Any) -> Spoken:
    found: list[torch.Tensor] = []
    heads = []
    num_words = max(tokenizer.get_vocab().values()) + 1
    for place in (teacher, student):
        model = load_model(str(place), dtype=torch.float32).eval()
        parts = []
        for batch in make_batches(rows, range(len(rows)), token_budget=2048, packing=True, pad_id=0):
            parts.append(hidden_states(model, batch.input_ids_BT, batch.position_ids_BT).flatten(0, 1)[batch.at_N])
        found.append(torch.cat(parts))
        heads.append(head_of(model, num_words))
    return Spoken(found[0], _detached(heads[0]), found[1], _detached(heads[1]))


def _detached(head: Head) -> Head:
    return head._replace(weight_VH=head.weight_VH.detach())


def chunks(said: Spoken) -> Iterator[tuple[slice, torch.Tensor]]:
    """Slices of tokens with the teacher's log-probabilities of them."""
    for start in range(0, len(said.teacher_NH), 128):
        rows = slice(start, start + 128)
        head = said.teacher_head
        yield rows, torch.log_softmax((said.teacher_NH[rows] @ head.weight_VH[: head.num_words].T) * head.scale, dim=1)


def real_teacher(name: str, said: Spoken, rows: list[Row]) -> Told:
    generator = torch.Generator().manual_seed(1)
    uniforms = torch.rand(len(said.teacher_NH), DRAWS, generator=generator, dtype=torch.float64)
    sets = sets_of(drawn_words([Voice(said.teacher_NH, said.teacher_head, 1.0)], uniforms, 1.0).numpy())
    ends, log_p_U = np.concatenate([[0], np.cumsum(sets.sizes_N)]), np.empty(len(sets.words_U))
    for part, log_p in chunks(said):
        first, last = ends[part.start], ends[min(part.stop, len(sets.sizes_N))]
        token = torch.arange(len(log_p)).repeat_interleave(torch.from_numpy(sets.sizes_N[part]))
        log_p_U[first:last] = log_p[token, torch.from_numpy(sets.words_U[first:last]).long()].double().numpy()
    order = [
        number
        for batch in make_batches(rows, range(len(rows)), token_budget=2048, packing=True, pad_id=0)
        for number in batch.numbers
    ]
    return Told(name, sets, [len(rows[n].answer) for n in order], said.teacher_head.num_words, bits_of(sets, log_p_U))


def parts_of(told: Told, num_rows: int) -> Iterator[tuple[WordSets, list[int]]]:
    """The rows in groups, as capture gives them."""
    below = np.concatenate([[0], np.cumsum(told.sets.sizes_N)])
    at = 0
    for start in range(0, len(told.tokens_R), num_rows):
        tokens = told.tokens_R[start : start + num_rows]
        words = slice(below[at], below[at + sum(tokens)])
        yield WordSets(told.sets.sizes_N[at : at + sum(tokens)], told.sets.words_U[words], told.sets.numbers_U[words]), tokens
        at += sum(tokens)


def per_cpu_second(work: Callable[[], Any], num_tokens: int) -> float:
    """Tokens a second of process time: the median of the repetitions, after a warm-up."""
    work()
    taken = []
    for _ in range(REPEATS):
        started = time.process_time()
        work()
        taken.append(time.process_time() - started)
    return num_tokens / statistics.median(taken)


def stored(told: Told) -> tuple[float, ...]:
    """Bytes a token of the whole store, and of its code alone; tokens a CPU-second of encode, decode and reading as cells."""
    with tempfile.TemporaryDirectory() as folder:
        store = SignalStore(Path(folder), {}, draws=DRAWS, num_words=told.num_words)
        names = [f"{number:032x}" for number in range(len(told.tokens_R))]
        at = 0
        for sets, tokens in parts_of(told, 64):
            ends, words = np.cumsum(tokens)[:-1], np.cumsum(sets.sizes_N)[np.cumsum(tokens)[:-1] - 1]
            split = zip(np.split(sets.sizes_N, ends), np.split(sets.words_U, words), np.split(sets.numbers_U, words), strict=True)
            store.add([(names[at + i], WordSets(*one)) for i, one in enumerate(split)])
            at += len(tokens)
        sets, tokens = next(parts_of(told, 64))
        code = learn_code(sets, told.num_words)
        blobs = encode_sets(sets, tokens, code, DRAWS)
        num_tokens = sum(tokens)
        return (
            store.num_bytes / store.num_tokens,
            (store.folder / "words.code").stat().st_size / store.num_tokens,
            per_cpu_second(lambda: encode_sets(sets, tokens, code, DRAWS), num_tokens),
            per_cpu_second(lambda: decode(blobs, tokens, code, DRAWS), num_tokens),
            per_cpu_second(lambda: cells_of(store.read(names[:64]), DRAWS), num_tokens),
        )


def distillkit(folder: Path) -> tuple[float, float, float]:
    """Bytes a token, encode and decode tokens a CPU-second of its budget setting at 151,936 words."""
    sys.path.insert(0, str(folder))
    names = ("compressor", "LogprobCompressor"), ("config", "DistributionQuantizationConfig")
    theirs, settings = (getattr(importlib.import_module(f"distillkit.compression.{module}"), name) for module, name in names)
    compressor = theirs(settings(d=VOCABULARY, **BUDGET))
    logp = torch.log_softmax(3 * torch.randn(2048, 400), dim=1).topk(50).values
    index = torch.rand(2048, 2000).topk(50).indices
    coded = compressor.compress_from_sparse(index, logp)
    size = sum(part.numel() * part.element_size() for part in coded.values()) / len(logp)
    return (size, per_cpu_second(lambda: compressor.compress_from_sparse(index, logp), len(logp)),
            per_cpu_second(lambda: compressor.decompress_to_sparse(coded), len(logp)))  # fmt: skip


def angles(said: Spoken) -> list[tuple[str, float]]:
    """Degrees between the gradient of each kind of signal and the dense one."""
    formula = load_plugin("losses", "forward_kl").formula
    student, words = said.student_NH, said.student_head.num_words

    def gradient(cells: Cells) -> torch.Tensor:
        weight = said.student_head.weight_VH.clone().requires_grad_()
        head = said.student_head._replace(weight_VH=weight)
        cell_losses(student, head, [Term(formula, cells, 1.0, 1.0)])[0].backward()
        assert weight.grad is not None
        return weight.grad[:words].flatten()

    dense = torch.zeros_like(said.student_head.weight_VH[:words])
    for rows, log_p in chunks(said):
        q = torch.softmax(student[rows] @ said.student_head.weight_VH[:words].T * said.student_head.scale, dim=1)
        dense += (q - log_p.exp()).T @ student[rows] * said.student_head.scale

    def angle(cells: Cells) -> float:
        cosine = torch.nn.functional.cosine_similarity(gradient(cells), dense.flatten(), dim=0)
        return math.degrees(math.acos(min(1.0, float(cosine))))

    found = []
    voice, random = Voice(said.teacher_NH, said.teacher_head, 1.0), torch.Generator().manual_seed(2)
    for draws in (5, 12, 50):
        uniforms = torch.rand(len(student), draws, generator=random, dtype=torch.float64)
        found.append((f"{draws} draws", angle(cells_of(sets_of(drawn_words([voice], uniforms, 1.0).numpy()), draws))))
    for top_k in (5, 12, 50, 300):
        cells = teacher_cells(said.teacher_NH, said.teacher_head, top_k, 1.0)
        found.append((f"top {top_k} and tail", angle(cells)))
        alone = Cells(cells.index_NK, torch.log_softmax(cells.logp_NK, dim=1))
        found.append((f"top {top_k} alone, shares of 1", angle(alone)))
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--teacher", type=Path)
    options.add_argument("--student", type=Path)
    options.add_argument("--data", type=Path, nargs="*", default=[])
    options.add_argument("--rows", type=int, default=300, help="rows of each file")
    options.add_argument("--made-tokens", type=int, default=8192)
    options.add_argument("--distillkit", type=Path, help="a folder that holds its package")
    given = options.parse_args()
    if bool(given.data) != bool(given.teacher):
        options.error("--teacher and --data go together: a model's folder, and files of rows that it scores")
    torch.set_num_threads(1)
    console = Console(width=140)
    console.print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} CPUs, torch {torch.__version__}, one thread")
    sizes = Table(
        "teacher",
        "tokens",
        "words a token",
        "floor: sets",
        "words",
        "teacher",
        "bytes a token",
        "of it code",
        "encode/s",
        "decode/s",
        "read/s",
    )
    turned = Table("teacher, tokens", "signal", "degrees")

    def add(told: Told) -> None:
        size, of_code, *speeds = stored(told)
        bytes_told = [f"{number:.1f}" for number in (*floors(told), size, of_code)]
        words = f"{told.sets.sizes_N.mean():.1f}"
        sizes.add_row(told.name, f"{len(told.sets.sizes_N):,}", words, *bytes_told, *(f"{speed:,.0f}" for speed in speeds))

    if given.made_tokens:
        add(made_teacher(given.made_tokens))
    for path in given.data:
        tokenizer = load_tokenizer(str(given.teacher))
        rows = rows_of(path, tokenizer, given.rows)
        said = spoken(given.teacher, given.student or given.teacher, rows, tokenizer)
        add(real_teacher(f"{given.teacher.name} on {path.parent.name}", said, rows))
        for name, degrees in angles(said) if given.student else []:
            turned.add_row(f"{path.parent.name}, {len(said.student_NH):,}", name, f"{degrees:.1f}")
    console.print(sizes)
    if turned.row_count:
        console.print(turned)
    if given.distillkit:
        size, encoded, decoded = distillkit(given.distillkit)
        console.print(f"DistillKit, budget (top 50): {size:.0f} bytes a token, encode {encoded:,.0f}/s, decode {decoded:,.0f}/s")


if __name__ == "__main__":
    main()
