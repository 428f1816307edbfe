"""What the generators share: a row, a repeatable draw, and the rule that decides a combination's split.

A generator draws drafts. Every draft names its combination (for example product x problem); the hash of that
combination decides its split, so a held-out combination never occurs in train, whatever the seed.
"""

from collections.abc import Callable, Iterator
from hashlib import sha256
from random import Random
from typing import Any, NamedTuple

Row = dict[str, Any]

SPLITS = ("train", "validation", "test")
# Of 100 combinations 85 are for train, 5 for validation and 10 for test.
_FIRST_VALIDATION, _FIRST_TEST = 85, 90
# A draft is dropped when its prompt was already given out, until this many drops in a row say the space is used up.
_PATIENCE = 2000


class Draft(NamedTuple):
    """One drawn example; `combination` decides its split."""

    combination: tuple[str, ...]
    messages: list[dict[str, str]]
    meta: dict[str, Any]


def split_of(*combination: object) -> str:
    """The only split in which this combination may occur.

    >>> split_of("router", "red light") == split_of("router", "red light")
    True
    """
    digest = sha256("|".join(str(part) for part in combination).encode()).digest()
    bucket = int.from_bytes(digest[:4], "big") % 100
    if bucket < _FIRST_VALIDATION:
        return "train"
    return "validation" if bucket < _FIRST_TEST else "test"


def draw_rows(task: str, draw: Callable[[Random], Draft], split: str, num_rows: int, seed: int) -> Iterator[Row]:
    """Draw until `num_rows` rows of the split are found; the same (split, seed) gives the same rows."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; the splits are {', '.join(SPLITS)}")
    random = Random(f"{task}/{split}/{seed}")
    seen: set[str] = set()
    num_dropped = num_found = 0
    while num_found < num_rows:
        draft = draw(random)
        if split_of(task, *draft.combination) != split:
            continue
        prompt = "\n".join(message["content"] for message in draft.messages[:-1])
        if prompt in seen and num_dropped < _PATIENCE:
            num_dropped += 1
            continue
        seen.add(prompt)
        num_dropped = 0
        identity = f"{task}-{split}-{seed}-{num_found}"
        yield {"messages": draft.messages, "meta": {"id": identity, "source": "starter", **draft.meta}}
        num_found += 1


def turns(*contents: str, system: str | None = None) -> list[dict[str, str]]:
    """Messages from alternating contents, user first.

    >>> [message["role"] for message in turns("hi", "hello", system="Be kind.")]
    ['system', 'user', 'assistant']
    """
    messages = [{"role": "system", "content": system}] if system is not None else []
    for index, content in enumerate(contents):
        messages.append({"role": "assistant" if index % 2 else "user", "content": content})
    return messages


def capitalised(text: str) -> str:
    """The text with its first letter in upper case and the rest as it is."""
    return text[:1].upper() + text[1:]


def informal(random: Random, text: str) -> str:
    """A customer's hand: now and then all lower case and without the last full stop."""
    if random.random() < 0.5:
        text = text.lower()
    return text.removesuffix(".") if random.random() < 0.3 else text
