"""A local server that speaks Anthropic's Messages API as strictly as the real one, and misbehaves on request."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from local_server import LocalServer

KEY = "sk-ant-test-0123456789"


@dataclass
class MessagesServer(LocalServer):
    """Answers with the last message in capitals. `faults` of a question are used up one a request."""

    faults: dict[str, list[str]] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def routes(self, app: web.Application) -> None:
        app.router.add_post("/v1/messages", self._messages)
        app.router.add_get("/v1/models", self._models)

    async def _models(self, request: web.Request) -> web.Response:
        if request.headers.get("x-api-key") != KEY:
            return error(401, "authentication_error", "invalid x-api-key")
        return web.json_response({"data": [{"type": "model", "id": "claude-sonnet-4-5"}], "has_more": False})

    async def _messages(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        if request.headers.get("x-api-key") != KEY:
            return error(401, "authentication_error", f"invalid x-api-key: {request.headers.get('x-api-key')}")
        if request.headers.get("anthropic-version") != "2023-06-01":
            return error(400, "invalid_request_error", "anthropic-version: header is required")
        refusal = refused(body)
        if refusal:
            return error(400, "invalid_request_error", refusal)
        question = body["messages"][-1]["content"]
        self.asked[question] += 1
        planned = self.faults.get(question) or []
        fault = (planned[0] if planned[:1] and planned[0].startswith("always ") else planned.pop(0)) if planned else "good"
        return answer(body, fault.removeprefix("always "))


def refused(body: dict[str, Any]) -> str | None:
    """What the API says of a body that it does not take."""
    if not isinstance(body.get("max_tokens"), int):
        return "max_tokens: Field required"
    if any(message["role"] not in ("user", "assistant") for message in body["messages"]):
        return 'messages: Unexpected role "system". The Messages API accepts a top-level `system` parameter'
    if body["model"] == "claude-opus-5" and ("temperature" in body or "top_p" in body):
        return "`temperature` is deprecated for this model."
    if body["model"] == "claude-sonnet-4-5" and "temperature" in body and "top_p" in body:
        return "`temperature` and `top_p` cannot both be specified for this model."
    return None


def error(status: int, kind: str, message: str, headers: dict[str, str] | None = None, **more: Any) -> web.Response:
    body = {"type": "error", "error": {"type": kind, "message": message, **more}, "request_id": "req_011CSHoEeqs5C35K2UUqR7Fy"}
    return web.json_response(body, status=status, headers=headers)


def message(text: str | None, stop_reason: str = "end_turn", **usage: Any) -> dict[str, Any]:
    """A message in the shape of the API reference; thoughts come first where `text` starts with one."""
    blocks = [] if text is None else [{"type": "text", "text": text, "citations": None}]
    return {
        "id": "msg_013Zva2CMHLNnXjNJJKqJ2EF",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-5-20250929",
        "content": blocks,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": {
            "input_tokens": 10,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
            "output_tokens": 5,
            "service_tier": "standard",
            **usage,
        },
    }


def answer(body: dict[str, Any], fault: str) -> web.Response:
    text = body["messages"][-1]["content"].upper()
    match fault:
        case "429":
            limits = {"anthropic-ratelimit-requests-remaining": "0", "retry-after": "0.3"}
            return error(429, "rate_limit_error", "This request would exceed your organization's rate limit", limits)
        case "529":
            return error(529, "overloaded_error", "Overloaded")
        case "500":
            return error(500, "api_error", "Internal server error")
        case "404":
            return error(404, "not_found_error", "model: claude-nobody")
        case "403":
            return error(403, "permission_error", "Your API key does not have permission")
        case "400":
            return error(400, "invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum")
        case "no credit":
            return error(400, "invalid_request_error", "Your credit balance is too low to access the Anthropic API.")
        case "own limit":
            said = "You have reached your specified API usage limits. You will regain access on 2026-12-01 at 00:00 UTC."
            return error(400, "invalid_request_error", said)
        case "tier limit":
            details = {"error_code": "enforced_spend_limit_reached"}
            return error(429, "rate_limit_error", "Your organization has reached its limit", details=details)
        case "thought":
            whole = message(text)
            whole["content"].insert(0, {"type": "thinking", "thinking": "Let me see.", "signature": "x"})
            return web.json_response(whole)
        case "empty":
            return web.json_response(message(None))
        case "no blocks":
            return web.json_response({**message(None), "content": None})
        case "cut":
            return web.json_response(message("HALF", "max_tokens"))
        case "stopped":
            return web.json_response(message(text, "stop_sequence"))
        case "refusal":
            return web.json_response(message("I cannot", "refusal"))
        case "cached":
            kinds = {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 100}
            return web.json_response(
                message(text, cache_creation_input_tokens=200, cache_read_input_tokens=1000, cache_creation=kinds)
            )
    return web.json_response(message(text))
