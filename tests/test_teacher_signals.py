"""Teachers are loaded as the job says, and several of them give one mixed distribution, live as from the disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import save_llama

from potstill.batches import Row, Sample, encode, make_batches
from potstill.codec import WordSets
from potstill.errors import JobError, ModelError
from potstill.job import Job
from potstill.kernels.cells import Cells, Head, Term, cell_losses, tail_logp
from potstill.plugins import load_plugin
from potstill.progress import Progress
from potstill.rendering import load_tokenizer
from potstill.runfolder import RunFolder
from potstill.signals import SignalStore
from potstill.student import load_model
from potstill.teacher_signals import (
    LiveSignals,
    MixedSignals,
    SignalShape,
    StoredSignals,
    capture,
    cells_of,
    draw,
    live_signals,
    open_store,
    sets_of,
    vocabulary_problem,
)
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
DRAWN = replace(SHAPE, draws=20)


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


def captured(teachers: Any, rows: list[Row], folder: Path, student: Path, shape: SignalShape = SHAPE) -> SignalStore:
    tokenizer = load_tokenizer(str(student))
    store = open_store(teachers, tokenizer, folder / "signals", shape)
    with Progress(RunFolder(folder / "run"), "capture", len(rows)) as bar:
        capture(teachers, tokenizer, rows, store, shape, bar)
    return store


def by_word(cells: Cells) -> list[dict[int, float]]:
    """Each token's words that have a share, with its logarithm."""
    return [
        {word: logp for word, logp in zip(words, logps, strict=True) if logp > -np.inf}
        for words, logps in zip(cells.index_NK.tolist(), cells.logp_NK.tolist(), strict=True)
    ]


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
        wanted, read = by_word(live.cells(batch, rows)), by_word(StoredSignals(store).cells(batch, rows))
        for one, other in zip(wanted, read, strict=True):
            assert len(one) == 8
            assert other.keys() == one.keys()
            for word, logp in one.items():
                assert other[word] == pytest.approx(logp, abs=1e-3), "0.1% of a probability"


def test_draws_from_the_disk_are_the_live_ones_in_any_batch(
    teacher_folder: Path, phi3_folder: Path, student_folder: Path, tmp_path: Path
) -> None:
    """Of one teacher and of a mixture; rows packed in other company draw the same words."""
    rows = some_rows(student_folder)
    tokenizer = load_tokenizer(str(student_folder))
    for place, teachers in (("one", local(teacher_folder)), ("two", [local(teacher_folder), local(phi3_folder)])):
        store = captured(teachers, rows, tmp_path / place, student_folder, DRAWN)
        live = live_signals(teachers, tokenizer, DRAWN)
        for budget, packing in ((1, False), (256, True)):
            for batch in make_batches(rows, range(len(rows)), token_budget=budget, packing=packing, pad_id=0):
                wanted, read = live.cells(batch, rows), StoredSignals(store).cells(batch, rows)
                assert by_word(read) == by_word(wanted)
                assert not (tail_logp(read.logp_NK) > -torch.inf).any(), "nothing is left for the tail"
                assert all(len(set(words)) == len(words) for words in read.index_NK.tolist()), "a word stands twice"


def test_a_capture_that_was_cut_goes_on_as_if_it_had_not_been(teacher_folder: Path, student_folder: Path, tmp_path: Path) -> None:
    rows = some_rows(student_folder)
    whole = captured(local(teacher_folder), rows, tmp_path / "whole", student_folder, DRAWN)
    captured(local(teacher_folder), rows[1:3], tmp_path / "cut", student_folder, DRAWN)
    resumed = captured(local(teacher_folder), rows, tmp_path / "cut", student_folder, DRAWN)
    assert resumed.num_tokens == whole.num_tokens == sum(len(row.answer) for row in rows)
    for batch in make_batches(rows, range(len(rows)), token_budget=256, packing=True, pad_id=0):
        assert by_word(StoredSignals(resumed).cells(batch, rows)) == by_word(StoredSignals(whole).cells(batch, rows))


def test_other_seeds_and_numbers_of_draws_are_other_signals(teacher_folder: Path, student_folder: Path, tmp_path: Path) -> None:
    rows, tokenizer, teacher = some_rows(student_folder), load_tokenizer(str(student_folder)), local(teacher_folder)
    shapes = [SHAPE, DRAWN, replace(DRAWN, seed=1), replace(DRAWN, draws=21)]
    assert len({open_store(teacher, tokenizer, tmp_path, shape).folder for shape in shapes}) == 4
    assert (
        open_store(teacher, tokenizer, tmp_path, replace(DRAWN, top_k=3)).folder
        == open_store(teacher, tokenizer, tmp_path, DRAWN).folder
    )
    batch = make_batches(rows, range(len(rows)), token_budget=256, packing=True, pad_id=0)[0]
    live = live_signals(teacher, tokenizer, DRAWN)
    assert isinstance(live, LiveSignals)
    one, other = (draw(live.voices(batch, rows), batch, rows, shape) for shape in shapes[1:3])
    assert one.words_U.tolist() != other.words_U.tolist()


def test_tokens_with_fewer_words_than_others_get_words_of_no_probability() -> None:
    """By hand: four draws of one word, and of three, one of which is among the first that could fill a place."""
    cells = cells_of(WordSets(np.array([1, 3]), np.array([0, 1, 7, 9]), np.array([4, 1, 1, 2])), 4)
    assert cells.index_NK.tolist() == [[0, 1, 2], [1, 7, 9]]
    assert cells.logp_NK[0].tolist() == [0.0, -np.inf, -np.inf]
    np.testing.assert_allclose(cells.logp_NK[1].exp().numpy(), [0.25, 0.25, 0.5], rtol=2e-7)


def test_the_gradient_of_draws_is_that_of_the_whole_distribution_on_average() -> None:
    """4,000 sets of 12 draws: the mean gradient of forward KL lies within 5 standard errors of the dense one, everywhere but
    for one chance in 10^5, and its largest error is what their number lets expect. Top 12 is far off."""
    random = torch.Generator().manual_seed(0)
    num_words, width, draws, repeats = 40, 8, 12, 4000
    head = Head(torch.randn(num_words, width, generator=random), None, 1.0, None, num_words)
    p = torch.softmax(2 * torch.randn(num_words, generator=random), dim=0)
    hidden = torch.randn(1, width, generator=random)
    formula = load_plugin("losses", "forward_kl").formula

    def gradient(cells: Cells) -> torch.Tensor:
        """With respect to the scores, by way of a head of unit rows: [tokens, words]."""
        scores = (hidden @ head.weight_VH.T).expand(len(cells.index_NK), -1).clone().requires_grad_()
        unit = Head(torch.eye(num_words), None, 1.0, None, num_words)
        cell_losses(scores, unit, [Term(formula, cells, 1.0, 1.0)])[0].backward()
        assert scores.grad is not None
        return scores.grad

    dense = (torch.softmax(hidden @ head.weight_VH.T, dim=1) - p)[0]
    words = torch.multinomial(p.expand(repeats, -1), draws, replacement=True, generator=random)
    sampled = gradient(cells_of(sets_of(words.numpy()), draws))
    standard_error = (p * (1 - p) / draws / repeats).sqrt()
    assert ((sampled.mean(dim=0) - dense).abs() < 5 * standard_error + 1e-6).all()
    often = p * draws * repeats > 150  # rarer words were drawn too seldom for their spread to be known
    assert int(often.sum()) > 8
    torch.testing.assert_close(sampled.std(dim=0)[often], (standard_error * repeats**0.5)[often], rtol=0.25, atol=0)
    top = p.topk(draws)
    renormalised = Cells(top.indices[None], (top.values / top.values.sum()).log()[None])
    assert ((gradient(renormalised)[0] - dense).abs() > 5 * standard_error).any(), "the test would not see a bias"


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


def job(folder: Path, teacher: Path | str, **train: Any) -> Job:
    (folder / "train.jsonl").touch()
    who = {"kind": "huggingface", "model": str(teacher)} if isinstance(teacher, Path) else teacher
    return Job(
        folder=folder, name="job", task="conversation", data="train.jsonl", teacher=who, student="starter-student", train=train
    )


def test_draws_are_the_default_where_every_loss_takes_them(teacher_folder: Path, tmp_path: Path) -> None:
    assert job(tmp_path, teacher_folder).samples_signals, "forward KL and cross entropy are the default losses"
    assert not job(tmp_path, teacher_folder, signals="top_k").samples_signals
    assert not job(tmp_path, teacher_folder, signals="live").samples_signals
    assert not job(tmp_path, teacher_folder, losses=["forward_kl", "reverse_kl"]).samples_signals
    assert job(tmp_path, teacher_folder, losses=["forward_kl", "hidden_mse"]).samples_signals
    assert job(tmp_path, teacher_folder).signals_path == tmp_path / "runs" / "signals"


def test_draws_are_refused_where_a_loss_does_not_take_them(teacher_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        JobError, match=r"train\.signals is sampled, and train\.losses: reverse_kl .* set train\.signals to top_k or auto"
    ):
        job(tmp_path, teacher_folder, signals="sampled", losses=["forward_kl", "reverse_kl"])
    with pytest.raises(JobError, match="name 'signals' is taken"):
        Job(
            folder=tmp_path,
            name="signals",
            task="conversation",
            data="train.jsonl",
            teacher="scripted",
            student="starter-student",
        )


@pytest.mark.parametrize("mix_by", ["confidence", "gold"])
@pytest.mark.parametrize("draws", [None, 20])
def test_weighed_mixtures_from_the_disk_are_the_live_ones_and_have_a_store_of_their_own(
    mix_by: Any, draws: int | None, teacher_folder: Path, phi3_folder: Path, student_folder: Path, tmp_path: Path
) -> None:
    rows = some_rows(student_folder)
    gold = frozenset(row.digest() for row in rows[::2])
    shape = replace(SHAPE, draws=draws, mix_by=mix_by, gold=gold if mix_by == "gold" else frozenset())
    teachers = [local(teacher_folder, weight=3.0), local(phi3_folder)]
    tokenizer = load_tokenizer(str(student_folder))
    store = captured(teachers, rows, tmp_path, student_folder, shape)
    assert store.folder != open_store(teachers, tokenizer, tmp_path / "signals", replace(SHAPE, draws=draws)).folder
    live = live_signals(teachers, tokenizer, shape)
    plain = live_signals(teachers, tokenizer, replace(SHAPE, draws=draws))
    for batch in make_batches(rows, range(len(rows)), token_budget=256, packing=True, pad_id=0):
        wanted, read = by_word(live.cells(batch, rows)), by_word(StoredSignals(store, shape.key).cells(batch, rows))
        assert [one.keys() for one in wanted] == [one.keys() for one in read]
        gaps = [abs(one[word] - other[word]) for one, other in zip(wanted, read, strict=True) for word in one]
        assert max(gaps) <= 1e-3
        by_weight = by_word(plain.cells(batch, rows))
        starts = np.cumsum([0, *(len(rows[number].answer) for number in batch.numbers)])
        for number, start, end in zip(batch.numbers, starts, starts[1:], strict=False):
            is_weighed = mix_by == "confidence" or rows[number].digest() in gold
            if draws is None or not is_weighed:  # few draws of nearly the same distribution may be the same words
                assert (wanted[start:end] != by_weight[start:end]) == is_weighed


def test_a_row_that_is_gold_has_other_signals_than_the_same_row_that_is_not(
    teacher_folder: Path, phi3_folder: Path, student_folder: Path, tmp_path: Path
) -> None:
    rows, tokenizer = some_rows(student_folder), load_tokenizer(str(student_folder))
    teachers = [local(teacher_folder), local(phi3_folder)]
    none = replace(SHAPE, mix_by="gold")
    store = captured(teachers, rows, tmp_path, student_folder, none)
    gold = replace(none, gold=frozenset(row.digest() for row in rows[:1]))
    with Progress(RunFolder(tmp_path / "run"), "capture", len(rows)) as bar:
        assert capture(teachers, tokenizer, rows, store, gold, bar) == 1
    batch = make_batches(rows, range(len(rows)), token_budget=256, packing=True, pad_id=0)[0]
    one, other = (StoredSignals(store, shape.key).cells(batch, rows) for shape in (none, gold))
    assert by_word(one) != by_word(other)


@pytest.mark.parametrize(
    ("teachers", "settings", "told"),
    [(1, {}, "this job has one teacher"), (2, {"losses": ["cross_entropy"]}, "no loss of this job is on distributions")],
)
def test_mixing_without_several_local_distributions_is_refused_when_the_job_is_loaded(
    teachers: int, settings: dict[str, Any], told: str, teacher_folder: Path, phi3_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "train.jsonl").touch()
    all_of_them = [{"kind": "huggingface", "model": str(one), "name": one.name} for one in (teacher_folder, phi3_folder)]

    def made(mix_by: str, count: int, **train: Any) -> Job:
        return Job(
            folder=tmp_path, name="job", task="conversation", data="train.jsonl", teacher=all_of_them[:count],
            student="starter-student", train={"mix_by": mix_by, **train},
        )  # fmt: skip

    with pytest.raises(JobError, match=f"train.mix_by is gold, and {told}; name several local teachers"):
        made("gold", teachers, **settings)
    assert made("gold", 2).train.mix_by == "gold"
    assert made("weight", teachers, **settings).train.mix_by == "weight"
