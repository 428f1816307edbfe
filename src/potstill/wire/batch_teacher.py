"""What teachers that ask in a provider's batches share: their fields' types, where the record of batches is, the asking."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any, Protocol

from pydantic import AfterValidator, Field, ValidationInfo

from ..contracts import Price, Requests
from ..errors import PotstillError
from ..types import Reply, Request
from .batch_api import BatchPlan, Provider
from .batch_asking import BatchAsking
from .batch_ledger import Ledger
from .credentials import Credential
from .endpoint import Service, open_session, plain_urls
from .hosted import problems_of
from .pool import Patience
from .provider_calls import Calls


def _one_url(value: str) -> str:
    plain_urls(value)
    return value.rstrip("/")


def _from_the_job(value: Path | None, info: ValidationInfo) -> Path | None:
    """A relative folder starts where the job file is, as every path in it does."""
    folder = (info.context or {}).get("folder")
    return None if value is None else Path(folder or "", value.expanduser())


OneUrl = Annotated[str, AfterValidator(_one_url), Field(description="up to and with /v1, such as https://api.example.com/v1")]
StateFolder = Annotated[
    Path | None,
    AfterValidator(_from_the_job),
    Field(description="where batches under way are written down; default: $XDG_STATE_HOME/potstill, ~/.local/state/potstill"),
]
AtOnce = Annotated[int, Field(ge=1, description="most batches under way at once")]
PollS = Annotated[float, Field(gt=0, description="seconds between two looks at a batch")]
PatienceS = Annotated[float, Field(gt=0, description="how long a provider that does not answer is waited for")]
MaxAttempts = Annotated[int, Field(ge=1, description="how often one row is sent before it counts as failed")]
BatchShare = Annotated[float, Field(ge=0, description="what a batch costs of the list price")]


class BatchFields(Protocol):
    """The fields that every such teacher has, under the same names."""

    @property
    def base_url(self) -> str: ...
    @property
    def state_folder(self) -> Path | None: ...
    @property
    def max_rows(self) -> int: ...
    @property
    def max_megabytes(self) -> float: ...
    @property
    def max_batches(self) -> int: ...
    @property
    def poll_s(self) -> float: ...
    @property
    def patience_s(self) -> float: ...
    @property
    def timeout_s(self) -> float: ...
    @property
    def max_attempts(self) -> int: ...
    @property
    def input_per_million(self) -> float | None: ...
    @property
    def output_per_million(self) -> float | None: ...
    @property
    def batch_share(self) -> float: ...


def state_folder(chosen: Path | None) -> Path:
    """The folder of the ledger: one for all jobs of a user, so that any of them finds a batch again."""
    if chosen is not None:
        return chosen
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "potstill"


def batch_service(teacher: BatchFields, credential: Credential, headers: dict[str, str] | None = None) -> Service:
    return Service((teacher.base_url,), "", credential, Patience(teacher.timeout_s), headers=headers or {})


def batch_price(teacher: BatchFields) -> Price:
    """What a token costs in a batch: a share of the list price that the fields name."""
    shares = [
        None if price is None else price * teacher.batch_share
        for price in (teacher.input_per_million, teacher.output_per_million)
    ]
    return Price(*shares)


async def ask_in_batches(
    teacher: BatchFields, service: Service, api: Callable[[Calls], Provider], key_of: Callable[[Request], str], requests: Requests
) -> AsyncGenerator[tuple[Request, Reply], None]:
    """Each request with its reply, as batches end; what is under way when this is closed stays so, and is found again."""
    folder = state_folder(teacher.state_folder)
    plan = BatchPlan(
        state_folder=folder,
        max_rows=teacher.max_rows,
        max_bytes=int(teacher.max_megabytes * 1e6),
        at_once=teacher.max_batches,
        poll_s=teacher.poll_s,
        max_attempts=teacher.max_attempts,
        patience_s=teacher.patience_s,
    )
    with Ledger(folder) as ledger:
        async with open_session(service) as session:
            asking = BatchAsking(api(Calls(session, service)), ledger, plan, key_of)
            async with aclosing(asking.ask(requests)) as replies:
                async for answered in replies:
                    yield answered


def batch_problems(teacher: BatchFields, service: Service) -> list[str]:
    """What can be found wrong without spending or writing: the key, the address, a folder that cannot be written."""
    folder = state_folder(teacher.state_folder)
    if folder.is_dir():
        try:
            with Ledger(folder):
                return problems_of(service)
        except PotstillError as error:
            return [f"teacher: {error}"]
    above = next(place for place in (folder, *folder.parents) if place.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        return [
            f"teacher: the record of batches cannot be made in {folder}, as {above} is no folder that can be written; name "
            "another one with the teacher's state_folder"
        ]
    return problems_of(service)


def text_in(value: Any, *names: str) -> str:
    """The words under these names of an error, one behind the other; an error of another shape in its own words."""
    told = [str(value[name]) for name in names if value.get(name)] if isinstance(value, dict) else [str(value)]
    return " ".join(" ".join(told).split())[:200] or "nothing said"
