"""A hard cap on what a run spends: nothing is asked that could go over it, counting what is under way.

    purse = Purse(Budget(max_cost_usd=5.0), spent_before)
    if purse.reserve(request, price):  ...  charged = purse.settle(request, reply, price)

A request is reserved at the most it can cost: its prompt's tokens, and the whole of its `max_tokens`. How many bytes a
prompt token takes is learned from the replies; until then every byte counts as a token, so the first ones are held dear.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field

from ..errors import JobError, PotstillError
from ..journal import Spend
from ..types import STOPPED, Reply, Request

CERTAIN_AFTER = 8
"""Replies after which the dearest ratio of tokens to bytes seen so far, and a quarter more, stands for all."""
MARGIN = 1.25
TOKENS_A_MESSAGE = 16
"""Role marks and the like; chat templates take 3 to 10 tokens a message."""
UNSEEN = Reply("", STOPPED, error="stopped while the answer was under way")
"""What came of a request that nobody waits for any more: what it takes is not known."""


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
    """Dollars (0 where no price is known), tokens of prompts and of answers, and requests."""

    cost_usd: float
    prompt_tokens: int
    completion_tokens: int
    requests: int

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: tuple[object, ...]) -> Amount:
        assert isinstance(other, Amount)
        return Amount(self[0] + other[0], self[1] + other[1], self[2] + other[2], self[3] + other[3])

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self[0] - other[0], self[1] - other[1], self[2] - other[2], self[3] - other[3])


NOTHING = Amount(0.0, 0, 0, 0)


class _Charge(NamedTuple):
    """What was taken; `is_estimate` where nobody told all of it, and `is_priced` where its dollars are known or estimated."""

    amount: Amount
    is_estimate: bool = False
    is_priced: bool = True

    def plus(self, other: _Charge) -> _Charge:
        return _Charge(self.amount + other.amount, self.is_estimate or other.is_estimate, self.is_priced and other.is_priced)


UNCHARGED = _Charge(NOTHING)


@dataclass(slots=True)
class _Row:
    """A request between its first reservation and its reply: what is held for attempts under way, and what others took."""

    is_priced: bool
    held: list[Amount] = field(default_factory=list)
    most: Amount = NOTHING
    """All that was ever held."""
    charge: _Charge = UNCHARGED
    """For the attempts that have ended."""


@dataclass(slots=True)
class _Lengths:
    """How long prompts are in one teacher's tokens: the most tokens for a byte, and beyond one a byte.

    A token holds a byte of the text at least, so what goes beyond is the teacher's own: its template, a prompt of its server.
    """

    replies: int = 0
    tokens_a_byte: float = 0.0
    beyond: int = 0

    def learn(self, request: Request, prompt_tokens: int) -> None:
        num_bytes = _bytes(request)
        self.replies += 1
        self.tokens_a_byte = max(self.tokens_a_byte, prompt_tokens / max(1, num_bytes))
        self.beyond = max(self.beyond, prompt_tokens - num_bytes)

    def most(self, request: Request) -> int:
        """The most tokens that a prompt can take, never fewer than were seen of the same prompt."""
        ratio = min(1.0, self.tokens_a_byte * MARGIN) if self.replies >= CERTAIN_AFTER else 1.0
        return int(_bytes(request) * ratio) + max(TOKENS_A_MESSAGE * len(request.messages), self.beyond)


UNSEEN_LENGTHS = _Lengths()


class Purse:
    """A run's money: what is spent, what is under way, and whether one more request fits. One for all its teachers.

    What a reply does not tell (no `usage`, a time-out, half a body) is charged at the most that it can have taken.
    """

    def __init__(self, budget: Budget, before: Spend) -> None:
        self.budget = budget
        self.spent = Amount(before.cost_usd, before.prompt_tokens, before.completion_tokens, before.requests)
        self.under_way = NOTHING
        self.refused = 0
        self._is_capped = budget.is_set
        self._rows: dict[tuple[int, Request], _Row] = {}  # by whose price it is: two teachers may be asked the same
        self._lengths: dict[int, _Lengths] = {}  # by whose price it is: each teacher has a tokenizer and a template of its own

    def reserve(self, request: Request, price: Cost) -> bool:
        """Holds the most that sending this request once can cost; False when that could go over the cap."""
        most, is_priced = self._most(request, price)
        if self._is_capped and self._is_over(self.spent + self.under_way + most):
            self.refused += 1
            return False
        row = self._rows.setdefault((id(price), request), _Row(is_priced))
        row.held.append(most)
        row.most += most
        self.under_way += most
        return True

    def ended(self, request: Request, attempt: Reply, price: Cost) -> bool:
        """Charges one attempt of a request that was reserved, the oldest of those under way; False when there is none.

        `price` is here and below the very object that the request was reserved with.
        """
        row = self._rows.get((id(price), request))
        if row is None or not row.held:
            return False
        held = row.held.pop(0)
        charge = _charged(attempt, held, 1, is_priced=row.is_priced)
        row.charge = row.charge.plus(charge)
        self.under_way -= held
        self.spent += charge.amount
        self._learn(request, attempt, price)
        return True

    def settle(self, request: Request, reply: Reply, price: Cost) -> Spend:
        """Charges a request that has its reply, in place of what is held for it; returns all that was charged for it.

        Where each of the reply's attempts has been told by `ended`, their sum stands; else the reply is taken at its word.
        """
        row = self._rows.pop((id(price), request), None) or _Row(is_priced=False)
        for held in row.held:
            self.under_way -= held
        charge = row.charge
        if charge.amount.requests != reply.attempts:
            charge = _charged(reply, row.most, reply.attempts, is_priced=row.is_priced)
            self.spent += charge.amount - row.charge.amount
            self._learn(request, reply, price)
        cost_usd, prompt_tokens, completion_tokens, requests = charge.amount
        failures = int(reply.error is not None)
        more = {"unpriced": int(not charge.is_priced), "requests": requests, "estimated": int(charge.is_estimate)}
        return Spend(1 - failures, failures, prompt_tokens, completion_tokens, cost_usd, **more)

    def give_back(self, request: Request, price: Cost) -> None:
        """Lets go of all that was held or charged for a request that was not sent."""
        row = self._rows.pop((id(price), request), None)
        if row is not None:
            self.spent -= row.charge.amount
            for held in row.held:
                self.under_way -= held

    def give_up(self, request: Request, price: Cost) -> int:
        """Charges the attempts of a request whose replies nobody will see; returns how many there were, earlier ones too."""
        while self.ended(request, UNSEEN, price):
            pass
        row = self._rows.get((id(price), request))
        return 0 if row is None else row.charge.amount.requests

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

    def _most(self, request: Request, price: Cost) -> tuple[Amount, bool]:
        """The most that sending a request once can take, and whether its price is known."""
        prompt = self._lengths.get(id(price), UNSEEN_LENGTHS).most(request)
        answer = request.sampling.max_tokens
        cost = price.cost(prompt, answer)
        if cost is None and self.budget.max_cost_usd is not None:
            raise JobError(
                "budget.max_cost_usd is set and a teacher's price is unknown; give it input_per_million and output_per_million, "
                "or use budget.max_tokens"
            )
        return Amount(cost or 0.0, prompt, answer, 1), cost is not None

    def _learn(self, request: Request, reply: Reply, price: Cost) -> None:
        if reply.prompt_tokens and reply.attempts == 1:  # those of several attempts are a sum
            self._lengths.setdefault(id(price), _Lengths()).learn(request, reply.prompt_tokens)

    def _is_over(self, amount: Amount) -> bool:
        caps = (self.budget.max_cost_usd, self.budget.max_tokens, self.budget.max_requests)
        values = (amount.cost_usd, amount.tokens, amount.requests)
        return any(cap is not None and value > cap for cap, value in zip(caps, values, strict=True))


def _charged(reply: Reply, most: Amount, requests: int, *, is_priced: bool) -> _Charge:
    """What a reply says that it took, and in place of what it does not say, the `most` that was held for it."""
    prompt, answer, cost = reply.prompt_tokens, reply.completion_tokens, reply.cost_usd
    is_free = reply.error is not None and cost == 0.0
    is_known = is_free or (prompt is not None and answer is not None)
    if not is_known:
        prompt = most.prompt_tokens if prompt is None else prompt
        answer = most.completion_tokens if answer is None else answer
    is_estimate = not is_known or (cost is None and is_priced)
    amount = Amount(most.cost_usd if cost is None else cost, prompt or 0, answer or 0, requests)
    return _Charge(amount, is_estimate, is_priced or cost is not None)


def _bytes(request: Request) -> int:
    return sum(len(message.content.encode(errors="replace")) for message in request.messages) + len(request.schema or "")
