"""validate: which answers may teach, which may not and why, and the data card.

data/, answers/{answers,validation_answers}.jsonl -> answers/{kept,rejected,validation}.jsonl, answers/card.json
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

from ..answers.inquiry import turns_taught
from ..answers.sieve import Sieve, Sifted
from ..contracts import Answered, Task
from ..desk import answering_of, desk_of, note_spending
from ..errors import JobFailedError, ModelError
from ..job import Job
from ..journal import Journal
from ..runfolder import Json, RunFolder, fingerprint, read_json, read_rows, write_json, write_rows
from ..statistics import mean_score
from ..types import Example, Lesson, Reply

REASONS_NAMED = 3
ROWS_AT_ONCE = 256


class _Line(NamedTuple):
    """One answer to a row, and why no check needs to look at it (it never came, or was not chosen)."""

    reply: Reply
    source: Literal["gold", "teacher"]
    said: tuple[str, ...]
    agreement: float | None
    teacher: str | None
    weight: float
    refused: str | None


class _Row(NamedTuple):
    """A row and its answers; most have one."""

    example: Example
    lines: tuple[_Line, ...]


@dataclass
class _Card:
    """Every input row is accepted, rejected or pending; a missing answer is rejected, so it counts against the ratio."""

    task: Task
    accepted: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    pending: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = 0.0
    right: list[float | None] = field(default_factory=list)

    def count(self, row: _Row, reasons: list[str | None]) -> None:
        """Takes a row whose answers have each passed (None) or were refused for a reason."""
        good = next((line for line, reason in zip(row.lines, reasons, strict=True) if reason is None), None)
        if good is not None:
            self.accepted[good.source] += 1
        elif all(line.reply.attempts == 0 and line.reply.error is not None for line in row.lines):
            self.pending += 1
        else:
            self.reasons[next(reason for reason in reasons if reason is not None)] += 1
        for line, reason in zip(row.lines, reasons, strict=True):
            if line.source == "teacher":
                self._count_answer(row.example, line, reason)

    def _count_answer(self, example: Example, line: _Line, reason: str | None) -> None:
        reply = line.reply
        self.answers["kept" if reason is None else "refused"] += 1
        self.prompt_tokens += reply.prompt_tokens or 0
        self.completion_tokens += reply.completion_tokens or 0
        self.cost_usd = None if self.cost_usd is None or reply.cost_usd is None else self.cost_usd + reply.cost_usd
        if example.gold is not None and reply.error is None:
            self.right.append(self.task.right(reply.text, example))

    def as_dict(self) -> Json:
        accepted, rejected = self.accepted.total(), self.reasons.total()
        total = accepted + rejected + self.pending
        several = self.answers.total() + self.accepted["gold"] > total
        return {
            "input": total,
            "accepted": accepted,
            "rejected": rejected,
            "pending": self.pending,
            "success_ratio": accepted / total if total else 0.0,
            "accepted_from": dict(self.accepted),
            **({"answers": dict(self.answers)} if several else {}),
            "reasons": dict(self.reasons.most_common()),
            "cost_usd": self.cost_usd,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "teacher_accuracy_on_gold": mean_score(self.right).as_dict(),
        }


def inputs(job: Job) -> Any:
    checks = [check.model_dump(mode="json") for check in job.validation.checks]
    return {"checks": checks, "task": job.task.model_dump(mode="json"), "min_kept_share": job.generate.min_kept_share}


def run(job: Job, folder: RunFolder) -> None:
    """Raises JobFailedError when fewer rows than `generate.min_kept_share` have an answer that may teach."""
    rejected_path = folder.answers / "rejected.jsonl"
    with Journal(job.journal_path) as journal, tempfile.TemporaryFile("w+", encoding="utf-8") as refused:
        desk = desk_of(job, folder, journal)
        room = answering_of(job, folder).room(desk, folder.data)
        sieves = {split: Sieve(job.validation.checks, room) for split in ("train", "validation")}
        cards = {split: _Card(job.task) for split in sieves}
        for split, target in (("train", "kept.jsonl"), ("validation", "validation.jsonl")):
            write_rows(folder.answers / target, _kept(job, folder, split, (cards[split], sieves[split]), refused))
        refused.seek(0)
        write_rows(rejected_path, (json.loads(line) for line in refused))
        note_spending(folder, desk)
    counts = cards["train"].as_dict()
    before, shares = (_json_or(folder.answers / f"{name}.json") for name in ("probe", "contributions"))
    without = {label: count for label, score in before.items() if (count := score.pop("failed", 0))}
    if cards["train"].right == [] and len(before) == 1:
        counts["teacher_accuracy_on_gold"] = next(iter(before.values()))
    checks = {split: sieve.report() for split, sieve in sieves.items()}
    card = {**counts, "checks": checks["train"], "teacher_accuracy_before_teaching": before, "teachers": shares}
    if without:
        card["probe_rows_without_answer"] = without
    write_json(
        folder.answers / "card.json", {**card, "validation": {**cards["validation"].as_dict(), "checks": checks["validation"]}}
    )
    folder.event("answers", **{name: counts[name] for name in ("input", "accepted", "rejected", "pending", "cost_usd")})
    for name, said in checks["train"].items():
        if said.get("alarm"):
            folder.event("note", message=f"{name}: {said['alarm']}")
    if counts["success_ratio"] < job.generate.min_kept_share:
        _reopen_generate(folder)
        raise JobFailedError(_too_few(job, counts, str(rejected_path)))


def _json_or(path: Path) -> Json:
    found: Json = read_json(path) if path.is_file() else {}
    return found


def _kept(job: Job, folder: RunFolder, split: str, looks: tuple[_Card, Sieve], refused: IO[str]) -> Iterator[Json]:
    """The lessons of a split; what is refused goes, with its reason, into the open file `refused`."""
    card, sieve = looks
    rows = _rows(folder, split)
    while part := list(islice(rows, ROWS_AT_ONCE)):
        looked_at = [
            Answered(row.example, line.reply, line.source, line.agreement)
            for row in part
            for line in row.lines
            if line.refused is None
        ]
        sifted = iter(sieve.sift(looked_at))
        for row in part:
            found = [next(sifted) if line.refused is None else None for line in row.lines]
            reasons = [_reason(line, one, job.task) for line, one in zip(row.lines, found, strict=True)]
            card.count(row, reasons)
            for line, one, reason in zip(row.lines, found, reasons, strict=True):
                if reason is not None:
                    refused.write(json.dumps({**_refused(row.example, line, reason), "split": split}) + "\n")
                elif one is not None:
                    yield from (lesson.as_dict() for lesson in _lessons(job.task, line, one))


def _reason(line: _Line, one: Sifted | None, task: Task) -> str | None:
    """Why an answer may not teach; a teacher's text that passed every check may still hold nothing that the task can teach."""
    if one is None or one.reason is not None or line.source == "gold":
        return line.refused if one is None else one.reason
    assert one.answered.reply is not None
    return task.unusable(one.answered.reply.text)


def _lessons(task: Task, line: _Line, one: Sifted) -> Iterator[Lesson]:
    """What an accepted answer teaches: gold as it stands, a teacher's text as the task takes it, turn by turn in a chat."""
    reply, example = one.answered.reply, one.answered.example
    assert reply is not None
    told = fingerprint(reply.logprobs) if reply.logprobs else ""
    if line.source == "gold":
        yield Lesson(example, reply.text, "gold", weight=line.weight)
        return
    for turn, text in turns_taught(example, line.said, reply.text):
        is_last = len(turn.messages) == len(example.messages)
        shares = reply.label_probabilities if turn.messages[-1] == example.messages[-1] else None
        for taught in task.taught(turn, text):
            said = told if is_last and taught.text == reply.text else ""
            yield Lesson(turn, taught.text, "teacher", taught.aim, taught.weight * line.weight, shares, said)


def _refused(example: Example, line: _Line, reason: str) -> Json:
    reply = line.reply
    row = {"id": example.id, "reason": reason, "attempts": reply.attempts, "cost_usd": reply.cost_usd, "text": reply.text}
    return row if line.teacher is None else {**row, "teacher": line.teacher}


def _rows(folder: RunFolder, split: str) -> Iterator[_Row]:
    """Rows beside their answers: both files have the same order; a validation row with gold has no answer."""
    names = {"train": ("train.jsonl", "invented.jsonl"), "validation": ("validation.jsonl",)}[split]
    path = folder.answers / {"train": "answers.jsonl", "validation": "validation_answers.jsonl"}[split]
    answers = read_rows(path)
    answer = next(answers, None)
    for row in (row for name in names for row in read_rows(folder.data / name)):
        example = Example.from_dict(row)
        if split == "validation" and example.gold is not None:
            continue
        lines: list[_Line] = []
        while answer is not None and answer["id"] == example.id:
            lines.append(_line(answer))
            answer = next(answers, None)
        if not lines:
            raise ModelError(f"{path} does not belong to {folder.data}; delete both folders and run again")
        yield _Row(example, tuple(lines))


def _line(row: Json) -> _Line:
    names = ("id", "sample", "target_source", "said", "agreement", "teacher", "weight", "refused")
    known = {name: row.pop(name, None) for name in names}
    reply = Reply(**row)
    refused = f"no answer: {reply.error}" if reply.error is not None else known["refused"]
    return _Line(
        reply,
        known["target_source"],
        tuple(known["said"] or ()),
        known["agreement"],
        known["teacher"],
        1.0 if known["weight"] is None else known["weight"],
        known["refused"] or refused,
    )


def _reopen_generate(folder: RunFolder) -> None:
    """Lets the next run ask again for answers that never came; the journal has all others, so they cost nothing."""
    stages = {name: record for name, record in folder.state().get("stages", {}).items() if name != "generate"}
    folder.update_state(stages=stages)


def _too_few(job: Job, counts: Json, path: str) -> str:
    most = "; ".join(f"{number:,} x {reason}" for reason, number in list(counts["reasons"].items())[:REASONS_NAMED])
    return (
        f"{counts['accepted']:,} of {counts['input']:,} answers ({counts['success_ratio']:.1%}) may teach, and "
        f"generate.min_kept_share wants {job.generate.min_kept_share:.1%}; refused: {most or 'none'}; {path} names each row; "
        "mend the cause and run again (answers that were accepted are not paid for twice), or lower generate.min_kept_share"
    )
