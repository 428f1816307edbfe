"""Scoring of the starter tasks."""

import pytest

from potstill.starter.scoring import interval, is_right


@pytest.mark.parametrize(
    ("task", "reply", "meta", "right"),
    [
        ("nli", "Neutral.", {"label": "neutral"}, True),
        ("nli", "neutral or so", {"label": "neutral"}, False),
        ("qa", "paris", {"answers": ["Paris"]}, True),
        ("qa", "in Paris", {"answers": ["Paris"]}, False),
        ("math", "4 + 5 = 9.\n#### 9", {"answer": "9"}, True),
        ("math", "4 + 5 = 9.", {"answer": "9"}, False),
        ("conversation", "Please call 0800 1.", {"required_values": ["0800 1"]}, True),
        ("summarization", "Anna left.", {"key_facts": ["Anna", "Paris"]}, False),
    ],
)
def test_replies_are_judged_by_the_rule_of_their_task(task: str, reply: str, meta: dict[str, object], right: bool) -> None:
    assert is_right(task, reply, {"meta": meta}) is right


def test_the_interval_stays_within_zero_and_one() -> None:
    assert interval(0, 10)[0] == pytest.approx(0, abs=1e-9)
    assert interval(10, 10)[1] == pytest.approx(1)
