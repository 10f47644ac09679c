"""Numbers → SVG pictures by matplotlib, in the text colour of the page."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#010203"  # a placeholder for the colour of the page's text, see `_svg`
COLORS = ("#3b82c4", "#e07b39", "#2f9e77", "#c2559d", "#8a6fd1", "#b8922a", "#d1495b", "#5b8c99")
"""Distinct on white and on black, and for most colour-blind readers; further lines repeat them with dashes."""
DASHES: tuple[dict[str, Any], ...] = (
    {},
    {"linestyle": (0, (4, 2))},
    {"linestyle": (0, (1, 1.5))},
    {"linestyle": (0, (6, 1.5, 1, 1.5))},
)
"""Of the first eight lines, of the next eight, and so on."""

LETTER = 0.075
"""Inches of one letter of a label, about."""


@dataclass(frozen=True)
class Point:
    """A mean with its interval and the values behind it; interval None of a single value."""

    x: float
    mean: float
    low: float | None = None
    high: float | None = None
    values: Sequence[float] = ()


@dataclass(frozen=True)
class Series:
    """Points of one label, by x; `color` is the number of its colour among intervals, None = one of its own."""

    label: str
    points: Sequence[Point]
    color: int | None = None


@dataclass(frozen=True)
class Panel:
    """One of several small pictures that share their labels."""

    title: str
    series: Sequence[Series]
    x_label: str = ""
    y_label: str = ""
    floor: float | None = None


def learning_curve(panel: Panel, *, name: str) -> str:
    """Means and intervals against the number of training rows, on a log axis; single runs as small dots."""
    with _figure(name, 7.4, 4.3) as figure:
        axes = figure.add_subplot()
        for number, series in enumerate(panel.series):
            _curve(axes, series, number, len(panel.series))
        ticks = sorted({point.x for series in panel.series for point in series.points})
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
        axes.minorticks_off()
        _floor(axes, panel.floor)
        _finish(axes, panel, grid="both")
        _legend(figure, [series.label for series in panel.series])
        return _svg(figure)


def _curve(axes: Axes, series: Series, number: int, count: int) -> None:
    """One line with its band; dots of single runs are set side by side, so that lines do not hide each other's."""
    color = _color(number)
    shift = 1.03 ** (number - (count - 1) / 2)
    xs = [point.x for point in series.points]
    axes.plot(xs, [point.mean for point in series.points], color=color, marker="o", label=series.label, **_dash(number))
    lows = [point.mean if point.low is None else point.low for point in series.points]
    highs = [point.mean if point.high is None else point.high for point in series.points]
    axes.fill_between(xs, lows, highs, color=color, alpha=0.18, linewidth=0)
    dots = [(point.x * shift, value) for point in series.points for value in point.values if len(point.values) > 1]
    axes.scatter([x for x, _ in dots], [y for _, y in dots], color=color, s=11, alpha=0.55, linewidths=0)


def interval_panels(panels: Sequence[Panel], *, name: str) -> str:
    """Per panel one line for each label: the mean as a dot, its interval as a bar, single runs as small dots."""
    labels = list(dict.fromkeys(series.label for panel in panels for series in panel.series))
    rows = -(-len(panels) // 3)
    width = 3.6 * min(3, len(panels)) + max(1.2, LETTER * max(map(len, labels), default=0))
    with _figure(name, width, rows * (0.36 * len(labels) + 1.1)) as figure:
        for place, panel in enumerate(panels):
            axes = figure.add_subplot(rows, min(3, len(panels)), place + 1)
            for series in panel.series:
                line = labels.index(series.label)
                _interval(axes, series.points[0], line, _color(line if series.color is None else series.color))
            shown = labels if place % 3 == 0 else [""] * len(labels)
            axes.set_yticks(range(len(labels)), shown)
            axes.set_ylim(len(labels) - 0.5, -0.5)
            axes.locator_params(axis="x", nbins=6)  # more would touch where they have two decimals
            _floor(axes, panel.floor, vertical=True)
            _finish(axes, panel, grid="x")
        return _svg(figure)


def _interval(axes: Axes, point: Point, line: int, color: str) -> None:
    if point.low is not None and point.high is not None:
        axes.plot([point.low, point.high], [line, line], color=color, linewidth=5, alpha=0.35, solid_capstyle="round")
    axes.scatter(point.values, [line] * len(point.values), color=color, s=11, alpha=0.55, linewidths=0)
    axes.scatter([point.mean], [line], color=color, s=42, zorder=3)


def line_panels(panels: Sequence[Panel], *, name: str) -> str:
    """Small line pictures side by side, three in a row; one legend for all."""
    columns, rows = min(3, len(panels)), -(-len(panels) // 3)
    labels = list(dict.fromkeys(series.label for panel in panels for series in panel.series))
    with _figure(name, 3.5 * columns + 0.4, 2.5 * rows + (0.4 if len(labels) > 1 else 0)) as figure:
        for place, panel in enumerate(panels):
            axes = figure.add_subplot(rows, columns, place + 1)
            for series in panel.series:
                number = labels.index(series.label)
                xs, ys = [point.x for point in series.points], [point.mean for point in series.points]
                look: dict[str, Any] = {"marker": "o" if len(xs) < 12 else "", "markersize": 3.5, **_dash(number)}
                axes.plot(xs, ys, color=_color(number), label=series.label, **look)
            _finish(axes, panel, grid="both")
        _legend(figure, labels)
        return _svg(figure)


def bar_panels(panels: Sequence[Panel], *, name: str, groups: Sequence[str]) -> str:
    """Bars in groups, one colour per label; x of a point is the number of its group, `floor` is not drawn.

    Args:
        panels: one for each part of the picture.
        name: begins the ids in the SVG.
        groups: names under the bars.
    """
    labels = list(dict.fromkeys(series.label for panel in panels for series in panel.series))
    width = 0.8 / max(1, len(labels))
    with _figure(name, 4.6 * len(panels) + 0.4, 3.5) as figure:
        for place, panel in enumerate(panels):
            axes = figure.add_subplot(1, len(panels), place + 1)
            for number, series in enumerate(panel.series):
                xs = [point.x + (number - (len(panel.series) - 1) / 2) * width for point in series.points]
                means = [point.mean for point in series.points]
                axes.bar(xs, means, width * 0.92, color=_color(labels.index(series.label)), label=series.label)
                _whiskers(axes, xs, series.points)
            axes.set_xticks(range(len(groups)), groups)
            _finish(axes, panel, grid="y")
        _legend(figure, labels)
        return _svg(figure)


def _whiskers(axes: Axes, xs: Sequence[float], points: Sequence[Point]) -> None:
    for x, point in zip(xs, points, strict=True):
        if point.low is not None and point.high is not None and point.high > point.low:
            axes.plot([x, x], [point.low, point.high], color=INK, linewidth=1, alpha=0.7)


def _legend(figure: Figure, labels: Sequence[str]) -> None:
    """One legend above all panels, when there is more than one label; the figure grows by its further lines."""
    if len(labels) < 2:
        return
    found: dict[str, Any] = {}
    for axes in figure.axes:
        drawn: list[Any] = [*axes.lines, *axes.containers]  # matplotlib's own list leaves out labels such as "_dev"
        for handle in drawn:
            found.setdefault(handle.get_label(), handle)
    entry = 0.6 + LETTER * max(map(len, labels))  # inches; 0.6 of the handle
    columns = max(1, min(4, len(labels), int(figure.get_figwidth() / entry)))
    figure.set_figheight(figure.get_figheight() + 0.22 * (-(-len(labels) // columns) - 1))
    handles = [found[label] for label in labels]
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, frameon=False)


def _color(number: int) -> str:
    return COLORS[number % len(COLORS)]


def _dash(number: int) -> dict[str, Any]:
    return DASHES[number // len(COLORS) % len(DASHES)]


def _floor(axes: Axes, value: float | None, *, vertical: bool = False) -> None:
    """The metric of always giving the most frequent label, as a dotted line."""
    if value is None:
        return
    line = axes.axvline if vertical else axes.axhline
    line(value, color=INK, linewidth=1, linestyle=":", alpha=0.6, label="_floor")


def _finish(axes: Axes, panel: Panel, *, grid: str) -> None:
    axes.set_title(panel.title, loc="left", fontsize=10.5, fontweight="bold")
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, alpha=0.14, color=INK, linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)


@contextmanager
def _figure(name: str, width: float, height: float) -> Iterator[Figure]:
    """A figure in inches, in the report's look. The name makes the ids in its SVG its own."""
    import matplotlib
    from matplotlib.figure import Figure

    look = {
        "svg.fonttype": "none", "svg.hashsalt": name, "font.size": 10, "font.family": "sans-serif",
        "text.parse_math": False,  # labels are names and words: a "$" in one is a "$"
        "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK,
        "legend.labelcolor": INK, "lines.linewidth": 1.8, "lines.markersize": 5, "axes.linewidth": 0.8,
    }  # fmt: skip
    with matplotlib.rc_context(look):
        yield Figure(figsize=(width, height), layout="constrained")


def _svg(figure: Figure) -> str:
    """The figure as SVG text without background: the ink becomes `currentColor`, fonts those of the page."""
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return re.sub(r"font-family: [^;\"]*", "font-family: inherit", svg).strip()
