from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.text.shingles import NUM_BANDS, TURN_BREAK, band_keys, outline, runs, sentences, shingles

WORDS = ["river", "bank", "lamp", "stone", "cloud", "forest", "window", "bridge", "market", "garden", "letter", "music"]
TEXT = st.text(max_size=120)


def identity(*turns: str) -> int:
    return outline(turns).identity


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Tom has 3 pens.", "tom has 3 PENS"),
        ("I don't like it.", "I do not like it!"),
        ("I don’t like it.", "I don't like it."),
        ("Where is my card?", "Please, where is my card?"),
        ("- Where is my card?", "Where is my card?"),
        ("well-known **things**", "well known things"),
    ],
)
def test_two_ways_to_write_the_same_have_one_identity(one: str, other: str) -> None:
    assert identity(one) == identity(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Tom has 3 pens.", "Tom has 5 pens."),
        ("Tom has three pens.", "Tom has five pens."),
        ("3 apples and 5 pears", "5 apples and 3 pears"),
        ("It is open.", "It is not open."),
        ("It is open.", "It isn't open."),
        ("It is not red but round.", "It is red but not round."),
        ("What is 3 + 5?", "What is 3 - 5?"),
        ("What is 3*5?", "What is 3/5?"),
        ("What is 8-5?", "What is 8 5?"),
        ("x > 2", "x < 2"),
        ("It costs $5.", "It costs €5."),
        ("He has more than Ann.", "He has less than Ann."),
        ("Ich mag Kaffee.", "Ich mag keinen Kaffee."),
        ("J'aime le thé.", "Je n'aime pas le thé."),
        ("我喜欢茶", "我不喜欢茶"),
        ("行けます", "行けません"),
        ("갈 수 있어요", "갈 수 없어요"),
        ("٣ كتب", "٥ كتب"),
    ],
)
def test_numbers_signs_negations_and_quantities_are_identity(one: str, other: str) -> None:
    assert identity(one) != identity(other)


def test_what_stands_apart_counts_for_the_identity_alone() -> None:
    one, other = outline(["Hello"], "You are Ada."), outline(["Hello"], "You are Bob.")
    assert one.identity != other.identity
    assert np.array_equal(one.codes, other.codes)


@given(st.lists(TEXT, max_size=4))
@settings(max_examples=150)
def test_any_text_has_an_outline_of_as_many_breaks_as_turns(turns: list[str]) -> None:
    found = outline(turns)
    assert (found.codes == TURN_BREAK).sum() == len(turns) + 1
    assert 0 <= found.identity < 2**64
    assert len(band_keys(shingles(found.codes).hashes, found.identity)) in (0, NUM_BANDS)


def test_numbers_are_the_same_in_every_process() -> None:
    program = (
        "from potstill.text.shingles import *; o = outline(['Tom has 3 pens.']); print(band_keys(shingles(o.codes).hashes, 7), o)"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1


def test_pairs_span_sentences_but_not_lines_and_a_lines_end_is_a_neighbour() -> None:
    def pairs(text: str) -> set[int]:
        return set(shingles(outline([text]).codes).hashes.tolist())

    across_sentences = pairs("a. b") - pairs("a\nb")
    assert len(across_sentences) == 1
    assert len(pairs("to oslo") ^ pairs("to oslo please")) == 4  # oslo|end; please, oslo please, please|end


def test_runs_stay_within_a_turn_and_say_where_they_start() -> None:
    found = runs(outline(["a b c. d", "e f g"]).codes, 3)
    assert found.starts.tolist() == [0, 1, 4]
    assert found.hashes[1] == runs(outline(["b c d"]).codes, 3).hashes[0]
    assert len(runs(outline(["a b"]).codes, 3).hashes) == 0
    assert len(runs(outline([]).codes, 3).hashes) == 0


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=40), st.integers(1, 13))
@settings(max_examples=100)
def test_runs_are_equal_exactly_where_the_words_are(said: list[str], length: int) -> None:
    found = runs(outline([" ".join(said)]).codes, length)
    windows = [tuple(said[at : at + length]) for at in range(len(said) - length + 1)]
    assert len(found.hashes) == len(windows)
    assert len(set(found.hashes.tolist())) == len(set(windows))


def test_bands_meet_as_often_as_the_theory_says() -> None:
    draw = random.Random(5)
    for jaccard in (0.9, 0.8, 0.5, 0.2):
        met = 0
        for _ in range(300):
            shared = round(2 * 100 * jaccard / (1 + jaccard))
            values = np.array([draw.getrandbits(64) for _ in range(200 - shared)], np.uint64)
            one, other = values[:100], np.concatenate([values[:shared], values[100:]])
            met += bool(np.intersect1d(band_keys(one, 1), band_keys(other, 1)).size)
        wanted = 1 - (1 - jaccard**6) ** 14
        assert abs(met / 300 - wanted) < 4 * (wanted * (1 - wanted) / 300) ** 0.5 + 0.02


def test_sets_of_different_identity_share_no_band() -> None:
    values = np.arange(1, 200, dtype=np.uint64)
    assert np.array_equal(band_keys(values, 1), band_keys(np.flip(values), 1))
    assert np.intersect1d(band_keys(values, 1), band_keys(values, 2)).size == 0


def test_a_long_set_is_signed_like_a_short_one() -> None:
    values = np.random.default_rng(3).integers(1, 2**63, 10_000).astype(np.uint64)
    assert np.array_equal(band_keys(values, 1), band_keys(np.concatenate([values, values[:77]]), 1))


def test_scripts_without_spaces_are_told_apart() -> None:
    assert not outline(["この列車は遅れています。"]).is_spaced
    assert outline(["The train is late", "Der Zug hat Verspätung"]).is_spaced


def test_sentences_are_normalised_and_blank_ones_left_out() -> None:
    assert sentences("Is it  open? Yes!\n\n  Good。明日も。") == ["is it open?", "yes!", "good。", "明日も。"]
