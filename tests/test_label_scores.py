"""Scores of labels: equal to brute force, whatever the batch and the architecture; kept by content, and read with care."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_tokenizer
from transformers import Gemma2Config, Gemma2ForCausalLM, MambaConfig, MambaForCausalLM, OPTConfig, OPTForCausalLM
from transformers.utils import logging as transformers_logging

from potstill.contracts import Teacher
from potstill.errors import JobError, ModelError
from potstill.label_scores import LabelScorer, LabelStore, LabelTeachers, target_logp
from potstill.labels import asked_key, gold_labels, softened
from potstill.plugins import load_plugin
from potstill.progress import Progress
from potstill.rendering import answer_ids, load_tokenizer, prompt_ids
from potstill.runfolder import RunFolder
from potstill.student import head_of, load_model
from potstill.types import Example, Lesson, Message

TASK = load_plugin("tasks", {"kind": "nli", "system_prompt": "Entailment, neutral or contradiction?"})
LABELS = ("entailment", "neutral", "contradiction", "entail")


def examples(count: int) -> list[Example]:
    return [Example(str(n), (Message("user", "A man walks. " * (1 + n % 4) + f"Row {n}?"),)) for n in range(count)]


def save_odd(folder: Path, family: str) -> Path:
    """Teachers that hide a cache's traps: positions made of the mask, a window shorter than the prompt, a state without keys."""
    tokenizer = make_tokenizer()
    torch.manual_seed(4)
    ends = {"vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    usual = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    opt = {"ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 512, "dropout": 0.0}
    gemma = {"intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 16}
    models = {
        "opt": lambda: OPTForCausalLM(OPTConfig(**ends, **usual, **opt)),
        "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**ends, **usual, **gemma)),
        "mamba": lambda: MambaForCausalLM(MambaConfig(**ends, hidden_size=32, num_hidden_layers=2, state_size=8)),
    }
    models[family]().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def brute(folder: Path, prompts: list[list[int]]) -> list[list[float]]:
    """Sum of log-probabilities, one label of one prompt after the other, without batch, padding or cache."""
    model, tokenizer = load_model(str(folder)), load_tokenizer(str(folder))
    found = []
    for prompt in prompts:
        row = []
        for label in LABELS:
            answer = answer_ids(tokenizer, [Message("user", "x")], label)
            with torch.no_grad():
                logp = torch.log_softmax(model(torch.tensor([prompt + answer])).logits[0].double(), -1)
            row.append(sum(float(logp[len(prompt) - 1 + place, token]) for place, token in enumerate(answer)))
        found.append(row)
    return found


@pytest.mark.parametrize("family", ["teacher_folder", "phi3_folder", "opt", "gemma2", "mamba"])
@pytest.mark.parametrize("budget", [4096, 40])
def test_scores_are_those_of_brute_force(family: str, budget: int, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    transformers_logging.set_verbosity_error()
    folder = request.getfixturevalue(family) if family.endswith("_folder") else save_odd(tmp_path / family, family)
    tokenizer = load_tokenizer(str(folder))
    prompts = [prompt_ids(tokenizer, TASK.prompt(example)) for example in examples(5)]
    assert max(map(len, prompts)) > 16
    scorer = LabelScorer(load_model(str(folder)), tokenizer, LABELS, "fp32")
    assert scorer.goes_on == (family != "mamba")
    np.testing.assert_allclose(np.stack(scorer.scores(prompts, budget)), brute(folder, prompts), atol=2e-3, rtol=1e-4)


def test_more_labels_than_go_on_together_are_scored_in_their_places(teacher_folder: Path) -> None:
    tokenizer, model = load_tokenizer(str(teacher_folder)), load_model(str(teacher_folder))
    labels = [f"label {'walks ' * (n % 5)}{n}" for n in range(40)]
    prompts = [prompt_ids(tokenizer, TASK.prompt(example)) for example in examples(3)]
    scorer = LabelScorer(model, tokenizer, labels, "fp32")
    assert scorer.goes_on
    np.testing.assert_allclose(scorer.scores(prompts, 4096), scorer.scores_whole(prompts, 4096), atol=2e-3, rtol=1e-4)


def test_padded_rows_of_the_vocabulary_have_no_part_and_softcap_scale_and_bias_have(teacher_folder: Path) -> None:
    head = head_of(load_model(str(teacher_folder)), 300)._replace(bias_V=torch.randn(320), scale=0.5, softcap=2.0)
    hidden_NH, target_N = torch.randn(7, 64), torch.arange(7)
    logits = hidden_NH @ head.weight_VH[:300].T + head.bias_V[:300]  # type: ignore[index]
    expected = torch.log_softmax(2.0 * torch.tanh(0.5 * logits / 2.0), 1).gather(1, target_N[:, None])[:, 0]
    torch.testing.assert_close(target_logp(hidden_NH, head, target_N), expected)


def captured(teachers: list[Teacher], rows: list[Example], place: Path) -> tuple[LabelTeachers, tuple[int, int]]:
    found = LabelTeachers(teachers, TASK, place / "signals", 512, "fp32")
    with Progress(RunFolder(place / "run"), "capture", len(rows)) as bar:
        return found, tuple(found.capture(rows, bar))  # type: ignore[return-value]


def test_scores_are_captured_once_softened_when_read_and_mixed_by_weight(
    teacher_folder: Path, phi3_folder: Path, tmp_path: Path
) -> None:
    one = load_plugin("teachers", {"kind": "huggingface", "model": str(teacher_folder), "weight": 3})
    other = load_plugin("teachers", {"kind": "huggingface", "model": str(phi3_folder)})
    rows = examples(6)
    first, scored = captured([one], rows[:4], tmp_path)
    assert scored == (4, 0)
    assert captured([one], rows, tmp_path)[1] == (2, 0), "what is there is not scored again"
    both, scored = captured([one, other], rows, tmp_path)
    assert scored == (6, 0)
    tokenizer = load_tokenizer(str(teacher_folder))
    prompts = [prompt_ids(tokenizer, TASK.prompt(example)) for example in rows]
    alone = np.exp(softened(np.array(brute(teacher_folder, prompts[:1])[0][:3]), 1.0))
    assert np.exp(first.softened(1.0)[asked_key(TASK, rows[0])]) == pytest.approx(alone, abs=1e-4)
    parts = [np.exp(softened(np.array(brute(place, prompts[:1])[0][:3]), 4.0)) for place in (teacher_folder, phi3_folder)]
    mixed = np.exp(both.softened(4.0)[asked_key(TASK, rows[0])])
    assert mixed == pytest.approx(0.75 * parts[0] + 0.25 * parts[1], abs=1e-4)
    assert mixed.sum() == pytest.approx(1.0, abs=1e-6)


def test_teachers_of_labels_are_mixed_by_confidence_and_by_gold(teacher_folder: Path, phi3_folder: Path, tmp_path: Path) -> None:
    """By plain arithmetic on what the stores hold: shares from the unsoftened scores, one row with gold and one without."""
    one = load_plugin("teachers", {"kind": "huggingface", "model": str(teacher_folder), "weight": 3})
    other = load_plugin("teachers", {"kind": "huggingface", "model": str(phi3_folder)})
    rows = examples(2)
    both, _ = captured([one, other], rows, tmp_path)
    keys = [asked_key(TASK, row) for row in rows]
    lessons = [Lesson(rows[0], "contradiction", "gold"), Lesson(rows[1], "neutral", "teacher")]
    assert gold_labels(lessons, TASK) == {keys[0]: 2}
    for mix_by in ("confidence", "gold"):
        found = both.softened(4.0, mix_by, gold_labels(lessons, TASK))
        for key in keys:
            p = [np.exp(both.store(teacher).scores[key].astype(float)) for teacher in (one, other)]
            raw = np.array([0.75, 0.25])
            if mix_by == "confidence":
                raw = raw * [np.exp(np.sum(each * np.log(each))) for each in p]
            elif key == keys[0]:
                raw = raw * np.array([p[0][2], p[1][2]]) / (p[0][2] + p[1][2])
            soft = [np.exp(softened(np.log(each), 4.0)) for each in p]
            wanted = (raw[0] * soft[0] + raw[1] * soft[1]) / raw.sum()
            assert np.exp(found[key]) == pytest.approx(wanted, abs=1e-6)


def test_a_prompt_that_a_teacher_cannot_be_asked_is_counted_and_harms_no_other(teacher_folder: Path, tmp_path: Path) -> None:
    teacher = load_plugin("teachers", {"kind": "huggingface", "model": str(teacher_folder)})
    long = Example("long", (Message("user", "A man walks. " * 300),))
    found, scored = captured([teacher], [*examples(2), long], tmp_path)
    assert scored == (2, 1)
    assert set(found.softened(4.0)) == {asked_key(TASK, example) for example in examples(2)}


def test_a_teacher_without_weights_here_cannot_score(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="has no weights on this machine, so it cannot score labels"):
        captured([load_plugin("teachers", "scripted")], examples(1), tmp_path)


def test_a_store_keeps_every_whole_line_of_a_killed_process_and_finds_damage(tmp_path: Path) -> None:
    store = LabelStore(tmp_path, {"teacher": "t"}, 3)
    rows = {str(n): softened(np.array([-n, -1.5, -0.25]), 1.0) for n in range(3)}
    store.add(rows)
    with store.path.open("ab") as file:
        file.write(b'{"asked": "4", "logp": [0.0, -1')
    again = LabelStore(tmp_path, {"teacher": "t"}, 3)
    assert {name: logp.tolist() for name, logp in again.scores.items()} == {name: logp.tolist() for name, logp in rows.items()}
    store.add({"3": rows["1"]})  # another process, which was open when the line was torn
    again.add({"4": rows["0"]})
    assert list(LabelStore(tmp_path, {"teacher": "t"}, 3).scores) == ["0", "1", "2", "3", "4"]
    assert LabelStore(tmp_path, {"teacher": "u"}, 3).scores == {}
    lines = store.path.read_text().splitlines()
    damaged = [json.dumps({**json.loads(lines[0]), "logp": [-0.5, -1.5, -2.5]}), *lines[1:]]
    for text in ("\n".join(damaged), "\n".join(["{", *lines]), "\n".join(['{"asked": "7"}', *lines])):
        store.path.write_text(text + "\n")
        with pytest.raises(ModelError, match="damaged; delete that folder and run again"):
            LabelStore(tmp_path, {"teacher": "t"}, 3)
