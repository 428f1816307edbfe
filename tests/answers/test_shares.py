"""What teachers give to each label together, by hand."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from potstill.answers.shares import label_shares
from potstill.contracts import Candidate
from potstill.types import Reply

LABELS = ("yes", "no", "perhaps")


def said(
    answer: str | None, teacher: int = 0, *, given: Mapping[str, float] | None = None, error: str | None = None
) -> Candidate:
    return Candidate(teacher, 0, Reply(answer or "", error=error, label_probabilities=given), None if error else answer)


def test_samples_of_one_teacher_vote() -> None:
    found = label_shares([said("yes"), said("yes"), said("no"), said("yes")], LABELS, [1.0])
    assert found == pytest.approx({"yes": 0.75, "no": 0.25, "perhaps": 0.0})


def test_teachers_count_by_their_weights_and_samples_share_their_teachers() -> None:
    found = label_shares([said("yes", 0), said("no", 1), said("perhaps", 1)], LABELS, [1.0, 3.0])
    assert found == pytest.approx({"yes": 0.25, "no": 0.375, "perhaps": 0.375})


def test_probabilities_that_a_teacher_gives_stand_beside_votes_and_add_up_to_one() -> None:
    found = label_shares([said("yes", 0, given={"yes": 0.6, "no": 0.2, "none of these": 0.2}), said("no", 1)], LABELS, [1.0, 1.0])
    assert found == pytest.approx({"yes": 0.375, "no": 0.625, "perhaps": 0.0})


def test_what_failed_was_refused_or_is_no_label_says_nothing() -> None:
    some = [said("yes"), said(None), said(None, error="timeout"), said("maybe"), said("no", 1, given={"perhaps": 0.0})]
    assert label_shares(some, LABELS, [1.0, 9.0]) == pytest.approx({"yes": 1.0, "no": 0.0, "perhaps": 0.0})


@pytest.mark.parametrize("some", [[], [said("yes")], [said(None), said(None)], [said("yes", given={"maybe": 1.0})]])
def test_one_text_alone_tells_no_shares(some: list[Candidate]) -> None:
    assert label_shares(some, LABELS, [1.0]) is None


def test_an_open_task_has_no_shares() -> None:
    assert label_shares([said("yes"), said("no")], (), [1.0]) is None
