"""The journal: every paid answer, durable before it is used, found again by everything that was sent.

    with Journal(job.journal_path) as journal:
        known = journal.get([key(identity, request)])
        journal.put(identity, [Entry(request, reply)])     # on the disk when this returns

One SQLite file that jobs and processes share. The key is a hash of the teacher's identity (endpoint, model, revision) and
of the whole request (messages with the system prompt, every sampling parameter, sample index): a changed word is a new key.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from .errors import JobFailedError, PotstillError
from .types import Reply, Request, Sampling

KEY_VERSION = 1
BUSY_TIMEOUT_MS = 60_000
KEYS_IN_ONE_QUERY = 500
PRAGMAS = ("synchronous=FULL", "cache_size=-65536", "wal_autocheckpoint=8192")
"""Keys are hashes, so each commit changes pages all over the file: 64 MiB of them stay in memory, and 32 MiB of changes are
gathered before they are written to their places."""
SECRET_NAMES = frozenset({"api_key", "apikey", "authorization", "token", "password", "secret"})

# Appended, never edited: number n brings a file of version n to version n + 1.
MIGRATIONS = (
    """
    CREATE TABLE identities (digest TEXT PRIMARY KEY, identity TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE answers (
        key TEXT PRIMARY KEY, identity TEXT NOT NULL, request TEXT NOT NULL, reply TEXT NOT NULL,
        prompt_tokens INTEGER, completion_tokens INTEGER, cost_usd REAL, answered_at TEXT NOT NULL
    );
    CREATE TABLE failures (
        id INTEGER PRIMARY KEY, key TEXT NOT NULL, identity TEXT NOT NULL, reason TEXT NOT NULL, attempts INTEGER NOT NULL,
        prompt_tokens INTEGER, completion_tokens INTEGER, cost_usd REAL, failed_at TEXT NOT NULL
    );
    """,
    """
    CREATE TABLE spending (
        run TEXT NOT NULL, purpose TEXT NOT NULL, teacher TEXT NOT NULL, answers INTEGER NOT NULL, failures INTEGER NOT NULL,
        requests INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, cost_usd REAL NOT NULL,
        unpriced INTEGER NOT NULL, PRIMARY KEY (run, purpose, teacher)
    ) WITHOUT ROWID;
    """,
    "ALTER TABLE spending ADD COLUMN estimated INTEGER NOT NULL DEFAULT 0;",
)
ADD_SPENDING = """
    INSERT INTO spending VALUES (:run, :purpose, :teacher, :answers, :failures, :requests, :prompt_tokens, :completion_tokens,
        :cost_usd, :unpriced, :estimated)
    ON CONFLICT DO UPDATE SET answers = answers + excluded.answers, failures = failures + excluded.failures,
        requests = requests + excluded.requests, prompt_tokens = prompt_tokens + excluded.prompt_tokens,
        completion_tokens = completion_tokens + excluded.completion_tokens, cost_usd = cost_usd + excluded.cost_usd,
        unpriced = unpriced + excluded.unpriced, estimated = estimated + excluded.estimated
"""
ADD_FAILURE = (
    "INSERT INTO failures (key, identity, reason, attempts, prompt_tokens, completion_tokens, cost_usd, failed_at) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
SPEND = (
    "COUNT(*), COALESCE(SUM(prompt_tokens), 0), COALESCE(SUM(completion_tokens), 0), SUM(cost_usd), COUNT(*) - COUNT(cost_usd)"
)


_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


class Entry(NamedTuple):
    """One request and what came back for it."""

    request: Request
    reply: Reply


class Payer(NamedTuple):
    """Whose money it is: a run, what for (generate, evaluate, judge ...), and the teacher's name in reports."""

    run: str
    purpose: str
    teacher: str


@dataclass(frozen=True, slots=True)
class Spend:
    """What requests cost; `requests` are all that were sent, repeated ones too (0 where that was not counted).

    `unpriced` counts the replies whose price is unknown, which is never zero. `estimated` counts those whose tokens nobody
    told (no `usage`, a time-out, half a body): they stand here with the most that they can have taken, so that sums with such
    a reply in them are upper bounds.
    """

    answers: int = 0
    failures: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    unpriced: int = 0
    requests: int = 0
    estimated: int = 0

    def __add__(self, other: Spend) -> Spend:
        return Spend(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))

    def as_dict(self) -> dict[str, Any]:
        """For people's files: `cost_usd` is None where some price is unknown."""
        counts = {name: getattr(self, name) for name in ("answers", "failures", "requests", "prompt_tokens", "completion_tokens")}
        return {**counts, "cost_usd": None if self.unpriced else round(self.cost_usd, 8), "estimated": self.estimated}


def key(identity: Mapping[str, Any], request: Request) -> str:
    """sha256 over canonical JSON of everything that was sent; the example's id and secrets are no part of it.

    >>> from potstill.types import Message
    >>> plain = Request("row 1", (Message("user", "Hi"),))
    >>> key({"model": "m"}, plain) == key({"model": "m"}, Request("row 2", (Message("user", "Hi"),)))
    True
    >>> key({"model": "m"}, plain) == key({"model": "m"}, Request("row 1", (Message("system", "Be kind."), *plain.messages)))
    False
    """
    return _key(_identity_text(identity), request_text(request))


def keys(identity: Mapping[str, Any], requests: Iterable[Request]) -> list[str]:
    """The key of each request to one teacher."""
    text = _identity_text(identity)
    return [_key(text, request_text(request)) for request in requests]


def request_text(request: Request) -> str:
    """Canonical JSON of `request.content()`, put together here: a key is made four times for each answer.

    >>> request_text(Request("row", ())) == json.dumps(Request("row", ()).content(), sort_keys=True, separators=(",", ":"))
    True
    """
    messages = ",".join([f'{{"content":{_canonical(one.content)},"role":"{one.role}"}}' for one in request.messages])
    labels = f'"labels":{_canonical(list(request.labels))},' if request.labels else ""
    schema = f',"schema":{_canonical(request.schema)}' if request.schema else ""
    sampling = _sampling_text(*[getattr(request.sampling, name) for name in Sampling.__slots__])
    return f'{{{labels}"messages":[{messages}],"sample_index":{request.sample_index},"sampling":{sampling}{schema}}}'


class Journal:
    """The open journal. One object may be used by several threads; several processes open the same file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        with self._told():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                path, isolation_level=None, check_same_thread=False, timeout=BUSY_TIMEOUT_MS / 1000
            )
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def get(self, keys: Collection[str]) -> dict[str, Reply]:
        """The recorded answers of those keys that have one."""
        wanted = list(keys)
        found: dict[str, Reply] = {}
        with self._lock, self._told():
            for start in range(0, len(wanted), KEYS_IN_ONE_QUERY):
                part = wanted[start : start + KEYS_IN_ONE_QUERY]
                marks = ",".join("?" * len(part))
                rows = self._connection.execute(f"SELECT key, reply FROM answers WHERE key IN ({marks})", part)
                found.update((row[0], Reply(**json.loads(row[1]))) for row in rows)
        return found

    def put(
        self, identity: Mapping[str, Any], entries: Sequence[Entry], payer: Payer | None = None, charged: Spend | None = None
    ) -> None:
        """Records replies in one synced commit before it returns: a good one as the answer, one with `error` as a failure.

        The first answer to a key stays: an answer never changes under a job that has used it. What was `charged` for the
        replies (by default what they tell) is added to the payer's spending in the same commit, so the two never disagree.
        """
        if not entries:
            return
        named = _identity_text(identity)
        digest = hashlib.sha256(named.encode()).hexdigest()
        at = datetime.now(UTC).isoformat()
        answers: list[tuple[Any, ...]] = []
        failures: list[tuple[Any, ...]] = []
        for request, reply in entries:
            text = request_text(request)
            spent = (reply.prompt_tokens, reply.completion_tokens, reply.cost_usd, at)
            if reply.error is None:
                answers.append((_key(named, text), digest, text, _canonical(reply.as_dict()), *spent))
            else:
                failures.append((_key(named, text), digest, reply.error, reply.attempts, *spent))
        with self._lock, self._told(), self._transaction():
            self._connection.execute("INSERT OR IGNORE INTO identities VALUES (?, ?)", (digest, named))
            self._connection.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?)", answers)
            self._connection.executemany(ADD_FAILURE, failures)
            if payer is not None:
                self._connection.execute(ADD_SPENDING, {**payer._asdict(), **asdict(charged or _told(entries))})

    def spent(self, run: str) -> dict[Payer, Spend]:
        """What a run has spent so far, in all its starts, by purpose and teacher, as it was charged."""
        with self._lock, self._told():
            rows = self._connection.execute(
                "SELECT run, purpose, teacher, answers, failures, prompt_tokens, completion_tokens, cost_usd, unpriced, "
                "requests, estimated FROM spending WHERE run = ?",
                (run,),
            ).fetchall()
        return {Payer(*row[:3]): Spend(*row[3:]) for row in rows}

    def spend(self) -> Spend:
        """What all answers and failures in this file cost by what their replies tell, whoever asked for them."""
        with self._lock, self._told():
            good = self._connection.execute(f"SELECT {SPEND} FROM answers").fetchone()
            bad = self._connection.execute(f"SELECT {SPEND} FROM failures").fetchone()
        cost = (good[3] or 0.0) + (bad[3] or 0.0)
        return Spend(good[0], bad[0], good[1] + bad[1], good[2] + bad[2], cost, good[4] + bad[4])

    def _prepare(self) -> None:
        for pragma in PRAGMAS:
            self._connection.execute(f"PRAGMA {pragma}")
        self._enter_wal()
        with self._transaction():
            version = self._connection.execute("PRAGMA user_version").fetchone()[0]
            if version > len(MIGRATIONS):
                raise PotstillError(f"journal {self.path} was written by a newer potstill (version {version}); upgrade potstill")
            for migration in MIGRATIONS[version:]:
                for statement in filter(str.strip, migration.split(";")):
                    self._connection.execute(statement)
            self._connection.execute(f"PRAGMA user_version={len(MIGRATIONS)}")

    def _enter_wal(self) -> None:
        """SQLite does not wait for others when it changes the journal mode, so this does."""
        deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorname != "SQLITE_BUSY" or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turns what SQLite and the disk report into one sentence."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise _explained(self.path, error) from None
        except OSError as error:
            raise PotstillError(
                f"journal {self.path} cannot be opened: {error.strerror}; name another file with 'journal'"
            ) from None


def _told(entries: Sequence[Entry]) -> Spend:
    """What replies tell of their cost."""
    replies = [entry.reply for entry in entries]
    failures = sum(reply.error is not None for reply in replies)
    return Spend(
        answers=len(replies) - failures,
        failures=failures,
        prompt_tokens=sum(reply.prompt_tokens or 0 for reply in replies),
        completion_tokens=sum(reply.completion_tokens or 0 for reply in replies),
        cost_usd=sum(reply.cost_usd or 0.0 for reply in replies),
        unpriced=sum(reply.cost_usd is None for reply in replies),
        requests=sum(reply.attempts for reply in replies),
    )


def _explained(path: Path, error: sqlite3.DatabaseError) -> PotstillError:
    name = getattr(error, "sqlite_errorname", "") or ""
    if name.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
        return JobFailedError(
            f"journal {path} could not be written: the disk is full or failing ({error}); answers recorded so far are safe; "
            "free some space and run again"
        )
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return PotstillError(
            f"journal {path} cannot be written ({error}); make its folder writable or name another file with 'journal'"
        )
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return PotstillError(f"journal {path} stayed locked by another process for {BUSY_TIMEOUT_MS // 1000} s; run again")
    return PotstillError(
        f"journal {path} is damaged or not a journal ({error}); restore a backup, or move it away to pay for the answers again"
    )


def _key(identity: str, request: str) -> str:
    return hashlib.sha256(f'{{"identity":{identity},"request":{request},"version":{KEY_VERSION}}}'.encode()).hexdigest()


def _identity_text(identity: Mapping[str, Any]) -> str:
    return _canonical(_without_secrets(identity))


@lru_cache(maxsize=256, typed=True)  # 1 and 1.0 are equal, and are not written alike
def _sampling_text(*values: Any) -> str:
    return _canonical(Request("", (), Sampling(*values)).content()["sampling"])


def _without_secrets(identity: Mapping[str, Any]) -> Mapping[str, Any]:
    named = SECRET_NAMES.intersection(str(name).lower() for name in identity)
    if named:
        raise PotstillError(f"a teacher's identity must not hold {', '.join(sorted(named))}: the journal keeps no secrets")
    return identity
