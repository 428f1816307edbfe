from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.text.lookalikes import Bands, Lookalikes, likeness
from potstill.text.shingles import Outline, outline

LONG = (
    "Yesterday the carpenter from the old harbour told everybody at the market how a wooden bridge over the little river was "
    "built by two brothers who came from the mountains with nothing but a saw and a long rope."
)


def of(text: str) -> Outline:
    return outline([text])


def alike(one: str, other: str) -> bool:
    return of(one).identity == of(other).identity and likeness(of(one).codes, of(other).codes) >= 0.9


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("I have a new card and I need to activate it.", "i have a new card, and I need to activate it"),
        ("Tell me how to get a refund for something I bought.", "Please tell me how to get a refund for something I bought."),
        (LONG, LONG.replace("carpenter", "joiner")),
        (LONG, LONG.replace("wooden ", "")),
        ("Hello there. I need a new card for my mother", "Hello there, I need a new card for my mother"),
    ],
)
def test_small_changes_that_change_no_meaning_are_seen_through(one: str, other: str) -> None:
    assert alike(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("alert my bank that i'm travelling to stockholm", "alert my bank that i'm travelling to oslo"),
        (LONG + "\nQuestion: Who built the bridge?", LONG + "\nQuestion: Who told the story?"),
        (LONG + "\nQuestion: Where did the brothers live?", LONG + "\nQuestion: Where did the carpenter live?"),
        (LONG, LONG + " They live there to this day, and their children too."),
        ("Mary told John that Ann was late for the show again", "John told Ann that Mary was late for the show again"),
        ("Josh has 85 marbles and gives Ann 14 of them.", "Josh has 58 marbles and gives Ann 41 of them."),
        ("The shop on the corner of our street is open now.", "The shop on the corner of our street is not open now."),
    ],
)
def test_texts_that_ask_or_say_something_else_are_not_alike(one: str, other: str) -> None:
    assert not alike(one, other)


@given(st.lists(st.sampled_from(["a", "b", "c.", "d\n", "e"]), max_size=30), st.lists(st.sampled_from("abcd"), max_size=30))
@settings(max_examples=100)
def test_likeness_is_symmetric_and_whole_for_a_text_and_itself(first: list[str], second: list[str]) -> None:
    one, other = of(" ".join(first)).codes, of(" ".join(second)).codes
    assert likeness(one, other) == likeness(other, one)
    assert 0 <= likeness(one, other) <= 1
    assert likeness(one, one) == 1


def test_a_near_duplicate_is_found_by_its_first_ones_name(tmp_path: Path) -> None:
    seen = Lookalikes(tmp_path, 0.9)
    assert seen.find_or_add("first", of(LONG)) is None
    assert seen.find_or_add("second", of("Something else entirely is said here, of cats and dogs.")) is None
    assert seen.find_or_add("third", of(LONG.replace("wooden ", ""))) == "first"
    assert seen.find(of(LONG.replace("wooden ", "stone "))) == "first"
    assert seen.find(of("")) is None
    assert list(tmp_path.iterdir()) == []  # the file with the words has no name


def test_a_text_without_words_is_like_no_other(tmp_path: Path) -> None:
    seen = Lookalikes(tmp_path, 0.9)
    assert [seen.find_or_add(str(at), of("?!")) for at in range(3)] == [None, None, None]


def made(draw: random.Random, count: int) -> str:
    return " ".join(f"w{draw.randrange(3000)}q" for _ in range(count))


def test_duplicates_are_found_however_long_ago_they_stood(tmp_path: Path) -> None:
    draw = random.Random(1)
    seen = Lookalikes(tmp_path, 0.9)
    texts = [made(draw, 25) for _ in range(2000)]
    assert [text for at, text in enumerate(texts) if seen.find_or_add(str(at), of(text)) is not None] == []
    chosen = range(0, len(texts), 31)
    assert [seen.find(of(texts[at] + " please")) for at in chosen] == [str(at) for at in chosen]
    assert [seen.find(of(made(draw, 25))) for _ in range(100)] == [None] * 100


def test_rows_of_one_long_template_are_told_apart_and_their_duplicates_found(tmp_path: Path) -> None:
    draw = random.Random(2)
    template = " ".join(f"rule{at} says be careful." for at in range(60))
    texts = [f"{template}\n{made(draw, 12)}" for _ in range(600)]
    seen = Lookalikes(tmp_path, 0.9)
    seen.learn([of(text) for text in texts[:200]])
    assert [seen.find_or_add(str(at), of(text)) for at, text in enumerate(texts)] == [None] * len(texts)
    chosen = range(0, 600, 7)
    assert [seen.find(of(f"{texts[at]} thanks")) for at in chosen] == [str(at) for at in chosen]


def test_bands_remember_across_sorting_and_put_the_most_shared_first() -> None:
    bands = Bands(fresh_rows=50)
    keys = np.random.default_rng(0).integers(0, 2**32, (1777, 4), dtype=np.uint32)
    for row, mine in enumerate(keys):
        bands.add(row, mine)
    for row in range(0, len(keys), 97):
        assert bands.nearest(keys[row]) == [row]
        mixed = keys[row].copy()
        mixed[0] = keys[7, 0]
        assert bands.nearest(mixed) == [row, 7]
    assert bands.nearest(np.array([0, 1, 2, 3], np.uint32)) == []


def test_a_key_that_everybody_has_costs_few_looks_and_hides_no_row_with_a_rare_one() -> None:
    bands = Bands(fresh_rows=50)
    for row in range(1280):
        bands.add(row, np.array([42, row + 1000], np.uint32))
    assert len(bands.nearest(np.array([42], np.uint32))) == 16
    assert bands.nearest(np.array([42, 1005], np.uint32))[0] == 5
