"""Texts compared as people compare them: normalised, as words of any script, and whether a text states a value."""

from __future__ import annotations

import re
import string
import unicodedata

# Thai and Lao, Myanmar, Khmer, kana, Han: written without spaces between words.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_UNSPACED_LETTER = re.compile(f"[{UNSPACED}]")
_AFTER_UNSPACED = re.compile(rf"(?<=[{UNSPACED}])(?=[^\W{UNSPACED}])")
_ASCII_WORD = re.compile(r"[a-z0-9]+")
_THINKING = re.compile(r"\A\s*<think>.*?(?:</think>|\Z)", re.DOTALL)
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_NUMBER_MARK = ".,:"


def normalised(text: str) -> str:
    """NFKC, casefolded, white space collapsed: two texts that a reader takes for the same are the same.

    >>> normalised("  Ｆｕｌｌ\\u00a0Width\\n STRASSE ") == normalised("full width straße")
    True
    """
    if text.isascii():  # the same, several times faster
        return " ".join(text.lower().split())
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.split())


def words(text: str) -> list[str]:
    """The words of a text in any script; where a script has no spaces, each letter with its marks is a word.

    >>> words("Don't go - 3 times!"), words("ไม่ OK")
    (['don', 't', 'go', '3', 'times'], ['ไ', 'ม่', 'ok'])
    """
    folded = normalised(text)
    if folded.isascii():
        return _ASCII_WORD.findall(folded)
    if _UNSPACED_LETTER.search(folded):
        folded = _AFTER_UNSPACED.sub(" ", folded)
    return folded.translate(_SPREAD).split()


def count_words(text: str) -> int:
    """How many words a reader counts: what stands between spaces; where a script has none, its letters.

    >>> count_words("Don't go - 3 times!"), count_words("แมว ok")
    (4, 4)
    """
    return sum(len(words(part)) if _UNSPACED_LETTER.search(part) else any(map(str.isalnum, part)) for part in text.split())


class _Spread(dict[int, str]):
    """What each letter becomes where a text is spread out into words; found when the letter is first met.

    For `str.translate`, which takes a quarter of the time of a loop over the letters.
    """

    def __missing__(self, code: int) -> str:
        letter = chr(code)
        category = unicodedata.category(letter)[0]
        spread = letter if category in "LMN" else " "
        if category in "LN" and _UNSPACED_LETTER.match(letter):
            spread = f" {letter}"
        self[code] = spread
        return spread


_SPREAD = _Spread()


def without_thinking(text: str) -> str:
    """The text after a reasoning model's leading <think> block; nothing when the block never ends.

    >>> without_thinking("<think>Hm, 3 or 4?</think> 4")
    '4'
    """
    return _THINKING.sub("", text).strip()


def squad_form(text: str) -> str:
    """The form in which SQuAD compares answers (Rajpurkar et al. 2016): lower case, no punctuation, no articles.

    Two changes to the official script, so that a wrong number stays wrong: a decimal point between digits and a minus
    before a number stay. An answer that is nothing but an article or punctuation keeps it.

    >>> squad_form("The Eiffel Tower."), squad_form("-3.5"), squad_form("1,200"), squad_form("A")
    ('eiffel tower', '-3.5', '1200', 'a')
    """
    folded = _THOUSANDS.sub("", normalised(text))
    kept = "".join(letter for index, letter in enumerate(folded) if not _is_punctuation(folded, index))
    plain = " ".join(kept.split())
    return " ".join(_ARTICLE.sub(" ", plain).split()) or plain or folded


def _is_punctuation(text: str, index: int) -> bool:
    letter = text[index]
    before, after = text[index - 1 : index], text[index + 1 : index + 2]
    if letter == "." and before.isdigit() and after.isdigit():
        return False
    if letter in "-−" and after.isdigit() and not before.strip():
        return False
    return letter in string.punctuation or unicodedata.category(letter)[0] == "P"


def states(text: str, value: str) -> bool:
    """Whether a text says a value: apart from case and white space, as a whole word, a number as a whole number.

    >>> states("It costs $10 at 8:45 PM.", "8:45 pm"), states("It costs $100.", "$10"), states("1.5 kg", "5 kg")
    (True, False, False)
    """
    where, what = normalised(text), normalised(value)
    if not what:
        return True
    start = where.find(what)
    while start >= 0:
        end = start + len(what)
        if not _runs_on(where[:start][-2:][::-1], what[0]) and not _runs_on(where[end : end + 2], what[-1]):
            return True
        start = where.find(what, start + 1)
    return False


def _runs_on(outside: str, edge: str) -> bool:
    """Whether the word or number at a value's edge goes on outside it; `outside` is the two letters beyond, nearest first."""
    nearest, beyond = outside[:1], outside[1:2]
    if edge.isdigit() and nearest and nearest in _NUMBER_MARK:
        return beyond.isdigit()
    if _UNSPACED_LETTER.match(edge) or not nearest or _UNSPACED_LETTER.match(nearest):
        return False
    return edge.isalnum() and nearest.isalnum()
