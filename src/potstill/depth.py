"""A shallower student: the named model with some of its layers only, as DistilBERT (Sanh et al. 2019, arXiv 1910.01108) and
Minitron (Sreenivas et al. 2024, arXiv 2408.11796) start from a teacher's own.

    cut(Source("./teacher"), 6, Path("untouched"))

Weights are taken out of the files by name and never loaded into a model, so the cut folder is an ordinary one, in the precision
of the whole. Layers are numbered from 1.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModel, PretrainedConfig

from .errors import ModelError
from .runfolder import replaced_folder
from .student import layers_of, load_config

LAYER = re.compile(r"(\D*?)\.(\d+)\.")
"""The first number in a tensor's name is its layer's: model.layers.7.mlp.experts.3.weight."""
BESIDE = (".json", ".jinja", ".model", ".txt", ".py")
"""Endings of what stands beside the weights: tokenizer, chat template, generation settings, own code."""
INDEX = "model.safetensors.index.json"
Layers = int | tuple[int, ...]


class Source(NamedTuple):
    """Where a model is: a folder or a hub id."""

    model: str
    revision: str | None = None
    trust_remote_code: bool = False

    def config(self) -> PretrainedConfig:
        """Raises ModelError."""
        return load_config(self.model, revision=self.revision, trust_remote_code=self.trust_remote_code)

    def folder(self) -> Path:
        """Its files on this machine, downloaded where they are not here yet; raises ModelError."""
        if Path(self.model).is_dir():
            return Path(self.model)
        wanted = ["*.safetensors", *(f"*{ending}" for ending in BESIDE)]
        try:
            return Path(huggingface_hub.snapshot_download(self.model, revision=self.revision, allow_patterns=wanted))
        except (OSError, ValueError) as error:
            raise ModelError(f"no model could be loaded from {self.model!r}: {str(error).splitlines()[0]}") from None


def depth_of(config: PretrainedConfig) -> int:
    """How many layers a model has."""
    return int(config.get_text_config().num_hidden_layers)


def kept_layers(layers: Layers, depth: int) -> tuple[int, ...]:
    """The numbers of the layers that stay: those given, or so many, evenly spread, the first and the last among them.

    Raises ModelError where the model has too few.

    >>> kept_layers(4, 12), kept_layers((1, 2, 12), 12)
    ((1, 5, 8, 12), (1, 2, 12))
    """
    most = layers if isinstance(layers, int) else max(layers)
    if most > depth:
        raise ModelError(f"student.layers names {most}, and the model has {depth} layers; name at most {depth}")
    if not isinstance(layers, int):
        return layers
    steps = layers - 1
    return tuple(1 + (2 * number * (depth - 1) + steps) // (2 * steps) for number in range(layers)) if steps else (1,)


def cut_config(config: PretrainedConfig, kept: Sequence[int]) -> PretrainedConfig:
    """The configuration of the shallower model: what it says of each layer (`layer_types`) is that of the kept ones."""
    made = copy.deepcopy(config)
    inner, depth = made.get_text_config(), depth_of(config)
    for name, value in list(vars(inner).items()):
        if isinstance(value, list | tuple) and len(value) == depth and "token_id" not in name and name != "architectures":
            setattr(inner, name, [value[number - 1] for number in kept])
    inner.num_hidden_layers = len(kept)
    return made


def renamed(names: Iterable[str], depth: int, kept: Sequence[int]) -> dict[str, str]:
    """The tensors that stay, and their names in the shallower model; raises ModelError where the layers cannot be told apart."""
    names = list(names)
    found: dict[str, set[int]] = {}
    for name in names:
        if (match := LAYER.match(name)) is not None:
            found.setdefault(match[1], set()).add(int(match[2]))
    stacks = [stack for stack, numbers in found.items() if numbers == set(range(depth))]
    if len(stacks) != 1:
        raise ModelError(
            f"student.layers: the {depth} layers of this model cannot be told from its tensors' names, as where layers share "
            "their weights or there are two stacks of them; leave student.layers out"
        )
    place = {number - 1: new for new, number in enumerate(kept)}
    made = {}
    for name in names:
        match = LAYER.match(name)
        if match is None or match[1] != stacks[0]:
            made[name] = name
        elif int(match[2]) in place:
            made[name] = f"{stacks[0]}.{place[int(match[2])]}.{name[match.end() :]}"
    return made


def cut(source: Source, layers: Layers, folder: Path) -> None:
    """Writes the model with these layers alone, and all that stands beside it; raises ModelError where that is impossible.

    The folder appears whole or not at all.
    """
    config, place = source.config(), source.folder()
    depth = depth_of(config)
    kept = kept_layers(layers, depth)
    shallow = cut_config(config, kept)
    refuse_layers_made_by_their_place(config, shallow, kept, source.trust_remote_code)
    files = sorted(place.glob("*.safetensors"))
    names: list[str] = []
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            names += tensors.keys()
    if not names:
        raise ModelError(f"{place} holds no safetensors weights; convert it to safetensors")
    new_names = renamed(names, depth, kept)
    with replaced_folder(folder) as part:
        for file in place.iterdir():
            if file.suffix in BESIDE and file.name not in ("config.json", INDEX):
                shutil.copyfile(file, part / file.name)
        _write_weights(files, new_names, part)
        shallow.save_pretrained(part)


def _write_weights(files: Sequence[Path], new_names: dict[str, str], folder: Path) -> None:
    """One file after another, so that no more than one is in memory."""
    index: dict[str, str] = {}
    size = 0
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            kept = {new_names[name]: tensors.get_tensor(name) for name in tensors.keys() if name in new_names}  # noqa: SIM118
        if kept:
            save_file(kept, folder / file.name, metadata={"format": "pt"})
            index |= dict.fromkeys(kept, file.name)
            size += sum(tensor.numel() * tensor.element_size() for tensor in kept.values())
    if len(files) > 1:
        text = json.dumps({"metadata": {"total_size": size}, "weight_map": index}, indent=2)
        (folder / INDEX).write_text(text, encoding="utf-8")


def refuse_layers_made_by_their_place(
    whole: PretrainedConfig, shallow: PretrainedConfig, kept: Sequence[int], trusted: bool
) -> None:
    """Raises ModelError where a kept layer would be built otherwise than it was: both are laid out without weights.

    That is where a configuration says by a rule, and not by a list, which layers are of which kind.
    """
    with torch.device("meta"):
        before, after = (AutoModel.from_config(config, trust_remote_code=trusted) for config in (whole, shallow))
    old, new = layers_of(before, depth_of(whole)), layers_of(after, len(kept))
    for place, number in enumerate(kept if old else ()):
        if (what := _difference(old[number - 1], new[place])) is not None:
            raise ModelError(
                f"student.layers: layer {number} of {type(before).__name__} would be another one as layer {place + 1} ({what}); "
                "name layers that keep their kind, or leave student.layers out"
            )


def _difference(one: nn.Module, other: nn.Module) -> str | None:
    """What differs between two layers beside their number: a part, or a plain setting of one."""
    mine, theirs = dict(one.named_modules()), dict(other.named_modules())
    if mine.keys() != theirs.keys():
        return ", ".join(sorted(mine.keys() ^ theirs.keys())[:3])
    for name, module in mine.items():
        pair = [_plain(module), _plain(theirs[name])]
        if type(module) is not type(theirs[name]) or pair[0] != pair[1]:
            return ", ".join(f"{name}.{key}".lstrip(".") for key in pair[0] if pair[0][key] != pair[1].get(key)) or name
    return None


def _plain(module: nn.Module) -> dict[str, Any]:
    settings = {name: value for name, value in vars(module).items() if isinstance(value, int | float | str | bool | None)}
    shapes = {name: tuple(tensor.shape) for name, tensor in module.named_parameters(recurse=False)}
    return {**{name: value for name, value in settings.items() if name not in ("layer_idx", "layer_id")}, **shapes}
