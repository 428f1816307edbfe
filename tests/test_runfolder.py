"""A model folder's digest, whole files, and who holds the folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from potstill.errors import RunBusyError
from potstill.runfolder import RunFolder, folder_digest, read_rows, replaced_folder, write_rows


def test_weights_and_tokenizer_decide_a_models_digest_and_its_card_does_not(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "README.md").write_text("card")
    first = folder_digest(tmp_path)
    (tmp_path / "README.md").write_text("another card")
    (tmp_path / "training_log.json").write_text("{}")
    assert folder_digest(tmp_path) == first
    (tmp_path / "chat_template.jinja").write_text("x")
    second = folder_digest(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"others!")
    assert len({first, second, folder_digest(tmp_path)}) == 3


def test_a_torn_event_harms_no_other(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.event("one")
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"event": "to')
    assert [event["event"] for event in read_rows(tmp_path / "events.jsonl")] == ["one"]
    folder.event("two")
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["event"] == "two"


def test_a_failing_writer_leaves_the_old_file_and_folder(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", [{"a": 1}])

    def rows():  # type: ignore[no-untyped-def]
        yield {"a": 2}
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        write_rows(tmp_path / "rows.jsonl", rows())
    assert list(read_rows(tmp_path / "rows.jsonl")) == [{"a": 1}]
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").touch()
    with pytest.raises(OSError, match="full"), replaced_folder(tmp_path / "model"):
        raise OSError("the disk is full")
    assert (tmp_path / "model" / "old").exists()


def test_a_folder_held_by_another_process_is_refused_with_its_number(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from potstill.runfolder import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).locked(): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=-1, stdout=-1, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        with pytest.raises(RunBusyError, match=str(child.pid)), RunFolder(tmp_path).locked():
            pass
        child.communicate("")
    with RunFolder(tmp_path).locked():
        assert (tmp_path / ".lock").read_text()
