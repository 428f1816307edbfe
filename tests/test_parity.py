"""A certificate passes what says the same, and names what does not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from potstill.contracts import Artefact
from potstill.errors import ModelError
from potstill.parity import MIXED, Asked, certificate, reference_of
from potstill.runtimes import load_runtime

# Two words: after token i the second one has the score LEAN[i].
LEAN = [0.0, 2.0, -1.0, 3.0]


class Leaning:
    """A runtime of two words, whose second one has given scores."""

    def __init__(self, lean: Sequence[float] = LEAN, cuts: int = 1) -> None:
        self.lean, self.cuts = lean, cuts

    def logits(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        return np.array([[0.0, self.lean[index]] for index in ids], dtype=np.float32)

    def token_ids(self, text: str) -> list[int]:
        return [len(part) for part in text.split(" ", self.cuts)]


ASKED = [Asked([0, 1, 2, 3], 1)]


def artefact(folder: Path, runtime: object, least: float = 0.9) -> Artefact:
    file = folder / "model.bin"
    file.write_bytes(b"12345")

    def load() -> Leaning:
        if isinstance(runtime, Exception):
            raise runtime
        assert isinstance(runtime, Leaning)
        return runtime

    return Artefact("small", (file,), "by hand", load, least)


def test_what_says_the_same_passes(tmp_path: Path) -> None:
    found = certificate(artefact(tmp_path, Leaning()), reference_of(Leaning(), ASKED))
    assert (found["passed"], found["why"], found["size_bytes"]) == (True, None, 5)
    assert (found["largest_difference"], found["mean_kl"], found["tokens"]) == (0.0, 0.0, 3)
    assert found["agreement"]["value"] == 1.0
    assert found["agreement"]["low"] < 0.5  # three tokens show little
    assert found["tokenizer"] == f"{len(MIXED)} of {len(MIXED)}"


def test_scores_are_compared_from_the_prompts_last_token_on(tmp_path: Path) -> None:
    # Token 0 is of the prompt; of the others one score differs by 1: log-probabilities by hand.
    found = certificate(artefact(tmp_path, Leaning([9.0, 3.0, -1.0, 3.0])), reference_of(Leaning(), ASKED))
    p = 1 / (1 + math.exp(-2))
    before, after = (math.log(p), math.log(1 - p)), (-math.log(1 + math.exp(-3)), -math.log(1 + math.exp(3)))
    assert found["largest_difference"] == pytest.approx(max(abs(a - b) for a, b in zip(before, after, strict=True)), rel=1e-5)
    kl = p * (before[0] - after[0]) + (1 - p) * (before[1] - after[1])
    assert found["mean_kl"] == pytest.approx(kl / 3, rel=1e-4)
    assert found["agreement"]["value"] == 1.0


def test_other_choices_fail_only_where_so_few_tokens_can_show_it(tmp_path: Path) -> None:
    turned = Leaning([0.0, -2.0, -1.0, 3.0])
    assert certificate(artefact(tmp_path, turned), reference_of(Leaning(), ASKED))["passed"]  # 2 of 3 may be 94% in truth
    many = certificate(artefact(tmp_path, turned), reference_of(Leaning(), ASKED * 20))
    assert not many["passed"]
    assert many["why"] == "it chooses as the student does on 66.7% of the tokens, and 90% are asked of it"
    assert certificate(artefact(tmp_path, turned, least=0.6), reference_of(Leaning(), ASKED * 20))["passed"]


def test_texts_that_are_cut_otherwise_fail(tmp_path: Path) -> None:
    found = certificate(artefact(tmp_path, Leaning(cuts=2)), reference_of(Leaning(), ASKED))
    assert not found["passed"]
    assert "of mixed scripts otherwise than the student's" in found["why"]


def test_what_cannot_be_loaded_fails_with_the_reason(tmp_path: Path) -> None:
    found = certificate(artefact(tmp_path, ModelError("the file is cut")), reference_of(Leaning(), ASKED))
    assert (found["passed"], found["why"]) == (False, "it could not be loaded: the file is cut")


def test_scores_that_are_no_numbers_fail(tmp_path: Path) -> None:
    found = certificate(artefact(tmp_path, Leaning([0.0, math.nan, 0.0, 0.0])), reference_of(Leaning(), ASKED))
    assert not found["passed"]
    assert "no numbers" in found["why"]


def test_a_student_on_the_disk_agrees_with_itself(tmp_path: Path, student_folder: Path) -> None:
    one = Artefact("itself", (), "transformers", lambda: load_runtime(student_folder), 1.0)
    found = certificate(one, reference_of(load_runtime(student_folder), []))
    assert (found["passed"], found["largest_difference"]) == (True, 0.0)
    assert found["tokens"] > 100  # the mixed texts, where there are no rows
