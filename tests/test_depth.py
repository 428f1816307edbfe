"""A model with some of its layers says what they say, in every architecture, and is an ordinary model afterwards."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_tokenizer, save_bert, save_llama
from safetensors.torch import load_file, save_file
from transformers import (
    AlbertConfig,
    AlbertForMaskedLM,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from potstill.checking import check_job
from potstill.depth import Source, cut, cut_config, kept_layers, refuse_layers_made_by_their_place, renamed
from potstill.errors import JobError, ModelError
from potstill.estimates import parameters_of
from potstill.generation import generate
from potstill.job import Job
from potstill.pupil import untouched
from potstill.recipe import StudentSettings
from potstill.rendering import load_tokenizer
from potstill.runfolder import RunFolder, write_rows
from potstill.stages import train as train_stage
from potstill.stages.evaluate import systems
from potstill.student import count_parameters, layers_of, load_config, load_model
from potstill.types import Example, Lesson, Message, Sampling

KEPT = (1, 4, 6)
COMMON: dict[str, Any] = {
    "vocab_size": 320, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 6,
    "max_position_embeddings": 512,
}  # fmt: skip
DECODER: dict[str, Any] = {**COMMON, "num_key_value_heads": 2, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
SLIDING: dict[str, Any] = {**DECODER, "head_dim": 8, "sliding_window": 4}
ENCODER: dict[str, Any] = {**COMMON, "pad_token_id": 0, "num_labels": 3}
MAKES: dict[str, Any] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**DECODER)),
    "phi3": lambda: Phi3ForCausalLM(Phi3Config(**DECODER, original_max_position_embeddings=512)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**DECODER, use_sliding_window=True, sliding_window=4, max_window_layers=3)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**DECODER, head_dim=8)),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**SLIDING)),
    "gemma3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**SLIDING)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=320, n_embd=32, n_layer=6, n_head=4, n_positions=512, eos_token_id=1)),
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**DECODER, num_local_experts=6)),  # as many experts as layers
    "bert": lambda: BertForSequenceClassification(BertConfig(**ENCODER)),
    "modernbert": lambda: ModernBertForSequenceClassification(
        ModernBertConfig(**ENCODER, eos_token_id=1, bos_token_id=2, cls_token_id=3, sep_token_id=4)
    ),
}


def made(name: str, folder: Path) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = MAKES[name]().eval()
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return model


def without_the_others(model: PreTrainedModel) -> PreTrainedModel:
    """The same in memory: the layers left out, those that stay numbered anew, as the key-value cache counts them."""
    for stack in model.modules():
        if isinstance(stack, torch.nn.ModuleList) and len(stack) == 6 and stack[0] is layers_of(model, 6)[0]:
            for place, number in enumerate(KEPT):
                stack[place] = stack[number - 1]
                for part in stack[place].modules():
                    if hasattr(part, "layer_idx"):
                        part.layer_idx = place
            del stack[len(KEPT) :]
    config = model.config.get_text_config()
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[number - 1] for number in KEPT]
    config.num_hidden_layers = len(KEPT)
    return model


@pytest.mark.parametrize("name", MAKES)
def test_a_cut_model_says_what_its_layers_say_and_loads_with_plain_transformers(name: str, tmp_path: Path) -> None:
    whole = made(name, tmp_path / "whole")
    cut(Source(str(tmp_path / "whole")), KEPT, tmp_path / "cut")
    kind = AutoModelForSequenceClassification if "bert" in name else AutoModelForCausalLM
    shallow = kind.from_pretrained(tmp_path / "cut")
    wanted = without_the_others(whole)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        torch.testing.assert_close(shallow(input_ids=ids).logits, wanted(input_ids=ids).logits, atol=1e-6, rtol=1e-5)
        if "bert" not in name:  # one token at a time, out of the cache
            options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
            said = [model.generate(ids, **options, eos_token_id=None).tolist() for model in (shallow, wanted)]
            assert said[0] == said[1]
            step, past = [], None
            for token in ids[0]:
                out = shallow(input_ids=token[None, None], past_key_values=past, use_cache=True)
                past = out.past_key_values
                step.append(out.logits[0, 0])
            torch.testing.assert_close(torch.stack(step), shallow(input_ids=ids).logits[0], atol=1e-4, rtol=1e-4)
    one, other = (load_tokenizer(str(tmp_path / place), reads_only="bert" in name) for place in ("whole", "cut"))
    assert one.get_vocab() == other.get_vocab()
    assert one.chat_template == other.chat_template
    assert parameters_of(str(tmp_path / "whole"), KEPT) == parameters_of(str(tmp_path / "cut")) == count_parameters(shallow)


def test_weights_in_several_files_keep_their_precision_and_an_index(tmp_path: Path) -> None:
    whole = load_model(str(save_llama(tmp_path / "whole", layers=6)))
    whole.to(torch.bfloat16).save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    cut(Source(str(tmp_path / "shards")), 2, tmp_path / "cut")
    index = json.loads((tmp_path / "cut" / "model.safetensors.index.json").read_text())["weight_map"]
    assert {name for name in index if ".layers.2." in name} == set()
    assert all(load_file(tmp_path / "cut" / file)[name].dtype == torch.bfloat16 for name, file in index.items())
    shallow = load_model(str(tmp_path / "cut"))
    last = layers_of(whole, 6)[-1].self_attn.q_proj.weight
    torch.testing.assert_close(layers_of(shallow, 2)[1].self_attn.q_proj.weight, last.float(), atol=0, rtol=0)


def test_a_number_is_spread_evenly_from_the_first_to_the_last() -> None:
    assert [kept_layers(count, 6) for count in (1, 2, 3, 6)] == [(1,), (1, 6), (1, 4, 6), (1, 2, 3, 4, 5, 6)]
    for depth in range(1, 40):
        for count in range(1, depth + 1):
            kept = kept_layers(count, depth)
            assert len(set(kept)) == count
            assert (kept[0], kept[-1]) == (1, depth if count > 1 else 1)
            gaps = [after - here for here, after in pairwise(kept)]
            assert max(gaps, default=0) - min(gaps, default=0) <= 1


@pytest.mark.parametrize(
    ("layers", "told"),
    [
        ([4, 4], "names a layer twice, or not in order"),
        ([4, 2], "names a layer twice, or not in order"),
        ([0, 2], "counted from 1"),
        (0, "counted from 1"),
        ([], "counted from 1"),
        ("half", "counted from 1"),
        (True, "counted from 1"),
    ],
)
def test_layers_that_mean_nothing_are_refused(layers: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=told):
        job(tmp_path, layers)


def test_more_layers_than_there_are_is_told(tmp_path: Path) -> None:
    for layers, most in ((7, 7), ((1, 9), 9)):
        with pytest.raises(ModelError, match=f"student.layers names {most}, and the model has 6 layers"):
            kept_layers(layers, 6)
    found = {finding.subject: finding for finding in check_job(job(tmp_path, 9))}
    assert found["student"].level == "problem"
    assert "the model has 6 layers" in found["student"].text


def test_layers_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    AlbertForMaskedLM(AlbertConfig(**COMMON, embedding_size=16)).save_pretrained(tmp_path / "albert")
    with pytest.raises(ModelError, match="share their weights"):
        cut(Source(str(tmp_path / "albert")), 2, tmp_path / "cut")
    assert not (tmp_path / "cut").exists()
    with pytest.raises(ModelError, match="two stacks"):
        renamed([f"{side}.layers.{n}.weight" for side in ("encoder", "decoder") for n in range(3)], 3, (1, 3))


def test_a_layer_that_would_become_another_kind_is_refused() -> None:
    """As where every second layer is global by a rule: the configuration's list is lost here by hand."""
    whole = Gemma2Config(**SLIDING)
    good = cut_config(whole, (2, 4))
    refuse_layers_made_by_their_place(whole, good, (2, 4), False)
    good.layer_types = ["sliding_attention", "full_attention"]
    with pytest.raises(ModelError, match=r"layer 2 of Gemma2Model would be another one as layer 1 \(.*sliding"):
        refuse_layers_made_by_their_place(whole, good, (2, 4), False)


def job(folder: Path, layers: Any, **more: Any) -> Job:
    teacher = folder / "teacher"
    if not teacher.is_dir():
        save_llama(teacher, layers=6)
    row = '{"messages": [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "yes"}]}\n'
    (folder / "train.jsonl").write_text(row * 20)
    return Job(
        folder=folder, name="run", task="qa", data="train.jsonl", teacher={"kind": "huggingface", "model": str(teacher)},
        student={"model": str(teacher), "layers": layers}, **more,
    )  # fmt: skip


def test_a_job_cuts_its_student_once_trains_it_and_keeps_it_as_the_baseline(tmp_path: Path) -> None:
    losses = ["cross_entropy", {"kind": "hidden_mse", "layers": [[3, 6]]}]
    made = job(tmp_path, 3, train={"losses": losses, "batch_size": 4, "epochs": 1, "validations": 1}, evaluate={"control": False})
    said = {finding.subject: finding.text for finding in check_job(made)}
    assert "layers 1, 4, 6 of 6" in said["student"]
    assert "the student's 3 from 6" in said["layers of hidden_mse"]
    folder = RunFolder(made.run_path)
    rows = [Example(str(n), (Message("user", f"Row {n}?"),)) for n in range(8)]
    write_rows(folder.answers / "kept.jsonl", (Lesson(one, "yes, please", "teacher").as_dict() for one in rows))
    for place in (folder.answers / "validation.jsonl", folder.data / "validation.jsonl"):
        write_rows(place, [])
    train_stage.run(made, folder)
    (baseline,) = (system for system in systems(made, folder) if system.name == "baseline")
    assert baseline.model == str(folder.untouched)
    assert load_config(str(folder.model)).num_hidden_layers == load_config(baseline.model).num_hidden_layers == 3
    before, after = (load_file(place / "model.safetensors") for place in (folder.untouched, folder.model))
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    cut_at = (folder.untouched / "cut.json").stat().st_mtime_ns
    assert untouched(made, folder).layers is None
    assert (folder.untouched / "cut.json").stat().st_mtime_ns == cut_at
    untouched(job(tmp_path, [2, 5]), folder)
    assert load_config(str(folder.untouched)).num_hidden_layers == 2
    tokenizer = load_tokenizer(str(folder.model))
    (answer,) = generate(load_model(str(folder.model)), tokenizer, [[5, 6, 7]], Sampling(max_tokens=4))
    assert answer.completion_tokens > 0


def test_other_layers_are_another_student_and_all_of_them_are_the_one_it_was(tmp_path: Path) -> None:
    folder = str(save_bert(tmp_path / "bert", layers=4))
    kinds = [StudentSettings(model=folder, **more).identity() for more in ({}, {"layers": 2}, {"layers": [1, 2]})]  # type: ignore[arg-type]
    assert "layers" not in kinds[0]
    assert [kind.get("layers") for kind in kinds] == [None, 2, [1, 2]]


def test_a_folder_without_safetensors_is_told(tmp_path: Path) -> None:
    folder = save_llama(tmp_path / "whole", layers=3)
    save_file({"x": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(ModelError, match="cannot be told"):
        cut(Source(str(folder)), 2, tmp_path / "cut")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="holds no safetensors weights"):
        cut(Source(str(folder)), 2, tmp_path / "cut")
