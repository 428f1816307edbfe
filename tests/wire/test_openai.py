"""Bodies and replies of each provider, written by hand after their public references of November 2026."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from potstill.catalog import provider_named
from potstill.contracts import Price
from potstill.errors import JobError
from potstill.plugins import load_plugin
from potstill.types import Message, Request, Sampling
from potstill.wire.openai import chat_body, chat_identity, chat_reply, is_strict

SCHEMA = {"type": "object", "properties": {"label": {"type": "string"}}, "required": ["label"], "additionalProperties": False}
ASKED = (Message("user", "Answer in JSON."),)


def _body(provider: str, model: str = "m", *, is_thinking: bool = False, schema: Any = None, **sampling: Any) -> dict[str, Any]:
    text = None if schema is None else json.dumps(schema)
    request = Request("row", ASKED, Sampling(max_tokens=9, **sampling), schema=text)
    return chat_body(model, request, provider_named(provider), {}, is_thinking=is_thinking)


def _teacher(**fields: Any) -> Any:
    return load_plugin("teachers", {"kind": "openai_api", "base_url": "https://api.openai.com/v1", "model": "gpt-4o", **fields})


def test_only_what_is_set_is_sent() -> None:
    messages = [{"role": "user", "content": "Answer in JSON."}]
    assert _body("vllm") == {"model": "m", "messages": messages, "max_tokens": 9, "temperature": 0.0, "top_p": 1.0}
    more = _body("vllm", frequency_penalty=0.5, presence_penalty=-0.5, stop=("#", "\n"), top_logprobs=5)
    assert {name: more[name] for name in more if name not in _body("vllm")} == {
        "frequency_penalty": 0.5,
        "presence_penalty": -0.5,
        "stop": ["#", "\n"],
        "logprobs": True,
        "top_logprobs": 5,
    }


def test_openai_and_azure_count_completion_tokens() -> None:
    for provider in ("openai", "azure_openai"):
        assert _body(provider)["max_completion_tokens"] == 9
        assert "max_tokens" not in _body(provider)
    for provider in ("compatible", "deepseek", "mistral", "vllm", "sglang", "llama_cpp", "ollama"):
        assert _body(provider)["max_tokens"] == 9


def test_a_model_that_thinks_is_not_sent_what_it_refuses() -> None:
    body = _body("openai", "o3", is_thinking=True, temperature=1.0)
    assert set(body) == {"model", "messages", "max_completion_tokens"}


@pytest.mark.parametrize("provider", ["openai", "vllm", "mistral"])
def test_a_schema_is_a_response_format(provider: str) -> None:
    assert _body(provider, schema=SCHEMA)["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
    }
    open_ended = {"type": "object", "properties": {"label": {"type": "string"}}}
    assert "strict" not in _body(provider, schema=open_ended)["response_format"]["json_schema"]


def test_deepseek_is_asked_for_any_json_and_only_where_the_prompt_says_so() -> None:
    assert _body("deepseek", schema=SCHEMA)["response_format"] == {"type": "json_object"}
    silent = Request("row", (Message("user", "Answer."),), schema=json.dumps(SCHEMA))
    assert "response_format" not in chat_body("m", silent, provider_named("deepseek"), {}, is_thinking=False)


def test_a_provider_of_ones_own_may_take_guided_json() -> None:
    teacher = _teacher(provider={"structured": "guided_json", "auth_header": "X-Key", "auth_prefix": ""})
    body = teacher.body(Request("row", ASKED, schema=json.dumps(SCHEMA)))
    assert body["guided_json"] == SCHEMA


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        (SCHEMA, True),
        ({"type": "array", "items": SCHEMA}, True),
        ({**SCHEMA, "required": []}, False),
        ({"anyOf": [SCHEMA, {"type": "object"}]}, False),
        ({**SCHEMA, "properties": {"label": {"type": "object", "properties": {}}}}, False),
    ],
)
def test_strict_schemas_are_closed_and_complete(schema: Any, strict: bool) -> None:
    assert is_strict(schema) is strict


def test_extra_adds_overrides_and_leaves_out() -> None:
    extra = {"seed": 1, "top_p": None, "temperature": 0.3}
    body = chat_body("m", Request("row", ASKED), provider_named("vllm"), extra, is_thinking=False)
    assert (body["seed"], body["temperature"], "top_p" in body) == (1, 0.3, False)


@pytest.mark.parametrize("model", ["o3", "o4-mini", "gpt-5-mini", "gpt-6-luna", "gpt-6.1-sol"])
def test_models_that_think_have_room_for_it_and_sample_in_their_own_way(model: str) -> None:
    teacher = _teacher(model=model)
    assert teacher.temperature == 1.0
    assert teacher.sampling(100) == Sampling(100 + 8192, 1.0, 1.0)
    assert _teacher(model=model, thinking_tokens=50).sampling(100).max_tokens == 150
    with pytest.raises(JobError, match=r"thinks before it answers and takes no temperature \(got 0.7\); leave it out"):
        _teacher(model=model, temperature=0.7)
    with pytest.raises(JobError, match="takes no top_logprobs"):
        _teacher(model=model, top_logprobs=5)


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "gpt-4o"},
        {"model": "gpt-5.3-chat-latest"},
        {"model": "gpt-6-luna", "extra": {"reasoning_effort": "none"}},
        {"model": "o3", "thinks": False},
        {"base_url": "http://127.0.0.1:8000/v1", "model": "openai/o3-like"},
        {"base_url": "https://api.deepseek.com/v1", "model": "deepseek-flash", "extra": {"thinking": {"type": "disabled"}}},
    ],
)
def test_models_that_do_not_think_are_asked_as_the_job_says(fields: dict[str, Any]) -> None:
    teacher = _teacher(**fields, temperature=0.7, top_logprobs=5)
    assert teacher.sampling(100) == Sampling(100, 0.7, 1.0, top_logprobs=5)
    assert teacher.body(Request("row", ASKED, teacher.sampling(100)))["temperature"] == 0.7


def test_every_setting_of_sampling_is_the_jobs() -> None:
    teacher = _teacher(frequency_penalty=0.5, presence_penalty=0.25, stop=["#"], top_logprobs=20, top_p=0.9, temperature=0.1)
    assert teacher.sampling(7) == Sampling(7, 0.1, 0.9, 0.5, 0.25, ("#",), 20)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"top_logprobs": 21}, "at most 20 alternatives"),
        ({"base_url": "https://api.mistral.ai/v1", "top_logprobs": 1}, "no log-probabilities"),
        ({"provider": "vlm"}, "did you mean 'vllm'"),
        ({"provider": {"structure": "none"}}, "structure"),
        ({"frequency_penalty": 3}, "frequency_penalty"),
        ({"base_url": []}, "base_url"),
        ({"base_url": ["http://one/v1", "http://one/v1"]}, "none twice"),
    ],
)
def test_what_a_provider_cannot_do_is_said_before_anything_is_asked(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(JobError, match=says):
        _teacher(**fields)


def test_the_header_of_the_key_is_the_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "secret-value")
    azure = _teacher(base_url="https://mine.openai.azure.com/openai/v1", api_key="env:A_KEY")
    assert azure.service().sent_headers() == {"api-key": "secret-value"}
    assert _teacher(api_key="env:A_KEY").service().sent_headers() == {"Authorization": "Bearer secret-value"}
    dated = _teacher(base_url="https://mine.openai.azure.com/openai/deployments/big", api_version="2024-10-21")
    assert dated.service().query == "?api-version=2024-10-21"
    assert dated.identity()["api_version"] == "2024-10-21"


def test_the_journals_name_of_one_server_is_what_it_always_was() -> None:
    assert _teacher(extra={"seed": 1}).identity() == {
        "kind": "openai_api",
        "base_url": "https://api.openai.com/v1",
        "model": "gpt-4o",
        "extra": {"seed": 1},
    }


def test_a_replica_that_is_added_pays_for_nothing_again() -> None:
    one = _teacher(base_url="http://one/v1").identity()
    assert _teacher(base_url=["http://one/v1", "http://two/v1"]).identity() == one
    assert _teacher(base_url="http://two/v1", identity_url="http://one/v1").identity() == one
    assert chat_identity("http://one/v1", "gpt-4o", {}) == one
    assert _teacher(base_url="http://two/v1").identity() != one


def _completion(message: dict[str, Any], reason: str | None = "stop", **more: Any) -> dict[str, Any]:
    usage = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": reason, **more}
    return {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}


@pytest.mark.parametrize(
    "body",
    [
        _completion({"content": "Yes.", "refusal": None, "annotations": []}, logprobs=None),  # OpenAI
        _completion({"content": "Yes."}, content_filter_results={"hate": {"filtered": False}}),  # Azure
        _completion({"content": "Yes.", "reasoning_content": "Let me see."}),  # DeepSeek, vLLM, SGLang, llama.cpp
        _completion({"content": "Yes.", "reasoning": "Let me see."}),  # Ollama, newer vLLM
        _completion({"content": "Yes.", "tool_calls": [], "function_call": None}, stop_reason=None),  # vLLM
        _completion({"content": [{"type": "text", "text": "Y"}, {"type": "text", "text": "es."}]}),  # Mistral
        _completion({"content": "Yes."}, "eos_token"),  # TGI
        _completion({"content": "Yes."}, None),
    ],
)
def test_an_answer_of_every_provider_is_read(body: dict[str, Any]) -> None:
    reply = chat_reply(body, Price(1.0, 2.0))
    assert (reply.text, reply.finish_reason, reply.error) == ("Yes.", "stop", None)
    assert (reply.prompt_tokens, reply.completion_tokens, reply.cost_usd) == (10, 20, pytest.approx(50e-6))


@pytest.mark.parametrize(
    ("content", "is_thinking", "text"),
    [
        ("<think>\nHm.\n</think>\n\nYes.", False, "Yes."),
        ("Hm.\n</think>\n\nYes.", True, "Yes."),
        ("Hm.\n</think>\n\nYes.", False, "Hm.\n</think>\n\nYes."),
        ("<think> I never end", False, ""),
        ("I say <think> now.", True, "I say <think> now."),
    ],
)
def test_thoughts_are_no_part_of_an_answer(content: str, is_thinking: bool, text: str) -> None:
    reply = chat_reply(_completion({"content": content}), Price(None, None), is_thinking=is_thinking)
    assert (reply.text, reply.error is None) == (text, bool(text))


@pytest.mark.parametrize("told", ["length", "model_length", "max_tokens"])
def test_a_cut_answer_is_returned_with_its_text(told: str) -> None:
    reply = chat_reply(_completion({"content": "Ye"}, told), Price(None, None))
    assert (reply.text, reply.finish_reason, reply.error, reply.cost_usd) == ("Ye", "length", None, None)


def test_a_refusal_is_no_stop() -> None:
    reply = chat_reply(_completion({"content": None, "refusal": "I can't help with that."}), Price(None, None))
    assert (reply.text, reply.finish_reason, reply.error) == ("I can't help with that.", "content_filter", None)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"choices": []}, "no choices"),
        ({"choices": None}, "no choices"),
        ({"choices": ["x"]}, "no choices"),
        ({}, "no choices"),
        (_completion({"content": None}), "no text"),
        (_completion({"content": "", "reasoning_content": "hm"}, "length"), r"no text \(finish reason length\)"),
        (_completion({"content": "half"}, "insufficient_system_resource"), "broke the answer off"),
        (_completion({"content": 7}), "no text"),
    ],
)
def test_a_reply_without_an_answer_says_why(body: dict[str, Any], says: str) -> None:
    reply = chat_reply(body, Price(None, None))
    assert reply.text == ""
    assert reply.error is not None
    assert re.search(says, reply.error)


@pytest.mark.parametrize("usage", [None, "x", {"prompt_tokens": -1}, {"prompt_tokens": "7"}, {}])
def test_usage_that_makes_no_sense_is_unknown(usage: Any) -> None:
    reply = chat_reply({**_completion({"content": "Yes."}), "usage": usage}, Price(1.0, 1.0))
    assert (reply.prompt_tokens, reply.cost_usd) == (None, None)


def test_log_probabilities_are_kept() -> None:
    logprobs = {"content": [{"token": "Yes.", "logprob": -0.1, "bytes": [89, 101, 115, 46], "top_logprobs": []}]}
    reply = chat_reply(_completion({"content": "Yes."}, logprobs=logprobs), Price(None, None))
    assert reply.logprobs == [["5965732e", -0.1, []]]
