"""What generate does about answers that are no use, about money, and about chats: all against a real server."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer

from potstill.answers.budget import BudgetError
from potstill.errors import JobFailedError
from potstill.job import Job
from potstill.journal import Journal, Spend
from potstill.runfolder import RunFolder, read_json, read_rows, write_rows
from potstill.stages import generate, validate
from potstill.types import Example, Message

LABELS = ["yes", "no"]


def _job(folder: Path, url: str, **fields: Any) -> Job:
    (folder / "student").mkdir(exist_ok=True)
    teacher = {"kind": "openai_api", "base_url": url, "model": "big", "max_attempts": 2, "backoff_s": 0.01, "max_concurrency": 1}
    teacher |= fields.pop("teacher", {})
    usual = {
        "task": {"kind": "classification", "labels": LABELS, "max_answer_tokens": 20},
        "data": "train.jsonl",
        "train": {"losses": ["cross_entropy"]},
        "generate": {"probe_rows": 0, "smoke_rows": 0, "min_kept_share": 0.0},
    }
    return Job(folder=folder, name="run", teacher=teacher, student="./student", **{**usual, **fields})


def _fill(job: Job, rows: list[Example], validation: list[Example] = ()) -> RunFolder:  # type: ignore[assignment]
    folder = RunFolder(job.run_path)
    for split, examples in {"train": rows, "validation": validation}.items():
        write_rows(folder.data / f"{split}.jsonl", (example.as_dict() for example in examples))
    return folder


def _ask(question: str, name: str = "", gold: str | None = None) -> Example:
    return Example(name or question, (Message("user", question),), gold)


def _answers(folder: RunFolder) -> list[dict[str, Any]]:
    return list(read_rows(folder.answers / "answers.jsonl"))


def test_a_cut_answer_is_asked_again_with_twice_the_room_and_then_rejected(tmp_path: Path) -> None:
    with ChatServer(faults={"yes 1": ["cut"], "yes 2": ["always cut"]}, answer=lambda q: q.split()[0]) as server:
        job = _job(tmp_path, server.url)
        folder = _fill(job, [_ask("yes 1"), _ask("yes 2"), _ask("no 3")])
        generate.run(job, folder)
        validate.run(job, folder)
        limits = {
            q: [b["max_tokens"] for b in server.bodies if b["messages"][-1]["content"] == q] for q in ("yes 1", "yes 2", "no 3")
        }
        assert limits == {"yes 1": [20, 40], "yes 2": [20, 40, 80], "no 3": [20]}
        generate.run(job, folder)
        assert sum(server.asked.values()) == 6
    assert [(row["id"], row["attempts"], row["finish_reason"]) for row in _answers(folder)] == [
        ("yes 1", 2, "stop"),
        ("yes 2", 3, "length"),
        ("no 3", 1, "stop"),
    ]
    (rejected,) = read_rows(folder.answers / "rejected.jsonl")
    assert (rejected["id"], rejected["attempts"]) == ("yes 2", 3)
    assert "cut at the length limit" in rejected["reason"]


def test_an_unreadable_answer_is_sampled_anew_a_bounded_number_of_times(tmp_path: Path) -> None:
    said: dict[str, int] = {}

    def answer(question: str) -> str:
        said[question] = said.get(question, 0) + 1
        return "yes" if question == "second try" and said[question] == 2 else "Hm, who knows?"

    with ChatServer(answer=answer) as server:
        job = _job(tmp_path, server.url, generate={"probe_rows": 0, "smoke_rows": 0, "min_kept_share": 0.0, "resamples": 3})
        folder = _fill(job, [_ask("second try"), _ask("never")])
        generate.run(job, folder)
        validate.run(job, folder)
        temperatures = [body["temperature"] for body in server.bodies if body["messages"][-1]["content"] == "never"]
        assert temperatures == [0.0, 0.7, 0.7, 0.7]
        asked = sum(server.asked.values())
        generate.run(job, folder)
        assert sum(server.asked.values()) == asked == 6
    assert [(row["id"], row["text"], row["attempts"]) for row in _answers(folder)] == [
        ("second try", "yes", 2),
        ("never", "Hm, who knows?", 4),
    ]
    card = read_json(folder.answers / "card.json")
    assert (card["input"], card["accepted"], card["rejected"], card["success_ratio"]) == (2, 1, 1, 0.5)


def test_the_smoke_gate_stops_before_the_rest_is_paid_for_and_a_mended_job_goes_on(tmp_path: Path) -> None:
    rows = [_ask(f"no {n}") for n in range(100)]
    settings = {"probe_rows": 0, "smoke_rows": 16, "resamples": 0}
    with ChatServer(answer=lambda q: "Sorry?") as server:
        job = _job(tmp_path, server.url, generate=settings, teacher={"max_concurrency": 32})
        folder = _fill(job, rows)
        with pytest.raises(
            JobFailedError, match=r"smoke gate: only 0 of the first 16 answers of big may teach.*the rest was not asked"
        ):
            generate.run(job, folder)
        assert sum(server.asked.values()) == 16
        server.answer = lambda q: "no"
        mended = _job(tmp_path, server.url, generate=settings, teacher={"extra": {"user": "mended"}})
        generate.run(mended, folder)
        assert sum(server.asked.values()) == 116
    assert {row["text"] for row in _answers(folder)} == {"no"}


def test_the_teacher_is_measured_on_gold_before_it_teaches_and_a_bad_one_costs_little(tmp_path: Path) -> None:
    gold = [_ask(f"yes or no? {n}", gold="yes" if n % 10 else "no") for n in range(40)]
    with ChatServer(answer=lambda q: "yes") as server:
        settings = {"probe_rows": 30, "smoke_rows": 0, "min_teacher_accuracy": 0.99}
        job = _job(tmp_path, server.url, generate=settings)
        folder = _fill(job, [_ask(f"no {n}") for n in range(50)], gold)
        with pytest.raises(JobFailedError, match=r"the teacher big is right in 86.7% \[.*\] of 30 rows with gold"):
            generate.run(job, folder)
        assert sum(server.asked.values()) == 30
        lenient = _job(tmp_path, server.url, generate={**settings, "min_teacher_accuracy": 0.5})
        generate.run(lenient, folder)
        validate.run(lenient, folder)
        assert sum(server.asked.values()) == 80
    score = read_json(folder.answers / "card.json")["teacher_accuracy_before_teaching"]["big"]
    assert (score["value"], score["n"]) == (pytest.approx(26 / 30), 30)
    assert score["low"] < 26 / 30 < score["high"]


def test_the_budget_stops_in_order_and_the_spending_is_the_same_everywhere(tmp_path: Path) -> None:
    rows = [_ask(f"no {n}") for n in range(60)]
    price = {"input_per_million": 1000.0, "output_per_million": 1000.0}
    with ChatServer(answer=lambda q: "no", delay_s=0.01) as server:
        job = _job(tmp_path, server.url, teacher={**price, "max_concurrency": 8}, budget={"max_cost_usd": 0.2})
        folder = _fill(job, rows)
        with pytest.raises(BudgetError, match=r"the budget is used up \(budget.max_cost_usd=0.2\).*answers have been dealt with"):
            generate.run(job, folder)
        first = sum(server.asked.values())
        assert 2 < first < 60
        _assert_the_same_spending(job, folder, first)
        assert folder.state()["spend"]["cost_usd"] <= 0.2
        richer = _job(tmp_path, server.url, teacher={**price, "max_concurrency": 8}, budget={"max_cost_usd": 100})
        generate.run(richer, folder)
        validate.run(richer, folder)
        assert server.asked == {f"no {n}": 1 for n in range(60)}
        _assert_the_same_spending(richer, folder, 60)
    card = read_json(folder.answers / "card.json")
    assert card["cost_usd"] == pytest.approx(folder.state()["spend"]["cost_usd"])


def _assert_the_same_spending(job: Job, folder: RunFolder, requests: int) -> None:
    with Journal(job.journal_path) as journal:
        spent = sum(journal.spent(folder.run_id()).values(), Spend()).as_dict()
    event = [row for row in read_rows(folder.path / "events.jsonl") if row["event"] == "spend"][-1]
    assert spent["requests"] == requests
    assert folder.state()["spend"] == spent == {name: event[name] for name in spent}


def test_rejected_rows_can_be_read_while_the_job_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "SECONDS_BETWEEN_NOTES", 0.0)
    gate = threading.Event()
    seen: list[dict[str, Any]] = []

    def answer(question: str) -> str:
        if question == "last" and not gate.wait(20):
            raise AssertionError("nobody looked at the rejected rows")
        return "no" if question == "last" else "Hm?"

    with ChatServer(answer=answer) as server:
        settings = {"probe_rows": 0, "smoke_rows": 0, "resamples": 0, "min_kept_share": 0.0}
        job = _job(tmp_path, server.url, generate=settings, teacher={"max_concurrency": 4})
        folder = _fill(job, [_ask("bad 1"), _ask("bad 2"), _ask("last")])
        running = threading.Thread(target=generate.run, args=(job, folder))
        running.start()
        for _ in range(400):
            seen = list(read_rows(folder.answers / "rejected.jsonl"))
            if len(seen) == 2:
                break
            running.join(0.05)
        assert running.is_alive()
        gate.set()
        running.join(30)
    assert [(row["id"], row["reason"]) for row in seen] == [(f"bad {n}", "no classification answer in the text") for n in (1, 2)]


CHAT = (
    Message("system", "You are Ada."),
    Message("user", "one"),
    Message("assistant", "gold one"),
    Message("user", "two"),
    Message("assistant", "gold two"),
    Message("user", "three"),
)


@pytest.mark.parametrize(
    ("turns", "gold", "asked", "taught"),
    [
        ("keep_gold", "gold three", [], [("gold", 6, "gold three")]),
        ("keep_gold", None, [["one", "gold one", "two", "gold two", "three"]], [("teacher", 6, "THREE")]),
        ("continue", "gold three", [["one", "gold one", "two", "gold two", "three"]], [("teacher", 6, "THREE")]),
        (
            "regenerate",
            "gold three",
            [["one"], ["one", "ONE", "two"], ["one", "ONE", "two", "TWO", "three"]],
            [("teacher", 2, "ONE"), ("teacher", 4, "TWO"), ("teacher", 6, "THREE")],
        ),
    ],
)
def test_in_a_chat_the_teacher_sees_its_own_earlier_answers(
    turns: str, gold: str | None, asked: list[list[str]], taught: list[tuple[str, int, str]], tmp_path: Path
) -> None:
    with ChatServer() as server:
        job = _job(tmp_path, server.url, task={"kind": "conversation", "turns": turns})
        folder = _fill(job, [Example("row", CHAT, gold)])
        generate.run(job, folder)
        validate.run(job, folder)
        assert [[m["content"] for m in body["messages"][1:]] for body in server.bodies] == asked
        assert all(body["messages"][0] == {"role": "system", "content": "You are Ada."} for body in server.bodies)
    kept = list(read_rows(folder.answers / "kept.jsonl"))
    assert [(row["target_source"], len(row["messages"]), row["target"]) for row in kept] == taught


def test_samples_vote_and_the_report_knows_how_far_they_agree(tmp_path: Path) -> None:
    votes = iter(["yes", "yes", "no", "yes", "no"] + ["no"] * 5)

    with ChatServer(answer=lambda q: next(votes)) as server:
        settings = {"probe_rows": 0, "smoke_rows": 0, "samples": 5, "min_kept_share": 0.0}
        job = _job(tmp_path, server.url, generate=settings, teacher={"temperature": 0.7})
        folder = _fill(job, [_ask("a"), _ask("b")])
        generate.run(job, folder)
        validate.run(job, folder)
        assert server.asked == {"a": 5, "b": 5}
    assert [(row["text"], row["agreement"], row["attempts"]) for row in _answers(folder)] == [("yes", 0.6, 5), ("no", 1.0, 5)]
    card = read_json(folder.answers / "card.json")
    assert (card["input"], card["accepted"]) == (2, 2)


def test_several_teachers_each_have_their_own_share_and_price(tmp_path: Path) -> None:
    with ChatServer(answer=lambda q: "yes") as one, ChatServer(answer=lambda q: "no" if "b" in q else "yes") as two:
        usual = {"kind": "openai_api", "model": "big", "input_per_million": 1.0, "output_per_million": 1.0}
        teachers = [
            {**usual, "name": "one", "base_url": one.url},
            {**usual, "name": "two", "base_url": two.url, "weight": 3.0, "output_per_million": 2.0},
        ]
        job = Job(
            folder=tmp_path, name="run", task={"kind": "classification", "labels": LABELS}, data="train.jsonl", teacher=teachers,
            student=str(tmp_path), train={"losses": ["cross_entropy"]}, generate={"probe_rows": 0, "smoke_rows": 0},
        )  # fmt: skip
        folder = _fill(job, [_ask("a"), _ask("b"), _ask("c", gold="no")])
        generate.run(job, folder)
        validate.run(job, folder)
        assert one.asked == two.asked == {"a": 1, "b": 1}
    assert [(row["text"], row.get("teacher"), row.get("agreement")) for row in _answers(folder)] == [
        ("yes", "one", 1.0),
        ("no", "two", 0.75),
        ("no", None, None),
    ]
    shares = read_json(folder.answers / "card.json")["teachers"]
    assert {name: (share["asked"], share["chosen"], round(share["cost_usd"] * 1e6)) for name, share in shares.items()} == {
        "one": (2, 1, 6),
        "two": (2, 1, 10),
    }
