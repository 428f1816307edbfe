"""Rows that join and leave a running batch say what they say alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_tokenizer
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    MambaConfig,
    MistralConfig,
    OPTConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)

from potstill.errors import ModelError
from potstill.generation import generate
from potstill.refill import Ask, Writer, draw, resting, uniforms
from potstill.rendering import load_tokenizer, prompt_ids
from potstill.student import LoraShape, add_lora, load_model
from potstill.types import Message, Sampling

QUESTIONS = [
    "Hi",
    "My router shows a red light. What now?",
    "How many apples are left of 12 when 5 are eaten?",
    "",
    "please " * 40,
]
SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 512, "bos_token_id": None,
}  # fmt: skip


def gemma2(words: int) -> PretrainedConfig:
    """Every other layer sees 12 tokens; scores are capped."""
    return Gemma2Config(vocab_size=words, head_dim=8, sliding_window=12, final_logit_softcapping=3.0, eos_token_id=1, **SIZES)


def mistral(words: int) -> PretrainedConfig:
    return MistralConfig(vocab_size=words, sliding_window=9, eos_token_id=1, **SIZES)


def qwen3(words: int) -> PretrainedConfig:
    return Qwen3Config(vocab_size=words, head_dim=8, eos_token_id=1, **SIZES)


def gpt2(words: int) -> PretrainedConfig:
    return GPT2Config(vocab_size=words, n_embd=32, n_layer=2, n_head=4, n_positions=512, bos_token_id=None, eos_token_id=1)


def opt(words: int) -> PretrainedConfig:
    return OPTConfig(
        vocab_size=words, hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=32,
        max_position_embeddings=512, dropout=0.0, pad_token_id=0, bos_token_id=1, eos_token_id=1,
    )  # fmt: skip


def mamba(words: int) -> PretrainedConfig:
    return MambaConfig(vocab_size=words, hidden_size=32, state_size=4, num_hidden_layers=2, bos_token_id=1, eos_token_id=1)


def made(config: Callable[[int], PretrainedConfig]) -> tuple[PreTrainedModel, Any]:
    tokenizer: Any = make_tokenizer()
    tokenizer.padding_side = "left"
    torch.manual_seed(4)
    return AutoModelForCausalLM.from_config(config(len(tokenizer))).eval(), tokenizer


def asks(tokenizer: Any, limits: tuple[int, ...] = (30, 9, 40, 17, 24), rounds: int = 3) -> list[Ask]:
    prompts = [prompt_ids(tokenizer, [Message("user", question)]) for question in QUESTIONS] * rounds
    return [Ask(prompt, limits[number % len(limits)], f"row {number}") for number, prompt in enumerate(prompts)]


@pytest.mark.parametrize("config", [gemma2, mistral, qwen3, gpt2, opt, mamba])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_says_the_same_alone_and_among_rows_that_come_and_go(
    config: Callable[[int], PretrainedConfig], temperature: float
) -> None:
    model, tokenizer = made(config)
    asked = asks(tokenizer)
    together = Writer(model, tokenizer, Sampling(temperature=temperature), batch_tokens=330)
    alone = Writer(model, tokenizer, Sampling(temperature=temperature), batch_tokens=1)
    assert together.mixes == (config is not mamba)
    found = together.write(asked)
    assert found == [alone.write([ask])[0] for ask in asked]
    assert all(len(ids) <= ask.limit for ids, ask in zip(found, asked, strict=True))


@pytest.mark.parametrize("config", [gemma2, qwen3, opt])
def test_greedy_answers_are_those_of_batched_generation(config: Callable[[int], PretrainedConfig]) -> None:
    model, tokenizer = made(config)
    asked = asks(tokenizer, limits=(24,))
    written = Writer(model, tokenizer, Sampling(), batch_tokens=300).write(asked)
    prompts = [list(ask.prompt) for ask in asked]
    for row in generate(model, tokenizer, prompts, Sampling(max_tokens=24)):
        ids = written[row.index]
        kept = ids[:-1] if row.finish_reason == "stop" else ids
        assert (tokenizer.decode(kept, skip_special_tokens=True), len(ids)) == (row.text, row.completion_tokens)


def test_rows_that_wait_join_before_the_longest_has_ended() -> None:
    """Four rows at a time, one of 60 tokens and twelve of 5: as many forward passes as the long one's tokens, not their sum."""
    model, tokenizer = made(qwen3)
    tokenizer.eos_token_id, writer = 1, Writer(model, tokenizer, Sampling(temperature=1.0), batch_tokens=4 * 64)
    writer.stops = frozenset()
    asked = [Ask([7, 8, 9, 10], 60, "long"), *(Ask([7, 8, 9], 5, f"short {n}") for n in range(12))]
    passes: list[int] = []
    hook = model.base_model.register_forward_hook(lambda *seen: passes.append(len(seen[2].last_hidden_state)))
    found = writer.write(asked)
    hook.remove()
    assert [len(ids) for ids in found] == [60, *[5] * 12]
    num_reads = len(passes) - 59
    assert 3 <= num_reads <= 12
    assert max(passes) == 4


def test_a_rows_random_numbers_are_its_own_and_leave_the_global_ones_alone() -> None:
    model, tokenizer = made(qwen3)
    writer = Writer(model, tokenizer, Sampling(temperature=1.0))
    asked = asks(tokenizer, limits=(20,), rounds=1)
    before = torch.get_rng_state()
    first = writer.write(asked)
    assert torch.equal(before, torch.get_rng_state())
    assert writer.write(asked[::-1]) == first[::-1]
    assert writer.write([asked[2]._replace(seed="another")]) != [first[2]]
    assert list(uniforms("row", 3)) == list(uniforms("row", 9)[:3])
    assert 0.45 < np.mean(uniforms("row", 4000)) < 0.55


def test_draws_follow_the_probabilities_and_top_p_leaves_out_the_least() -> None:
    p = torch.tensor([0.1, 0.0, 0.6, 0.3])
    chances = [0.0, 0.0999, 0.1001, 0.6999, 0.7001, 1 - 2**-53]
    rows = p.log().expand(len(chances), -1)
    assert draw(rows, chances, Sampling(temperature=1.0)).tolist() == [0, 0, 2, 2, 3, 3]
    # The likeliest words come first, and 0.1 is left out: 0.6 / 0.9 of the chances fall on word 2.
    assert draw(rows, chances, Sampling(temperature=1.0, top_p=0.85)).tolist() == [2, 2, 2, 3, 3, 3]
    assert draw(rows, chances, Sampling(temperature=1.0, top_p=0.6)).tolist() == [2] * 6
    # At temperature 2 the probabilities are in proportion to their roots.
    roots = p.sqrt() / p.sqrt().sum()
    edge = float(roots[0])
    halved = draw(rows[:2], [edge - 1e-6, edge + 1e-6], Sampling(temperature=2.0))
    assert halved.tolist() == [0, 2]
    assert draw(rows[:1], [0.99], Sampling()).tolist() == [2]


def test_padded_rows_of_the_vocabulary_are_never_said(teacher_folder: Path) -> None:
    tokenizer, model = load_tokenizer(str(teacher_folder)), load_model(str(teacher_folder), device="cpu", dtype=torch.float32)
    words = len(tokenizer)
    model.resize_token_embeddings(words + 9, mean_resizing=False)
    with torch.no_grad():
        model.get_output_embeddings().weight[words:] = 9.0
    found = Writer(model, tokenizer, Sampling(temperature=5.0)).write([Ask([5, 6, 7], 200, "row")])
    assert max(found[0]) < words


@pytest.mark.parametrize("adaptation", ["full", "lora"])
def test_a_model_in_training_writes_without_dropout_and_goes_on_as_it_was(teacher_folder: Path, adaptation: str) -> None:
    tokenizer, model = load_tokenizer(str(teacher_folder)), load_model(str(teacher_folder), device="cpu", dtype=torch.float32)
    model.config.attention_dropout = 0.5
    usual = Writer(model, tokenizer, Sampling(temperature=1.0)).write(asks(tokenizer))
    enable: Any = model.activation_checkpointing_enable
    enable()
    if adaptation == "lora":
        model = add_lora(model, LoraShape(4, 8, 0.5, ("all-linear",)))
    model.train()
    frozen = next(model.modules())
    inner = [module for module in model.modules() if module is not frozen]
    inner[3].training = False
    modes = [module.training for module in model.modules()]
    writer = Writer(model, tokenizer, Sampling(temperature=1.0))
    assert writer.mixes
    assert writer.write(asks(tokenizer)) == usual  # an adapter that was never trained adds nothing
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    with resting(model):
        assert not any(module.training for module in model.modules())


def test_what_the_adapters_learned_is_in_what_is_written(teacher_folder: Path) -> None:
    tokenizer, model = load_tokenizer(str(teacher_folder)), load_model(str(teacher_folder), device="cpu", dtype=torch.float32)
    usual = Writer(model, tokenizer, Sampling(temperature=1.0)).write(asks(tokenizer))
    model = add_lora(model, LoraShape(4, 8, 0.0, ("all-linear",)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    assert Writer(model, tokenizer, Sampling(temperature=1.0)).write(asks(tokenizer)) != usual


def test_memory_that_runs_out_halves_the_batch_and_changes_no_answer(teacher_folder: Path) -> None:
    tokenizer, model = load_tokenizer(str(teacher_folder)), load_model(str(teacher_folder), device="cpu", dtype=torch.float32)
    writer = Writer(model, tokenizer, Sampling(temperature=1.0), batch_tokens=2000)
    usual = writer.write(asks(tokenizer))

    def full(_: object, inputs: tuple[object, ...], given: dict[str, torch.Tensor]) -> None:
        if len(given["input_ids"]) > 3:
            raise torch.OutOfMemoryError("out of memory")

    hook = model.base_model.register_forward_pre_hook(full, with_kwargs=True)
    assert writer.write(asks(tokenizer)) == usual
    hook.remove()
    assert 30 < writer.batch_tokens < 1000
    hook = model.base_model.register_forward_pre_hook(
        lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("out of memory")), with_kwargs=True
    )
    with pytest.raises(ModelError, match="max_answer_tokens"):
        writer.write(asks(tokenizer))
    hook.remove()


def test_nothing_asked_is_nothing_written() -> None:
    model, tokenizer = made(qwen3)
    assert Writer(model, tokenizer, Sampling(temperature=1.0)).write([]) == []
