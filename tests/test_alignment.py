"""Two tokenizers' tokens of one text: every byte in one group, whatever the text, the first token and the end included."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from other_tokens import KINDS, tokenizer_of
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from potstill.alignment import groups_of
from potstill.errors import ModelError
from potstill.rendering import answer_ids
from potstill.spelling import Spelled, Spelling, word_map
from potstill.types import Message

ASKED = [Message("user", "hello")]
SPELLINGS = {kind: Spelling(tokenizer_of(kind)) for kind in KINDS}
SAMPLES = [
    "The router light is red.",
    "Größe über Köln",
    "日本語 🙂👩‍👩‍👧",
    " leading",
    "trailing ",
    "",
    "a",
    "é",
    "12,345.67 €\n\nDone.\tYes",
    "  two",
]
texts = st.one_of(
    st.sampled_from(SAMPLES), st.text(max_size=30), st.lists(st.sampled_from("aé 🙂日\n\u2581"), max_size=12).map("".join)
)


def spelled(kind: str, text: str) -> tuple[np.ndarray, Spelled | None]:
    answer = np.array(answer_ids(tokenizer_of(kind), ASKED, text), dtype=np.int32)
    return answer, SPELLINGS[kind].spelled(answer, text)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", [text for text in SAMPLES if text])
def test_tokens_spell_their_text(kind: str, text: str) -> None:
    answer, found = spelled(kind, text)
    assert found is not None, "ordinary text in five kinds of tokenizers"
    assert len(found.ends) == len(answer) - len(SPELLINGS[kind].end)
    assert found.ends[-1] == len(text.encode())
    assert found.has_prefix == (kind in ("metaspace", "llama")) or text.startswith(" ")


@settings(max_examples=150, deadline=None)
@given(text=texts, one=st.sampled_from(KINDS), other=st.sampled_from(KINDS))
def test_every_byte_is_in_one_group_and_both_sides_spell_it(text: str, one: str, other: str) -> None:
    (tokens, first), (_, second) = spelled(one, text), spelled(other, text)
    if first is None or second is None:
        return  # such as a U+2581 in a text, which comes back as a blank
    groups = groups_of(first, second)
    assert groups.teacher_G[0] == groups.student_G[0] == 0, "the first token is in the first group"
    data, at = text.encode(), 0
    for number in range(len(groups.teacher_G) - 1):
        ends = [
            int(side.ends[starts[number + 1] - 1]) for side, starts in ((first, groups.teacher_G), (second, groups.student_G))
        ]
        assert ends[0] == ends[1] > at, "a group has at least one byte, the same of both"
        at = ends[0]
    assert at == len(data)
    assert groups.teacher_G[-1] <= len(first.ends), "the last group is the end of the turn, with what spells nothing before it"
    assert groups.student_G[-1] <= len(second.ends)
    inner = set(first.ends.tolist()) & set(second.ends.tolist()) - {0}
    assert len(groups.teacher_G) == len(inner) + 1, "no finer groups are possible"
    if one == other:
        assert len(groups.teacher_G) == len(tokens) or 0 in first.ends or len(set(first.ends)) < len(first.ends)


def test_most_ordinary_text_is_spelled_by_every_kind() -> None:
    for kind in KINDS:
        lost = [text for text in SAMPLES if spelled(kind, text)[1] is None]
        assert lost == [], f"{kind}: {lost}"


def test_the_groups_of_the_picture_are_those_of_the_text() -> None:
    teacher = Spelled(np.array([5, 9]), has_prefix=False)
    student = Spelled(np.array([3, 5, 6, 9]), has_prefix=False)
    groups = groups_of(teacher, student)
    assert groups.teacher_G.tolist() == [0, 1, 2]
    assert groups.student_G.tolist() == [0, 2, 4]


def test_tokens_without_bytes_go_with_what_follows() -> None:
    # a first blank that the text has not (end 0), and parts of a character whose bytes the last part has (3, 3, then 7)
    groups = groups_of(Spelled(np.array([0, 3, 3, 7]), has_prefix=True), Spelled(np.array([3, 7]), has_prefix=False))
    assert groups.teacher_G.tolist() == [0, 2, 4]
    assert groups.student_G.tolist() == [0, 1, 2]
    empty = groups_of(Spelled(np.array([], dtype=np.int64), has_prefix=False), Spelled(np.array([0]), has_prefix=True))
    assert empty.teacher_G.tolist() == empty.student_G.tolist() == [0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_maps_onto_itself(kind: str) -> None:
    own = SPELLINGS[kind]
    found = word_map(own.keys, own, own.end)
    for word, other in enumerate(found.tolist()):
        if other != word:  # two words of the same bytes: a byte's own word, and the letter
            assert own.keys[word] is None or (own.keys[word] == own.keys[other] and own.is_byte_word[word])


def test_words_map_by_bytes_and_the_end_of_the_turn_by_its_meaning() -> None:
    teacher, student = SPELLINGS["llama"], SPELLINGS["large bytes"]
    names = tokenizer_of("llama").get_vocab(), tokenizer_of("large bytes").get_vocab()
    found = word_map(teacher.keys, student, teacher.end)
    assert found[names[0]["\u2581apples"]] == names[1]["Ġapples"]
    assert found[names[0]["</s>"]] == names[1]["<|eot|>"]
    assert found[names[0]["<|user|>"]] == names[1]["<|user|>"], "the same name, special in both"
    assert found[names[0]["<unk>"]] == -1
    at_start = word_map(teacher.keys, student, teacher.end, (True, False))
    assert at_start[names[0]["\u2581a"]] == names[1]["a"], "at the beginning its blank is not of the text"
    assert at_start[names[0]["a"]] == -1, "and a word without one is never said there"
    assert found[names[0]["a"]] == names[1]["a"]
    assert found[names[0]["\u2581a"]] == names[1]["Ġa"]


def test_an_answer_that_its_tokens_do_not_spell_has_no_place() -> None:
    spelling = SPELLINGS["bytes"]
    answer, found = spelled("bytes", "red")
    assert found is not None
    assert spelling.spelled(answer, "green") is None
    assert spelling.spelled(answer[:-1], "red") is None, "the end of the turn is missing"
    assert spelling.spelled(answer[:0], "") is None


def test_a_tokenizer_that_does_not_say_what_its_words_spell_is_refused() -> None:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"hello": 0, "</s>": 1, "[UNK]": 2}, unk_token="[UNK]")), eos_token="</s>"
    )
    with pytest.raises(ModelError, match="does not say which bytes its words spell"):
        Spelling(tokenizer)
