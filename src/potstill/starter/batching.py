"""Rows -> token ids, weights and packed batches, as plain lists; the training script makes tensors of them."""

from collections.abc import Callable, Iterator
from random import Random
from typing import NamedTuple

from potstill.starter.chat import END
from potstill.starter.corpus import rows
from potstill.starter.corpus.drawing import Row

_PROMPT_WEIGHT = 0.05
# A one-word reply counts about as much as a sentence; else the label of nli would be drowned by longer replies.
_REPLY_TOKENS, _MOST_WEIGHT = 10, 5.0


class Encoded(NamedTuple):
    """Token ids, the weight of predicting each of them, and each one's position in its own row."""

    ids: list[int]
    weights: list[float]
    positions: list[int]


def encode(row: Row, to_ids: Callable[[str], list[int]]) -> Encoded:
    """A row with most weight in the assistant's turns and little elsewhere; role tokens have none."""
    ids: list[int] = []
    weights: list[float] = []
    for message in row["messages"]:
        turn = to_ids(f"<|{message['role']}|>{message['content']}{END}")
        num_predicted = len(turn) - 1
        weight = _PROMPT_WEIGHT
        if message["role"] == "assistant":
            weight = min(_MOST_WEIGHT, max(1.0, _REPLY_TOKENS / num_predicted))
        ids += turn
        weights += [0.0, *[weight] * num_predicted]
    return Encoded(ids, weights, list(range(len(ids))))


def pool_of(number: int, mixture: dict[str, int], to_ids: Callable[[str], list[int]]) -> list[Encoded]:
    """The rows of one pool in random order; `mixture` says how many of each task, the pool's number is their seed."""
    drawn = [row for task, size in mixture.items() for row in rows(task, "train", size, seed=number)]
    Random(number).shuffle(drawn)
    return [encode(row, to_ids) for row in drawn]


def packed(pool: list[Encoded], width: int, pad: int) -> Iterator[Encoded]:
    """Lines of `width` tokens that hold several rows each; positions begin anew with every row.

    A model that sees positions restart must not look across rows (transformers derives that mask from them). Every row is
    put into the first of the open lines that has room.
    """
    lines: list[list[Encoded]] = []
    for row in pool:
        fitting = (line for line in lines if sum(len(part.ids) for part in line) + len(row.ids) <= width)
        line = next(fitting, None)
        if line is None:
            line = []
            lines.append(line)
        line.append(row)
    for line in lines:
        missing = width - sum(len(part.ids) for part in line)
        yield Encoded(
            [token for part in line for token in part.ids] + [pad] * missing,
            [weight for part in line for weight in part.weights] + [0.0] * missing,
            [position for part in line for position in part.positions] + list(range(missing)),
        )
