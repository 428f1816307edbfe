"""Real tokenizers of different kinds, trained here on text with umlauts, CJK and emoji, and small models that use them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import torch
from conftest import SPECIAL, TEMPLATE, TEXT
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

MORE_TEXT = [
    *TEXT,
    "Größere Züge fahren über die Brücke nach Köln, naïve façade café.",
    "日本語の文章です。今日は良い天気ですね。漢字かな交じり文。",
    "Emoji: 🙂🙃😀 👩‍👩‍👧 🇩🇪 and more 🙂 🙂 words, 12,345.67 €!",
    "The router light is red; the router restarts. The light is green again.\n\nDone.\tYes.",
]
KINDS = ("bytes", "large bytes", "digits", "metaspace", "llama")
ENDS = {"bytes": "<|end|>", "large bytes": "<|eot|>", "digits": "<|end|>", "metaspace": "</s>", "llama": "</s>"}


@cache
def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    """bytes, large bytes: byte-level BPE of 300 and 460 words; digits: one that also cuts at digits and blanks; metaspace: a
    unigram model with bytes to fall back on; llama: BPE as Llama 2 has it, U+2581 put before every text."""
    end = ENDS[kind]
    special = [end if word == "<|end|>" else word for word in SPECIAL]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    byte_words = [f"<0x{byte:02X}>" for byte in range(256)]
    if kind == "metaspace":
        pieces = [("<unk>", 0.0), *((word, 0.0) for word in special), *((word, -20.0) for word in byte_words)]
        pieces += [(word, -5.0 - 0.01 * n) for n, word in enumerate(_pieces())]
        made = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")])
    elif kind == "llama":
        learner = Tokenizer(models.BPE())
        learner.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
        learner.train_from_iterator(MORE_TEXT, trainers.BpeTrainer(vocab_size=250, limit_alphabet=60, show_progress=False))
        learned = json.loads(learner.to_str())["model"]
        words = list(dict.fromkeys(["<unk>", *special, *byte_words, *learned["vocab"]]))
        merges = [tuple(pair) for pair in learned["merges"]]
        vocab = {word: number for number, word in enumerate(words)}
        made = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        made.normalizer = learner.normalizer
        steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        made.decoder = decoders.Sequence(steps)
    else:
        made = Tokenizer(models.BPE())
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind != "digits")
        split = pre_tokenizers.Split(Regex(r"\d|\s|[^\d\s]+"), "isolated")
        made.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level]) if kind == "digits" else byte_level
        made.decoder = decoders.ByteLevel()
        size = {"bytes": 300, "large bytes": 460, "digits": 350}[kind]
        trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
        made.train_from_iterator(MORE_TEXT, trainer)
    unknown = {"unk_token": "<unk>"} if kind in ("metaspace", "llama") else {}
    wrapped = PreTrainedTokenizerFast(tokenizer_object=made, eos_token=end, pad_token="<|pad|>", **unknown)
    wrapped.add_special_tokens({"additional_special_tokens": special[2:]})
    wrapped.chat_template = TEMPLATE.replace("<|end|>", end)
    return wrapped


def _pieces() -> list[str]:
    """Characters and the beginnings of words, the frequent ones first."""
    text = " ".join(MORE_TEXT).replace("\n", " ").replace("\t", " ").replace(" ", "\u2581")
    words = [f"\u2581{word}" for word in text.split("\u2581") if word.isascii() and word]
    parts = [word[:length] for word in words for length in (2, 3, 4, 8) if len(word) >= length]
    parts += [word[3:] for word in words if len(word) > 5]
    letters = [letter for letter in text if letter.isascii() or letter == "\u2581"]
    return sorted({*parts, *letters}, key=lambda part: (-len(part), part))


def save_other(folder: Path, kind: str, *, hidden: int = 32, layers: int = 2, seed: int = 0, context: int = 512) -> Path:
    """A tiny Llama with such a tokenizer."""
    tokenizer = tokenizer_of(kind)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
