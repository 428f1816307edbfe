"""validate: which answers may teach, which may not and why, and the data card."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any, NamedTuple

from ..errors import JobFailedError, ModelError
from ..job import Job
from ..runfolder import Json, RunFolder, read_rows, write_json, write_rows
from ..statistics import mean_score
from ..types import Example, Lesson, Reply

REASONS_NAMED = 3


class _Pair(NamedTuple):
    """A row and its answer."""

    example: Example
    reply: Reply
    source: Any


@dataclass
class _Card:
    """Every input row is accepted, rejected or pending; a missing answer is rejected, so it counts against the ratio."""

    accepted: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    pending: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = 0.0
    right: list[float | None] = field(default_factory=list)

    def count(self, pair: _Pair, reason: str | None) -> None:
        reply = pair.reply
        if reason is None:
            self.accepted[pair.source] += 1
        elif reply.attempts == 0 and reply.error is not None:
            self.pending += 1
        else:
            self.reasons[reason] += 1
        if pair.source == "teacher":
            self.prompt_tokens += reply.prompt_tokens or 0
            self.completion_tokens += reply.completion_tokens or 0
            known = self.cost_usd is not None and reply.cost_usd is not None
            self.cost_usd = (self.cost_usd or 0.0) + (reply.cost_usd or 0.0) if known else None

    def as_dict(self) -> Json:
        accepted, rejected = self.accepted.total(), self.reasons.total()
        total = accepted + rejected + self.pending
        return {
            "input": total,
            "accepted": accepted,
            "rejected": rejected,
            "pending": self.pending,
            "success_ratio": accepted / total if total else 0.0,
            "accepted_from": dict(self.accepted),
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
    card, validation = _Card(), _Card()
    rejected_path = folder.answers / "rejected.jsonl"
    with tempfile.TemporaryFile("w+", encoding="utf-8") as refused:
        write_rows(folder.answers / "kept.jsonl", _kept(job, folder, "train", "answers.jsonl", card, refused))
        refused.seek(0)
        write_rows(rejected_path, (json.loads(line) for line in refused))
        refused.seek(0)
        write_rows(
            folder.answers / "validation.jsonl",
            _kept(job, folder, "validation", "validation_answers.jsonl", validation, refused),
        )
    counts = card.as_dict()
    write_json(folder.answers / "card.json", {**counts, "validation": validation.as_dict()})
    folder.event("answers", **{name: counts[name] for name in ("input", "accepted", "rejected", "pending", "cost_usd")})
    if counts["success_ratio"] < job.generate.min_kept_share:
        _reopen_generate(folder)
        raise JobFailedError(_too_few(job, counts, str(rejected_path)))


def _kept(job: Job, folder: RunFolder, split: str, name: str, card: _Card, refused: IO[str]) -> Iterator[Json]:
    """The lessons of a split; what is refused goes, with its reason, into the open file `refused`."""
    for pair in _pairs(folder, split, name):
        reason = _refuse(job, pair)
        card.count(pair, reason)
        if pair.source == "teacher" and pair.example.gold is not None and pair.reply.error is None:
            card.right.append(job.task.right(pair.reply.text, pair.example))
        if reason is None:
            yield Lesson(pair.example, pair.reply.text, pair.source).as_dict()
            continue
        reply = pair.reply
        row = {
            "id": pair.example.id,
            "reason": reason,
            "attempts": reply.attempts,
            "cost_usd": reply.cost_usd,
            "text": reply.text,
        }
        refused.write(json.dumps(row) + "\n")


def _pairs(folder: RunFolder, split: str, name: str) -> Iterator[_Pair]:
    """Rows beside their answers: both files have the same order; a validation row with gold has no answer."""
    answers = read_rows(folder.answers / name)
    for row in read_rows(folder.data / f"{split}.jsonl"):
        example = Example.from_dict(row)
        if split == "validation" and example.gold is not None:
            continue
        answer = next(answers, None)
        if answer is None or answer["id"] != example.id:
            raise ModelError(f"{folder.answers / name} does not belong to {folder.data}; delete both folders and run again")
        source = answer.pop("target_source")
        del answer["id"], answer["sample"]
        yield _Pair(example, Reply(**answer), source)


def _refuse(job: Job, pair: _Pair) -> str | None:
    """Why an answer may not teach; a missing answer is refused whatever the job's checks are."""
    if pair.reply.error is not None:
        return f"no answer: {pair.reply.error}"
    findings = (check.refuse(pair.example, pair.reply, job.task) for check in job.validation.checks)
    return next((finding.reason for finding in findings if finding is not None), None)


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
