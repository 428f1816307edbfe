from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potstill.errors import TeacherError
from potstill.wire.credentials import Credential
from potstill.wire.http_faults import BusyError, FaultReader, HttpAnswer, PassingError, RateLimitError, RowError

READER = FaultReader("http://127.0.0.1:9/v1/chat/completions", Credential(None))
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["error", "message", "code", "x"]), inner),
    max_leaves=6,
)


@given(st.integers(100, 599), st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()), st.booleans())
def test_whatever_comes_is_an_answer_or_one_of_three_kinds_of_fault(status: int, data: bytes, has_answered: bool) -> None:
    told = ""
    try:
        body = READER.body(HttpAnswer(status, {}, data), has_answered=has_answered)
        assert status == 200
        assert isinstance(body, dict)
        assert not body.get("error")
    except (PassingError, RowError, TeacherError) as fault:
        told = str(fault)
    assert "\n" not in told
    assert len(told) < 500


def test_brackets_without_end_are_no_answer() -> None:
    with pytest.raises(PassingError):
        READER.body(HttpAnswer(200, {}, b"[" * 200_000), has_answered=True)


@pytest.mark.parametrize(("status", "kind"), [(429, RateLimitError), (503, BusyError), (529, BusyError), (500, PassingError)])
def test_a_busy_server_counts_less_than_a_broken_one(status: int, kind: type[PassingError]) -> None:
    with pytest.raises(kind) as fault:
        READER.body(HttpAnswer(status, {"Retry-After": "3"}, b"{}"), has_answered=True)
    assert type(fault.value) is kind
    assert (fault.value.wait_s, fault.value.counts) == (3.0, 1.0 if status == 500 else 0.25)


def test_a_refusal_is_the_jobs_until_one_row_was_answered() -> None:
    for status in (403, 404, 405):
        with pytest.raises(TeacherError):
            READER.body(HttpAnswer(status, {}, b"no"), has_answered=False)
    with pytest.raises(RowError):
        READER.body(HttpAnswer(403, {}, b"no"), has_answered=True)
    with pytest.raises(PassingError):
        READER.body(HttpAnswer(404, {}, b"no"), has_answered=True)


def test_the_key_is_in_nothing_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "plain-looking-secret")
    reader = FaultReader("http://x/v1", Credential("env:A_KEY"))
    said = b'{"error": {"message": "your key plain-looking-secret or sk-proj-abcdef123 or Bearer abc.def is wrong"}}'
    with pytest.raises(RowError) as told:
        reader.body(HttpAnswer(400, {}, said), has_answered=True)
    for secret in ("plain-looking", "abcdef123", "abc.def"):
        assert secret not in str(told.value)


@pytest.mark.parametrize(
    ("status", "url", "said", "is_free"),
    [
        (429, "http://x/v1", "slow down", True),
        (503, "http://x/v1", "overloaded", True),
        (529, "http://x/v1", "overloaded", True),
        (404, "http://x/v1", "no", True),
        (409, "http://x/v1", "conflict", True),
        (408, "http://x/v1", "time-out", False),
        (500, "http://x/v1", "oops", False),
        (502, "http://x/v1", "bad gateway", False),
        (413, "http://x/v1", "too large", True),
        (400, "http://x/v1", "maximum context length", True),
        (400, "https://one.openai.azure.com/openai/v1", "maximum context length", False),
        (400, "http://x/v1", "content management policy", False),
    ],
)
def test_only_what_was_refused_before_any_work_is_free(status: int, url: str, said: str, is_free: bool) -> None:
    with pytest.raises((PassingError, RowError)) as fault:
        FaultReader(url, Credential(None)).body(HttpAnswer(status, {}, said.encode()), has_answered=True)
    assert isinstance(fault.value, PassingError | RowError)
    assert fault.value.is_free is is_free
