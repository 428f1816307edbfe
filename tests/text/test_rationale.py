"""Chain of thought over every task that has it: what is asked, what is taught, and that it reads back as the same answer."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potstill.contracts import Task
from potstill.errors import JobError
from potstill.job import Job
from potstill.plugins import load_plugin
from potstill.runfolder import RunFolder, read_rows, write_rows
from potstill.stages import generate, validate
from potstill.types import Example, Lesson, Message

TASKS = ("nli", "qa", "math", "classification")
MODES = ("answer", "rationale_then_answer", "multitask")
EXAMPLE = Example(
    "1", (Message("system", "Labels: entailment, neutral. Answer with one word."), Message("user", "P? H?")), "neutral"
)
ROWS = (("A man swims. He moves?", None), ("A man sits. He moves?", None), ("A man runs. He lies?", "contradiction"))
ANSWERS = {"nli": "entailment", "qa": "the U.S.", "math": "1234", "classification": "Card arrival"}


@cache
def task_with(kind: str, **settings: Any) -> Task:
    task: Task = load_plugin("tasks", {"kind": kind, "chain_of_thought": settings or True})
    return task


def final(kind: str, answer: str) -> str:
    return f"#### {answer}" if kind == "math" else f"Answer: {answer}"


@pytest.mark.parametrize("kind", TASKS)
def test_the_users_system_prompt_is_extended_and_the_student_is_asked_as_before(kind: str) -> None:
    task = task_with(kind)
    plain = load_plugin("tasks", kind)
    (system, user) = task.teacher_prompt(EXAMPLE)
    assert system.content.startswith("Labels: entailment, neutral. Answer with one word.\n\n")
    assert ("####" if kind == "math" else "'Answer:'") in system.content
    assert user == EXAMPLE.messages[1]
    assert task.prompt(EXAMPLE) == plain.prompt(EXAMPLE) == plain.teacher_prompt(EXAMPLE) == EXAMPLE.messages
    told = task.prompt(EXAMPLE, "rationale")
    assert told[0].content.startswith(system.content[:50])
    assert told != task.prompt(EXAMPLE)


@pytest.mark.parametrize("kind", TASKS)
def test_reasoning_has_room_where_it_is_written(kind: str) -> None:
    for mode in MODES:
        task = task_with(kind, student_learns=mode, max_rationale_tokens=77)
        assert task.max_teacher_tokens == task.max_answer_tokens + 77
        assert task.max_student_tokens == task.max_answer_tokens + (77 if mode == "rationale_then_answer" else 0)
    plain = load_plugin("tasks", kind)
    assert plain.max_teacher_tokens == plain.max_student_tokens == plain.max_answer_tokens


@pytest.mark.parametrize("kind", TASKS)
def test_each_way_to_learn_teaches_its_texts(kind: str) -> None:
    answer = ANSWERS[kind]
    text = f"It rains.\nSo he is wet.\n\n**{'Final answer' if kind != 'math' else 'Answer'}:** {answer}"
    bare = final(kind, answer) if kind == "math" else answer

    def lessons(mode: str) -> list[tuple[str, str]]:
        return [(one.text, one.aim) for one in task_with(kind, student_learns=mode).taught(EXAMPLE, text)]

    assert lessons("answer") == [(bare, "answer")]
    assert lessons("multitask") == [(bare, "answer"), ("It rains.\nSo he is wet.", "rationale")]
    ((whole, aim),) = lessons("rationale_then_answer")
    assert aim == "reasoned_answer"
    assert whole.endswith(f"\n{final(kind, answer)}")
    assert whole.startswith("It rains.\nSo he is wet.")
    assert [one.text for one in load_plugin("tasks", kind).taught(EXAMPLE, text)] == [text]


def test_a_rationale_counts_as_much_as_its_answer_however_long_it_is() -> None:
    text = "x" * 300 + "\nAnswer: entailment"
    answer, rationale = task_with("nli", student_learns="multitask", rationale_weight=0.5).taught(EXAMPLE, text)
    assert (answer.weight, answer.text) == (1.0, "entailment")
    assert rationale.weight * len(rationale.text) == pytest.approx(0.5 * len(answer.text), rel=1e-4)


@pytest.mark.parametrize("kind", TASKS)
def test_an_answer_without_reasoning_is_unusable_only_where_reasoning_is_learned(kind: str) -> None:
    text = final(kind, ANSWERS[kind])
    assert task_with(kind, student_learns="answer").unusable(text) is None
    for mode in MODES[1:]:
        assert task_with(kind, student_learns=mode).unusable(text) == "no reasoning before the answer"
        assert task_with(kind, student_learns=mode).taught(EXAMPLE, text) == ()
    assert load_plugin("tasks", kind).unusable(text) is None


def test_math_learns_to_reason_unless_the_job_says_else_and_the_others_the_bare_answer() -> None:
    learned = {
        kind: load_plugin("tasks", {"kind": kind, "chain_of_thought": True}).chain_of_thought.student_learns for kind in TASKS
    }
    assert learned == {"nli": "answer", "qa": "answer", "classification": "answer", "math": "rationale_then_answer"}
    assert load_plugin(
        "tasks", {"kind": "math", "chain_of_thought": {"student_learns": "answer"}}
    ).chain_of_thought.student_learns == ("answer")
    assert load_plugin("tasks", {"kind": "math", "chain_of_thought": False}).chain_of_thought is None


def test_a_wrong_setting_is_told_and_other_tasks_have_no_chain_of_thought() -> None:
    with pytest.raises(JobError, match=r"unknown key 'chain_of_thought\.student_learn': did you mean 'student_learns'"):
        load_plugin("tasks", {"kind": "nli", "chain_of_thought": {"student_learn": "answer"}})
    with pytest.raises(JobError, match="chain_of_thought"):
        load_plugin("tasks", {"kind": "nli", "chain_of_thought": "yes please"})
    with pytest.raises(JobError, match="unknown key 'chain_of_thought'"):
        load_plugin("tasks", {"kind": "summarization", "chain_of_thought": True})


STEPS = st.text(alphabet=st.characters(codec="utf-8") | st.sampled_from('\n #*`{}[]:.,-<>"'), min_size=1, max_size=80).filter(
    lambda text: any(letter.isalnum() for letter in text)
)
DRESSES = (
    "{steps}\n{final}",
    "{steps}\n\n**{final}**",
    "<think>{steps}</think>{final}",
    "{final}\n\n{steps}",
    "```json\n{json}\n```",
    "{steps}\n{final}\n\nI hope this helps!",
)


@pytest.mark.parametrize("kind", TASKS)
@given(steps=STEPS, dress=st.sampled_from(DRESSES), mode=st.sampled_from(MODES))
def test_what_is_taught_reads_back_as_what_the_teacher_answered(kind: str, steps: str, dress: str, mode: str) -> None:
    task = task_with(kind, student_learns=mode)
    given_answer = ANSWERS[kind]
    pair = json.dumps({"rationale": "because", "answer": given_answer})
    text = dress.format(steps=steps, final=final(kind, given_answer), json=pair)
    read = task.read(text)
    lessons = task.taught(EXAMPLE, text)
    if read is None:
        assert lessons == ()
    for one in lessons:
        assert one.text == one.text.strip() != ""
        assert one.weight > 0
        if one.aim != "rationale":
            assert task.read(one.text) == read


@pytest.mark.parametrize("kind", TASKS)
@given(text=st.text(alphabet=st.sampled_from('Answer: is the\n#*<think>/{}"17.,') | st.characters(), max_size=100))
def test_no_text_breaks_the_teaching(kind: str, text: str) -> None:
    for mode in MODES:
        task = task_with(kind, student_learns=mode)
        assert task.unusable(text) is None or task.taught(EXAMPLE, text) == ()


@pytest.mark.parametrize("mode", MODES)
def test_a_jobs_answers_become_the_lessons_of_its_way_to_learn(mode: str, tmp_path: Path) -> None:
    (tmp_path / "student").mkdir()
    job = Job(
        folder=tmp_path,
        name="run",
        task={"kind": "nli", "chain_of_thought": {"student_learns": mode}},
        data="train.jsonl",
        teacher={"kind": "scripted", "replies": {"swims": "He swims.\nAnswer: entailment", "sits": "neutral"}},
        student="./student",
        train={"losses": ["cross_entropy"]},
        generate={"min_kept_share": 0.5},
    )
    folder = RunFolder(job.run_path)
    rows = [Example(str(n), (Message("user", said),), gold) for n, (said, gold) in enumerate(ROWS)]
    write_rows(folder.data / "train.jsonl", (row.as_dict() for row in rows))
    write_rows(folder.data / "validation.jsonl", [])
    generate.run(job, folder)
    validate.run(job, folder)
    kept = [Lesson.from_dict(row) for row in read_rows(folder.answers / "kept.jsonl")]
    learned = [(one.example.id, one.aim, one.target) for one in kept]
    gold = ("2", "answer", "contradiction")
    rejected = [(row["id"], row["reason"]) for row in read_rows(folder.answers / "rejected.jsonl")]
    if mode == "answer":
        assert learned == [("0", "answer", "entailment"), ("1", "answer", "neutral"), gold]
        assert rejected == []
        return
    assert rejected == [("1", "no reasoning before the answer")]
    if mode == "multitask":
        assert learned == [("0", "answer", "entailment"), ("0", "rationale", "He swims."), gold]
    else:
        assert learned == [("0", "reasoned_answer", "He swims.\nAnswer: entailment"), gold]
