"""`potstill chat RUN_OR_FOLDER`: talk to the finished student in the terminal, or pipe questions into it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
import yaml
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..architectures import labels_of
from ..classifier import classify, load_classifier, longest_text
from ..errors import DataError
from ..rendering import load_tokenizer, prompt_ids, read_ids, stop_ids
from ..runs import find_run
from ..student import load_model
from ..terminal import hint, say, warn
from ..types import Message

COMMANDS = "/reset forgets the conversation, /system TEXT sets the system message, /exit leaves"


def chat(place: Path, max_tokens: int) -> None:
    """Answers each line of stdin until /exit or its end; the student sees the whole conversation, as in training.

    One that chooses among labels says the likeliest for each line, with its probability; lines stand alone.
    """
    folder = _model_folder(place)
    if labels := labels_of(str(folder)):
        _classify_lines(folder, labels)
        return
    tokenizer = load_tokenizer(str(folder))
    model = load_model(str(folder))
    system = [Message("system", text)] if (text := _system_prompt(folder)) else []
    turns: list[Message] = []
    hint(f"{folder}\n{COMMANDS}")
    while (line := _ask()) is not None:
        word, _, rest = line.partition(" ")
        if word == "/exit":
            return
        if word in {"/reset", "/system"}:
            turns = []
            system = [Message("system", rest)] if word == "/system" and rest else system if word == "/reset" else []
        elif word.startswith("/"):
            warn(f"unknown command {word}: {COMMANDS}")
        elif line:
            turns.append(Message("user", line))
            turns.append(Message("assistant", _answer(model, tokenizer, [*system, *turns], max_tokens)))


def _classify_lines(folder: Path, labels: tuple[str, ...]) -> None:
    tokenizer = load_tokenizer(str(folder), reads_only=True)
    model = load_classifier(str(folder), labels, tokenizer)
    longest = longest_text(model.config, tokenizer)
    hint(f"{folder}\nchooses one of {len(labels)} labels for each line; /exit leaves")
    while (line := _ask()) is not None and line != "/exit":
        text = read_ids(tokenizer, [Message("user", line)])
        if longest is not None and len(text) > longest:
            warn(f"this line has {len(text):,} tokens and the student takes {longest:,}")
        elif line:
            (found,) = classify(model, [text])
            say(f"{labels[found.best]}  {found.probabilities[found.best]:.1%}")


def stream(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: list[int], max_tokens: int) -> Iterator[str]:
    """The greedy answer in pieces of text, as its tokens come; half a character waits for its other half."""
    ends = set(stop_ids(tokenizer))
    ids = torch.tensor([prompt], device=model.device)
    past, answer, shown = None, list[int](), ""
    for _ in range(max_tokens):
        with torch.inference_mode():
            out = model(input_ids=ids, past_key_values=past, use_cache=True)
        past = out.past_key_values
        token = int(out.logits[0, -1, : len(tokenizer)].argmax())
        if token in ends:
            return
        answer.append(token)
        text = str(tokenizer.decode(answer, skip_special_tokens=True))
        if not text.endswith("\ufffd"):
            yield text[len(shown) :]
            shown = text
        ids = torch.tensor([[token]], device=model.device)


def _answer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, messages: list[Message], max_tokens: int) -> str:
    prompt = prompt_ids(tokenizer, messages)
    room = int(getattr(model.config.get_text_config(), "max_position_embeddings", 0) or 2**31) - len(prompt)
    if room < 1:
        warn("the conversation is longer than the student's context; /reset starts a new one")
        return ""
    pieces = []
    for piece in stream(model, tokenizer, prompt, min(max_tokens, room)):
        sys.stdout.write(piece)
        sys.stdout.flush()
        pieces.append(piece)
    say()
    return "".join(pieces)


def _ask() -> str | None:
    """The next line, with a prompt on a terminal; None at the end."""
    if sys.stdin.isatty():
        sys.stdout.write("> ")
        sys.stdout.flush()
    line = sys.stdin.readline()
    return line.strip() if line else None


def _model_folder(place: Path) -> Path:
    if (place / "config.json").is_file():
        return place
    folder = find_run(place)
    if not (folder.model / "config.json").is_file():
        raise DataError(f"run {folder.path.name} has no finished student yet; `potstill run` continues it")
    return folder.model


def _system_prompt(model_folder: Path) -> str | None:
    """The task's own system prompt, where the model lies in its run folder."""
    job_file = model_folder.parent / "job.yaml"
    task = yaml.safe_load(job_file.read_text(encoding="utf-8")).get("task", {}) if job_file.is_file() else {}
    return task.get("system_prompt")
