from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.contracts import Answered, Finding, Room, Watch
from potstill.plugins import load_plugin
from potstill.types import Example, Message, Reply

TASK = "Read the message of a customer and answer with one word that says what it is about, such as refund, card or loan."


def words(count: int, seed: int) -> str:
    draw = random.Random(seed)
    return " ".join(f"{draw.choice('bcdfg')}{draw.choice('aeiou')}{draw.randrange(100, 999)}k" for _ in range(count))


def example(name: str, user: str, gold: str | None = None, system: str = "You are Ada.", **meta: Any) -> Example:
    return Example(name, (Message("system", system), Message("user", user)), gold, meta)


def write(folder: Path, **splits: Sequence[Example]) -> None:
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row.as_dict()) + "\n" for row in rows))


def watch(folder: Path, **fields: Any) -> Watch:
    room = Room(load_plugin("tasks", "qa"), folder, (), lambda teacher, requests: [])
    looking: Watch = load_plugin("checks", {"kind": "contamination", **fields}).watch(room)
    return looking


def reason(looking: Watch, row: Example, answer: str | None = None) -> str | None:
    [found] = looking.look([Answered(row, None if answer is None else Reply(answer))])
    assert found is None or isinstance(found, Finding)
    return found.reason if found else None


def test_a_passage_of_a_held_out_row_is_found_in_prompt_gold_and_answer(tmp_path: Path) -> None:
    write(tmp_path, test=[example("t", f"{words(40, 1)} What is it?", words(20, 2))], validation=[example("v", words(30, 3))])
    looking = watch(tmp_path)
    passage = " ".join(words(40, 1).split()[7:20])
    assert reason(looking, example("a", f"See: {passage.upper()}!")) == "shares 13 words in a row with a test row"
    assert reason(looking, example("b", "Well?", gold=words(20, 2))) == "shares 13 words in a row with a test row"
    assert reason(looking, example("c", "Well?"), f"So: {words(30, 3)}.") == "shares 13 words in a row with a validation row"
    assert reason(looking, example("d", " ".join(passage.split()[:12]))) is None
    assert reason(looking, example("e", "Well?", system=passage)) is None
    said = looking.report()
    assert (said["held_out_rows"], said["passages"]) == (2, 3)
    assert said["pairs"][0] == {"row": "a", "test": "t", "covered": 0.3}


def test_other_references_of_a_test_row_count_as_its_gold_does(tmp_path: Path) -> None:
    write(tmp_path, test=[example("t", "Sum it up.", "Short.", references=[words(15, 4)])])
    assert reason(watch(tmp_path), example("a", "Say it."), words(15, 4)) == "shares 13 words in a row with a test row"


@pytest.mark.parametrize(
    ("prompt", "is_refused"),
    [
        ("Please, how do I track the card that you sent?", True),
        ("HOW do I track the card that you  sent", True),
        ("How do I cancel the card that you sent?", False),
        ("How do I track the 2 cards that you sent?", False),
        ("How do I not track the card that you sent?", False),
    ],
)
def test_short_prompts_are_compared_as_near_duplicates(tmp_path: Path, prompt: str, is_refused: bool) -> None:
    write(tmp_path, test=[example("t", "How do I track the card that you sent?")], validation=[])
    assert (reason(watch(tmp_path), example("a", prompt, system="Be brief.")) == "is nearly the same as a test row") == is_refused


@pytest.mark.parametrize("num_rows", [3, 20, 400])
def test_an_instruction_that_many_rows_share_is_no_contamination(tmp_path: Path, num_rows: int) -> None:
    def rows(split: str, seed: int) -> list[Example]:
        return [example(f"{split}{at}", f"{words(9, seed + at)}\n\n{TASK}") for at in range(num_rows)]

    train = rows("train", 10_000)
    write(tmp_path, train=train, validation=rows("validation", 20_000), test=rows("test", 30_000))
    looking = watch(tmp_path)
    assert [reason(looking, row) for row in train] == [None] * num_rows
    assert reason(looking, example("x", f"{words(9, 30_000)}\n\n{TASK}")) == "is nearly the same as a test row"


def test_an_instruction_of_train_that_one_test_row_quotes_is_no_contamination(tmp_path: Path) -> None:
    train = [example(f"train{at}", f"{words(9, at)}\n\n{TASK}") for at in range(40)]
    write(tmp_path, train=train, test=[example("t", f"{words(15, 500)} {TASK}")])
    assert [reason(watch(tmp_path), row) for row in train[:10]] == [None] * 10


def test_held_out_rows_are_never_refused(tmp_path: Path) -> None:
    held_out = [example(f"t{at}", words(30, at)) for at in range(5)]
    write(tmp_path, test=held_out[:3], validation=held_out[3:])
    looking = watch(tmp_path)
    assert looking.look([Answered(row, Reply(words(30, at))) for at, row in enumerate(held_out)]) == [None] * 5
    assert reason(looking, example("a", words(30, 1))) == "is nearly the same as a test row"


def test_a_share_asks_for_more_than_one_run(tmp_path: Path) -> None:
    write(tmp_path, test=[example("t", words(100, 1))])
    quoting = example("a", f"{words(5, 2)} {' '.join(words(100, 1).split()[:30])}")
    assert reason(watch(tmp_path), quoting) is not None
    assert reason(watch(tmp_path, share=0.25), quoting) is not None
    assert reason(watch(tmp_path, share=0.5), quoting) is None


def test_letters_of_a_script_without_spaces_count_as_half_a_word(tmp_path: Path) -> None:
    text = "昨夜下了一场很大的雪所以从上海开来的火车晚点了三个小时乘客们都在车站里等着"
    write(tmp_path, test=[example("t", text)])
    looking = watch(tmp_path)
    assert reason(looking, example("a", f"听说{text[4:32]}吧")) == "shares 13 words in a row with a test row"
    assert reason(looking, example("b", f"听说{text[4:24]}吧")) is None


def test_without_held_out_rows_the_reader_is_told(tmp_path: Path) -> None:
    looking = watch(tmp_path)
    assert looking.report() == {}
    assert reason(looking, example("a", words(30, 1))) is None
    assert "no test or validation rows" in looking.report()["alarm"]


def test_much_overlap_raises_an_alarm(tmp_path: Path) -> None:
    write(tmp_path, test=[example(f"t{at}", words(30, at)) for at in range(20)])
    looking = watch(tmp_path)
    looking.look([Answered(example(f"a{at}", f"{words(30, at)} {words(9, at + 99)}"), None) for at in range(80)])
    assert looking.report()["alarm"].startswith("25% of the train rows overlap with held-out rows")


@given(st.integers(0, 5), st.integers(0, 60), st.integers(8, 25))
@settings(max_examples=25, deadline=None)
def test_exactly_the_rows_with_thirteen_words_of_a_test_row_are_refused(seed: int, start: int, length: int) -> None:
    with TemporaryDirectory() as folder:
        write(Path(folder), test=[example("t", words(60, seed))])
        copied = words(60, seed).split()[start : start + length]
        row = example("a", f"{words(8, 77)} {' '.join(copied)} {words(8, 78)}")
        assert (reason(watch(Path(folder)), row) is not None) == (len(copied) >= 13)
