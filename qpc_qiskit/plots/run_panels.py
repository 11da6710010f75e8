"""Figures of hardware runs: clouds of values, labelled values with intervals, spans of time.

As in `panels`, what is drawn is told as plain data and written beside the drawings as CSV, and
series differ by more than colour.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qpc_qiskit.plots.figures import PALETTE, save_with_data
from qpc_qiskit.plots.panels import MARKERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LABELS = 60
"""Drawn; the data have all."""
_HATCHES = ("", "////", "....", "xxxx")
_COLUMNS = 2  # of clouds in a row, at most
_UNITS = (("s", 1.0, 300.0), ("min", 60.0, 180.0), ("h", 3600.0, 72.0), ("days", 86400.0, math.inf))


@dataclass(frozen=True)
class Cloud:
    """Points on one pair of axes, against the line on which both values are equal."""

    title: str
    x: Sequence[float] = field(repr=False)
    y: Sequence[float] = field(repr=False)
    line: tuple[float, float] | None = None
    """Scale and offset of a line through them."""


@dataclass(frozen=True)
class Series:
    """A value for each label."""

    name: str
    values: Sequence[float]
    """NaN: there is none."""
    low: Sequence[float] = ()
    """Of the interval; none, or NaN: there is no interval."""
    high: Sequence[float] = ()


@dataclass(frozen=True)
class Span:
    """A bar of a time line."""

    row: str
    kind: str
    start: float
    """Seconds after any one moment."""
    stop: float


def plot_clouds(
    path: Path, panels: Sequence[Cloud], *, xlabel: str, ylabel: str, title: str = ""
) -> list[Path]:
    """Draw points, each panel with the line of equal values and the line through them.

    Args:
        path: without suffix.
        panels: at least one.
        xlabel: of both axes' quantity, as it should be.
        ylabel: as it is.
        title: above all.

    Returns:
        The files: PNG, SVG, CSV.
    """
    across = min(_COLUMNS, len(panels))
    down = math.ceil(len(panels) / across)
    figure = _figure(3.6 * across, 3.3 * down + 0.5, title)
    grid = list(figure.subplots(down, across, squeeze=False).flat)
    for axes, panel in zip(grid, panels, strict=False):
        _draw_cloud(axes, panel)
        axes.set_xlabel(xlabel, fontsize=9)
        axes.set_ylabel(ylabel, fontsize=9)
    for axes in grid[len(panels) :]:
        axes.remove()
    _legend(figure, grid[: len(panels)])
    rows = (
        (panel.title, *point) for panel in panels for point in zip(panel.x, panel.y, strict=True)
    )
    return save_with_data(figure, path, ("panel", xlabel, ylabel), rows)


def _draw_cloud(axes: "Axes", panel: Cloud) -> None:
    low, high = min([*panel.x, *panel.y, -1.0]), max([*panel.x, *panel.y, 1.0])
    opacity = min(0.7, max(0.15, 60 / max(len(panel.x), 1)))
    axes.plot(panel.x, panel.y, ".", color=PALETTE[0], markersize=3, alpha=opacity, rasterized=True)
    axes.plot([low, high], [low, high], color="0.25", linewidth=1, label="equal")
    if panel.line is not None:
        scale, offset = panel.line
        ends = [scale * value + offset for value in (low, high)]
        axes.plot([low, high], ends, "--", color=PALETTE[1], linewidth=1.3, label="fitted line")
    axes.set_aspect("equal")
    axes.set_title(panel.title, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)


def plot_labelled(
    path: Path,
    labels: Sequence[str],
    series: Sequence[Series],
    *,
    xlabel: str,
    what: str,
    title: str = "",
    limits: tuple[float, float] | None = None,
) -> list[Path]:
    """Draw values with their intervals, a line for each label, the first on top.

    Args:
        path: without suffix.
        labels: at least one; `MOST_LABELS` are drawn.
        series: with as many values each.
        xlabel: of the values, with their unit.
        what: the labels are.
        title: above.
        limits: of the x axis; None: as the values need.

    Returns:
        The files: PNG, SVG, CSV.
    """
    shown = list(labels)[:MOST_LABELS]
    figure = _figure(7.2, 1.3 + 0.16 * len(shown) * (1 + len(series)), title)
    axes = figure.subplots()
    for i, each in enumerate(series):
        places = [n + 0.7 * ((i + 0.5) / len(series) - 0.5) for n in range(len(shown))]
        values = list(each.values)[: len(shown)]
        colour, marker = PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]
        look = axes.plot(values, places, marker, color=colour, markersize=5, label=each.name)
        look[0].set(clip_on=False, zorder=3)
        for place, value, low, high in zip(places, values, each.low, each.high, strict=False):
            if math.isfinite(value) and math.isfinite(low) and math.isfinite(high):
                axes.plot([low, high], [place, place], color=colour, linewidth=1.5)
    axes.set_yticks(range(len(shown)), shown, fontsize=8)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    if limits is not None:
        axes.set_xlim(*limits)
    elif all(value >= 0 for each in series for value in each.values if math.isfinite(value)):
        axes.set_xlim(left=0)
    axes.set_xlabel(xlabel, fontsize=9)
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(alpha=0.3, axis="x")
    if len(series) > 1:
        _legend(figure, [axes])
    nothing = [math.nan] * len(labels)
    rows = (
        (each.name, *values)
        for each in series
        for values in zip(
            labels, each.values, each.low or nothing, each.high or nothing, strict=True
        )
    )
    return save_with_data(figure, path, ("series", what, xlabel, "low", "high"), rows)


def plot_spans(path: Path, spans: Sequence[Span], *, what: str, title: str = "") -> list[Path]:
    """Draw when things happened, a line for each row, the first on top.

    Args:
        path: without suffix.
        spans: at least one; of `MOST_LABELS` rows are drawn.
        what: the rows are.
        title: above.

    Returns:
        The files: PNG, SVG, CSV with seconds.
    """
    rows = list(dict.fromkeys(span.row for span in spans))
    kinds = list(dict.fromkeys(span.kind for span in spans))
    shown = rows[:MOST_LABELS]
    first = min(span.start for span in spans)
    total = max(span.stop for span in spans) - first
    unit, seconds = next((u, s) for u, s, most in _UNITS if total <= most * s)
    figure = _figure(7.8, 1.4 + 0.3 * len(shown), title)
    axes = figure.subplots()
    for span in spans:
        if span.row not in shown:
            continue
        i = kinds.index(span.kind)
        axes.barh(
            shown.index(span.row),
            (span.stop - span.start) / seconds,
            left=(span.start - first) / seconds,
            height=0.6,
            color=PALETTE[i % len(PALETTE)],
            hatch=_HATCHES[i % len(_HATCHES)],
            edgecolor="white",
            linewidth=0,
            label=span.kind,
        )
    axes.set_yticks(range(len(shown)), shown, fontsize=8)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlabel(f"time after the first / {unit}", fontsize=9)
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(alpha=0.3, axis="x")
    _legend(figure, [axes])
    data = ((s.row, s.kind, f"{s.start:.3f}", f"{s.stop:.3f}") for s in spans)
    return save_with_data(figure, path, (what, "kind", "start / s", "stop / s"), data)


def _figure(width: float, height: float, title: str) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def _legend(figure: "Figure", grid: "Sequence[Axes]") -> None:
    """One for all, below; each label once."""
    found: dict[str, Any] = dict(_labelled(grid))
    if found:
        figure.legend(
            found.values(),
            found,
            loc="outside lower center",
            ncols=min(4, len(found)),
            fontsize=8,
            frameon=False,
        )


def _labelled(grid: "Sequence[Axes]") -> Iterator[tuple[str, Any]]:
    for axes in grid:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            yield label, handle
