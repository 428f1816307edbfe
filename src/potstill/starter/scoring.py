"""Is a reply right? One strict rule for each starter task, and an interval for a share of right replies."""

import re
from math import sqrt
from typing import Any


def is_right(task: str, reply: str, row: dict[str, Any]) -> bool:
    """Whether the reply says what the row's meta asks for.

    nli: the label itself. qa: one of the answers, apart from case and a full stop. math: the number after '####'.
    conversation: every required value. summarization: every key fact.
    """
    meta = row["meta"]
    text = reply.strip()
    if task == "nli":
        return bool(text.lower().rstrip(".") == meta["label"])
    if task == "qa":
        return text.lower().rstrip(".") in {answer.lower() for answer in meta["answers"]}
    if task == "math":
        numbers = re.findall(r"####\s*(-?\d+)", text)
        return bool(numbers) and numbers[-1] == meta["answer"]
    facts = meta["required_values"] if task == "conversation" else meta["key_facts"]
    return all(fact in text for fact in facts)


def interval(num_right: int, num_rows: int) -> tuple[float, float]:
    """The 95% Wilson interval of a share.

    >>> [round(bound, 3) for bound in interval(90, 100)]
    [0.826, 0.945]
    """
    z = 1.959964
    share = num_right / num_rows
    centre = share + z * z / (2 * num_rows)
    spread = z * sqrt(share * (1 - share) / num_rows + z * z / (4 * num_rows * num_rows))
    scale = 1 + z * z / num_rows
    return (centre - spread) / scale, (centre + spread) / scale
