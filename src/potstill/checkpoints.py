"""Training checkpoints that survive a kill at any instant, and say so when one is damaged.

checkpoints/<role>/step-0000120/  trained.safetensors optimizer.pt manifest.json
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .errors import ModelError
from .runfolder import file_digest, read_json, replaced_folder, told_when_full, write_json

KEPT = 2


class Checkpoint(NamedTuple):
    """What exact resume needs: trained weights, optimizer and random state, and the loop's own counters."""

    step: int
    weights: Mapping[str, torch.Tensor]
    optimizer: dict[str, Any]
    random_states: dict[str, torch.Tensor]
    counters: dict[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, identity: str) -> None:
    """Writes `folder/step-N` whole or not at all, with the digest of each file, and drops older ones but the last.

    Those of another training go at once: a number of theirs that is higher must not crowd this one's out.
    """
    with replaced_folder(folder / f"step-{checkpoint.step:07d}") as part:
        save_weights(part / "trained.safetensors", checkpoint.weights)
        torch.save({"optimizer": checkpoint.optimizer, "random_states": checkpoint.random_states}, part / "optimizer.pt")
        digests = {file.name: file_digest(file) for file in part.iterdir()}
        manifest = {"step": checkpoint.step, "identity": identity, "counters": checkpoint.counters, "digests": digests}
        write_json(part / "manifest.json", manifest)
    own = []
    for place in sorted(folder.glob("step-*")):
        if _fault(place, identity) == "":
            shutil.rmtree(place)
        else:
            own.append(place)
    for old in own[:-KEPT]:
        shutil.rmtree(old)


def load_newest(folder: Path, identity: str, say: Callable[[str], None]) -> Checkpoint | None:
    """The newest whole checkpoint of this very training; `say` hears of each one that is damaged."""
    for place in sorted(folder.glob("step-*"), reverse=True):
        fault = _fault(place, identity)
        if fault is None:
            manifest = read_json(place / "manifest.json")
            state = torch.load(place / "optimizer.pt", weights_only=True)
            weights = load_file(place / "trained.safetensors")
            return Checkpoint(manifest["step"], weights, state["optimizer"], state["random_states"], manifest["counters"])
        if fault:
            say(f"checkpoint {place} is damaged ({fault}); going on from the one before it")
    return None


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """The weights of one file; raises ModelError when it is gone or was cut short."""
    try:
        return load_file(path)
    except (OSError, SafetensorError):
        raise ModelError(
            f"{path} is gone or damaged; delete the folder {path.parent} and run again, the training starts anew"
        ) from None


def save_weights(path: Path, weights: Mapping[str, torch.Tensor]) -> None:
    with told_when_full():
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, path)


def _fault(place: Path, identity: str) -> str | None:
    """None for a whole checkpoint, "" for one of another training, else what is wrong."""
    if not (place / "manifest.json").is_file():
        return "it has no manifest"
    try:
        manifest = read_json(place / "manifest.json")
        if manifest["identity"] != identity:
            return ""
        changed = [name for name, digest in manifest["digests"].items() if file_digest(place / name) != digest]
    except (OSError, KeyError, TypeError, ModelError):
        return "its manifest or files cannot be read"
    return f"{', '.join(changed)} changed or was cut short" if changed else None
