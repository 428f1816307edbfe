"""Names of known models: where they are, how large they are, what they cost.

`catalog.yaml` beside this file is the data; a folder's `catalog.yaml` beside a job file adds to it or overrides it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from .errors import JobError, did_you_mean

HOME = Path(__file__).parent
STARTER_MODELS = HOME / "starter" / "models"


def catalog(folder: Path | None = None) -> dict[str, dict[str, Any]]:
    """Every known model by name; `folder/catalog.yaml`, where there is one, wins."""
    own = folder / "catalog.yaml" if folder else None
    if own is None or not own.is_file():
        return dict(_shipped())
    read = yaml.safe_load(own.read_text(encoding="utf-8")) or {}
    if not isinstance(read, dict) or not all(isinstance(entry, dict) for entry in read.values()):
        raise JobError(f"{own}: a catalog maps a model's name to its fields")
    return {**_shipped(), **read}


@cache
def _shipped() -> dict[str, dict[str, Any]]:
    entries: dict[str, dict[str, Any]] = yaml.safe_load((HOME / "catalog.yaml").read_text(encoding="utf-8"))
    return entries


def known_model(name: str, folder: Path | None = None) -> dict[str, Any] | None:
    """The catalog's entry for a name, or None."""
    return catalog(folder).get(name)


def student_settings(model: str, folder: Path) -> str:
    """What loads the student: a folder on this machine, or a hub id."""
    if model.startswith("starter-"):
        return _starter(model, folder)
    entry = known_model(model, folder)
    if entry is not None:
        place = entry.get("folder") or entry.get("hub_id")
        if place is None:
            raise JobError(f"student {model!r} cannot be trained: its weights are not public")
        return str(place)
    return _folder_or_hub_id("student", model, folder)


def teacher_settings(value: str | Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A teacher's plug-in fields from a bare name, or from a mapping that may start from a catalog name.

    `{model: deepseek-v3, temperature: 0.7}` takes the catalog's endpoint; a mapping with `kind` is taken as it is.
    """
    if not isinstance(value, str | Mapping):
        raise JobError(f"teacher: {value!r} is neither a model's name nor a mapping with 'kind' or 'model'")
    fields: dict[str, Any] = {"model": value} if isinstance(value, str) else dict(value)
    model = str(fields.get("model", ""))
    if model.startswith("starter-"):
        return {"kind": "huggingface", **fields, "model": _starter(model, folder)}
    if "kind" in fields:
        return fields
    if model in {"scripted"}:
        return {"kind": "scripted"}
    entry = known_model(model, folder)
    if entry is None:
        return {"kind": "huggingface", **fields, "model": _folder_or_hub_id("teacher", model, folder)}
    if entry.get("folder"):
        return {"kind": "huggingface", **fields, "model": entry["folder"]}
    endpoint = entry.get("endpoint")
    if endpoint is None:
        return {"kind": "huggingface", **fields, "model": entry["hub_id"]}
    price = {key: entry.get(key) for key in ("input_per_million", "output_per_million")}
    return {**endpoint, **{k: v for k, v in price.items() if v is not None}, **{k: v for k, v in fields.items() if k != "model"}}


def _starter(name: str, folder: Path) -> str:
    place = STARTER_MODELS / name
    if not place.is_dir():
        names = [path.name for path in STARTER_MODELS.glob("starter-*")]
        raise JobError(f"unknown model {name!r}: {did_you_mean(name, [*names, *catalog(folder)])}")
    return str(place)


def _folder_or_hub_id(role: str, model: str, folder: Path) -> str:
    place = (folder / model).expanduser()
    if place.is_dir():
        return str(place.resolve())
    is_path = model.startswith((".", "/", "~"))
    if not is_path and model.count("/") == 1:
        return model
    if is_path:
        raise JobError(f"{role} folder {model!r} does not exist")
    names = [*catalog(folder), *(path.name for path in STARTER_MODELS.glob("starter-*"))]
    raise JobError(f"unknown {role} {model!r}, neither a folder, a hub id nor a catalog name: {did_you_mean(model, names)}")
