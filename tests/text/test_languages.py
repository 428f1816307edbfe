"""A language is told by its script where one language writes it, and by the model elsewhere; too little text has none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from potstill.errors import MissingPackageError
from potstill.text import languages
from potstill.text.languages import language_by_script, language_of, require_languages


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("这样不好", "zh"),
        ("私の荷物はどこですか", "ja"),
        ("我喜欢日本的动画片，也喜欢去日本旅行，尤其是在春天樱花盛开的时候吃 ラ 面", "zh"),
        ("안녕하세요", "ko"),
        ("ไม่ OK", "th"),
        ("Γεια σου κόσμε", "el"),
        ("The word สวัสดี is a greeting", None),
        ("Где моя посылка?", None),
        ("Hello", None),
    ],
)
def test_a_script_that_one_language_writes_tells_it(text: str, language: str | None) -> None:
    assert language_by_script(text) == language


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Where is my package? It should have arrived on Monday.", "en"),
        ("¿Dónde está mi paquete? Tenía que llegar el lunes.", "es"),
        ("Wo ist mein Paket? Es sollte am Montag ankommen.", "de"),
        ("Где моя посылка? Она должна была прийти в понедельник.", "ru"),
        ("Де мій пакунок? Він мав прийти в понеділок.", "uk"),
        ("", None),
        ("12 + 5 = 17", None),
        ("Hello", None),
        ("🙂🙂🙂", None),
    ],
)
def test_languages_that_share_a_script_are_told_apart_where_the_text_is_enough(text: str, language: str | None) -> None:
    assert language_of(text) == language


def test_a_long_text_is_read_in_part_only() -> None:
    lines = " ".join(
        f"Package {number} should have been here on Monday, and nobody knows where it is now." for number in range(60)
    )
    assert len(lines) > languages.LETTERS_READ
    assert language_of(lines + "这样不好" * 100_000) == "en"


def forget() -> None:
    languages._identifier.cache_clear()
    languages.language_of.cache_clear()


def test_only_a_language_that_shares_its_script_needs_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    require_languages(["en", "zh"])
    monkeypatch.setattr(languages, "LanguageIdentifier", None)
    forget()
    require_languages(["zh", "ja", "th"])
    assert language_of("สวัสดี") == "th"
    with pytest.raises(MissingPackageError, match=r"pip install 'potstill\[language\]'"):
        require_languages(["zh", "es"])
    with pytest.raises(MissingPackageError):
        language_of("Where is my package?")
    monkeypatch.undo()
    forget()


def test_the_module_itself_is_loaded_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path(languages.__file__).read_text(encoding="utf-8")
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    scope: dict[str, object] = {"__name__": "potstill.text.languages", "__package__": "potstill.text"}
    exec(source, scope)
    assert scope["LanguageIdentifier"] is None
