"""The Messages API of Anthropic in its own words, for single requests and for batches: a Request's body, a message's Reply.

Shapes after the API reference and the SDK's types of October 2026. Two rules of the newer models decide what is sent: from
Claude 4.7 on `temperature` and `top_p` are refused unless they are 1, and from Claude 5 on a model thinks unasked, in tokens
that count towards `max_tokens`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..contracts import Price
from ..types import Reply, Request

HEADERS = {"anthropic-version": "2023-06-01"}
LAST_WITH_SAMPLING = (4, 6)
FIRST_WITH_ONE_OF_TWO = (4, 1)
FIRST_THINKING = (5, 0)
THINKING_ROOM = 8192
"""Tokens for thoughts beside an answer's own. A limit, not a price: what is not thought is not paid for."""
FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}
CACHE_WRITE_5M, CACHE_WRITE_1H, CACHE_READ = 1.25, 2.0, 0.1
"""What a cached prompt token costs against a plain one; a cache is used only where `extra` asks for one."""


class Claude(NamedTuple):
    """What a model's name says of the settings that it takes."""

    takes_sampling: bool
    takes_both: bool
    thinks_unasked: bool


def claude(model: str) -> Claude:
    """What a model takes. A Claude whose version cannot be read counts as new; a model of another name takes everything.

    >>> claude("claude-3-5-sonnet-20241022"), claude("claude-opus-4-20250514").takes_sampling
    (Claude(takes_sampling=True, takes_both=True, thinks_unasked=False), True)
    >>> claude("claude-sonnet-4-5-20250929"), claude("claude-opus-4-8")
    (Claude(takes_sampling=True, takes_both=False, thinks_unasked=False), \
Claude(takes_sampling=False, takes_both=False, thinks_unasked=False))
    >>> claude("claude-mythos-preview"), claude("my-own").takes_both
    (Claude(takes_sampling=False, takes_both=False, thinks_unasked=True), True)
    """
    if "claude" not in model:
        return Claude(takes_sampling=True, takes_both=True, thinks_unasked=False)
    read = re.search(r"claude-(?:[a-z]+-)?(\d{1,2})(?:[-.](\d{1,2}))?(?!\d)", model)
    version = (int(read[1]), int(read[2] or 0)) if read else (99, 0)
    return Claude(version <= LAST_WITH_SAMPLING, version < FIRST_WITH_ONE_OF_TWO, version >= FIRST_THINKING)


def fitting_sampling(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A teacher's fields with the temperature that the model will really use; raises ValueError where it refuses what is set.

    A model that samples in its own way, and one that is given `top_p` and takes one setting only, is at temperature 1.

    >>> fitting_sampling({"model": "claude-opus-5"})["temperature"], fitting_sampling({"model": "claude-3-haiku"})
    (1.0, {'model': 'claude-3-haiku'})
    """
    model, temperature, top_p = str(fields.get("model", "")), fields.get("temperature"), fields.get("top_p", 1)
    if not isinstance(temperature, int | float | None) or not isinstance(top_p, int | float):
        return dict(fields)  # refused in its own words when the field is read
    takes = claude(model)
    if temperature is not None and temperature > 1:
        raise ValueError(f"temperature must be between 0 and 1 for Anthropic's models (got {temperature:g})")
    if not takes.takes_sampling and (temperature not in (None, 1) or top_p != 1):
        raise ValueError(
            f"{model} refuses temperature and top_p: Claude 4.7 and later sample in their own way, which counts as temperature "
            "1; leave both out"
        )
    if not takes.takes_both and temperature not in (None, 1) and top_p != 1:
        raise ValueError(f"{model} takes temperature or top_p, not both (got {temperature:g} and {top_p:g}); leave one out")
    its_own = temperature is None and (not takes.takes_sampling or (not takes.takes_both and top_p != 1))
    return {**fields, "temperature": 1.0} if its_own else dict(fields)


def room_for_thinking(model: str, chosen: int | None, extra: Mapping[str, Any]) -> int:
    """Tokens for thoughts beside an answer's own limit.

    >>> room_for_thinking("claude-opus-5", None, {}), room_for_thinking("claude-opus-5", None, {"thinking": {"type": "disabled"}})
    (8192, 0)
    """
    if chosen is not None:
        return chosen
    thinking = extra.get("thinking")
    is_off = isinstance(thinking, Mapping) and thinking.get("type") == "disabled"
    return THINKING_ROOM if claude(model).thinks_unasked and not is_off else 0


def claude_identity(base_url: str | tuple[str, ...], model: str, extra: Mapping[str, Any]) -> dict[str, Any]:
    """What decides an answer beside the request. The same asked live and in a batch, so that they share the journal."""
    first = base_url if isinstance(base_url, str) else base_url[0]
    return {"kind": "anthropic_api", "base_url": first, "model": model, "extra": dict(extra)}


def message_body(model: str, request: Request, extra: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON body of one message; `extra` adds to it or, with null, leaves a usual field out.

    The API's own default of temperature and top_p is 1, and a 1 is not sent.
    """
    sampling = request.sampling
    system = "\n\n".join(message.content for message in request.messages if message.role == "system")
    takes_sampling = claude(model).takes_sampling
    usual = {
        "model": model,
        "max_tokens": sampling.max_tokens,
        "system": system or None,
        "messages": [message.as_dict() for message in request.messages if message.role != "system"],
        "temperature": sampling.temperature if takes_sampling and sampling.temperature != 1 else None,
        "top_p": sampling.top_p if takes_sampling and sampling.top_p != 1 else None,
        "stop_sequences": list(sampling.stop) or None,
    }
    body = {name: value for name, value in {**usual, **extra}.items() if value is not None}
    if request.schema:
        form = {"type": "json_schema", "schema": json.loads(request.schema)}
        body["output_config"] = {**(body.get("output_config") or {}), "format": form}
    return body


def message_reply(body: Mapping[str, Any], price: Price) -> Reply:
    """A message as a Reply: its text blocks joined, thoughts left out; `error` is set when it holds no text."""
    blocks = body.get("content")
    if not isinstance(blocks, list):
        return Reply("", "error", cost_usd=_cost(body, price), error="the reply holds no content blocks")
    texts = [block.get("text") for block in blocks if isinstance(block, dict) and block.get("type") == "text"]
    text = "".join(part for part in texts if isinstance(part, str))
    said = str(body.get("stop_reason") or "end_turn")
    reason = FINISH_REASONS.get(said, said)
    counts = (prompt_tokens(body), _count(body, "output_tokens"), _cost(body, price))
    if text.strip():
        return Reply(text.encode(errors="replace").decode(), reason, *counts)  # half a surrogate pair fits into no file
    return Reply("", reason, *counts, error=f"the reply holds no text (stop reason {said})")


def prompt_tokens(body: Mapping[str, Any]) -> int | None:
    """All tokens of the prompt: the plain ones, those written to a cache and those read from one.

    >>> prompt_tokens({"usage": {"input_tokens": 3, "cache_read_input_tokens": 100, "output_tokens": 1}})
    103
    """
    plain = _count(body, "input_tokens")
    if plain is None:
        return None
    return plain + (_count(body, "cache_creation_input_tokens") or 0) + (_count(body, "cache_read_input_tokens") or 0)


def _cost(body: Mapping[str, Any], price: Price) -> float | None:
    """Dollars, with cached tokens at their own price; rounded up to whole plain tokens."""
    plain = _count(body, "input_tokens")
    if plain is None:
        return None
    written = _count(body, "cache_creation_input_tokens") or 0
    usage = body.get("usage")
    kinds = usage.get("cache_creation") if isinstance(usage, dict) else None
    long = kinds.get("ephemeral_1h_input_tokens") if isinstance(kinds, dict) else None
    hour = min(long, written) if isinstance(long, int) else 0
    cached = CACHE_WRITE_5M * (written - hour) + CACHE_WRITE_1H * hour
    cached += CACHE_READ * (_count(body, "cache_read_input_tokens") or 0)
    return price.cost(plain + math.ceil(cached), _count(body, "output_tokens"))


def _count(body: Mapping[str, Any], name: str) -> int | None:
    usage = body.get("usage")
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if isinstance(count, int) else None
