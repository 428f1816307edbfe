"""A chat asked turn by turn: each prompt holds the teacher's own earlier answers, and each turn becomes a lesson."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from potstill.answers.answering import Persistence
from potstill.answers.inquiry import Outcome, Question, inquire, turns_taught
from potstill.contracts import Finding
from potstill.job import Job
from potstill.plugins import load_plugin
from potstill.runfolder import RunFolder, read_rows, write_rows
from potstill.stages import generate, validate
from potstill.types import Example, Message, Reply, Request

CHAT = (
    Message("system", "Be kind."),
    Message("user", "one"),
    Message("assistant", "gold one"),
    Message("user", "two"),
    Message("assistant", "gold two"),
    Message("user", "three"),
)
ROW = Example("1", CHAT, "gold three", {"required_values": ["three"]})


def asked_of(
    row: Example, replies: list[Reply], refuse: Any = lambda example, reply: None
) -> tuple[list[Request], list[Example], Outcome]:
    """What is asked, which rows are checked, and how it ends when these replies come."""
    checked: list[Example] = []

    def watched(example: Example, reply: Reply) -> Finding | None:
        checked.append(example)
        found: Finding | None = refuse(example, reply)
        return found

    teacher = load_plugin("teachers", {"kind": "scripted", "replies": {"x": "y"}})
    question = Question(row, 0, load_plugin("tasks", "conversation"), teacher, Persistence(), watched)
    going = inquire(question, every_turn=True)
    requests = [next(going)]
    try:
        for reply in replies:
            requests.append(going.send(reply))
    except StopIteration as end:
        return requests, checked, end.value
    raise AssertionError("more was asked than answered")


def test_each_turn_is_asked_with_the_teachers_own_earlier_answers() -> None:
    requests, _, outcome = asked_of(ROW, [Reply("own one"), Reply("own two"), Reply("own three, 3")])
    said = [[(m.role, m.content) for m in request.messages if m.role == "assistant"] for request in requests]
    assert said == [[], [("assistant", "own one")], [("assistant", "own one"), ("assistant", "own two")]]
    assert all(request.messages[0] == CHAT[0] and request.messages[-1].role == "user" for request in requests)
    assert (outcome.reply.text, outcome.said) == ("own three, 3", ("own one", "own two"))


def test_gold_and_required_values_are_about_the_last_turn_alone() -> None:
    task = load_plugin("tasks", "conversation")

    def must_be_right(example: Example, reply: Reply) -> Finding | None:
        return Finding("wrong", again=True) if task.right(reply.text, example) == 0.0 else None

    requests, checked, outcome = asked_of(ROW, [Reply("own one"), Reply("own two"), Reply("three it is")], must_be_right)
    assert len(requests) == 3
    assert outcome.reply.error is None
    assert {(example.gold, len(example.meta)) for example in checked if len(example.messages) < len(CHAT)} == {(None, 0)}
    turns = [(turn.gold, target) for turn, target in turns_taught(ROW, outcome.said, outcome.reply.text)]
    assert turns == [(None, "own one"), (None, "own two"), ("gold three", "three it is")]


def test_a_turn_without_an_answer_ends_the_chat_with_its_number() -> None:
    requests, _, outcome = asked_of(ROW, [Reply("own one"), Reply("", "error", error="it is down")])
    assert len(requests) == 2
    assert outcome.reply.error is not None


def test_a_regenerated_chat_teaches_every_turn_and_a_kept_one_its_gold(tmp_path: Path) -> None:
    (tmp_path / "student").mkdir()
    lessons = {}
    for turns in ("regenerate", "keep_gold", "continue"):
        job = Job(
            folder=tmp_path,
            name=turns,
            task={"kind": "conversation", "turns": turns},
            data="train.jsonl",
            teacher={"kind": "scripted", "replies": {"one": "own one", "two": "own two", "three": "own three"}},
            student="./student",
            train={"losses": ["cross_entropy"]},
        )
        folder = RunFolder(job.run_path)
        write_rows(folder.data / "train.jsonl", [ROW.as_dict()])
        write_rows(folder.data / "validation.jsonl", [])
        generate.run(job, folder)
        validate.run(job, folder)
        kept = list(read_rows(folder.answers / "kept.jsonl"))
        lessons[turns] = [
            (one["target_source"], one["target"], [m["content"] for m in one["messages"] if m["role"] == "assistant"])
            for one in kept
        ]
    assert lessons["keep_gold"] == [("gold", "gold three", ["gold one", "gold two"])]
    assert lessons["continue"] == [("teacher", "own three", ["gold one", "gold two"])]
    assert lessons["regenerate"] == [
        ("teacher", "own one", []),
        ("teacher", "own two", ["own one"]),
        ("teacher", "own three", ["own one", "own two"]),
    ]
