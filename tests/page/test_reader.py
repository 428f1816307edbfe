"""The answers inside the page: packed whole, and filtered by a browser without a server."""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from made_run import made_job, made_run

from potstill.page.reader import Shown, packed
from potstill.stages import report

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
in_a_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")


def shown(number: int, teacher: float | None = 1.0, student: float | None = 0.0) -> Shown:
    said = {
        name: {"text": f"{name} says </script> {number}", "right": right, "finish_reason": "stop"}
        for name, right in (("teacher", teacher), ("student", student))
    }
    return Shown(f"row{number}", [{"role": "user", "content": f"question {number} é"}], None if teacher is None else "g", said)


def unpacked(text: str) -> Any:
    return json.loads(gzip.decompress(base64.b64decode(text)))


def test_every_row_is_packed_with_all_that_was_said() -> None:
    cut = shown(2, teacher=None, student=None)
    cut.said["student"]["finish_reason"] = "length"
    found = packed([shown(1), cut], {"source": ["b", "a"], "size": [None, "7"]}, 2)
    assert (found.num_rows, found.num_all) == (2, 2)
    assert "<" not in found.text
    assert unpacked(found.text) == {
        "systems": ["teacher", "student"],
        "fields": {"source": ["b", "a"], "size": ["7"]},
        "rows": [
            ["row1", [["user", "question 1 é"]], "g", [0, -1],
             [["teacher says </script> 1", 1.0, ""], ["student says </script> 1", 0.0, ""]]],
            ["row2", [["user", "question 2 é"]], None, [1, 0],
             [["teacher says </script> 2", None, ""], ["student says </script> 2", None, "cut at the longest allowed length"]]],
        ],
    }  # fmt: skip


def test_equal_rows_make_equal_pages() -> None:
    assert packed([shown(1)], {}, 1) == packed([shown(1)], {}, 1)


def test_too_many_rows_are_thinned_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("potstill.page.reader.MOST_ROWS", 4)
    found = packed([shown(number) for number in range(10)], {"n": [str(number) for number in range(10)]}, 10)
    assert [(row[0], row[3]) for row in unpacked(found.text)["rows"]] == [(f"row{3 * i}", [i]) for i in range(4)]
    assert unpacked(found.text)["fields"] == {"n": ["0", "3", "6", "9"]}
    assert (found.num_rows, found.num_all) == (4, 10)


def made_page(folder: Path, rows: int = 400) -> Path:
    run = made_run(folder, rows)
    report.run(made_job(folder), run)
    return run.path / "report.html"


def page_of(place: Path, address: str) -> str:
    assert BROWSER is not None
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=20000"]
    ended = subprocess.run(
        [*command, "--dump-dom", f"{place.as_uri()}{address}"], capture_output=True, text=True, timeout=120, check=True
    )
    assert "CONSOLE" not in ended.stderr, ended.stderr
    return ended.stdout


def told(dom: str) -> str:
    return html.unescape(re.findall(r"<output[^>]*>([^<]*)", dom)[0])


@in_a_browser
def test_a_browser_shows_the_rows_that_the_address_asks_for(tmp_path: Path) -> None:
    run = made_page(tmp_path)
    counts = dict(re.findall(r'<option value="([\w-]+)">[^<(]*\(([\d,]+)\)', page_of(run, "#answers")))
    assert counts["all"] == "400"
    first = page_of(run, "#answers&which=student-teacher")
    assert told(first) == f"1 to {counts['student-teacher']} of {counts['student-teacher']}"
    assert "<b>reboot</b>" not in first  # an answer's marks are text
    assert told(page_of(run, "#answers&text=ROUTER&page=2")).startswith("21 to 40 of ")
    assert told(page_of(run, "#answers&text=nobody+says+this")) == "no row fits"


@in_a_browser
def test_without_an_address_the_teachers_lead_is_shown_first(tmp_path: Path) -> None:
    dom = page_of(made_page(tmp_path), "")
    count = dict(re.findall(r'<option value="([\w-]+)">[^<(]*\(([\d,]+)\)', dom))["teacher-student"]
    assert told(dom) == f"1 to {min(20, int(count))} of {count}"
    assert re.search(r'id="some-rows" hidden', dom)
