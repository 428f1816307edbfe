"""A tokenizer in GGUF's terms: its words in the order of their ids, how they are merged, and which rule splits a text first.

llama.cpp knows the splitting rules by name and holds their code itself, so a tokenizer whose rule it does not know cannot be
shipped: its texts would be cut elsewhere than in training. Two kinds are written: byte-level BPE ("gpt2") and BPE over
characters with byte fallback, as SentencePiece makes it ("llama").
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from gguf import TokenType
from transformers import PreTrainedTokenizerBase

from ..errors import ModelError

Json = Mapping[str, Any]
BYTE = re.compile(r"<0x([0-9A-F]{2})>")
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
RULES = {LLAMA3: "llama-bpe", LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}"): "qwen2", GPT4O: "gpt-4o"}
"""Patterns of `Split` pre-tokenizers, and llama.cpp's names for them."""


class Tokens(NamedTuple):
    """What stands in the file. `merges` are those of byte-level BPE, `scores` those of the SentencePiece kind."""

    model: str
    pre: str
    words: list[str]
    types: list[int]
    merges: list[str]
    scores: list[float]
    add_space_prefix: bool
    add_bos: bool


def tokens_of(tokenizer: PreTrainedTokenizerBase, num_rows: int) -> Tokens:
    """The words of ids 0 to `num_rows`, padded rows of the head included; raises ModelError for what llama.cpp cannot do."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    spec: Json = json.loads(backend.to_str()) if backend is not None else {}
    model = spec.get("model") or {}
    if model.get("type") != "BPE":
        raise ModelError(f"GGUF takes BPE tokenizers, and this one is {model.get('type') or 'not in tokenizers.json form'}")
    by_id = {int(index): word for word, index in model["vocab"].items()}
    added = {int(one["id"]): one for one in spec.get("added_tokens", ())}
    by_id |= {index: one["content"] for index, one in added.items()}
    if max(by_id) >= num_rows:
        raise ModelError(f"the tokenizer has a word of id {max(by_id):,}, and the model's head has {num_rows:,} rows")
    words = [by_id.get(index, f"[PAD{index}]") for index in range(num_rows)]
    types = [int(_type(index, word, by_id, added, model)) for index, word in enumerate(words)]
    if model.get("byte_fallback"):
        return _sentencepiece(tokenizer, spec, words, types)
    return Tokens("gpt2", rule_of(spec), words, types, _merges(model), [], False, _adds_bos(tokenizer))


def _type(index: int, word: str, by_id: Mapping[int, str], added: Mapping[int, Json], model: Json) -> TokenType:
    if index not in by_id:
        return TokenType.UNUSED
    if word == model.get("unk_token"):
        return TokenType.UNKNOWN
    if index in added:
        return TokenType.CONTROL if added[index]["special"] else TokenType.USER_DEFINED
    if model.get("byte_fallback") and BYTE.fullmatch(word):
        return TokenType.BYTE
    return TokenType.NORMAL


def rule_of(spec: Json) -> str:
    """llama.cpp's name of the rule that splits a text before it is merged; raises ModelError for one that it lacks."""
    if spec.get("normalizer") not in (None, {"type": "NFC"}):
        raise ModelError(f"llama.cpp does not normalise texts as this tokenizer does ({spec['normalizer'].get('type')})")
    rule = spec.get("pre_tokenizer") or {}
    steps = rule.get("pretokenizers", [rule])
    kinds = [step.get("type") for step in steps]
    if steps[-1].get("add_prefix_space"):
        raise ModelError("llama.cpp does not put a space before a text, as this byte-level tokenizer does (add_prefix_space)")
    if kinds == ["ByteLevel"] and steps[0].get("use_regex"):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits") and steps[1].get("use_regex"):
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and not steps[1].get("use_regex"):
        name = RULES.get((steps[0].get("pattern") or {}).get("Regex", ""))
        if name is not None:
            return name
    raise ModelError(
        f"llama.cpp has no rule that splits texts as this tokenizer does ({', '.join(map(str, kinds))}); it knows those of "
        "GPT-2, GPT-4o, Llama 3, Qwen and SmolLM"
    )


def _merges(model: Json) -> list[str]:
    return [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]


def _sentencepiece(tokenizer: PreTrainedTokenizerBase, spec: Json, words: list[str], types: list[int]) -> Tokens:
    """Merges become scores: llama.cpp joins the two neighbours whose word has the highest score, the earliest merge first."""
    rank: dict[str, int] = {}
    for number, pair in enumerate(spec["model"]["merges"]):
        rank.setdefault("".join(pair.split(" ", 1) if isinstance(pair, str) else pair), number)
    scores = [-float(rank.get(word, 0)) for word in words]
    normalizer = spec.get("normalizer") or {}
    steps = normalizer.get("normalizers", [normalizer] if normalizer else [])
    prefix = any(step.get("type") == "Prepend" for step in steps)
    metaspace = spec.get("pre_tokenizer") or {}
    prefix |= metaspace.get("type") == "Metaspace" and metaspace.get("prepend_scheme") != "never"
    return Tokens("llama", "default", words, types, [], scores, prefix, _adds_bos(tokenizer))


def _adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    ids = list(tokenizer("a")["input_ids"])
    return bool(ids) and tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id
