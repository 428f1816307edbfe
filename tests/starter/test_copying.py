"""Copying heads by construction."""

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from potstill.starter.copying import ROTARY_BASE, Shape, build_copying_heads


def test_a_fresh_model_with_built_heads_continues_a_repeated_random_sequence() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1000,
        hidden_size=256,
        num_hidden_layers=3,
        intermediate_size=512,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": ROTARY_BASE},
    )
    model = LlamaForCausalLM(config).eval()
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    build_copying_heads(weights, Shape(256, 64, 4, 2), [f"word{number}" for number in range(1000)])
    once = torch.from_numpy(np.random.default_rng(1).integers(0, 1000, (8, 30)))
    with torch.inference_mode():
        predicted = model(input_ids=torch.cat([once, once], dim=1)).logits.argmax(-1)[:, 30:-1]
    assert (predicted == once[:, 1:]).float().mean() > 0.9
