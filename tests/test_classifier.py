"""Heads of labels on encoders and decoders: the same answer alone and in a batch, and heads kept, sorted or drawn anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_encoder_tokenizer
from transformers import (
    DebertaV2Config,
    DebertaV2ForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
    T5GemmaConfig,
)

from potstill.batches import Row, make_batches
from potstill.classifier import (
    body_projections,
    classifier_architecture,
    classify,
    has_label_head,
    head_modules,
    label_outlook,
    load_classifier,
    longest_text,
)
from potstill.errors import ModelError
from potstill.rendering import load_tokenizer, read_ids
from potstill.student import LoraShape, add_lora, load_config, load_model, save_model
from potstill.types import Message

LABELS = ("entailment", "neutral", "contradiction")
TEXTS = ("A man walks.", "A person moves. " * 5, "Ten apples", "Please restart the router. " * 3)


def save_encoder(folder: Path, family: str) -> Path:
    tokenizer = make_encoder_tokenizer()
    torch.manual_seed(1)
    size = {"vocab_size": len(tokenizer), "pad_token_id": 0, "max_position_embeddings": 130}
    usual = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    ends = {"bos_token_id": 2, "cls_token_id": 2, "eos_token_id": 3, "sep_token_id": 3}
    models = {
        "roberta": lambda: RobertaForMaskedLM(RobertaConfig(**size, **usual)),
        "distilbert": lambda: DistilBertForMaskedLM(DistilBertConfig(**size, dim=32, hidden_dim=64, n_layers=2, n_heads=4)),
        "deberta": lambda: DebertaV2ForMaskedLM(DebertaV2Config(**size, **usual)),
        "modernbert": lambda: ModernBertForMaskedLM(ModernBertConfig(**size, **usual, **ends)),
    }
    models[family]().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(params=["bert", "llama", "roberta", "distilbert", "deberta", "modernbert"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param in ("bert", "llama"):
        found: Path = request.getfixturevalue({"bert": "bert_folder", "llama": "student_folder"}[request.param])
        return found
    return save_encoder(tmp_path / request.param, request.param)


def loaded(folder: Path, labels: tuple[str, ...] = LABELS, seed: int = 0) -> tuple[Any, Any, list[list[int]]]:
    tokenizer = load_tokenizer(str(folder), reads_only=True)
    model = load_classifier(str(folder), labels, tokenizer, seed=seed)
    return tokenizer, model, [read_ids(tokenizer, [Message("user", text)]) for text in TEXTS]


def test_a_text_has_the_same_probabilities_alone_and_in_a_padded_batch(folder: Path) -> None:
    _, model, texts = loaded(folder)
    alone = {one.number: one.probabilities for one in classify(model, texts, batch_tokens=1)}
    together = {one.number: one.probabilities for one in classify(model, texts)}
    assert sorted(alone) == sorted(together) == list(range(len(texts)))
    for number, probabilities in alone.items():
        assert sum(probabilities) == pytest.approx(1.0, abs=1e-6)
        assert together[number] == pytest.approx(probabilities, abs=1e-5)
    assert len({tuple(round(p, 7) for p in one) for one in alone.values()}) == len(texts), "every text gets the same"


def test_rows_in_training_get_the_logits_that_they_get_when_asked(folder: Path) -> None:
    _, model, texts = loaded(folder)
    rows = [Row(torch.tensor(text).int().numpy(), torch.tensor([n % 3]).int().numpy()) for n, text in enumerate(texts)]
    asked = {one.number: one.probabilities for one in classify(model, texts)}
    seen = 0
    for batch in make_batches(rows, range(len(rows)), token_budget=256, packing=False, pad_id=model.config.pad_token_id):
        logits_NL, head = label_outlook(model, batch)
        assert batch.target_N.tolist() == [number % 3 for number in batch.numbers]
        assert head.num_words == len(LABELS)
        for number, probabilities in zip(batch.numbers, logits_NL.softmax(1).tolist(), strict=True):
            assert probabilities == pytest.approx(asked[number], abs=1e-5)
            seen += 1
    assert seen == len(texts)


def test_a_fresh_head_is_drawn_from_its_seed_and_disturbs_no_other_draw(folder: Path) -> None:
    before = torch.get_rng_state()
    states = [loaded(folder, seed=seed)[1].state_dict() for seed in (0, 0, 1)]
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_a_head_for_these_labels_is_kept_in_any_order_and_spelling(folder: Path, tmp_path: Path) -> None:
    tokenizer, model, texts = loaded(folder)
    save_model(model, tokenizer, tmp_path / "kept", torch.float32)
    _, again, _ = loaded(tmp_path / "kept", seed=5)
    turned = ("CONTRADICTION", "Entailment", "neutral")
    _, other, _ = loaded(tmp_path / "kept", turned, seed=5)
    for one, same, moved in zip(*(sorted(classify(m, texts)) for m in (model, again, other)), strict=True):
        assert same.probabilities == pytest.approx(one.probabilities, abs=1e-6)
        assert [moved.probabilities[place] for place in (1, 2, 0)] == pytest.approx(one.probabilities, abs=1e-6)
    assert other.config.id2label == dict(enumerate(turned))


@pytest.mark.parametrize("labels", [("yes", "no", "perhaps"), ("yes", "no"), ("a", "b", "c", "d")])
def test_a_head_for_other_labels_is_drawn_anew_even_where_it_fits(
    bert_folder: Path, tmp_path: Path, labels: tuple[str, ...]
) -> None:
    tokenizer, model, _ = loaded(bert_folder)
    with torch.no_grad():
        model.classifier.weight.fill_(3.0)
    save_model(model, tokenizer, tmp_path / "other", torch.float32)
    _, fresh, _ = loaded(tmp_path / "other", labels)
    assert fresh.classifier.weight.shape[0] == len(labels)
    assert float(fresh.classifier.weight.detach().abs().max()) < 1.0


def test_low_rank_adapters_stand_in_the_body_and_the_head_is_trained_whole_and_saved(folder: Path, tmp_path: Path) -> None:
    tokenizer, model, texts = loaded(folder)
    body = body_projections(model)
    heads = head_modules(model)
    assert body
    assert not any(name.startswith(tuple(heads)) for name in body)
    adapted = add_lora(model, LoraShape(4, 8, 0.0, tuple(body)), heads=heads)
    trained = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert all("lora_" in name or "modules_to_save" in name for name in trained)
    assert any("lora_" in name for name in trained)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if name in trained:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
    assert has_label_head(adapted)
    expected = {one.number: one.probabilities for one in classify(adapted.get_base_model(), texts)}
    save_model(adapted, tokenizer, tmp_path / "merged", torch.float32)
    _, merged, _ = loaded(tmp_path / "merged")
    for one in classify(merged, texts):
        assert one.probabilities == pytest.approx(expected[one.number], abs=2e-5)


def test_the_longest_text_is_what_both_positions_and_tokenizer_allow(
    bert_folder: Path, student_folder: Path, tmp_path: Path
) -> None:
    for place, longest in ((bert_folder, 256), (student_folder, 512), (save_encoder(tmp_path / "r", "roberta"), 129)):
        tokenizer = load_tokenizer(str(place), reads_only=True)
        assert longest_text(load_config(str(place)), tokenizer) == longest
        tokenizer.model_max_length = 64
        assert longest_text(load_config(str(place)), tokenizer) == 64
    _, model, _ = loaded(tmp_path / "r")
    (found,) = classify(model, [[2] + [9] * 128])
    assert len(found.probabilities) == 3


def test_an_architecture_without_such_a_head_says_so(bert_folder: Path) -> None:
    assert classifier_architecture(load_config(str(bert_folder)), "BertForMaskedLM") == "BertForSequenceClassification"

    class Odd(T5GemmaConfig):
        model_type = "odd"

    with pytest.raises(ModelError, match="no classification head for OddModel"):
        classifier_architecture(Odd(), "OddModel")


def test_a_text_model_has_no_label_head(student_folder: Path) -> None:
    assert not has_label_head(load_model(str(student_folder)))
