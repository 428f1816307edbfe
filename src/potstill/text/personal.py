"""Finds personal data and secrets in a text: e-mail addresses, phone, card and account numbers, keys, tokens, passwords.

    found = find("Mail ann@corp.io or call +49 151 23456789", ("email", "phone"))
    redacted(text, found)                                      # 'Mail <EMAIL> or call <PHONE>'

A pattern is worth only what it leaves alone. So check digits are checked, and dates, order numbers, the numbers of word
problems, ISBNs, version numbers, toll-free hotlines and addresses made for documentation are not found. What is found is never
shown. A name or a street is not found at all: that takes a model, not a pattern.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Literal, NamedTuple, get_args

Kind = Literal["key", "password", "email", "iban", "card", "ssn", "phone", "ip"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""In the order in which they are looked for, the surest first: part of an account number may look like a phone number."""
NAMES = {
    "key": "keys and tokens",
    "password": "passwords",
    "email": "e-mail addresses",
    "iban": "bank accounts (IBAN)",
    "card": "card numbers",
    "ssn": "US social security numbers",
    "phone": "phone numbers",
    "ip": "IP addresses",
}


class Found(NamedTuple):
    """One place in a text."""

    kind: Kind
    start: int
    end: int


# Cheap signs first: most texts have none of them, and the patterns need not look at all the others hold.
BEFORE, BEHIND = 48, 36
_SEVEN_DIGITS = re.compile(r"\d(?:[^\w\n]{0,3}\d){6}")

_EMAIL = re.compile(r"(?<![\w.%+-])[^\W_][\w.%+'-]{0,63}@((?:[^\W_](?:[\w-]{0,61}[^\W_])?\.)+[^\W\d_]{2,24})(?![\w-]|\.\w)")
_RESERVED_DOMAIN = re.compile(r"(?:.*\.)?(?:example(?:\.(?:com|org|net|edu))?|test|invalid|localhost|local)\Z", re.IGNORECASE)

_CARD = re.compile(
    r"(?<![\w.,$€£+-])(?<!\d )(?:\d{4}(?P<a>[ -])\d{4}(?P=a)\d{4}(?P=a)\d{1,7}|\d{4}(?P<b>[ -])\d{6}(?P=b)\d{4,5}|\d{13,19})"
    r"(?![\w]|[.,]\d|[ -]\d)"
)
_ISSUER = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|(?:6011|65\d\d|64[4-9]\d)\d{12}|35\d{14}|3(?:0[0-5]|[68]\d)\d{11}|62\d{14,17}"
)
_SSN = re.compile(r"(?<![\w.-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-]|\.\d)")

_SPECIMEN_SSNS = ("123-45-6789", "078-05-1120")

# Phones: +49 151 23456789; (415) 555-1234; 020 7946 0958 and 06 12 34 56 78; and any number that is said to be one.
_ABROAD = re.compile(r"(?<![\w+])\+\d{1,3}[ .-]?(?:\(0?\d{1,4}\)[ .-]?)?\d{1,5}(?:[ .\-/]?\d{1,5}){1,6}(?!\w|[.,]\d)")
_AMERICAN = re.compile(r"(?<![\w.$+-])(?:1[ .-])?(?:\([2-9]\d\d\) ?|[2-9]\d\d[.-])[2-9]\d\d[ .-]\d{4}(?!\w|-\d|\.\d)")
_NATIONAL = re.compile(
    r"(?<![\w.,$€£:+/-])(?:\(0[1-9]\d{0,3}\)|(?:00)?[ ]?0[1-9]\d{0,3})[ /-]\d{2,8}(?:[ -]\d{2,6}){0,4}(?!\w|[.,:/]\d|-\d)"
    r"|(?<![\w.,$€£:+/-])0[1-9](?P<gap>[ .])\d\d(?:(?P=gap)\d\d){3}(?!\w|[.,:/ ]\d)"
)
_SAID = re.compile(
    r"\b(?:(?:tele)?phone|tel|mobile|cell|fax|whatsapp|(?:call|text|reach) (?:me|us|him|her|them) (?:at|on)|number is)"
    r"[^\d\n]{0,15}?(?P<number>[+(]?\d[\d ().\-]{5,17}\d)(?!\w|[.,]\d)",
    re.IGNORECASE,
)
_DATE = re.compile(r"(?:19|20)\d\d[-./ ]\d{1,2}[-./ ]\d{1,2}\b|\d{1,2}[-./ ]\d{1,2}[-./ ](?:19|20)\d\d\b")
_AMERICAN_FREE = r"1?(?:8(?:00|88|77|66|55|44|33|22)|900)\d{7}"
_SHORT_COUNTRY = r"(?:7|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58])"
_TOLL_FREE = re.compile(rf"{_AMERICAN_FREE}|0(?:800|808|900|180\d)\d{{3,9}}")
_TOLL_FREE_ABROAD = re.compile(
    rf"(?:00)?(?:{_AMERICAN_FREE}|(?:{_SHORT_COUNTRY}|(?!1|{_SHORT_COUNTRY})\d{{3}})0?(?:800|808|900|180\d)\d{{3,9}})"
)
_PLACEHOLDER_PHONE = re.compile(r"1?\d{3}55501\d\d|(\d)\1+|0?123456789?0?")

_IBAN_LENGTHS = {
    **dict.fromkeys(("NO",), 15),
    **dict.fromkeys(("BE",), 16),
    **dict.fromkeys(("DK", "FI", "FO", "GL", "NL"), 18),
    **dict.fromkeys(("MK", "SI"), 19),
    **dict.fromkeys(("AT", "BA", "EE", "KZ", "LT", "LU", "XK"), 20),
    **dict.fromkeys(("CH", "HR", "LI", "LV"), 21),
    **dict.fromkeys(("BG", "BH", "CR", "DE", "GB", "GE", "IE", "ME", "RS", "VA"), 22),
    **dict.fromkeys(("AE", "GI", "IL", "IQ", "TL"), 23),
    **dict.fromkeys(("AD", "CZ", "ES", "MD", "PK", "RO", "SA", "SE", "SK", "TN"), 24),
    **dict.fromkeys(("PT", "ST"), 25),
    **dict.fromkeys(("IS", "TR"), 26),
    **dict.fromkeys(("FR", "GR", "IT", "MC", "MR", "SM"), 27),
    **dict.fromkeys(("AL", "AZ", "BY", "CY", "DO", "GT", "HU", "LB", "PL", "SV"), 28),
    **dict.fromkeys(("BR", "EG", "PS", "QA", "UA"), 29),
    **dict.fromkeys(("JO", "KW", "MU"), 30),
    **dict.fromkeys(("MT", "SC"), 31),
    **dict.fromkeys(("LC",), 32),
}
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d\d(?: ?[A-Z0-9]){11,28}")

_LONG_WORD = re.compile(r"\S{15,}")
_KEY = re.compile(
    r"(?<![\w-])(?:"
    r"sk-(?:[a-z]+[0-9]*-)*[A-Za-z0-9_-]{20,}|(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{16,}|hf_[A-Za-z0-9]{30,}"
    r"|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{22,}|glpat-[\w-]{20,}|(?:AKIA|ASIA)[0-9A-Z]{16}|AIza[\w-]{35}|ya29\.[\w-]{20,}"
    r"|xox[abeoprs]-[A-Za-z0-9-]{10,}|xapp-\d-[A-Za-z0-9-]{20,}|SG\.[\w-]{16,}\.[\w-]{16,}|npm_[A-Za-z0-9]{36}|pypi-[\w-]{50,}"
    r"|dop_v1_[a-f0-9]{64}|dapi[a-f0-9]{32}|nvapi-[\w-]{40,}|gsk_[A-Za-z0-9]{40,}"
    r"|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}|(?<=earer )[A-Za-z0-9._~+/-]{20,}=*)"  # a JSON web token; a Bearer value
)
_PRIVATE_KEY = re.compile(
    r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----(?:[A-Za-z0-9+/=\s:,-]|\\n)*?(?:-----END (?:[A-Z]+ )*PRIVATE KEY-----|\Z)"
)
_URL_PASSWORD = re.compile(r"[a-z][a-z0-9+]{1,15}://[^\s:/@]{1,64}:([^\s:/@]{3,64})@")
_SECRET_WORDS = ("passw", "pwd", "secret", "token", "api")
_PASSWORD = re.compile(
    r"\b(?:password|passwort|passwd|pwd|secret|(?:api|access|secret)[ _-]?key|(?:access|auth|api)[ _-]?token)[\"']?"
    r"(?:\s+is\s*:?|\s*[:=])\s*(?P<value>[^\s<>{}$]{6,128})",
    re.IGNORECASE,
)
_DIGIT, _LETTER = re.compile(r"\d"), re.compile(r"[^\W\d_]")
_IP = re.compile(r"(?<![\w.:-])(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{0,4}){4,7})(?![\w:-]|\.\d)")
_IP_SIGN = re.compile(r"\d\.\d{1,3}\.\d|:[0-9A-Fa-f]{0,4}:[0-9A-Fa-f]{0,4}:")
_VERSION = re.compile(r"(?:version|release|firmware|build|v)[ .:]{0,2}\Z", re.IGNORECASE)


def find(text: str, kinds: Sequence[Kind] = KINDS) -> list[Found]:
    """Everything of these kinds in a text, in order, no two overlapping."""
    taken: list[Found] = []
    places = bytearray()  # made when it is needed: most texts hold nothing
    windows = _around_numbers(text)
    for kind in (kind for kind in KINDS if kind in kinds):
        spans = chain.from_iterable(_IN_NUMBERS[kind](text, *window) for window in windows) if kind in _IN_NUMBERS else ()
        for start, end in chain(spans, _IN_WORDS[kind](text) if kind in _IN_WORDS else ()):
            places = places or bytearray(len(text))
            if not any(places[start:end]):
                places[start:end] = b"\1" * (end - start)
                taken.append(Found(kind, start, end))
    return sorted(taken, key=lambda found: found.start)


def redacted(text: str, found: Sequence[Found]) -> str:
    """The text with each place replaced by its kind in capitals.

    >>> redacted("Mail ann@corp.io now", find("Mail ann@corp.io now"))
    'Mail <EMAIL> now'
    """
    parts, at = [], 0
    for one in found:
        parts += [text[at : one.start], f"<{one.kind.upper()}>"]
        at = one.end
    return "".join([*parts, text[at:]])


def _around_numbers(text: str) -> list[tuple[int, int]]:
    """The stretches around seven digits in a row, where numbers of phones, cards and accounts may stand."""
    windows: list[tuple[int, int]] = []
    for hit in _SEVEN_DIGITS.finditer(text):
        first, last = max(0, hit.start() - BEFORE), min(len(text), hit.end() + BEHIND)
        if windows and first <= windows[-1][1]:
            windows[-1] = (windows[-1][0], last)
        else:
            windows.append((first, last))
    return windows


def luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of the others (ISO/IEC 7812).

    >>> luhn("4111111111111111"), luhn("4111111111111112")
    (True, False)
    """
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits))]
    return sum(number - 9 if number > 9 else number for number in doubled) % 10 == 0


def _emails(text: str) -> Iterator[tuple[int, int]]:
    if "@" in text:
        yield from (hit.span() for hit in _EMAIL.finditer(text) if not _RESERVED_DOMAIN.match(hit[1]))


def _phones(text: str, first: int, last: int) -> Iterator[tuple[int, int]]:
    for pattern, fewest, most in ((_ABROAD, 8, 15), (_AMERICAN, 10, 11), (_NATIONAL, 9, 13)):
        for hit in pattern.finditer(text, first, last):
            if fewest <= len(_digits(hit[0])) <= most and _is_phone(hit[0]) and not (pattern is _ABROAD and _is_sum(text, hit)):
                yield hit.span()
    for hit in _SAID.finditer(text, first, last):
        number = hit["number"]
        if (len(_digits(number)) >= 9 or re.fullmatch(r"\d{3}[ .-]\d{4}", number)) and _is_phone(number):
            yield hit.span("number")


def _is_phone(number: str) -> bool:
    digits = _digits(number)
    toll_free = _TOLL_FREE_ABROAD if number.startswith("+") or digits.startswith("00") else _TOLL_FREE
    return not (_DATE.match(number) or toll_free.fullmatch(digits) or _PLACEHOLDER_PHONE.fullmatch(digits))


def _is_sum(text: str, hit: re.Match[str]) -> bool:
    """Whether the plus adds: a number or bracket stands before it, or nothing groups the digits behind it."""
    before = text[max(0, hit.start() - 3) : hit.start()].rstrip()
    return before[-1:].isdigit() or before[-1:] in (")", "=") or before[-1:] == "x"


def _cards(text: str, first: int, last: int) -> Iterator[tuple[int, int]]:
    for hit in _CARD.finditer(text, first, last):
        digits = _digits(hit[0])
        if _ISSUER.fullmatch(digits) and luhn(digits) and len(set(digits)) > 1:
            yield hit.span()


def _ssns(text: str, first: int, last: int) -> Iterator[tuple[int, int]]:
    yield from (hit.span() for hit in _SSN.finditer(text, first, last) if hit[0] not in _SPECIMEN_SSNS)


def _ibans(text: str, first: int, last: int) -> Iterator[tuple[int, int]]:
    for hit in _IBAN.finditer(text, first, last):
        kept, size = "", _IBAN_LENGTHS.get(hit[0][:2])
        for place in range(hit.start(), hit.end()):
            kept += text[place].strip()
            if len(kept) == size:
                ends = not text[place + 1 : place + 2].isalnum()
                if ends and int("".join(str(int(sign, 36)) for sign in kept[4:] + kept[:4])) % 97 == 1:
                    yield hit.start(), place + 1
                break


def _keys(text: str) -> Iterator[tuple[int, int]]:
    for word in _LONG_WORD.finditer(text):
        if _is_mixed(word[0]):
            yield from (hit.span() for hit in _KEY.finditer(text, word.start(), word.end()) if _is_mixed(hit[0]))
    if "PRIVATE KEY" in text:
        yield from (hit.span() for hit in _PRIVATE_KEY.finditer(text))


def _passwords(text: str) -> Iterator[tuple[int, int]]:
    if "://" in text:
        yield from (hit.span(1) for hit in _URL_PASSWORD.finditer(text))
    folded = text.lower()
    if any(word in folded for word in _SECRET_WORDS):
        for hit in _PASSWORD.finditer(text):
            value = hit["value"].strip("\"'`,;.)")
            if len(value) >= 6 and _is_mixed(value) and not value.lower().startswith(("env:", "your", "xxx", "http")):
                start = hit.start("value") + hit["value"].index(value)
                yield start, start + len(value)


def _ips(text: str) -> Iterator[tuple[int, int]]:
    if not _IP_SIGN.search(text):
        return
    for hit in _IP.finditer(text):
        if _VERSION.search(text[max(0, hit.start() - 12) : hit.start()]):
            continue
        try:
            place = ipaddress.ip_address(hit[0])
        except ValueError:
            continue
        if place.is_global:
            yield hit.span()


def _digits(text: str) -> str:
    return "".join(sign for sign in text if sign.isdigit())


def _is_mixed(text: str) -> bool:
    """Whether there are letters and digits in it: a word is no key."""
    return _DIGIT.search(text) is not None and _LETTER.search(text) is not None


_IN_NUMBERS: dict[str, Callable[[str, int, int], Iterator[tuple[int, int]]]] = {
    "phone": _phones,
    "card": _cards,
    "iban": _ibans,
    "ssn": _ssns,
}
_IN_WORDS: dict[str, Callable[[str], Iterator[tuple[int, int]]]] = {
    "email": _emails,
    "key": _keys,
    "password": _passwords,
    "ip": _ips,
}
