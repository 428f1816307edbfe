"""Names of known models: where they are, how large they are, what they cost; and how the servers differ that hold them.

`catalog.yaml` beside this file is the data; a folder's `catalog.yaml` beside a job file adds to it or overrides it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pydantic
import yaml
from pydantic import BaseModel, ConfigDict, Field

from .errors import JobError, did_you_mean

HOME = Path(__file__).parent
STARTER_MODELS = HOME / "starter" / "models"
PROVIDERS = "providers"
ANY_SERVER = "compatible"


class KnownModel(BaseModel):
    """One model of a catalog: what may stand there, and of which kind it is."""

    model_config = ConfigDict(extra="forbid", strict=True)

    hub_id: str | None = None
    folder: str | None = None
    parameters: int | None = Field(default=None, gt=0)
    context: int | None = Field(default=None, gt=0)
    endpoint: dict[str, Any] | None = None
    input_per_million: float | None = Field(default=None, ge=0)
    output_per_million: float | None = Field(default=None, ge=0)
    price_date: str | date | None = None
    price_source: str | None = None
    retired: str | date | None = None
    licence_note: str | None = None
    note: str | None = None

    @pydantic.field_validator("retired")
    @classmethod
    def _is_a_day(cls, value: str | date | None) -> str | date | None:
        try:
            return value if value is None else date.fromisoformat(str(value))
        except ValueError:
            raise ValueError("the day from which it is not served, such as 2026-12-31") from None


class Provider(BaseModel):
    """How one kind of server speaks the OpenAI chat API."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    hosts: list[str] = Field(default=[], description="hosts by which it is known, with all below them")
    auth_header: str = "Authorization"
    auth_prefix: str = "Bearer "
    usual_key: str = "env:OPENAI_API_KEY"
    max_tokens: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    structured: Literal["json_schema", "guided_json", "json_object", "none"] = "json_schema"
    most_top_logprobs: int = Field(default=20, ge=0, description="0: it gives no log-probabilities")
    takes_idempotency_key: bool = False
    thinks: str | None = Field(default=None, description="a pattern of the names of models that think before they answer")
    thinks_not_with: dict[str, Any] = Field(default={}, description="fields of `extra` that turn thinking off")
    refused_when_thinking: list[str] = Field(default=[], description="fields that such models refuse or do not heed")


def catalog(folder: Path | None = None) -> dict[str, dict[str, Any]]:
    """Every known model by name; `folder/catalog.yaml`, where there is one, wins."""
    return {name: entry for name, entry in {**_shipped(), **_own(folder)}.items() if name != PROVIDERS}


def provider_named(name: str, folder: Path | None = None) -> Provider:
    """How servers of a kind speak; raises JobError with the known names."""
    known = _providers(folder)
    if name not in known:
        raise JobError(f"unknown provider {name!r}: {did_you_mean(name, known)}")
    return known[name]


def provider_at(host: str, folder: Path | None = None) -> Provider:
    """Who is behind a host, as far as its name tells.

    >>> provider_at("my-resource.openai.azure.com").auth_header, provider_at("127.0.0.1").auth_header
    ('api-key', 'Authorization')
    """
    known = _providers(folder)
    for provider in known.values():
        if any(host == own or host.endswith("." + own) for own in provider.hosts):
            return provider
    return known[ANY_SERVER]


def known_model(name: str, folder: Path | None = None) -> dict[str, Any] | None:
    """The catalog's entry for a name, or None."""
    return catalog(folder).get(name)


def retired_on(model: str, base_urls: Iterable[str], folder: Path | None = None) -> date | None:
    """The day from which a hosted model is not served any more, as its entry for one of these addresses says; None: unknown."""
    asked = {url.rstrip("/") for url in base_urls}
    for entry in catalog(folder).values():
        place = entry.get("endpoint") or {}
        own = place.get("base_url") or ()
        urls = {str(url).rstrip("/") for url in ([own] if isinstance(own, str) else own)}
        if entry.get("retired") and place.get("model") == model and urls & asked:
            return date.fromisoformat(str(entry["retired"]))
    return None


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

    `{model: deepseek-v3, temperature: 0.7}` takes the catalog's endpoint; a mapping with `kind` is taken as it is, but for
    a `provider` of the folder's own catalog.
    """
    if not isinstance(value, str | Mapping):
        raise JobError(f"teacher: {value!r} is neither a model's name nor a mapping with 'kind' or 'model'")
    fields: dict[str, Any] = {"model": value} if isinstance(value, str) else dict(value)
    model = str(fields.get("model", ""))
    if model.startswith("starter-"):
        return {"kind": "huggingface", **fields, "model": _starter(model, folder)}
    if "kind" in fields:
        return _with_own_provider(fields, folder)
    if model in {"scripted"}:
        return {"kind": "scripted"}
    entry = known_model(model, folder)
    if entry is None:
        return {"kind": "huggingface", **fields, "model": _folder_or_hub_id("teacher", model, folder)}
    if entry.get("folder"):
        return {"kind": "huggingface", **fields, "model": entry["folder"]}
    endpoint = entry.get("endpoint")
    if endpoint is None:
        return {"kind": "huggingface", **fields, "model": _hub_id(model, entry)}
    price = {key: entry.get(key) for key in ("input_per_million", "output_per_million")}
    known_price = {key: amount for key, amount in price.items() if amount is not None}
    own = {key: given for key, given in fields.items() if key != "model"}
    return _with_own_provider({**endpoint, **known_price, **own}, folder)


def _with_own_provider(fields: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The fields with a provider that the folder's own catalog describes spelled out, as a teacher knows no folder."""
    name = fields.get("provider")
    own = _own(folder).get(PROVIDERS, {})
    return {**fields, "provider": dict(own[name])} if isinstance(name, str) and name in own else fields


def _hub_id(model: str, entry: Mapping[str, Any]) -> str:
    if not entry.get("hub_id"):
        raise JobError(f"the catalog names no place of {model!r}: give it 'hub_id', 'folder' or 'endpoint'")
    return str(entry["hub_id"])


@cache
def _shipped() -> dict[str, dict[str, Any]]:
    return _read(HOME / "catalog.yaml")


def _own(folder: Path | None) -> dict[str, dict[str, Any]]:
    path = folder / "catalog.yaml" if folder else None
    return _read(path) if path is not None and path.is_file() else {}


@cache
def _shipped_providers() -> dict[str, Provider]:
    return {name: Provider(**fields) for name, fields in _shipped()[PROVIDERS].items()}


def _providers(folder: Path | None) -> dict[str, Provider]:
    """Every provider by name, the folder's own first."""
    own = {name: Provider(**fields) for name, fields in _own(folder).get(PROVIDERS, {}).items()}
    return {**own, **{name: provider for name, provider in _shipped_providers().items() if name not in own}}


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """A catalog file, fully checked."""
    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise JobError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(read, dict) or not all(isinstance(entry, dict) for entry in read.values()):
        raise JobError(f"{path}: a catalog maps a model's name to its fields")
    for name, entry in read.items():
        if name == PROVIDERS:
            for kind, fields in entry.items():
                _check(Provider, fields, f"{path}: {PROVIDERS}.{kind}")
        else:
            _check(KnownModel, entry, f"{path}: {name}")
    return {str(name): entry for name, entry in read.items()}


def _check(kind: type[BaseModel], fields: Any, where: str) -> None:
    """Raises JobError with what is wrong in an entry: which field, which value, what is allowed."""
    if not isinstance(fields, dict):
        raise JobError(f"{where} must be a mapping (got {fields!r})")
    try:
        made = kind(**{str(key): value for key, value in fields.items()})
        if isinstance(made, Provider):
            re.compile(made.thinks or "")
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            raise JobError(f"{where}: unknown key {field!r}: {did_you_mean(field, kind.model_fields)}") from None
        shown = "" if field.startswith("endpoint") else f" (got {problem['input']!r})"
        raise JobError(f"{where}: {field}: {problem['msg'].removeprefix('Value error, ')}{shown}") from None
    except re.error as error:
        raise JobError(f"{where}: thinks: {fields['thinks']!r} is no pattern ({error})") from None


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
