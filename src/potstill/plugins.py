"""Finds plug-ins and verbs by name: the one dynamic import of the house.

`kind: forward_kl` is `losses/forward_kl.py`; `kind: ./mine.py` is a stranger's file; installed packages offer theirs by
the entry points `potstill.losses`, `potstill.tasks` and so on.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
from abc import ABC
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pydantic

from .errors import JobError, MissingPackageError, did_you_mean

PACKAGE = __name__.rpartition(".")[0]
HOME = Path(__file__).parent
EXTRA_OF_PACKAGE = {
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "gguf": "gguf",
    "ray": "ray",
    "fastapi": "serve",
    "jsonschema_rs": "schema",
    "bitsandbytes": "qlora",
}


class Plugin(pydantic.BaseModel, ABC):
    """What every plug-in is: frozen, with no unknown keys."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    kind: str = pydantic.Field(default="", description="the plug-in's file name")


class PluginInfo(NamedTuple):
    """One line of `potstill list FAMILY`."""

    kind: str
    summary: str
    source: str


def verb(dotted: str) -> Any:
    """The function "module:function" of this package, imported only now, so that help needs no torch."""
    module, _, function = dotted.partition(":")
    return getattr(importlib.import_module(f"{PACKAGE}.{module}"), function)


def optional(dotted: str) -> Any:
    """The same of a module that needs an optional package; raises MissingPackageError where that is not installed."""
    try:
        return verb(dotted)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in EXTRA_OF_PACKAGE:
            raise MissingPackageError(missing, EXTRA_OF_PACKAGE[missing]) from None
        raise


def is_installed(package: str) -> bool:
    """Whether a package could be imported, without importing it."""
    return importlib.util.find_spec(package) is not None


def plugin_kinds(family: str) -> list[PluginInfo]:
    """Every plug-in of a family, read from its source text: nothing is imported."""
    found = [
        PluginInfo(path.stem, _summary(path), "potstill")
        for path in sorted((HOME / family).glob("*.py"))
        if not path.stem.startswith("_")
    ]
    for entry in importlib.metadata.entry_points(group=f"{PACKAGE}.{family}"):
        found.append(PluginInfo(entry.name, "", entry.dist.name if entry.dist else "entry point"))
    return found


def plugin_class(family: str, kind: str, folder: Path | None = None) -> type[Any]:
    """The class of a plug-in. `folder` is where a relative "./mine.py" starts (the job file's folder)."""
    module = _plugin_module(family, kind, folder)
    own = [
        thing
        for thing in vars(module).values()
        if inspect.isclass(thing) and thing.__module__ == module.__name__ and "kind" in getattr(thing, "model_fields", {})
    ]
    if len(own) != 1:
        raise JobError(f"{family}/{kind}: a plug-in file holds exactly one plug-in class, this one holds {len(own)}")
    return own[0]


def load_plugin(family: str, settings: str | Mapping[str, Any], folder: Path | None = None) -> Any:
    """A plug-in from its YAML form: a bare kind, or a mapping with `kind` and its fields."""
    if not isinstance(settings, str | Mapping):
        raise JobError(f"{family}: {settings!r} is neither a kind nor a mapping with one; {_known(family)}")
    fields = {"kind": settings} if isinstance(settings, str) else {str(key): value for key, value in settings.items()}
    if "kind" not in fields:
        raise JobError(f"{family}: {fields!r} has no 'kind'; {_known(family)}")
    chosen = plugin_class(family, str(fields["kind"]), folder)
    try:
        return chosen.model_validate(fields, context={"folder": folder})  # a plug-in that names others finds them from there
    except pydantic.ValidationError as error:
        raise JobError(f"{family}/{fields['kind']}: {explain(error, chosen)}") from None


def explain(error: pydantic.ValidationError, model: type[pydantic.BaseModel]) -> str:
    """A pydantic error as one sentence a person can act on. Values of keys and secrets are never repeated."""
    sentences = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            known = _fields_at(model, problem["loc"][:-1])
            sentences.append(f"unknown key '{where}': {did_you_mean(str(problem['loc'][-1]), known)}")
        elif problem["type"] == "missing":
            sentences.append(f"'{where}' is missing")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            secret = any(word in where.lower() for word in ("key", "token", "secret", "password"))
            shown = "" if secret or problem["type"] == "value_error" else f" (got {problem['input']!r})"
            sentences.append(f"{where + ': ' if where else ''}{message}{shown}")
    return "; ".join(sentences)


def _plugin_module(family: str, kind: str, folder: Path | None) -> ModuleType:
    if kind.endswith(".py"):
        return _file_module((folder or Path.cwd()) / kind)
    names = {info.kind: info for info in plugin_kinds(family)}
    if kind not in names:
        raise JobError(f"unknown {family} kind {kind!r}: {did_you_mean(kind, names)}")
    if names[kind].source != PACKAGE:
        entry = next(iter(importlib.metadata.entry_points(group=f"{PACKAGE}.{family}", name=kind)))
        return importlib.import_module(entry.module)
    try:
        return importlib.import_module(f"{PACKAGE}.{family}.{kind}")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in EXTRA_OF_PACKAGE:
            raise MissingPackageError(missing, EXTRA_OF_PACKAGE[missing]) from None
        raise


def _file_module(path: Path) -> ModuleType:
    if not path.is_file():
        raise JobError(f"plug-in file {path} does not exist")
    name = f"potstill_plugin_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _summary(path: Path) -> str:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            text = ast.get_docstring(node)
            if text:
                return text.splitlines()[0]
    return ""


def _known(family: str) -> str:
    return "known kinds: " + ", ".join(info.kind for info in plugin_kinds(family))


def _fields_at(model: type[pydantic.BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The field names of the model nested at `location`."""
    current: Any = model
    for part in location:
        field = getattr(current, "model_fields", {}).get(part)
        if field is None:
            continue
        options = getattr(field.annotation, "__args__", (field.annotation,))
        nested = [option for option in options if inspect.isclass(option) and issubclass(option, pydantic.BaseModel)]
        if nested:
            current = nested[0]
    return list(current.model_fields)
