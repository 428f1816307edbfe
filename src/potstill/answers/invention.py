"""New prompts out of the user's examples: what a teacher is asked for, and how its list is read (Self-Instruct).

Wang et al. 2022, arXiv 2212.10560: some examples, some of them invented earlier, are shown and more of the kind are asked
for. Here topic and difficulty are named too, and rows keep the system prompt of the example that stands first.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, Field

from ..recipe import Settings, listed
from ..text.texts import without_thinking
from ..types import Example, Message

POOL_ROWS = 1000
"""Rows of which the examples are drawn; one in four is an invented one, where there are some (two of eight in the paper)."""
OWN_SHARE = 4
LONGER_THAN_SEEDS = 3
LEAST_LONGEST, LONGEST = 200, 20_000
PART_SHARE, PART_ROWS = 0.9, 3
CHARACTERS_A_TOKEN = 3
MAX_TOKENS = 8192

Texts = Annotated[tuple[str, ...], BeforeValidator(listed)]
Turns = tuple[str, ...]


class InventSettings(Settings):
    """New prompts, written by the teacher after the user's examples and then answered like any other."""

    num_prompts: int = Field(default=0, ge=0, description="how many new prompts are wanted; 0 invents none")
    description: str | None = Field(default=None, description="what the prompts are about; needed where there are no examples")
    system_prompt: str | None = Field(
        default=None, description="the new rows' system message where no example has one to take over"
    )
    topics: Texts = Field(default=(), description="topics that are asked for in turn, each equally often")
    difficulties: Texts = Field(default=("easy", "medium", "hard"), description="asked for in turn, within each topic")
    prompts_per_request: int = Field(default=10, ge=1, le=100, description="new prompts asked for at once")
    seeds_per_request: int = Field(default=8, ge=0, le=100, description="examples shown each time")
    temperature: float = Field(default=0.9, ge=0, le=2)
    max_requests: int | None = Field(default=None, ge=1, description="default: four times what is needed if all prompts are new")
    max_overlap: float = Field(
        default=0.7, gt=0, le=1, description="a prompt whose ROUGE-L with an earlier one reaches this is not new"
    )


class Wish(NamedTuple):
    """What one request asks for."""

    topic: str | None
    difficulty: str | None


class Shape(NamedTuple):
    """What the rows of one kind share: the system message, and how many turns stand after it."""

    system: str | None
    num_turns: int


def shape_of(example: Example) -> Shape:
    system = example.messages[0].content if example.messages[0].role == "system" else None
    return Shape(system, len(example.messages) - (system is not None))


def turns_of(example: Example) -> Turns:
    return tuple(message.content for message in example.messages if message.role != "system")


def wish_of(number: int, settings: InventSettings) -> Wish:
    """The topic and difficulty of request `number`: every pair of them in turn.

    >>> [wish_of(number, InventSettings(topics=("sea", "sky"))) for number in (0, 1, 2)]
    [Wish(topic='sea', difficulty='easy'), Wish(topic='sky', difficulty='easy'), Wish(topic='sea', difficulty='medium')]
    """
    topics, difficulties = settings.topics or (None,), settings.difficulties or (None,)
    return Wish(topics[number % len(topics)], difficulties[number // len(topics) % len(difficulties)])


@dataclass
class Seeds:
    """The examples that requests are made of, drawn by hash: the same for the same rows and request number."""

    pool: Sequence[Example]
    own: dict[Shape, list[Example]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._alike: dict[Shape, list[Example]] = {}
        for example in self.pool:
            self._alike.setdefault(shape_of(example), []).append(example)

    def draw(self, number: int, count: int, known: Mapping[Shape, int]) -> list[Example]:
        """Examples of one shape, or at least of as many turns; `known` says how many of the invented ones may be shown."""
        if not self.pool or not count:
            return []
        (lead,) = _lowest(self.pool, 1, f"{number}:first")
        shape = shape_of(lead)
        alike = self._alike[shape]
        if len(alike) < min(count, PART_ROWS):
            alike = [example for example in self.pool if shape_of(example).num_turns == shape.num_turns]
        own = _lowest(self.own.get(shape, [])[: known.get(shape, 0)][-POOL_ROWS:], count // OWN_SHARE, f"{number}:own")
        others = [example for example in alike if example is not lead]
        return [lead, *_lowest(others, count - 1 - len(own), f"{number}:more"), *own]


def pool_of(examples: Iterable[Example]) -> list[Example]:
    """The rows that examples are drawn from, chosen by hash in one pass."""
    return _lowest(examples, POOL_ROWS, "pool")


def _lowest(examples: Iterable[Example], count: int, purpose: str) -> list[Example]:
    def rank(example: Example) -> bytes:
        return hashlib.blake2b(f"{purpose}:{example.id}".encode(), digest_size=8).digest()

    return heapq.nsmallest(count, examples, key=rank)


def question(seeds: Sequence[Example], wish: Wish, settings: InventSettings) -> tuple[Message, ...]:
    """The messages that ask a teacher for new prompts."""
    count = settings.prompts_per_request
    shape = shape_of(seeds[0]) if seeds else Shape(settings.system_prompt, 1)
    is_chat = shape.num_turns > 1
    thing, form = ("chats", f"chats, each a JSON list of {shape.num_turns} strings") if is_chat else ("inputs", "strings")
    told = [text for text in (settings.description, shape.system) if text]
    parts = ["The task:\n" + "\n\n".join(told)] if told else []
    if seeds:
        turns = [list(turns_of(example)) if is_chat else turns_of(example)[0] for example in seeds]
        how = "a JSON list of what user and assistant say in turn" if is_chat else "a JSON string"
        parts.append(
            f"Some {thing} of this task, each {how}:\n" + "\n".join(json.dumps(one, ensure_ascii=False) for one in turns)
        )
    wishes = [f"Topic: {wish.topic}."] if wish.topic else []
    wishes += [f"Difficulty: {wish.difficulty}."] if wish.difficulty else []
    wishes += ["Each looks like those above: the same parts, the same language, about the same length."] if seeds else []
    wishes += [
        "Each is complete, and nobody has to ask back.",
        "They differ from each other and from those above in what they ask, not in names or numbers alone.",
        "In a chat, the user speaks first and last." if is_chat else "Do not answer them.",
    ]
    parts.append(f"Write {count} new {thing} of this task.\n" + "\n".join(f"- {wished}" for wished in wishes))
    parts.append(f"Reply with a JSON list of {count} {form}, and nothing else.")
    system = "You write new inputs for a language task; others will answer them, you never do."
    return (Message("system", system), Message("user", "\n\n".join(parts)))


def room_for(pool: Sequence[Example], settings: InventSettings) -> int:
    """The longest list that is waited for, in tokens: half as much again as the examples' length, in steps of 256."""
    lengths = [sum(map(len, turns_of(example))) for example in pool] or [LEAST_LONGEST]
    tokens = 1.5 * settings.prompts_per_request * (sum(lengths) / len(lengths) / CHARACTERS_A_TOKEN + 8)
    return min(MAX_TOKENS, 256 * (1 + int(tokens) // 256) + 256)


@dataclass(frozen=True)
class Form:
    """What every prompt of a kind must have: its number of turns, the parts that examples name ("Premise:"), no more length."""

    num_turns: int
    parts: frozenset[str]
    longest: int

    @classmethod
    def of(cls, examples: Sequence[Example], num_turns: int) -> Form:
        """The form of the examples with so many turns."""
        turns = [turns_of(example) for example in examples if shape_of(example).num_turns == num_turns]
        named = [set(_PART.findall(one[-1])) for one in turns]
        parts = {part for parts in named for part in parts if sum(part in other for other in named) >= PART_SHARE * len(named)}
        lengths = [len(text) for one in turns for text in one]
        longest = LONGER_THAN_SEEDS * max(LEAST_LONGEST, *lengths) if lengths else LONGEST
        return cls(num_turns, frozenset(parts if len(turns) >= PART_ROWS else ()), longest)

    def fits(self, turns: Turns) -> bool:
        return (
            len(turns) == self.num_turns
            and self.parts <= set(_PART.findall(turns[-1]))
            and all(text.strip() and len(text) <= self.longest for text in turns)
        )


_PART = re.compile(r"^[ \t]*([^\W\d_][\w ]{0,30}):", re.MULTILINE)
_ITEM = re.compile(r"^[ \t]*(?:\d{1,3}[.):]|[-*•])[ \t]+", re.MULTILINE)
_NEXT = re.compile(r"[\s,]*")
_NAMES = ("messages", "turns", "chat", "conversation", "prompt", "input", "question", "instruction", "text", "content", "user")
_QUOTES = {'"': '"', "“": "”", "«": "»", "„": "“", "'": "'"}
_DECODER = json.JSONDecoder(strict=False)
_TRIED = 5


def read_prompts(text: str, *, cut: bool = False) -> list[Turns]:
    """The prompts in a teacher's text: a JSON list, fenced or not, objects, or a numbered list; of a `cut` one what is whole.

    >>> read_prompts('Sure!\\n```json\\n["How far is it?", {"prompt": "Where am I?"}, "Wha', cut=True)
    [('How far is it?',), ('Where am I?',)]
    >>> read_prompts("1. How far is it?\\n2. Where am I?"), read_prompts('[["Hi", "Hello!", "Bye"]]')
    ([('How far is it?',), ('Where am I?',)], [('Hi', 'Hello!', 'Bye')])
    """
    inner = without_thinking(text)
    found = [turns for turns in map(_turns, _from_json(inner)) if turns]
    if not found:
        found = [(item,) for item in _from_list(inner, cut)]
    return [turns for turns in found if _is_text(turns)]


def _from_json(text: str) -> list[Any]:
    """The elements of the first list that has any of use, or else the objects that stand in the text one after another."""
    brace, bracket = text.find("{"), text.find("[")
    if brace >= 0 and (bracket < 0 or brace < bracket):
        objects = _elements(text, brace)
        if len(objects) == 1 and isinstance(objects[0], dict):
            lists = [value for value in objects[0].values() if isinstance(value, list)]
            if len(lists) == 1 and not set(_NAMES) & set(objects[0]):
                return lists[0]
        if objects:
            return objects
    for start in list(re.finditer(r"\[", text))[:_TRIED]:
        elements = _elements(text, start.end())
        if any(_turns(element) for element in elements):
            return elements
    return []


def _elements(text: str, start: int) -> list[Any]:
    """The whole JSON values from here on, up to the first thing that is none: a half one is left out."""
    found: list[Any] = []
    while True:
        gap = _NEXT.match(text, start)
        try:
            value, start = _DECODER.raw_decode(text, gap.end() if gap else start)
        except (ValueError, RecursionError):
            return found
        found.append(value)


def _turns(item: Any) -> Turns | None:
    """A prompt's turns in any of the forms that models write."""
    if isinstance(item, str):
        return (item.strip(),) if item.strip() else None
    if isinstance(item, dict):
        named = next((item[name] for name in _NAMES if name in item), None)
        return _turns(next(iter(item.values())) if named is None and len(item) == 1 else named)
    if not isinstance(item, list) or not item:
        return None
    spoken = [part for part in item if not (isinstance(part, dict) and part.get("role") == "system")]
    texts = [part.get("content") if isinstance(part, dict) else part for part in spoken]
    turns = tuple(text.strip() for text in texts if isinstance(text, str))
    return turns if turns and len(turns) == len(spoken) else None


def _from_list(text: str, cut: bool) -> Iterator[str]:
    """The items of a numbered or bulleted list; what was cut is the last one."""
    starts = list(_ITEM.finditer(text))
    ends = [start.start() for start in starts[1:]] + ([] if cut else [len(text)])
    for start, end in zip(starts, ends, strict=False):
        item = text[start.end() : end].strip().partition("\n\n")[0].strip("*` \n")
        if len(item) > 1 and _QUOTES.get(item[0]) == item[-1]:
            item = item[1:-1].strip()
        if item:
            yield item


def _is_text(turns: Turns) -> bool:
    """Whether it can be written down: JSON may name half a character."""
    try:
        "".join(turns).encode()
    except UnicodeEncodeError:
        return False
    return True
