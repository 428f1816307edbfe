"""Whether a text is new: the same verdict as ROUGE-L with every earlier text, without looking at all of them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.answers import novelty
from potstill.answers.novelty import Like, Novelty
from potstill.text.overlap import rouge_l

WORD = st.sampled_from(["red", "blue", "sun", "moon", "cat", "dog", "runs", "sleeps", "here", "there"])
TEXT = st.lists(WORD, min_size=1, max_size=9).map(" ".join)


@settings(max_examples=200)
@given(st.lists(TEXT, max_size=12), TEXT, st.sampled_from([0.5, 0.7, 0.9, 1.0]))
def test_the_verdict_is_that_of_rouge_l_with_every_earlier_text(earlier: list[str], text: str, limit: float) -> None:
    seen = Novelty(limit)
    for one in earlier:
        seen.add([one], 0)
    assert len(seen.find([text])) == sum(rouge_l(text, [one]) >= limit - 1e-9 for one in earlier)


def test_numbers_negation_and_signs_tell_texts_apart_that_are_like_otherwise() -> None:
    seen = Novelty(0.7)
    seen.add(["Can I cancel my order number 12 after I have paid for it?"], 3)
    assert seen.find(["Can I cancel my order number 13 after I have paid for it?"]) == [Like(3, False)]
    assert seen.find(["Can I not cancel my order number 12 after I have paid for it?"]) == [Like(3, False)]
    assert seen.find(["can i cancel my order number 12, after I have paid for it"]) == [Like(3, True)]
    assert seen.find(["How long does a refund take?"]) == []


def test_the_form_that_examples_share_is_not_compared() -> None:
    frame = "Read the message of a customer below and say which department should answer it.\nMessage: {}"
    examples = [
        [frame.format(text)] for text in ("My card is lost.", "The app crashes.", "Where is my parcel?", "I moved house.")
    ]
    plain, learned = Novelty(0.7), Novelty(0.7)
    learned.learn_form(examples)
    for seen in (plain, learned):
        for example in examples:
            seen.add(example, 0)
    other = [frame.format("Somebody stole the wheels of our van")]
    assert len(plain.find(other)) == 4
    assert learned.find(other) == []
    assert learned.find([frame.format("my card is LOST!")]) == [Like(0, True)]


def test_turns_of_any_script_and_texts_without_words_are_compared() -> None:
    seen = Novelty(0.7)
    for turns in (["Hallo", "Guten Tag", "Wo ist der Bahnhof?"], ["รถไฟไปเชียงใหม่ออกกี่โมง"], ["?!"]):
        seen.add(turns, 1)
    assert seen.find(["Hallo", "Guten Tag", "Wo ist der Bahnhof"])
    assert seen.find(["รถไฟไปเชียงใหม่ออกกี่โมง"])
    assert seen.find(["?!"])
    assert not seen.find(["!!"])
    assert not seen.find(["รถเมล์ถูกกว่าแท็กซี่ไหม"])
    assert len(seen) == 3


def test_a_text_is_compared_with_no_more_than_a_bounded_number_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(novelty, "MAX_COMPARED", 50)
    seen = Novelty(0.7)
    for _ in range(300):
        seen.add(["what is this"], 0)
    assert len(seen.find(["what is this"])) == 50
    assert seen.find([]) == []
