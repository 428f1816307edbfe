"""Each way of combining, from the job file to the lessons: several teachers asked, one file of what is learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from potstill.job import Job
from potstill.runfolder import RunFolder, read_json, read_rows, write_rows
from potstill.stages import generate, validate
from potstill.types import Example, Message

ROWS = ["short", "a rather long question about a red light", "nobody knows"]
TEACHERS = [
    {"kind": "scripted", "name": "a", "replies": {"nobody": "Hm."}, "default": "neutral"},
    {"kind": "scripted", "name": "b", "replies": {"nobody": "Well."}, "default": "entailment", "weight": 2.0},
    {"kind": "scripted", "name": "c", "replies": {"short": "entailment"}},
]
JUDGE = {
    "kind": "scripted",
    "name": "judge",
    "replies": {"answer A>\nneutral": "Verdict: A", "answer B>\nneutral": "Verdict: B"},
    "default": "Verdict: tie",
}
ROUTES = [{"teacher": "c", "max_words": 1}, {"teacher": 2, "contains": "red"}]


def lessons(tmp_path: Path, combine: Any) -> tuple[list[tuple[str, str, float]], RunFolder]:
    """What is learned of which row, and with which weight, and the run."""
    (tmp_path / "student").mkdir()
    job = Job(
        folder=tmp_path, name="run", task="nli", data="train.jsonl", teacher=TEACHERS, student="./student", combine=combine,
        train={"losses": ["cross_entropy"]}, generate={"min_kept_share": 0.1, "resamples": 0, "smoke_rows": 0},
    )  # fmt: skip
    folder = RunFolder(job.run_path)
    rows = [Example(str(number), (Message("user", text),)) for number, text in enumerate(ROWS)]
    write_rows(folder.data / "train.jsonl", (row.as_dict() for row in rows))
    write_rows(folder.data / "validation.jsonl", ())
    generate.run(job, folder)
    answers = folder.state()["spend"]["answers"]
    generate.run(job, folder)
    assert folder.state()["spend"]["answers"] == answers, "what teachers and judge answered is in the journal"
    validate.run(job, folder)
    kept = read_rows(folder.answers / "kept.jsonl")
    return [(row["id"], row["target"], round(row.get("weight", 1.0), 3)) for row in kept], folder


def refused(folder: RunFolder) -> dict[str, str]:
    return {row["id"]: row["reason"] for row in read_rows(folder.answers / "rejected.jsonl")}


@pytest.mark.parametrize(
    ("combine", "learned"),
    [
        ("vote", [("0", "entailment", 1.0), ("1", "entailment", 1.0)]),
        ({"kind": "vote", "min_agreement": 0.6}, [("0", "entailment", 1.0)]),
        ({"kind": "route", "rules": ROUTES}, [("0", "entailment", 1.0), ("1", "entailment", 1.0)]),
        (
            "mixture",
            [("0", "neutral", 0.25), ("0", "entailment", 0.75), ("1", "neutral", 0.333), ("1", "entailment", 0.667)],
        ),
        ({"kind": "best_of", "judge": JUDGE}, [("0", "neutral", 1.0), ("1", "neutral", 1.0)]),
        ("best_of", [("0", "entailment", 1.0), ("1", "entailment", 1.0)]),
    ],
)
def test_what_is_learned(tmp_path: Path, combine: Any, learned: list[tuple[str, str, float]]) -> None:
    found, folder = lessons(tmp_path, combine)
    assert found == learned
    assert refused(folder)["2"] == "no nli answer in the text"
    card = read_json(folder.answers / "card.json")
    assert card["input"] == 3
    assert card["accepted"] == len({name for name, _, _ in learned})


def test_a_route_asks_one_teacher_a_row(tmp_path: Path) -> None:
    _, folder = lessons(tmp_path, {"kind": "route", "rules": ROUTES})
    assert folder.state()["spend"]["answers"] == 3


def test_a_teacher_that_failed_lowers_the_agreement_of_the_others(tmp_path: Path) -> None:
    """Row 1: b has two of four votes, and c, which has no reply to it, counts."""
    _, folder = lessons(tmp_path, "vote")
    agreement = {row["id"]: row.get("agreement") for row in read_rows(folder.answers / "answers.jsonl")}
    assert agreement["0"] == pytest.approx(3 / 4)
    assert agreement["1"] == pytest.approx(2 / 4)
