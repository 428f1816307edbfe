"""Rules in order, each condition by itself and together; teachers by name or place; what is wrong is said before asking."""

from __future__ import annotations

from typing import Any

import pytest
from cases import FAILED, case, example, room, teachers

from potstill.contracts import Teacher
from potstill.errors import JobError, MissingPackageError
from potstill.plugins import load_plugin
from potstill.text import languages
from potstill.types import Example, Message

NLI = load_plugin("tasks", "nli")
THREE = teachers(1, 1, 1)


def route(*rules: dict[str, Any], **fields: Any) -> Any:
    return load_plugin("combiners", {"kind": "route", "rules": list(rules), **fields})


def asked(combiner: Any, row: Example, among: tuple[Teacher, ...] = THREE) -> int:
    (number,) = combiner.asks(row, among, NLI)
    return int(number)


@pytest.mark.parametrize(
    ("condition", "taken", "left"),
    [
        ({"task": "nli"}, example("hi"), example("hi", task="math")),
        ({"task": "math"}, example("hi", task="math"), example("hi")),
        ({"language": "es"}, example("¿Dónde está mi paquete? Tenía que llegar el lunes."), example("Where is my package?")),
        ({"language": ["ja", "zh"]}, example("这样不好"), example("Hello")),
        ({"min_words": 6}, example("one two three"), example("one two")),
        ({"max_words": 5}, example("one two"), example("one two three")),
        ({"contains": r"\bred\b"}, example("a red light"), example("a reddish light")),
        ({"meta": {"source": "qed"}}, example("hi", source="qed"), example("hi", source="squad")),
        ({"meta": {"source": None}}, example("hi", source=None), example("hi")),
        ({"meta": {"level": 3}}, example("hi", level=3), example("hi", level="3")),
    ],
)
def test_each_condition_takes_its_rows_and_leaves_the_rest_to_the_default(
    condition: dict[str, Any], taken: Example, left: Example
) -> None:
    combiner = route({"teacher": "b", **condition}, default="c")
    assert (asked(combiner, taken), asked(combiner, left)) == (1, 2)


def test_words_are_those_of_the_whole_prompt_and_what_it_contains_of_the_users_turns() -> None:
    chat = Example(
        "1", (Message("system", "Be red."), Message("user", "Hi"), Message("assistant", "red"), Message("user", "Bye"))
    )
    assert asked(route({"teacher": 2, "contains": "red"}), chat) == 0
    assert asked(route({"teacher": 2, "min_words": 5, "max_words": 5}), chat) == 1


def test_all_conditions_of_a_rule_must_hold_and_the_first_rule_that_fits_decides() -> None:
    combiner = route({"teacher": 3, "min_words": 5, "contains": "red"}, {"teacher": 2, "min_words": 5})
    long, long_and_red = example("one two three four"), example("one two three red")
    assert [asked(combiner, row) for row in (long_and_red, long, example("red"))] == [2, 1, 0]


def test_a_teacher_is_named_by_its_label_or_its_place() -> None:
    assert [asked(route({"teacher": name, "contains": "."}), example()) for name in ("c", 3, "a", 1)] == [2, 2, 0, 0]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("bb", r"no teacher is called 'bb': did you mean 'b'\? Known: a, b, c"),
        (0, "there is no teacher number 0; the job has 3, counted from 1"),
        (4, "there is no teacher number 4"),
    ],
)
def test_a_rule_for_no_teacher_is_told_before_anything_is_asked(name: str | int, sentence: str) -> None:
    combiner = route({"teacher": name, "contains": "red"}, {"teacher": name, "contains": "blue"}, default=name)
    (problem,) = combiner.problems(THREE, NLI)
    with pytest.raises(JobError, match=sentence) as raised:
        asked(combiner, example())
    assert str(raised.value) == problem
    assert route({"teacher": 1, "contains": "red"}).problems(THREE, NLI) == []


def test_two_teachers_of_one_name_must_be_told_apart() -> None:
    (problem,) = route({"teacher": "a", "contains": "red"}).problems((THREE[0], THREE[0]), NLI)
    assert "2 teachers are called 'a'" in problem


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        ({"teacher": "b"}, "has no condition"),
        ({"teacher": "b", "language": [], "meta": {}}, "has no condition"),
        ({"teacher": "b", "contains": "(red"}, r"rules\.0\.contains: '\(red' is not a regular expression"),
        ({"teacher": "b", "min_words": 9, "max_words": 3}, "min_words 9 is more than max_words 3"),
        ({"teacher": "b", "min_word": 9}, "unknown key 'rules.0.min_word': did you mean 'min_words'"),
        ({"contains": "red"}, r"'rules\.0\.teacher' is missing"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(rule: dict[str, Any], sentence: str) -> None:
    with pytest.raises(JobError, match=sentence):
        route(rule)


def test_no_rules_are_no_route() -> None:
    with pytest.raises(JobError, match="rules"):
        route()


def test_a_language_that_shares_its_script_needs_the_package_when_the_job_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(languages, "LanguageIdentifier", None)
    route({"teacher": 1, "language": "zh"})
    with pytest.raises(MissingPackageError, match=r"potstill\[language\]"):
        route({"teacher": 1, "language": "es"})


def test_the_routed_teachers_answer_is_taken_and_of_several_samples_the_one_most_agree_on() -> None:
    combiner = route({"teacher": 2, "contains": "."})

    def choice(*replies: Any, samples: int = 1) -> Any:
        (found,) = combiner.choose([case(NLI, *replies, samples=samples)], room(NLI, 1, 1, 1))
        return found

    assert choice("Maybe").chosen[0].reply.text == "Maybe", "one answer alone is for the checks to judge"
    assert choice("Maybe").agreement is None
    assert choice(FAILED).finding.reason == "no answer: HTTP 500"
    majority = choice("neutral", "entailment", "Entailment", samples=3)
    assert (majority.chosen[0].reply.text, round(majority.agreement, 3)) == ("entailment", 0.667)
    assert choice("Maybe", "Perhaps", samples=2).finding.reason == "no nli answer in the text"
