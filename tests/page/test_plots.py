from __future__ import annotations

import itertools
import xml.etree.ElementTree as ET

import pytest

from potstill.page.plots import Dot, Gap, Line, Point, curves, forest, linear, logarithmic, range_bar, scatter, thinned

DOTS = [
    Dot("teacher", 0.4, 0.87, 0.84, 0.9, 0.38, 0.45),
    Dot("student", 0.1, 0.84, 0.8, 0.87, 0.09, 0.11),
    Dot("onnx", 0.05, 0.83),
]


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter("text")]


def test_a_linear_scale_begins_and_ends_on_round_values() -> None:
    scale = linear(0.03, 0.87, 0, 100, 4)
    assert scale.ticks[0] == 0
    assert scale.ticks[-1] == pytest.approx(1.0)
    assert scale.place(0.5) == pytest.approx(50)


def test_a_scale_of_one_value_is_still_a_scale() -> None:
    scale = linear(0.5, 0.5, 0, 100)
    assert scale.ticks[0] < scale.ticks[-1]
    assert linear(0, 0, 0, 100).ticks[-1] > 0


def test_a_logarithmic_scale_covers_its_values_with_few_ticks() -> None:
    scale = logarithmic(0.13, 440.0, 0, 100)
    assert scale.place(0.13) > 0
    assert scale.place(440.0) < 100
    assert 2 <= len(scale.ticks) <= 6


def test_a_scatter_plot_names_every_system_and_draws_its_intervals() -> None:
    svg = scatter(DOTS, "latency", lambda v: f"{v:g}s", "Accuracy <against> latency")
    assert {"teacher", "student", "onnx"} <= set(texts(svg))
    root = ET.fromstring(svg)
    assert root.get("aria-label") == "Accuracy <against> latency"
    assert len([line for line in root.iter("polyline") if "whisker" in (line.get("class") or "")]) == 4


def test_labels_of_systems_at_the_same_place_do_not_lie_on_each_other() -> None:
    same = [Dot("student", 0.1, 0.8), Dot("control", 0.1, 0.8), Dot("baseline", 0.1, 0.8)]
    root = ET.fromstring(scatter(same, "latency", str, "x"))
    ys = sorted(float(t.get("y", "0")) for t in root.iter("text") if t.text in ("student", "control", "baseline"))
    assert min(b - a for a, b in itertools.pairwise(ys)) >= 12.5


def test_a_label_does_not_hide_the_mark_beside_it() -> None:
    dots = [Dot("baseline", 0.01, 0.1), Dot("control", 0.019, 0.5), Dot("student", 0.022, 0.5), Dot("teacher", 0.08, 0.5)]
    root = ET.fromstring(scatter(dots, "latency", str, "x"))
    anchors = {text.text: text.get("text-anchor") for text in root.iter("text")}
    assert (anchors["control"], anchors["student"]) == ("end", "start")


def test_curves_are_named_and_a_curve_of_one_point_is_drawn() -> None:
    svg = curves([Line("student", [Point(10, 0.5)], True), Line("control", [Point(5, 0.7), Point(10, 0.6)])], "d")
    assert {"student", "control"} <= set(texts(svg))
    assert "nan" not in svg


def test_a_forest_plot_tells_its_numbers_and_escapes_names() -> None:
    svg = forest([Gap("a <b>", -0.03, -0.05, -0.01, "-3.0 [-5.0, -1.0]"), Gap("c", 0.0, None, None, "0.0")], "d")
    assert {"a <b>", "-3.0 [-5.0, -1.0]"} <= set(texts(svg))


def test_a_range_bar_without_an_interval_is_a_mark_alone() -> None:
    assert "polyline" not in range_bar("student", 0.5, None, None)
    assert "polyline" in range_bar("student", 0.5, 0.4, 0.6)


def test_thinning_keeps_the_last_place_and_the_mean() -> None:
    points = [Point(i, float(i % 2)) for i in range(1000)]
    thin = thinned(points, 100)
    assert len(thin) <= 100
    assert thin[-1].x == 999
    assert thin[0].y == pytest.approx(0.5)
    assert thinned(points[:5], 100) == points[:5]
