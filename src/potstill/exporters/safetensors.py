"""Half-precision safetensors with tokenizer and generation config: what transformers, vLLM and SGLang load as it is."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from safetensors import safe_open
from safetensors.torch import save_file

from ..contracts import Artefact, Exporter
from ..errors import ModelError
from ..runtimes import load_runtime

HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
LEAST_AGREEMENT = 0.99
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")


class Safetensors(Exporter):
    """Half-precision safetensors with tokenizer and generation config, for transformers, vLLM and SGLang."""

    dtype: Literal["auto", "float16", "bfloat16"] = Field(
        default="auto", description="auto: bfloat16 where the weights are or a weight exceeds 65,504; else float16"
    )

    def problem(self, architecture: str) -> str | None:
        return None

    def export(self, model_folder: Path, target_folder: Path) -> None:
        """Casts each weight file by itself, so memory holds one file at most and no code of the checkpoint runs."""
        files = sorted(model_folder.glob("*.safetensors"))
        if not files or (model_folder / "adapter_config.json").exists():
            raise ModelError(f"{model_folder} holds no whole safetensors model; train the student again")
        target_folder.mkdir(parents=True, exist_ok=True)
        for path in model_folder.iterdir():
            if path.is_file() and path.suffix not in WEIGHTS and not path.name.startswith("."):
                shutil.copyfile(path, target_folder / path.name)
        dtype = self._dtype(files)
        for path in files:
            save_file(_cast(path, HALVES[dtype]), target_folder / path.name, metadata={"format": "pt"})
        config = json.loads((model_folder / "config.json").read_text(encoding="utf-8"))
        config.pop("torch_dtype", None)
        (target_folder / "config.json").write_text(json.dumps({**config, "dtype": dtype}, indent=2) + "\n", encoding="utf-8")

    def artefacts(self, model_folder: Path, target_folder: Path) -> Sequence[Artefact]:
        del model_folder  # the export brings all that it needs
        load = functools.partial(load_runtime, target_folder)
        return [Artefact(self.kind, tuple(sorted(target_folder.glob("*.safetensors"))), "transformers", load, LEAST_AGREEMENT)]

    def _dtype(self, files: list[Path]) -> str:
        if self.dtype != "auto":
            return self.dtype
        limit = torch.finfo(torch.float16).max
        for path in files:
            with safe_open(path, framework="pt") as weights:
                for name in weights.keys():  # noqa: SIM118 - safe_open is no mapping
                    tensor = weights.get_tensor(name)
                    if tensor.dtype == torch.bfloat16 or (tensor.is_floating_point() and tensor.abs().max() > limit):
                        return "bfloat16"
        return "float16"


def _cast(path: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    with safe_open(path, framework="pt") as weights:
        tensors = {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
