"""Short dialogues and notes with a one-sentence summary that states the key facts.

Held out: kind x first person x the fact that decides (a day, a thing or a place). `meta.key_facts` lists the facts
that the summary must state.
"""

from collections.abc import Callable, Iterator
from random import Random
from typing import Any, NamedTuple

from potstill.starter.corpus.drawing import Draft, draw_rows, turns
from potstill.starter.corpus.words import CITIES, COLOURS, DAYS, FOODS, GOODS, MONTHS, NAMES, TIMES


class Note(NamedTuple):
    """A text, its summary and the facts the summary must state; the second fact decides the split."""

    text: str
    summary: str
    facts: tuple[str, ...]


def _meeting(random: Random) -> Note:
    first, second = random.sample(NAMES, 2)
    old, new = random.sample(DAYS, 2)
    hour, room = random.choice(TIMES), f"room {random.randint(2, 60)}"
    text = random.choice(
        (
            f"{first}: Can we move the meeting from {old} to {new}?\n{second}: Sure, when?\n{first}: At {hour} in {room}.",
            f"{first}: {old} does not suit me. Is {new} fine?\n{second}: Yes, {room} is free at {hour}.\n{first}: Good!",
            f"{first}: Are you free on {old}?\n{second}: No, but {new} at {hour} works.\n{first}: See you in {room}.",
        )
    )
    return Note(text, f"{first} and {second} will meet on {new} at {hour} in {room}.", (first, new, second, hour, room))


def _order(random: Random) -> Note:
    name, good, colour = random.choice(NAMES), random.choice(GOODS), random.choice(COLOURS)
    wrong = random.choice([other for other in COLOURS if other != colour])
    text = random.choice(
        (
            f"{name}: I ordered a {colour} {good} but got a {wrong} one.\nAgent: Sorry! Do you want your money back?\n"
            f"{name}: No, please exchange it.",
            f"Note: {name} called. The {good} came in {wrong}, the order said {colour}. No refund, an exchange is wanted.",
        )
    )
    summary = f"{name} got a {wrong} {good} instead of a {colour} one and wants an exchange."
    return Note(text, summary, (name, good, wrong, colour, "exchange"))


def _refund(random: Random) -> Note:
    name, good, day = random.choice(NAMES), random.choice(GOODS), random.choice(DAYS)
    amount = f"{random.randint(11, 99)} dollars"
    text = random.choice(
        (
            f"{name}: The {good} broke on {day}.\nAgent: Would you like a new one?\n{name}: I want my {amount} back.",
            f"Note: {name} wrote that the {good} stopped working on {day} and asks for the {amount} that were paid.",
        )
    )
    summary = f"{name} wants a refund of {amount} because the {good} broke on {day}."
    return Note(text, summary, (name, good, amount, day, "refund"))


def _trip(random: Random) -> Note:
    first, second = random.sample(NAMES, 2)
    city, month, nights = random.choice(CITIES), random.choice(MONTHS), random.randint(2, 14)
    text = random.choice(
        (
            f"{first}: Let us go to {city}!\n{second}: Great, in {month}?\n{first}: Yes, for {nights} nights.",
            f"{first}: I have {nights} free nights in {month}.\n{second}: Then come with me to {city}.\n{first}: Gladly!",
        )
    )
    summary = f"{first} and {second} will travel to {city} in {month} for {nights} nights."
    return Note(text, summary, (first, city, second, month, f"{nights} nights"))


def _dinner(random: Random) -> Note:
    first, second = random.sample(NAMES, 2)
    food, day, hour = random.choice(FOODS), random.choice(DAYS), random.choice(TIMES)
    other = random.choice([dish for dish in FOODS if dish != food])
    text = random.choice(
        (
            f"{first}: Dinner at my place on {day}?\n{second}: Yes! Will there be {other}?\n{first}: No, {food}. Come at {hour}.",
            f"{first}: I am cooking {food} on {day}, not {other}. Are you coming?\n{second}: Yes, I will be there at {hour}.",
        )
    )
    summary = f"{first} will cook {food} for {second} on {day} at {hour}."
    return Note(text, summary, (first, food, second, day, hour))


def _delivery(random: Random) -> Note:
    name, good, city = random.choice(NAMES), random.choice(GOODS), random.choice(CITIES)
    old, new = random.sample(DAYS, 2)
    text = random.choice(
        (
            f"Note: The {good} for {name} should reach {city} on {old}. The truck broke down; it comes on {new}.",
            f"{name}: Where is my {good}? It was due on {old}.\nAgent: It is still in {city} and will arrive on {new}.",
        )
    )
    return Note(text, f"The {good} for {name} is late and will arrive on {new}.", (name, new, good, "late"))


def _appointment(random: Random) -> Note:
    name, hour, day = random.choice(NAMES), random.choice(TIMES), random.choice(DAYS)
    reason = random.choice(("a cough", "back pain", "a fever", "a sore throat", "a headache", "a broken arm"))
    weeks = random.randint(2, 9)
    text = random.choice(
        (
            f"Doctor: What brings you here, {name}?\n{name}: I have had {reason} for {weeks} weeks.\n"
            f"Doctor: Please come back on {day} at {hour}.",
            f"Note: {name}, {reason} for {weeks} weeks, next visit {day} at {hour}.",
        )
    )
    summary = f"{name} has had {reason} for {weeks} weeks and will come back on {day} at {hour}."
    return Note(text, summary, (name, day, reason, f"{weeks} weeks", hour))


def _card(random: Random) -> Note:
    name, city, day = random.choice(NAMES), random.choice(CITIES), random.choice(DAYS)
    digits = random.randint(1000, 9999)
    text = random.choice(
        (
            f"{name}: I lost my bank card in {city} on {day}.\nAgent: Which one?\n{name}: It ends with {digits}.\n"
            f"Agent: I have blocked it.",
            f"Note: card {digits} of {name} was stolen in {city} on {day}; it is blocked now.",
        )
    )
    summary = f"The card {digits} of {name} was lost in {city} on {day} and is blocked."
    return Note(text, summary, (name, city, str(digits), day, "blocked"))


KINDS: tuple[Callable[[Random], Note], ...] = (
    _meeting,
    _order,
    _refund,
    _trip,
    _dinner,
    _delivery,
    _appointment,
    _card,
)

INSTRUCTIONS = (
    "Summarize the text in one sentence.",
    "Write a one-sentence summary.",
    "Summarize this in one sentence.",
)


def draw(random: Random) -> Draft:
    """One note with its summary."""
    kind = random.choice(KINDS)
    note = kind(random)
    messages = turns(f"{note.text}\n\n{random.choice(INSTRUCTIONS)}", note.summary)
    return Draft((kind.__name__, note.facts[0], note.facts[1]), messages, {"key_facts": list(note.facts)})


def rows(split: str, num_rows: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Notes of a split; every one of `meta.key_facts` stands in the summary."""
    return draw_rows("summarization", draw, split, num_rows, seed)
