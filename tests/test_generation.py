from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from potstill.generation import Generated, generate
from potstill.rendering import load_tokenizer, prompt_ids
from potstill.student import load_model
from potstill.types import Message, Sampling

QUESTIONS = [
    "Hi",
    "My router shows a red light. What now?",
    "How many apples are left of 12 when 5 are eaten?",
    "Premise: A man walks. Hypothesis: A person moves. Which is it: entailment, neutral or contradiction?",
    "",
    "Please restart the router and wait ten seconds. " * 3,
]


@pytest.fixture(scope="module")
def tokenizer(teacher_folder: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(str(teacher_folder))


@pytest.fixture(scope="module")
def model(teacher_folder: Path) -> PreTrainedModel:
    return load_model(str(teacher_folder), device="cpu", dtype=torch.float32)


def _prompts(tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    return [prompt_ids(tokenizer, [Message("user", question)]) for question in QUESTIONS]


def _answers(rows: list[Generated]) -> dict[int, tuple[str, str, int, int]]:
    return {row.index: (row.text, row.finish_reason, row.prompt_tokens, row.completion_tokens) for row in rows}


@pytest.mark.parametrize("folder", ["teacher_folder", "phi3_folder"])
def test_greedy_batches_equal_one_by_one(folder: str, request: pytest.FixtureRequest) -> None:
    place = str(request.getfixturevalue(folder))
    tokenizer, model = load_tokenizer(place), load_model(place, device="cpu", dtype=torch.float32)
    prompts = _prompts(tokenizer)
    together = list(generate(model, tokenizer, prompts, Sampling(max_tokens=24), batch_tokens=10_000))
    alone = list(generate(model, tokenizer, prompts, Sampling(max_tokens=24), batch_tokens=1))
    assert _answers(together) == _answers(alone)
    assert [row.last_of_batch for row in together] == [False] * 5 + [True]
    assert all(row.last_of_batch for row in alone)


def test_rows_come_longest_first_and_every_index_once(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    rows = list(generate(model, tokenizer, _prompts(tokenizer), Sampling(max_tokens=2), batch_tokens=200))
    lengths = [row.prompt_tokens for row in rows]
    assert lengths == sorted(lengths, reverse=True)
    assert sorted(row.index for row in rows) == list(range(len(QUESTIONS)))


def test_a_row_that_says_its_stop_token_stops_and_its_neighbour_is_cut(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    prompts = _prompts(tokenizer)
    whole = {row.index: row for row in generate(model, tokenizer, prompts[:4], Sampling(max_tokens=12))}
    assert {row.finish_reason for row in whole.values()} == {"length"}
    stop = _first_token_of(model, prompts[0])
    tokenizer.eos_token_id, usual = stop, tokenizer.eos_token_id
    try:
        rows = {row.index: row for row in generate(model, tokenizer, prompts[:4], Sampling(max_tokens=12))}
    finally:
        tokenizer.eos_token_id = usual
    assert (rows[0].text, rows[0].finish_reason, rows[0].completion_tokens) == ("", "stop", 1)
    others = [row for index, row in rows.items() if index and row.finish_reason == "length"]
    assert all(row.completion_tokens == 12 for row in others)


@pytest.mark.parametrize("place", [1, 3, 9, 20])
def test_rows_that_leave_the_batch_early_change_nothing_for_the_others(
    place: int, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    prompts = _prompts(tokenizer)
    stop = _token_said(model, prompts[1], place)
    tokenizer.eos_token_id, usual = stop, tokenizer.eos_token_id
    try:
        together = _answers(list(generate(model, tokenizer, prompts, Sampling(max_tokens=40))))
        alone = _answers(list(generate(model, tokenizer, prompts, Sampling(max_tokens=40), batch_tokens=1)))
    finally:
        tokenizer.eos_token_id = usual
    assert together == alone
    assert "stop" in {reason for _, reason, _, _ in together.values()}


def _token_said(model: PreTrainedModel, prompt: list[int], place: int) -> int:
    said = list(prompt)
    for _ in range(place + 1):
        said.append(_first_token_of(model, said))
    return said[-1]


def _first_token_of(model: PreTrainedModel, prompt: list[int]) -> int:
    with torch.inference_mode():
        return int(model(torch.tensor([prompt])).logits[0, -1].argmax())


def test_sampling_repeats_with_the_seed_and_leaves_the_global_generator_alone(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    prompts = _prompts(tokenizer)
    sampling = Sampling(max_tokens=8, temperature=1.0, top_p=0.9)
    before = torch.get_rng_state()
    first = _answers(list(generate(model, tokenizer, prompts, sampling, seed=3)))
    assert torch.equal(before, torch.get_rng_state())
    assert first == _answers(list(generate(model, tokenizer, prompts, sampling, seed=3)))
    assert first != _answers(list(generate(model, tokenizer, prompts, sampling, seed=4)))


def test_the_checkpoints_own_sampling_settings_are_not_used(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    prompts = _prompts(tokenizer)
    plain = _answers(list(generate(model, tokenizer, prompts, Sampling(max_tokens=8))))
    model.generation_config.repetition_penalty = 5.0
    try:
        assert plain == _answers(list(generate(model, tokenizer, prompts, Sampling(max_tokens=8))))
        assert model.generation_config.repetition_penalty == 5.0
    finally:
        model.generation_config.repetition_penalty = None


def test_padded_rows_of_the_vocabulary_are_never_said(teacher_folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    model = load_model(str(teacher_folder), device="cpu", dtype=torch.float32)
    prompts = _prompts(tokenizer)[:2]
    plain = _answers(list(generate(model, tokenizer, prompts, Sampling(max_tokens=8))))
    words = len(tokenizer)
    favourite = _first_token_of(model, prompts[0])
    model.resize_token_embeddings(words + 7, mean_resizing=False)
    with torch.no_grad():
        weight = model.get_output_embeddings().weight
        weight[words:] = 3 * weight[favourite]
    assert _first_token_of(model, prompts[0]) >= words
    assert plain == _answers(list(generate(model, tokenizer, prompts, Sampling(max_tokens=8))))


def test_no_prompts_give_no_rows(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    assert list(generate(model, tokenizer, [], Sampling())) == []
