"""QLoRA: real 4-bit weights, on the processor where there is nothing better, trained, merged and saved as a plain model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_tokenizer
from processes import killed_and_resumed
from safetensors.torch import load_file
from test_training import largest_gap, training, weights
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from potstill.errors import JobError, MissingPackageError
from potstill.job import Job
from potstill.learner import adaptation_problem, make_learner
from potstill.plugins import is_installed, optional
from potstill.recipe import StudentSettings, TrainSettings
from potstill.student import load_model, merged
from potstill.training import train

runs = pytest.mark.skipif(not is_installed("bitsandbytes"), reason="needs bitsandbytes (pip install 'potstill[qlora]')")
CPU = torch.device("cpu")


def qlora(folder: Path) -> StudentSettings:
    return StudentSettings(model=str(folder), adaptation="qlora", lora={"rank": 4, "alpha": 8})  # type: ignore[arg-type]


def trained(folder: Path, out: Path, **settings: Any) -> None:
    fields = {"epochs": 20, "checkpoint_every": 4, "learning_rate": 1e-2, **settings}
    train(replace(training(folder, out, **fields), student=qlora(folder)))


def adapted(folder: Path, **settings: Any) -> Any:
    """A model with adapters that do something, as after training."""
    model: Any = make_learner(qlora(folder), TrainSettings(**settings), CPU).model
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
    return model.eval()


@runs
def test_layers_are_4_bits_with_doubly_quantised_scales_and_only_adapters_are_trained(teacher_folder: Path) -> None:
    learner = make_learner(qlora(teacher_folder), TrainSettings(), CPU)
    stored = {name: p for name, p in learner.model.named_parameters() if "base_layer" in name}
    assert stored
    assert {p.dtype for p in stored.values()} == {torch.uint8}
    assert all(p.quant_state.quant_type == "nf4" and p.quant_state.nested for p in stored.values())  # type: ignore[attr-defined]
    assert all("lora_" in name for name in learner.trained)
    assert learner.keeps_rows_apart
    computes = {m.compute_dtype for m in learner.model.modules() if hasattr(m, "compute_dtype")}
    assert computes == {torch.bfloat16}


@runs
@pytest.mark.parametrize("family", ["teacher_folder", "phi3_folder", "gpt2"])
def test_merging_changes_no_score_and_leaves_a_plain_model(family: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """In fp32, where rounding is 1e-6; GPT-2's layers keep their weights the other way round."""
    if family == "gpt2":
        folder = tmp_path / "gpt2"
        torch.manual_seed(0)
        GPT2LMHeadModel(GPT2Config(vocab_size=320, n_embd=64, n_layer=2, n_head=4, eos_token_id=1)).save_pretrained(folder)
        make_tokenizer().save_pretrained(folder)
    else:
        folder = request.getfixturevalue(family)
    model = adapted(folder, precision="fp32")
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        before = model(input_ids=ids).logits
        assert (before - load_model(str(folder))(ids).logits).abs().max() > 1e-3
        whole: Any = merged(model)
        assert (whole(input_ids=ids).logits - before).abs().max() < 1e-5 * before.abs().max()
        whole.save_pretrained(tmp_path / "plain")
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
        assert not hasattr(plain.config, "quantization_config")
        torch.testing.assert_close(plain(ids).logits, whole(ids).logits)
    assert {type(m).__module__ for m in whole.modules() if "bitsandbytes" in type(m).__module__} == set()


@runs
def test_what_is_merged_into_are_the_nf4_values_and_not_the_original_ones(teacher_folder: Path) -> None:
    """A block of 64 weights has 16 values between plus and minus its largest one (Dettmers et al., appendix E)."""
    model: Any = make_learner(qlora(teacher_folder), TrainSettings(precision="fp32"), CPU).model.eval()
    whole: Any = merged(model)  # fresh adapters add nothing
    found = whole.model.layers[0].self_attn.q_proj.weight.detach()
    original = load_model(str(teacher_folder)).model.layers[0].self_attn.q_proj.weight.detach()  # type: ignore[union-attr]
    assert 1e-4 < float((found - original).abs().max()) < float(original.abs().max()) / 4
    levels = found.flatten()[:64] / found.flatten()[:64].abs().max()
    known = torch.tensor([
        -1.0, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0.0, 0.0795803, 0.1609302, 0.2461123,
        0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0,
    ])  # fmt: skip
    assert float((levels[:, None] - known).abs().min(dim=1).values.max()) < 1e-6


@runs
def test_evaluating_in_between_changes_no_weight(teacher_folder: Path) -> None:
    model = adapted(teacher_folder)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        one, other = (model(input_ids=torch.arange(5, 25)[None]).logits for _ in range(2))
    assert torch.equal(one, other)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


@runs
def test_it_learns_and_saves_a_plain_model(teacher_folder: Path, tmp_path: Path) -> None:
    trained(teacher_folder, tmp_path, gradient_checkpointing=True)
    events = (tmp_path / "run" / "events.jsonl").read_text()
    assert events.count('"event": "step"') == 60
    checkpoint = load_file(next((tmp_path / "run" / "checkpoints" / "student").glob("step-*")) / "trained.safetensors")
    assert all("lora_" in name for name in checkpoint)
    before, after = load_model(str(teacher_folder)), load_model(str(tmp_path / "run" / "model"))
    assert type(after) is type(before)
    assert {p.dtype for p in after.parameters()} == {torch.float32}
    ids = torch.arange(5, 25)[None]
    assert float((after(ids).logits - before(ids).logits).detach().abs().max()) > 1e-2


@runs
def test_a_run_killed_and_resumed_equals_the_unbroken_one(teacher_folder: Path, tmp_path: Path) -> None:
    code = "from pathlib import Path; from test_four_bit import trained\ntrained(*map(Path, sys.argv[1:]))"
    events = tmp_path / "killed" / "run" / "events.jsonl"
    killed_and_resumed(tmp_path, code, events, [14], teacher_folder, tmp_path / "killed")
    assert "resumed at step" in events.read_text()
    trained(teacher_folder, tmp_path / "unbroken")
    assert largest_gap(weights(tmp_path / "killed"), weights(tmp_path / "unbroken")) < 1e-6


def job(folder: Path, **student: Any) -> Job:
    (folder / "train.jsonl").touch()
    task = {"kind": "nli", "labels": ["yes", "no"]} if student.get("head") == "labels" else "nli"
    settings = {"model": "starter-student", "adaptation": "qlora", **student}
    return Job(folder=folder, name="run", task=task, data="train.jsonl", teacher="starter-teacher", student=settings)


def test_a_head_of_labels_over_4_bits_is_refused_when_the_job_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"adaptation is qlora, and a student with a head of labels .*; set .* to lora"):
        job(tmp_path, head="labels")


@pytest.mark.skipif(is_installed("bitsandbytes"), reason="bitsandbytes is installed")
def test_without_the_package_a_job_says_what_to_install_or_to_set_instead(tmp_path: Path, student_folder: Path) -> None:
    with pytest.raises(JobError, match=r"bitsandbytes is not installed \(pip install 'potstill\[qlora\]'\); set .* to lora"):
        job(tmp_path)
    with pytest.raises(MissingPackageError, match=r"potstill\[qlora\]"):
        make_learner(qlora(student_folder), TrainSettings(), CPU)
    with pytest.raises(MissingPackageError):
        optional("four_bit:loading")


@runs
def test_with_the_package_a_job_takes_it(tmp_path: Path) -> None:
    if torch.backends.mps.is_available():
        assert "4-bit weights run on CUDA and on processors" in str(adaptation_problem(qlora(tmp_path)))
    else:
        assert job(tmp_path).student.adaptation == "qlora"
