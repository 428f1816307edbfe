"""What is recorded inside is what the model computes with, for every family that is known here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from potstill.batches import Batch
from potstill.errors import JobError
from potstill.insides import (
    Place,
    examine,
    examine_config,
    looks_ahead,
    prefers_eager,
    projections,
    rehearse,
    visible_keys,
    watching,
)
from potstill.student import LoraShape, add_lora, hidden_states

SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1,
}  # fmt: skip
GROUPED = {**SIZES, "num_key_value_heads": 2}
MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**GROUPED)),
    "phi3": lambda: Phi3ForCausalLM(Phi3Config(**GROUPED)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**GROUPED, head_dim=16)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=64, n_embd=32, n_layer=3, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=1)
    ),
    "bert": lambda: BertModel(BertConfig(**SIZES)),
    "bert with labels": lambda: BertForSequenceClassification(BertConfig(**SIZES)),
    "distilbert": lambda: DistilBertModel(
        DistilBertConfig(vocab_size=64, dim=32, hidden_dim=48, n_layers=3, n_heads=4, pad_token_id=0)
    ),
}
IDS = torch.arange(5, 14)[None]
POSITIONS = torch.arange(9)[None]
ALL: list[Place] = [(inside, layer) for inside in ("hidden", "attention", "queries", "keys", "values") for layer in (1, 2, 3)]  # type: ignore[misc]


def made(family: str) -> PreTrainedModel:
    torch.manual_seed(0)
    return MODELS[family]().eval()


def inside(model: PreTrainedModel, places: list[Place]) -> dict[Place, torch.Tensor]:
    with watching(model, places) as seen:
        hidden_states(model, IDS, POSITIONS)
    return seen


@pytest.mark.parametrize("family", MODELS)
def test_hidden_states_and_maps_are_those_that_the_model_gives_when_it_is_asked(family: str) -> None:
    model = made(family)
    prefers_eager(model)
    seen = inside(model, [*ALL, ("hidden", 0)])
    with torch.no_grad():
        out = model.base_model(input_ids=IDS, position_ids=POSITIONS, output_hidden_states=True, output_attentions=True)
    assert torch.equal(seen["hidden", 0], out.hidden_states[0])
    for layer in (1, 2, 3):
        torch.testing.assert_close(seen["hidden", layer], out.hidden_states[layer])
        torch.testing.assert_close(seen["attention", layer], out.attentions[layer - 1])
    torch.testing.assert_close(seen["hidden", 3], out.last_hidden_state)
    torch.testing.assert_close(seen["attention", 2].sum(-1), torch.ones(1, 4, 9))


@pytest.mark.parametrize("family", [family for family in MODELS if family != "qwen3"])
def test_queries_and_keys_give_the_models_own_maps(family: str) -> None:
    """With rotation switched off, softmax(Q K^T / sqrt(head)) with repeated keys is the map; Qwen3 normalises in between."""
    model = made(family)
    prefers_eager(model)
    for module in model.modules():
        if hasattr(module, "inv_freq"):
            module.inv_freq.zero_()
    seen = inside(model, ALL)
    causal_TT = torch.ones(9, 9, dtype=torch.bool).tril() if not looks_ahead(model) else torch.ones(9, 9, dtype=torch.bool)
    for layer in (1, 2, 3):
        queries, keys = (seen[name, layer][0].unflatten(-1, (-1, 8)).transpose(0, 1) for name in ("queries", "keys"))
        keys = keys.repeat_interleave(len(queries) // len(keys), dim=0)
        scores = (queries @ keys.mT / 8**0.5).masked_fill(~causal_TT, -torch.inf)
        torch.testing.assert_close(scores.softmax(-1), seen["attention", layer][0], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "phi3", "qwen3", "gpt2"])
def test_values_are_what_a_first_token_gets_from_itself(family: str) -> None:
    model = made(family)
    attention = next(module for module in model.modules() if "Attention" in type(module).__name__)
    out: list[torch.Tensor] = []
    attention.register_forward_hook(lambda module, args, given: out.append(given[0]))
    values = inside(model, [("values", 1)])["values", 1][0, 0]
    head = model.config.head_dim if family == "qwen3" else 8
    repeated = values.unflatten(-1, (-1, head)).repeat_interleave(4 * head // len(values), dim=0).flatten()
    last: Any = attention.c_proj if family == "gpt2" else attention.o_proj
    torch.testing.assert_close(last(repeated), out[0][0, 0])


def test_builds_are_told_with_grouped_widths_and_alike_without_weights() -> None:
    builds = {family: examine(made(family)) for family in MODELS}
    assert builds["llama"].widths == builds["phi3"].widths == {"queries": 32, "keys": 16, "values": 16}
    assert builds["qwen3"].widths == {"queries": 64, "keys": 32, "values": 32}
    assert builds["gpt2"].widths == builds["bert"].widths == {"queries": 32, "keys": 32, "values": 32}
    assert {(one.depth, one.width, one.num_heads) for one in builds.values()} == {(3, 32, 4)}
    for family, build in builds.items():
        config = examine_config(made(family).config)
        assert (config.depth, config.width, config.num_heads, config.widths) == (3, 32, 4, build.widths)
        assert build.without_maps == config.without_maps == ()


def test_an_architecture_whose_projections_are_not_known_shows_none_and_its_hidden_states() -> None:
    neox = GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES)).eval()
    assert projections(neox) == []
    assert examine(neox).widths == {}
    rehearse(neox, [("hidden", 1)])
    with pytest.raises(JobError, match="GPTNeoXForCausalLM shows nothing for the queries of layer 1"):
        rehearse(neox, [("queries", 1)])


def test_what_a_model_does_not_show_is_refused_before_training() -> None:
    model = made("llama")
    with pytest.raises(JobError, match="LlamaForCausalLM shows nothing for the attention of layer 2"):
        rehearse(model, [("attention", 2)])  # fused attention
    prefers_eager(model)
    rehearse(model, ALL)
    with pytest.raises(JobError, match="shows nothing for the hidden of layer 4"):
        rehearse(model, [("hidden", 4)])


def test_a_model_without_attention_has_hidden_states_alone() -> None:
    mamba = MambaForCausalLM(MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=4)).eval()
    assert (examine(mamba).num_heads, examine(mamba).widths, examine(mamba).without_maps) == (0, {}, (1, 2))
    rehearse(mamba, [("hidden", 0), ("hidden", 2)])
    with pytest.raises(JobError, match="MambaForCausalLM shows nothing for the attention of layer 1"):
        rehearse(mamba, [("attention", 1)])


def test_encoders_look_ahead_and_decoders_do_not() -> None:
    ahead = {family: looks_ahead(made(family)) for family in MODELS}
    assert ahead == {**dict.fromkeys(("llama", "phi3", "qwen3", "gpt2"), False),
                     **dict.fromkeys(("bert", "bert with labels", "distilbert"), True)}  # fmt: skip


def test_keys_are_those_of_the_own_row_and_padding_is_none() -> None:
    """Two rows of 3 and 2 in the first line; one row of 4 in the second; the targets are the rows' last positions."""
    positions_BT = torch.tensor([[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 0, 0]])
    at_N = torch.tensor([1, 2, 4, 9])
    batch = Batch(torch.zeros(2, 6, dtype=torch.long), positions_BT, at_N, at_N, (0, 1, 2))
    assert visible_keys(batch, ahead=False).int().tolist() == [
        [1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 0], [1, 1, 1, 1, 0, 0],
    ]  # fmt: skip
    assert visible_keys(batch, ahead=True).int().tolist()[0] == [1, 1, 1, 0, 0, 0]


def test_nothing_is_left_in_the_model_when_the_watch_ends() -> None:
    model = made("llama")
    before = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    inside(model, [("queries", 1), ("hidden", 2)])
    first = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    inside(model, [("queries", 1), ("hidden", 2)])
    again = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    assert first == again  # transformers' own recorders stay where they were put the first time
    assert model.model.layers[0].self_attn.q_proj._forward_hooks == {}
    assert len(before) == len(again)


@pytest.mark.parametrize("lora", [False, True])
def test_gradients_reach_the_student_through_every_place_also_with_checkpoints_and_adapters(lora: bool) -> None:
    found = []
    for checkpoints in (False, True):
        model: nn.Module = made("llama")
        if checkpoints:
            model.activation_checkpointing_enable()  # type: ignore[operator]
        if lora:
            torch.manual_seed(1)
            model = add_lora(model, LoraShape(4, 8, 0.0, ("all-linear",)))  # type: ignore[arg-type]
        prefers_eager(model)
        model.train()
        with watching(model, ALL) as seen:
            hidden_states(model, IDS, POSITIONS)
        torch.manual_seed(2)
        sum((seen[place] * torch.randn_like(seen[place])).sum() for place in ALL).backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    plain, checkpointed = found
    assert plain.keys() == checkpointed.keys()
    wanted = "layers.0.self_attn.k_proj.lora_A.default.weight" if lora else "layers.0.self_attn.k_proj.weight"
    assert any(name.endswith(wanted) for name in plain)
    for name, gradient in plain.items():
        torch.testing.assert_close(gradient, checkpointed[name], atol=1e-6, rtol=1e-4)
