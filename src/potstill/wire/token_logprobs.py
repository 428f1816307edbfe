"""Log-probabilities of a chat completion, token by token, with the bytes that each token stands for.

Every server has its own idea of them. OpenAI, Azure, DeepSeek and llama.cpp give the tokens' bytes; vLLM and SGLang encode the
token's text, so that a token with a part of a character says U+FFFD; older servers give no bytes, or the shape of the former
completions API; some count the end-of-turn token, a leading blank or the model's thoughts among the tokens. What does not
spell the text in the end is left out: a probability at the wrong place teaches wrong.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from typing_extensions import TypeIs

REPLACEMENT = "\ufffd".encode()
MOST_BEYOND = 2
"""Tokens that may follow the text: the end of the turn, and what a stop text was cut from."""
LONGEST_CHARACTER = 4


class Token(NamedTuple):
    """One token's bytes, its log-probability, and its likeliest alternatives; bytes that nobody knows are None."""

    data: bytes | None
    logprob: float
    alternatives: list[tuple[bytes | None, float]]


def read_logprobs(choice: Mapping[str, Any], text: str) -> list[Any] | None:
    """The log-probabilities of `text` as a Reply holds them; None where the choice has none that spell it.

    >>> given = {"content": [{"token": "Hi", "bytes": [72, 105], "logprob": -0.5, "top_logprobs": []}]}
    >>> read_logprobs({"logprobs": given}, "Hi")
    [['4869', -0.5, []]]
    """
    logprobs = choice.get("logprobs")
    if not isinstance(logprobs, Mapping):
        return None
    content = logprobs.get("content")
    tokens = list(_tokens(content) if isinstance(content, list) else _former_tokens(logprobs))
    fitted = _fitted(tokens, text.encode(errors="replace")) if tokens else None
    return None if fitted is None else [_row(token) for token in fitted]


def _row(token: Token) -> list[Any]:
    known = [(data, logprob) for data, logprob in token.alternatives if data is not None]
    ranked = sorted(known, key=lambda pair: -pair[1])
    return [(token.data or b"").hex(), token.logprob, [[data.hex(), logprob] for data, logprob in ranked]]


def _tokens(content: Sequence[Any]) -> Iterator[Token]:
    """The shape of the chat API: one object a token."""
    for entry in content:
        if not isinstance(entry, Mapping) or _logprob(entry) is None:
            return
        others = entry.get("top_logprobs")
        read = [(_bytes(other), _logprob(other)) for other in others if isinstance(other, Mapping)] if _is_list(others) else []
        yield Token(_bytes(entry), _logprob(entry) or 0.0, [(data, value) for data, value in read if value is not None])


def _former_tokens(logprobs: Mapping[str, Any]) -> Iterator[Token]:
    """The shape of the former completions API: one list of tokens, one of log-probabilities, one of alternatives."""
    names, values, others = (logprobs.get(name) for name in ("tokens", "token_logprobs", "top_logprobs"))
    if not _is_list(names) or not _is_list(values) or len(names) != len(values):
        return
    for number, (name, value) in enumerate(zip(names, values, strict=True)):
        given = others[number] if _is_list(others) and number < len(others) else None
        pairs = given.items() if isinstance(given, Mapping) else ()
        read = [(_bytes({"token": word}), _logprob({"logprob": told})) for word, told in pairs]
        logprob = _logprob({"logprob": value})
        yield Token(_bytes({"token": name}), logprob or 0.0, [(data, told) for data, told in read if told is not None])


def _is_list(value: Any) -> TypeIs[list[Any]]:
    return isinstance(value, list)


def _logprob(entry: Mapping[str, Any]) -> float | None:
    value = entry.get("logprob")
    return float(value) if isinstance(value, int | float) and not math.isnan(value) else None


def _bytes(entry: Mapping[str, Any]) -> bytes | None:
    """The token's bytes: those given, else its text's; None where that text stands for bytes that it cannot show."""
    given, token = entry.get("bytes"), entry.get("token")
    if isinstance(given, list) and all(isinstance(byte, int) and 0 <= byte < 256 for byte in given):
        data = bytes(given)
    elif isinstance(token, str):
        byte = re.fullmatch(r"<0x([0-9A-Fa-f]{2})>|bytes:\\x([0-9a-f]{2})", token)  # how byte tokens are spelled
        data = bytes([int(byte[1] or byte[2], 16)]) if byte else token.encode(errors="replace")
    else:
        return None
    return None if REPLACEMENT in data else data


def _fitted(tokens: list[Token], text: bytes) -> list[Token] | None:
    """The tokens that spell the text: without those around it, and with the bytes of parts of characters found in it."""
    if REPLACEMENT in text:  # the text itself says U+FFFD: then so may its tokens
        tokens = [token if token.data is not None else token._replace(data=REPLACEMENT) for token in tokens]
    if all(token.data is not None for token in tokens):
        return _cut(tokens, text)
    for beyond in range(min(MOST_BEYOND, len(tokens) - 1) + 1):
        spelled = tokens[: len(tokens) - beyond]
        spans = _spans(list(_runs(spelled)), text)
        if spans is not None:
            return list(_filled(spelled, spans))
    return None


def _runs(tokens: Sequence[Token]) -> Iterator[tuple[bytes | None, int]]:
    """Neighbouring tokens as one: their bytes, or None where unknown, and how many they are."""
    for is_unknown, group in groupby(tokens, key=lambda token: token.data is None):
        run = list(group)
        yield (None if is_unknown else b"".join(token.data or b"" for token in run)), len(run)


def _spans(runs: list[tuple[bytes | None, int]], text: bytes) -> list[bytes] | None:
    """What stands in the text for each unknown run, between the known ones; None where they do not fit."""
    first = runs[0][0]
    if first is not None and not text.startswith(first):
        runs = [(first.lstrip(), runs[0][1]), *runs[1:]]
    spans, at = [], 0
    for number, (data, count) in enumerate(runs):
        is_last = number == len(runs) - 1
        if data is None:
            end = len(text) if is_last else _place(text, runs[number + 1][0] or b"", at + 1, is_last=number == len(runs) - 2)
            if not 0 < end - at <= LONGEST_CHARACTER * count:
                return None
            spans.append(text[at:end])
            at = end
        elif text.startswith(data, at):
            at += len(data)
        else:
            return None
    return spans if at == len(text) else None


def _place(text: bytes, data: bytes, start: int, *, is_last: bool) -> int:
    """Where known bytes stand in the text from `start` on: first, or at its very end; -1 where they do not."""
    if not is_last:
        return text.find(data, start)
    return len(text) - len(data) if text.endswith(data) else -1


def _filled(tokens: Sequence[Token], spans: list[bytes]) -> Iterator[Token]:
    """Unknown tokens get the text's bytes: one each where that fits, else the last of a run has all, as newer vLLMs say it."""
    left = list(spans)
    for is_unknown, group in groupby(tokens, key=lambda token: token.data is None):
        run = list(group)
        if not is_unknown:
            yield from run
            continue
        span = left.pop(0)
        parts = [span[at : at + 1] for at in range(len(span))] if len(span) == len(run) else [b""] * (len(run) - 1) + [span]
        yield from (token._replace(data=part) for token, part in zip(run, parts, strict=True))


def _cut(tokens: Sequence[Token], text: bytes) -> list[Token] | None:
    """The tokens at the text's place in the whole; a token that reaches over its edge may do so with blanks alone."""
    start = b"".join(token.data or b"" for token in tokens).rfind(text)
    if start < 0:
        return None
    end, at, kept = start + len(text), 0, []
    for token in tokens:
        data = token.data or b""
        first, last = max(start - at, 0), max(min(end - at, len(data)), 0)
        inside = data[first:last]
        if inside and (data[:first] + data[last:]).strip():
            return None
        if inside or (not data and start <= at < end):
            kept.append(token._replace(data=inside))
        at += len(data)
    return kept
