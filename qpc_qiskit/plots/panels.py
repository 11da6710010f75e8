"""Figures of studies: panels of lines, heat maps and choices, told as plain data.

Each figure is written as PNG and SVG with its data as CSV beside it. Lines differ by colour (Okabe
and Ito's palette, which colour-blind people can tell apart), marker and line style; bands and bars
are what `low` and `high` say.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from qpc_qiskit.plots.figures import DASHES, PALETTE, save_with_data

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = "os^DvPX"

_COLUMNS = 3  # of panels in a row, at most
_WIDTH = 3.1  # of a panel, in inches
_MARK_DASHES = ((0, (1, 1)), (0, (5, 1, 1, 1)), (0, (1, 3)), (0, (6, 3)))
_BESIDE = 1.08  # factor between choices of one cost, in the drawing
_SAME_COST = 1.03  # factor up to which costs count as one
_FEW = 8  # numbers that are written at an axis, each


@dataclass(frozen=True)
class Curve:
    """A line of a figure."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    """Of the band; none, or NaN: there is no band."""
    high: Sequence[float] = ()


@dataclass(frozen=True)
class Panel:
    """Lines on one pair of axes."""

    title: str
    lines: Sequence[Curve]
    levels: Sequence[tuple[float, str]] = ()
    """Horizontal lines: value and label."""


@dataclass(frozen=True)
class HeatMap:
    """A heat map on one pair of axes."""

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float]]
    """By row; NaN: there is none."""


@dataclass(frozen=True)
class Points:
    """Choices that differ in what they cost and what they give."""

    title: str
    points: Sequence[tuple[str, float, float, float, float]] = field(repr=False)
    """(label, cost, value, low, high)."""


def plot_lines(
    path: Path,
    panels: Sequence[Panel],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    scale: Literal["linear", "log", "whole"] = "linear",
    limits: tuple[float, float] = (-math.inf, math.inf),
    marks: Sequence[tuple[float, str]] = (),
) -> list[Path]:
    """Draw lines with their bands, panels sharing both axes.

    Args:
        path: without suffix.
        panels: at least one.
        xlabel: with its unit, likewise `ylabel`.
        ylabel: of the left panels.
        title: above all.
        scale: of the x axis; whole: x are whole numbers.
        limits: of what y can be; bands end there (the data keep their intervals).
        marks: vertical lines: value and label.

    Returns:
        The files: PNG, SVG, CSV.
    """
    from matplotlib.ticker import MaxNLocator

    def draw(axes: "Axes", panel: Panel) -> None:
        for i, line in enumerate(panel.lines):
            style = _style(i)
            axes.plot(line.x, line.y, label=line.label, markersize=4, linewidth=1.3, **style)
            if line.low:
                band = line.low, line.high
                low, high = ([min(max(v, limits[0]), limits[1]) for v in side] for side in band)
                axes.fill_between(line.x, low, high, color=style["color"], alpha=0.13, linewidth=0)
        for value, label in panel.levels:
            axes.axhline(value, color="0.35", linewidth=1, linestyle=(0, (4, 2)), label=label)
        for i, (value, label) in enumerate(marks):
            dashes = _MARK_DASHES[i % len(_MARK_DASHES)]
            axes.axvline(value, label=label, color="0.4", linewidth=1.2, linestyle=dashes)
        if scale == "log":
            _set_logarithmic(axes, [x for line in panel.lines for x in line.x])
        if scale == "whole":
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)

    figure, grid = _panels(panels, draw, xlabel, ylabel, title, size=(_WIDTH, 2.7))
    _legend(figure, grid)
    rows = (
        (panel.title, line.label, *values)
        for panel in panels
        for line in panel.lines
        for values in zip(
            line.x,
            line.y,
            line.low or [math.nan] * len(line.x),
            line.high or [math.nan] * len(line.x),
            strict=True,
        )
    )
    return save_with_data(figure, path, ("panel", "line", xlabel, ylabel, "low", "high"), rows)


def plot_tables(
    path: Path,
    tables: Sequence[HeatMap],
    *,
    xlabel: str,
    ylabel: str,
    what: str,
    title: str = "",
    form: str = "{:.1f}",
) -> list[Path]:
    """Draw heat maps with one scale of colours, and every number in its cell.

    Args:
        path: without suffix.
        tables: at least one.
        xlabel: of the columns.
        ylabel: of the rows.
        what: the numbers are, with their unit.
        title: above all.
        form: of a number in its cell.

    Returns:
        The files: PNG, SVG, CSV.
    """
    from matplotlib import colormaps

    known = [v for table in tables for row in table.values for v in row if math.isfinite(v)]
    low, high = min([*known, 0.0]), max([*known, 1e-9])
    colours = colormaps["cividis"]

    def draw(axes: "Axes", table: HeatMap) -> None:
        axes.imshow(table.values, cmap=colours, vmin=low, vmax=high, aspect="auto")
        axes.set_xticks(range(len(table.columns)), table.columns, rotation=60, fontsize=7)
        axes.set_yticks(range(len(table.rows)), table.rows, fontsize=8)
        for i, row in enumerate(table.values):
            for j, value in enumerate(row):
                if math.isfinite(value):
                    dark = (value - low) / (high - low) < 0.55
                    colour = "white" if dark else "black"
                    axes.text(
                        j,
                        i,
                        _formatted(form, value),
                        ha="center",
                        va="center",
                        color=colour,
                        fontsize=6.5,
                    )

    rows = max(len(table.rows) for table in tables)
    wide = max(len(table.columns) for table in tables)
    # A cell's place says nothing of its strength where the strengths differ.
    same_columns = len({tuple(table.columns) for table in tables}) == 1
    figure, grid = _panels(
        tables,
        draw,
        xlabel,
        ylabel,
        title,
        size=(1.6 + 0.36 * wide, (1.2 if same_columns else 1.5) + 0.32 * rows),
        columns=2 if wide > 7 else _COLUMNS,
        shares=(same_columns, len({tuple(table.rows) for table in tables}) == 1),
    )
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    bar = ScalarMappable(Normalize(low, high), colours)
    scale = figure.colorbar(bar, ax=grid, shrink=0.9)
    scale.set_label(what, fontsize=9)
    scale.ax.tick_params(labelsize=8)
    cells = (
        (table.title, row, column, value)
        for table in tables
        for row, values in zip(table.rows, table.values, strict=True)
        for column, value in zip(table.columns, values, strict=True)
    )
    return save_with_data(figure, path, ("panel", ylabel, xlabel, what), cells)


def plot_pareto(
    path: Path,
    panels: Sequence[Points],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    limit: float = math.inf,
) -> list[Path]:
    """Draw what choices give against what they cost; a step line joins those that none beats.

    Choices of nearly equal cost are drawn beside each other; the data have the costs.

    Args:
        path: without suffix.
        panels: at least one.
        xlabel: of the cost, logarithmic.
        ylabel: of what they give, more is better.
        title: above all.
        limit: of what they can give; bars end there.

    Returns:
        The files: PNG, SVG, CSV; in the CSV `best` says which none beats.
    """
    labels = list(dict.fromkeys(point[0] for panel in panels for point in panel.points))
    costs = [point[1] for panel in panels for point in panel.points]

    def draw(axes: "Axes", panel: Points) -> None:
        best = [point[1:3] for point in panel.points if _is_best(point, panel.points)]
        best.sort()
        axes.step(*zip(*best, strict=True), where="post", color="0.6", linewidth=1, zorder=1)
        ordered = sorted(panel.points, key=lambda point: labels.index(point[0]))
        places = beside([point[1] for point in ordered])
        for place, (label, _, value, low, high) in zip(places, ordered, strict=True):
            style = _style(labels.index(label)) | {"linestyle": "none"}
            high = min(high, limit)
            bars = None if math.isnan(low) else [[value - low], [max(high - value, 0)]]
            axes.errorbar(place, value, bars, label=label, markersize=5, capsize=2, **style)
        _set_cost_axis(axes, costs)
        axes.grid(alpha=0.3)

    figure, grid = _panels(panels, draw, xlabel, ylabel, title, size=(_WIDTH, 2.7))
    _legend(figure, grid)
    rows = (
        (panel.title, *point, _is_best(point, panel.points))
        for panel in panels
        for point in panel.points
    )
    header = ("panel", "choice", xlabel, ylabel, "low", "high", "best")
    return save_with_data(figure, path, header, rows)


def beside(costs: Sequence[float]) -> list[float]:
    """Where choices are drawn: apart from each other where their costs are nearly equal."""
    places = list(costs)
    order = sorted(range(len(costs)), key=lambda i: costs[i])
    while order:
        same = sorted(i for i in order if costs[i] <= _SAME_COST * costs[order[0]])
        for number, i in enumerate(same):
            places[i] = costs[i] * _BESIDE ** (number - (len(same) - 1) / 2)
        order = [i for i in order if i not in same]
    return places


def _is_best(
    point: tuple[str, float, float, float, float],
    points: Sequence[tuple[str, float, float, float, float]],
) -> bool:
    """Whether no other gives as much for less, or more for as much."""
    _, cost, value, *_ = point
    return not any((c <= cost and v > value) or (c < cost and v >= value) for _, c, v, *_ in points)


def _set_logarithmic(axes: "Axes", values: Sequence[float]) -> None:
    """A logarithmic x axis: with few values within two decades, these are its ticks."""
    from matplotlib.ticker import NullLocator

    axes.set_xscale("log")
    known = sorted(set(values))
    if len(known) <= _FEW and known[-1] <= 100 * known[0]:
        axes.set_xticks(known, [f"{value:g}" for value in known])
        axes.xaxis.set_minor_locator(NullLocator())


def _set_cost_axis(axes: "Axes", costs: Sequence[float]) -> None:
    """A logarithmic x axis; within a decade its ticks are round numbers, or they would overlap."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

    axes.set_xscale("log")
    if max(costs) < 10 * min(costs):
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
        axes.xaxis.set_minor_locator(NullLocator())


def _formatted(form: str, value: float) -> str:
    """A number in its form; what rounds to 0 has no sign."""
    text = form.format(value)
    return form.format(0.0) if text == form.format(-0.0) else text


def _style(number: int) -> dict[str, Any]:
    return {
        "color": PALETTE[number % len(PALETTE)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": DASHES[number % len(DASHES)],
    }


def _panels(
    panels: Sequence[Any],
    draw: "Callable[[Axes, Any], None]",
    xlabel: str,
    ylabel: str,
    title: str,
    *,
    size: tuple[float, float],
    columns: int = _COLUMNS,
    shares: tuple[bool, bool] = (True, True),
) -> "tuple[Figure, list[Axes]]":
    """A figure with a pair of axes of a size for each panel, which share x, y or both."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    down = math.ceil(len(panels) / columns)
    across = math.ceil(len(panels) / down)
    width, height = size
    whole = (max(5.0, 0.4 + width * across), 0.7 + height * down)
    figure = Figure(figsize=whole, layout="constrained")
    FigureCanvasAgg(figure)
    sharex, sharey = shares
    grid = figure.subplots(down, across, sharex=sharex, sharey=sharey, squeeze=False)
    used = list(grid.flat)[: len(panels)]
    for axes in list(grid.flat)[len(panels) :]:
        axes.remove()
    for i, (axes, panel) in enumerate(zip(used, panels, strict=True)):
        draw(axes, panel)
        axes.set_title(panel.title, fontsize=9)
        axes.tick_params(which="both", labelsize=8)
        if i + across >= len(panels):  # nothing stands below
            axes.set_xlabel(xlabel, fontsize=9)
            axes.tick_params(labelbottom=True)
        if i % across == 0:
            axes.set_ylabel(ylabel, fontsize=9)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure, used


def _legend(figure: "Figure", grid: "Sequence[Axes]") -> None:
    """One for all panels, below them."""
    found: dict[str, Any] = {}
    for axes in grid:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    longest = max(map(len, found), default=1)
    columns = max(1, min(4, int(figure.get_figwidth() * 12 / (longest + 6))))
    figure.legend(
        found.values(),
        found,
        loc="outside lower center",
        ncols=columns,
        fontsize=8,
        frameon=False,
        handlelength=3,
    )
