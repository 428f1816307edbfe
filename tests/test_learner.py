"""What of a model is trained: all, adapters, or what is not frozen; and that merged adapters say the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from test_training import training

from potstill.errors import ModelError
from potstill.learner import make_learner
from potstill.recipe import StudentSettings, TrainSettings
from potstill.student import LoraShape, add_lora, load_model, merged
from potstill.training import train

CPU = torch.device("cpu")


def adapted(folder: Path, *, magnitudes: bool) -> PeftModel:
    """Adapters that do something, as they do after training."""
    model = add_lora(load_model(str(folder)), LoraShape(4, 8, 0.0, ("all-linear",), magnitudes))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
    assert isinstance(model, PeftModel)
    return model


@pytest.mark.parametrize("magnitudes", [False, True], ids=["lora", "dora"])
def test_merging_adapters_changes_no_score(student_folder: Path, magnitudes: bool) -> None:
    model = adapted(student_folder, magnitudes=magnitudes).eval()
    ids = torch.arange(5, 25)[None]
    before = model(input_ids=ids).logits.detach()
    assert (before - load_model(str(student_folder))(ids).logits).abs().max() > 1e-3
    assert (merged(model)(input_ids=ids).logits - before).abs().max() < 1e-5  # type: ignore[operator]


def test_a_merge_that_changes_what_the_model_says_is_refused(student_folder: Path) -> None:
    model = adapted(student_folder, magnitudes=False)
    layer = next(module for module in model.modules() if hasattr(module, "get_delta_weight"))
    layer.get_delta_weight = lambda adapter: torch.ones_like(layer.get_base_layer().weight)
    with pytest.raises(ModelError, match=r"could not be merged.*student\.adaptation: full"):
        merged(model)


def test_frozen_parts_stay_as_they_are(student_folder: Path, tmp_path: Path) -> None:
    frozen = StudentSettings(model=str(student_folder), freeze_embeddings=True, freeze_layers=1)
    train(replace(training(student_folder, tmp_path), student=frozen))
    before = load_model(str(student_folder)).state_dict()
    after = load_file(tmp_path / "run" / "model" / "model.safetensors")
    same = {name for name in after if torch.equal(after[name].float(), before[name].float())}
    assert {name for name in after if "embed_tokens" in name or "layers.0." in name} <= same
    assert not {name for name in after if "layers.1." in name} & same


def test_adapters_of_frozen_layers_are_not_trained(student_folder: Path) -> None:
    frozen = StudentSettings(model=str(student_folder), adaptation="lora", freeze_layers=1)
    names = list(make_learner(frozen, TrainSettings(), CPU).trained)
    assert names
    assert not [name for name in names if "layers.0." in name]


def test_more_frozen_layers_than_there_are_is_told(student_folder: Path) -> None:
    with pytest.raises(ModelError, match=r"freeze_layers is 99, and the model has \d+ layers"):
        make_learner(StudentSettings(model=str(student_folder), freeze_layers=99), TrainSettings(), CPU)
