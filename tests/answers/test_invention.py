"""What a teacher is asked for when prompts are few, and how its list is read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from potstill.answers.invention import (
    Form,
    InventSettings,
    Seeds,
    Shape,
    Wish,
    pool_of,
    question,
    read_prompts,
    room_for,
    turns_of,
)
from potstill.types import Example, Message


def row(name: str, *turns: str, system: str | None = "Answer in one word.") -> Example:
    messages = [Message("assistant" if place % 2 else "user", text) for place, text in enumerate(turns)]
    return Example(name, ((Message("system", system),) if system else ()) + tuple(messages), gold="secret gold")


ROWS = [row(f"r{number}", f"Where is town {number}?") for number in range(30)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('["One?", "Two?"]', ["One?", "Two?"]),
        ('Here they are:\n```json\n[\n  "One?",\n  "Two\nlines?"\n]\n```\nEnjoy [smile]!', ["One?", "Two\nlines?"]),
        ('{"prompts": ["One?", "Two?"]}', ["One?", "Two?"]),
        (
            '[{"prompt": "One?", "answer": "no"}, {"question": "Two?"}, {"anything": "Three?"}, 7, null, ""]',
            ["One?", "Two?", "Three?"],
        ),
        ('{"prompt": "One?"}\n{"prompt": "Two?"}', ["One?", "Two?"]),
        ('Here are [3] prompts: ["One?", "Two?",]', ["One?", "Two?"]),
        ('<think>["No"]</think>["One?"]', ["One?"]),
        ('1. One?\n2) **Two?**\n3: "Three?"\n\nI hope these help!', ["One?", "Two?", "Three?"]),
        ("- One\n  and more?\n* Two?", ["One\n  and more?", "Two?"]),
        ('["half a character \\ud800", "One?"]', ["One?"]),
        ("I cannot help with that.", []),
        ("", []),
        ("[" * 5000, []),
    ],
)
def test_a_list_is_read_in_every_form_that_models_write(text: str, wanted: list[str]) -> None:
    assert read_prompts(text) == [(prompt,) for prompt in wanted]


@pytest.mark.parametrize(
    "text",
    [
        '```json\n["One?", "Two?", "Thr',
        '{"prompts": ["One?", "Two?", {"a',
        "1. One?\n2. Two?\n3. Thr",
        '["One?", "Two?", "Three?',
    ],
)
def test_of_a_list_that_was_cut_what_is_whole_is_used(text: str) -> None:
    assert read_prompts(text, cut=True) == [("One?",), ("Two?",)]


@pytest.mark.parametrize(
    "chat",
    [
        ["Hi", "Hello!", "Bye"],
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}, {"role": "user", "content": "Bye"}],
        {
            "messages": [
                {"role": "system", "content": "s"},
                *({"role": "user", "content": text} for text in ("Hi", "Hello!", "Bye")),
            ]
        },
        {"turns": ["Hi", "Hello!", "Bye"]},
    ],
)
def test_chats_are_read_turn_by_turn(chat: Any) -> None:
    wanted = [("Hi", "Hello!", "Bye")]
    assert read_prompts(json.dumps([chat, chat])) == wanted * 2
    assert read_prompts(json.dumps(chat) if isinstance(chat, dict) else json.dumps([chat])) == wanted


@given(st.text(), st.booleans())
def test_any_text_is_a_list_of_prompts_that_can_be_written(text: str, cut: bool) -> None:
    for turns in read_prompts(text, cut=cut):
        assert all(turn.strip() for turn in turns) or len(turns) > 1
        "".join(turns).encode()


@given(
    st.lists(st.text(min_size=1).filter(lambda text: text.strip() and text == text.strip()), min_size=1, max_size=5), st.data()
)
def test_a_json_list_is_read_whole_and_a_cut_one_up_to_the_cut(prompts: list[str], data: st.DataObject) -> None:
    text = json.dumps(prompts)
    wanted = [(prompt,) for prompt in prompts]
    assert read_prompts(text) == wanted
    found = read_prompts(text[: data.draw(st.integers(1, len(text) - 2))], cut=True)
    assert found == wanted[: len(found)] or not text.isascii()


def test_examples_are_drawn_by_hash_with_some_that_were_invented() -> None:
    seeds = Seeds(pool_of(reversed(ROWS)))
    assert [one.id for one in seeds.pool] == [one.id for one in pool_of(ROWS)]
    drawn = [[one.id for one in seeds.draw(number, 8, {})] for number in range(20)]
    assert drawn == [[one.id for one in Seeds(pool_of(ROWS)).draw(number, 8, {})] for number in range(20)]
    assert all(len(set(names)) == 8 for names in drawn)
    assert len({name for names in drawn for name in names}) == 30
    shape = Shape("Answer in one word.", 1)
    seeds.own[shape] = [row(f"own{number}", f"Whose is dog {number}?") for number in range(9)]
    shown = [one.id for one in seeds.draw(0, 8, {shape: 4})]
    assert len(shown) == 8
    assert len([name for name in shown if name in {"own0", "own1", "own2", "own3"}]) == 2
    assert Seeds(()).draw(0, 8, {}) == []


def test_examples_shown_together_have_one_system_prompt_where_enough_rows_share_it() -> None:
    mixed = [row(f"{system}{number}", f"Q {number}", system=system) for system in ("a", "b") for number in range(9)]
    seeds = Seeds(mixed)
    for number in range(12):
        assert len({one.messages[0].content for one in seeds.draw(number, 4, {})}) == 1
    lonely = Seeds([row(str(number), f"Q {number}", system=f"s{number}") for number in range(9)])
    assert len(lonely.draw(0, 4, {})) == 4


def test_a_request_names_task_examples_topic_difficulty_and_number_and_shows_no_answer() -> None:
    settings = InventSettings(num_prompts=5, description="Questions of tourists.", prompts_per_request=7)
    system, user = question(ROWS[:2], Wish("museums", "hard"), settings)
    assert (system.role, user.role) == ("system", "user")
    for part in ("Questions of tourists.", "Answer in one word.", '"Where is town 1?"', "Topic: museums.", "Difficulty: hard."):
        assert part in user.content
    assert "JSON list of 7 strings" in user.content
    assert "secret gold" not in user.content
    chat = question([row("c", "Hi", "Hello", "Bye")], Wish(None, None), settings)[1].content
    assert '["Hi", "Hello", "Bye"]' in chat
    assert "each a JSON list of 3 strings" in chat
    assert "Topic" not in chat
    bare = question([], Wish(None, "easy"), InventSettings(description="Riddles.", system_prompt="Be brief."))[1].content
    assert bare.startswith("The task:\nRiddles.\n\nBe brief.\n\nWrite 10 new inputs")


def test_the_form_of_the_examples_is_asked_of_new_prompts() -> None:
    pairs = [
        row(f"n{number}", f"Premise: A man {verb}.\nHypothesis: He moves.")
        for number, verb in enumerate(("runs", "sits", "eats"))
    ]
    form = Form.of(pairs, 1)
    assert form.parts == {"Premise", "Hypothesis"}
    assert form.fits(("Premise: It rains.\n Hypothesis: It is dry.",))
    assert not form.fits(("Does it rain?",))
    assert not form.fits(("Premise: It rains.\nHypothesis: " + "wet " * 1000,))
    assert not form.fits(("Premise: a\nHypothesis: b", "Fine.", "Premise: a\nHypothesis: c"))
    assert Form.of([], 1).fits(("x" * 5000,))
    assert not Form.of([], 1).fits((" ",))


def test_room_grows_with_what_is_asked_for() -> None:
    assert room_for(ROWS, InventSettings()) == 512
    assert room_for(ROWS, InventSettings(prompts_per_request=100)) > 1500
    assert room_for([row("long", "word " * 4000)], InventSettings()) == 8192
    assert turns_of(ROWS[3]) == ("Where is town 3?",)


@pytest.mark.parametrize("wrong", [{"num_prompts": -1}, {"max_overlap": 0}, {"prompts_per_request": 0}, {"topic": "x"}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        InventSettings(**wrong)
    assert InventSettings(topics="sea").topics == ("sea",)
