"""Questions about a short text, answered with a span of it ("in Paris", "a red lamp", "Anna").

A context states one or two facts of different people; the question asks for one part of one of them.
Held out: relation x subject x answer. Such a triple in test was never asked for in train.
"""

from collections.abc import Callable, Iterator
from random import Random
from typing import Any, NamedTuple

from potstill.starter.corpus.drawing import Draft, draw_rows, turns
from potstill.starter.corpus.words import (
    ANIMALS,
    CITIES,
    COLOURS,
    DAYS,
    FOODS,
    GOODS,
    JOBS,
    MONTHS,
    NAMES,
    ROOMS,
    TIMES,
)


class Fact(NamedTuple):
    """A sentence and the (question, answer) pairs it supports."""

    sentence: str
    pairs: tuple[tuple[str, str], ...]


def _purchase(random: Random, name: str) -> Fact:
    good, city, price = random.choice(GOODS), random.choice(CITIES), f"{random.randint(5, 95)} dollars"
    colour = random.choice(COLOURS)
    sentence = random.choice(
        (
            f"{name} bought a {colour} {good} in {city} for {price}.",
            f"In {city}, {name} paid {price} for a {colour} {good}.",
            f"For {price}, {name} bought a {colour} {good} in {city}.",
        )
    )
    pairs = (
        (f"Where did {name} buy the {good}?", f"in {city}"),
        (f"How much did {name} pay for the {good}?", price),
        (f"What did {name} buy?", f"a {colour} {good}"),
        (f"Who bought the {good}?", name),
    )
    return Fact(sentence, pairs)


def _work(random: Random, name: str) -> Fact:
    job, city, month = random.choice(JOBS), random.choice(CITIES), random.choice(MONTHS)
    sentence = random.choice(
        (
            f"{name} started as a {job} in {city} in {month}.",
            f"In {month}, {name} became a {job} in {city}.",
            f"In {month} {name} began to work as a {job} in {city}.",
        )
    )
    pairs = (
        (f"What is the job of {name}?", f"a {job}"),
        (f"Where does {name} work?", f"in {city}"),
        (f"In which month did {name} start as a {job}?", f"in {month}"),
        (f"Who works as a {job}?", name),
    )
    return Fact(sentence, pairs)


def _pet(random: Random, name: str) -> Fact:
    animal, room = random.choice(ANIMALS), random.choice(ROOMS)
    number = random.randint(2, 19)
    sentence = random.choice(
        (
            f"{name} keeps a {animal} in the {room}; it is {number} years old.",
            f"In the {room}, {name} keeps a {animal} that is {number} years old.",
        )
    )
    pairs = (
        (f"Which animal does {name} have?", f"a {animal}"),
        (f"Where does the {animal} of {name} sleep?", f"in the {room}"),
        (f"How old is the {animal}?", f"{number} years"),
        (f"Who owns the {animal}?", name),
    )
    return Fact(sentence, pairs)


def _journey(random: Random, name: str) -> Fact:
    start, goal = random.sample(CITIES, 2)
    day, hour = random.choice(DAYS), random.choice(TIMES)
    sentence = random.choice(
        (
            f"{name} travels from {start} to {goal} on {day} at {hour}.",
            f"On {day} at {hour}, {name} takes the train from {start} to {goal}.",
            f"On {day}, {name} flies from {start} to {goal} at {hour}.",
        )
    )
    pairs = (
        (f"Where does {name} travel to?", f"to {goal}"),
        (f"From which city does {name} leave?", f"from {start}"),
        (f"On which day does {name} travel?", f"on {day}"),
        (f"At what time does {name} leave?", f"at {hour}"),
        (f"Who travels to {goal}?", name),
    )
    return Fact(sentence, pairs)


def _meal(random: Random, name: str) -> Fact:
    food, day, room = random.choice(FOODS), random.choice(DAYS), random.choice(ROOMS)
    sentence = random.choice(
        (
            f"On {day} {name} will serve {food} in the {room}.",
            f"{name} is going to cook {food} for the guests in the {room} on {day}.",
        )
    )
    pairs = (
        (f"When does {name} cook for the guests?", f"on {day}"),
        (f"In which room will {name} serve the {food}?", f"in the {room}"),
        (f"Who is serving {food}?", name),
    )
    return Fact(sentence, pairs)


def _account(random: Random, name: str) -> Fact:
    number, amount, month = random.randint(1000, 9999), f"{random.randint(10, 990)} euros", random.choice(MONTHS)
    sentence = random.choice(
        (
            f"In {month} {name} sent {amount} to account {number}.",
            f"Account {number} received {amount} from {name} in {month}.",
        )
    )
    pairs = (
        (f"How much money did {name} send?", amount),
        (f"Which account got the money of {name}?", str(number)),
        (f"In which month did {name} send the money?", f"in {month}"),
        (f"Who sent money to account {number}?", name),
    )
    return Fact(sentence, pairs)


RELATIONS: tuple[Callable[[Random, str], Fact], ...] = (_purchase, _work, _pet, _journey, _meal, _account)

PROMPT = "Context: {context}\n\nQuestion: {question}\n\nAnswer with a short span copied from the context."


def _facts(random: Random, names: list[str]) -> list[Fact]:
    """Facts of different relations, so that every question has one answer, or of one relation and disjoint words."""
    while True:
        relations = random.sample(RELATIONS, len(names)) if random.random() < 0.8 else [random.choice(RELATIONS)] * len(names)
        facts = [relation(random, name) for relation, name in zip(relations, names, strict=True)]
        questions = [question for fact in facts for question, _ in fact.pairs]
        if len(set(questions)) == len(questions):
            return facts


def _accepted(answer: str) -> list[str]:
    """The answer, and the same without its preposition or article."""
    bare = answer.removeprefix("in ").removeprefix("on ").removeprefix("at ").removeprefix("to ").removeprefix("from ")
    bare = bare.removeprefix("the ").removeprefix("a ")
    return [answer] if bare == answer else [answer, bare]


def draw(random: Random) -> Draft:
    """One context, one question about it and the span that answers it."""
    names = random.sample(NAMES, random.choice((1, 2)))
    facts = _facts(random, names)
    asked = random.randrange(len(facts))
    pair = random.randrange(len(facts[asked].pairs))
    question, answer = facts[asked].pairs[pair]
    prompt = PROMPT.format(context=" ".join(fact.sentence for fact in facts), question=question)
    combination = (question.replace(answer, ""), names[asked], answer)
    return Draft(combination, turns(prompt, answer), {"answers": _accepted(answer)})


def rows(split: str, num_rows: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Questions of a split; `meta.answers` are the accepted spans, word for word from the context."""
    return draw_rows("qa", draw, split, num_rows, seed)
