"""The vote: weights, ties, what a lost answer means, free texts; and what holds for any answers."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from cases import FAILED, case, dense, room, teachers
from hypothesis import given
from hypothesis import strategies as st

from potstill.contracts import Candidate, Case, Choice
from potstill.plugins import load_plugin
from potstill.types import Example, Message, Reply

NLI = load_plugin("tasks", "nli")
MATH = load_plugin("tasks", "math")
SUMMARY = load_plugin("tasks", "summarization")


@cache
def voting(**fields: Any) -> Any:
    return load_plugin("combiners", {"kind": "vote", **fields})


def vote(found: Case, *weights: float, task: Any = NLI, **fields: Any) -> Choice:
    (choice,) = voting(**fields).choose([found], room(task, *weights))
    return choice


def said(choice: Choice) -> str:
    (one,) = choice.chosen
    return one.reply.text


def test_the_answer_of_most_teachers_is_kept_with_the_share_that_agrees() -> None:
    choice = vote(case(NLI, "neutral", "Entailment.", '{"label": "entailment"}'), 1, 1, 1)
    assert said(choice) == "Entailment."
    assert choice.agreement == pytest.approx(2 / 3)
    assert choice.finding is None


def test_a_heavier_teacher_can_outvote_two() -> None:
    choice = vote(case(NLI, "neutral", "entailment", "entailment"), 5, 1, 1)
    assert said(choice) == "neutral"
    assert choice.agreement == pytest.approx(5 / 7)


def test_one_teacher_many_samples_is_self_consistency() -> None:
    answers = ["3 + 4 = 7\n#### 7", "#### 8", "so the answer is 7.0", "I do not know", "#### 9"]
    choice = vote(case(MATH, *answers, samples=5), 1, task=MATH, min_agreement=0.4)
    assert said(choice) == answers[0]
    assert choice.agreement == pytest.approx(2 / 5), "an answer without a number stands in the denominator"
    refused = vote(case(MATH, *answers, samples=5), 1, task=MATH)
    assert refused.finding is not None
    assert refused.finding.reason == "fewer than 50% of the answers agree"
    assert (refused.chosen, refused.agreement) == ((), pytest.approx(2 / 5))


def test_a_teacher_that_failed_agrees_with_nobody() -> None:
    alone = vote(case(NLI, "neutral", FAILED, FAILED), 1, 1, 1, min_agreement=0)
    assert alone.agreement == pytest.approx(1 / 3)
    assert vote(case(NLI, "neutral", FAILED, FAILED), 1, 1, 1).finding is not None


def test_an_answer_without_rivals_has_no_agreement() -> None:
    assert vote(case(NLI, "neutral"), 1) == Choice(case(NLI, "neutral").candidates, None)


def test_where_nothing_can_be_read_the_reason_is_that_of_a_lone_answer() -> None:
    unread, failed = vote(case(NLI, "Maybe", FAILED), 1, 1), vote(case(NLI, FAILED, FAILED), 1, 1)
    assert unread.finding is not None
    assert unread.finding.reason == "no nli answer in the text"
    assert failed.finding is not None
    assert failed.finding.reason == "no answer: HTTP 500"
    assert vote(Case(case(NLI).example, ()), 1).finding is not None


def test_a_tie_goes_to_the_first_teacher_or_is_refused() -> None:
    tie = case(NLI, "Maybe", "neutral", "entailment")
    assert said(vote(tie, 1, 1, 1, min_agreement=0)) == "neutral"
    refused = vote(tie, 1, 1, 1, min_agreement=0, ties="refuse")
    assert refused.finding is not None
    assert refused.finding.reason == "as many answers agree with another one"
    assert vote(case(NLI, "neutral", "neutral", "entailment"), 1, 1, 1, ties="refuse").finding is None


def test_weights_are_added_as_the_job_writes_them() -> None:
    """In floats 0.1 + 0.2 is more than 0.3, and the tie would go to the later teachers."""
    tie = case(NLI, "neutral", "entailment", "entailment")
    assert said(vote(tie, 0.3, 0.1, 0.2)) == "neutral"
    assert vote(tie, 0.3, 0.1, 0.2, ties="refuse").finding is not None


def test_a_whole_answer_speaks_for_a_cut_one() -> None:
    cut = Reply("The answer is 7, because", "length")
    assert said(vote(case(MATH, cut, "#### 7"), 1, 1, task=MATH)) == "#### 7"


def test_an_answer_that_may_not_teach_as_it_is_votes_and_another_speaks() -> None:
    task = load_plugin("tasks", {"kind": "summarization", "max_summary_words": 5})
    long, short = "Ana is ill and stays at home.", "Ana is ill."
    assert task.unusable(long) is not None
    choice = vote(case(task, long, long, short), 1, 1, 1, task=task)
    assert said(choice) == long, "the others stand behind it"
    nli = vote(case(NLI, Reply("neutral", "length"), "entailment", "neutral"), 1, 1, 1)
    assert (nli.chosen[0].teacher, nli.agreement) == (2, pytest.approx(2 / 3))


def test_of_free_texts_the_one_nearest_to_all_others_is_kept() -> None:
    texts = ["Ana is ill today.", "Ana is ill and stays at home today.", "Ana stays at home today.", "Bring the red umbrella."]
    choice = vote(case(SUMMARY, *texts), 1, 1, 1, 1, task=SUMMARY)
    assert said(choice) == texts[1]
    f1 = [2 * 4 / (4 + 8), 1, 2 * 5 / (5 + 8), 0]
    assert choice.agreement == pytest.approx(sum(f1) / 4)
    assert vote(case(SUMMARY, *texts), 1, 1, 1, 9, task=SUMMARY).chosen[0].teacher == 3


def test_of_a_chain_of_density_the_last_passes_are_compared() -> None:
    task = load_plugin("tasks", {"kind": "summarization", "chain_of_density": True})
    alike = "The same long first pass, word for word, in both of these answers"
    last = ["Bo slept.", "Cy went home.", "Ana is ill.", "Ana is ill today."]
    answers = [dense(first, text) for first, text in zip([alike, alike, "One.", "Two."], last, strict=True)]
    assert said(vote(case(task, *answers), 1, 1, 1, 1, task=task)) == answers[2]


def test_texts_may_vote_for_any_task_and_parsed_answers_of_free_texts_are_told_to_be_futile() -> None:
    by_text = vote(case(NLI, "It is neutral.", "neutral, I think", "I think it is neutral"), 1, 1, 1, compare="texts")
    assert said(by_text) == "I think it is neutral"
    combiner = load_plugin("combiners", {"kind": "vote", "compare": "answers"})
    (problem,) = combiner.problems(teachers(1, 1), SUMMARY)
    assert "compare: texts" in problem
    assert combiner.problems(teachers(1, 1), NLI) == []
    assert load_plugin("combiners", "vote").problems(teachers(1, 1), SUMMARY) == []


def test_an_emoji_is_a_text_too() -> None:
    assert vote(case(SUMMARY, "👍", "🙂", "👍"), 1, 1, 1, task=SUMMARY).finding is None


LABELS = st.sampled_from(["entailment", "neutral", "contradiction", "Maybe", None])
WEIGHTS = st.sampled_from([0.1, 0.2, 0.3, 1.0, 2.5])


@st.composite
def ballots(draw: st.DrawFn) -> tuple[Case, tuple[float, ...]]:
    """Any answers of one to four teachers, one to three samples each."""
    samples = draw(st.integers(1, 3))
    weights = tuple(draw(st.lists(WEIGHTS, min_size=1, max_size=4)))
    count = samples * len(weights)
    replies = [FAILED if label is None else Reply(label) for label in draw(st.lists(LABELS, min_size=count, max_size=count))]
    return case(NLI, *replies, samples=samples), weights


def test_what_holds_for_any_vote() -> None:
    @given(ballots(), st.randoms(use_true_random=False), st.sampled_from(["answers", "texts"]))
    def holds(ballot: tuple[Case, tuple[float, ...]], random: object, compare: str) -> None:
        found, weights = ballot
        choice = vote(found, *weights, min_agreement=0, compare=compare)
        shuffled = list(found.candidates)
        random.shuffle(shuffled)  # type: ignore[attr-defined]
        assert vote(Case(found.example, tuple(shuffled)), *weights, min_agreement=0, compare=compare) == choice
        assert choice.agreement is None or 0 <= choice.agreement <= 1
        readable = [one for one in found.candidates if one.answer is not None]
        assert bool(choice.chosen) == bool(readable)
        assert all(one in readable for one in choice.chosen), "what cannot be read never wins"
        assert (choice.finding is None) == bool(choice.chosen)

    holds()


def test_no_lost_answer_makes_the_others_look_more_certain() -> None:
    @given(ballots(), st.data())
    def holds(ballot: tuple[Case, tuple[float, ...]], data: st.DataObject) -> None:
        found, weights = ballot
        place = data.draw(st.integers(0, len(found.candidates) - 1))
        lost: list[Candidate] = list(found.candidates)
        lost[place] = replace(lost[place], reply=FAILED, answer=None)
        before = vote(found, *weights, min_agreement=0).agreement or 0.0
        after = vote(Case(found.example, tuple(lost)), *weights, min_agreement=0).agreement or 0.0
        assert after <= before

    holds()


def test_the_winner_is_the_heaviest_answer_counted_by_hand() -> None:
    @given(ballots())
    def holds(ballot: tuple[Case, tuple[float, ...]]) -> None:
        found, weights = ballot
        tally: dict[str, int] = {}
        for one in found.candidates:
            if one.answer is not None:
                tally[one.answer] = tally.get(one.answer, 0) + round(10 * weights[one.teacher])
        choice = vote(found, *weights, min_agreement=0)
        if tally:
            assert tally[str(choice.chosen[0].answer)] == max(tally.values())

    holds()


def test_cases_are_answered_in_their_order() -> None:
    many = [
        case(NLI, label, label, row=Example(label, (Message("user", label),))) for label in ("neutral", "entailment", "Maybe")
    ]
    choices = load_plugin("combiners", "vote").choose(many, room(NLI, 1, 1))
    assert [choice.chosen[0].answer if choice.chosen else None for choice in choices] == ["neutral", "entailment", None]
