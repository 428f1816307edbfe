"""Natural language inference over everyday scenes: does the premise entail the hypothesis, contradict it or neither?

A scene is who x activity x place, with a number and details. Entailments generalise or drop details,
contradictions change something that excludes the premise, neutral hypotheses add what the premise does not say.
Held out: who x activity x place.
"""

from collections.abc import Callable, Iterator
from random import Random
from typing import Any, NamedTuple

from potstill.starter.corpus.drawing import Draft, capitalised, draw_rows, turns
from potstill.starter.corpus.words import COLOURS, DAYS

# Who: the word, its plural and the wider class.
PEOPLE = {
    "woman": "women",
    "man": "men",
    "girl": "girls",
    "boy": "boys",
    "teacher": "teachers",
    "doctor": "doctors",
    "farmer": "farmers",
    "student": "students",
    "singer": "singers",
    "waiter": "waiters",
    "tourist": "tourists",
    "nurse": "nurses",
}

# Activity: what it is called in general, and another that cannot happen at the same time.
ACTIVITIES = {
    "playing football": ("doing a sport", "sleeping"),
    "playing tennis": ("doing a sport", "taking a nap"),
    "swimming": ("doing a sport", "sitting still"),
    "running": ("moving", "sitting on a chair"),
    "walking": ("moving", "lying on the ground"),
    "dancing": ("moving", "lying in bed"),
    "eating soup": ("having a meal", "sleeping"),
    "eating pizza": ("having a meal", "singing a song"),
    "eating rice": ("having a meal", "running"),
    "playing the guitar": ("making music", "swimming"),
    "playing the piano": ("making music", "running"),
    "singing a song": ("making music", "sleeping"),
    "reading a book": ("reading", "driving a car"),
    "reading a newspaper": ("reading", "dancing"),
    "riding a horse": ("with an animal", "sitting on a chair"),
    "feeding a dog": ("with an animal", "taking a nap"),
    "holding a cat": ("with an animal", "swimming"),
    "buying shoes": ("shopping", "sleeping"),
    "buying a phone": ("shopping", "lying in bed"),
    "buying bread": ("shopping", "taking a nap"),
}

OUTDOORS = ("in the park", "on the beach", "in the forest", "in the garden", "in the street", "at the lake")
INDOORS = ("in the kitchen", "in the office", "in the library", "in the museum", "in the bedroom", "in the hall")

_NUMBERS = ("two", "three", "four", "five", "six")
_DETAILS = ("young", "tall", "happy", "tired", "quiet")
_ADDED = (
    "waiting for a friend",
    "thinking about work",
    "planning a holiday",
    "worried about money",
    "on a first date",
    "going to be late",
    "here for the first time",
    "celebrating a birthday",
)


class Scene(NamedTuple):
    """A premise in parts. `number` is '' for one person."""

    who: str
    number: str
    detail: str
    activity: str
    place: str
    colour: str

    @property
    def plain(self) -> str:
        """The subject without its details."""
        return f"the {PEOPLE[self.who]}" if self.number else f"the {self.who}"

    @property
    def verb(self) -> str:
        """The auxiliary that fits the number."""
        return "are" if self.number else "is"

    @property
    def indoors(self) -> bool:
        """Whether the place is inside a building."""
        return self.place in INDOORS

    def premise(self) -> str:
        """The whole scene as one sentence."""
        detail = f"{self.detail} " if self.detail else ""
        who = f"{self.number} {detail}{PEOPLE[self.who]}" if self.number else f"a {detail}{self.who}"
        wearing = f" in {self.colour} clothes" if self.colour else ""
        return capitalised(f"{who}{wearing} {self.verb} {self.activity} {self.place}.")


def _scene(random: Random) -> Scene:
    return Scene(
        who=random.choice(list(PEOPLE)),
        number=random.choice(_NUMBERS) if random.random() < 0.4 else "",
        detail=random.choice(_DETAILS) if random.random() < 0.4 else "",
        activity=random.choice(list(ACTIVITIES)),
        place=random.choice(OUTDOORS + INDOORS),
        colour=random.choice(COLOURS) if random.random() < 0.3 else "",
    )


def _entailment(random: Random, scene: Scene) -> str:
    general = ACTIVITIES[scene.activity][0]
    persons = "some people" if scene.number else "someone"
    side = "indoors" if scene.indoors else "outdoors"
    return random.choice(
        (
            f"{scene.plain} {scene.verb} {scene.activity}",
            f"{scene.plain} {scene.verb} {scene.place}",
            f"{scene.plain} {scene.verb} {general}",
            f"{scene.plain} {scene.verb} {side}",
            f"{persons} {scene.verb} {scene.activity}",
            f"{persons} {scene.verb} {general} {scene.place}",
            f"{persons} {scene.verb} {side}",
        )
    )


def _contradiction(random: Random, scene: Scene) -> str:
    other_place = random.choice([place for place in OUTDOORS + INDOORS if place != scene.place])
    side = "outdoors" if scene.indoors else "indoors"
    excluded = ACTIVITIES[scene.activity][1]
    choices = [
        f"{scene.plain} {scene.verb} {excluded}",
        f"{scene.plain} {scene.verb} {excluded} {scene.place}",
        f"{scene.plain} {scene.verb} {other_place}",
        f"{scene.plain} {scene.verb} {side}",
        f"{scene.plain} {scene.verb} not {scene.activity}",
        f"nobody is {scene.activity}",
        f"there is nobody {scene.place}",
    ]
    if scene.number:
        number = random.choice([number for number in _NUMBERS if number != scene.number])
        choices.append(f"exactly {number} {PEOPLE[scene.who]} are {scene.place}")
    if scene.colour:
        colour = random.choice([colour for colour in COLOURS if colour != scene.colour])
        choices.append(f"all of the clothes are {colour}")
    return random.choice(choices)


def _neutral(random: Random, scene: Scene) -> str:
    added = random.choice(_ADDED)
    choices = [
        f"{scene.plain} {scene.verb} {added}",
        f"{scene.plain} {scene.verb} {scene.place} and {added}",
        f"{scene.plain} {scene.verb} {scene.activity} and {added}",
        f"it is {random.choice(DAYS)} and {scene.plain} {scene.verb} {scene.place}",
        f"{scene.plain} did the same on {random.choice(DAYS)}",
    ]
    if not scene.detail:
        choices.append(f"the {random.choice(_DETAILS)} {scene.plain[4:]} {scene.verb} {scene.place}")
    if not scene.colour:
        choices.append(f"some of the clothes are {random.choice(COLOURS)}")
    return random.choice(choices)


LABELS: dict[str, Callable[[Random, Scene], str]] = {
    "entailment": _entailment,
    "neutral": _neutral,
    "contradiction": _contradiction,
}

PROMPT = "Premise: {premise}\nHypothesis: {hypothesis}\n\nAnswer with one word: entailment, neutral or contradiction."


def draw(random: Random) -> Draft:
    """One premise, one hypothesis and their label."""
    scene = _scene(random)
    label = random.choice(list(LABELS))
    hypothesis = capitalised(LABELS[label](random, scene)) + "."
    prompt = PROMPT.format(premise=scene.premise(), hypothesis=hypothesis)
    return Draft((scene.who, scene.activity, scene.place), turns(prompt, label), {"label": label})


def rows(split: str, num_rows: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Premise and hypothesis pairs of a split with their one-word label."""
    return draw_rows("nli", draw, split, num_rows, seed)
