"""What an HTTP endpoint means when it does not answer: a fault that passes, of one row, or of the whole job.

Three kinds: of the endpoint for now (PassingError: asked again), of one row (RowError: that row fails, no other), and of the
whole job (TeacherError: a refused key, no credit, an unknown model; asking on would help nobody).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from ..errors import TeacherError
from .credentials import Credential
from .limits import retry_after

RETRIED = frozenset({408, 409, 425})
UNWORKED = frozenset({404, 405, 409, 425})
"""Refused before any work, so never billed; a 408 or a 500 may have worked first."""
BUSY = frozenset({429, 503, 529})
"""Too Many Requests, Service Unavailable, and Anthropic's overloaded."""
AZURE = ".azure.com"
"""Bills a 400 for a filtered prompt or too long an input, as it has worked on it ("Plan to manage costs for Azure OpenAI")."""
SHOWN_CHARACTERS = 200
KEY_LIKE = re.compile(r"\b(sk|hf|gsk|key|xai)[-_][-_A-Za-z0-9*]{6,}|Bearer \S+")

# How providers say it: OpenAI and Azure by a code, DeepSeek, Anthropic, Mistral and Google by a sentence.
NO_CREDIT = (
    "insufficient_quota",
    "insufficient balance",
    "insufficient_balance",
    "billing_hard_limit_reached",
    "billing_not_active",
    "credit balance is too low",
    "billing_error",
    "enforced_spend_limit_reached",
    "specified api usage limits",
    "specified workspace api usage limits",
)
REFUSED_KEY = ("invalid_api_key", "incorrect api key", "api key not valid", "authentication_error")
UNKNOWN_MODEL = ("model_not_found", "model not exist", "invalid model", "invalid_model", "deploymentnotfound")
FILTERED = ("content_filter", "responsibleaipolicyviolation", "content management policy", "invalid_prompt")


class HttpAnswer(NamedTuple):
    """What came back, whole."""

    status: int
    headers: Mapping[str, str]
    data: bytes


class PassingError(Exception):
    """This attempt failed by the endpoint's fault, which may pass. `wait_s` is how long it asks to be left alone."""

    counts: ClassVar[float] = 1.0
    """How much of an attempt it counts for the row."""
    is_overload: ClassVar[bool] = False
    """Whether fewer requests at a time would help."""
    is_free: ClassVar[bool] = False
    """Whether it costs nothing for certain, as no work was begun; else what it costs is not known."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class SlowError(PassingError):
    """No answer in time."""

    is_overload = True


class BusyError(PassingError):
    """The endpoint has too much to do, which is not the row's fault."""

    counts = 0.25
    is_overload = True
    is_free = True


class RateLimitError(BusyError):
    """The endpoint works, and wants to be asked less often."""


class UnreachableError(PassingError):
    """Nobody took the connection."""

    counts = 0.25
    is_free = True


class RefusedError(PassingError):
    """Refused before any work was begun."""

    is_free = True


class RowError(Exception):
    """The endpoint refuses this row; asking again would not help. `reason` is a finish reason, `is_free` as in PassingError."""

    def __init__(self, told: str, reason: str = "error", *, is_free: bool = True) -> None:
        super().__init__(told)
        self.reason = reason
        self.is_free = is_free


@dataclass(frozen=True, slots=True)
class FaultReader:
    """Reads what the endpoint at `url` says; a key never gets into what is told."""

    url: str
    credential: Credential

    def body(self, answer: HttpAnswer, *, has_answered: bool) -> dict[str, Any]:
        """The JSON object of a good answer; raises one of the three kinds of fault for any other.

        Until the endpoint `has_answered` once, a refusal (403, 404) counts for the whole job; later it is a row's.
        """
        try:
            body = json.loads(answer.data)
        except (ValueError, RecursionError):
            body = None
        if answer.status == 200 and isinstance(body, dict) and not body.get("error"):
            return body
        said = self.said(body, answer.data)
        if answer.status != 200:
            raise self._fault(answer, said, has_answered)
        if not isinstance(body, dict):
            raise PassingError(f"the endpoint answered something that is not a JSON object: {said}")
        raise self._of_the_job(said) or PassingError(f"the endpoint answered an error with status 200: {said}")

    def said(self, body: Any, data: bytes) -> str:
        """What the endpoint said, short, on one line, with nothing in it that looks like a key."""
        error = (body.get("error") or body) if isinstance(body, dict) else body
        if isinstance(error, dict):
            details = error.get("details")  # where Anthropic says which limit a 429 is about
            error = {**error, "error_code": details.get("error_code")} if isinstance(details, dict) else error
            told = " ".join(str(error[name]) for name in ("code", "type", "error_code", "message", "detail") if error.get(name))
        else:
            told = error if isinstance(error, str) else ""
        return self.shown(told or data[: 4 * SHOWN_CHARACTERS].decode(errors="replace")) or "nothing"

    def shown(self, text: str) -> str:
        """A text without the key, on one line, cut."""
        secret = self.credential.secret()
        text = text.replace(secret, "***") if secret else text
        return " ".join(KEY_LIKE.sub("***", text).split())[:SHOWN_CHARACTERS]

    def _fault(self, answer: HttpAnswer, said: str, has_answered: bool) -> Exception:
        """What a status other than 200 means."""
        status = answer.status
        told = f"HTTP {status}: {said}"
        if status < 500 and (of_the_job := self._of_the_job(said)):
            return of_the_job
        if status == 401 or (status == 403 and not has_answered):
            return TeacherError(f"teacher endpoint {self.url} refuses access (HTTP {status}); {self.credential.hint()}")
        if status == 402:
            return TeacherError(f"teacher endpoint {self.url} wants to be paid ({told}); add credit")
        if not has_answered and (status in (404, 405) or (status < 500 and _has(said, UNKNOWN_MODEL))):
            return TeacherError(f"teacher endpoint {self.url} knows no such model or path ({told}); correct base_url or model")
        if 300 <= status < 400:
            return TeacherError(f"teacher endpoint {self.url} redirects (HTTP {status}); write the address it redirects to")
        if status in BUSY:
            return (RateLimitError if status == 429 else BusyError)(told, retry_after(answer.headers))
        if status in RETRIED or status >= 500 or status in (404, 405):
            return (RefusedError if status in UNWORKED else PassingError)(told, retry_after(answer.headers))
        is_filtered = _has(said, FILTERED)
        may_be_billed = is_filtered or (status == 400 and AZURE in self.url)
        return RowError(told, "content_filter" if is_filtered else "error", is_free=not may_be_billed)

    def _of_the_job(self, said: str) -> TeacherError | None:
        if _has(said, NO_CREDIT):
            return TeacherError(f"the account at {self.url} has no credit left ({said}); add credit, then run again to go on")
        if _has(said, REFUSED_KEY):
            return TeacherError(f"teacher endpoint {self.url} refuses access; {self.credential.hint()}")
        return None


def _has(said: str, words: tuple[str, ...]) -> bool:
    lowered = said.lower()
    return any(word in lowered for word in words)
