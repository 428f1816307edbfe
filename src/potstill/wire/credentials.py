"""Keys by reference: a job names the environment variable (env:NAME), and the key itself is never written anywhere."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from ..errors import TeacherError


def key_reference(value: str | None) -> str | None:
    """The value of an `api_key` field as it came, where it is env:NAME; raises ValueError where it is anything else.

    >>> key_reference("env:OPENAI_API_KEY")
    'env:OPENAI_API_KEY'
    """
    if value is not None and not re.fullmatch(r"env:[A-Za-z_][A-Za-z0-9_]*", value):
        raise ValueError("api_key must be env:NAME, such as env:OPENAI_API_KEY; the key itself never stands in the job")
    return value


@dataclass(frozen=True, slots=True)
class Credential:
    """Whose key is sent, and in which header. Nothing here holds the key: it is read where it is needed.

    `reference` is a checked `api_key` field, `usual` the reference that a hint names where the job has none. The header's
    value is `prefix` and the key.

    >>> Credential("env:MY_KEY").name
    'MY_KEY'
    """

    reference: str | None
    usual: str = "env:OPENAI_API_KEY"
    header: str = "Authorization"
    prefix: str = "Bearer "

    @property
    def name(self) -> str:
        """The environment variable's name; empty where the job has no key."""
        return (self.reference or "").removeprefix("env:")

    def secret(self) -> str | None:
        """The key; None where the job has none, empty where the variable is not set. Never show it, never write it."""
        return os.environ.get(self.name, "").strip() if self.reference else None

    def problem(self, place: str) -> str | None:
        """Why nothing can be sent to `place` with this key; None when it can."""
        if self.reference is None:
            return None
        secret = self.secret()
        if not secret:
            return f"the environment variable {self.name} is not set; it must hold the key for {place} (export {self.name}=...)"
        if not (secret.isascii() and secret.isprintable()):  # the libraries that refuse such a header repeat it in their error
            return (
                f"the environment variable {self.name} holds more than a key (a line break or a letter that no key has); "
                "export it again"
            )
        return None

    def headers(self, place: str) -> dict[str, str]:
        """The header that carries the key, none where the job has no key; raises TeacherError where it cannot be sent."""
        problem = self.problem(place)
        if problem:
            raise TeacherError(problem)
        secret = self.secret()
        return {self.header: self.prefix + secret} if secret else {}

    def hint(self) -> str:
        """What to do when the endpoint refuses access."""
        if self.reference is None:
            return f"set the teacher's api_key, such as {self.usual}"
        return f"check the key in the environment variable {self.name}"
