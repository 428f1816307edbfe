"""Personal data and secrets: what is found, and what looks like it and is none."""

from __future__ import annotations

import string
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potstill.text.personal import KINDS, find, luhn, redacted

LETTERS = string.ascii_letters + string.digits
KEY = "Ab3dEf6hIj9lMn2pQr5tUv8xYz1bCd4f"  # made here; opens nothing


def kinds(text: str) -> list[str]:
    return [found.kind for found in find(text)]


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Mail ann.lee+shop@corp.co.uk, please.", "Mail <EMAIL>, please."),
        ("<ann@corp.io>", "<<EMAIL>>"),
        ("jürgen@müller.de", "<EMAIL>"),
        ("Call +49 151 23456789.", "Call <PHONE>."),
        ("+44 20 7493 4545", "<PHONE>"),
        ("+1 (415) 286-4371", "<PHONE>"),
        ("+33 1 84 82 49 09", "<PHONE>"),
        ("+14152864371", "<PHONE>"),
        ("+44 20 8008 1234", "<PHONE>"),
        ("448-200-2345", "<PHONE>"),
        ("(415) 286-4371", "<PHONE>"),
        ("phone_number=415-286-4371, x", "phone_number=<PHONE>, x"),
        ("415.286.4371", "<PHONE>"),
        ("1-415-286-4371", "<PHONE>"),
        ("020 7493 4545", "<PHONE>"),
        ("0151 23456789", "<PHONE>"),
        ("0151/23456789", "<PHONE>"),
        ("(030) 2345 6789", "<PHONE>"),
        ("06 12 34 56 79", "<PHONE>"),
        ("06.12.34.56.79", "<PHONE>"),
        ("my phone is 4152864371", "my phone is <PHONE>"),
        ("Tel: 286-4371", "Tel: <PHONE>"),
        ("Card 4111 1111 1111 1111, 12/30", "Card <CARD>, 12/30"),
        ("5555555555554444", "<CARD>"),
        ("3782-822463-10005", "<CARD>"),
        ("DE89 3704 0044 0532 0130 00 BY FRIDAY", "<IBAN> BY FRIDAY"),
        ("GB82WEST12345698765432.", "<IBAN>."),
        ("SSN 219-09-9999", "SSN <SSN>"),
        (f"sk-proj-{KEY}", "<KEY>"),
        (f'key="sk-ant-api03-{KEY}"', 'key="<KEY>"'),
        (f"hf_{KEY}", "<KEY>"),
        (f"ghp_{KEY}abcd", "<KEY>"),
        ("AKIA" + "IOSFODNN7EXAMPL2", "<KEY>"),
        (f"Authorization: Bearer {KEY}", "Authorization: Bearer <KEY>"),
        (f"eyJ{KEY}.eyJ{KEY}.{KEY}", "<KEY>"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIabc+/=\n-----END RSA PRIVATE KEY-----\nok", "<KEY>\nok"),
        ("postgres://app:s3cretly@db/x", "postgres://app:<PASSWORD>@db/x"),
        ("My password is Summer2024!", "My password is <PASSWORD>"),
        ('{"api_key": "abc123def456"}', '{"api_key": "<PASSWORD>"}'),
        ("From 8.8.8.8 to 2001:db8:0:0:8:800:200c:417a", "From <IP> to 2001:db8:0:0:8:800:200c:417a"),
    ],
)
def test_what_is_found_is_replaced_by_its_kind(text: str, clean: str) -> None:
    assert redacted(text, find(text)) == clean


@pytest.mark.parametrize(
    "text",
    [
        "Call our hotline 0800 1234 or 0800 123 4567.",
        "Phone 1-800-555-0199, +1 833-625-6111, (888) 875-8439, +44 800 123 4567",
        "Mail you@example.com, a@b.test, root@localhost, x@mail.example.org",
        "@ann said hi; 3 @ $5; a@b",
        "Order 4012888888881882 was sent.",  # the check digit is wrong
        "Order number 2024-0012-3456-7890",
        "Order 000123456789, invoice 1000200030004000",
        "4444 4444 4444 4444 and 0000000000000000",
        "1234567890123456789012",
        "On 2019-03-08 20:30 and 08-03-2019, 01.02.2019 03.04.2020, 12/24/2023",
        "ISBN 978-3-16-148410-0, ISBN 0-306-40615-2, ISBN 0306406152",
        "Version 10.15.7.1, v2.31.0, Python 3.11.7, release 1.2.3.4",
        "He has 1000000 + 2345678 = 3345678 apples, 12 +12345678 pears and 1,234,567.89 plums",
        "3.14159265358979 and 0.0012345678",
        "1 2 3 4 5 6 7 8 9 10",
        "2017 -- 18, 1999 - 2000, 10000 20000 30000",
        "250 300 4000 m",
        "Flight AB1234 at 10:20:30, room 12-345-678",
        "a token is a word; the secret: entailment; password: required; api key = <YOUR KEY>",
        "The password is correct and the access token is valid",
        "sk-learn-estimators-and-pipelines, scikit-learn",
        "password: env:PASSWORD1, token=${TOKEN1}",
        "std::vector<int>, 10:20:30:40:50:60, 192.168.0.1, 127.0.0.1",
        "EU123456789012345678, AT61 1904 3002 3457 3202",  # no such country; the check digits are wrong
        "000-12-3456, 666-12-3456, 900-12-3456, 123-45-6789",
        "Call FindEvents(date=2019-03-08, city=Los Angeles)",
        "tel aviv 2019-03-08",
    ],
)
def test_what_only_looks_like_it_is_left_alone(text: str) -> None:
    assert kinds(text) == []


def test_only_the_kinds_asked_for_are_found() -> None:
    text = "ann@corp.io, +49 151 23456789"
    assert [found.kind for found in find(text, ("phone",))] == ["phone"]
    assert kinds(text) == ["email", "phone"]


def test_places_do_not_overlap_and_the_first_kind_wins() -> None:
    text = f"https://ann:pass{KEY}@corp.io and password=sk-{KEY}"
    found = find(text, KINDS)
    assert all(one.end <= other.start for one, other in pairwise(found))
    assert KEY not in redacted(text, found)


@given(st.text(alphabet="0123456789", min_size=1, max_size=18))
def test_exactly_one_last_digit_checks(digits: str) -> None:
    assert sum(luhn(digits + last) for last in "0123456789") == 1


@given(st.text() | st.text(alphabet="0123456789+-(). /@:abcAB\n", max_size=80))
def test_any_text_can_be_searched_and_is_clean_afterwards(text: str) -> None:
    found = find(text)
    assert all(0 <= one.start < one.end <= len(text) for one in found)
    assert found == sorted(found, key=lambda one: one.start)
    if not found:
        assert redacted(text, found) == text


@given(st.integers(2, 9), st.integers(0, 99), st.integers(2, 9), st.integers(0, 99), st.integers(0, 9999), st.sampled_from("-."))
def test_every_american_number_but_toll_free_and_made_up_ones_is_found(
    first: int, area: int, second: int, exchange: int, line: int, sign: str
) -> None:
    code, office = f"{first}{area:02}", f"{second}{exchange:02}"
    special = (
        code in ("800", "888", "877", "866", "855", "844", "833", "822", "900") or office == "555" or len(set(code + office)) == 1
    )
    text = f"at {code}{sign}{office}{sign}{line:04} today"
    assert special or kinds(text) == ["phone"]


def test_long_texts_without_any_sign_cost_little_and_hostile_ones_end() -> None:
    for hostile in (
        "a." * 20_000 + "@",
        "1" * 50_000,
        "1-" * 20_000,
        "+1 " * 20_000,
        "a@" * 20_000,
        "password is " * 5_000,
        "a@b.co " * 10_000,
    ):
        find(hostile)
