"""What is held for a request, when it is let go, and what is charged where a reply does not tell."""

from __future__ import annotations

from functools import reduce

import pytest

from potstill.answers.budget import CERTAIN_AFTER, NOTHING, TOKENS_A_MESSAGE, Budget, Purse
from potstill.journal import Spend
from potstill.types import STOPPED, Message, Price, Reply, Request, Sampling, summed

PRICE = Price(1.0, 10.0)
REQUEST = Request("row", (Message("user", "x" * 84),), Sampling(max_tokens=50))
PROMPT = 84 + TOKENS_A_MESSAGE
MOST = (100 * 1.0 + 50 * 10.0) / 1e6
"""What the request is held at until tokens a byte are known: 100 prompt and 50 answer tokens."""
FREE = Reply("", "error", cost_usd=0.0, error="HTTP 429")
UNKNOWN = Reply("", "error", error="no answer within 120 s")
GOOD = Reply("yes", "stop", 20, 2, (20 * 1.0 + 2 * 10.0) / 1e6)


def _purse(**budget: float) -> Purse:
    return Purse(Budget(**budget), Spend())  # type: ignore[arg-type]


def _answered(purse: Purse, *attempts: Reply, price: Price = PRICE) -> Spend:
    """What is charged for a request with these attempts, the last one its reply, as a teacher that repeats tells it."""
    for attempt in attempts:
        assert purse.reserve(REQUEST, price)
        purse.ended(REQUEST, attempt, price)
    return purse.settle(REQUEST, reduce(summed, attempts), price)


def test_a_reply_that_tells_is_charged_as_it_says() -> None:
    purse = _purse()
    assert _answered(purse, GOOD) == Spend(1, 0, 20, 2, GOOD.cost_usd or 0, 0, 1, 0)
    assert (purse.spent.tokens, purse.under_way) == (22, NOTHING)


@pytest.mark.parametrize("budget", [{}, {"max_tokens": 1000}], ids=["no budget", "budget"])
def test_a_reply_that_does_not_tell_is_charged_at_the_most_and_says_so(budget: dict[str, float]) -> None:
    silent = Reply("yes")
    purse = _purse(**budget)
    assert _answered(purse, silent) == Spend(1, 0, PROMPT, 50, pytest.approx(MOST), 0, 1, 1)  # type: ignore[arg-type]
    assert purse.spent.tokens == PROMPT + 50
    without_price = _answered(_purse(**budget), silent, price=Price(None, None))
    assert without_price == Spend(1, 0, PROMPT, 50, 0.0, unpriced=1, requests=1, estimated=1)


def test_a_teacher_that_tells_nothing_of_its_attempts_is_charged_by_its_reply() -> None:
    purse = _purse(max_tokens=10_000)
    for _ in range(3):
        assert purse.reserve(REQUEST, PRICE)
    assert purse.settle(REQUEST, Reply("yes", "stop", 60, 6, 0.5, attempts=3), PRICE) == Spend(1, 0, 60, 6, 0.5, 0, 3, 0)
    for _ in range(3):
        assert purse.reserve(REQUEST, PRICE)
    lost = purse.settle(REQUEST, Reply("", "error", attempts=3, error="it is down"), PRICE)
    assert (lost.prompt_tokens, lost.completion_tokens, lost.requests, lost.estimated) == (3 * PROMPT, 150, 3, 1)
    assert (purse.under_way.tokens, purse.under_way.requests) == (0, 0)


def test_what_is_held_for_a_free_attempt_is_let_go_at_once() -> None:
    purse = _purse(max_cost_usd=MOST * 1.5)
    for _ in range(4):
        assert purse.reserve(REQUEST, PRICE), "four worst cases would not fit, one does"
        assert purse.under_way.cost_usd == pytest.approx(MOST)
        purse.ended(REQUEST, FREE, PRICE)
        assert (purse.under_way.tokens, purse.spent.cost_usd, purse.spent.tokens) == (0, 0.0, 0)
    assert purse.spent.requests == 4


def test_what_is_held_for_an_attempt_of_unknown_cost_stays_spent() -> None:
    purse = _purse(max_cost_usd=MOST * 2.5)
    charged = _answered(purse, FREE, UNKNOWN, GOOD)
    assert charged.cost_usd == pytest.approx(MOST + (GOOD.cost_usd or 0))
    assert (charged.prompt_tokens, charged.completion_tokens) == (PROMPT + 20, 52)
    assert (charged.answers, charged.requests, charged.estimated, charged.unpriced) == (1, 3, 1, 0)
    assert purse.reserve(REQUEST, PRICE)
    assert not purse.reserve(REQUEST, PRICE)


def test_a_second_attempt_that_was_reserved_and_never_sent_costs_nothing() -> None:
    purse = _purse(max_tokens=10_000)
    purse.reserve(REQUEST, PRICE)
    purse.ended(REQUEST, FREE, PRICE)
    purse.reserve(REQUEST, PRICE)
    stopped = Reply("", STOPPED, cost_usd=0.0, error="HTTP 429")
    assert purse.settle(REQUEST, stopped, PRICE) == Spend(0, 1, 0, 0, 0.0, 0, 1, 0)
    assert (purse.under_way, purse.spent.requests) == (NOTHING, 1)


def test_a_request_that_is_given_back_leaves_nothing_behind_and_one_given_up_all() -> None:
    purse = _purse(max_tokens=10_000)
    purse.reserve(REQUEST, PRICE)
    purse.give_back(REQUEST, PRICE)
    assert (purse.under_way, purse.spent) == (NOTHING, NOTHING)
    purse.reserve(REQUEST, PRICE)
    purse.ended(REQUEST, FREE, PRICE)
    purse.reserve(REQUEST, PRICE)
    assert purse.give_up(REQUEST, PRICE) == 2
    assert (purse.under_way, purse.spent.tokens, purse.spent.requests) == (NOTHING, PROMPT + 50, 2)


def test_tokens_a_byte_are_learned_from_single_attempts_alone() -> None:
    purse = _purse(max_tokens=10**6)
    for _ in range(CERTAIN_AFTER):
        _answered(purse, GOOD)
        purse.reserve(REQUEST, PRICE)
        purse.settle(REQUEST, Reply("yes", "stop", 2000, 2, 0.1, attempts=100), PRICE)
    purse.reserve(REQUEST, PRICE)
    assert purse.under_way.prompt_tokens == int(20 * 1.25) + TOKENS_A_MESSAGE


def test_a_purse_goes_on_with_what_was_charged_before() -> None:
    before = _answered(_purse(), UNKNOWN)
    purse = Purse(Budget(max_tokens=2 * (PROMPT + 50)), before)
    assert purse.reserve(REQUEST, PRICE)
    assert not purse.reserve(REQUEST, PRICE)
    assert "1 requests, 150 tokens and $0.0006 are spent" in str(purse.error())


def test_each_teachers_tokens_a_byte_are_its_own() -> None:
    purse = _purse(max_tokens=10**6)
    other = Price(5.0, 5.0)
    for _ in range(CERTAIN_AFTER):
        _answered(purse, GOOD)
    purse.reserve(REQUEST, other)
    assert purse.under_way.prompt_tokens == PROMPT, "nothing is known of the other's tokenizer"


def test_a_prompt_is_never_held_below_what_it_was_seen_to_take() -> None:
    purse = _purse(max_tokens=10**6)
    served = Reply("yes", "stop", 384, 2, 0.001)  # the server puts 300 tokens of its own before each prompt
    for _ in range(CERTAIN_AFTER):
        _answered(purse, served)
    purse.reserve(REQUEST, PRICE)
    assert purse.under_way.prompt_tokens >= 384
    longer = Request("row", (Message("user", "x" * 8400),), Sampling(max_tokens=50))
    before = purse.under_way.prompt_tokens
    purse.reserve(longer, PRICE)
    assert purse.under_way.prompt_tokens - before == 8400 + 300, "what is the server's own does not grow with the prompt"
