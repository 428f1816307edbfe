from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.contracts import Answered, Check, Finding, Room, Task
from potstill.errors import JobError
from potstill.plugins import load_plugin
from potstill.types import Example, Message, Reply

ROW = Example("row", (Message("user", "Which city, how big?"),))
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "sizes": {"type": "array", "items": {"type": "integer"}}},
    "required": ["city"],
    "additionalProperties": False,
}
GOOD = '{"city": "Bergen", "sizes": [1, 2]}'


class Structured(Task):
    """A task with a schema of its own."""

    own: str | None = None

    def answer_schema(self) -> str | None:
        return self.own

    def read(self, text: str) -> str | None:
        return text

    def right(self, text: str, example: Example) -> float | None:
        return None


def check(**fields: Any) -> Check:
    loaded: Check = load_plugin("checks", {"kind": "schema", "json_schema": SCHEMA, **fields})
    return loaded


def refused(text: str, one: Check | None = None) -> str | None:
    finding = (one or check()).refuse(ROW, Reply(text), Structured())
    assert finding is None or finding.again
    return finding.reason if finding else None


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"```json\n{GOOD}\n```",
        f"```JSON\n{GOOD}",
        f"```\n{GOOD}\n```",
        f"Here it is:\n```json\n{GOOD}\n```\nAnything else?",
        f"Sure! {GOOD} I hope this helps.",
        f"<think>Maybe {{}}?</think>{GOOD}",
        f"Not [1], but {GOOD}",
        f'First {{"town": 1}}, no: {GOOD}',
    ],
)
def test_a_structured_answer_is_read_however_it_is_wrapped(text: str, tmp_path: Path) -> None:
    assert refused(text) is None
    watch = check().watch(Room(Structured(), tmp_path, (), lambda teacher, requests: []))
    [kept] = watch.look([Answered(ROW, Reply(text, logprobs=[["7b", -0.1, []]]))])
    if text == GOOD:
        assert kept is None
    else:
        assert isinstance(kept, Answered)
        assert kept.reply is not None
        assert (kept.reply.text, kept.reply.logprobs) == (GOOD, None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Bergen", "not JSON"),
        ("", "not JSON"),
        ('{"city": "Ber', "not JSON"),
        ('{"city": NaN}', "not JSON"),
        ('{"city": 1e999}', "not JSON"),
        ('{"city": "\\ud800"}', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"city": 3}', "not the schema's JSON: city breaks type"),
        ('{"city": "a", "sizes": [1, "x"]}', "not the schema's JSON: sizes[] breaks type"),
        ("{}", "not the schema's JSON: the whole breaks required"),
        ('{"city": "a", "country": "b"}', "not the schema's JSON: the whole breaks additionalProperties"),
        ("[1]", "not the schema's JSON: the whole breaks type"),
    ],
)
def test_what_is_wrong_is_said_without_quoting_the_answer(text: str, reason: str) -> None:
    assert refused(text) == reason


def test_the_fence_stays_where_it_is_asked_for_and_gold_is_never_changed(tmp_path: Path) -> None:
    room = Room(Structured(), tmp_path, (), lambda teacher, requests: [])
    fenced = Reply(f"```json\n{GOOD}\n```")
    assert check(bare=False).watch(room).look([Answered(ROW, fenced)]) == [None]
    assert check().watch(room).look([Answered(ROW, fenced, "gold"), Answered(ROW, None, "prompt")]) == [None, None]
    [finding] = check().watch(room).look([Answered(ROW, Reply("{}"))])
    assert isinstance(finding, Finding)


def test_the_tasks_own_schema_is_used_and_a_task_without_one_is_a_problem() -> None:
    own = check(json_schema=None)
    task = Structured(own=json.dumps(SCHEMA))
    assert own.refuse(ROW, Reply(GOOD), task) is None
    assert own.refuse(ROW, Reply("[]"), task) is not None
    assert own.problems((), task) == []
    [problem] = own.problems((), Structured(kind="structured"))
    assert "'structured' has no schema of its own; give the check a json_schema" in problem
    with pytest.raises(JobError, match="json_schema"):
        own.refuse(ROW, Reply(GOOD), Structured())


@pytest.mark.parametrize("schema", [{"type": "strin"}, {"$ref": "http://127.0.0.1:9/a.json"}, {"$ref": "file:///a.json"}])
def test_what_is_no_schema_or_lies_elsewhere_is_refused_when_the_job_is_loaded(schema: dict[str, Any]) -> None:
    with pytest.raises(JobError, match="checks/schema: json_schema: it is no JSON schema"):
        check(json_schema=schema)


def test_older_drafts_references_and_a_root_that_is_no_object_work() -> None:
    draft7 = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "definitions": {"size": {"type": "integer", "minimum": 1}},
        "items": {"$ref": "#/definitions/size"},
    }
    assert refused("[1, 2]", check(json_schema=draft7)) is None
    assert refused("[1, 0]", check(json_schema=draft7)) == "not the schema's JSON: [] breaks minimum"
    assert refused("42", check(json_schema={"type": "integer"})) is None
    assert refused("{}", check(json_schema=False)) == "not the schema's JSON: the whole breaks false"


def test_a_pattern_that_takes_forever_elsewhere_does_not_here() -> None:
    slow = check(json_schema={"type": "string", "pattern": "^(a+)+$"})
    assert refused(json.dumps("a" * 5000 + "!"), slow) == "not the schema's JSON: the whole breaks pattern"


def test_the_package_is_asked_for_when_the_job_is_loaded() -> None:
    program = "import sys; sys.modules['jsonschema_rs'] = None; from potstill.plugins import *; load_plugin('checks', 'schema')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (
        "MissingPackageError: the package 'jsonschema_rs' is not installed; install it with: pip install 'potstill[schema]'"
        in done.stderr
    )


USUAL, ANYTHING = check(), check(json_schema=True)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=3) | st.lists(JSON, max_size=4))
@settings(max_examples=150)
def test_any_object_or_array_is_found_in_a_fence_with_words_around_it(value: Any) -> None:
    assert refused(f"Here: \n```json\n{json.dumps(value)}\n```", ANYTHING) is None
    assert refused(json.dumps(value, ensure_ascii=False), ANYTHING) is None


@given(st.text(max_size=60))
@settings(max_examples=200)
def test_no_text_breaks_the_check(text: str) -> None:
    reason = refused(text, USUAL)
    assert reason in (None, "not JSON") or reason.startswith("not the schema's JSON: ")
