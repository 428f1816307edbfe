"""report.json to one self-contained page: style, plots and tables inline, nothing fetched, everything escaped."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup, escape

from .card import Table, card_tables, label
from .checks import check_tables
from .confusion import class_tables, matrices
from .contributions import contribution_tables
from .numbers import (
    bytes_in_words,
    count_in_words,
    dollars,
    interval,
    percent,
    points,
    seconds_in_words,
    short_rate,
)
from .plots import Dot, Gap, Line, Point, curves, forest, marker, range_bar, scatter, share_tick, thinned
from .reader import NO_ROWS, Packed
from .verdict import size_against
from .weak_spots import weak_spots

HOME = Path(__file__).parent
DASH = "–"
ROLES = ("student", "control", "teacher")
MEANING = {
    "teacher": "the model to be replaced",
    "baseline": "the student, untouched",
    "control": "the student, trained on plain text",
    "student": "the distilled student",
}
Json = Mapping[str, Any]


def render(report: Json, reader: Packed = NO_ROWS) -> str:
    """The whole page as HTML; `reader` holds the rows that a person can look through in it."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HOME),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        bytes=lambda v: bytes_in_words(v, DASH),
        count=lambda v: count_in_words(v, DASH),
        seconds=lambda v: seconds_in_words(v, DASH),
        rate=lambda v: short_rate(v, DASH),
        percent=lambda v: percent(v, DASH),
        dollars=dollars,
        interval=interval,
        points=points,
        label=label,
        metric=lambda score: f"{score['value']:.{1 if score['value'] > 1 else 3}f}",  # BLEU goes to 100
        quiet_intervals=quiet_intervals,
    )
    template = environment.get_template("report.html.jinja")
    # Our own files are the only text that is not escaped.
    style, script = (Markup((HOME / name).read_text(encoding="utf-8")) for name in ("report.css", "reader.js"))
    return template.render(
        report=report,
        style=style,
        script=script,
        reader=reader,
        figures=key_figures(report),
        systems=table(report["systems"]),
        notes=notes(report["systems"]),
        latency_rows=max((_latency_rows(system) for system in report["systems"].values()), default=0),
        metric_names=metric_names(report["systems"]),
        matrices=matrices(report["systems"]),
        class_tables=class_tables(report["systems"]),
        weak_spots=weak_spots(report.get("slices", [])),
        gaps=gap_plot(report),
        latency_plot=against(report["systems"], "latency_p50_s", "median latency of one row", seconds_in_words),
        size_plot=against(report["systems"], "size_bytes", "size on disk", bytes_in_words),
        curve_plots=curve_plots(report["curves"]),
        trained=[(role, curve["trained"]) for role, curve in report["curves"].items() if curve.get("trained")],
        settings=yaml.safe_dump(report["settings"], sort_keys=False, allow_unicode=True),
        data_tables=tables_of(report["data_card"]),
        answer_tables=[
            *tables_of(report["answers_card"]),
            *contribution_tables(report["answers_card"].get("teachers", {})),
        ],
        meaning=MEANING,
    )


def tables_of(card: Json) -> list[Table]:
    """A card's counts, and what its checks found; its held-out rows' card likewise, where a teacher answered any."""
    apart = ("checks", "teachers", "validation", "contributions")
    tables = card_tables({key: value for key, value in card.items() if key not in apart})
    tables += check_tables(card.get("checks", {}))
    validation = card.get("validation") or {}
    if validation.get("input"):
        tables += card_tables({"validation rows": {key: value for key, value in validation.items() if key != "checks"}})
        tables += check_tables(validation.get("checks", {}), "checks of validation rows")
    return tables


def key_figures(report: Json) -> list[dict[str, str]]:
    """The few numbers a person repeats; each is left out when it is not known."""
    systems, compared = report["systems"], report["comparisons"]
    teacher, student = systems.get("teacher"), systems.get("student")
    found = []
    kept = compared.get("retention")
    if kept and kept["value"] is not None:
        found.append(_figure(percent(kept["value"]), "of the teacher's accuracy", interval(kept)))
    if teacher and student:
        size = size_against(student.get("parameters"), teacher.get("parameters"))
        if size.endswith("er"):
            times, word = size.rsplit(" ", 1)
            both = f"{count_in_words(student['parameters'])} for {count_in_words(teacher['parameters'])} parameters"
            found.append(_figure(times.replace(" times", "×"), word, both))
        slow, fast = teacher.get("latency_p50_s"), student.get("latency_p50_s")
        if slow and fast and not (teacher.get("busy") or student.get("busy")):  # noise would be sold as speed
            ratio, word = (slow / fast, "faster") if slow >= fast else (fast / slow, "slower")
            found.append(_figure(f"{ratio:.2g}×", word, f"{seconds_in_words(fast)} for {seconds_in_words(slow)} a row"))
    gap = compared.get("student_minus_control")
    if gap and gap["value"] is not None:
        against_control = "over" if gap["value"] > 0 else "against"
        found.append(_figure(points(gap["value"]), f"points {against_control} the control", interval(gap)))
    return found


def _figure(value: str, what: str, detail: str) -> dict[str, str]:
    return {"value": value, "what": what, "detail": detail}


def table(systems: Json) -> list[dict[str, Any]]:
    """The comparison table's rows: the system, its accuracy drawn, and its name's mark."""
    rows = []
    for name, system in systems.items():
        accuracy = system["accuracy"]
        drawn = range_bar(name, accuracy["value"], accuracy["low"], accuracy["high"]) if accuracy["value"] is not None else ""
        sign = Markup('<svg class="sign" viewBox="0 0 14 14" aria-hidden="true">{}</svg>').format(marker(name, 7, 7))
        rows.append({"name": name, "sign": sign, "drawn": drawn, **system})
    return rows


def metric_names(systems: Json) -> list[str]:
    """Metrics that at least one system has a value for, in order."""
    names: dict[str, None] = {}
    for system in systems.values():
        names.update(dict.fromkeys(name for name, score in system.get("metrics", {}).items() if score["value"] is not None))
    return list(names)


def notes(systems: Json) -> dict[str, str]:
    """Every note once, with the systems that it is about."""
    found: dict[str, list[str]] = {}
    for name, system in systems.items():
        for note in system["notes"]:
            found.setdefault(note, []).append(name)
    return {note: ", ".join(names) for note, names in found.items()}


def _latency_rows(system: Json) -> int:
    return int(((system.get("latency") or {}).get("p50") or {}).get("n") or 0)


def gap_plot(report: Json) -> Markup | None:
    """Student minus each other system, as a forest plot."""
    gaps = []
    for other in ("teacher", "control"):  # the baseline's gap is mostly so large that it would hide the other two
        gap = report["comparisons"].get(f"student_minus_{other}")
        if gap and gap["value"] is not None:
            told = f"{points(gap['value'])} {interval(gap)}".strip()
            gaps.append(Gap(f"student − {other}", gap["value"], gap["low"], gap["high"], told))
    told = "; ".join(f"{gap.label}: {gap.told} percentage points" for gap in gaps)
    return forest(gaps, f"Differences in accuracy. {told}") if gaps else None


def against(systems: Json, key: str, title: str, words: Any) -> Markup | None:
    """Accuracy against latency or size; None with fewer than two systems to compare."""
    dots = []
    for name, system in systems.items():
        accuracy = system["accuracy"]
        if accuracy["value"] is None or not system.get(key):
            continue
        across = (system.get("latency") or {}).get("p50") if key == "latency_p50_s" else None
        ends = (across["low"], across["high"]) if across else (None, None)
        dots.append(Dot(name, system[key], accuracy["value"], accuracy["low"], accuracy["high"], *ends))
    if len(dots) < 2:
        return None
    told = "; ".join(f"{dot.system}: {percent(dot.y)} at {words(dot.x)}" for dot in dots)
    return scatter(dots, title, words, f"Accuracy against {title}. {told}")


def curve_plots(roles: Json) -> list[dict[str, Any]]:
    """Training loss, validation loss and validation score by step, for each role that was trained."""
    wanted = (
        ("Training loss", "step", "loss", False),
        ("Validation loss", "validation", "loss", True),
        ("Validation score", "validation", "score", True),
    )
    plots = []
    for title, event, key, marks in wanted:
        lines: list[Line] = []
        for role in (role for role in (*ROLES, *roles) if role in roles):
            values = [Point(point["step"], point[key]) for point in roles[role][event] if point.get(key) is not None]
            if values and role not in [line.system for line in lines]:
                lines.append(Line(role, thinned(values), marks))
        if lines:
            told = "; ".join(f"{line.system} ends at {line.points[-1].y:.3g}" for line in lines)
            words = share_tick if key == "score" else None
            plots.append({"title": title, "plot": curves(lines, f"{title} by step. {told}", words)})
    return plots


def quiet_intervals(sentence: str) -> Markup:
    """The sentence, escaped, with its intervals set smaller and unbroken."""
    unbroken = str(escape(sentence)).replace("n = ", "n\u00a0=\u00a0")
    return Markup(re.sub(r"\[-?[\d.]+, -?[\d.]+\]", r'<span class="interval">\g<0></span>', unbroken))
