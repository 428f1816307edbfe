"""A teacher that chooses from a closed set of labels and says how likely each is: OpenAI's decisions endpoint and its like.

    teacher: {kind: openai_decisions, base_url: "https://api.openai.com/v1", model: gpt-6-luna, api_key: "env:OPENAI_API_KEY"}

Two shapes say the same (both after the providers' references and SDKs of October 2026). `decisions` is OpenAI's POST
/decisions, which others offer under that path. `system_one` is POST /systemone, as `transformers serve`, vLLM and SGLang have
it: `{kind: openai_decisions, shape: system_one, base_url: "http://127.0.0.1:8000/v1", model: ...}`. One choice question is
asked for each row. No text is generated; the answer's text is the likeliest label. The system prompt becomes the question's
instructions, and a conversation of several turns one text with the speakers' names, as both shapes take one input only.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, ClassVar, Literal

from pydantic import Field

from ..contracts import Price, Requests, Teacher
from ..errors import TeacherError
from ..journal import key
from ..types import Message, Reply, Request
from ..wire.credentials import Credential
from ..wire.endpoint import Question, Service
from ..wire.hosted import (
    ApiKey,
    BackoffS,
    BaseUrl,
    MaxAttempts,
    MaxConcurrency,
    PerMinute,
    TimeoutS,
    ask_all,
    problems_of,
    service_of,
)

QUESTION = "label"
INSTRUCTIONS = "Choose the answer to the input."
ROUNDING = 0.02
"""How far the probabilities of all labels may be from a sum of 1; servers round each of them."""


class OpenAiDecisions(Teacher):
    """Gives each label of a closed set its probability: OpenAI's decisions, transformers serve, vLLM, SGLang."""

    gives_label_probabilities: ClassVar[bool] = True
    base_url: BaseUrl
    model: str = Field(description="the model's name on that server")
    api_key: ApiKey = None
    shape: Literal["decisions", "system_one"] = Field(default="decisions", description="OpenAI's request, or System One's")
    path: str | None = Field(default=None, pattern="^/", description="default: /decisions or /systemone, as the shape has it")
    descriptions: Mapping[str, str] = Field(default={}, description="what a label means, where its name does not say it")
    max_concurrency: MaxConcurrency = 128
    max_requests_per_minute: PerMinute = None
    max_tokens_per_minute: PerMinute = None
    timeout_s: TimeoutS = 120.0
    max_attempts: MaxAttempts = 6
    backoff_s: BackoffS = 1.0
    input_per_million: float | None = Field(default=None, ge=0, description="dollars for a million prompt tokens")
    output_per_million: float | None = Field(default=0.0, ge=0, description="dollars for a million answer tokens; usually none")
    extra: Mapping[str, Any] = Field(default={}, description="more fields of the request's body; null leaves a usual one out")

    def identity(self) -> Mapping[str, Any]:
        first = self.base_url if isinstance(self.base_url, str) else self.base_url[0]
        asked = {"base_url": first, "path": self._path, "shape": self.shape, "model": self.model, "extra": dict(self.extra)}
        return {"kind": "openai_decisions", **asked, "descriptions": dict(self.descriptions)}

    def price(self) -> Price:
        return Price(self.input_per_million, self.output_per_million)

    def service(self) -> Service:
        return service_of(self, self._path, Credential(self.api_key))

    async def answers(self, requests: Requests) -> AsyncIterator[tuple[Request, Reply]]:
        async with aclosing(ask_all(self.service(), requests, self._question, self.reply)) as replies:
            async for request, reply in replies:
                yield request, reply

    def problems(self) -> list[str]:
        return problems_of(self.service())

    def body(self, request: Request) -> dict[str, Any]:
        """The request's JSON body: one question with the request's labels as its choices."""
        if not request.labels:
            raise TeacherError(
                "openai_decisions chooses from a closed set of labels and this task has none; use it for a task with labels "
                "(classification with `labels`, nli), or take openai_api as the teacher"
            )
        system = [message.content for message in request.messages if message.role == "system"]
        asked: dict[str, Any] = {"type": "choice", "instructions": "\n\n".join(system) or INSTRUCTIONS}
        text = _one_text([message for message in request.messages if message.role != "system"])
        usual: dict[str, Any]
        if self.shape == "decisions":
            choices = [self._choice(label) for label in request.labels]
            usual = {"model": self.model, "input": text, "questions": [{**asked, "name": QUESTION, "choices": choices}]}
        else:
            criteria = {label: self.descriptions.get(label) for label in request.labels}
            usual = {"model": self.model, "state": text, "questions": {QUESTION: {**asked, "criteria": criteria}}}
        return {name: value for name, value in {**usual, **self.extra}.items() if value is not None}

    def reply(self, request: Request, body: Mapping[str, Any]) -> Reply:
        """The likeliest label, with the probability of each; `error` is set when they are not all there."""
        usage = body.get("usage")
        counts = [usage.get(name) if isinstance(usage, dict) else None for name in ("input_tokens", "output_tokens")]
        prompt_tokens, completion_tokens = (count if isinstance(count, int) else None for count in counts)
        cost = self.price().cost(prompt_tokens, completion_tokens)
        answer = _answer(body)
        if answer.get("type") == "refusal":
            error = "the model declined to answer"
            return Reply("", "content_filter", prompt_tokens, completion_tokens, cost, error=error)
        shares = _probabilities(answer)
        told = [shares.get(label) for label in request.labels]
        known = [share for share in told if share is not None and math.isfinite(share) and 0 <= share <= 1]
        total = sum(known)
        if len(known) < len(request.labels) or abs(total - 1) > ROUNDING:
            error = f"the reply holds probabilities of {len(known)} of {len(request.labels)} labels, {total:.3f} together"
            return Reply("", "error", prompt_tokens, completion_tokens, cost, error=error)
        probabilities = {label: share / total for label, share in zip(request.labels, known, strict=True)}
        best = max(probabilities, key=lambda label: (probabilities[label], label == answer.get("choice")))
        return Reply(best, "stop", prompt_tokens, completion_tokens, cost, label_probabilities=probabilities)

    @property
    def _path(self) -> str:
        return self.path or ("/decisions" if self.shape == "decisions" else "/systemone")

    def _question(self, request: Request) -> Question:
        return Question(self.body(request), key(self.identity(), request))

    def _choice(self, label: str) -> dict[str, str]:
        meaning = self.descriptions.get(label)
        return {"value": label} if meaning is None else {"value": label, "description": meaning}


def _one_text(turns: list[Message]) -> str:
    """A single message as it is; of several, each with its speaker's name."""
    if len(turns) == 1:
        return turns[0].content
    return "\n\n".join(f"{turn.role}: {turn.content}" for turn in turns)


def _answer(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The one answer: the first of a list (OpenAI), or the one under the question's name (System One)."""
    answers = body.get("answers")
    first = answers[0] if isinstance(answers, list) and answers else None
    found = answers.get(QUESTION) if isinstance(answers, dict) else first
    return found if isinstance(found, dict) else {}


def _probabilities(answer: Mapping[str, Any]) -> dict[str, float]:
    """Each choice's probability: of a list of value and probability (OpenAI), or of a mapping (System One)."""
    told = answer.get("probabilities")
    if isinstance(told, list):
        told = {one.get("value"): one.get("probability") for one in told if isinstance(one, dict)}
    pairs = told.items() if isinstance(told, dict) else ()
    return {name: float(share) for name, share in pairs if isinstance(name, str) and isinstance(share, int | float)}
