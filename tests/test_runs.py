"""The runs in a folder: one that is damaged hides no other."""

from __future__ import annotations

from pathlib import Path

from potstill.runfolder import RunFolder
from potstill.runs import list_runs


def test_a_damaged_run_hides_no_other(tmp_path: Path) -> None:
    for name in ("one", "two"):
        RunFolder(tmp_path / name).update_state(status="completed")
    (tmp_path / "one" / "state.json").write_text('{"sta')
    assert [(run.name, run.status) for run in list_runs(tmp_path)] == [("one", "damaged"), ("two", "completed")]
