"""Rows taken in and divided: no leakage, no lost row, the same choice every time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from potstill.data.intake import Source, take_in
from potstill.data.rows import question_key
from potstill.data.splits import SplitCounts, SplitWishes, make_splits
from potstill.runfolder import read_rows
from potstill.types import Example

WISHES = SplitWishes(frozenset({"validation", "test"}), 0.1, 0.1, None, {})
Rows = Sequence[dict[str, Any]]


class Divided:
    """What became of some rows: the splits on disk, and the counts."""

    def __init__(self, folder: Path, wishes: SplitWishes = WISHES, **files: Rows) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        sources = []
        for name, rows in files.items():
            path = folder / f"{name}.in.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            split = "train" if name == "unlabelled" else name
            sources.append(Source(path.name, path, split, name != "unlabelled"))
        self.files = take_in(sources, None, folder / "taken", folder / "rejected.jsonl")
        self.counts: SplitCounts = make_splits(folder / "taken", folder / "out", wishes)
        self.rows = {
            split: [Example.from_dict(row) for row in read_rows(folder / "out" / f"{split}.jsonl")]
            for split in ("train", "validation", "test")
        }

    def prompts(self, split: str) -> list[str]:
        return [row.messages[-1].content for row in self.rows[split]]


def rows(*prompts: str, gold: str | None = "g", **more: Any) -> list[dict[str, Any]]:
    return [{"prompt": prompt, "completion": gold, **more} for prompt in prompts]


def test_a_test_question_is_removed_from_train_and_never_from_test(tmp_path: Path) -> None:
    done = Divided(
        tmp_path,
        train=[*rows("a", "b", "c"), *rows("D  ", system="s", gold="other")],
        validation=rows("B ", "e", "f"),
        test=rows(" A", "d", "E"),
    )
    assert done.prompts("test") == [" A", "d", "E"]
    assert done.prompts("validation") == ["B ", "f"]
    assert done.prompts("train") == ["c"]
    assert done.counts.leakage == {"train_in_test": 2, "train_in_validation": 1, "validation_in_test": 1}


def test_exact_duplicates_are_removed_and_other_answers_and_system_prompts_stay(tmp_path: Path) -> None:
    train = [*rows("a", " A"), *rows("a", gold="other"), *rows("a", system="s"), *rows("a", system="t"), *rows("a", gold="G ")]
    done = Divided(tmp_path, train=train, validation=rows("v"), test=rows("t", "t"))
    assert [(row.messages[0].content, row.gold) for row in done.rows["train"]] == [
        ("a", "g"),
        ("a", "other"),
        ("s", "g"),
        ("t", "g"),
    ]
    assert [file.duplicates for file in done.files] == [2, 0, 1]


def test_one_id_for_two_rows_becomes_two_and_the_test_row_keeps_it(tmp_path: Path) -> None:
    done = Divided(tmp_path, train=rows("a", "b", id="7"), validation=rows("v", id="7"), test=rows("t", id="7"))
    assert done.rows["test"][0].id == "7"
    ids = [row.id for split in done.rows.values() for row in split]
    assert len(set(ids)) == 4
    assert all(name.startswith("7") for name in ids)


def test_gold_over_the_limit_is_withheld_with_all_that_may_hold_it(tmp_path: Path) -> None:
    train = [
        {**row, "meta": {"id": str(n), "source": "s", "answers": ["secret"]}, "label": "secret"}
        for n, row in enumerate(rows(*map(str, range(50)), gold="secret"))
    ]
    wishes = replace(WISHES, max_gold_rows=10)
    done = Divided(tmp_path, wishes, train=train, validation=rows("v"), test=rows("t"))
    bare = [row for row in done.rows["train"] if row.gold is None]
    assert (len(bare), done.counts.gold_withheld, done.counts.gold["train"]) == (40, 40, 10)
    assert all(row.meta == {"id": row.id, "source": "s"} for row in bare)
    assert all("secret" not in json.dumps(row.as_dict()) for row in bare)
    kept = {row.id for row in done.rows["train"] if row.gold is not None}
    shuffled = Divided(tmp_path / "again", wishes, train=train[::-1], validation=rows("v"), test=rows("t"))
    assert {row.id for row in shuffled.rows["train"] if row.gold is not None} == kept


def test_unlabelled_files_give_prompts_alone_and_none_twice(tmp_path: Path) -> None:
    done = Divided(
        tmp_path,
        train=rows("a"),
        unlabelled=[*rows("a", "b", "b ", gold="secret", note="secret"), *rows("t")],
        validation=rows("v"),
        test=rows("t"),
    )
    assert done.prompts("train") == ["a", "b"]
    assert done.rows["train"][1].gold is None
    assert "secret" not in json.dumps(done.rows["train"][1].as_dict())
    assert (done.counts.bare_duplicates, done.counts.leakage["train_in_test"]) == (1, 1)


def test_splits_without_files_are_taken_from_train_by_question(tmp_path: Path) -> None:
    wishes = replace(WISHES, own_files=frozenset())
    train = [row for n in range(400) for row in (*rows(f"q{n}"), *rows(f"Q{n}", system="s"))]
    done = Divided(tmp_path, wishes, train=train)
    questions = {split: {question_key(row.messages) for row in done.rows[split]} for split in done.rows}
    assert sum(len(found) for found in questions.values()) == 400
    assert all(20 <= len(questions[split]) <= 60 for split in ("validation", "test"))
    assert done.counts.leakage.total() == 0
    more = Divided(tmp_path / "more", wishes, train=[*rows("new"), *train])
    assert {row.id for row in more.rows["test"]} >= {row.id for row in done.rows["test"]}


def test_rows_without_gold_are_not_taken_for_scoring_where_others_have_gold(tmp_path: Path) -> None:
    wishes = replace(WISHES, own_files=frozenset(), test_share=0.4, validation_share=0.4)
    done = Divided(tmp_path, wishes, train=[*rows(*map(str, range(50))), *rows(*map(str, range(50, 100)), gold=None)])
    assert done.counts.gold["test"] == done.counts.rows["test"] > 0
    bare = Divided(tmp_path / "bare", wishes, train=rows(*map(str, range(50)), gold=None))
    assert bare.counts.rows["test"] > 0


def test_a_handful_of_rows_still_gives_every_split_one(tmp_path: Path) -> None:
    for number in range(5):
        done = Divided(
            tmp_path / str(number), replace(WISHES, own_files=frozenset()), train=rows(*(f"{number}.{n}" for n in range(6)))
        )
        assert min(done.counts.rows[split] for split in ("train", "validation", "test")) >= 1


def test_limits_leave_rows_out_by_hash_and_their_questions_stay_guarded(tmp_path: Path) -> None:
    wishes = replace(WISHES, max_rows={"train": 5, "validation": 3, "test": 2})
    names = [str(n) for n in range(20)]
    done = Divided(
        tmp_path, wishes, train=rows(*names, *(f"x{n}" for n in range(9))), validation=rows(*names[10:]), test=rows(*names[:10])
    )
    assert [len(done.rows[split]) for split in ("train", "validation", "test")] == [5, 3, 2]
    assert all(prompt.startswith("x") for prompt in done.prompts("train"))
    assert done.counts.left_out == {"train": 4, "validation": 7, "test": 8}


ROW = st.fixed_dictionaries(
    {"prompt": st.sampled_from(["a", "A", "b", "c", "d", "", "e"]), "completion": st.sampled_from(["x", "y", None, ""])},
    optional={"system": st.sampled_from(["s", "t"]), "id": st.sampled_from(["1", "2"])},
)
FILE = st.lists(ROW, min_size=1, max_size=8)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(train=FILE, unlabelled=FILE, validation=FILE, test=FILE, limit=st.none() | st.integers(0, 3), own=st.booleans())
def test_every_row_is_accounted_for_and_no_question_crosses(
    tmp_path: Path, train: Rows, unlabelled: Rows, validation: Rows, test: Rows, limit: int | None, own: bool
) -> None:
    held_out = {"validation": validation, "test": test} if own else {}
    wishes = SplitWishes(frozenset(held_out), 0.2, 0.2, limit, {"train": 4, "validation": None, "test": 3})
    done = Divided(tmp_path, wishes, train=train, unlabelled=unlabelled, **held_out)
    counts = done.counts
    read = sum(file.read for file in done.files)
    ended = sum(file.duplicates + file.rejected.total() for file in done.files) + counts.bare_duplicates
    assert read == ended + counts.leakage.total() + counts.left_out.total() + counts.rows.total()
    assert read == len(train) + len(unlabelled) + sum(map(len, held_out.values()))
    assert {split: len(found) for split, found in done.rows.items() if found} == {s: n for s, n in counts.rows.items() if n}
    questions = [{question_key(row.messages) for row in found} for found in done.rows.values()]
    assert sum(map(len, questions)) == len(set().union(*questions))
    ids = [row.id for found in done.rows.values() for row in found]
    assert len(ids) == len(set(ids))
    if limit is not None:
        assert counts.gold["train"] <= limit


def test_a_rejected_row_stands_in_the_file_with_its_place_and_reason(tmp_path: Path) -> None:
    done = Divided(tmp_path, train=[*rows("a"), {"prompt": "b", "completion": " "}], validation=rows("v"), test=rows("t"))
    (line,) = read_rows(tmp_path / "rejected.jsonl")
    assert line["source"] == "train.in.jsonl:2"
    assert line["reason"].startswith("empty answer")
    assert line["text"].startswith('{"prompt": "b"')
    assert done.files[0].as_dict()["rejected"] == {"empty answer": 1}
    assert done.rows["train"][0].source == "train.in.jsonl:1"
    with pytest.raises(StopIteration):
        next(iter(done.rows["train"][1:]))
