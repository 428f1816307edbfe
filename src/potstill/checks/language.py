"""Refuses answers in another language than was asked for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Self

from pydantic import Field, field_validator, model_validator
from typing_extensions import override

from ..contracts import Check, Finding, Task
from ..text.languages import language_by_script, language_of, require_languages
from ..text.texts import without_thinking
from ..types import Example, Reply

FEWEST_LETTERS, FEWEST_OF_OWN_SCRIPT = 40, 6
"""Of 12,000 English answers and prompts with 40 letters and more, 2 were taken for another language; with 20, 25 were."""
_CODE = re.compile(r"[a-z]{2,3}")
_NO_LANGUAGE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+|\S+@\S+", re.DOTALL)
_LETTER = re.compile(r"[^\W\d_]")
# Languages so near to one another that the model takes one for the other.
_NEAR = {"pcm": "en", "nb": "da", "nn": "da", "no": "da", "hr": "sr", "bs": "sr", "ms": "id", "gl": "pt", "af": "nl", "sk": "cs"}


class Language(Check):
    """Refuses an answer in another language than its prompt's, or than the ones named; short answers are left alone.

    A prompt may hold several (an English request about a German text): then each of them will do. A translation task names
    the language that it translates into. Code, addresses and reasoning in a <think> block do not count.
    """

    languages: tuple[str, ...] = Field(
        default=(), description="ISO 639 codes of the languages that an answer may be in; default: its prompt's"
    )

    @field_validator("languages", mode="before")
    @classmethod
    def _one_is_a_list_too(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("languages")
    @classmethod
    def _are_codes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for code in value:
            if not _CODE.fullmatch(code):
                raise ValueError(f"{code!r} is no language code; use ISO 639 codes such as en, de or zh")
        return value

    @model_validator(mode="after")
    def _can_be_told(self) -> Self:
        require_languages(("en",))  # whatever is asked for, an answer may be in any
        return self

    @override
    def refuse(self, example: Example, reply: Reply, task: Task) -> Finding | None:
        spoken = _sure(without_thinking(reply.text))
        if spoken is None:
            return None
        allowed = {_NEAR.get(code, code) for code in self.languages} or set(_asked_in(example))
        if not allowed or spoken in allowed:
            return None
        return Finding(f"in {spoken}, not in {' or '.join(sorted(allowed))}", again=True)


def _asked_in(example: Example) -> Iterator[str]:
    """The languages of what the user says last: of the whole, and of its first and last lines."""
    text = example.messages[-1].content
    lines = [line for line in text.splitlines() if line.strip()]
    for part in {text, *lines[:1], *lines[-1:]}:
        code = _sure(part)
        if code is not None:
            yield code


def _sure(text: str) -> str | None:
    """A text's language, near ones as one; None where there are too few letters to be sure."""
    plain = _NO_LANGUAGE.sub(" ", text)
    num_letters = len(_LETTER.findall(plain))
    if num_letters < FEWEST_LETTERS and (num_letters < FEWEST_OF_OWN_SCRIPT or language_by_script(plain) is None):
        return None
    code = language_of(plain)
    return None if code is None else _NEAR.get(code, code)
