"""Gold decides where there is any; else a judge that is asked in both orders; else what the job says."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cases import FAILED, case, dense, example, room, teachers

from potstill.contracts import Case, Choice, Requests, Teacher
from potstill.errors import JobError
from potstill.plugins import load_plugin
from potstill.types import Reply, Request

NLI = load_plugin("tasks", "nli")
SUMMARY = load_plugin("tasks", "summarization")


def best_of(**fields: Any) -> Any:
    return load_plugin("combiners", {"kind": "best_of", **fields})


def judge_for(text: str, **more: Any) -> dict[str, Any]:
    """A judge that prefers the answer which begins with this text, wherever it stands, and no other."""
    replies = {f"answer A>\n{text}": "It is right.\nVerdict: A", f"answer B>\n{text}": "It is right.\nVerdict: B"}
    return {"kind": "scripted", "name": "judge", "replies": replies, "default": "Verdict: tie", **more}


class Asked:
    """Has the real judge answer, and counts what it was asked."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def __call__(self, judge: Teacher, requests: Sequence[Request]) -> list[Reply]:
        self.requests += requests

        async def collect() -> dict[Request, Reply]:
            return {request: reply async for request, reply in judge.answers(Requests(requests))}

        replies = asyncio.run(collect())
        return [replies[request] for request in requests]


def choose(combiner: Any, *cases: Case, task: Any = NLI, ask: Any = None, weights: tuple[float, ...] = (1, 1, 1)) -> list[Choice]:
    return list(combiner.choose(list(cases), room(task, *weights, ask=ask)))


def said(choice: Choice) -> str:
    (one,) = choice.chosen
    return one.reply.text


def test_the_first_answer_that_the_gold_proves_right_is_kept_and_no_judge_is_asked() -> None:
    row = example(gold="entailment")
    (choice,) = choose(best_of(judge=judge_for("neutral")), case(NLI, "neutral", "Entailment.", "entailment", row=row))
    assert said(choice) == "Entailment."
    assert choice.agreement == pytest.approx(2 / 3)


def test_a_row_without_a_right_answer_is_refused() -> None:
    (choice,) = choose(best_of(judge=judge_for("neutral")), case(NLI, "neutral", "Maybe", row=example(gold="entailment")))
    assert choice.finding is not None
    assert choice.finding.reason == "no answer is right by the gold"
    assert choice.chosen == ()


def test_without_gold_the_judge_chooses_seeing_each_pair_in_both_orders() -> None:
    ask = Asked()
    combiner = best_of(judge=judge_for("contradiction"))
    (choice,) = choose(combiner, case(NLI, "neutral", "contradiction", "entailment"), ask=ask)
    assert said(choice) == "contradiction"
    assert choice.agreement is None
    assert len(ask.requests) == 6
    assert ask.requests[0].sampling.temperature == 0.0


def test_all_rows_are_judged_together_and_equal_answers_are_not_compared() -> None:
    ask = Asked()
    rows = [
        case(NLI, "neutral", "contradiction", "contradiction."),
        case(NLI, "neutral", "neutral.", FAILED),
        case(NLI, "entailment", row=example(gold="entailment")),
        case(NLI, FAILED, "Maybe"),
        case(NLI, "contradiction", "entailment"),
    ]
    choices = choose(best_of(judge=judge_for("contradiction")), *rows, ask=ask)
    assert [choice.chosen[0].answer if choice.chosen else None for choice in choices] == [
        "contradiction", "neutral", "entailment", None, "contradiction",
    ]  # fmt: skip
    assert len(ask.requests) == 4, "two rows with two different answers each"


def test_a_judge_that_prefers_a_place_decides_nothing_and_the_vote_does() -> None:
    partial = {"kind": "scripted", "name": "judge", "default": "Verdict: A"}
    answers = case(NLI, "neutral", "entailment", "entailment")
    (choice,) = choose(best_of(judge=partial), answers, ask=Asked())
    assert said(choice) == "entailment"
    assert choice.agreement == pytest.approx(2 / 3)
    (refused,) = choose(best_of(judge=partial, otherwise="refuse"), answers, ask=Asked())
    assert refused.finding is not None
    assert refused.finding.reason == "no gold and no verdict says which answer is best"


def test_without_a_judge_the_vote_decides_or_the_row_is_refused_unless_all_are_the_same() -> None:
    split, same = case(NLI, "neutral", "entailment", "entailment"), case(NLI, "neutral", "Neutral.")
    voted = choose(best_of(), split, same)
    assert [said(choice) for choice in voted] == ["entailment", "neutral"]
    refused = choose(best_of(otherwise="refuse"), split, same)
    assert [choice.finding is None for choice in refused] == [False, True]


def test_free_texts_are_judged_text_by_text() -> None:
    ask = Asked()
    texts = ["Ana is ill.", "ana is  ill.", "Ana stays at home."]
    combiner = best_of(judge=judge_for("Ana stays"), rubric="the summary says where Ana is")
    (choice,) = choose(combiner, case(SUMMARY, *texts), task=SUMMARY, ask=ask)
    assert said(choice) == texts[2]
    assert len(ask.requests) == 2
    assert "the summary says where Ana is" in ask.requests[0].messages[-1].content


def test_of_a_chain_of_density_the_judge_sees_the_last_pass() -> None:
    task = load_plugin("tasks", {"kind": "summarization", "chain_of_density": True})
    ask = Asked()
    answers = [dense("Someone is ill.", "Bo is ill."), dense("A person is ill.", "Ana is ill.")]
    (choice,) = choose(best_of(judge=judge_for("Ana is ill")), case(task, *answers), task=task, ask=ask)
    assert said(choice) == answers[1]
    assert "Someone is ill" not in ask.requests[0].messages[-1].content


def test_a_judge_of_a_teachers_own_family_is_refused_unless_forced(tmp_path: Path) -> None:
    teacher = load_plugin("teachers", {"kind": "scripted", "name": "gpt-4o"})
    judge = {"kind": "scripted", "name": "gpt-4", "default": "Verdict: A"}
    combiner = best_of(judge=judge)
    (problem,) = combiner.problems((teacher,), NLI)
    assert "family gpt" in problem
    assert best_of(judge=judge, force=True).problems((teacher,), NLI) == []
    assert best_of().problems((teacher,), NLI) == []
    own = load_plugin("combiners", {"kind": "best_of", "judge": {"kind": "scripted", "name": "a"}})
    with pytest.raises(JobError, match="prefers its own answers"):
        choose(own, case(NLI, "neutral", "entailment"), ask=Asked())


def test_what_is_wrong_with_the_judge_is_told_before_anything_is_asked(tmp_path: Path) -> None:
    combiner = load_plugin("combiners", {"kind": "best_of", "judge": {"kind": "huggingface", "model": str(tmp_path)}}, tmp_path)
    assert any("tokenizer" in problem for problem in combiner.problems(teachers(1), NLI))


def test_the_bill_before_a_run_names_the_judge_and_how_often_it_is_asked() -> None:
    combiner = best_of(judge=judge_for("x"))
    assert [(judge.label, requests) for judge, requests in combiner.consults(10, 3)] == [("judge", 60)]
    assert combiner.consults(10, 1) == ()
    assert best_of().consults(10, 3) == ()
    assert load_plugin("combiners", "vote").consults(10, 3) == ()
