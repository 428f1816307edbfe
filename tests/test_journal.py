from __future__ import annotations

import hashlib
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potstill.errors import JobFailedError, PotstillError
from potstill.journal import Entry, Journal, Payer, Spend, key, keys
from potstill.types import Message, Reply, Request, Sampling

IDENTITY = {"kind": "openai_api", "base_url": "http://127.0.0.1/v1", "model": "big", "extra": {}}


def _request(question: str = "Hi", **fields: object) -> Request:
    return Request("row", (Message("system", "Be kind."), Message("user", question)), **fields)  # type: ignore[arg-type]


def test_a_reply_comes_back_whole(tmp_path: Path) -> None:
    reply = Reply("héllo 😀\n\x00 \ud83d", "stop", 3, 4, 0.25, 1.5, 2)
    with Journal(tmp_path / "deep" / "journal.sqlite") as journal:
        journal.put(IDENTITY, [Entry(_request(), reply)])
    with Journal(tmp_path / "deep" / "journal.sqlite") as journal:
        name = key(IDENTITY, _request())
        assert journal.get([name, "another"]) == {name: reply}


def test_everything_that_is_sent_is_in_the_key_and_the_rows_id_is_not() -> None:
    usual = key(IDENTITY, _request())
    assert key(IDENTITY, Request("other row", _request().messages)) == usual
    changed = [
        key({**IDENTITY, "base_url": "http://127.0.0.2/v1"}, _request()),
        key({**IDENTITY, "model": "small"}, _request()),
        key({**IDENTITY, "extra": {"stop": "#"}}, _request()),
        key(IDENTITY, _request("Ho")),
        key(IDENTITY, Request("row", (Message("system", "Be rude."), Message("user", "Hi")))),
        key(IDENTITY, Request("row", (Message("user", "Hi"),))),
        key(IDENTITY, Request("row", (Message("system", "Be kind."), Message("assistant", "Hi")))),
        key(IDENTITY, _request(sampling=Sampling(temperature=0.5))),
        key(IDENTITY, _request(sampling=Sampling(top_p=0.5))),
        key(IDENTITY, _request(sampling=Sampling(max_tokens=1))),
        key(IDENTITY, _request(sample_index=1)),
    ]
    assert len({usual, *changed}) == 12


def test_a_failure_is_counted_and_never_returned_as_an_answer(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.sqlite") as journal:
        failed = Reply("", "error", cost_usd=0.5, attempts=6, error="HTTP 500")
        journal.put(IDENTITY, [Entry(_request("a"), failed), Entry(_request("b"), Reply("B", prompt_tokens=7, cost_usd=1.0))])
        journal.put(IDENTITY, [Entry(_request("c"), Reply("C"))])
        known = journal.get([key(IDENTITY, _request(question)) for question in "abc"])
        assert {reply.text for reply in known.values()} == {"B", "C"}
        spend = journal.spend()
    assert (spend.answers, spend.failures, spend.prompt_tokens, spend.cost_usd, spend.unpriced) == (2, 1, 7, 1.5, 1)


PAYER = Payer("run", "generate", "big")


def test_what_was_charged_is_what_the_payer_has_spent_and_outlives_the_process(tmp_path: Path) -> None:
    charged = Spend(1, 0, 100, 50, 0.6, 0, 2, 1)
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal.put(IDENTITY, [Entry(_request(), Reply("no usage", attempts=2))], PAYER, charged)
        journal.put(IDENTITY, [Entry(_request("Ho"), Reply("told", "stop", 3, 4, 0.25))], PAYER)
        assert journal.spent("another run") == {}
    with Journal(tmp_path / "journal.sqlite") as journal:
        assert journal.spent("run") == {PAYER: charged + Spend(1, 0, 3, 4, 0.25, 0, 1, 0)}
        assert journal.spent("run")[PAYER].as_dict() == {
            "answers": 2, "failures": 0, "requests": 3, "prompt_tokens": 103, "completion_tokens": 54, "cost_usd": 0.85,
            "estimated": 1,
        }  # fmt: skip


def test_a_journal_of_an_older_version_keeps_its_answers_and_its_spending(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with Journal(path) as journal:
        journal.put(IDENTITY, [Entry(_request(), Reply("old", "stop", 3, 4, 0.25))], PAYER)
        journal._connection.execute("ALTER TABLE spending DROP COLUMN estimated")
        journal._connection.execute("PRAGMA user_version=2")
    with Journal(path) as journal:
        journal.put(IDENTITY, [Entry(_request("Ho"), Reply("new", "stop", 3, 4, 0.25))], PAYER, Spend(1, estimated=1))
        assert journal.spent("run") == {PAYER: Spend(2, 0, 3, 4, 0.25, 0, 1, 1)}
        assert len(journal.get([key(IDENTITY, _request()), key(IDENTITY, _request("Ho"))])) == 2


def test_the_first_answer_stays(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal.put(IDENTITY, [Entry(_request(), Reply("first"))])
        journal.put(IDENTITY, [Entry(_request(), Reply("second"))])
        assert journal.get([key(IDENTITY, _request())])[key(IDENTITY, _request())].text == "first"


def test_many_keys_are_found_at_once(tmp_path: Path) -> None:
    requests = [_request(str(n)) for n in range(1300)]
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal.put(IDENTITY, [Entry(request, Reply(request.messages[-1].content)) for request in requests])
        assert len(journal.get([key(IDENTITY, request) for request in requests])) == 1300


WRITER = """
import sys
from pathlib import Path
from potstill.journal import Entry, Journal
from potstill.types import Message, Reply, Request
name = sys.argv[2]
for n in range(40):
    with Journal(Path(sys.argv[1])) as journal:
        rows = [f"{name} {n}", f"shared {n}"]
        journal.put({"model": "big"}, [Entry(Request("row", (Message("user", row),)), Reply(row)) for row in rows])
"""


def test_processes_write_at_the_same_time(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    started = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), name]) for name in ("one", "two", "three")]
    assert [process.wait(60) for process in started] == [0, 0, 0]
    with Journal(path) as journal:
        assert journal.spend().answers == 3 * 40 + 40


def test_a_damaged_file_is_one_clear_sentence(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    path.write_bytes(b"this is no database" * 500)
    with pytest.raises(PotstillError, match="damaged or not a journal"):
        Journal(path)


def test_a_file_damaged_in_the_middle_is_one_clear_sentence(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    requests = [_request(f"{n} " * 200) for n in range(200)]
    with Journal(path) as journal:
        journal.put(IDENTITY, [Entry(request, Reply("x" * 500)) for request in requests])
    content = bytearray(path.read_bytes())
    content[8192:] = b"\xff" * (len(content) - 8192)
    path.write_bytes(content)
    with pytest.raises(PotstillError, match="damaged"), Journal(path) as journal:
        journal.get([key(IDENTITY, request) for request in requests])


def test_a_folder_that_cannot_be_written_is_one_clear_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(PotstillError, match="name another file"):
        Journal(tmp_path / "file" / "journal.sqlite")
    with pytest.raises(PotstillError, match="name another file"):
        Journal(tmp_path)


def test_a_journal_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with Journal(path) as journal:
        journal._connection.execute("PRAGMA user_version=99")
    with pytest.raises(PotstillError, match="newer potstill"):
        Journal(path)


FILLER = """
import resource, sys
from pathlib import Path
from potstill.errors import JobFailedError
from potstill.journal import Entry, Journal, key
from potstill.types import Message, Reply, Request
requests = [Request("row", (Message("user", str(n)),)) for n in range(200)]
journal = Journal(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
done = 0
try:
    for request in requests:
        journal.put({"model": "big"}, [Entry(request, Reply("x" * 5000))])
        done += 1
except JobFailedError as error:
    print(done, error)
"""


def test_a_full_disk_is_one_clear_sentence_and_loses_nothing(tmp_path: Path) -> None:
    assert hasattr(resource, "RLIMIT_FSIZE")
    path = tmp_path / "journal.sqlite"
    ended = subprocess.run([sys.executable, "-c", FILLER, str(path)], capture_output=True, text=True, timeout=60)
    assert "the disk is full or failing" in ended.stdout, ended.stderr
    assert JobFailedError.exit_code == 2
    done = int(ended.stdout.split()[0])
    assert 0 < done < 200
    with Journal(path) as journal:
        assert journal.spend().answers == done


def test_secrets_never_enter(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.sqlite") as journal, pytest.raises(PotstillError, match="no secrets"):
        journal.put({"model": "big", "api_key": "sk-secret"}, [Entry(_request(), Reply("x"))])
    assert b"sk-secret" not in (tmp_path / "journal.sqlite").read_bytes()
    assert json.dumps(IDENTITY)


TEXT = st.text(max_size=8)
SAMPLING = st.builds(
    Sampling,
    st.integers(1, 4000),
    st.floats(0, 2) | st.sampled_from([0, 1]),
    st.floats(0.01, 1) | st.just(1),
    frequency_penalty=st.sampled_from([0.0, 0.5]),
    stop=st.sampled_from([(), ("\n", "é")]),
    top_logprobs=st.integers(0, 2),
)
MESSAGES = st.lists(st.builds(Message, st.sampled_from(["system", "user", "assistant"]), TEXT), max_size=3).map(tuple)
REQUEST = st.builds(Request, TEXT, MESSAGES, SAMPLING, st.integers(0, 9), st.none() | TEXT, st.lists(TEXT, max_size=2).map(tuple))


@given(REQUEST, st.dictionaries(st.sampled_from(["model", "kind", "é"]), st.none() | TEXT | st.integers()))
def test_a_key_is_the_hash_of_canonical_json_of_everything_sent(request: Request, identity: dict[str, Any]) -> None:
    content = {"version": 1, "identity": identity, "request": request.content()}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    wanted = hashlib.sha256(text.encode()).hexdigest()
    assert key(identity, request) == wanted
    assert keys(identity, [request, request]) == [wanted, wanted]
