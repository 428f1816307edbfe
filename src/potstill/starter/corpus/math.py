"""Word problems of one or two steps with small numbers, solved step by step.

Every problem is a start, then one or two operations; the solution writes each step as an equation. Results stay below
100, factors below 10, and what is added or taken is at most 9. Held out: the numbers with their operations (for
example 14 + 9 - 5), in any story.
"""

from collections.abc import Iterator
from random import Random
from typing import Any, NamedTuple

from potstill.starter.corpus.drawing import Draft, draw_rows, turns
from potstill.starter.corpus.words import CITIES, COUNTABLES, NAMES

_MOST = 99
_MOST_CHANGE = 9


class Problem(NamedTuple):
    """A story and its equations; an equation is (left, sign, right, result)."""

    story: str
    equations: tuple[tuple[int, str, int, int], ...]


def calculate(left: int, sign: str, right: int) -> int:
    """The result of one step.

    >>> calculate(14, "+", 9)
    23
    """
    return {"+": left + right, "-": left - right, "x": left * right, "/": left // right}[sign]


def _equation(left: int, sign: str, right: int) -> tuple[int, str, int, int]:
    return left, sign, right, calculate(left, sign, right)


def _change(random: Random, start: int) -> tuple[str, int]:
    """A sign and a number that keep the result between 1 and 99."""
    number = random.randint(2, _MOST_CHANGE)
    can_add, can_take = start + number <= _MOST, start - number >= 1
    sign = random.choice([sign for sign, can in (("+", can_add), ("-", can_take)) if can])
    return sign, number


def _gain_and_loss(random: Random) -> Problem:
    name, other, things = random.choice(NAMES), random.choice(NAMES), random.choice(COUNTABLES)
    start = random.randint(3, 60)
    story = [f"{name} has {start} {things}."]
    equations = []
    total = start
    for _ in range(random.choice((1, 2))):
        sign, number = _change(random, total)
        gains = (f"buys {number} more", f"finds {number} more", f"gets {number} from {other}")
        losses = (f"gives {number} to {other}", f"loses {number}", f"sells {number}")
        verb = random.choice(gains if sign == "+" else losses)
        story.append(f"{name} {verb}.")
        equations.append(_equation(total, sign, number))
        total = equations[-1][3]
    question = random.choice((f"How many {things} does {name} have now?", f"How many {things} are left with {name}?"))
    return Problem(" ".join([*story, question]), tuple(equations))


def _groups(random: Random) -> Problem:
    name, things = random.choice(NAMES), random.choice(COUNTABLES)
    groups, each = random.randint(2, 9), random.randint(2, 9)
    first = _equation(groups, "x", each)
    story = random.choice(
        (
            f"There are {groups} shelves with {each} {things} each.",
            f"{name} fills {groups} baskets with {each} {things} each.",
            f"{name} orders {groups} packs of {each} {things}.",
        )
    )
    if random.random() < 0.5:
        return Problem(f"{story} How many {things} are there in total?", (first,))
    sign, number = _change(random, first[3])
    change = f"Then {number} more arrive." if sign == "+" else f"Then {number} are taken away."
    return Problem(f"{story} {change} How many {things} are there now?", (first, _equation(first[3], sign, number)))


def _price(random: Random) -> Problem:
    name, things = random.choice(NAMES), random.choice(COUNTABLES)
    count, price = random.randint(2, 9), random.randint(2, 9)
    cost = _equation(count, "x", price)
    story = f"{name} buys {count} {things} for {price} dollars each."
    if random.random() < 0.4:
        return Problem(f"{story} How many dollars does {name} pay?", (cost,))
    if random.random() < 0.5:
        fee = random.randint(2, _MOST_CHANGE)
        question = f"The delivery costs {fee} dollars. How many dollars does {name} pay in total?"
        return Problem(f"{story} {question}", (cost, _equation(cost[3], "+", fee)))
    paid = min(_MOST, cost[3] + random.randint(2, _MOST_CHANGE))
    question = f"{name} pays with {paid} dollars. How many dollars come back?"
    return Problem(f"{story} {question}", (cost, _equation(paid, "-", cost[3])))


def _share(random: Random) -> Problem:
    name, things = random.choice(NAMES), random.choice(COUNTABLES)
    children, each = random.randint(2, 9), random.randint(2, 9)
    total = children * each
    if random.random() < 0.5:
        story = f"{name} shares {total} {things} equally among {children} children."
        return Problem(f"{story} How many {things} does each child get?", (_equation(total, "/", children),))
    extra = random.randint(2, _MOST_CHANGE)
    story = f"{name} has {total + extra} {things}, keeps {extra} and shares the rest among {children} children."
    equations = (_equation(total + extra, "-", extra), _equation(total, "/", children))
    return Problem(f"{story} How many {things} does each child get?", equations)


def _difference(random: Random) -> Problem:
    first, second = random.sample(NAMES, 2)
    older = random.randint(15, 70)
    gap = random.randint(2, min(_MOST_CHANGE, older - 2))
    things = random.choice(COUNTABLES)
    return random.choice(
        (
            Problem(
                f"{first} is {older} years old. {second} is {gap} years younger. How old is {second}?",
                (_equation(older, "-", gap),),
            ),
            Problem(
                f"{first} has {older} {things} and {second} has {gap}. How many more does {first} have?",
                (_equation(older, "-", gap),),
            ),
            Problem(
                f"A bus to {random.choice(CITIES)} has {older} people. {gap} get off. How many people stay on the bus?",
                (_equation(older, "-", gap),),
            ),
        )
    )


STORIES = (_gain_and_loss, _gain_and_loss, _groups, _price, _share, _difference)

INSTRUCTION = "Solve step by step and end with a line '#### <number>'."


def solution(problem: Problem) -> str:
    """The equations, one sentence each, and the final line."""
    steps = " ".join(f"{left} {sign} {right} = {result}." for left, sign, right, result in problem.equations)
    return f"{steps}\n#### {problem.equations[-1][3]}"


def draw(random: Random) -> Draft:
    """One word problem with its solution."""
    problem = random.choice(STORIES)(random)
    combination = tuple(f"{left}{sign}{right}" for left, sign, right, _ in problem.equations)
    messages = turns(f"{problem.story}\n\n{INSTRUCTION}", solution(problem))
    return Draft(combination, messages, {"answer": str(problem.equations[-1][3])})


def rows(split: str, num_rows: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Word problems of a split; the reply ends with a line `#### <meta.answer>`."""
    return draw_rows("math", draw, split, num_rows, seed)
