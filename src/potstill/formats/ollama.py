"""An Ollama Modelfile: Ollama does not read Jinja, so the chat template is found out by probing and written in its own words.

The template is asked for a few chats whose messages are marks, and what stands around the marks are the pieces. They are put
together for other chats and compared with the template itself; where that differs, no template is written and the file says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from ..errors import ModelError
from ..rendering import prompt_text, stop_ids
from ..types import Message

SYSTEM, FIRST, REPLY, SECOND = "\u27e6system\u27e7", "\u27e6first\u27e7", "\u27e6reply\u27e7", "\u27e6second\u27e7"
CHATS = (
    [Message("user", "a b")],
    [Message("system", "Be kind."), Message("user", "12 + 5?")],
    [Message("user", "x"), Message("assistant", "y z"), Message("user", "w")],
    [Message("system", "s"), Message("user", "1"), Message("assistant", "2"), Message("user", "3"), Message("assistant", "4"),
     Message("user", "5")],
)  # fmt: skip


class Pieces(NamedTuple):
    """What a chat template writes around messages; `opening` stands first where there is no system message."""

    opening: str
    before_system: str
    after_system: str
    before_user: str
    after_user: str
    after_assistant: str
    before_assistant: str

    def rendered(self, messages: Sequence[Message]) -> str:
        """A chat as Ollama renders it with these pieces."""
        around = {
            "system": (self.before_system, self.after_system),
            "user": (self.before_user, self.after_user),
            "assistant": (self.before_assistant, self.after_assistant),
        }
        told = "".join(f"{around[one.role][0]}{one.content}{around[one.role][1]}" for one in messages)
        has_system = any(one.role == "system" for one in messages)
        return f"{'' if has_system else self.opening}{told}{self.before_assistant}"

    def template(self) -> str:
        """The same in Go's template language."""
        turns = (
            f'{{{{ if eq .Role "system" }}}}{self.before_system}{{{{ .Content }}}}{self.after_system}'
            f'{{{{ else if eq .Role "user" }}}}{self.before_user}{{{{ .Content }}}}{self.after_user}'
            f'{{{{ else if eq .Role "assistant" }}}}{self.before_assistant}{{{{ .Content }}}}{self.after_assistant}{{{{ end }}}}'
        )
        opening = f"{{{{ if not .System }}}}{self.opening}{{{{ end }}}}" if self.opening else ""
        return f"{opening}{{{{ range .Messages }}}}{turns}{{{{ end }}}}{self.before_assistant}"


def pieces_of(tokenizer: PreTrainedTokenizerBase) -> Pieces | None:
    """The template's pieces; None where it is more than pieces around messages."""
    try:
        alone = prompt_text(tokenizer, [Message("user", FIRST)])
        ruled = prompt_text(tokenizer, [Message("system", SYSTEM), Message("user", FIRST)])
        turns = [Message("user", FIRST), Message("assistant", REPLY), Message("user", SECOND)]
        head, to_reply, to_second, tail = _between(prompt_text(tokenizer, turns), (FIRST, REPLY, SECOND))
        before_system, to_first, ruled_tail = _between(ruled, (SYSTEM, FIRST))
    except (ModelError, ValueError):
        return None
    if alone != f"{head}{FIRST}{tail}" or ruled_tail != tail:
        return None
    before_user = _common_end(head, to_second, to_first)
    before_assistant = _common_end(tail, to_reply)
    found = Pieces(
        opening=head.removesuffix(before_user),
        before_system=before_system,
        after_system=to_first.removesuffix(before_user),
        before_user=before_user,
        after_user=tail.removesuffix(before_assistant),
        after_assistant=to_second.removesuffix(before_user),
        before_assistant=before_assistant,
    )
    is_true = all(found.rendered(chat) == prompt_text(tokenizer, chat) for chat in CHATS)
    return found if is_true and not any("{{" in piece or '"""' in piece for piece in found) else None


def _common_end(*texts: str) -> str:
    length = 0
    while length < min(map(len, texts)) and len({text[-length - 1] for text in texts}) == 1:
        length += 1
    return texts[0][len(texts[0]) - length :]


def _between(text: str, marks: Sequence[str]) -> list[str]:
    """What stands before, between and after the marks; ValueError where one of them is missing."""
    parts = []
    for mark in marks:
        before, found, text = text.partition(mark)
        if not found:
            raise ValueError(f"{mark} is missing")
        parts.append(before)
    return [*parts, text]


def modelfile(tokenizer: PreTrainedTokenizerBase, model_file: str, context: int) -> str:
    """The Modelfile beside `model_file`: `ollama create NAME -f Modelfile`. Greedy, as the student is scored."""
    pieces = pieces_of(tokenizer)
    lines = [f"FROM ./{model_file}"]
    if pieces is None:
        lines.append(
            "# The chat template is more than Ollama's language says: write a TEMPLATE by hand, or use llama.cpp's server."
        )
    else:
        lines.append(f'TEMPLATE """{pieces.template()}"""')
    lines += [f"PARAMETER stop {tokenizer.convert_ids_to_tokens(index)}" for index in stop_ids(tokenizer)]
    return "\n".join([*lines, "PARAMETER temperature 0", f"PARAMETER num_ctx {context}", ""])
