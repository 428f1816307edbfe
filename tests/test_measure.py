from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from potstill.errors import ModelError
from potstill.measure import Measurement, MeasureSpec, measure, read_measurement, size_on_disk
from potstill.rendering import load_tokenizer, prompt_ids
from potstill.student import count_parameters, load_model
from potstill.types import Message


def prompts_of(folder: Path, count: int) -> list[list[int]]:
    tokenizer = load_tokenizer(str(folder))
    return [prompt_ids(tokenizer, [Message("user", f"My router shows a red light {i}")]) for i in range(count)]


def test_a_model_is_measured_in_a_process_of_its_own(student_folder: Path) -> None:
    prompts = prompts_of(student_folder, 4)
    found = measure(MeasureSpec(str(student_folder), prompts, prompts, max_tokens=4, device="cpu"))
    assert len(found.latency_s) == 4
    assert all(0 < seconds < 30 for seconds in found.latency_s)
    assert found.parameters == count_parameters(load_model(str(student_folder), device="cpu"))
    assert found.size_bytes == size_on_disk(str(student_folder))
    assert found.memory_bytes is not None
    assert 0 < found.memory_bytes < 400e6  # torch and transformers themselves, more than that, are not counted
    assert found.throughput_per_s is not None
    assert found.throughput_per_s > 0
    assert found.tokens_per_s is not None
    assert (found.device, found.dtype) == ("cpu", "float32")


def test_a_folder_without_a_model_is_not_measured_and_says_why(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not measured: no tokenizer could be loaded"):
        measure(MeasureSpec(str(tmp_path), [[1, 2]]))


def test_a_child_that_is_too_slow_is_stopped(student_folder: Path) -> None:
    with pytest.raises(ModelError, match=r"not measured: .* longer than 0 s"):
        measure(MeasureSpec(str(student_folder), [[1, 2]]), timeout_s=0.05)


@pytest.mark.parametrize("text", ["", "loading...\nhello", '{"latency_s": [1]}', "[1]", "{"])
def test_a_child_that_prints_nonsense_is_a_clear_error(text: str) -> None:
    with pytest.raises(ModelError, match="not measured: the measuring process printed no measurement"):
        read_measurement(text)


def test_what_a_library_prints_before_the_measurement_is_passed_over() -> None:
    found = Measurement([0.1], 5.0, None, 10, 20, 30, "cpu", "float32")
    assert read_measurement("a library says hello\n" + json.dumps(found.as_dict())) == found


def test_a_specification_that_is_no_specification_is_refused_in_one_line() -> None:
    command = [sys.executable, "-m", "potstill.measure"]
    child = subprocess.run(command, input='{"modell": 1}', capture_output=True, text=True, check=False, env=dict(os.environ))
    assert child.returncode == 2
    assert child.stdout == ""
    assert "the specification cannot be read" in child.stderr.splitlines()[-1]
    assert "Traceback" not in child.stderr


def test_the_size_on_disk_counts_weights_configuration_and_tokenizer_only(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x" * 1000)
    (tmp_path / "config.json").write_bytes(b"x" * 10)
    (tmp_path / "tokenizer.json").write_bytes(b"x" * 5)
    (tmp_path / "README.md").write_bytes(b"x" * 7)
    (tmp_path / "training_log.json").write_bytes(b"x" * 7)
    assert size_on_disk(str(tmp_path)) == 1015
    assert size_on_disk("no-such-owner/no-such-model") is None
