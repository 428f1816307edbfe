"""What a job will take is found without loading weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from potstill.errors import ModelError
from potstill.estimates import count_tokens, estimate, parameters_of, rows_asked, survey
from potstill.job import Job
from potstill.rendering import answer_ids, load_tokenizer, prompt_ids


def make_job(folder: Path, student: Path, **more: object) -> Job:
    rows = [{"prompt": f"Premise: {n}. Hypothesis: b.", "completion": "neutral" if n < 10 else None} for n in range(40)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    teacher = {
        "kind": "openai_api",
        "base_url": "http://127.0.0.1:9/v1",
        "model": "m",
        "input_per_million": 1,
        "output_per_million": 2,
    }
    fields = {"name": "n", "task": "nli", "data": "rows.jsonl", "teacher": teacher, "student": str(student)}
    return Job(**{"folder": folder, **fields, **more})


def test_parameters_are_read_from_the_headers(student_folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(student_folder)
    assert parameters_of(str(student_folder)) == sum(parameter.numel() for parameter in model.parameters())
    assert parameters_of("microsoft/Phi-4-mini-instruct") is None


def test_half_a_weight_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    with pytest.raises(ModelError, match="no whole safetensors file"):
        parameters_of(str(tmp_path))


def test_a_weight_file_without_its_end_is_refused(tmp_path: Path, student_folder: Path) -> None:
    whole = (student_folder / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-1])
    with pytest.raises(ModelError, match="no whole safetensors file"):
        parameters_of(str(tmp_path))


def test_unlabelled_files_need_no_gold_column(tmp_path: Path, student_folder: Path) -> None:
    (tmp_path / "a.csv").write_text("q,a\nfrage,antwort\n")
    (tmp_path / "u.csv").write_text("q\nnoch eine\n")
    data = {"train": "a.csv", "unlabelled": "u.csv", "columns": {"prompt": "q", "gold": "a"}}
    assert survey(make_job(tmp_path, student_folder, data=data))["unlabelled"].rows == 1


def test_only_rows_without_gold_are_asked_and_an_unknown_price_stays_unknown(tmp_path: Path, student_folder: Path) -> None:
    job = make_job(tmp_path, student_folder)
    found = survey(job)
    assert (found["train"].rows, found["train"].gold) == (40, 10)
    tokens = count_tokens(found["train"].sample, job.task, load_tokenizer(str(student_folder)), 512)
    expected = estimate(job, found, tokens)
    train_rows = 40 - 4 - 4
    assert expected.teacher_requests == train_rows - 10 + 1 + 4, "and the probe's row with gold, and the test rows"
    assert expected.cost_usd == (expected.prompt_tokens + 2 * expected.answer_tokens) / 1e6
    asks_all = make_job(tmp_path, student_folder, generate={"when_gold": "teacher"}, teacher="gpt-4")
    assert estimate(asks_all, found, tokens).teacher_requests == train_rows + 1 + 4
    assert expected.most_usd == pytest.approx(5 * (expected.prompt_tokens + 2 * 27 * job.task.max_answer_tokens) / 1e6)
    unknown = make_job(tmp_path, student_folder, teacher="llama-3.1-405b-instruct")
    assert estimate(unknown, found, tokens).cost_usd is None


def test_tokens_are_counted_as_training_will_see_them(tmp_path: Path, student_folder: Path) -> None:
    job = make_job(tmp_path, student_folder)
    tokenizer = load_tokenizer(str(student_folder))
    example = survey(job)["train"].sample[0]
    tokens = count_tokens([example], job.task, tokenizer, 10)
    assert tokens.prompt == len(prompt_ids(tokenizer, job.task.prompt(example)))
    assert tokens.answer == len(answer_ids(tokenizer, job.task.prompt(example), "neutral"))
    assert tokens.too_long == 1


def test_memory_disk_and_time_follow_the_students_size(tmp_path: Path, student_folder: Path) -> None:
    job = make_job(tmp_path, student_folder)
    size = parameters_of(str(student_folder))
    expected = estimate(job, survey(job), None)
    assert size is not None
    assert expected.memory_bytes == 16 * size
    assert expected.disk_bytes is not None
    assert expected.disk_bytes > 32 * size
    assert expected.seconds is not None
    lora = make_job(tmp_path, student_folder).model_copy(
        update={"student": job.student.model_copy(update={"adaptation": "lora"})}
    )
    assert estimate(lora, survey(lora), None).memory_bytes == 4 * size


def test_several_teachers_are_asked_about_test_rows_also_where_their_weights_are_here(
    tmp_path: Path, student_folder: Path, teacher_folder: Path
) -> None:
    alone = make_job(tmp_path, student_folder, teacher=str(teacher_folder))
    found = survey(alone)
    assert rows_asked(alone, found).test == 0, "its weights answer test rows themselves"
    several = make_job(
        tmp_path, student_folder, teacher={"model": str(teacher_folder), "temperature": 0.7}, generate={"samples": 3}
    )
    assert rows_asked(several, found).test == 4


def test_without_gold_in_validation_the_probe_takes_train_rows_with_gold(tmp_path: Path, student_folder: Path) -> None:
    (tmp_path / "v.jsonl").write_text('{"prompt": "Premise: z. Hypothesis: y."}\n')
    job = make_job(tmp_path, student_folder, data={"train": "rows.jsonl", "validation": "v.jsonl"}, generate={"probe_rows": 7})
    assert rows_asked(job, survey(job)).probe == 7
    none = make_job(tmp_path, student_folder, data={"train": "rows.jsonl", "max_gold_rows": 0, "validation": "v.jsonl"})
    assert rows_asked(none, survey(none)).probe == 0
