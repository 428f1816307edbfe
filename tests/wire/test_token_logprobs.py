"""Shapes of each server, written by hand after the providers' public references and sources."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potstill.wire.token_logprobs import read_logprobs

OPENAI = {
    "content": [
        {
            "token": "Hel",
            "logprob": -0.25,
            "bytes": [72, 101, 108],
            "top_logprobs": [
                {"token": "Good", "logprob": -2.5, "bytes": [71, 111, 111, 100]},
                {"token": "Hel", "logprob": -0.25, "bytes": [72, 101, 108]},
                {"token": "Zzz", "logprob": -9999.0, "bytes": [90, 122, 122]},
            ],
        },
        {"token": "lo", "logprob": -0.5, "bytes": [108, 111], "top_logprobs": []},
    ],
    "refusal": None,
}
AZURE = {"content": OPENAI["content"]}
DEEPSEEK = {"content": OPENAI["content"], "reasoning_content": [{"token": "Hm", "logprob": -1.0, "bytes": [72, 109]}]}
LLAMA_CPP = {
    "content": [
        {"id": 9906, "token": "Hel", "bytes": [72, 101, 108], "logprob": -0.25, "top_logprobs": []},
        {"id": 385, "token": "lo", "bytes": [108, 111], "logprob": -0.5, "top_logprobs": []},
    ]
}
OLLAMA = {
    "content": [
        {"token": "Hel", "logprob": -0.25, "bytes": [72, 101, 108], "top_logprobs": None},
        {"token": "lo", "logprob": -0.5},
    ]
}
FORMER = {
    "tokens": ["Hel", "lo"],
    "token_logprobs": [-0.25, -0.5],
    "top_logprobs": [{"Hel": -0.25, "Good": -2.5}, None],
    "text_offset": [0, 3],
}
PLAIN = [["48656c", -0.25, []], ["6c6f", -0.5, []]]


def _vllm(*tokens: str, alternatives: dict[int, list[str]] | None = None) -> dict[str, Any]:
    """vLLM and SGLang encode the token's text, so that a part of a character comes as U+FFFD."""

    def entry(token: str) -> dict[str, Any]:
        return {"token": token, "logprob": -0.5, "bytes": list(token.encode())}

    others = alternatives or {}
    return {"content": [{**entry(t), "top_logprobs": [entry(o) for o in others.get(n, [])]} for n, t in enumerate(tokens)]}


def _bytes(rows: list[Any] | None) -> list[bytes] | None:
    return None if rows is None else [bytes.fromhex(row[0]) for row in rows]


@pytest.mark.parametrize("logprobs", [OPENAI, AZURE, DEEPSEEK], ids=["openai", "azure", "deepseek"])
def test_alternatives_come_with_bytes_and_the_likeliest_first(logprobs: dict[str, Any]) -> None:
    rows = read_logprobs({"logprobs": logprobs}, "Hello")
    first = ["48656c", -0.25, [["48656c", -0.25], ["476f6f64", -2.5], ["5a7a7a", -9999.0]]]
    assert rows == [first, ["6c6f", -0.5, []]]


@pytest.mark.parametrize("logprobs", [LLAMA_CPP, OLLAMA], ids=["llama_cpp", "ollama"])
def test_servers_of_ones_own_say_the_same(logprobs: dict[str, Any]) -> None:
    assert read_logprobs({"logprobs": logprobs}, "Hello") == PLAIN


def test_the_shape_of_the_former_completions_api_is_read() -> None:
    rows = read_logprobs({"logprobs": FORMER}, "Hello")
    assert rows == [["48656c", -0.25, [["48656c", -0.25], ["476f6f64", -2.5]]], ["6c6f", -0.5, []]]


@pytest.mark.parametrize(
    ("tokens", "text", "expected"),
    [
        (["a", "\ufffd", "\ufffd", "\ufffd", "b"], "a€b", [b"a", b"\xe2", b"\x82", b"\xac", b"b"]),
        (["a", "\ufffd", "\ufffd", "b"], "a😀b", [b"a", b"", "😀".encode(), b"b"]),
        (["\ufffd", "\ufffd", " ok"], "é ok", [b"\xc3", b"\xa9", b" ok"]),
        (["no", "\ufffd", "\ufffd", "<|im_end|>"], "noé", [b"no", b"\xc3", b"\xa9"]),
        (["a", "", "", "€", "b"], "a€b", [b"a", b"", b"", "€".encode(), b"b"]),  # newer vLLMs correct it themselves
        (["\ufffd", " is what it says"], "\ufffd is what it says", ["\ufffd".encode(), b" is what it says"]),
    ],
)
def test_parts_of_characters_get_their_bytes_from_the_text(tokens: list[str], text: str, expected: list[bytes]) -> None:
    assert _bytes(read_logprobs({"logprobs": _vllm(*tokens)}, text)) == expected


def test_an_alternative_whose_bytes_nobody_knows_is_left_out() -> None:
    rows = read_logprobs({"logprobs": _vllm("a", "b", alternatives={0: ["a", "\ufffd"]})}, "ab")
    assert rows is not None
    assert rows[0][2] == [["61", -0.5]]


@pytest.mark.parametrize(
    ("tokens", "text", "expected"),
    [
        (["Hi", " there", "<|im_end|>"], "Hi there", [b"Hi", b" there"]),
        ([" Hi", " there"], "Hi there", [b"Hi", b" there"]),
        (["<think>", "hm", "</think>", "\n\n", "Hi"], "Hi", [b"Hi"]),
        (["Hi", "\n"], "Hi", [b"Hi"]),
        (["<0x48>", "i"], "Hi", [b"H", b"i"]),
        (["bytes:\\x48", "i"], "Hi", [b"H", b"i"]),
    ],
)
def test_what_stands_around_the_text_is_no_part_of_it(tokens: list[str], text: str, expected: list[bytes]) -> None:
    content = [{"token": token, "logprob": -0.1} for token in tokens]
    assert _bytes(read_logprobs({"logprobs": {"content": content}}, text)) == expected


@pytest.mark.parametrize(
    "logprobs",
    [
        None,
        {},
        {"content": None},
        {"content": []},
        {"content": ["a"]},
        {"content": [{"token": "other", "logprob": -1.0}]},
        {"content": [{"token": "Hel"}]},
        {"content": [{"token": "Hello", "logprob": float("nan")}]},
        {"content": [{"token": "XHello", "logprob": -1.0}]},
        {"tokens": ["Hello"], "token_logprobs": []},
        {"tokens": "Hello", "token_logprobs": [-1.0]},
        [1],
    ],
)
def test_what_does_not_spell_the_text_is_no_log_probability(logprobs: Any) -> None:
    assert read_logprobs({"logprobs": logprobs}, "Hello") is None


@given(st.text(alphabet="aé€😀 z", min_size=1, max_size=12), st.data())
def test_tokens_cut_anywhere_even_inside_characters_spell_the_text(text: str, data: st.DataObject) -> None:
    whole = text.encode()
    edges = sorted(data.draw(st.sets(st.integers(1, len(whole) - 1)))) if len(whole) > 1 else []
    parts = [whole[start:end] for start, end in zip([0, *edges], [*edges, len(whole)], strict=True)]
    content = [{"token": part.decode(errors="replace"), "logprob": -0.5, "bytes": list(part)} for part in parts]
    assert _bytes(read_logprobs({"logprobs": {"content": content}}, text)) == parts
    as_vllm = _vllm(*[part.decode(errors="replace") for part in parts])
    found = _bytes(read_logprobs({"logprobs": as_vllm}, text))
    assert found is None or (b"".join(found) == whole and len(found) == len(parts))
