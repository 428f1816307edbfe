from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.errors import JobError
from potstill.plugins import load_plugin
from potstill.types import Example, Message, Reply

TRAIN = {
    "en": "The train from London was late because of the heavy snow last night, and many people had to wait.",
    "de": "Der Zug aus Berlin kam gestern wegen des vielen Schnees zu spät an, und viele Leute mussten warten.",
    "fr": "Le train de Paris est arrivé en retard à cause de la neige, et beaucoup de gens ont dû attendre.",
    "es": "El tren de Madrid llegó tarde por culpa de la nieve y mucha gente tuvo que esperar en la estación.",
    "da": "Toget fra København var forsinket på grund af sneen i går aftes, og mange mennesker måtte vente længe.",
    "ru": "Поезд из Москвы опоздал из-за вчерашнего снегопада, и многим людям пришлось ждать на вокзале.",
    "zh": "由于昨晚下雪，从上海开来的火车晚点了。",
    "ja": "昨夜の雪のため、東京からの電車は遅れました。",
    "th": "รถไฟจากกรุงเทพฯ มาสายเพราะหิมะตกเมื่อคืนนี้",
}


def reason(prompt: str, answer: str, **fields: Any) -> str | None:
    row = Example("row", (Message("system", "You answer politely and in complete sentences, please."), Message("user", prompt)))
    finding = load_plugin("checks", {"kind": "language", **fields}).refuse(row, Reply(answer), None)
    assert finding is None or finding.again
    return finding.reason if finding else None


@pytest.mark.parametrize("asked", TRAIN)
@pytest.mark.parametrize("answered", TRAIN)
def test_an_answer_is_in_its_prompts_language(asked: str, answered: str) -> None:
    assert reason(TRAIN[asked], TRAIN[answered]) == (None if asked == answered else f"in {answered}, not in {asked}")


def test_named_languages_stand_above_the_prompts() -> None:
    assert reason(TRAIN["en"], TRAIN["fr"], languages="fr") is None
    assert reason(TRAIN["en"], TRAIN["en"], languages=["fr", "de"]) == "in en, not in de or fr"
    assert reason(TRAIN["en"], TRAIN["da"], languages=["nb"]) is None


def test_a_prompt_of_two_languages_may_be_answered_in_either() -> None:
    prompt = f"Please summarize the following text in one sentence, and keep it simple.\n\n{TRAIN['de']} {TRAIN['de']}"
    assert reason(prompt, TRAIN["de"]) is None
    assert reason(prompt, TRAIN["en"]) is None
    assert reason(prompt, TRAIN["es"]) == "in es, not in de or en"


@pytest.mark.parametrize(
    "answer",
    [
        "entailment",
        "Paris",
        "#### 42",
        "La capitale est Paris.",
        f"```python\n# {TRAIN['fr']}\nprint('bonjour')\n```",
        f"<think>{TRAIN['fr']}</think>{TRAIN['en']}",
        "https://example.org/la-neige-est-tombee-et-beaucoup-de-gens-ont-attendu",
        "?!",
        "",
    ],
)
def test_short_answers_code_and_reasoning_give_no_verdict(answer: str) -> None:
    assert reason(TRAIN["en"], answer) is None


def test_a_prompt_without_a_language_allows_any() -> None:
    assert reason("2 + 2 = ?", TRAIN["fr"]) is None


def test_what_is_no_code_is_refused_when_the_job_is_loaded() -> None:
    with pytest.raises(JobError, match="'German' is no language code; use ISO 639 codes such as en"):
        load_plugin("checks", {"kind": "language", "languages": ["German"]})


def test_the_package_is_asked_for_when_the_job_is_loaded() -> None:
    program = (
        "import sys; sys.modules['py3langid'] = None; from potstill.plugins import load_plugin; load_plugin('checks', 'language')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (
        "MissingPackageError: the package 'py3langid' is not installed; install it with: pip install 'potstill[language]'"
        in done.stderr
    )


@given(st.text(max_size=100), st.text(max_size=100))
@settings(max_examples=30, deadline=None)
def test_any_texts_are_taken(prompt: str, answer: str) -> None:
    assert reason(prompt, answer) is None or len(answer) >= 6
