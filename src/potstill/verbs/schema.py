"""`potstill schema`: the job file's JSON schema, with every plug-in's own keys and the short forms that the loader takes."""

from __future__ import annotations

from typing import Any

from ..errors import MissingPackageError
from ..job import job_schema
from ..plugins import plugin_class, plugin_kinds
from ..terminal import say_json

FAMILY_OF = {
    "Task": "tasks",
    "Teacher": "teachers",
    "Combiner": "combiners",
    "Check": "checks",
    "Loss": "losses",
    "Exporter": "exporters",
    "Compute": "compute",
}
STRING = {"type": "string"}


def schema() -> None:
    """Prints it; save it as job.schema.json and name it in the first line: # yaml-language-server: $schema=..."""
    say_json(editor_schema())


def editor_schema() -> dict[str, Any]:
    """The loader's schema: a bare kind or a mapping for each plug-in, a model's name for teacher and student."""
    made = job_schema()
    parts = made["$defs"]
    for name, family in FAMILY_OF.items():
        if name in parts:
            parts[name] = {"anyOf": [STRING, *_mappings(family, parts)]}
    for name in ("StudentSettings", "DataSettings"):
        parts[f"{name}Mapping"] = _with_short_paths(parts[name])
        parts[name] = {"anyOf": [STRING, {"$ref": f"#/$defs/{name}Mapping"}]}
    parts["DataSettings"]["anyOf"].append({"type": "array", "items": STRING})
    del made["properties"]["folder"]  # the loader's own: the job file's folder
    made["properties"]["teacher"] = _or_several(made["properties"]["teacher"])
    made["properties"]["exports"] = _or_string(made["properties"]["exports"])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}


def _mappings(family: str, parts: dict[str, Any]) -> list[dict[str, Any]]:
    """One schema a kind, and an open one for ./mine.py, for other packages' kinds and for a teacher by model name."""
    kinds = [info.kind for info in plugin_kinds(family)]
    schemas: list[dict[str, Any]] = [{"type": "object", "not": {"properties": {"kind": {"enum": kinds}}, "required": ["kind"]}}]
    for kind in kinds:
        try:
            own = plugin_class(family, kind).model_json_schema(mode="validation")
        except MissingPackageError:
            schemas.append({"type": "object", "properties": {"kind": {"const": kind}}, "required": ["kind"]})
            continue
        parts.update({name: part for name, part in own.pop("$defs", {}).items() if name not in FAMILY_OF})  # a judge is a Teacher
        own["properties"]["kind"] = {"const": kind}
        own["required"] = sorted({*own.get("required", []), "kind"})
        schemas.append(own)
    return schemas


def _with_short_paths(settings: dict[str, Any]) -> dict[str, Any]:
    """Every list of paths may be one path."""
    short = {
        name: _or_string(field) if field.get("type") == "array" and field.get("items") == STRING else field
        for name, field in settings["properties"].items()
    }
    return {**settings, "properties": short}


def _or_several(field: dict[str, Any]) -> dict[str, Any]:
    """One of these, or a list of them."""
    one = {"$ref": field.pop("$ref")}
    return {**field, "anyOf": [one, {"type": "array", "items": one, "minItems": 1}]}


def _or_string(field: dict[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {key: field[key] for key in ("description", "default", "title") if key in field}
    return {**shown, "anyOf": [STRING, {key: value for key, value in field.items() if key not in shown}]}
