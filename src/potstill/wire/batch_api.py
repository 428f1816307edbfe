"""What a provider's batch API must offer, in words that all of them share, so that `batch_asking` asks any of them."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from ..types import Reply, Request
from .batch_ledger import Batch


class Outcome(NamedTuple):
    """What a row's result says; `may_repeat` where asking again may help."""

    reply: Reply
    may_repeat: bool = False


class Found(NamedTuple):
    """Whether a provider has a batch whose id is not known: its id, or none for certain, or nothing certain yet."""

    provider_id: str | None
    is_certain: bool = True


@dataclass(frozen=True, slots=True)
class Look:
    """A batch as its provider sees it.

    `refused` says why none of its rows was looked into, and `lines` which lines that is about, counted from 1. `is_full` is
    set where the provider has too much of ours already, `ends_the_job` where it would refuse any batch (an unknown model, no
    credit). `files` are the paths of its results.
    """

    is_over: bool
    files: tuple[str, ...] = ()
    refused: str | None = None
    lines: frozenset[int] = frozenset()
    is_full: bool = False
    ends_the_job: bool = False


class Provider(Protocol):
    """A batch API. Its calls raise the faults of `provider_calls`."""

    @property
    def name(self) -> str:
        """Which account's batches these are: the ledger's `service`."""

    @property
    def frame(self) -> tuple[bytes, bytes, bytes]:
        """What stands before, between and behind the lines of a file."""

    def line(self, name: str, request: Request) -> bytes:
        """One row; `name` is its custom_id."""

    async def newest(self) -> str | None:
        """The id of the account's newest batch."""

    async def create(self, token: str, file: BinaryIO) -> str:
        """Sends a file as a batch, marked with our token where the API can; returns its id. Closes the file."""

    async def find(self, batch: Batch, known: set[str], is_ours: Callable[[str], bool]) -> Found:
        """Looks for a batch that may have been sent; `known` ids are others, `is_ours` tells its rows by their names."""

    async def look(self, provider_id: str) -> Look:
        """How far a batch is."""

    def results(self, path: str) -> AsyncGenerator[tuple[str, str], None]:
        """Each row's name with its result, as text; in any order."""

    def read(self, result: str) -> Outcome:
        """What a result says."""


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """How large batches are, how many are under way at once, and how patiently they are waited for."""

    state_folder: Path
    max_rows: int
    max_bytes: int
    at_once: int = 8
    poll_s: float = 30.0
    max_attempts: int = 3
    patience_s: float = 3600.0


def json_object(value: Any) -> dict[str, Any]:
    """A JSON object as it is, or the one that a text holds; empty where it is anything else.

    >>> json_object('{"a": 1}'), json_object("half {"), json_object(None)
    ({'a': 1}, {}, {})
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return {}
    return value if isinstance(value, dict) else {}
