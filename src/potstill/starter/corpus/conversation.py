"""Technical support in two or three user turns: look up the right fact for what the customer says and has tried.

The system message holds the product and five facts: a first step for each of two problems, a step for what is still
broken after that, one value and the hotline. What must be stated depends on the problem the customer names and on what
was already tried. Steps and values are drawn anew for every row, so they can only be copied. Held out: product x
problem. A product and a problem that meet in test are never the asked pair in train (the problem may stand there as an
unasked fact).
"""

from collections.abc import Iterator
from random import Random
from typing import Any, NamedTuple

from potstill.starter.corpus.drawing import Draft, draw_rows, informal, turns
from potstill.starter.corpus.words import BRANDS, listed

PRODUCTS = listed(
    "router|laptop|printer|camera|tablet|speaker|television|headset|phone|monitor|keyboard|scanner|projector|"
    "smart watch|doorbell|thermostat|vacuum robot|coffee machine|washing machine|dishwasher|game console|e-reader|"
    "bank card reader|alarm system",
    "|",
)

# A problem's name in the facts, and what customers write about it.
PROBLEMS: dict[str, tuple[str, ...]] = {
    "red light": ("there is a red light on it", "a red light keeps blinking", "why is the light red"),
    "no sound": ("i hear no sound at all", "the sound is gone", "there is no sound anymore"),
    "slow connection": ("the connection is very slow", "everything loads so slow", "why is my connection slow"),
    "will not start": ("it will not start", "it does not start since this morning", "i cannot get it to start"),
    "black screen": ("the screen stays black", "i only see a black screen", "the screen went black today"),
    "battery drains": (
        "the battery drains too fast",
        "the battery is empty after an hour",
        "my battery drains quickly",
    ),
    "overheating": ("it gets really hot", "it is overheating", "it becomes hot after ten minutes"),
    "lost password": ("i lost my password", "i forgot the password", "my password does not work anymore"),
    "update fails": ("the update fails", "the update stops halfway", "i cannot install the update"),
    "strange noise": ("it makes a strange noise", "there is a loud noise inside", "i hear a strange noise from it"),
    "no pairing": ("pairing does not work", "it is not pairing with my phone", "i cannot get the pairing done"),
    "error code": ("it shows an error code", "an error code comes up every time", "what does this error code mean"),
    "payment declined": ("my payment was declined", "the payment gets declined", "why was my payment declined"),
    "account locked": ("my account is locked", "it says the account is locked", "i am locked out of my account"),
    "water leak": ("there is a water leak", "water is leaking on the floor", "it leaks water"),
    "frozen menu": ("the menu is frozen", "the menu does not react", "i am stuck in the frozen menu"),
}

# A value's name in the facts, the questions about it, the reply's opening and the kind of value.
QUESTIONS: dict[str, tuple[tuple[str, ...], str, str]] = {
    "warranty": (("how long is the warranty", "do i still have warranty"), "The warranty is", "months"),
    "return period": (("until when can i return it", "how many days for a return"), "The return period is", "days"),
    "repair price": (("what does a repair cost", "how much is the repair"), "The repair price is", "dollars"),
    "delivery time": (("how long does the delivery take", "when is it delivered"), "The delivery time is", "days"),
    "opening hours": (("when are you open", "what are your opening hours"), "The opening hours are", "hours"),
    "spare part": (("which spare part do i need", "what is the spare part number"), "The spare part is", "part"),
}

_KEYS = listed(
    "power button|reset button|menu key|mode switch|left key|volume key|green button|side lever|top dial|pairing key|"
    "start button|back button",
    "|",
)
_PIECES = listed(
    "main cable|blue cable|power plug|rear panel|filter|battery|memory card|front cover|network cable|adapter|top lid|"
    "fuse|antenna|inner belt",
    "|",
)
_MENUS = listed("Settings|Tools|Network|Account|Security|Display|Service|Privacy|Sound|System|Devices|Backup", "|")
_CHOICES = listed("Reset|Repair|Clean|Scan|Refresh|Restore|Renew|Calibrate|Unlock|Verify|Search|Restart", "|")


class Step(NamedTuple):
    """An instruction and the values a reply must state from it."""

    text: str
    values: tuple[str, ...]


def _number(random: Random) -> int:
    return random.randint(2, 60)


def _step(random: Random) -> Step:
    key, piece, number = random.choice(_KEYS), random.choice(_PIECES), _number(random)
    menu, choice = random.choice(_MENUS), random.choice(_CHOICES)
    code, letter = random.randint(1000, 9999), random.choice("ABCDEFGH")
    return random.choice(
        (
            Step(f"hold the {key} for {number} seconds", (key, f"{number} seconds")),
            Step(f"unplug the {piece} for {number} minutes", (piece, f"{number} minutes")),
            Step(f"press the {key} {number % 8 + 2} times", (key, f"{number % 8 + 2} times")),
            Step(f"open {menu} and choose {choice}", (menu, choice)),
            Step(f"replace the {piece}", (piece,)),
            Step(f"clean the {piece} with a dry cloth", (piece,)),
            Step(f"enter code {code}", (str(code),)),
            Step(f"install version {number % 9 + 1}.{number}", (f"version {number % 9 + 1}.{number}",)),
            Step(f"set the {key} to level {letter}", (key, f"level {letter}")),
        )
    )


def _distinct_steps(random: Random, number: int) -> list[Step]:
    """Steps of which none states a value of another, so that a wrong step never counts as right."""
    steps: list[Step] = []
    used: set[str] = set()
    while len(steps) < number:
        step = _step(random)
        if not used & set(step.values):
            steps.append(step)
            used |= set(step.values)
    return steps


def _value(random: Random, kind: str) -> str:
    number = _number(random)
    if kind == "hours":
        return f"{random.randint(6, 11)} am to {random.randint(3, 9)} pm"
    if kind == "part":
        return f"{random.choice('ABCDEFGHKLMNPRST')}{random.randint(100, 999)}"
    return f"{number} {kind}"


class _Case(NamedTuple):
    """What the support agent knows: the problems' steps, the values and the service number."""

    product: str
    system: str
    problems: list[str]
    steps: dict[str, Step]
    next_step: Step
    question: str
    value: str
    hotline: str


def _case(random: Random) -> _Case:
    product, brand = random.choice(PRODUCTS), random.choice(BRANDS)
    problems = random.sample(list(PROBLEMS), 2)
    first, other, next_step = _distinct_steps(random, 3)
    steps = {problems[0]: first, problems[1]: other}
    question = random.choice(list(QUESTIONS))
    value = _value(random, QUESTIONS[question][2])
    hotline = f"0800 {random.randint(1000, 9999)}"
    facts = [f"{problem}: {step.text}" for problem, step in steps.items()]
    facts.append(f"still broken: {next_step.text}")
    facts.append(f"{question}: {value}")
    random.shuffle(facts)
    system = f"You are the support agent of {brand}. Product: {product}. Facts: {'; '.join(facts)}; hotline: {hotline}."
    return _Case(product, system, problems, steps, next_step, question, value, hotline)


_HELLOS = (
    "Hi, I need help with my {product}.",
    "Hello, I have a problem with the {product}.",
    "good morning, question about my {product}",
    "hey, can someone help me with my new {product}?",
)
_STILL = (
    "I did that, it did not help.",
    "tried it, still the same",
    "Done, but nothing changed.",
    "ok i did this twice and no luck",
    "That does not work, what else?",
)
_OPENINGS = (
    "Hi, {line}.",
    "{line}",
    "Hello, {line}, what should I do?",
    "my {product}: {line}",
    "Please help, {line}.",
)
_THANKS = ("Thanks, that helped. And {line}?", "great, works now. {line}?", "Perfect! One more question: {line}?")
_KNOWN = (
    "{line}. I already tried to {step}.",
    "{line} and i did {step} already",
    "{line}. To {step} did not help.",
)


def _opening(random: Random, case: _Case, problem: str) -> str:
    line = random.choice(PROBLEMS[problem])
    return informal(random, random.choice(_OPENINGS).format(line=line, product=case.product))


def _first_reply(problem: str, step: Step) -> str:
    return f"Please try this for {problem}: {step.text}."


def _second_reply(step: Step) -> str:
    return f"Thank you for trying. If it is still broken: {step.text}."


def _greeted(random: Random, case: _Case) -> list[str]:
    """A greeting, then the problem: its own step is due."""
    hello = random.choice(_HELLOS).format(product=case.product)
    problem = case.problems[0]
    greeting = f"Hello! What is wrong with your {case.product}?"
    return [hello, greeting, _opening(random, case, problem), _first_reply(problem, case.steps[problem])]


def _tried(random: Random, case: _Case) -> list[str]:
    """The problem's step was given and did not help: the next step is due."""
    problem = case.problems[0]
    asked = [_opening(random, case, problem), _first_reply(problem, case.steps[problem])]
    return [*asked, random.choice(_STILL), _second_reply(case.next_step)]


def _known(random: Random, case: _Case) -> list[str]:
    """The customer names the problem's step as tried: the next step is due at once."""
    problem = case.problems[0]
    hello = random.choice(_HELLOS).format(product=case.product)
    line = random.choice(_KNOWN).format(line=random.choice(PROBLEMS[problem]), step=case.steps[problem].text)
    return [hello, f"Hello! What is wrong with your {case.product}?", line, _second_reply(case.next_step)]


def _exhausted(random: Random, case: _Case) -> list[str]:
    """Both steps were tried: only the hotline is left."""
    asked = _tried(random, case)
    return [*asked, random.choice(_STILL), f"I am sorry. Please call our hotline: {case.hotline}."]


def _other_problem(random: Random, case: _Case) -> list[str]:
    """The first problem is solved and a second one comes up."""
    solved, problem = case.problems[1], case.problems[0]
    asked = [_opening(random, case, solved), _first_reply(solved, case.steps[solved])]
    line = f"ok that helped, but now {random.choice(PROBLEMS[problem])}"
    return [*asked, informal(random, line), _first_reply(problem, case.steps[problem])]


def _question(random: Random, case: _Case) -> list[str]:
    """The problem is solved and a plain question comes up."""
    problem = case.problems[0]
    asked = [_opening(random, case, problem), _first_reply(problem, case.steps[problem])]
    questions, opening, _ = QUESTIONS[case.question]
    return [*asked, random.choice(_THANKS).format(line=random.choice(questions)), f"{opening} {case.value}."]


_FLOWS = (_greeted, _greeted, _tried, _known, _exhausted, _other_problem, _other_problem, _question)


def _required(flow: Any, case: _Case) -> list[str]:
    if flow is _exhausted:
        return [case.hotline]
    if flow is _question:
        return [case.value]
    return list(case.next_step.values if flow in (_tried, _known) else case.steps[case.problems[0]].values)


def draw(random: Random) -> Draft:
    """One support conversation."""
    case = _case(random)
    flow = random.choice(_FLOWS)
    asked = case.question if flow is _question else case.problems[0]
    messages = turns(*flow(random, case), system=case.system)
    meta = {
        "required_values": _required(flow, case),
        "flow": flow.__name__.strip("_"),
        "product": case.product,
        "asked": asked,
    }
    return Draft((case.product, asked), messages, meta)


def rows(split: str, num_rows: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Support conversations of a split; `meta.required_values` must all stand in the reply."""
    return draw_rows("conversation", draw, split, num_rows, seed)
