from __future__ import annotations

import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "page"))
from made_run import ANSWERS_CARD, made_job, made_run

from potstill.journal import Payer, Spend
from potstill.page import render
from potstill.plugins import load_plugin
from potstill.runfolder import RunFolder, read_json, read_rows, write_json, write_rows
from potstill.stages import report

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """Collects tags, text and addresses, and checks that tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.addresses: list[str] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "script" in self.open[-1:]:
            self.scripts.append(data)
        elif "style" not in self.open[-1:]:
            self.text += data


def read_page(folder: RunFolder) -> Page:
    page = Page()
    page.feed((folder.path / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    return page


def make(tmp_path: Path, rows: int = 60, **kwargs: Any) -> RunFolder:
    folder = made_run(tmp_path, rows, **kwargs)
    report.run(made_job(tmp_path), folder)
    return folder


def assert_only_our_script_stands_in(page: Page) -> None:
    """The packed answers, which are no script, and the reader, which fetches nothing."""
    data, reader = page.scripts
    assert re.fullmatch(r"[A-Za-z0-9+/=]+", data)
    assert reader == (Path(render.__file__).parent / "reader.js").read_text(encoding="utf-8")
    assert not re.search(r"\bfetch\(|XMLHttpRequest|import\(|innerHTML|eval\(|https?:", reader)


def test_the_report_holds_the_same_numbers_for_programs_and_for_people(tmp_path: Path) -> None:
    folder = make(tmp_path)
    found = read_json(folder.path / "report.json")
    student = found["systems"]["student"]
    assert student["parameters"] == 1_890_000
    assert set(student["accuracy"]) == {"value", "low", "high", "n", "why"}
    for key in ("latency_p50_s", "latency_p95_s", "memory_bytes", "size_bytes", "throughput_per_s"):
        assert student[key] > 0
    words = found["performance_comparison"]["teacher"]
    assert words["parameters"] == "7.78M"
    assert words["memory_usage"] == "66MB"
    assert words["throughput"] == "21 queries/second"
    assert re.fullmatch(r"\d+ms", words["inference_time"])
    assert words["accuracy"].endswith("%")
    page = read_page(folder)
    assert found["verdict"] in page.text.replace("\u00a0", " ")
    assert "7.78M" in page.text


def test_the_page_is_one_file_that_fetches_nothing(tmp_path: Path) -> None:
    folder = make(tmp_path)
    page = read_page(folder)
    assert page.addresses == []
    assert not {"link", "img", "iframe"} & set(page.tags)
    assert_only_our_script_stands_in(page)
    html = (folder.path / "report.html").read_text(encoding="utf-8")
    assert "@import" not in html
    assert "url(" not in html
    assert page.tags.count("h1") == 1


def test_what_a_model_says_is_shown_and_never_run(tmp_path: Path) -> None:
    folder = made_run(tmp_path, 60)
    attack = "<script>alert('x')</script>\"><img src=x onerror=alert(1)> {{ 7*7 }}"
    rows = list(read_rows(folder.evaluation / "student.jsonl"))
    write_rows(folder.evaluation / "student.jsonl", ({**row, "text": attack, "right": 0.0} for row in rows))
    examples = list(read_rows(folder.data / "test.jsonl"))
    for example in examples:
        example["messages"][-1]["content"] = attack
        example["gold"] = attack
    write_rows(folder.data / "test.jsonl", examples)
    write_json(folder.data / "card.json", {"files": {attack: {"kept": 1}}, attack: 2})
    job = made_job(tmp_path).model_copy(update={"description": attack})
    report.run(job, folder)
    page = read_page(folder)
    assert_only_our_script_stands_in(page)
    assert "img" not in page.tags
    assert page.text.count(attack) > 20


def test_twenty_rows_where_student_and_teacher_differ_are_shown(tmp_path: Path) -> None:
    folder = make(tmp_path, rows=400)
    found = read_json(folder.path / "report.json")["differences"]
    assert found["n"] == 400
    assert len(found["rows"]) == 20
    assert found["teacher_only"] > found["student_only"] > 0
    assert all(row["answers"]["student"]["right"] != row["answers"]["teacher"]["right"] for row in found["rows"])
    assert all(set(row["answers"]) == {"teacher", "baseline", "control", "student"} for row in found["rows"])


def test_a_report_is_made_of_what_there_is(tmp_path: Path) -> None:
    folder = made_run(tmp_path, 60, systems=("teacher", "student"))
    (folder.path / "events.jsonl").unlink()
    shutil.rmtree(folder.answers)
    report.run(made_job(tmp_path), folder)
    page = read_page(folder)
    assert "No training was recorded" in page.text
    assert "no control to compare with" in page.text


def test_a_report_of_an_empty_run_folder_claims_nothing(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "runs" / "empty")
    folder.path.mkdir(parents=True)
    report.run(made_job(tmp_path), folder)
    assert "Nothing has been evaluated, so nothing is proved." in read_page(folder).text
    assert read_json(folder.path / "report.json")["systems"] == {}


def test_systems_without_measured_numbers_are_shown_with_the_reason(tmp_path: Path) -> None:
    folder = made_run(tmp_path, 60)
    scores = read_json(folder.evaluation / "scores.json")
    teacher = scores["systems"]["teacher"]
    for key in ("parameters", "latency_p50_s", "latency_p95_s", "memory_bytes", "size_bytes", "throughput_per_s", "tokens_per_s"):
        teacher[key] = None
    nothing = {"value": None, "low": None, "high": None, "n": 0, "why": "no row has a value"}
    teacher.update(latency={"p50": nothing, "p95": nothing}, notes=["memory and size: unknown, the teacher runs elsewhere"])
    write_json(folder.evaluation / "scores.json", scores)
    report.run(made_job(tmp_path), folder)
    assert "the teacher runs elsewhere" in read_page(folder).text
    assert read_json(folder.path / "report.json")["performance_comparison"]["teacher"]["memory_usage"] == "unknown"


def test_speed_measured_on_a_busy_machine_is_not_made_a_headline(tmp_path: Path) -> None:
    folder = made_run(tmp_path, 60)
    report.run(made_job(tmp_path), folder)
    assert "faster" in read_page(folder).text
    scores = read_json(folder.evaluation / "scores.json")
    for name in ("teacher", "student"):
        scores["systems"][name].update(busy=True, notes=["measured while busy"])
    write_json(folder.evaluation / "scores.json", scores)
    report.run(made_job(tmp_path), folder)
    text = read_page(folder).text
    assert "faster" not in text
    assert "teacher, student: measured while busy." in text


def test_scores_without_gold_make_a_page_too(tmp_path: Path) -> None:
    folder = made_run(tmp_path, 30)
    scores = read_json(folder.evaluation / "scores.json")
    for system in scores["systems"].values():
        system["accuracy"] = {"value": None, "low": None, "high": None, "n": 0, "why": "no test row has a gold answer"}
    nothing = {"value": None, "low": None, "high": None, "n": 0, "why": "no row has a value for both systems"}
    scores["comparisons"] = dict.fromkeys(scores["comparisons"], nothing) | {"detectable_difference": None}
    write_json(folder.evaluation / "scores.json", scores)
    report.run(made_job(tmp_path), folder)
    assert "Side by side" in read_page(folder).text


def test_a_resumed_training_is_one_curve(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for step in (1, 2, 3, 4):
        folder.event("step", role="student", step=step, steps=6, loss=9.0)
    for step in (3, 4, 5, 6):
        folder.event("step", role="student", step=step, steps=6, loss=1.0)
    folder.event("validation", role="student", step=6, loss=0.5, score=0.9, n=10)
    curve = report.training_curves(folder)["student"]
    assert [(point["step"], point["loss"]) for point in curve["step"]] == [(1, 9.0), (2, 9.0), (3, 1), (4, 1), (5, 1), (6, 1)]
    assert (curve["last_step"], curve["steps"], curve["best_validation_loss"]) == (6, 6, 0.5)


def test_an_unknown_cost_is_unknown_and_never_zero(tmp_path: Path) -> None:
    teacher = load_plugin("teachers", {"kind": "scripted"})
    answers, evaluation = Payer("run", "generate", "m"), Payer("run", "evaluate", "m")
    free = report.costs([teacher], {answers: Spend(3, 0, 30, 10)}, ANSWERS_CARD)
    assert (free["says"], free["total_usd"]) == ("no charge", 0.0)
    endpoint = {"kind": "openai_api", "model": "m", "base_url": "http://127.0.0.1:9/v1"}
    priced = load_plugin("teachers", {**endpoint, "input_per_million": 1.0, "output_per_million": 2.0})
    paid = report.costs([priced], {answers: Spend(cost_usd=0.25), evaluation: Spend(cost_usd=0.5)}, {"cost_usd": 0.3})
    assert (paid["says"], paid["total_usd"], paid["answers_usd"]) == ("$0.75", 0.75, 0.3)
    assert list(paid["parts"]) == ["answers, m", "evaluation, m"]
    for teacher in (load_plugin("teachers", endpoint), priced):
        unknown = report.costs([teacher], {answers: Spend(unpriced=1), evaluation: Spend(cost_usd=0.5)}, ANSWERS_CARD)
        assert unknown["total_usd"] is None
        assert unknown["says"].startswith("unknown")
        assert "$" not in unknown["says"]
    most = report.costs([priced], {answers: Spend(cost_usd=0.25, estimated=2), evaluation: Spend(cost_usd=0.5)}, ANSWERS_CARD)
    assert (most["says"].split(":")[0], most["total_usd"]) == ("at most $0.75", 0.75)
    assert "2 replies" in most["says"]


def test_a_local_teacher_is_no_charge(teacher_folder: Path) -> None:
    teacher = load_plugin("teachers", {"kind": "huggingface", "model": str(teacher_folder)})
    assert report.costs([teacher], {}, {})["says"] == "local, no charge"


@pytest.mark.parametrize("name", ["support", "a<b>"])
def test_the_settings_are_shown_as_yaml(tmp_path: Path, name: str) -> None:
    folder = made_run(tmp_path, 10)
    job = made_job(tmp_path)
    report.run(job.model_copy(update={"name": name}), folder)
    text = read_page(folder).text
    assert f"name: {name}" in text
    assert "bootstrap_samples: 2000" in text
