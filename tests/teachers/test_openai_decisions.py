from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from decisions_server import DecisionsServer
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.pipelines import DecisionPipeline

from potstill.contracts import Requests
from potstill.errors import TeacherError
from potstill.plugins import load_plugin
from potstill.types import Message, Reply, Request

LABELS = ("billing", "technical", "other")


def _teacher(server: DecisionsServer, **fields: Any) -> Any:
    settings = {"kind": "openai_decisions", "base_url": server.url, "model": "gpt-6-luna", "backoff_s": 0.01}
    return load_plugin("teachers", {**settings, **fields})


def _ask(teacher: Any, texts: Iterable[str], labels: tuple[str, ...] = LABELS) -> dict[str, Reply]:
    async def collect() -> dict[str, Reply]:
        asked = [
            Request(text, (Message("system", "Which queue?"), Message("user", text)), teacher.sampling(9), labels=labels)
            for text in texts
        ]
        return {request.example_id: reply async for request, reply in teacher.answers(Requests(asked))}

    return asyncio.run(collect())


def test_a_row_is_one_choice_question_and_its_answer_is_the_likeliest_label_with_all_probabilities() -> None:
    with DecisionsServer() as server:
        teacher = _teacher(server, input_per_million=0.1, descriptions={"technical": "Errors and outages"})
        reply = _ask(teacher, ["a technical one"])["a technical one"]
        assert teacher.problems() == []
    assert (reply.text, reply.finish_reason, reply.error) == ("technical", "stop", None)
    assert reply.label_probabilities == pytest.approx({"billing": 0.15, "technical": 0.7, "other": 0.15})
    assert (reply.prompt_tokens, reply.completion_tokens) == (40, 0)
    assert reply.cost_usd == pytest.approx(40 * 0.1 / 1e6)
    choices = [{"value": "billing"}, {"value": "technical", "description": "Errors and outages"}, {"value": "other"}]
    question = {"type": "choice", "instructions": "Which queue?", "name": "label", "choices": choices}
    assert server.bodies == [{"model": "gpt-6-luna", "input": "a technical one", "questions": [question]}]


def test_the_code_of_transformers_serve_answers_the_other_shape(teacher_folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(teacher_folder)
    pipeline = DecisionPipeline(model=model, tokenizer=AutoTokenizer.from_pretrained(teacher_folder))
    with DecisionsServer(pipeline=pipeline) as server:
        teacher = _teacher(server, shape="system_one", descriptions={"technical": "Errors and outages"})
        reply = _ask(teacher, ["My router shows a red light."])["My router shows a red light."]
    shares = dict(reply.label_probabilities or {})
    assert list(shares) == list(LABELS)
    assert sum(shares.values()) == pytest.approx(1)
    assert shares[reply.text] == max(shares.values())
    assert reply.prompt_tokens
    assert server.bodies[0]["questions"]["label"]["criteria"] == {
        "billing": None,
        "technical": "Errors and outages",
        "other": None,
    }


def test_a_conversation_is_one_text_with_its_speakers() -> None:
    turns = (Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "My bill is wrong"))

    async def ask(teacher: Any) -> list[Reply]:
        return [reply async for _, reply in teacher.answers(Requests([Request("row", turns, labels=LABELS)]))]

    with DecisionsServer() as server:
        assert asyncio.run(ask(_teacher(server)))[0].text == "billing"
    assert server.bodies[0]["input"] == "user: Hi\n\nassistant: Hello\n\nuser: My bill is wrong"
    assert server.bodies[0]["questions"][0]["instructions"]


def test_rounded_probabilities_are_made_to_sum_to_one() -> None:
    with DecisionsServer(decide=lambda choices, text: [0.33, 0.33, 0.33]) as server:
        reply = _ask(_teacher(server), ["a"])["a"]
    assert sum((reply.label_probabilities or {}).values()) == pytest.approx(1, abs=1e-12)
    assert reply.text == "billing"  # the server's own choice where several are as likely


@pytest.mark.parametrize("fault", ["500", "one missing"])
def test_a_passing_fault_is_asked_again(fault: str) -> None:
    with DecisionsServer(faults={"a": [fault, fault]}) as server:
        replies = _ask(_teacher(server), ["a", "b"])
    assert (replies["a"].text, replies["a"].attempts, server.asked["a"], server.asked["b"]) == ("billing", 3, 3, 1)


def test_probabilities_that_are_none_fail_the_row_and_not_the_job() -> None:
    with DecisionsServer(decide=lambda choices, text: [0.9, 0.9, 0.9] if text == "bad" else [1.0, 0.0, 0.0]) as server:
        replies = _ask(_teacher(server, max_attempts=2), ["bad", "good"])
    assert replies["good"].text == "billing"
    assert replies["bad"].error == "the reply holds probabilities of 3 of 3 labels, 2.700 together"
    assert server.asked["bad"] == 2


def test_a_question_that_the_model_declines_is_asked_once_and_says_so() -> None:
    with DecisionsServer(faults={"a": ["refusal", "refusal"]}) as server:
        reply = _ask(_teacher(server), ["a"])["a"]
    assert (reply.text, reply.finish_reason, reply.error) == ("", "content_filter", "the model declined to answer")
    assert server.asked["a"] == 1


def test_a_task_without_labels_is_told_what_to_do_before_anything_is_sent() -> None:
    with DecisionsServer() as server:
        with pytest.raises(TeacherError, match="closed set of labels and this task has none; use it for"):
            _ask(_teacher(server), ["a"], labels=())
        assert not server.bodies


def test_what_is_asked_decides_the_identity_and_the_address_may_be_another() -> None:
    with DecisionsServer() as server:
        plain, described = _teacher(server), _teacher(server, descriptions={"other": "the rest"})
        moved = _teacher(server, shape="system_one", path="/decisions")
    assert plain.identity() != described.identity()
    assert moved.service().path == "/decisions"
    assert plain.identity() != moved.identity()
