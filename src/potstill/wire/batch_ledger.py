"""What stands in which batch of a provider: written before anything is sent, so that a killed process finds its batch again.

    with Ledger(folder) as ledger:
        claimed = ledger.intend(service, token, newest, keys)   # on the disk: these rows go into this batch, and into no other
        ledger.accepted(token, "batch_123")                     # the provider has it
        ledger.keep(token, results)                             # its answers, as the provider wrote them
        ledger.end(token)                                       # what has no answer by now is free to be asked again

A row is known by its journal key. Several processes may open one ledger: a row is claimed in one transaction, and who finds
it claimed waits for that batch. Answers stay here for KEPT_DAYS, as long as the providers keep them, so that a process that
was killed between the download and the journal pays for nothing twice. No secret stands here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType

from ..errors import PotstillError
from ..types import Reply

BUSY_TIMEOUT_MS = 60_000
KEPT_DAYS = 30
IN_ONE_QUERY = 500

# Appended, never edited: number n brings a file of version n to version n + 1.
MIGRATIONS = (
    """
    CREATE TABLE batches (
        token TEXT PRIMARY KEY, service TEXT NOT NULL, newest TEXT, size INTEGER NOT NULL, provider_id TEXT,
        is_over INTEGER NOT NULL DEFAULT 0, made_at TEXT NOT NULL
    );
    CREATE INDEX open_batches ON batches (service, is_over);
    CREATE TABLE rows (
        key TEXT PRIMARY KEY, token TEXT, attempts INTEGER NOT NULL DEFAULT 0, cost_usd REAL DEFAULT 0, result TEXT
    );
    CREATE INDEX rows_of_a_batch ON rows (token);
    """,
    """
    ALTER TABLE rows ADD COLUMN prompt_tokens INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE rows ADD COLUMN completion_tokens INTEGER NOT NULL DEFAULT 0;
    """,
)


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch: our token for it, and the provider's id where it is known to have it.

    `newest` is the provider's newest batch before this one was sent, `size` the number of its rows: what finds it again.
    """

    token: str
    size: int
    newest: str | None
    provider_id: str | None


@dataclass(frozen=True, slots=True)
class Row:
    """Where a row stands: in the batch `token`, answered by `result`, or in neither: free.

    `attempts` counts how often it was sent, this time included; the cost and the tokens are those of answers that could not be
    used.
    """

    token: str | None = None
    result: str | None = None
    attempts: int = 0
    cost_usd: float | None = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Ledger:
    """The open file. One for all jobs, teachers and providers that share a state folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "batches.sqlite"
        with self._told():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._connection = sqlite3.connect(self.path, isolation_level=None, timeout=BUSY_TIMEOUT_MS / 1000)
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._connection.close()

    def rows(self, keys: Iterable[str]) -> dict[str, Row]:
        """Where each of these rows stands; one that was never sent is free."""
        wanted = list(keys)
        found = {name: Row() for name in wanted}
        with self._told():
            for start in range(0, len(wanted), IN_ONE_QUERY):
                part = wanted[start : start + IN_ONE_QUERY]
                marks = ",".join("?" * len(part))
                columns = "key, token, result, attempts, cost_usd, prompt_tokens, completion_tokens"
                query = f"SELECT {columns} FROM rows WHERE key IN ({marks})"
                found.update((row[0], Row(*row[1:])) for row in self._connection.execute(query, part))
        return found

    def open_batches(self, service: str) -> dict[str, Batch]:
        """Every batch of a service that is not over, by token; without `provider_id` where it is not known to be sent."""
        query = "SELECT token, size, newest, provider_id FROM batches WHERE service = ? AND NOT is_over"
        with self._told():
            return {row[0]: Batch(*row) for row in self._connection.execute(query, (service,))}

    def known_ids(self, service: str) -> set[str]:
        """The provider's ids of all batches of a service that are ours for certain."""
        query = "SELECT provider_id FROM batches WHERE service = ? AND provider_id IS NOT NULL"
        with self._told():
            return {row[0] for row in self._connection.execute(query, (service,))}

    def intend(self, service: str, token: str, newest: str | None, keys: Sequence[str]) -> list[str]:
        """Puts the rows that are still free into a new batch, before it is sent; returns which these are."""
        with self._told(), self._transaction():
            standing = self.rows(keys)
            free = [name for name in keys if standing[name].token is None and standing[name].result is None]
            if free:
                now = datetime.now(UTC).isoformat()
                self._connection.execute(
                    "INSERT INTO batches (token, service, newest, size, made_at) VALUES (?, ?, ?, ?, ?)",
                    (token, service, newest, len(free), now),
                )
                self._connection.executemany(
                    "INSERT INTO rows (key, token, attempts) VALUES (?, ?, 1) "
                    "ON CONFLICT (key) DO UPDATE SET token = excluded.token, attempts = attempts + 1",
                    [(name, token) for name in free],
                )
        return free

    def accepted(self, token: str, provider_id: str) -> None:
        with self._told():
            self._connection.execute("UPDATE batches SET provider_id = ? WHERE token = ?", (provider_id, token))

    def never_sent(self, token: str) -> None:
        """The provider does not have the batch, or looked into none of its rows: as if it had never been meant."""
        with self._told(), self._transaction():
            self._connection.execute("UPDATE rows SET token = NULL, attempts = attempts - 1 WHERE token = ?", (token,))
            self._connection.execute("DELETE FROM batches WHERE token = ?", (token,))

    def keep(self, token: str, results: Iterable[tuple[str, str]]) -> None:
        """Writes down results by the rows' keys, the first of each; those of rows that do not stand in this batch are let go."""
        with self._told(), self._transaction():
            self._connection.executemany(
                "UPDATE rows SET result = ? WHERE key = ? AND token = ? AND result IS NULL",
                [(result, name, token) for name, result in results],
            )

    def end(self, token: str) -> None:
        """The batch is over, and all that it gave is kept: rows without a result are free."""
        with self._told(), self._transaction():
            self._connection.execute("UPDATE rows SET token = NULL WHERE token = ? AND result IS NULL", (token,))
            self._connection.execute("UPDATE batches SET is_over = 1 WHERE token = ?", (token,))

    def free(self, replies: Mapping[str, Reply]) -> None:
        """These rows' results cannot be used: they may be asked again, and what was paid for them is remembered."""
        with self._told(), self._transaction():
            self._connection.executemany(
                "UPDATE rows SET token = NULL, result = NULL, cost_usd = cost_usd + ?, prompt_tokens = prompt_tokens + ?, "
                "completion_tokens = completion_tokens + ? WHERE key = ?",
                [
                    (reply.cost_usd, reply.prompt_tokens or 0, reply.completion_tokens or 0, name)
                    for name, reply in replies.items()
                ],
            )

    def forget(self, keys: Iterable[str]) -> None:
        """These rows have failed for good; who asks for them again begins anew."""
        with self._told(), self._transaction():
            self._connection.executemany("DELETE FROM rows WHERE key = ?", [(name,) for name in keys])

    def _prepare(self) -> None:
        self._connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        self._connection.execute("PRAGMA synchronous=FULL")
        with self._transaction():
            version = self._connection.execute("PRAGMA user_version").fetchone()[0]
            if version > len(MIGRATIONS):
                raise PotstillError(f"{self.path} was written by a newer potstill (version {version}); upgrade potstill")
            for migration in MIGRATIONS[version:]:
                for statement in filter(str.strip, migration.split(";")):
                    self._connection.execute(statement)
            self._connection.execute(f"PRAGMA user_version={len(MIGRATIONS)}")
            old = (datetime.now(UTC) - timedelta(days=KEPT_DAYS)).isoformat()
            over = "SELECT token FROM batches WHERE is_over AND made_at < ?"
            self._connection.execute(f"DELETE FROM rows WHERE token IN ({over})", (old,))
            self._connection.execute("DELETE FROM batches WHERE is_over AND made_at < ?", (old,))

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
        except (sqlite3.DatabaseError, OSError) as error:
            raise PotstillError(
                f"the record of batches {self.path} cannot be used ({error}); make its folder writable, free some space, or name "
                "another folder with the teacher's state_folder (batches under way would then be paid for again)"
            ) from None
