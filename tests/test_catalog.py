from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import pytest

from potstill.catalog import catalog, known_model, provider_at, provider_named, retired_on, teacher_settings
from potstill.errors import JobError
from potstill.plugins import load_plugin

NAMED_IN_THE_ISSUE = [
    "deepseek-v3",
    "llama-3.1-405b-instruct",
    "gpt-4",
    "claude-3.5-sonnet",
    "phi-4-mini",
    "llama-3.1-8b-instruct",
    "phi-3-mini-4k",
    "phi-3-mini-128k",
    "phi-3.5-mini",
]


@pytest.mark.parametrize("name", NAMED_IN_THE_ISSUE)
def test_the_models_that_people_name_are_known(name: str) -> None:
    entry = known_model(name)
    assert entry is not None
    assert entry["context"] >= 4096
    assert entry["licence_note"]
    assert entry.get("hub_id") or entry.get("endpoint")


@pytest.mark.parametrize("name", sorted(catalog()))
def test_an_entry_can_teach_and_a_price_has_its_date_and_where_it_was_read(name: str) -> None:
    entry = catalog()[name]
    prices = [entry.get("input_per_million"), entry.get("output_per_million")]
    assert all(price is None or price > 0 for price in prices), "an unknown price is left out, never zero"
    if any(price is not None for price in prices):
        assert None not in prices
        assert entry["price_source"]
        date.fromisoformat(entry["price_date"])
    if "retired" in entry:
        date.fromisoformat(entry["retired"])
    if entry.get("hub_id"):
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", entry["hub_id"])
        assert entry["parameters"] > 10**8
    assert entry["licence_note"]
    if "endpoint" in entry:
        teacher = load_plugin("teachers", teacher_settings(name, Path("/nowhere")))
        assert teacher.price().input_per_million == prices[0]
        assert "sk-" not in str(entry)


def test_a_model_without_weights_here_is_asked_at_its_endpoint_at_its_price() -> None:
    settings = teacher_settings({"model": "gpt-4o", "temperature": 0.7, "input_per_million": 1.0}, Path("/nowhere"))
    assert settings == {
        "kind": "openai_api",
        "base_url": "https://api.openai.com/v1",
        "model": "gpt-4o",
        "api_key": "env:OPENAI_API_KEY",
        "input_per_million": 1.0,
        "output_per_million": 10.0,
        "temperature": 0.7,
    }
    assert teacher_settings("claude-3.5-sonnet", Path("/nowhere"))["kind"] == "anthropic_api"


def test_a_catalog_beside_the_job_adds_and_overrides(tmp_path: Path) -> None:
    (tmp_path / "catalog.yaml").write_text(
        "ours: {endpoint: {kind: openai_api, base_url: 'http://gpu:8000/v1', model: big, provider: proxy},\n"
        "  price_date: 2026-11-01, input_per_million: 1, output_per_million: 2}\n"
        "gpt-4o: {hub_id: me/mine, parameters: 7}\n"
        "providers: {proxy: {auth_header: X-Key, auth_prefix: '', max_tokens: max_completion_tokens}}\n"
    )
    settings = teacher_settings("ours", tmp_path)
    teacher = load_plugin("teachers", settings)
    assert teacher.service().credential.header == "X-Key"
    assert teacher.price().output_per_million == 2
    assert teacher_settings("gpt-4o", tmp_path) == {"kind": "huggingface", "model": "me/mine"}
    assert known_model("gpt-4", tmp_path) == known_model("gpt-4")
    assert provider_named("proxy", tmp_path).max_tokens == "max_completion_tokens"
    assert "providers" not in catalog(tmp_path)
    written = {"kind": "openai_api", "base_url": "http://x/v1", "model": "m", "provider": "proxy"}
    assert teacher_settings(written, tmp_path)["provider"]["auth_header"] == "X-Key"
    assert teacher_settings({**written, "provider": "vllm"}, tmp_path)["provider"] == "vllm"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ours: {hub-id: me/mine}", "ours: unknown key 'hub-id': did you mean 'hub_id'"),
        ("ours: {hub_id: 7}", "ours: hub_id: .* string .*got 7"),
        ("ours: {input_per_million: cheap}", "ours: input_per_million: .*got 'cheap'"),
        ("ours: {input_per_million: -1}", "ours: input_per_million: .*greater than or equal to 0 .*got -1"),
        ("ours: {parameters: 8B}", "ours: parameters: .*got '8B'"),
        ("ours: gpt-4", "maps a model's name to its fields"),
        ("- ours", "maps a model's name to its fields"),
        ("ours: {hub_id: [", "cannot be read as YAML"),
        ("providers: {proxy: {structured: xml}}", r"providers\.proxy: structured: .*got 'xml'"),
        ("providers: {proxy: nothing}", r"providers\.proxy must be a mapping \(got 'nothing'\)"),
        ("providers: {proxy: {thinks: '('}}", "thinks: .* is no pattern"),
        ("ours: {endpoint: secret-key-in-the-wrong-place}", "ours: endpoint: Input should be a valid dictionary$"),
    ],
)
def test_a_broken_catalog_is_told_by_file_entry_field_and_value(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "catalog.yaml").write_text(text)
    with pytest.raises(JobError, match=says) as told:
        teacher_settings("gpt-4o", tmp_path)
    assert str(tmp_path / "catalog.yaml") in str(told.value)
    assert "\n" not in str(told.value)


def test_a_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "catalog.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(JobError, match="cannot be read as YAML"):
        catalog(tmp_path)


def test_an_entry_without_a_place_says_so(tmp_path: Path) -> None:
    (tmp_path / "catalog.yaml").write_text("ours: {context: 4096}")
    with pytest.raises(JobError, match="names no place of 'ours': give it 'hub_id', 'folder' or 'endpoint'"):
        teacher_settings("ours", tmp_path)


@pytest.mark.parametrize(
    ("host", "provider"),
    [
        ("api.openai.com", "openai"),
        ("eu.api.openai.com", "openai"),
        ("mine.openai.azure.com", "azure_openai"),
        ("mine.services.ai.azure.com", "azure_openai"),
        ("api.deepseek.com", "deepseek"),
        ("api.mistral.ai", "mistral"),
        ("notapi.openai.com.evil.example", "compatible"),
        ("fakeapi.deepseek.com", "compatible"),
        ("127.0.0.1", "compatible"),
        ("", "compatible"),
    ],
)
def test_who_is_behind_a_host_is_known_by_its_name(host: str, provider: str) -> None:
    assert provider_at(host) == provider_named(provider)


def test_an_unknown_provider_lists_the_known_ones() -> None:
    with pytest.raises(JobError, match=r"did you mean 'vllm'.*azure_openai.*ollama"):
        provider_named("vlm")


def test_a_model_that_its_provider_retires_is_known_by_name_and_address() -> None:
    official = "https://api.openai.com/v1"
    assert retired_on("gpt-4", [official]) == date(2026, 10, 23)
    assert retired_on("gpt-4", ["http://127.0.0.1:8000/v1"]) is None, "a server of one's own may hold a model of that name"
    assert retired_on("gpt-4", ["http://127.0.0.1:8000/v1", official + "/"]) == date(2026, 10, 23)
    assert retired_on("claude-nobody", [official]) is None


def test_a_retired_date_that_is_no_date_is_refused_when_the_catalog_is_read(tmp_path: Path) -> None:
    (tmp_path / "catalog.yaml").write_text("ours: {hub_id: me/mine, retired: next spring}\n")
    with pytest.raises(JobError, match=r"ours: retired: .*2026-12-31.*next spring"):
        catalog(tmp_path)
    (tmp_path / "catalog.yaml").write_text(
        "ours: {endpoint: {kind: openai_api, base_url: 'http://gpu:8000/v1', model: big}, retired: 2026-12-31}\n"
    )
    assert retired_on("big", ["http://gpu:8000/v1"], tmp_path) == date(2026, 12, 31)
