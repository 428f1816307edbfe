"""A made-up but complete run folder, so that the report can be looked at before there is a real run.

python tests/page/made_run.py FOLDER        # writes FOLDER/runs/support/{report.html, report.json}
"""

from __future__ import annotations

import json
import math
import random
import sys
from pathlib import Path
from typing import Any

from potstill.job import Job
from potstill.page.verdict import verdict
from potstill.runfolder import RunFolder, write_json, write_rows
from potstill.scoring import Answer, Resampling, accuracy, comparisons
from potstill.stages import report
from potstill.statistics import quantile_score
from potstill.types import Example, Message

TASK = '''
from potstill.contracts import Task


class Support(Task):
    """Multi-turn technical support."""

    def read(self, text):
        return text.strip().lower() or None

    def right(self, text, example):
        return None if example.gold is None else float(self.read(text) == self.read(example.gold))
'''
DEVICES = ("router", "printer", "laptop", "headset", "thermostat")
FAULTS = ("shows a red light", "does not turn on", "loses the connection every few minutes", "is very slow since the update")
CURES = ("restart it", "install the update", "replace the cable", "reset it to the factory settings")
SHARES = {"teacher": 0.865, "baseline": 0.03, "control": 0.79, "student": 0.84}
SHAPES: dict[str, dict[str, Any]] = {
    "teacher": {"parameters": 7_780_000, "size": 31.2e6, "memory": 66e6, "latency": 0.41, "throughput": 21.0},
    "baseline": {"parameters": 1_890_000, "size": 7.7e6, "memory": 24e6, "latency": 0.19, "throughput": 61.0},
    "control": {"parameters": 1_890_000, "size": 7.7e6, "memory": 24e6, "latency": 0.135, "throughput": 83.0},
    "student": {"parameters": 1_890_000, "size": 7.7e6, "memory": 24e6, "latency": 0.13, "throughput": 84.0},
}


def made_job(folder: Path) -> Job:
    (folder / "support.py").write_text(TASK)
    (folder / "train.jsonl").write_text("{}\n")
    return Job(
        folder=folder,
        name="support",
        description="First-line answers for the help desk, on a laptop instead of behind an API.",
        task="./support.py",
        data={"train": "train.jsonl"},
        teacher={"kind": "scripted", "default": "Restart it."},
        student="owner/small-model",
        train={"losses": ["cross_entropy"]},
    )


def made_run(
    folder: Path, rows: int = 400, systems: tuple[str, ...] = ("teacher", "baseline", "control", "student")
) -> RunFolder:
    """Fills a run folder as the stages before `report` would, with a fixed seed."""
    job = made_job(folder)
    run = RunFolder(job.run_path)
    examples = made_examples(rows)
    write_rows(run.data / "test.jsonl", (example.as_dict() for example in examples))
    write_json(run.evaluation / "scores.json", made_scores(run, examples, systems))
    write_json(run.data / "card.json", DATA_CARD)
    write_json(run.answers / "card.json", ANSWERS_CARD)
    write_events(run)
    for stage, seconds in {"prepare": 1.2, "generate": 48.0, "validate": 0.4, "capture": 21.0, "train": 96.0}.items():
        run.mark_stage(stage, "made-up", seconds)
    return run


def made_examples(rows: int) -> list[Example]:
    rng = random.Random(1)
    examples = []
    for i in range(rows):
        device, fault, cure = rng.choice(DEVICES), rng.choice(FAULTS), rng.choice(CURES)
        messages = (
            Message("system", "You are a patient help desk. Answer in one sentence."),
            Message("user", f"My {device} {fault}."),
            Message("assistant", f"I am sorry to hear that. Since when has the {device} done this?"),
            Message("user", f"Since yesterday, case {1000 + i}. What shall I do with it?"),
        )
        examples.append(Example(f"row{i}", messages, f"Please {cure}, then wait ten seconds and try again."))
    return examples


def made_scores(run: RunFolder, examples: list[Example], names: tuple[str, ...]) -> dict[str, Any]:
    rng = random.Random(2)
    how = Resampling(1000, 0)
    hard = [rng.random() for _ in examples]
    answers: dict[str, list[Answer]] = {}
    systems: dict[str, Any] = {}
    for name in names:
        right = [min(1.0, max(0.0, h + rng.gauss(0, 0.06))) < SHARES[name] for h in hard]
        answers[name] = [made_answer(example, ok, rng) for example, ok in zip(examples, right, strict=True)]
        write_rows(run.evaluation / f"{name}.jsonl", (answer.as_dict() for answer in answers[name]))
        systems[name] = made_system(name, answers[name], how, rng)
    compared = comparisons(answers, how)
    return {"systems": systems, "comparisons": compared, "verdict": verdict(systems, compared), "rows": len(examples)}


def made_answer(example: Example, right: bool, rng: random.Random) -> Answer:
    assert example.gold is not None
    wrong = rng.choice(("Please buy a new one.", "I do not know.", "Your order is on its way.", "Please <b>reboot</b> & pray."))
    return Answer(example.id, example.gold if right else wrong, float(right), "stop")


def made_system(name: str, answers: list[Answer], how: Resampling, rng: random.Random) -> dict[str, Any]:
    shape = SHAPES[name]
    seconds = [shape["latency"] * math.exp(rng.gauss(0, 0.25)) for _ in range(32)]
    p50, p95 = (quantile_score(seconds, share).as_dict() for share in (0.5, 0.95))
    token_f1 = {
        "value": SHARES[name] * 0.98,
        "low": SHARES[name] * 0.95,
        "high": min(1.0, SHARES[name] * 1.01),
        "n": len(answers),
    }
    return {
        "label": "starter-teacher" if name == "teacher" else "starter-student",
        "accuracy": accuracy(answers, how).as_dict(),
        "metrics": {"token_f1": {**token_f1, "why": None}},
        "latency_p50_s": p50["value"],
        "latency_p95_s": p95["value"],
        "latency": {"p50": p50, "p95": p95},
        "parameters": shape["parameters"],
        "tokens_per_s": 14 / shape["latency"],
        "throughput_per_s": shape["throughput"],
        "memory_bytes": int(shape["memory"]),
        "size_bytes": int(shape["size"]),
        "device": "cpu",
        "dtype": "float32",
        "notes": ["3 of 400 answers were cut off at the longest allowed length"] if name == "baseline" else [],
        "spent": None,
    }


def write_events(run: RunFolder) -> None:
    """Written at once and not through `event`: a few thousand synced lines would be slow."""
    rng = random.Random(3)
    lines = []
    for role, steps, end in (("teacher", 300, 0.22), ("control", 240, 0.41), ("student", 240, 0.33)):
        for step in range(1, steps + 1):
            loss = end + 3.2 * math.exp(-step / (steps / 6)) + rng.gauss(0, 0.03)
            lines.append({"event": "step", "role": role, "step": step, "steps": steps, "loss": loss, "learning_rate": 1e-3})
            if step % (steps // 4) == 0:
                score = SHARES[role] - 0.5 * math.exp(-step / (steps / 5))
                lines.append({"event": "validation", "role": role, "step": step, "loss": loss + 0.05, "score": score, "n": 100})
        end_of_role = {"steps": steps, "best_step": steps, "learning_rate": 1e-3, "seconds": steps / 5, "stopped_early": False}
        lines.append({"event": "trained", "role": role, **end_of_role})
    run.path.mkdir(parents=True, exist_ok=True)
    (run.path / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


DATA_CARD: dict[str, Any] = {
    "files": [
        {
            "file": "tickets-2025.jsonl",
            "split": "train",
            "read": 3010,
            "kept": 2925,
            "duplicates": 24,
            "rejected": {"empty answer": 61},
        },
        {"file": "prompts.csv", "split": "unlabelled", "read": 2310, "kept": 2298, "duplicates": 7, "rejected": {"not UTF-8": 5}},
    ],
    "read": 5320,
    "rejected": 66,
    "rejected_by_reason": {"empty answer": 61, "not UTF-8": 5},
    "valid_share": 0.9876,
    "duplicates": {"train": 31, "validation": 0, "test": 0},
    "leakage": {"train_in_test": 5, "train_in_validation": 2, "validation_in_test": 0},
    "left_out": {"train": 0, "validation": 0, "test": 0},
    "gold_withheld": 0,
    "splits": {
        "train": {"rows": 4416, "gold": 2118, "unlabelled": 2298, "taken_from_train": False},
        "validation": {"rows": 400, "gold": 400, "unlabelled": 0, "taken_from_train": True},
        "test": {"rows": 400, "gold": 400, "unlabelled": 0, "taken_from_train": True},
    },
}
ANSWERS_CARD: dict[str, Any] = {
    "input": 4416,
    "accepted": 4239,
    "rejected": 177,
    "pending": 0,
    "success_ratio": 0.9599,
    "accepted_from": {"gold": 2118, "teacher": 2121},
    "reasons": {"finish_reason: length": 95, "unreadable for the task": 82},
    "cost_usd": 0.0,
    "prompt_tokens": 212_118,
    "completion_tokens": 61_903,
    "teacher_accuracy_on_gold": {"value": None, "low": None, "high": None, "n": 0, "why": "no row has a value"},
}

if __name__ == "__main__":
    place = Path(sys.argv[1])
    place.mkdir(parents=True, exist_ok=True)
    made = made_run(place)
    report.run(made_job(place), made)
    print(made.path / "report.html")
