"""prepare: the user's files -> data/{train,validation,test}.jsonl, data/rejected.jsonl and data/card.json."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any

from ..answers.sieve import Sieve
from ..contracts import Answered, Room, Teacher
from ..data.intake import ADAPT, FileCount, Source, take_in
from ..data.readers import check_file
from ..data.rows import ColumnNames
from ..data.splits import SplitCounts, SplitWishes, make_splits
from ..errors import DataError, JobError, JobFailedError
from ..job import Job
from ..runfolder import Json, RunFolder, file_digest, read_rows, write_json, write_rows
from ..types import SPLITS, Example, Reply, Request

ROWS_AT_ONCE = 256


def inputs(job: Job) -> Any:
    """The data settings and the content of every file. Raises DataError when a file cannot be used."""
    sources = sources_of(job)
    for source in sources:
        check_file(source.path)
    settings = job.data.model_dump(mode="json", exclude={"folder", "invent"})
    return [settings, [[source.name, file_digest(source.path)] for source in sources]]


def run(job: Job, folder: RunFolder) -> None:
    """Raises DataError when a file cannot be used or a split stays empty, JobFailedError when too few rows are usable.

    The job's `data.checks` look at the train prompts here, before anything is paid for; test rows are never removed.
    """
    spool = folder.data / ".taken"
    rejected = folder.data / "rejected.jsonl"
    columns = ColumnNames(**job.data.columns.model_dump()) if job.data.columns else None
    taken = take_in(sources_of(job), columns, spool, rejected)
    files = [file for file in taken if file.split != ADAPT]
    _refuse_too_few(files, job.data.min_valid_share, rejected)
    counts = make_splits(spool, folder.data, _wishes(job))
    shutil.rmtree(spool)
    checks = _check_prompts(job, folder, counts)
    card = {**_card(files, counts, job), "adapt": _adapt_card([file for file in taken if file.split == ADAPT], counts)}
    card |= {"checks": checks} if checks else {}
    write_json(folder.data / "card.json", card)
    _refuse_empty(counts, card, job, files)
    folder.event("prepared", rejected=card["rejected"], splits=card["splits"])


def _check_prompts(job: Job, folder: RunFolder, counts: SplitCounts) -> Json:
    """Takes out of train what the job's checks refuse (data/refused.jsonl says why), and returns their reports."""
    refused = folder.data / "refused.jsonl"
    refused.unlink(missing_ok=True)
    if not job.data.checks:
        return {}
    sieve = Sieve(job.data.checks, Room(job.task, folder.data, job.teachers, _ask_nobody))
    rows = read_rows(folder.data / "train.jsonl")
    before = counts.rows["train"]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as bin_file:
        write_rows(folder.data / "train.jsonl", _sifted(rows, sieve, counts, bin_file))
        bin_file.seek(0)
        write_rows(refused, (json.loads(line) for line in bin_file))
    counts.refused = before - counts.rows["train"]
    return sieve.report()


def _sifted(rows: Iterator[Json], sieve: Sieve, counts: SplitCounts, refused: IO[str]) -> Iterator[Json]:
    counts.rows["train"] = counts.gold["train"] = 0
    while part := list(islice(rows, ROWS_AT_ONCE)):
        examples = [Example.from_dict(row) for row in part]
        sifted = sieve.sift([Answered(example, None, "prompt") for example in examples])
        for row, before, one in zip(part, examples, sifted, strict=True):
            example = one.answered.example
            if one.reason is None:
                counts.rows["train"] += 1
                counts.gold["train"] += example.gold is not None
                yield row if example is before else example.as_dict()
            else:
                told = {"id": example.id, "source": example.source, "reason": one.reason}
                refused.write(json.dumps(told, ensure_ascii=False) + "\n")


def _ask_nobody(teacher: Teacher, requests: Sequence[Request]) -> list[Reply]:
    raise JobError(
        f"data.checks run before anything is asked, so none of them may ask a model ({teacher.label}); use validation.checks"
    )


def sources_of(job: Job) -> list[Source]:
    """Every data file of the job, the adapted teacher's too, in the order in which they are read within a split."""
    data = job.data
    adapt = job.teacher.adapt.data if job.teacher.adapt else ()
    named = [("train", data.train, True), ("train", data.unlabelled, False), ("validation", data.validation, True)]
    return [
        Source(name, job.data_path(name), split, has_gold)
        for split, names, has_gold in (*named, ("test", data.test, True), (ADAPT, adapt, True))
        for name in names
    ]


def _wishes(job: Job) -> SplitWishes:
    data = job.data
    own = frozenset(split for split, names in (("validation", data.validation), ("test", data.test)) if names)
    limits = {"train": data.max_train_rows, "validation": data.max_validation_rows, "test": data.max_test_rows}
    return SplitWishes(own, data.validation_share, data.test_share, data.max_gold_rows, limits)


def _card(files: Sequence[FileCount], counts: SplitCounts, job: Job) -> Json:
    """The counts of data/card.json. read = rejected + duplicates + leakage + left_out + refused + rows, over all splits."""
    duplicates = Counter(dict.fromkeys(SPLITS, 0))
    reasons: Counter[str] = Counter()
    for file in files:
        duplicates["train" if file.split == "unlabelled" else file.split] += file.duplicates
        reasons.update(file.rejected)
    duplicates["train"] += counts.bare_duplicates
    read = sum(file.read for file in files)
    leakage = {name: counts.leakage[name] for name in ("train_in_test", "train_in_validation", "validation_in_test")}
    return {
        "files": [file.as_dict() for file in files],
        "read": read,
        "rejected": reasons.total(),
        "rejected_by_reason": dict(reasons.most_common()),
        "valid_share": (read - reasons.total()) / read,
        "duplicates": dict(duplicates),
        "leakage": leakage,
        "left_out": {split: counts.left_out[split] for split in SPLITS},
        "refused": counts.refused,
        "gold_withheld": counts.gold_withheld,
        "splits": {
            split: {
                "rows": counts.rows[split],
                "gold": counts.gold[split],
                "unlabelled": counts.rows[split] - counts.gold[split],
                "taken_from_train": split != "train" and not getattr(job.data, split),
            }
            for split in SPLITS
        },
    }


def _adapt_card(files: Sequence[FileCount], counts: SplitCounts) -> Json:
    """The rows that adapt the teacher. kept = rows + leakage + without_gold."""
    names = ("rows", "leakage", "without_gold")
    return {"files": [file.as_dict() for file in files], **{name: counts.adapt[name] for name in names}}


def _refuse_too_few(files: Sequence[FileCount], min_share: float, rejected: Path) -> None:
    read = sum(file.read for file in files)
    reasons: Counter[str] = Counter()
    for file in files:
        reasons.update(file.rejected)
    usable = read - reasons.total()
    if usable / read < min_share:
        reason, count = reasons.most_common(1)[0]
        worst = max(files, key=lambda file: file.rejected.total())
        raise JobFailedError(
            f"only {usable:,} of {read:,} rows are usable, and data.min_valid_share asks for {min_share:.0%}; most often: "
            f"{reason} ({count:,} rows), most of all in {worst.file}; every rejected row stands with its reason in {rejected}"
        )


def _refuse_empty(counts: SplitCounts, card: Json, job: Job, files: Sequence[FileCount]) -> None:
    for split in ("train", "test", "validation"):
        if counts.rows[split] > 0 or (split == "train" and job.data.invent.num_prompts):
            continue
        leaked = counts.leakage.total()
        why = f" (removed because they stand in another split too: {leaked:,})" if leaked else ""
        refused = sum((file.rejected for file in files if file.split == split), Counter[str]())
        if refused:
            reason, count = refused.most_common(1)[0]
            raise DataError(
                f"no {split} rows are usable; {refused.total():,} were rejected, most often: {reason} ({count:,} rows); mend "
                f"{', '.join(getattr(job.data, split))}, `potstill check` says where"
            )
        own = split == "train" or bool(getattr(job.data, split))
        cure = (
            f"give data.{split} rows that stand in no other split"
            if own
            else f"name a file in data.{split}, or give more train rows"
        )
        raise DataError(f"no {split} rows are left of the {card['read']:,} rows read{why}; {cure}")
