"""What a model is by its config.json, read without its weights, without transformers and without a network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import huggingface_hub

WRITE_TEXT = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
"""How the names of those architectures end that write text; all others (BertForMaskedLM, ModernBertModel) only read it."""
HAS_LABELS = "ForSequenceClassification"


def stored_config(model: str, revision: str | None = None) -> Mapping[str, Any] | None:
    """The config.json of a folder, or of a hub id that was downloaded before; None where it is not on this machine."""
    path = Path(model) / "config.json"
    if not Path(model).is_dir():
        try:
            cached = huggingface_hub.try_to_load_from_cache(model, "config.json", revision=revision)
        except ValueError:  # no folder and no hub id either: loading says so
            return None
        if not isinstance(cached, str):
            return None
        path = Path(cached)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) else None


def architecture_of(config: Mapping[str, Any]) -> str | None:
    names = config.get("architectures")
    return str(names[0]) if isinstance(names, list) and names else None


def writes_text(config: Mapping[str, Any]) -> bool:
    """Whether a model is a language model that writes; one that does not say what it is counts as such.

    >>> writes_text({"architectures": ["LlamaForCausalLM"]}), writes_text({"architectures": ["BertForMaskedLM"]})
    (True, False)
    """
    name = architecture_of(config)
    return name is None or name.endswith(WRITE_TEXT) or "AutoModelForCausalLM" in (config.get("auto_map") or {})


def has_labels(model: str, revision: str | None = None) -> bool:
    """Whether a model on this machine has a classification head already."""
    return (architecture_of(stored_config(model, revision) or {}) or "").endswith(HAS_LABELS)


def labels_of(model: str, revision: str | None = None) -> tuple[str, ...]:
    """The labels of a model with a classification head, in the order of its outputs; () for every other model.

    >>> labels_of("no/such-model")
    ()
    """
    names = (stored_config(model, revision) or {}).get("id2label") or {}
    if not has_labels(model, revision) or not all(str(key).isdigit() for key in names):
        return ()
    return tuple(str(names[key]) for key in sorted(names, key=int))
