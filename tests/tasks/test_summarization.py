"""summarization: key facts where a row has them, overlap where it has none."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potstill.tasks.summarization import Summarization
from potstill.types import Example, Message

ASKED = (Message("user", "Summarize."),)


def test_a_summary_is_right_when_it_states_every_key_fact() -> None:
    row = Example("1", ASKED, "Zoe comes on Monday.", {"key_facts": ["Zoe", "Monday"]})
    assert Summarization().right("On monday, Zoe will return.", row) == 1.0
    assert Summarization().right("Zoe will return.", row) == 0.0


def test_without_key_facts_the_best_reference_decides() -> None:
    row = Example("1", ASKED, "one two three four", {"references": ["alpha beta"]})
    assert Summarization().right("alpha beta", row) == 1.0
    assert Summarization().right("one two five six", row) == 1.0
    assert Summarization().right("one five six seven", row) == 0.0
    assert Summarization(min_rouge_l=0.9).right("one two five six", row) == 0.0
    assert Summarization().right("x", Example("1", ASKED)) is None


DENSE = Summarization(chain_of_density=True)
PASSES = ["A man is ill.", "Zoe's father is ill.", "Zoe's father has the flu.", "Zoe's father Max has the flu since Monday."]
LISTED = [{"missing_entities": ["Zoe", "Max"][:n], "denser_summary": text} for n, text in enumerate(PASSES)]


def test_four_passes_are_asked_in_one_reply_behind_the_users_own_words() -> None:
    row = Example("1", (Message("system", "Write for doctors."), *ASKED))
    (system, user) = DENSE.teacher_prompt(row)
    assert system.content.startswith("Write for doctors.\n\n")
    assert user == ASKED[0]
    assert "in 4 passes" in system.content
    assert system.content.count("at most 80 words") == 2
    assert DENSE.prompt(row) == row.messages
    assert DENSE.max_teacher_tokens > 4 * DENSE.max_answer_tokens
    assert DENSE.max_student_tokens == DENSE.max_answer_tokens


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(LISTED),
        f"```json\n{json.dumps(LISTED, indent=1)}\n```",
        f"Here are the passes [as asked]:\n{json.dumps(LISTED)}\nI hope they help.",
        json.dumps({"passes": LISTED}),
        json.dumps([{"Missing_Entities": "", "Denser_Summary": f" {text}\n"} for text in PASSES]),
        "\n\n".join(f"**Pass {n}:**\nMissing entities: Max; Zoe\nDenser summary: {text}" for n, text in enumerate(PASSES, 1)),
        "\n".join(f"Summary {n}: {text}" for n, text in enumerate(PASSES, 1)),
        f"<think>Four?</think>{json.dumps(LISTED)}",
    ],
)
def test_the_last_pass_is_read_and_taught(text: str) -> None:
    row = Example("1", ASKED, None, {"key_facts": ["Max", "Monday"]})
    assert DENSE.unusable(text) is None
    assert DENSE.read(text) == PASSES[-1]
    assert [one.text for one in DENSE.taught(row, text)] == [PASSES[-1]]
    assert DENSE.right(text, row) == 1.0


def test_a_students_plain_summary_is_read_as_it_is() -> None:
    for plain in (
        PASSES[-1],
        "Results [1] and {2} are new.",
        '["Emma"] is a list with one name.',
        "Step 1: rest. Step 2: drink.",
    ):
        assert DENSE.read(plain) == plain
        assert DENSE.unusable(plain) == "no list of ever denser summaries"
        assert DENSE.taught(Example("1", ASKED), plain) == ()
    assert DENSE.unusable(json.dumps(LISTED)[:-20]) == "no list of ever denser summaries"


def test_a_summary_longer_than_was_asked_for_never_teaches() -> None:
    assert (
        DENSE.unusable(json.dumps([*LISTED, {"denser_summary": "word " * 81}]))
        == "a summary of 81 words, and max_summary_words is 80"
    )
    assert DENSE.unusable(json.dumps([*LISTED, {"denser_summary": "word " * 80}])) is None
    short = Summarization(max_summary_words=5)
    assert short.unusable("one two three four five six") == "a summary of 6 words, and max_summary_words is 5"
    assert short.unusable("one - two three four five!") is None
    assert short.unusable("ผมชอบแมว") is not None
    assert short.teacher_prompt(Example("1", ASKED))[0].content == "Write at most 5 words."
    assert Summarization().unusable("word " * 500) is None
    assert Summarization().teacher_prompt(Example("1", ASKED)) == ASKED


@given(st.text(alphabet=st.sampled_from('[]{}":, summary\nPass12') | st.characters(), max_size=100))
def test_no_text_breaks_the_passes(text: str) -> None:
    taught = DENSE.taught(Example("1", ASKED), text)
    if DENSE.unusable(text) is None:
        assert [one.text for one in taught] == [DENSE.read(text)]


def test_without_passes_a_fence_or_json_around_a_summary_is_taken_off() -> None:
    assert Summarization().read('```json\n{"summary": "Zoe is ill."}\n```') == "Zoe is ill."
    assert Summarization().read('"Emma" is a novel.') == '"Emma" is a novel.'
