from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from potstill.contracts import Answered, Finding, Room, Watch
from potstill.errors import ModelError
from potstill.plugins import load_plugin
from potstill.types import Example, Message, Reply

OTHERS = [f"w{first}{second}" for first in "abcdef" for second in "abcdefghij"]
MEANINGS = [
    ["card", "visa"],
    ["lost", "missing", "gone"],
    ["car", "automobile"],
    ["buy", "purchase"],
    ["big", "large"],
    ["please", "kindly"],
    *[[word] for word in ("my", "is", "a", "i", "how", "can", "where", "what", "not", "red", "blue", "home", "who", "one")],
    *[[str(number)] for number in range(10)],
    *[[word] for word in OTHERS],
]
WIDTH = 128


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A real encoder of no layers: a text is the mean of its words, and words of one meaning are one vector."""
    folder = tmp_path_factory.mktemp("encoder")
    names = ["[PAD]", "[UNK]", *[word for meaning in MEANINGS for word in meaning]]
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=40
    ).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(names), hidden_size=WIDTH, num_hidden_layers=0, num_attention_heads=1, max_position_embeddings=64
    )
    model = BertModel(config, add_pooling_layer=False)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        model.embeddings.position_embeddings.weight.zero_()
        model.embeddings.token_type_embeddings.weight.zero_()
        at = 2
        for meaning in MEANINGS:
            model.embeddings.word_embeddings.weight[at : at + len(meaning)] = torch.randn(WIDTH, generator=draw)
            at += len(meaning)
    model.save_pretrained(folder)
    return str(folder)


def watch(folder: Path, model: str, **fields: Any) -> Watch:
    room = Room(load_plugin("tasks", "conversation"), folder, (), lambda teacher, requests: [])
    looking: Watch = load_plugin("checks", {"kind": "semantic_duplicates", "model": model, **fields}).watch(room)
    return looking


def row(name: str, prompt: str, answer: str | None = None, system: str = "Be kind.") -> Answered:
    example = Example(name, (Message("system", system), Message("user", prompt)))
    return Answered(example, None if answer is None else Reply(answer))


def kept(looking: Watch, rows: Sequence[Answered], at_once: int = 3) -> list[bool]:
    said = [found for start in range(0, len(rows), at_once) for found in looking.look(rows[start : start + at_once])]
    return [not isinstance(found, Finding) for found in said]


def test_other_words_for_the_same_are_no_new_row_whether_in_one_batch_or_later(encoder: str, tmp_path: Path) -> None:
    rows = [row("a", "my card is lost"), row("b", "where can i buy a car"), row("c", "my visa is missing")]
    rows += [
        row("d", "How can I purchase a blue automobile"),
        row("e", "where can i purchase a automobile"),
        row("f", "is my card gone"),
    ]
    for at_once in (1, 2, 6):
        looking = watch(tmp_path, encoder)
        assert kept(looking, rows, at_once) == [True, True, False, True, False, False]
        assert looking.report() == {"pairs": [["c", "a"], ["e", "b"], ["f", "a"]]}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("my card is lost", "my card is not lost"),
        ("i buy 3 red card", "i buy 5 red card"),
        ("i buy one red card", "i buy 1 red card"),
    ],
)
def test_numbers_and_negations_make_a_new_row_however_near_the_vectors(
    encoder: str, tmp_path: Path, one: str, other: str
) -> None:
    assert kept(watch(tmp_path, encoder, alike=0.5), [row("a", one), row("b", other), row("c", one)]) == [True, True, False]


def test_how_near_is_near_is_the_jobs_choice(encoder: str, tmp_path: Path) -> None:
    rows = [row("a", "my card is lost"), row("b", "my car is lost")]
    assert kept(watch(tmp_path, encoder), rows) == [True, True]
    assert kept(watch(tmp_path, encoder, alike=0.6), rows) == [True, False]


def test_the_system_message_is_part_of_the_row(encoder: str, tmp_path: Path) -> None:
    rows = [row("a", "my card is lost"), row("b", "my visa is lost", system="Be rude.")]
    assert kept(watch(tmp_path, encoder), rows) == [True, True]


def test_two_questions_about_one_text_are_two(encoder: str, tmp_path: Path) -> None:
    text = " ".join(OTHERS[:30]) + ".\n"
    rows = [row("a", text + "who is home"), row("b", text + "what is red"), row("c", text + "who is home please")]
    assert kept(watch(tmp_path, encoder, alike=0.85), rows) == [True, True, False]


def test_a_difference_too_long_for_the_encoder_is_not_judged(encoder: str, tmp_path: Path) -> None:
    text = " ".join(OTHERS[:50])
    assert kept(watch(tmp_path, encoder), [row("a", text + " red"), row("b", text + " blue"), row("c", text + " red")]) == [
        True,
        True,
        False,
    ]


def test_the_answers_must_agree_too_unless_prompts_alone_count(encoder: str, tmp_path: Path) -> None:
    prompts = ["my card is lost", "my visa is lost", "my card is missing", "my visa is gone"]
    answers = ["a red car", "waa wab wac", "A red  automobile", "a 3 red car"]
    rows = [row(str(at), prompt, answer) for at, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))]
    assert kept(watch(tmp_path, encoder), rows) == [True, True, False, True]
    assert kept(watch(tmp_path, encoder, compare="prompt"), rows) == [True, False, False, False]


def test_an_instruction_that_all_share_makes_no_row_a_duplicate(encoder: str, tmp_path: Path) -> None:
    told = " ".join(OTHERS[:25])
    rows = [row(str(number), f"{told}.\n{OTHERS[30 + number]} {OTHERS[31 + number]} home") for number in range(28)]
    rows += [
        row("again", f"{told}.\n{OTHERS[33]} kindly {OTHERS[32]} home"),
        row("first", f"{told}.\n{OTHERS[32]} {OTHERS[33]} please home"),
    ]
    assert kept(watch(tmp_path, encoder, alike=0.75), rows, at_once=30) == [True] * 28 + [False, False]


def test_pooling_is_what_the_models_files_say_unless_the_job_says_otherwise(encoder: str, tmp_path: Path) -> None:
    rows = [row("a", "card is lost"), row("b", "visa can i buy")]
    assert kept(watch(tmp_path, encoder, pooling="first"), rows) == [True, False]
    pooling = Path(encoder) / "1_Pooling" / "config.json"
    pooling.parent.mkdir()
    pooling.write_text(json.dumps({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}))
    try:
        assert kept(watch(tmp_path, encoder), rows) == [True, False]
        assert kept(watch(tmp_path, encoder, pooling="mean"), rows) == [True, True]
    finally:
        pooling.unlink()
        pooling.parent.rmdir()


def test_a_model_that_is_none_is_told_in_one_sentence(tmp_path: Path) -> None:
    missing = str(tmp_path / "nothing")
    check = load_plugin("checks", {"kind": "semantic_duplicates", "model": missing})
    [problem] = check.problems((), None)
    assert "no encoder could be loaded from" in problem
    with pytest.raises(ModelError, match="no encoder could be loaded from"):
        watch(tmp_path, missing).look([row("a", "Hi")])
    assert watch(tmp_path, missing).look([]) == []


def test_a_relative_folder_starts_at_the_job_files_folder(encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "encoder").symlink_to(encoder)
    monkeypatch.chdir(tmp_path)
    for model in ("encoder", "./encoder"):
        check = load_plugin("checks", {"kind": "semantic_duplicates", "model": model}, tmp_path / "job")
        assert check.model == str(Path(encoder).resolve())
        assert check.problems((), load_plugin("tasks", "nli")) == []
        assert load_plugin("checks", check.model_dump(mode="json")) == check, "a resolved job runs from anywhere"
    hub = load_plugin("checks", {"kind": "semantic_duplicates", "model": "sentence-transformers/all-MiniLM-L6-v2"}, tmp_path)
    assert hub.model == "sentence-transformers/all-MiniLM-L6-v2"
    missing = load_plugin("checks", {"kind": "semantic_duplicates", "model": "./encoder"}, tmp_path)
    assert str(tmp_path / "encoder") in missing.problems((), load_plugin("tasks", "nli"))[0], "said where it was looked for"
