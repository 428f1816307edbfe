"""A hard cap on what a run spends: nothing is asked that could go over it, counting what is under way.

    purse = Purse(Budget(max_cost_usd=5.0), spent_before)
    if purse.reserve(request, price):  ...  purse.settle(request, reply, price)

A request is reserved at the most it can cost: its prompt's tokens, and the whole of its `max_tokens`. How many bytes a
prompt token takes is learned from the replies; until then every byte counts as a token, so the first ones are held dear.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field

from ..errors import JobError, PotstillError
from ..journal import Spend
from ..types import Reply, Request

CERTAIN_AFTER = 8
"""Replies after which the dearest ratio of tokens to bytes seen so far, and a quarter more, stands for all."""
MARGIN = 1.25
TOKENS_A_MESSAGE = 16
"""Role marks and the like; chat templates take 3 to 10 tokens a message."""


class Budget(BaseModel):
    """The most that a run may spend, over all its starts: answers, judges and the evaluation's teacher together."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_cost_usd: float | None = Field(default=None, gt=0, description="dollars; needs a known price of every teacher")
    max_tokens: int | None = Field(default=None, ge=1, description="prompt and answer tokens")
    max_requests: int | None = Field(default=None, ge=1, description="requests sent, repeated ones too")

    @property
    def is_set(self) -> bool:
        return any(value is not None for value in self.model_dump().values())


class BudgetError(PotstillError):
    """The cap is reached: all that was paid for is kept, and a run with a higher cap goes on from there."""


class Cost(Protocol):
    """What tells a price: dollars for so many tokens, None where unknown."""

    def cost(self, prompt_tokens: int | None, completion_tokens: int | None) -> float | None: ...


class Amount(NamedTuple):
    """Dollars, tokens and requests."""

    cost_usd: float
    tokens: int
    requests: int

    def __add__(self, other: tuple[object, ...]) -> Amount:
        assert isinstance(other, Amount)
        return Amount(self.cost_usd + other.cost_usd, self.tokens + other.tokens, self.requests + other.requests)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.cost_usd - other.cost_usd, self.tokens - other.tokens, self.requests - other.requests)


NOTHING = Amount(0.0, 0, 0)


class Purse:
    """A run's money: what is spent, what is under way, and whether one more request fits. One for all its teachers."""

    def __init__(self, budget: Budget, before: Spend) -> None:
        self.budget = budget
        self.spent = Amount(before.cost_usd, before.prompt_tokens + before.completion_tokens, before.requests)
        self.under_way = NOTHING
        self.refused = 0
        self._held: dict[tuple[int, Request], Amount] = {}  # by whose price it is: two teachers may be asked the same
        self._replies = 0
        self._tokens_a_byte = 0.0

    def reserve(self, request: Request, price: Cost) -> bool:
        """Holds the most that sending this request once can cost; False when that could go over the cap."""
        if not self.budget.is_set:
            return True
        most = self._most(request, price)
        if self._is_over(self.spent + self.under_way + most):
            self.refused += 1
            return False
        self.under_way += most
        held = (id(price), request)
        self._held[held] = self._held.get(held, NOTHING) + most
        return True

    def settle(self, request: Request, reply: Reply, price: Cost) -> None:
        """Replaces what was held for a request by what it took; where a reply tells no tokens, what was held stays spent.

        `price` is the very object that the request was reserved with.
        """
        if not self.budget.is_set:
            return
        held = self._held.pop((id(price), request), NOTHING)
        self.under_way -= held
        known = reply.prompt_tokens is not None and reply.completion_tokens is not None
        tokens = (reply.prompt_tokens or 0) + (reply.completion_tokens or 0) if known or reply.error else held.tokens
        cost = held.cost_usd if reply.cost_usd is None else reply.cost_usd
        self.spent += Amount(cost, tokens, reply.attempts)
        if reply.prompt_tokens:
            self._replies += 1
            self._tokens_a_byte = max(self._tokens_a_byte, reply.prompt_tokens / max(1, _bytes(request)))

    def error(self, waiting: int | None = None) -> BudgetError:
        """What to say when nothing more fits."""
        caps: Mapping[str, float | int | None] = self.budget.model_dump()
        limits = ", ".join(f"budget.{name}={value:g}" for name, value in caps.items() if value is not None)
        rows = f"{waiting:,} rows wait" if waiting else "rows wait"
        return BudgetError(
            f"the budget is used up ({limits}): {self.spent.requests:,} requests, {self.spent.tokens:,} tokens and "
            f"${self.spent.cost_usd:,.4f} are spent, and one more request could go over; {rows}; every answer so far is kept: "
            "raise the budget and run again to go on"
        )

    def _most(self, request: Request, price: Cost) -> Amount:
        learned = self._replies >= CERTAIN_AFTER
        ratio = min(1.0, self._tokens_a_byte * MARGIN) if learned else 1.0
        prompt = int(_bytes(request) * ratio) + TOKENS_A_MESSAGE * len(request.messages)
        answer = request.sampling.max_tokens
        cost = price.cost(prompt, answer)
        if cost is None and self.budget.max_cost_usd is not None:
            raise JobError(
                "budget.max_cost_usd is set and a teacher's price is unknown; give it input_per_million and output_per_million, "
                "or use budget.max_tokens"
            )
        return Amount(cost or 0.0, prompt + answer, 1)

    def _is_over(self, amount: Amount) -> bool:
        caps = (self.budget.max_cost_usd, self.budget.max_tokens, self.budget.max_requests)
        return any(cap is not None and value > cap for cap, value in zip(caps, amount, strict=True))


def _bytes(request: Request) -> int:
    return sum(len(message.content.encode(errors="replace")) for message in request.messages) + len(request.schema or "")
