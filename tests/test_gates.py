"""What must hold before a job's money is spent: the first answers pass, and the teacher is right often enough on gold."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer

from potstill.errors import JobFailedError
from potstill.gates import gold_rows
from potstill.job import Job
from potstill.runfolder import RunFolder, read_json, read_rows, write_rows
from potstill.stages import generate, validate
from potstill.types import Example, Message

SETTINGS = {"probe_rows": 30, "smoke_rows": 0, "min_kept_share": 0.0, "resamples": 0}


def job_of(folder: Path, url: str, settings: dict[str, Any], **fields: Any) -> Job:
    (folder / "student").mkdir(exist_ok=True)
    teacher = {"kind": "openai_api", "base_url": url, "model": "big", "max_attempts": 2, "backoff_s": 0.01, "max_concurrency": 32}
    teacher |= fields.pop("teacher", {})
    usual = {"name": "run", "data": "train.jsonl", "train": {"losses": ["cross_entropy"]}, "generate": {**SETTINGS, **settings}}
    task = {"kind": "classification", "labels": ["yes", "no"], "max_answer_tokens": 20}
    return Job(folder=folder, task=task, teacher=teacher, student="./student", **{**usual, **fields})


def fill(job: Job, train: list[Example], validation: list[Example]) -> RunFolder:
    folder = RunFolder(job.run_path)
    for split, examples in {"train": train, "validation": validation}.items():
        write_rows(folder.data / f"{split}.jsonl", (example.as_dict() for example in examples))
    return folder


def row(question: str, gold: str | None = None) -> Example:
    return Example(question, (Message("user", question),), gold)


def with_gold(count: int) -> list[Example]:
    return [row(f"gold {n}", "yes") for n in range(count)]


def probed(folder: RunFolder) -> dict[str, Any]:
    found: dict[str, Any] = read_json(folder.answers / "probe.json")["big"]
    return found


def test_the_first_rows_of_the_probe_must_pass_before_the_rest_of_it_is_paid_for(tmp_path: Path) -> None:
    with ChatServer(answer=lambda q: "Sorry?") as server:
        job = job_of(tmp_path, server.url, {"probe_rows": 64, "smoke_rows": 16, "min_kept_share": 0.7})
        folder = fill(job, [row("what?")], with_gold(100))
        said = r"smoke gate: only 0 of the first 16 answers of big to rows with gold may teach.*the rest was not asked"
        with pytest.raises(JobFailedError, match=said):
            generate.run(job, folder)
        assert sum(server.asked.values()) == 16
        server.answer = lambda q: "no"
        mended = job_of(
            tmp_path,
            server.url,
            {"probe_rows": 64, "smoke_rows": 16, "min_kept_share": 0.7},
            teacher={"extra": {"user": "mended"}},
        )
        generate.run(mended, folder)
        assert sum(server.asked.values()) == 16 + 64 + 1, "a wrong answer can be read, so the gate lets it pass"
    assert (probed(folder)["value"], probed(folder)["n"], probed(folder)["failed"]) == (0.0, 64, 0)


def test_a_probe_row_without_an_answer_is_no_wrong_answer(tmp_path: Path) -> None:
    faults = {f"gold {n}": ["always 500"] for n in range(0, 30, 3)}
    with ChatServer(answer=lambda q: "yes", faults=faults) as server:
        job = job_of(tmp_path, server.url, {"min_teacher_accuracy": 0.8})
        folder = fill(job, [row("what?")], with_gold(30))
        generate.run(job, folder)
        validate.run(job, folder)
    assert (probed(folder)["value"], probed(folder)["n"], probed(folder)["failed"]) == (1.0, 20, 10)
    card = read_json(folder.answers / "card.json")
    assert card["probe_rows_without_answer"] == {"big": 10}
    assert card["teacher_accuracy_before_teaching"]["big"]["n"] == 20
    (event,) = [line for line in read_rows(folder.path / "events.jsonl") if line["event"] == "probed"]
    assert (event["rows"], event["accuracy"]["big"]["failed"]) == (30, 10)


def test_a_probe_that_nobody_answers_measures_nothing_and_the_next_run_asks_it_again(tmp_path: Path) -> None:
    with ChatServer(answer=lambda q: "yes", faults={f"gold {n}": ["500", "500"] for n in range(5)}) as server:
        job = job_of(tmp_path, server.url, {"min_teacher_accuracy": 0.2})
        folder = fill(job, [row("what?")], with_gold(5))
        with pytest.raises(
            JobFailedError, match=r"none of 5 rows with gold was answered by big \(most often: .*HTTP 500.*run again"
        ):
            generate.run(job, folder)
        assert "what?" not in server.asked
        generate.run(job, folder)
        assert server.asked["what?"] == 1
    assert probed(folder)["n"] == 5


def test_gold_does_not_help_a_teacher_that_is_being_measured(tmp_path: Path) -> None:
    """The check against_gold may have wrong answers sampled anew; a probe of those would call a guesser always right."""
    said: dict[str, int] = {}

    def answer(question: str) -> str:
        said[question] = said.get(question, 0) + 1
        return "no" if said[question] == 1 else "yes"

    with ChatServer(answer=answer) as server:
        checks = ["readable", {"kind": "against_gold", "resample": True}]
        job = job_of(tmp_path, server.url, {"resamples": 3}, validation={"checks": checks}, teacher={"temperature": 0.7})
        folder = fill(job, [row("what?")], with_gold(12))
        generate.run(job, folder)
        assert sum(server.asked.values()) == 13
    assert (probed(folder)["value"], probed(folder)["n"]) == (0.0, 12)


def test_a_judge_is_not_paid_for_the_probe(tmp_path: Path) -> None:
    with ChatServer(answer=lambda q: "yes") as server, ChatServer(answer=lambda q: "Verdict: A") as wise:
        judge = {"kind": "openai_api", "base_url": wise.url, "model": "wise"}
        more = {"combine": {"kind": "best_of", "judge": judge}, "teacher": {"temperature": 0.7}}
        job = job_of(tmp_path, server.url, {"samples": 2}, **more)
        folder = fill(job, [row("what?")], with_gold(6))
        generate.run(job, folder)
        assert sum(wise.asked.values()) == 0
    assert probed(folder)["n"] == 6, "one sample a row is measured"


def test_a_teacher_without_a_row_to_be_measured_on_stops_a_job_that_asks_for_accuracy(tmp_path: Path) -> None:
    with ChatServer(answer=lambda q: "yes") as server:
        job = job_of(tmp_path, server.url, {"min_teacher_accuracy": 0.5})
        folder = fill(job, [row("what?")], [])
        with pytest.raises(
            JobFailedError, match=r"min_teacher_accuracy is 50.0%, and there is no row with gold to measure big on"
        ):
            generate.run(job, folder)
        assert server.asked == {}
        all_gold = fill(job, [row("what?", "yes")], [])
        generate.run(job, all_gold)
        assert server.asked == {}, "where nobody is asked, nothing is measured"


def test_rows_for_the_probe_come_evenly_from_validation_or_else_from_train() -> None:
    def rows_of(split: str) -> Iterator[Example]:
        return (row(f"{split} {n}", "yes" if n % 2 and split in golden else None) for n in range(20))

    golden = {"train", "validation"}
    assert [example.id for example in gold_rows(rows_of, 5)] == [f"validation {n}" for n in (1, 5, 9, 13, 17)]
    golden = {"train"}
    assert [example.id for example in gold_rows(rows_of, 100)] == [f"train {n}" for n in range(1, 20, 2)]
    assert gold_rows(rows_of, 0) == []


def test_choosing_the_probe_holds_none_but_its_own_rows() -> None:
    def rows_of(split: str) -> Iterator[Example]:
        return (row("x" * 1000 + str(n), "yes") for n in range(4000 if split == "train" else 0))

    tracemalloc.start()
    chosen = gold_rows(rows_of, 8)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(chosen) == 8
    assert peak < 400_000, "all 4,000 rows are 4 MB and more"
