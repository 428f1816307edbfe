from __future__ import annotations

import asyncio
import gc
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest

from potstill.contracts import Requests
from potstill.errors import ModelError
from potstill.plugins import load_plugin
from potstill.types import Message, Reply, Request, Sampling, Signal


def _teacher(folder: Path, **fields: Any) -> Any:
    return load_plugin("teachers", {"kind": "huggingface", "model": str(folder), **fields})


def _ask(teacher: Any, requests: list[Request]) -> dict[str, Reply]:
    async def collect() -> dict[str, Reply]:
        return {request.example_id: reply async for request, reply in teacher.answers(Requests(requests))}

    return asyncio.run(collect())


def _request(name: str, question: str, **fields: Any) -> Request:
    return Request(name, (Message("user", question),), Sampling(max_tokens=8), **fields)


def test_rows_in_batches_equal_rows_one_by_one(teacher_folder: Path) -> None:
    requests = [_request(str(n), "word " * n) for n in range(7)]
    together = _ask(_teacher(teacher_folder), requests)
    alone = _ask(_teacher(teacher_folder, batch_tokens=1), requests)
    assert {name: (reply.text, reply.completion_tokens) for name, reply in together.items()} == {
        name: (reply.text, reply.completion_tokens) for name, reply in alone.items()
    }
    assert all(reply.cost_usd == 0.0 and reply.latency_s is not None for reply in together.values())


def test_samples_of_one_prompt_differ_and_repeat(teacher_folder: Path) -> None:
    sampling = Sampling(max_tokens=12, temperature=1.5)
    requests = [Request(str(n), (Message("user", "Hi"),), sampling, sample_index=n) for n in range(4)]
    first = _ask(_teacher(teacher_folder), requests)
    assert len({reply.text for reply in first.values()}) > 1
    texts = {name: reply.text for name, reply in first.items()}
    assert texts == {name: reply.text for name, reply in _ask(_teacher(teacher_folder), requests).items()}


def test_a_prompt_that_the_model_cannot_take_harms_no_other_row(teacher_folder: Path) -> None:
    replies = _ask(_teacher(teacher_folder), [_request("long", "word " * 600), _request("short", "Hi")])
    assert "the teacher takes 512" in str(replies["long"].error)
    assert replies["short"].error is None


def test_the_identity_is_the_content_wherever_the_folder_lies(teacher_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(teacher_folder, copy)
    assert _teacher(copy).identity() == _teacher(teacher_folder).identity()
    config = copy / "config.json"
    config.write_text(config.read_text() + " ")
    assert _teacher(copy).identity() != _teacher(teacher_folder).identity()
    hub = load_plugin("teachers", {"kind": "huggingface", "model": "someone/model", "revision": "abc"})
    assert hub.identity() == {"kind": "huggingface", "model": "someone/model", "revision": "abc"}


def test_it_gives_everything_and_names_its_weights(teacher_folder: Path) -> None:
    teacher = _teacher(teacher_folder)
    assert teacher.gives == Signal.HIDDEN
    assert teacher.local_model() == str(teacher_folder)
    assert teacher.problems() == []


def test_the_weights_are_freed_at_the_end(teacher_folder: Path) -> None:
    kept: list[Any] = []

    async def two_rows() -> None:
        answers = _teacher(teacher_folder, batch_tokens=1).answers(Requests([_request("a", "Hi"), _request("b", "Ho")]))
        await anext(answers)
        models = [thing for thing in gc.get_objects() if type(thing).__name__ == "LlamaForCausalLM"]
        kept.extend(weakref.ref(model) for model in models)
        del models
        await answers.aclose()

    before = [id(thing) for thing in gc.get_objects() if type(thing).__name__ == "LlamaForCausalLM"]
    asyncio.run(two_rows())
    gc.collect()
    assert [reference for reference in kept if reference() is not None and id(reference()) not in before] == []


def test_a_folder_without_a_model_is_told(tmp_path: Path) -> None:
    assert "no tokenizer could be loaded" in _teacher(tmp_path).problems()[0]
    with pytest.raises(ModelError):
        _ask(_teacher(tmp_path), [_request("a", "Hi")])
