"""Teachers are loaded as the job says, and several of them give one mixed distribution, live as from the disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import save_llama

from potstill.batches import Row, Sample, encode, make_batches
from potstill.errors import JobError, ModelError
from potstill.kernels.cells import tail_logp
from potstill.plugins import load_plugin
from potstill.progress import Progress
from potstill.rendering import load_tokenizer
from potstill.runfolder import RunFolder
from potstill.signals import SignalStore
from potstill.student import load_model
from potstill.teacher_signals import LiveSignals, MixedSignals, SignalShape, capture, live_signals, open_store, vocabulary_problem
from potstill.types import Message

OWN_CODE = """
from transformers import LlamaConfig, LlamaForCausalLM


class OwnConfig(LlamaConfig):
    model_type = "own"


class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


def test_signals_come_from_the_teacher_as_the_job_loads_it(tmp_path: Path, student_folder: Path) -> None:
    folder = save_llama(tmp_path / "own", hidden=64)
    (folder / "own.py").write_text(OWN_CODE)
    config = json.loads((folder / "config.json").read_text())
    auto_map = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": auto_map}))
    tokenizer = load_tokenizer(str(student_folder))
    shape = SignalShape(4, 1.0, 512)
    trusted = load_plugin("teachers", {"kind": "huggingface", "model": str(folder), "trust_remote_code": True})
    assert type(live_signals(trusted, tokenizer, shape).model).__name__ == "OwnForCausalLM"
    with pytest.raises(ModelError):
        live_signals(load_plugin("teachers", {"kind": "huggingface", "model": str(folder)}), tokenizer, shape)


SHAPE = SignalShape(top_k=8, temperature=2.0, token_budget=256)


def local(folder: Path, **more: Any) -> Any:
    return load_plugin("teachers", {"kind": "huggingface", "model": str(folder), **more})


def some_rows(folder: Path) -> list[Row]:
    told = [
        "My router shows a red light, and has shown it for ten days. " * 2,
        "A man walks.",
        "How many apples are left?",
        "please",
    ]
    samples = [Sample([Message("user", text)], text[::-1][: 4 + 3 * number]) for number, text in enumerate(told)]
    return encode(samples, load_tokenizer(str(folder)), 512).rows


def captured(teachers: Any, rows: list[Row], folder: Path, student: Path) -> SignalStore:
    tokenizer = load_tokenizer(str(student))
    store = open_store(teachers, tokenizer, folder / "signals", SHAPE)
    with Progress(RunFolder(folder / "run"), "capture", len(rows)) as bar:
        capture(teachers, tokenizer, rows, store, SHAPE, bar)
    return store


def test_several_teachers_give_the_dense_mixture_of_their_distributions(teacher_folder: Path, phi3_folder: Path) -> None:
    """Two architectures, in float64: one with tied and one with its own output rows."""
    rows = some_rows(teacher_folder)
    num_words = max(load_tokenizer(str(teacher_folder)).get_vocab().values()) + 1
    models = [load_model(str(folder), dtype=torch.float64) for folder in (teacher_folder, phi3_folder)]
    shape = SignalShape(top_k=8, temperature=2.0, token_budget=256, precision="fp32")
    mixed = MixedSignals([LiveSignals(model, num_words, shape) for model in models], [0.75, 0.25], shape)
    assert mixed.takes_packed
    batches = make_batches(rows, range(len(rows)), token_budget=256, packing=True, pad_id=0)
    assert any(len(batch.numbers) > batch.input_ids_BT.shape[0] for batch in batches), "nothing was packed"
    for batch in batches:
        cells = mixed.cells(batch, rows)
        wanted = []
        for number in batch.numbers:  # each row alone through the whole model, without any of our kernels
            row = rows[number]
            ids = torch.from_numpy(np.concatenate([row.prompt, row.answer[:-1]]).astype(np.int64))[None]
            with torch.no_grad():
                logits = [model(ids).logits[0, len(row.prompt) - 1 :, :num_words] for model in models]
            wanted.append(sum(w * torch.softmax(z / 2.0, dim=-1) for w, z in zip((0.75, 0.25), logits, strict=True)))
        dense = torch.cat(wanted)
        top = dense.topk(8, dim=1)
        assert cells.index_NK.tolist() == top.indices.tolist()
        torch.testing.assert_close(cells.logp_NK, top.values.log(), atol=1e-6, rtol=0)
        torch.testing.assert_close(tail_logp(cells.logp_NK).exp(), 1 - top.values.sum(dim=1), atol=1e-6, rtol=0)


def test_captured_mixtures_are_the_live_ones(
    teacher_folder: Path, phi3_folder: Path, student_folder: Path, tmp_path: Path
) -> None:
    rows = some_rows(student_folder)
    teachers = [local(teacher_folder, weight=3.0), local(phi3_folder)]
    store = captured(teachers, rows, tmp_path, student_folder)
    live = live_signals(teachers, load_tokenizer(str(student_folder)), SHAPE)
    assert isinstance(live, MixedSignals)
    assert sorted(live.shares) == [0.25, 0.75]
    for batch in make_batches(rows, range(len(rows)), token_budget=1, packing=False, pad_id=0):
        cells, read = live.cells(batch, rows), store.read(rows[batch.numbers[0]].digest())
        assert cells.index_NK.tolist() == read.words_NK.tolist()
        np.testing.assert_allclose(cells.logp_NK.numpy(), read.logp_NK, atol=1e-5)


def test_a_store_is_of_its_teachers_and_their_shares(
    teacher_folder: Path, phi3_folder: Path, student_folder: Path, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(str(student_folder))

    def place(*teachers: Any) -> Path:
        return open_store(list(teachers), tokenizer, tmp_path, SHAPE).folder

    one, other = local(teacher_folder), local(phi3_folder)
    both = place(one, other)
    assert both not in (place(one), place(other))
    assert place(local(teacher_folder, weight=2.0), other) != both
    assert place(local(teacher_folder, weight=2.0), local(phi3_folder, weight=2.0)) == both, "shares decide, not weights"
    assert place(other, one) == both, "the order decides nothing"
    assert place(one) == open_store(one, tokenizer, tmp_path, SHAPE).folder
    asked_twice = place(one, local(teacher_folder, temperature=1.0))
    assert asked_twice == place(one), "a model that is asked in two ways is one model"


def test_a_model_that_stands_twice_in_the_job_is_loaded_once(teacher_folder: Path, student_folder: Path) -> None:
    twice = [local(teacher_folder), local(teacher_folder, temperature=0.7, name="warm")]
    assert isinstance(live_signals(twice, load_tokenizer(str(student_folder)), SHAPE), LiveSignals)


def test_teachers_of_different_vocabularies_are_named_and_not_mixed(
    teacher_folder: Path, student_folder: Path, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(str(student_folder))
    other = local(save_llama(tmp_path / "other", vocab_size=300), name="other")
    teachers = [local(teacher_folder, name="one"), other]
    with pytest.raises(
        JobError, match=r"the teachers 'one' and 'other' have different vocabularies .* cannot be mixed"
    ) as raised:
        live_signals(teachers, tokenizer, SHAPE)
    assert "cross_entropy" in str(raised.value)
    assert vocabulary_problem(teachers, tokenizer) == str(raised.value)
    assert vocabulary_problem(other, tokenizer) is not None
    assert "teacher and student have different vocabularies" in str(vocabulary_problem(other, tokenizer))
    assert vocabulary_problem(teachers[:1], tokenizer) is None


def test_a_teacher_without_weights_here_cannot_be_mixed(teacher_folder: Path, student_folder: Path) -> None:
    far = load_plugin("teachers", {"kind": "scripted", "name": "far"})
    with pytest.raises(JobError, match="the teacher far has no weights on this machine"):
        live_signals([local(teacher_folder), far], load_tokenizer(str(student_folder)), SHAPE)
