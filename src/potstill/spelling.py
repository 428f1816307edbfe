"""What the words of a tokenizer spell, so that words of two tokenizers can be told to be the same.

Byte-level tokenizers (GPT-2, Llama 3, Qwen) write each byte as one character of their own alphabet; SentencePiece's (Llama 2,
Gemma, T5) write a blank as U+2581 and have words <0x00> to <0xFF> for bytes. Which of the two a tokenizer is, its decoder says.
What a tokenizer loses of a text (by lower case, NFKC or an unknown word) nobody can find again, so every answer is spelled and
compared before it is used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from .errors import ModelError
from .rendering import end_of_turn
from .types import Message

Key = bytes | str | None
"""What a word spells: bytes; the name of a special token; None where it is no word."""
BLANK = "\u2581"
BYTE_WORD = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Spelled(NamedTuple):
    """Where each token of an answer ends in its bytes, without the end of the turn; `has_prefix` where the first word begins
    with a blank that the text has not, as SentencePiece's do."""

    ends: npt.NDArray[np.int64]
    has_prefix: bool


class Spelling:
    """The words of a tokenizer as bytes, and its end of turn. Raises ModelError where it does not say what its words spell."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        kind = _kind_of(tokenizer)
        added = tokenizer.added_tokens_decoder
        words = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
        self.keys: list[Key] = [None] * (words[-1][1] + 1)
        """What each word spells, by its id."""
        self.is_byte_word = [False] * len(self.keys)
        self._texts = [b""] * len(self.keys)
        for word, number in words:
            token = added.get(number)
            text = _spelled_by(word, kind) if token is None else token.content.encode()
            self._texts[number] = text
            self.keys[number] = token.content if token is not None and token.special else text
            self.is_byte_word[number] = BYTE_WORD.fullmatch(word) is not None
        turn = end_of_turn(tokenizer, [Message("user", "hello")])
        self.end = tuple(tokenizer(turn, add_special_tokens=False)["input_ids"])
        """The tokens of the end of a turn."""

    def spelled(self, answer: npt.NDArray[np.int32], text: str) -> Spelled | None:
        """How an answer's tokens, the end of the turn included, spell its text; None where they do not."""
        num_words = len(answer) - len(self.end)
        if num_words < 0 or tuple(answer[num_words:].tolist()) != self.end:
            return None
        parts = [self._texts[word] for word in answer[:num_words].tolist()]
        whole, wanted = b"".join(parts), text.encode(errors="replace")
        ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
        if whole == wanted:
            return Spelled(ends, has_prefix=False)
        return Spelled(ends - 1, has_prefix=True) if whole == b" " + wanted else None


def words_by_key(spelling: Spelling, has_prefix: bool = False) -> dict[bytes | str, int]:
    """The word that spells something; of several the one that is not a lone byte's, as a tokenizer would choose."""
    found: dict[bytes | str, int] = {}
    for number, key in enumerate(_at_start(spelling.keys) if has_prefix else spelling.keys):
        if key and (key not in found or (spelling.is_byte_word[found[key]] and not spelling.is_byte_word[number])):
            found[key] = number
    return found


def word_map(
    keys: Sequence[Key], student: Spelling, end: Sequence[int], prefixes: tuple[bool, bool] = (False, False)
) -> npt.NDArray[np.int64]:
    """The student's word that spells what each of the teacher's spells, -1 where none does. `end` is the teacher's end of turn:
    its word is the student's where both have one. At the beginning of an answer the `prefixes` of both (teacher's, student's) say
    whose words there begin with a blank that the text has not."""
    known = words_by_key(student, prefixes[1])
    teachers = _at_start(keys) if prefixes[0] else keys
    found = np.array([known.get(key, -1) if key else -1 for key in teachers], dtype=np.int64)
    if len(end) == 1:
        found[end[0]] = student.end[0] if len(student.end) == 1 else -1
    return found


def _at_start(keys: Iterable[Key]) -> Iterator[Key]:
    """What words spell where a blank stands before the text that is not in it."""
    for key in keys:
        if isinstance(key, bytes):
            yield key[1:] if key[:1] == b" " else None
        else:
            yield key


def _kind_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """bytes: each character is one; blanks: U+2581 is a blank; blanks and bytes: so are words such as <0x0A>."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    told = json.loads(backend.to_str()).get("decoder") if backend is not None else None
    decoders = list(_decoders(told))
    types = {one.get("type") for one in decoders}
    if "ByteLevel" in types:
        return "bytes"
    if "Metaspace" in types or any(
        one.get("type") == "Replace" and BLANK in json.dumps(one, ensure_ascii=False) for one in decoders
    ):
        return "blanks and bytes" if "ByteFallback" in types else "blanks"
    raise ModelError(
        f"the tokenizer of {tokenizer.name_or_path!r} does not say which bytes its words spell (its decoder is "
        f"{', '.join(sorted(map(str, types))) or 'none'}; ByteLevel, Metaspace and SentencePiece's are understood)"
    )


def _decoders(told: Any) -> Iterator[dict[str, Any]]:
    if isinstance(told, dict):
        yield told
        for inner in told.get("decoders") or ():
            yield from _decoders(inner)


def _spelled_by(word: str, kind: str) -> bytes:
    if kind == "bytes":
        known = [BYTE_OF.get(character) for character in word]
        return word.encode() if None in known else bytes(byte for byte in known if byte is not None)
    byte = BYTE_WORD.fullmatch(word) if kind == "blanks and bytes" else None
    return bytes([int(byte[1], 16)]) if byte else word.replace(BLANK, " ").encode()


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's: bytes that print stand for themselves, the others for the characters from 256 on."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {chr(256 + place): byte for place, byte in enumerate(others)}


BYTE_OF = _byte_alphabet()
