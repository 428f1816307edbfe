"""The packed models: tokenizer, template, sizes and a greedy reply."""

import json

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from potstill.starter import STUDENT, TEACHER, model_path, models_dir, rows
from potstill.starter.chat import END

BOTH = (TEACHER, STUDENT)


def _num_parameters(name: str) -> int:
    """Stored values; tied embeddings are stored once."""
    with safe_open(model_path(name) / "model.safetensors", "pt") as weights:
        return sum(torch.Size(weights.get_slice(key).get_shape()).numel() for key in weights.keys())  # noqa: SIM118


@pytest.fixture(scope="module", params=BOTH)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(model_path(request.param))


@pytest.mark.parametrize(
    "text",
    [
        "Hold 24 + 38 = 62.",
        "สวัสดีครับ",
        "🎉 party 👩‍💻",
        "tabs\tand\n\nlines  ",
        "naïve Ünïcode — ok",
        "$199.95 <b>x</b> a , b !",
    ],
)
def test_any_text_round_trips(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_digits_are_single_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    assert len(tokenizer.encode(" 2026", add_special_tokens=False)) == 4


def test_the_template_ends_a_turn_with_the_end_token(tokenizer: PreTrainedTokenizerBase) -> None:
    row = next(rows("conversation", "test", 1))
    text = tokenizer.apply_chat_template(row["messages"], tokenize=False)
    prompt = tokenizer.apply_chat_template(row["messages"][:-1], tokenize=False, add_generation_prompt=True)
    assert text.endswith(END)
    assert tokenizer.eos_token == END
    assert tokenizer.pad_token not in (None, END)
    assert text.startswith(prompt)


def test_both_models_share_one_tokenizer() -> None:
    teacher, student = (AutoTokenizer.from_pretrained(model_path(name)) for name in BOTH)
    assert teacher.get_vocab() == student.get_vocab()
    assert teacher.chat_template == student.chat_template


def test_the_student_has_at_most_a_quarter_of_the_teachers_parameters() -> None:
    assert 5e6 <= _num_parameters(TEACHER) <= 15e6
    assert 4 * _num_parameters(STUDENT) <= _num_parameters(TEACHER)


def test_the_pack_is_small_enough_to_ship() -> None:
    assert sum(path.stat().st_size for path in models_dir().rglob("*") if path.is_file()) <= 40e6


@pytest.mark.parametrize("name", BOTH)
def test_a_model_has_a_card_and_a_log_of_its_training(name: str) -> None:
    log = json.loads((model_path(name) / "training_log.json").read_text(encoding="utf-8"))
    assert log["log"][-1]["tokens"] > 0
    assert all(score["n"] >= 100 for score in log["test"].values())
    assert "apache-2.0" in (model_path(name) / "README.md").read_text(encoding="utf-8")


def test_the_teacher_answers_held_out_questions() -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_path(TEACHER))
    model = AutoModelForCausalLM.from_pretrained(model_path(TEACHER), dtype=torch.float32)
    right = 0
    for row in rows("qa", "test", 8, seed=5):
        inputs = tokenizer.apply_chat_template(
            row["messages"][:-1], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        output = model.generate(**inputs, max_new_tokens=16)
        reply = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        right += reply in row["meta"]["answers"]
    assert right >= 6
