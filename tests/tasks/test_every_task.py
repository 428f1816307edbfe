"""The contract of tasks, over every one of them, and against the real data where POTSTILL_DATA names its folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.data.rows import read_row
from potstill.plugins import load_plugin, plugin_kinds
from potstill.starter.corpus import TASKS, rows
from potstill.types import Example, Message

KINDS = [info.kind for info in plugin_kinds("tasks")]
ASKED = (Message("system", "s"), Message("user", "q"))
DATA = os.environ.get("POTSTILL_DATA")


@pytest.mark.parametrize("kind", KINDS)
def test_the_system_prompt_of_a_task_joins_the_rows_own(kind: str) -> None:
    task = load_plugin("tasks", {"kind": kind, "system_prompt": "t"})
    assert task.prompt(Example("1", ASKED))[0] == Message("system", "s\n\nt")
    assert task.max_answer_tokens > 0
    assert all(name in {info.kind for info in plugin_kinds("metrics")} for name in task.metrics)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_answered_is_nothing_read_and_never_right(kind: str) -> None:
    task = load_plugin("tasks", kind)
    row = Example("1", ASKED, "7", {"required_values": ["7"], "key_facts": ["7"], "answer": "7"})
    assert task.read("  \n") is None
    assert task.right("", row) == 0.0
    assert task.right(" 7.", row) == (0.0 if kind == "nli" else 1.0)


@settings(max_examples=60, deadline=None)
@given(
    st.text(max_size=80),
    st.text(max_size=20),
    st.dictionaries(
        st.sampled_from(["answer", "answers", "required_values", "key_facts", "references", "label"]),
        st.none() | st.text(max_size=5) | st.integers() | st.lists(st.text(max_size=5) | st.integers() | st.none(), max_size=3),
    ),
)
def test_no_text_and_no_meta_breaks_a_task(text: str, gold: str, meta: dict[str, Any]) -> None:
    for kind in KINDS:
        task = load_plugin("tasks", kind)
        assert task.read(text) is None or task.read(text)
        assert task.right(text, Example("1", ASKED, gold, meta)) in (0.0, 1.0, None)


@pytest.mark.parametrize("kind", TASKS)
def test_the_gold_of_the_starter_corpus_is_right(kind: str) -> None:
    task = load_plugin("tasks", kind)
    for row in rows(kind, "test", 60):
        example = read_row(row, "corpus:1")
        assert task.right(str(example.gold), example) == 1.0, example


@pytest.mark.skipif(DATA is None, reason="POTSTILL_DATA does not name the real data's folder")
def test_the_gold_of_real_rows_is_right() -> None:
    for folder in sorted(path for path in Path(str(DATA)).iterdir() if path.is_dir()):
        task = load_plugin("tasks", folder.name.partition("_")[0])
        with (folder / "test.jsonl").open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                example = read_row(json.loads(line), f"{folder.name}:{number}")
                assert task.right(str(example.gold), example) == 1.0, example
