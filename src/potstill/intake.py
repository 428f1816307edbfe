"""Takes the user's files in: every row becomes an example with an id of its own, a duplicate, or a rejection with its reason.

Memory grows by about 200 bytes a row, the hashes of what was seen, however long the rows are.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TextIO

from .errors import DataError
from .readers import check_file, read_file
from .rows import ColumnNames, bare_meta, content_id, digest, normalised, prompt_key, question_key, read_row
from .runfolder import Json, write_rows
from .types import SPLITS, Example

SHOWN = 200
ADAPT = "adapt"
"""The rows that the teacher is trained on first: beside the splits, as the same files may be named for both."""


@dataclass(frozen=True, slots=True)
class Source:
    """One of the job's files: its name there, where it lies, the split it belongs to, and whether its gold counts."""

    name: str
    path: Path
    split: str
    has_gold: bool = True


@dataclass(slots=True)
class FileCount:
    """What became of one file's rows: read = kept + duplicates + rejected."""

    file: str
    split: str
    read: int = 0
    kept: int = 0
    duplicates: int = 0
    rejected: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> Json:
        counts = {"read": self.read, "kept": self.kept, "duplicates": self.duplicates, "rejected": dict(self.rejected)}
        return {"file": self.file, "split": self.split, **counts}


def take_in(sources: Sequence[Source], columns: ColumnNames | None, target: Path, rejected: Path) -> list[FileCount]:
    """Writes `target`/<split>.jsonl, and adapt.jsonl where the teacher has files of its own; and the rejected rows.

    A row is an Example with its `prompt_key` and `question_key`. Sources of one split are read in the order given, test
    before validation before train, so that in a quarrel over an id the test row keeps it. Raises DataError when a file as
    a whole cannot be used, for most causes before anything is written.
    """
    for source in sources:
        check_file(source.path)
    counts = [FileCount(source.name, source.split if source.has_gold else "unlabelled") for source in sources]
    ids: set[bytes] = set()
    rejected.parent.mkdir(parents=True, exist_ok=True)
    part = rejected.with_name(f".{rejected.name}.part")
    with part.open("w", encoding="utf-8") as bin_file:
        for split in (*reversed(SPLITS), ADAPT):
            mine = [(source, count) for source, count in zip(sources, counts, strict=True) if source.split == split]
            known = {source.path for source in sources if source.split != ADAPT} if split == ADAPT else set()
            if split == ADAPT and not mine:
                (target / "adapt.jsonl").unlink(missing_ok=True)
                continue
            write_rows(target / f"{split}.jsonl", _split_rows(mine, columns, set() if split == ADAPT else ids, bin_file, known))
    part.replace(rejected)
    return counts


def _split_rows(
    files: Sequence[tuple[Source, FileCount]], columns: ColumnNames | None, ids: set[bytes], rejected: TextIO, told: set[Path]
) -> Iterator[Json]:
    """The rows of one split. The rejected rows of the files in `told` stand in `rejected` already."""
    seen: set[bytes] = set()
    for source, count in files:
        for example in _examples(source, columns, count, None if source.path in told else rejected):
            prompt = prompt_key(example.messages)
            content = digest(prompt, "gold" if example.gold is not None else "none", normalised(example.gold or ""))
            if content in seen:
                count.duplicates += 1
                continue
            seen.add(content)
            count.kept += 1
            keys = {"prompt_key": digest(prompt).hex(), "question_key": digest(question_key(example.messages)).hex()}
            yield {**_with_own_id(example, ids).as_dict(), **keys}


def _examples(source: Source, columns: ColumnNames | None, count: FileCount, rejected: TextIO | None) -> Iterator[Example]:
    wanted = columns if source.has_gold or columns is None else replace(columns, gold=None)
    for raw in read_file(source.path):
        count.read += 1
        place = f"{source.name}:{raw.line}"
        problem = raw.problem
        if raw.row is not None:
            try:
                example = read_row(raw.row, place, wanted)
            except DataError as error:
                problem = str(error)
            else:
                yield example if source.has_gold else without_gold(example)
                continue
        assert problem is not None
        count.rejected[problem.partition(":")[0]] += 1
        if rejected is not None:
            line = {"source": place, "reason": problem, "text": raw.text[:SHOWN]}
            rejected.write(json.dumps(line, ensure_ascii=False) + "\n")


def without_gold(example: Example) -> Example:
    """The prompt alone."""
    return replace(example, gold=None, meta=bare_meta(example.meta))


def _with_own_id(example: Example, ids: set[bytes]) -> Example:
    """The example with an id that no row before it has: its own, or its own with the beginning of its content's hash."""
    name, number = example.id, 0
    while digest(name) in ids:
        number += 1
        mark = content_id(example.messages, example.gold)[:8]
        name = f"{example.id}~{mark}" if number == 1 else f"{example.id}~{mark}.{number}"
    ids.add(digest(name))
    return example if name == example.id else replace(example, id=name)
