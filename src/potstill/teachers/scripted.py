"""A teacher that answers from a script: for tests and demonstrations."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from pydantic import Field

from ..contracts import Price, Requests, Teacher
from ..runfolder import fingerprint
from ..types import Reply, Request


class Scripted(Teacher):
    """Answers from a script in the job; free, instant and the same every time.

    >>> Scripted(replies={"red light": "Restart it."}).reply_to("My router shows a red light.").text
    'Restart it.'
    """

    replies: Mapping[str, str] = Field(
        default={}, description="last user message, or a part of it, to answer; the first that fits"
    )
    default: str | None = Field(default=None, description="the answer where none fits")
    echo: bool = Field(default=False, description="where none fits, answer with the last user message itself")

    def identity(self) -> Mapping[str, Any]:
        return {"kind": "scripted", "script": fingerprint(list(self.replies.items()), self.default, self.echo)}

    async def answers(self, requests: Requests) -> AsyncIterator[tuple[Request, Reply]]:
        async for request in requests:
            yield request, self.reply_to(request.messages[-1].content)

    def reply_to(self, question: str) -> Reply:
        fitting = (answer for part, answer in self.replies.items() if part in question)
        text = self.replies.get(question) or next(fitting, self.default)
        if text is None and self.echo:
            text = question
        if text is None:
            return Reply("", "error", cost_usd=0.0, error="the script has no reply to this message")
        prompt_tokens, completion_tokens = len(question.split()), len(text.split())
        cost = self.price().cost(prompt_tokens, completion_tokens)
        return Reply(text, "stop", prompt_tokens, completion_tokens, cost_usd=cost)

    def price(self) -> Price:
        return Price(0.0, 0.0)
