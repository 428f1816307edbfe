"""Memory that runs out halves the micro-batch and never the step; one row that does not fit is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from processes import in_two_processes
from test_training import largest_gap, training, weights

from potstill.errors import JobFailedError
from potstill.passes import is_out_of_memory
from potstill.plugins import load_plugin
from potstill.runfolder import read_rows
from potstill.training import train

TIGHT = '''
import torch
from potstill.contracts import Loss

class Tight(Loss):
    """Cross entropy with room for a few tokens at a time."""

    room: int

    def formula(self, student_logp_NC, teacher_logp_NC):
        if len(student_logp_NC) > self.room:
            raise torch.OutOfMemoryError("tried to allocate more than there is")
        return -student_logp_NC[:, 0]
'''


def tight(folder: Path, room: int) -> object:
    (folder / "tight.py").write_text(TIGHT, encoding="utf-8")
    return load_plugin("losses", {"kind": "./tight.py", "room": room}, folder)


def notes(run: Path) -> list[str]:
    return [event["message"] for event in read_rows(run / "events.jsonl") if event["event"] == "note"]


def test_a_step_that_does_not_fit_is_taken_in_smaller_pieces_with_the_same_result(student_folder: Path, tmp_path: Path) -> None:
    train(training(student_folder, tmp_path / "roomy"))
    train(replace(training(student_folder, tmp_path / "tight"), losses=(tight(tmp_path, 48),)))  # type: ignore[arg-type]
    assert largest_gap(weights(tmp_path / "roomy"), weights(tmp_path / "tight")) < 2e-5
    said = [note for note in notes(tmp_path / "tight" / "run") if "memory ran out" in note]
    assert said
    assert "with micro-batches of 4,096 positions" in said[0]
    steps = [e for e in read_rows(tmp_path / "tight" / "run" / "events.jsonl") if e["event"] == "step"]
    assert len(steps) == 6


def test_one_row_that_does_not_fit_is_told_with_what_to_do(student_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(JobFailedError, match=r"memory ran out on one row of \d+ tokens .*gradient_checkpointing"):
        train(replace(training(student_folder, tmp_path), losses=(tight(tmp_path, 0),)))  # type: ignore[arg-type]


def test_two_processes_halve_together(student_folder: Path, tmp_path: Path) -> None:
    code = (
        "from dataclasses import replace; from pathlib import Path; from test_passes import tight, train, training\n"
        "rank, where = PartialState().process_index, Path(sys.argv[2])\n"
        "(where / str(rank)).mkdir()\n"
        "loss = tight(where / str(rank), 48 if rank else 10_000)\n"
        "train(replace(training(Path(sys.argv[1]), where), losses=(loss,)))"
    )
    in_two_processes(tmp_path, code, student_folder, tmp_path)
    assert any("memory ran out" in note for note in notes(tmp_path / "run"))
    train(training(student_folder, tmp_path / "one"))
    assert largest_gap(weights(tmp_path / "one"), weights(tmp_path)) < 2e-5


def test_only_lack_of_memory_counts_as_such() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert is_out_of_memory(
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")
    )
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
