"""The starter corpus: five tasks as generators of chat rows, and a general pretraining stream.

rows("nli", "train", 100)    one hundred rows; the same arguments give the same rows
"""

from collections.abc import Iterator
from typing import Any

from potstill.starter.corpus import conversation, general, math, nli, qa, summarization

_GENERATORS = {
    "nli": nli.rows,
    "conversation": conversation.rows,
    "qa": qa.rows,
    "math": math.rows,
    "summarization": summarization.rows,
    "general": general.rows,
}

TASKS = ("nli", "conversation", "qa", "math", "summarization")


def rows(task: str, split: str, num_rows: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Chat rows of a task (one of TASKS, or "general") for train, validation or test.

    >>> next(rows("nli", "test", 1))["messages"][-1]["role"]
    'assistant'
    """
    if task not in _GENERATORS:
        raise ValueError(f"unknown starter task {task!r}; the tasks are {', '.join(_GENERATORS)}")
    return _GENERATORS[task](split, num_rows, seed)
