"""What a model is, read from its config.json alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import save_bert

from potstill.architectures import has_labels, labels_of, stored_config, writes_text


@pytest.mark.parametrize(
    ("architecture", "writes"),
    [
        ("LlamaForCausalLM", True),
        ("GPT2LMHeadModel", True),
        ("Gemma3ForConditionalGeneration", True),
        ("BertForMaskedLM", False),
        ("BertModel", False),
        ("RobertaForMaskedLM", False),
        ("ElectraForPreTraining", False),
        ("ModernBertForMaskedLM", False),
        ("DebertaV2ForMaskedLM", False),
        ("LlamaForSequenceClassification", False),
    ],
)
def test_only_language_models_that_write_write(architecture: str, writes: bool) -> None:
    assert writes_text({"architectures": [architecture]}) is writes


def test_a_model_that_does_not_say_what_it_is_and_one_whose_own_code_writes_count_as_writing() -> None:
    assert writes_text({})
    assert writes_text({"architectures": ["ChatModel"], "auto_map": {"AutoModelForCausalLM": "modeling.ChatModel"}})


def test_labels_stand_in_the_order_of_the_outputs(tmp_path: Path) -> None:
    config = {"architectures": ["BertForSequenceClassification"], "id2label": {str(n): f"l{n}" for n in (10, 2, 0, 1)}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert labels_of(str(tmp_path)) == ("l0", "l1", "l2", "l10")
    assert has_labels(str(tmp_path))


def test_what_is_not_here_or_cannot_be_read_is_nothing(tmp_path: Path, bert_folder: Path) -> None:
    assert stored_config(str(tmp_path)) is None
    assert stored_config("somebody/never-downloaded") is None
    assert stored_config("not/a/hub/id") is None
    (tmp_path / "config.json").write_text("{")
    assert stored_config(str(tmp_path)) is None
    assert labels_of(str(bert_folder)) == ()
    assert not has_labels(str(bert_folder))


def test_a_head_that_was_never_named_has_no_labels_but_is_a_head(tmp_path: Path) -> None:
    folder = save_bert(tmp_path / "bert")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["BertForSequenceClassification"]}))
    assert has_labels(str(folder))
    assert labels_of(str(folder)) == ()
