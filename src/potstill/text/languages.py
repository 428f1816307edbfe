"""Which language a text is in: by its script where one language writes it, else by the model of py3langid.

py3langid (139 languages, 5 MB, no download, about 50 microseconds a text) is the optional extra `language`; scripts such as
Thai, Hangul, kana or Greek need no package.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache, lru_cache
from typing import Any

from ..errors import MissingPackageError

try:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier
except ModuleNotFoundError:  # only a language that shares its script needs it, and asking for one says so
    LanguageIdentifier = None

LETTERS_READ = 4000
LEAST_PROBABILITY = 0.5
"""Below this the model gives others more together, and none is said: of "Hello", and of 1% of Banking77's short questions.
The other 99% are English to it, and none is of another language (900 rows of three splits)."""

# The scripts that one language of today writes, but for small ones. Han is Chinese unless kana stand among it.
_BLOCKS = {
    "ja": "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f",
    "zh": "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff",
    "ko": "\u1100-\u11ff\u3130-\u318f\uac00-\ud7af",
    "th": "\u0e00-\u0e7f",
    "lo": "\u0e80-\u0eff",
    "km": "\u1780-\u17ff",
    "my": "\u1000-\u109f",
    "el": "\u0370-\u03ff\u1f00-\u1fff",
    "hy": "\u0530-\u058f",
    "ka": "\u10a0-\u10ff",
    "he": "\u0590-\u05ff",
    "ta": "\u0b80-\u0bff",
    "te": "\u0c00-\u0c7f",
    "kn": "\u0c80-\u0cff",
    "ml": "\u0d00-\u0d7f",
    "gu": "\u0a80-\u0aff",
    "pa": "\u0a00-\u0a7f",
    "si": "\u0d80-\u0dff",
}
_LETTERS = {language: re.compile(f"[{block}]") for language, block in _BLOCKS.items()}
_ANY_LETTER = re.compile(r"[^\W\d_]")
LEAST_KANA = 0.05
"""Share of kana among Han and kana from which a text is Japanese: Chinese texts name Japanese things in kana too."""


@lru_cache(maxsize=1024)  # a row's rules and checks ask about the same text within one batch of rows
def language_of(text: str) -> str | None:
    """The ISO 639 code of a text's language; None where the text is too short or too mixed to tell.

    >>> language_of("Where is my package? It is late."), language_of("私の荷物はどこですか"), language_of("12 + 5 =")
    ('en', 'ja', None)
    """
    head = text[:LETTERS_READ]
    if not _ANY_LETTER.search(head):
        return None
    found = language_by_script(head)
    if found is not None:
        return found
    language, probability = _identifier().classify(head)
    return str(language) if probability >= LEAST_PROBABILITY and language not in ("und", "zxx") else None


def language_by_script(text: str) -> str | None:
    """The language whose own script most letters are of; None for scripts that languages share, such as Latin or Cyrillic.

    >>> language_by_script("สวัสดี"), language_by_script("这样不好 OK"), language_by_script("Hello")
    ('th', 'zh', None)
    """
    if text.isascii():
        return None
    counts = {language: len(letters.findall(text)) for language, letters in _LETTERS.items()}
    han, kana = counts["zh"], counts["ja"]
    if kana and kana >= LEAST_KANA * (kana + han):
        counts["ja"], counts["zh"] = kana + han, 0
    best = max(counts, key=lambda language: counts[language])
    return best if 2 * counts[best] > len(_ANY_LETTER.findall(text)) else None


def require_languages(languages: Iterable[str]) -> None:
    """Raises MissingPackageError where one of these cannot be told from others without py3langid."""
    if LanguageIdentifier is None and not set(languages) <= set(_BLOCKS):
        raise MissingPackageError("py3langid", "language")


@cache
def _identifier() -> Any:
    if LanguageIdentifier is None:
        raise MissingPackageError("py3langid", "language")
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
