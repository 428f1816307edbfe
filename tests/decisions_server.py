"""A local server with both shapes of decisions: OpenAI's, in its SDK's shapes, and System One's, by the code of `transformers`.

System One is answered by the pipeline that `transformers serve` answers it with, where the server is given one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from local_server import LocalServer


def first_wins(choices: list[str], text: str) -> list[float]:
    """0.7 for the choice that the text names, else for the first; the rest shared by the others."""
    best = next((place for place, choice in enumerate(choices) if choice in text), 0)
    return [0.7 if place == best else 0.3 / (len(choices) - 1) for place in range(len(choices))]


@dataclass
class DecisionsServer(LocalServer):
    """`faults` of an input are used up one a request; `decide` gives each choice its probability."""

    faults: dict[str, list[str]] = field(default_factory=dict)
    decide: Callable[[list[str], str], list[float]] = first_wins
    pipeline: Any = None
    asked: Counter[str] = field(default_factory=Counter)
    bodies: list[dict[str, Any]] = field(default_factory=list)

    def routes(self, app: web.Application) -> None:
        app.router.add_post("/v1/decisions", self._decisions)
        app.router.add_post("/v1/systemone", self._system_one)
        app.router.add_get("/v1/models", self._models)

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "gpt-6-luna", "object": "model"}]})

    async def _decisions(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.bodies.append(body)
        self.asked[body["input"]] += 1
        if not isinstance(body["input"], str) or not body["questions"]:
            return web.json_response({"error": {"message": "Invalid input", "type": "invalid_request_error"}}, status=400)
        planned = self.faults.get(body["input"]) or []
        fault = planned.pop(0) if planned else "good"
        if fault == "500":
            return web.json_response({"error": {"message": "oops"}}, status=500)
        return web.json_response(
            {
                "model": body["model"],
                "answers": [self._answer(question, body["input"], fault) for question in body["questions"]],
                "usage": {
                    "input_tokens": 40,
                    "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                    "output_tokens": 0,
                    "output_tokens_details": {"reasoning_tokens": 0},
                    "total_tokens": 40,
                },
            }
        )

    def _answer(self, question: dict[str, Any], text: str, fault: str) -> dict[str, Any]:
        assert question["type"] == "choice"
        if fault == "refusal":
            return {"type": "refusal", "name": question["name"]}
        names = [choice["value"] for choice in question["choices"]]
        shares = self.decide(names, text)
        told = [{"value": name, "probability": share} for name, share in zip(names, shares, strict=True)]
        best = max(told, key=lambda one: one["probability"])
        kept = told[1:] if fault == "one missing" else told
        return {"type": "choice", "name": question["name"], "choice": best["value"], "confidence": 0.6, "probabilities": kept}

    async def _system_one(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.bodies.append(body)
        asked = {name: body[name] for name in ("state", "questions")}
        prepared = self.pipeline.preprocess({**asked, "assets": {}})
        answers = self.pipeline.postprocess(self.pipeline.forward(prepared))
        tokens = sum(inputs["input_ids"].shape[-1] for inputs, _ in prepared["prompts"])
        usage = {"input_tokens": tokens, "output_tokens": 0}
        return web.json_response({"model": body["model"], "answers": answers, "usage": usage})
