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

from ..errors import DataError
from ..runfolder import Json, write_lines
from ..types import SPLITS, Example
from .readers import check_file, read_file
from .rows import ColumnNames, Keyed, bare_meta, content_id, digest, read_keyed
from .splits import taken_line

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

    A row is an Example with its keys before it, as `splits.taken_line` writes them. Sources of one split are read in the
    order given, test before validation before train, so that in a quarrel over an id the test row keeps it. Raises
    DataError when a file as a whole cannot be used, for most causes before anything is written.
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
            write_lines(target / f"{split}.jsonl", _split_rows(mine, columns, set() if split == ADAPT else ids, bin_file, known))
    part.replace(rejected)
    return counts


def _split_rows(
    files: Sequence[tuple[Source, FileCount]], columns: ColumnNames | None, ids: set[bytes], rejected: TextIO, told: set[Path]
) -> Iterator[bytes]:
    """The rows of one split. The rejected rows of the files in `told` stand in `rejected` already."""
    seen: set[bytes] = set()
    for source, count in files:
        for row in _examples(source, columns, count, None if source.path in told else rejected):
            content = digest(row.prompt, "none" if row.example.gold is None else "gold", row.gold)
            if content in seen:
                count.duplicates += 1
                continue
            seen.add(content)
            count.kept += 1
            yield taken_line(_with_own_id(row, ids))


def _examples(source: Source, columns: ColumnNames | None, count: FileCount, rejected: TextIO | None) -> Iterator[Keyed]:
    wanted = columns if source.has_gold or columns is None else replace(columns, gold=None)
    for raw in read_file(source.path):
        count.read += 1
        place = f"{source.name}:{raw.line}"
        problem = raw.problem
        if raw.row is not None:
            try:
                found = read_keyed(raw.row, place, wanted)
            except DataError as error:
                problem = str(error)
            else:
                yield found if source.has_gold else found._replace(example=without_gold(found.example), gold="")
                continue
        assert problem is not None
        count.rejected[problem.partition(":")[0]] += 1
        if rejected is not None:
            line = {"source": place, "reason": problem, "text": raw.text[:SHOWN]}
            rejected.write(json.dumps(line, ensure_ascii=False) + "\n")


def without_gold(example: Example) -> Example:
    """The prompt alone."""
    return replace(example, gold=None, meta=bare_meta(example.meta))


def _with_own_id(row: Keyed, ids: set[bytes]) -> Keyed:
    """The row with an id that no row before it has: its own, or its own with the beginning of its content's hash."""
    name, number = row.example.id, 0
    while (mark := digest(name)) in ids:
        number += 1
        content = content_id(row.prompt, row.gold)[:8]
        name = f"{row.example.id}~{content}" if number == 1 else f"{row.example.id}~{content}.{number}"
    ids.add(mark)
    return row if number == 0 else row._replace(example=replace(row.example, id=name))
