from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potstill.wire.limits import LONGEST_WAIT_S, Needs, Pace, ServerLimits, Window, retry_after, seconds_until

DATE = "Tue, 24 Nov 2026 10:00:00 GMT"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("20", 20),
        ("0", 0),
        ("1.5", 1.5),
        (" 3 ", 3),
        ("1s", 1),
        ("6m0s", 360),
        ("12ms", 0.012),
        ("1h2m3.5s", 3600),
        ("2m3.5s", 123.5),
        ("500us", 0.0005),
        ("1d", LONGEST_WAIT_S),
        ("2026-11-24T10:00:30Z", 30),
        ("2026-11-24T11:00:30.5+01:00", 30.5),
        ("Tue, 24 Nov 2026 10:01:00 GMT", 60),
        ("Tue, 24 Nov 2026 09:00:00 GMT", 0),
        ("1795514430", 30),
        ("1795514430000", 30),
        ("99999999", LONGEST_WAIT_S),
        ("-1", None),
        ("soon", None),
        ("", None),
        (None, None),
        ("1.2.3s", None),
        ("infinity", None),
        ("²", None),
    ],
)
def test_every_form_of_a_time_to_wait_is_read(value: str | None, seconds: float | None) -> None:
    assert seconds_until(value, DATE) == (seconds if seconds is None else pytest.approx(seconds))


def test_a_date_is_measured_by_the_servers_own_clock_so_that_ours_may_be_wrong() -> None:
    long_ago = datetime(2011, 1, 1, tzinfo=UTC)
    named = format_datetime(long_ago + timedelta(seconds=7), usegmt=True)
    assert seconds_until(named, format_datetime(long_ago, usegmt=True)) == 7
    assert seconds_until(named) == 0, "without a Date header only our own clock is left"


def test_the_exact_header_wins() -> None:
    assert retry_after({"retry-after-ms": "250", "Retry-After": "1"}) == 0.25
    assert retry_after({"retry-after-ms": "soon", "Retry-After": "1"}) == 1
    assert retry_after({}) is None


@given(st.text(max_size=40), st.one_of(st.none(), st.text(max_size=40)))
def test_no_header_is_so_odd_that_it_raises_or_waits_for_ever(value: str, date: str | None) -> None:
    seconds = seconds_until(value, date)
    assert seconds is None or 0 <= seconds <= LONGEST_WAIT_S


@pytest.mark.parametrize(("per_minute", "late"), [(60, 0.0), (60, 0.09), (7, 0.05), (3000, 0.003), (1, 0.0)])
def test_never_more_in_any_minute_than_the_limit(per_minute: int, late: float) -> None:
    pace, now, sent = Pace(per_minute), 1000.0, []
    while now < 1180.0:
        now = max(now, pace.ready_at) + late  # timers are late
        pace.spend(1, now)
        sent.append(now)
    windows = [sum(start <= other < start + 60 for other in sent) for start in sent[: len(sent) // 2]]
    assert max(windows) <= per_minute
    assert len(sent) >= 0.93 * min(per_minute * 3, 180 / (late or 1e-9)), "and not much less"


def test_tokens_that_were_not_used_are_given_back() -> None:
    pace = Pace(6000)
    pace.spend(1000, now=0.0)
    after = pace.ready_at
    pace.give_back(900)
    assert after == pytest.approx(10.0, abs=0.2)
    assert pace.ready_at == pytest.approx(1.0, abs=0.2)


def test_no_limit_never_waits() -> None:
    pace = Pace(None)
    pace.spend(10**9, now=5.0)
    assert pace.ready_at <= 5.0


def test_a_window_doubles_a_round_until_it_is_refused_and_then_grows_by_one_a_round() -> None:
    window = Window(ceiling=1000)
    assert window.size == 16
    _round(window)
    assert window.size == 32
    for number in range(44, 49):  # of the last 32 sent
        window.refused(number)
        window.back()
    assert window.size == 16, "five refusals of one round are one sign"
    while window.under_way > 16:
        window.back()
    _round(window)
    assert window.size == pytest.approx(17, abs=0.1)
    window.back()
    window.refused(window.send())
    assert window.size == pytest.approx(8.5, abs=0.1), "a refusal after the cut is a new sign"


def test_a_window_that_is_not_used_does_not_grow() -> None:
    window = Window(ceiling=100)
    for _ in range(50):
        window.send()
        window.answered()
        window.back()
    assert window.size == 16


def test_a_window_keeps_to_its_ceiling_and_never_closes() -> None:
    window = Window(ceiling=20)
    for _ in range(5):
        _round(window)
    assert window.size == 20
    for _ in range(10):
        window.refused(window.send())
    assert window.size == 1


def _round(window: Window) -> None:
    """As many replies as are under way, each followed by what then has room."""
    _fill(window)
    for _ in range(window.under_way):
        window.answered()
        window.back()
        _fill(window)


def _fill(window: Window) -> None:
    while window.has_room:
        window.send()


OPENAI = {
    "x-ratelimit-limit-requests": "100",
    "x-ratelimit-remaining-requests": "0",
    "x-ratelimit-reset-requests": "1m0s",
    "x-ratelimit-limit-tokens": "1000",
    "x-ratelimit-remaining-tokens": "500",
    "x-ratelimit-reset-tokens": "30s",
    "Date": DATE,
}


def test_what_is_left_grows_again_as_fast_as_the_server_tells() -> None:
    told = ServerLimits()
    mark = told.send(Needs(10, 20))
    told.heed(OPENAI, mark, now=50.0)
    assert told.ready_at(Needs(10, 20)) == pytest.approx(50.6), "one of 100 in a minute"
    assert told.ready_at(Needs(300, 300)) == pytest.approx(56.0), "100 tokens more, of 500 that come back in 30 s"
    assert told.ready_at(Needs(5000, 0)) == pytest.approx(80.0), "more than all is sent when all is there"


def test_what_was_sent_after_a_reply_left_is_taken_off() -> None:
    told = ServerLimits()
    mark = told.send(Needs())
    for _ in range(3):
        told.send(Needs())
    told.heed({**OPENAI, "x-ratelimit-remaining-requests": "3"}, mark, now=50.0)
    assert told.ready_at(Needs()) == pytest.approx(50.6)
    fresh = told.send(Needs())
    told.heed({**OPENAI, "x-ratelimit-remaining-requests": "3"}, fresh, now=51.0)
    assert told.ready_at(Needs()) == 51.0


def test_anthropics_limits_on_what_goes_in_and_what_comes_out_are_told_apart() -> None:
    told = ServerLimits()
    headers = {
        "anthropic-ratelimit-input-tokens-limit": "1000",
        "anthropic-ratelimit-input-tokens-remaining": "1000",
        "anthropic-ratelimit-input-tokens-reset": "2026-11-24T10:00:00Z",
        "anthropic-ratelimit-output-tokens-limit": "100",
        "anthropic-ratelimit-output-tokens-remaining": "0",
        "anthropic-ratelimit-output-tokens-reset": "2026-11-24T10:01:00Z",
        "Date": DATE,
    }
    told.heed(headers, told.send(Needs()), now=0.0)
    assert told.ready_at(Needs(900, 0)) == 0.0
    assert told.ready_at(Needs(900, 50)) == pytest.approx(30.0)


def test_without_a_limit_the_reset_is_waited_for() -> None:
    told = ServerLimits()
    headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "12"}
    told.heed(headers, told.send(Needs()), now=0.0)
    assert told.ready_at(Needs()) == 12.0


@pytest.mark.parametrize(
    "headers",
    [
        {"x-ratelimit-remaining-tokens": "-1", "x-ratelimit-limit-tokens": "-1", "x-ratelimit-reset-tokens": "0"},
        {"x-ratelimit-remaining-tokens": "0"},
        {"x-ratelimit-remaining-tokens": "none", "x-ratelimit-reset-tokens": "never"},
        {},
    ],
)
def test_headers_that_mean_nothing_hold_nothing_up(headers: dict[str, str]) -> None:
    told = ServerLimits()
    told.heed(headers, told.send(Needs(9, 9)), now=7.0)
    assert told.ready_at(Needs(10**6, 10**6)) <= 7.0
