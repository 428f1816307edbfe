"""2,000 rows through a teacher that misbehaves in every way, and killed at 20 random moments: each row is accounted for."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from chat_server import REFUSAL, Chaos, ChatServer

from potstill.job import Job
from potstill.journal import Journal, Spend
from potstill.runfolder import RunFolder, read_json, read_rows, write_rows
from potstill.stages import generate, validate
from potstill.types import Example, Message

FIELDS: dict[str, Any] = {
    "task": {"kind": "conversation", "max_answer_tokens": 20},
    "data": "train.jsonl",
    "student": "./student",
    "train": {"losses": ["cross_entropy"]},
    "generate": {"smoke_rows": 0},
    "validation": {
        "checks": ["finish_reason", "empty", "refusals", {"kind": "schema", "json_schema": {"type": "string"}, "bare": True}]
    },
}
TEACHER = {"kind": "openai_api", "model": "big", "backoff_s": 0.01, "max_concurrency": 32, "max_attempts": 8}


def _job(folder: Path, url: str) -> Job:
    (folder / "student").mkdir(exist_ok=True)
    return Job(folder=folder, name="run", teacher={**TEACHER, "base_url": url}, **FIELDS)


def _fill(job: Job, num_rows: int) -> RunFolder:
    """Rows with the same question and different system prompts among them."""
    folder = RunFolder(job.run_path)
    rows = [
        Example(f"row {n}", (Message("system", f"You are {n % 7}."), Message("user", f'"question {n // 2 * 2}"')))
        for n in range(num_rows)
    ]
    write_rows(folder.data / "train.jsonl", (row.as_dict() for row in rows))
    write_rows(folder.data / "validation.jsonl", [])
    return folder


def _spent(job: Job, folder: RunFolder) -> Spend:
    with Journal(job.journal_path) as journal:
        return sum(journal.spent(folder.run_id()).values(), Spend())


def test_a_hostile_server_costs_no_row_and_the_journal_counts_what_the_server_counts(tmp_path: Path) -> None:
    with ChatServer(chaos=Chaos(seed=3, share=0.3)) as server:
        job = _job(tmp_path, server.url)
        folder = _fill(job, 2000)
        generate.run(job, folder)
        validate.run(job, folder)
        assert _spent(job, folder).requests == sum(server.asked.values())
        assert set(server.met) == {"good", *Chaos().faults}
        assert sum(server.met.values()) > 2500
    rows = list(read_rows(folder.answers / "answers.jsonl"))
    assert [row["id"] for row in rows] == [f"row {n}" for n in range(2000)]
    assert all(row["text"] in (f'"QUESTION {n // 2 * 2}"', "") for n, row in enumerate(rows) if row["finish_reason"] == "stop")
    card = read_json(folder.answers / "card.json")
    kept = {row["id"] for row in read_rows(folder.answers / "kept.jsonl")}
    rejected = {row["id"] for row in read_rows(folder.answers / "rejected.jsonl")}
    assert (len(kept), len(rejected)) == (card["accepted"], card["rejected"])
    assert kept | rejected == {f"row {n}" for n in range(2000)}
    assert not kept & rejected
    assert card["accepted"] > 1980
    assert REFUSAL not in {row["target"] for row in read_rows(folder.answers / "kept.jsonl")}


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_generate_hostile import _job
from potstill.runfolder import RunFolder
from potstill.stages import generate
job = _job(Path(sys.argv[1]), sys.argv[2])
print("started", flush=True)
generate.run(job, RunFolder(job.run_path))
"""


@pytest.mark.timeout(600)
def test_killed_at_20_random_moments_no_answer_that_arrived_is_asked_for_again(tmp_path: Path) -> None:
    chance = random.Random(11)
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    with ChatServer(chaos=Chaos(seed=5, share=0.2, faults=("429 soon", "500", "reset", "half", "drip")), delay_s=0.02) as server:
        folder = _fill(_job(tmp_path, server.url), 2000)
        kills = 0
        done: Counter[str] = Counter()
        while True:
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
            child = subprocess.Popen([*command, server.url, str(Path(__file__).parent)], stdout=subprocess.PIPE, env=environment)
            assert child.stdout is not None
            child.stdout.readline()
            if kills < 20:
                time.sleep(chance.uniform(0.02, 0.35))
                child.send_signal(signal.SIGKILL)
            ended = child.wait(120)
            child.stdout.close()
            if ended == 0:
                break
            assert ended == -signal.SIGKILL
            time.sleep(0.15)  # requests that were under way when the process died end at the server
            asked = Counter(server.asked)
            with Journal(_job(tmp_path, server.url).journal_path) as journal:
                known = journal.spend().answers
            again = [question for question, times in done.items() if asked[question] != times]
            assert again == [], "an answer that was in the journal was asked for again"
            done = _answered(tmp_path, server)
            assert known >= len(done)
            kills += 1
        assert kills == 20
        assert not [question for question, times in done.items() if server.asked[question] != times]
    assert all(row["error"] is None for row in read_rows(folder.answers / "answers.jsonl"))


def _answered(tmp_path: Path, server: ChatServer) -> Counter[str]:
    """The questions all of whose rows have an answer in the journal, with how often the server was asked by now."""
    job = _job(tmp_path, server.url)
    folder = RunFolder(job.run_path)
    answering = generate.answering_of(job, folder)
    found: dict[str, list[bool]] = {}
    with Journal(job.journal_path) as journal:
        desk = generate.desk_of(job, folder, journal)
        for case, _ in answering.choices(generate.examples_of(folder, "train"), desk, folder.data):
            found.setdefault(case.example.messages[-1].content, []).append(case.candidates[0].reply.error is None)
    return Counter({question: server.asked[question] for question, rows in found.items() if all(rows)})
