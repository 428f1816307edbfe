"""Messages to token ids: one piece of code for teacher, training, evaluation and chat.

Prompt and answer are tokenised apart and joined as ids, so that the prompt's ids in training are exactly those that
the model sees when it is asked, whatever the tokenizer would merge across the boundary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jinja2
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from .errors import ModelError
from .types import Message

PROBE = "potstill probe answer"


def load_tokenizer(
    model: str, *, revision: str | None = None, trust_remote_code: bool = False, reads_only: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub id, padding on the left; raises ModelError with what to do.

    One that writes needs a chat template and an end token; one that `reads_only`, for a classifier, needs neither.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            model, revision=revision, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, KeyError) as error:
        wayout = "" if is_local(model) else " Download the model and name its folder instead, where the hub cannot be reached."
        raise ModelError(f"no tokenizer could be loaded from {model!r}: {_first_line(error)}{wayout}") from None
    if not tokenizer.chat_template and not reads_only:
        raise ModelError(
            f"the tokenizer of {model!r} has no chat template; use an instruct model, or add a chat_template.jinja to its folder"
        )
    if tokenizer.eos_token_id is None and not (reads_only and tokenizer.pad_token_id is not None):
        lacks, named = ("padding token", "pad_token") if reads_only else ("end-of-sequence token", "eos_token")
        raise ModelError(f"the tokenizer of {model!r} has no {lacks}; set {named} in its tokenizer_config.json")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # padding is always masked by position, never by this token's id
    tokenizer.padding_side = "left"
    return tokenizer


def prompt_text(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    """The chat template's text up to where the assistant begins to speak."""
    return _apply(tokenizer, messages, add_generation_prompt=True)


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """Token ids of the prompt, ending where the assistant begins to speak."""
    return _ids(tokenizer, prompt_text(tokenizer, messages))


def answer_ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], answer: str) -> list[int]:
    """Token ids of the assistant's answer and of the template's end of turn after it."""
    return [*_ids(tokenizer, answer), *_ids(tokenizer, end_of_turn(tokenizer, messages))]


def read_ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """Token ids of what a classifier reads: the chat template's prompt where the tokenizer has one, as decoders do; else the
    plain text of the messages between the tokenizer's own special tokens, as encoders know it."""
    if tokenizer.chat_template:
        return prompt_ids(tokenizer, messages)
    return list(tokenizer(plain_text(messages), verbose=False)["input_ids"])


def plain_text(messages: Sequence[Message]) -> str:
    """Messages as one text: system messages and a lone turn as they are, each of several turns with its speaker's name.

    >>> plain_text([Message("system", "Bank."), Message("user", "My card?")])
    'Bank.\\n\\nMy card?'
    >>> plain_text([Message("user", "Hi"), Message("assistant", "Yes?"), Message("user", "My card?")])
    'user: Hi\\n\\nassistant: Yes?\\n\\nuser: My card?'
    """
    alone = sum(message.role != "system" for message in messages) == 1
    told = (one.content if alone or one.role == "system" else f"{one.role}: {one.content}" for one in messages)
    return "\n\n".join(told)


def end_of_turn(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    """What the template writes after the assistant's answer, up to and with its last special token."""
    whole = _apply(tokenizer, [*messages, Message("assistant", PROBE)], add_generation_prompt=False)
    _, found, after = whole.rpartition(PROBE)
    if not found:
        raise ModelError("the chat template drops the assistant's last message; potstill cannot train with it")
    # A trailing newline belongs to the next turn: no model needs to say it, and generation stops before it.
    return after.rstrip() or str(tokenizer.eos_token)


def stop_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end an answer: the template's end of turn and the tokenizer's EOS."""
    turn = _ids(tokenizer, end_of_turn(tokenizer, [Message("user", "hello")]))
    ends = [int(tokenizer.eos_token_id)]
    return ends if not turn or turn[-1] in ends else [turn[-1], *ends]


def tokenizer_problems(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What would make answers never end or prompts differ, each as one sentence."""
    turn = end_of_turn(tokenizer, [Message("user", "hello")])
    ids = _ids(tokenizer, turn)
    if len(ids) != 1:
        return [f"the chat template ends a turn with {turn!r}, which is {len(ids)} tokens and not one special token"]
    if ids[0] != tokenizer.eos_token_id:
        return [
            f"the chat template ends a turn with {turn!r}, and the tokenizer's end-of-sequence token is {tokenizer.eos_token!r}; "
            f"potstill trains and stops on {turn!r}, other runtimes may need to be told"
        ]
    return []


def vocabulary_difference(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> str | None:
    """How two tokenizers differ as token -> id maps (never by `vocab_size`); None when they are the same."""
    first, second = one.get_vocab(), other.get_vocab()
    if first == second:
        return None
    moved = sum(1 for token, index in first.items() if second.get(token) != index)
    return f"{moved:,} of {len(first):,} tokens are missing or have another id ({len(second):,} tokens in the other)"


def _apply(tokenizer: PreTrainedTokenizerBase, messages: Iterable[Message], *, add_generation_prompt: bool) -> str:
    turns: list[dict[str, Any]] = [message.as_dict() for message in messages]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=add_generation_prompt)
    except (jinja2.TemplateError, ValueError) as error:
        raise ModelError(f"the chat template refuses these messages: {_first_line(error)}") from None
    return str(text)


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def is_local(model: str) -> bool:
    return Path(model).is_dir()
