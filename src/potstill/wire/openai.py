"""The OpenAI chat API in its own words, as all kinds of servers speak it: a Request's body, a chat completion's Reply.

What differs from server to server is data: `providers` in catalog.yaml. Shapes after the providers' references of November
2026. A model that thinks does so within its limit of tokens, so that there must be room for it, and samples in its own way.
Its thoughts (`reasoning_content`, `reasoning`) are never taken for its answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from ..catalog import Provider, provider_at, provider_named
from ..contracts import Price
from ..errors import JobError
from ..types import Reply, Request, Sampling
from .token_logprobs import read_logprobs

THINKING_ROOM = 8192
"""Tokens for thoughts beside an answer's own. A limit, not a price: what is not thought is not paid for."""
THOUGHTS = ("<think>", "</think>")
SCHEMA_NAME = "answer"
FINISH_REASONS = {"eos": "stop", "eos_token": "stop", "stop_sequence": "stop", "model_length": "length", "max_tokens": "length"}
NOT_SET: Mapping[str, tuple[Any, ...]] = {"temperature": (1,), "top_p": (1,), "stop": ((), [])}
"""What a field may say and yet not ask for anything."""
BROKEN_OFF = frozenset({"error", "abort", "insufficient_system_resource"})
"""Finish reasons of a server that stopped in the middle for its own sake."""


def thinks(provider: Provider, model: str, extra: Mapping[str, Any]) -> bool:
    """Whether a model thinks before it answers, by its name, and unless `extra` turns it off.

    >>> openai = provider_named("openai")
    >>> thinks(openai, "o3", {}), thinks(openai, "gpt-6-luna", {"reasoning_effort": "none"}), thinks(openai, "gpt-4o", {})
    (True, False, False)
    """
    if provider.thinks is None or re.search(provider.thinks, model.rpartition("/")[2]) is None:
        return False
    off = provider.thinks_not_with
    return not off or any(extra.get(name) != value for name, value in off.items())


def provider_of(given: Any, base_url: Any) -> Provider:
    """How the server speaks: a provider's name, its fields, or by the host of `base_url`; ValueError where it is none of them."""
    if isinstance(given, Provider):
        return given
    if isinstance(given, Mapping):
        return Provider(**given)
    if given is not None:
        try:
            return provider_named(str(given))
        except JobError as error:
            raise ValueError(str(error)) from None
    first = base_url[0] if isinstance(base_url, list | tuple) and base_url else base_url
    return provider_at(urlsplit(first).hostname or "" if isinstance(first, str) else "")


def fitting_sampling(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A teacher's fields, with the temperature that the model will really use; ValueError where it refuses what is set.

    >>> url = "https://api.openai.com/v1"
    >>> fitting_sampling({"base_url": url, "model": "o3"})["temperature"], fitting_sampling({"base_url": url, "model": "gpt-4o"})
    (1.0, {'base_url': 'https://api.openai.com/v1', 'model': 'gpt-4o'})
    """
    provider, model = provider_of(fields.get("provider"), fields.get("base_url")), str(fields.get("model", ""))
    most, wanted = provider.most_top_logprobs, fields.get("top_logprobs")
    if isinstance(wanted, int) and wanted > most:
        gives = f"at most {most} alternatives of a token" if most else "no log-probabilities"
        raise ValueError(f"top_logprobs: this provider gives {gives} (got {wanted})")
    extra, told = fields.get("extra"), fields.get("thinks")
    is_thinking = thinks(provider, model, extra if isinstance(extra, Mapping) else {}) if told is None else told
    if not is_thinking:
        return dict(fields)
    for name in provider.refused_when_thinking:
        if fields.get(name) not in (None, *NOT_SET.get(name, (0,))):
            raise ValueError(f"{model} thinks before it answers and takes no {name} (got {fields[name]!r}); leave it out")
    samples_in_its_own_way = "temperature" in provider.refused_when_thinking
    return {**fields, "temperature": 1.0} if samples_in_its_own_way else dict(fields)


def chat_identity(
    base_url: str | tuple[str, ...], model: str, extra: Mapping[str, Any], identity_url: str | None = None
) -> dict[str, Any]:
    """What decides an answer beside the request. The same asked live and in a batch, so that they share the journal.

    Of several servers the first names them all: one that is added behind it pays for nothing again.
    """
    first = base_url if isinstance(base_url, str) else base_url[0]
    return {"kind": "openai_api", "base_url": identity_url or first, "model": model, "extra": dict(extra)}


def chat_body(model: str, request: Request, provider: Provider, extra: Mapping[str, Any], *, is_thinking: bool) -> dict[str, Any]:
    """The JSON body of one chat completion; `extra` adds to it or, with null, leaves a usual field out."""
    sampling = request.sampling
    usual: dict[str, Any] = {
        "model": model,
        "messages": [message.as_dict() for message in request.messages],
        provider.max_tokens: sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        **_when_set(sampling),
    }
    if is_thinking:
        usual = {name: value for name, value in usual.items() if name not in provider.refused_when_thinking}
    if request.schema:
        usual |= _structured(request, provider)
    return {name: value for name, value in {**usual, **extra}.items() if value is not None}


def _when_set(sampling: Sampling) -> dict[str, Any]:
    more: dict[str, Any] = {}
    if sampling.frequency_penalty:
        more["frequency_penalty"] = sampling.frequency_penalty
    if sampling.presence_penalty:
        more["presence_penalty"] = sampling.presence_penalty
    if sampling.stop:
        more["stop"] = list(sampling.stop)
    if sampling.top_logprobs:
        more |= {"logprobs": True, "top_logprobs": sampling.top_logprobs}
    return more


def _structured(request: Request, provider: Provider) -> dict[str, Any]:
    """How a server is told that the answer must follow the request's schema, as far as it can be told."""
    schema = json.loads(request.schema or "{}")
    if provider.structured == "guided_json":
        return {"guided_json": schema}
    if provider.structured == "json_schema":
        named = {"name": SCHEMA_NAME, "schema": schema, **({"strict": True} if is_strict(schema) else {})}
        return {"response_format": {"type": "json_schema", "json_schema": named}}
    says_json = any("json" in message.content.lower() for message in request.messages)  # else such a server writes blanks
    return {"response_format": {"type": "json_object"}} if provider.structured == "json_object" and says_json else {}


def is_strict(schema: Any) -> bool:
    """Whether a schema is one that OpenAI's strict mode takes: every object closed, with all of its properties required.

    >>> is_strict({"type": "object", "properties": {"a": {"type": "string"}}})
    False
    """
    if isinstance(schema, list):
        return all(is_strict(part) for part in schema)
    if not isinstance(schema, dict):
        return True
    if schema.get("type") == "object":
        names = set(schema.get("properties") or {})
        if schema.get("additionalProperties") is not False or set(schema.get("required") or ()) != names:
            return False
    return all(is_strict(part) for part in schema.values())


def chat_reply(body: Mapping[str, Any], price: Price, *, is_thinking: bool = False) -> Reply:
    """The first choice of a chat completion; `error` is set when it holds no text or the server broke it off."""
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    message = choice.get("message")
    message = message if isinstance(message, dict) else {}
    told = str(choice.get("finish_reason") or "stop")
    reason = FINISH_REASONS.get(told, told)
    prompt_tokens, completion_tokens = _usage(body, "prompt_tokens"), _usage(body, "completion_tokens")
    counted = (prompt_tokens, completion_tokens, price.cost(prompt_tokens, completion_tokens))
    text = _without_thoughts(_text(message.get("content")), is_thinking=is_thinking)
    refusal = message.get("refusal")
    if not text.strip() and isinstance(refusal, str) and refusal.strip():
        text, reason = refusal, "content_filter"
    if reason in BROKEN_OFF:
        return Reply("", "error", *counted, error=f"the server broke the answer off (finish reason {reason})")
    if text.strip():
        text = text.encode(errors="replace").decode()  # half a surrogate pair cannot be written to any file
        return Reply(text, reason, *counted, logprobs=read_logprobs(choice, text))
    error = f"the reply holds no text (finish reason {reason})" if choice else "the reply holds no choices"
    return Reply("", reason, *counted, error=error)


def _text(content: Any) -> str:
    """A message's text; some servers send it in parts."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str))
    return content if isinstance(content, str) else ""


def _without_thoughts(text: str, *, is_thinking: bool) -> str:
    """The answer alone, where a server that reads no thoughts leaves them in the text; some templates open them unseen.

    >>> _without_thoughts("<think>Hm. Four?</think>\\n\\n4", is_thinking=False)
    '4'
    """
    if not text.lstrip().startswith(THOUGHTS[0]) and not (is_thinking and THOUGHTS[1] in text):
        return text
    _, ended, answer = text.rpartition(THOUGHTS[1])
    return answer.lstrip() if ended else ""


def _usage(body: Mapping[str, Any], name: str) -> int | None:
    usage = body.get("usage")
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if isinstance(count, int) and count >= 0 else None
