"""GGUF for llama.cpp, Ollama and LM Studio, in half or in fewer bits, with the chat template and a Modelfile."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from ..contracts import Artefact, Exporter
from ..errors import MissingPackageError
from ..formats.ollama import modelfile
from ..recipe import listed
from ..rendering import load_tokenizer
from ..runtimes import load_runtime

try:
    from ..formats.gguf_model import FAMILIES, write_gguf
except ModuleNotFoundError as error:
    if error.name != "gguf":
        raise
    write_gguf = None  # type: ignore[assignment]  # who asks for the export is told which package is missing

Precision = Literal["f16", "q8_0", "q4_k_m"]
LEAST_AGREEMENT = {"f16": 0.99, "q8_0": 0.97, "q4_k_m": 0.85}
"""Two students of the quickstart had 100%, 100% and 99.5% or more (docs/log.md, 2026-11-25); below these something is broken."""
TAKES = "Llama, Mistral, Phi-3 and Qwen 2 and 3"


class Gguf(Exporter):
    """GGUF for llama.cpp, Ollama and LM Studio: one file for each of `precisions`, and a Modelfile for the first of them."""

    precisions: Annotated[tuple[Precision, ...], BeforeValidator(listed)] = Field(
        default=("q4_k_m", "q8_0"), min_length=1, description="f16: 16 bits a weight; q8_0: 8.5; q4_k_m: about 4.9"
    )

    def problem(self, architecture: str) -> str | None:
        if write_gguf is None:
            return str(MissingPackageError("gguf", "gguf"))
        return None if architecture in FAMILIES else f"GGUF is written for {TAKES} models, and this one is {architecture}"

    def export(self, model_folder: Path, target_folder: Path) -> None:
        target_folder.mkdir(parents=True, exist_ok=True)
        for precision in self.precisions:
            write_gguf(model_folder, target_folder / f"model-{precision}.gguf", precision)
        tokenizer = load_tokenizer(str(model_folder))
        context = int(json.loads((model_folder / "config.json").read_text(encoding="utf-8"))["max_position_embeddings"])
        text = modelfile(tokenizer, f"model-{self.precisions[0]}.gguf", context)
        (target_folder / "Modelfile").write_text(text, encoding="utf-8")

    def artefacts(self, model_folder: Path, target_folder: Path) -> Sequence[Artefact]:
        return [self._artefact(model_folder, target_folder, precision) for precision in self.precisions]

    def _artefact(self, model_folder: Path, target_folder: Path, precision: Precision) -> Artefact:
        name = f"model-{precision}.gguf"
        load = functools.partial(load_runtime, target_folder, gguf_file=name, config_of=model_folder)
        return Artefact(f"gguf {precision}", (target_folder / name,), "transformers", load, LEAST_AGREEMENT[precision])
