"""The judge: both orders, a trial on gold, never its own family; a strange teacher's file plays it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from potstill.contracts import Answered, Check, Finding, Requests, Room, Teacher, Watch
from potstill.errors import JobError
from potstill.plugins import load_plugin
from potstill.types import Example, Message, Reply, Request

JUDGE = '''"""A judge for tests."""

import re

from potstill.contracts import Teacher
from potstill.types import Reply


class Told(Teacher):
    """Judges by a list of right answers, or badly in one of several ways."""

    model: str = "told-judge"
    knows: tuple[str, ...] = ()
    way: str = "honest"

    def identity(self):
        return {"kind": "told", "model": self.model, "knows": list(self.knows), "way": self.way}

    async def answers(self, requests):
        async for request in requests:
            yield request, Reply(self.verdict(request.messages[0].content))

    def verdict(self, asked):
        answer = re.search(r"<\\w{8} answer>\\n(.*?)\\n</", asked, re.S)
        reference = re.search(r"<\\w{8} reference answer, which is right>\\n(.*?)\\n</", asked, re.S)
        scored = "Score: " in asked
        if self.way == "mumbles":
            return "Hard to say."
        if self.way == "nods":
            good = True
        elif self.way == "first" and reference:
            good = answer.start() < reference.start()
        elif self.way == "first":
            good = asked.index("5: right") < asked.index("1: wrong") if scored else asked.index("pass'") < asked.index("fail'")
        else:
            good = answer[1] in self.knows or bool(reference and answer[1] == reference[1])
        if scored:
            return f"Because. Score: {5 if good else 2}"
        return f"Because.\\nVerdict: {'pass' if good else 'fail'}"
'''
GOLD = {"2 + 2": "4", "3 + 3": "6", "4 + 4": "8", "5 + 5": "10", "6 + 6": "12", "7 + 7": "14"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "told.py").write_text(JUDGE)
    return tmp_path


def check(folder: Path, way: str = "honest", knows: Sequence[str] = (), **fields: Any) -> Check:
    teacher = {"kind": "./told.py", "way": way, "knows": list(knows)}
    loaded: Check = load_plugin("checks", {"kind": "judge", "teacher": teacher, **fields}, folder)
    return loaded


def room(folder: Path, gold: dict[str, str], asked: list[int] | None = None, task: str = "qa") -> Room:
    rows = [Example(question, (Message("user", question),), answer).as_dict() for question, answer in gold.items()]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def ask(teacher: Teacher, requests: Sequence[Request]) -> list[Reply]:
        async def all_answers() -> list[Reply]:
            return [reply async for _, reply in teacher.answers(Requests(requests))]

        if asked is not None:
            asked.append(len(requests))
        return asyncio.run(all_answers())

    teacher = load_plugin("teachers", {"kind": "scripted", "name": "the teacher"})
    return Room(load_plugin("tasks", task), folder, (teacher,), ask)


def answered(question: str, text: str, gold: str | None = None, source: str = "teacher") -> Answered:
    return Answered(Example(question, (Message("user", question),), gold), Reply(text), source)


def refused(watch: Watch, *answers: Answered) -> list[str | None]:
    return [found.reason if isinstance(found, Finding) else None for found in watch.look(answers)]


@pytest.mark.parametrize(("scale", "reason"), [("pass", "the judge fails it"), ("score", "the judge scores it below 4")])
def test_what_the_judge_finds_wanting_is_refused(scale: str, reason: str, folder: Path) -> None:
    watch = check(folder, knows=["18", *GOLD.values()], scale=scale).watch(room(folder, {}))
    assert refused(watch, answered("9 + 9", "18"), answered("9 + 9", "17"), answered("9 + 9", "17", source="gold")) == [
        None,
        reason,
        None,
    ]
    said = watch.report()
    assert (said["passed"], said["failed"], said["not_judged"]) == (1, 1, 0)
    assert said["calibration"]["alone"]["accuracy"]["why"] == "no row has gold that the task can compare with"
    assert said.get("mean_score") == (3.5 if scale == "score" else None)


def test_gold_stands_beside_the_answer_where_a_row_has_any(folder: Path) -> None:
    asked: list[int] = []
    watch = check(folder, knows=[]).watch(room(folder, GOLD, asked))
    assert refused(watch, answered("2 + 2", "4", "4"), answered("2 + 2", "5", "4")) == [None, "the judge fails it"]
    assert asked == [4 * len(GOLD), 4]  # the trial: two answers to each row, each in both orders
    said = watch.report()
    assert list(said["calibration"]) == ["beside_gold"]
    assert said["calibration"]["beside_gold"]["accuracy"]["value"] == 1.0
    assert said["agreement_with_gold"]["value"] == 1.0


def test_without_the_reference_a_judge_has_to_know_itself(folder: Path) -> None:
    watch = check(folder, knows=list(GOLD.values()), reference=False, min_calibration=0).watch(room(folder, GOLD))
    assert refused(watch, answered("2 + 2", "6", "4")) == [None]  # it knows 6 for a right answer, to another question
    said = watch.report()
    assert said["calibration"]["alone"]["accuracy"]["value"] == 0.5
    assert said["agreement_with_gold"]["value"] == 0.0


@pytest.mark.parametrize("scale", ["pass", "score"])
@pytest.mark.parametrize("gold", [None, "18"])
def test_a_judge_that_goes_by_the_order_decides_nothing(scale: str, gold: str | None, folder: Path) -> None:
    fields = {"scale": scale, "min_calibration": 0}
    watch = check(folder, "first", **fields).watch(room(folder, {}))
    assert refused(watch, *[answered("9 + 9", "17", gold)] * 20) == [None] * 20
    said = watch.report()
    assert said["orders_differ"] == 20
    assert "decides nothing about 20 of 20 answers: 0 verdicts cannot be read, 20 change with the order" in said["alarm"]
    strict = check(folder, "first", refuse_undecided=True, **fields).watch(room(folder, {}))
    assert refused(strict, answered("9 + 9", "17", gold)) == ["the judge does not decide"]


def test_a_verdict_that_cannot_be_read_is_no_vote(folder: Path) -> None:
    watch = check(folder, "mumbles").watch(room(folder, {}))
    assert refused(watch, answered("9 + 9", "17")) == [None]
    assert watch.report()["unreadable"] == 1


@pytest.mark.parametrize(("way", "words"), [("nods", "right about 50%"), ("mumbles", "none of its verdicts on 12 answers")])
def test_a_judge_that_fails_its_trial_is_not_used(way: str, words: str, folder: Path) -> None:
    asked: list[int] = []
    watch = check(folder, way).watch(room(folder, GOLD, asked))
    assert refused(watch, answered("9 + 9", "17"), answered("8 + 8", "15")) == [None, None]
    assert asked == [4 * len(GOLD)]
    said = watch.report()
    assert said["not_judged"] == 2
    assert "told-judge was not used" in said["alarm"]
    assert words in said["alarm"]
    assert said["calibration"]["alone"]["used"] is False


def test_the_trial_has_as_many_rows_as_the_job_says(folder: Path) -> None:
    asked: list[int] = []
    check(folder, calibration_rows=2).watch(room(folder, GOLD, asked)).look([answered("9 + 9", "17")])
    assert asked[0] == 8
    asked.clear()
    check(folder, calibration_rows=0).watch(room(folder, GOLD, asked)).look([answered("9 + 9", "17")])
    assert asked == [2]


def test_nothing_to_judge_asks_nothing(folder: Path) -> None:
    asked: list[int] = []
    watch = check(folder).watch(room(folder, GOLD, asked))
    assert refused(watch, answered("2 + 2", "5", "4", "gold")) == [None]
    assert watch.look([Answered(Example("2 + 2", (Message("user", "2 + 2"),)), None)]) == [None]
    assert asked == []
    assert watch.report()["calibration"] == {}


def test_a_judge_of_the_teachers_family_is_refused_unless_forced(folder: Path) -> None:
    def judging(**fields: Any) -> Check:
        teacher = {"kind": "openai_api", "base_url": "http://127.0.0.1:9/v1", "model": "gpt-4o"}
        loaded: Check = load_plugin("checks", {"kind": "judge", "teacher": teacher, **fields})
        return loaded

    mine = load_plugin("teachers", {"kind": "openai_api", "base_url": "http://127.0.0.1:9/v1", "model": "gpt-4"})
    where = Room(load_plugin("tasks", "qa"), folder, (mine,), lambda teacher, requests: [])
    with pytest.raises(JobError, match="of the family gpt"):
        judging().watch(where)
    assert any("of the family gpt" in problem for problem in judging().problems((mine,), where.task))
    assert judging(force=True).watch(where).look([]) == []
    assert not any("family" in problem for problem in judging(force=True).problems((mine,), where.task))


def test_a_judge_is_named_as_a_teacher_is(folder: Path) -> None:
    assert load_plugin("checks", {"kind": "judge", "teacher": "starter-teacher"}).teacher.kind == "huggingface"
    with pytest.raises(JobError, match="'teacher' is missing"):
        load_plugin("checks", "judge")
    with pytest.raises(JobError, match="unknown teacher 'gpt-9'"):
        load_plugin("checks", {"kind": "judge", "teacher": "gpt-9"})
