"""A row of a user's file as an Example: chat messages, prompt and completion, or columns named in the job.

    {"messages": [{"role": "system"|"user"|"assistant", "content": "..."}, ...], "meta": {...}}
    {"prompt": "...", "completion": "...", "system": "..."}

The last assistant message is the gold answer; a row that ends with the user has none. `question` is read as prompt;
`response` and `answer` as completion. A prompt or completion may itself be a list of messages.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..errors import DataError
from ..text.texts import normalised as normalised
from ..types import Example, Message
from .json_rows import parse_value

PROMPT_NAMES = ("prompt", "question")
GOLD_NAMES = ("completion", "response", "answer")
ROLES = ("system", "user", "assistant")
_MAX_ID = 200
_MAX_NAMES = 160
_quoted = json.JSONEncoder(ensure_ascii=False).encode


@dataclass(frozen=True, slots=True)
class ColumnNames:
    """Which columns hold what, where the job names them."""

    prompt: str
    gold: str | None = None
    system: str | None = None
    id: str | None = None


class Keyed(NamedTuple):
    """An example with what it is recognised by: its `prompt_key`, its `question_key` and its gold, normalised."""

    example: Example
    prompt: str
    question: str
    gold: str


def read_row(row: Mapping[str, Any], source: str, columns: ColumnNames | None = None) -> Example:
    """The Example in a row. Raises DataError("category: detail") when there is none; `source` is "file:line"."""
    return read_keyed(row, source, columns).example


def read_keyed(row: Mapping[str, Any], source: str, columns: ColumnNames | None = None) -> Keyed:
    """`read_row` with the keys, each made once: normalising is the dearest part of taking a row in."""
    if columns is not None:
        messages, gold, used = _flat(row, columns)
    elif row.get("messages") is not None:
        messages, gold = _split(_listed(row["messages"], "messages"))
        used = {"messages"}
    else:
        messages, gold, used = _flat(row, _usual_columns(row))
    own_meta = _decoded(row.get("meta"))
    has_meta = isinstance(own_meta, Mapping)
    meta = {key: value for key, value in row.items() if key not in used and not (has_meta and key == "meta")}
    meta.update(own_meta if has_meta else {})
    prompt, question = _keys(messages)
    plain = "" if gold is None else normalised(gold)
    id_column = columns.id if columns is not None and columns.id else "id"
    name = _own_id(meta, id_column) or content_id(prompt, plain)
    return Keyed(Example(name, messages, gold, meta, source), prompt, question, plain)


def content_id(prompt: str, gold: str) -> str:
    """An id that is the same wherever the same content stands: of a `prompt_key` and the normalised gold ("" for none)."""
    return digest(prompt, gold).hex()[:16]


def prompt_key(messages: Iterable[Message]) -> str:
    """The same for two prompts that differ in case, width or white space alone; the system message counts."""
    return _keys(messages)[0]


def question_key(messages: Iterable[Message]) -> str:
    """`prompt_key` without the system message: what a test question is recognised by."""
    return _keys(messages)[1]


def _keys(messages: Iterable[Message]) -> tuple[str, str]:
    """Both keys: JSON lists of [role, normalised text]."""
    parts = [(message.role, f'["{message.role}", {_quoted(normalised(message.content))}]') for message in messages]
    prompt = f"[{', '.join([part for _, part in parts])}]"
    spoken = [part for role, part in parts if role != "system"]
    return prompt, prompt if len(spoken) == len(parts) else f"[{', '.join(spoken)}]"


def digest(*parts: str) -> bytes:
    """16 bytes that stand for some texts in a set."""
    return hashlib.sha256("\0".join(parts).encode()).digest()[:16]


def bare_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What of a row's meta stays when its gold is taken away: the rest may hold the answer (answers, key facts)."""
    return {key: meta[key] for key in ("id", "source") if key in meta}


def _usual_columns(row: Mapping[str, Any]) -> ColumnNames:
    prompt = next((name for name in PROMPT_NAMES if name in row), None)
    if prompt is None:
        raise DataError(f"missing keys: a row needs 'messages' or 'prompt', this one has {_names(row)}")
    gold = next((name for name in GOLD_NAMES if name in row), None)
    return ColumnNames(prompt, gold, "system" if "system" in row else None)


def _flat(row: Mapping[str, Any], columns: ColumnNames) -> tuple[tuple[Message, ...], str | None, set[str]]:
    """Prompt messages, gold and the columns they took."""
    for name in (columns.prompt, columns.gold, columns.system):
        if name is not None and name not in row:
            raise DataError(f"missing keys: the column {name!r} is not in the row, which has {_names(row)}")
    prompt = _decoded(row[columns.prompt])
    gold = _decoded(row[columns.gold]) if columns.gold else None
    system = row[columns.system] if columns.system else None
    messages = list(prompt) if isinstance(prompt, list) else [{"role": "user", "content": row[columns.prompt]}]
    if prompt is None:
        raise DataError(f"empty message: the column {columns.prompt!r} has no value")
    if system is not None and system != "":
        messages.insert(0, {"role": "system", "content": system})
    if isinstance(gold, list):
        messages.extend(gold)
    elif columns.gold and row[columns.gold] is not None:
        messages.append({"role": "assistant", "content": row[columns.gold]})
    used = {name for name in (columns.prompt, columns.gold, columns.system) if name is not None}
    return (*_split(messages), used)


def _split(messages: Sequence[Any]) -> tuple[tuple[Message, ...], str | None]:
    """Prompt and gold of a chat, checked: an optional system message, then user and assistant in turn, user first."""
    if not messages:
        raise DataError("empty message: the list of messages is empty")
    chat = tuple(_message(message, number, number == len(messages)) for number, message in enumerate(messages, 1))
    turns = chat[1:] if chat[0].role == "system" else chat
    if not turns:
        raise DataError("wrong order: there is a system message and nothing after it; a user message must follow")
    for number, message in enumerate(turns):
        wanted = ROLES[1 + number % 2]
        if message.role != wanted:
            place = number + 1 + len(chat) - len(turns)
            raise DataError(f"wrong order: message {place} is from {message.role!r} where {wanted!r} must speak")
    if turns[-1].role == "user":
        return chat, None
    return chat[:-1], chat[-1].content


def _message(message: Any, number: int, is_last: bool) -> Message:
    if not isinstance(message, dict) or "role" not in message or "content" not in message:
        raise DataError(f"missing keys: message {number} must be an object with 'role' and 'content'")
    role = message["role"]
    if role not in ROLES:
        raise DataError(f"wrong role: message {number} has the role {str(role)[:40]!r}; allowed: {', '.join(ROLES)}")
    content = _text(message["content"], number)
    if not content.strip():
        if role == "assistant" and is_last:
            raise DataError("empty answer: the last message, the assistant's, has no text")
        raise DataError(f"empty message: message {number}, from {role!r}, has no text")
    return Message(role, content)


def _text(content: Any, number: int) -> str:
    """The text of a message; OpenAI's list of text parts is joined. Numbers in a column are text too."""
    if isinstance(content, str):
        return content
    if isinstance(content, int | float) and not isinstance(content, bool):
        return str(content)
    if (
        isinstance(content, list)
        and content
        and all(isinstance(part, Mapping) and part.get("type") == "text" for part in content)
    ):
        return "".join(str(part.get("text") or "") for part in content)
    what = "null" if content is None else type(content).__name__
    raise DataError(f"not text: the content of message {number} is {what}; only text can be learned")


def _listed(value: Any, name: str) -> list[Any]:
    found = _decoded(value)
    if not isinstance(found, list):
        raise DataError(f"missing keys: {name!r} must be a list of messages, this one is {type(value).__name__}")
    return found


def _decoded(value: Any) -> Any:
    """A cell of CSV may hold messages or meta as JSON text."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[{", "{")):
        return value
    found, _ = parse_value(value)
    is_chat = isinstance(found, list) and all(isinstance(part, Mapping) and "role" in part for part in found)
    return found if is_chat or isinstance(found, Mapping) else value


def _own_id(meta: Mapping[str, Any], column: str) -> str | None:
    value = meta.get(column)
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    text = str(value).strip()
    return text if 0 < len(text) <= _MAX_ID else None


def _names(row: Mapping[str, Any]) -> str:
    return (", ".join(repr(name) for name in list(row)[:8]) or "none")[:_MAX_NAMES]
