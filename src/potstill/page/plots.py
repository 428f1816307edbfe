"""Plots as inline SVG: no script, no font, no file of their own. Colours come from the page's style sheet by class.

Each system has a colour of the Okabe-Ito palette, which colour-blind readers can tell apart, a shape, and its name beside
it. The drawings are 360 units wide, so that their 11 unit letters stay readable on a phone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

WIDTH, HEIGHT = 360, 240
LEFT, RIGHT, TOP, BOTTOM = 40, 22, 14, 38
MIN_GAP = 13.0
LETTER = 6.4


class Dot(NamedTuple):
    """A system in a scatter plot; `low`/`high` are the vertical interval, `x_low`/`x_high` the horizontal one."""

    system: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None
    x_low: float | None = None
    x_high: float | None = None


class Point(NamedTuple):
    x: float
    y: float


class Line(NamedTuple):
    """A curve; `marks` draws its points as dots too (few, measured now and then)."""

    system: str
    points: Sequence[Point]
    marks: bool = False


class Gap(NamedTuple):
    """A difference with its interval, in a forest plot."""

    label: str
    value: float
    low: float | None
    high: float | None
    told: str


class Scale(NamedTuple):
    """From values to drawing units, with its ticks."""

    place: Callable[[float], float]
    ticks: Sequence[float]


def linear(low: float, high: float, start: float, end: float, count: int = 5) -> Scale:
    """A linear scale that begins and ends on round values."""
    step = _round_step((high - low) or abs(high) or 1.0, count)
    first, last = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    if last <= first:
        last = first + step
    ticks = [first + i * step for i in range(round((last - first) / step) + 1)]
    return Scale(lambda value: start + (value - first) / (last - first) * (end - start), ticks)


def logarithmic(low: float, high: float, start: float, end: float) -> Scale:
    """A logarithmic scale over whole steps of 1, 2, 5, 10 around the values, with at most six ticks."""
    steps = [mantissa * 10.0**exponent for exponent in range(-12, 16) for mantissa in (1, 2, 5)]
    first = max(step for step in steps if step <= low * 0.7)
    last = min(step for step in steps if step >= high * 1.3)
    ticks = [step for step in steps if first <= step <= last]
    while len(ticks) > 6:
        ticks = ticks[::2]
    span = math.log(last / first)
    return Scale(lambda value: start + math.log(value / first) / span * (end - start), ticks)


def scatter(dots: Sequence[Dot], x_title: str, x_words: Callable[[float], str], description: str) -> Markup:
    """Accuracy (0..1, upwards) against something on a logarithmic axis, with interval bars and direct labels."""
    xs = [value for dot in dots for value in (dot.x, dot.x_low, dot.x_high) if value]
    ys = [value for dot in dots for value in (dot.y, dot.low, dot.high) if value is not None]
    x = logarithmic(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    y = linear(max(0.0, min(ys)), min(1.0, max(ys)), HEIGHT - BOTTOM, TOP + 6, 4)
    parts = [_frame(x, y, x_words, share_tick, x_title, "accuracy")]
    marks: list[Markup] = []  # drawn last: no name may hide one
    labels = _spread([y.place(dot.y) for dot in dots])
    for dot, label_y in zip(dots, labels, strict=True):
        cx, cy = x.place(dot.x), y.place(dot.y)
        if dot.low is not None and dot.high is not None:
            parts.append(_stroke(dot.system, [Point(cx, y.place(dot.low)), Point(cx, y.place(dot.high))], "whisker"))
        if dot.x_low and dot.x_high:
            parts.append(_stroke(dot.system, [Point(x.place(dot.x_low), cy), Point(x.place(dot.x_high), cy)], "whisker"))
        marks.append(marker(dot.system, cx, cy))
        left = _label_goes_left(dot.system, Point(cx, cy), [Point(x.place(other.x), y.place(other.y)) for other in dots])
        beside = x.place((dot.x_low if left else dot.x_high) or dot.x)
        parts.append(_text(beside - 9 if left else beside + 9, label_y + 4, dot.system, f"label {_class(dot.system)}", left))
    return _svg([*parts, *marks], HEIGHT, description)


def curves(lines: Sequence[Line], description: str, y_words: Callable[[float], str] | None = None) -> Markup:
    """Curves over steps, named at the right in the order of their ends."""
    xs = [point.x for line in lines for point in line.points]
    ys = [point.y for line in lines for point in line.points]
    right = WIDTH - 58
    x = linear(0, max(xs), LEFT, right, 4)
    y = linear(min(ys), max(ys), HEIGHT - BOTTOM, TOP + 6, 4)
    parts = [_frame(x, y, _plain, y_words or _plain, "step", "")]
    ends = _spread([y.place(line.points[-1].y) for line in lines])
    for line, end_y in zip(lines, ends, strict=True):
        placed = [Point(x.place(point.x), y.place(point.y)) for point in line.points]
        parts.append(_stroke(line.system, placed, "curve"))
        if line.marks:
            parts += [marker(line.system, point.x, point.y, 3.2) for point in placed]
        parts.append(_text(right + 8, end_y + 4, line.system, f"label {_class(line.system)}"))
    return _svg(parts, HEIGHT, description)


def forest(gaps: Sequence[Gap], description: str) -> Markup:
    """Differences with their intervals around the zero line: what crosses it was not shown."""
    ends = [value for gap in gaps for value in (gap.value, gap.low, gap.high) if value is not None]
    x = linear(min(0.0, *ends), max(0.0, *ends), 16, WIDTH - 16, 5)
    height = 46 * len(gaps) + 44
    zero, floor = x.place(0), height - 34
    parts = [Markup('<line class="grid" x1="{0}" x2="{0}" y1="6" y2="{1}"/>').format(_n(x.place(t)), floor) for t in x.ticks]
    parts += [_text(x.place(tick), floor + 16, _points(tick), "tick", middle=True) for tick in x.ticks]
    parts.append(Markup('<line class="zero" x1="{0}" x2="{0}" y1="6" y2="{1}"/>').format(_n(zero), floor))
    for row, gap in enumerate(gaps):
        y = 46 * row + 16
        parts += [_text(16, y + 2, gap.label, "label"), _text(WIDTH - 16, y + 2, gap.told, "told", left=True)]
        if gap.low is not None and gap.high is not None:
            parts.append(_stroke("student", [Point(x.place(gap.low), y + 16), Point(x.place(gap.high), y + 16)], "bar"))
        parts.append(marker("student", x.place(gap.value), y + 16))
    parts.append(_text(WIDTH / 2, height - 4, "percentage points", "axis", middle=True))
    return _svg(parts, height, description)


def _label_goes_left(name: str, dot: Point, all_dots: Sequence[Point]) -> bool:
    """Whether a name beside a dot would run into another dot, or out of the plot, at its right but not at its left."""
    width = 14 + LETTER * len(name)
    near = [other.x - dot.x for other in all_dots if abs(other.y - dot.y) < 2 * MIN_GAP]
    blocked_right = dot.x > WIDTH - width or any(1 < gap < width for gap in near)
    blocked_left = dot.x < LEFT + width or any(-width < gap < -1 for gap in near)
    return blocked_right and not blocked_left


def range_bar(system: str, value: float, low: float | None, high: float | None) -> Markup:
    """A share from 0 to 1 with its interval on a thin track, for a table cell."""
    parts = [Markup('<rect class="track" x="0" y="5" width="100" height="2" rx="1"/>')]
    if low is not None and high is not None:
        parts.append(_stroke(system, [Point(100 * low, 6), Point(100 * high, 6)], "bar"))
    parts.append(marker(system, 100 * value, 6, 4))
    inner = Markup("").join(parts)
    return Markup('<svg class="range" viewBox="-6 0 112 12" aria-hidden="true" focusable="false">{}</svg>').format(inner)


def marker(system: str, x: float, y: float, r: float = 5) -> Markup:
    """A square for the teacher, a diamond for the control, a triangle for the baseline, a disc for all else."""
    css = f"mark {_class(system)}"
    if system == "teacher":
        return Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}"/>').format(
            css, _n(x - r * 0.9), _n(y - r * 0.9), _n(r * 1.8), _n(r * 1.8)
        )
    corners = {"control": [(0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)], "baseline": [(0, -1.2), (1.15, 0.9), (-1.15, 0.9)]}
    if system in corners:
        shape = " ".join(f"{_n(x + r * dx)},{_n(y + r * dy)}" for dx, dy in corners[system])
        return Markup('<polygon class="{}" points="{}"/>').format(css, shape)
    return Markup('<circle class="{}" cx="{}" cy="{}" r="{}"/>').format(css, _n(x), _n(y), _n(r))


def thinned(points: Sequence[Point], most: int = 240) -> list[Point]:
    """At most `most` points, each the mean of its neighbours; the last one's place is kept."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(len(points) / most)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [Point(group[-1].x, sum(point.y for point in group) / len(group)) for group in groups]


def _frame(
    x: Scale, y: Scale, x_words: Callable[[float], str], y_words: Callable[[float], str], x_title: str, y_title: str
) -> Markup:
    right = x.place(x.ticks[-1])
    parts = [
        Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(LEFT, _n(right), _n(y.place(t)), _n(y.place(t)))
        for t in y.ticks
    ]
    parts += [_text(LEFT - 6, y.place(tick) + 4, y_words(tick), "tick", left=True) for tick in y.ticks]
    parts += [_text(x.place(tick), HEIGHT - BOTTOM + 16, x_words(tick), "tick", middle=True) for tick in x.ticks]
    parts.append(_text((LEFT + right) / 2, HEIGHT - 5, x_title, "axis", middle=True))
    parts.append(_text(2, 10, y_title, "axis"))
    return Markup("").join(parts)


def _svg(parts: Iterable[Markup], height: float, description: str) -> Markup:
    return Markup('<svg class="plot" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, _n(height), description, Markup("").join(parts)
    )


def _stroke(system: str, points: Sequence[Point], css: str) -> Markup:
    path = " ".join(f"{_n(point.x)},{_n(point.y)}" for point in points)
    return Markup('<polyline class="{} {}" points="{}"/>').format(css, _class(system), path)


def _text(x: float, y: float, text: str, css: str, left: bool = False, middle: bool = False) -> Markup:
    anchor = "end" if left else "middle" if middle else "start"
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(css, _n(x), _n(y), anchor, escape(text))


def _spread(places: Sequence[float]) -> list[float]:
    """The same places, moved apart to both sides where labels would lie on each other, and kept inside the plot.

    >>> _spread([100.0, 102.0, 30.0])
    [94.5, 107.5, 30.0]
    """
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = list(places)
    for _ in range(60):
        for above, below in itertools.pairwise(order):
            missing = MIN_GAP - (moved[below] - moved[above])
            if missing > 1e-9:
                moved[above] -= missing / 2
                moved[below] += missing / 2
        for edge, index in ((HEIGHT - BOTTOM - 2, order[-1:]), (TOP + 4, order[:1])):
            for i in index:
                moved[i] = min(moved[i], edge) if edge > HEIGHT / 2 else max(moved[i], edge)
    return moved


def _round_step(span: float, count: int) -> float:
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    return float(next(mantissa for mantissa in (1, 2, 2.5, 5, 10) if mantissa * power >= rough * 0.999) * power)


def _class(system: str) -> str:
    return system if system in ("teacher", "baseline", "control", "student") else "other"


def _n(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")


def share_tick(value: float) -> str:
    return f"{value * 100:g}%"


def _points(value: float) -> str:
    return f"{round(value * 100, 6):+g}" if value else "0"


def _plain(value: float) -> str:
    return f"{round(value, 10):g}" if abs(value) < 10_000 else f"{value / 1000:g}k"
