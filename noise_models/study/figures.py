"""Which figures a study has, from its tables; how they look stands in `qpc_qiskit.plots.panels`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from noise_models.study.measures import MARGIN_EDGES
from noise_models.study.run import StudyRun
from noise_models.study.tables import GROUP, records
from qpc_qiskit.grid.statistics import mean_interval
from qpc_qiskit.plots.panels import (
    Curve,
    HeatMap,
    Panel,
    Points,
    plot_lines,
    plot_pareto,
    plot_tables,
)

if TYPE_CHECKING:
    import pandas as pd

MAX_PANELS = 6
TYPICAL = 0.01
"""Of the strengths of a channel, the one nearest to this is shown where one must be chosen."""

LITERATURE = 0.1
"""Smallest strength of the sweep that most papers show."""

_ACCURACY = "test accuracy / %"


@dataclass(frozen=True)
class Drawn:
    """A figure on disk."""

    path: Path
    """PNG; SVG and CSV have the same name."""
    caption: str


def draw_figures(run: StudyRun, folder: Path) -> list[Drawn]:
    """Draw every figure that the study has data for.

    Args:
        run: the study; without its cells there are no figures of qubits and margins.
        folder: where figures go; made if it is missing. Figures of the study that are there already
            are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    makers: Sequence[Callable[[_Slice, Path], Iterator[Drawn]]] = (
        _strength,
        _heat,
        _depth,
        _shots,
        _qubits,
        _margins,
        _pareto,
    )
    drawn = [each for part in _slices(run) for make in makers for each in make(part, folder)]
    return [*drawn, *_regimes(run, folder)]


@dataclass(frozen=True)
class _Slice:
    """A network of a grid."""

    run: StudyRun
    grid: str
    network: str
    trained: str
    summary: pd.DataFrame
    results: pd.DataFrame

    @property
    def stem(self) -> str:
        """Begins the names of files."""
        trained = "" if self.trained == "clean" else "-noisy"
        return f"{self.grid}-{self.network}{trained}"

    @property
    def title(self) -> str:
        """Of the figures."""
        trained = "" if self.trained == "clean" else f", trained {_for(self.trained)}"
        return f"{self.network}{trained} ({_seeds(self.summary)})"

    def plain(self) -> pd.DataFrame:
        """See `_plain`."""
        return _plain(self.summary)

    def rows_of(self, summary_row: Any) -> pd.DataFrame:
        """The cells of a row of the summary."""
        found = self.results
        for name in GROUP:
            found = found[found[name] == getattr(summary_row, name)]
        return found


def _slices(run: StudyRun) -> Iterator[_Slice]:
    keys = ["grid", "network", "trained"]
    for key, summary in run.summary.groupby(keys, sort=False):
        results = run.results
        for name, value in () if results.empty else zip(keys, key, strict=True):
            results = results[results[name] == value]
        grid, network, trained = map(str, key)
        yield _Slice(run, grid, network, trained, summary, results)


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Of a summary the first encoder, the first mitigation, and exact values or the most shots."""
    for name in ("encoder", "mitigation"):
        frame = frame[frame[name] == frame[name].iloc[0]]
    shots = 0 if (frame["shots"] == 0).any() else frame["shots"].max()
    return frame[frame["shots"] == shots]


def _regimes(run: StudyRun, folder: Path) -> Iterator[Drawn]:
    """Accuracy against strength, a line per network, a panel per noise and number of blocks."""
    for grid, summary in run.summary.groupby("grid", sort=False):
        for quantity, frame in _of_quantities(_plain(summary)):
            panels = []
            for (noise, layers), group in frame.groupby(["noise", "num_layers"], sort=False):
                networks = group.groupby(["network", "trained"], sort=False)
                if len(networks) < 2 or group["strength"].nunique() < 2:
                    continue
                lines = [
                    _line(f"{name} (trained {_for(trained)})", each)
                    for (name, trained), each in networks
                ]
                panels.append(Panel(f"{noise}, {_blocks(layers)}", lines))
            if not panels:
                continue
            paths = plot_lines(
                folder / f"{grid}-networks{_suffix(quantity)}",
                panels[:MAX_PANELS],
                xlabel=_quantity(frame),
                ylabel=_ACCURACY,
                title=_seeds(frame),
                scale="log" if (frame["strength"] > 0).all() else "linear",
                limits=(0, 100),
                marks=[] if quantity == "factor" else _marks(run.about["marks"]),
            )
            yield Drawn(
                paths[0], "Test accuracy of different networks under the same noise; bands: 95 %."
            )


def _strength(part: _Slice, folder: Path) -> Iterator[Drawn]:
    """Accuracy against strength, a line per kind of noise, a panel per number of blocks."""
    for quantity, frame in _of_quantities(part.plain()):
        frame = frame[frame.groupby("noise")["strength"].transform("nunique") > 1]
        if frame.empty:
            continue
        yield _swept(part, folder, frame, quantity)
        strong = frame[frame["strength"] >= LITERATURE]
        # On a logarithmic axis the literature's 0.1, 0.2, ..., 1.0 are on top of each other.
        is_sweep = len(strong) < len(frame) and strong["strength"].nunique() >= 5
        if quantity != "factor" and is_sweep:
            yield _swept(part, folder, strong, "linear")


def _swept(part: _Slice, folder: Path, frame: pd.DataFrame, kind: str) -> Drawn:
    panels = [
        Panel(
            _blocks(layers),
            [_line(str(noise), g) for noise, g in of_layers.groupby("noise", sort=False)],
            [(100 * of_layers["ideal_accuracy"].mean(), "without noise")],
        )
        for layers, of_layers in frame.groupby("num_layers")
    ][:MAX_PANELS]
    marks = _marks(part.run.about["marks"]) if kind == "strength" else []
    paths = plot_lines(
        folder / f"{part.stem}-strength{'' if kind == 'strength' else f'-{kind}'}",
        panels,
        xlabel=_quantity(frame),
        ylabel=_ACCURACY,
        title=part.title,
        scale="log" if kind != "linear" and (frame["strength"] > 0).all() else "linear",
        limits=(0, 100),
        marks=marks,
    )
    marked = "; vertical: median errors of devices" if marks else ""
    return Drawn(
        paths[0],
        f"Test accuracy against the strength of each noise; bands: 95 % over seeds{marked}.",
    )


def _heat(part: _Slice, folder: Path) -> Iterator[Drawn]:
    """Drop by kind of noise and strength."""
    for quantity, frame in _of_quantities(part.plain()):
        if frame["noise"].nunique() < 2 or frame["strength"].nunique() < 2:
            continue
        tables = [
            _table(_blocks(layers), of_layers, "noise")
            for layers, of_layers in frame.groupby("num_layers")
        ][:MAX_PANELS]
        paths = plot_tables(
            folder / f"{part.stem}-heat{_suffix(quantity)}",
            tables,
            xlabel=_quantity(frame),
            ylabel="noise",
            what="drop of test accuracy / points",
            title=part.title,
        )
        yield Drawn(paths[0], "Mean drop of test accuracy by noise and strength.")


def _depth(part: _Slice, folder: Path) -> Iterator[Drawn]:
    """Drop by number of blocks and strength."""
    for quantity, frame in _of_quantities(part.plain()):
        if frame["num_layers"].nunique() < 2:
            continue
        tables = [_table(str(n), g, "num_layers") for n, g in frame.groupby("noise", sort=False)]
        paths = plot_tables(
            folder / f"{part.stem}-depth{_suffix(quantity)}",
            tables[:MAX_PANELS],
            xlabel=_quantity(frame),
            ylabel="blocks",
            what="drop of test accuracy / points",
            title=part.title,
        )
        yield Drawn(paths[0], "Mean drop of test accuracy by depth of the circuit and strength.")


def _shots(part: _Slice, folder: Path) -> Iterator[Drawn]:
    """Accuracy against shots, a line per mitigation, a panel per noise."""
    frame = part.summary[part.summary["encoder"] == part.summary["encoder"].iloc[0]]
    finite = frame[frame["shots"] > 0]
    if finite["shots"].nunique() < 2:
        return
    panels = []
    for title, of_noise in _conditions(frame):
        with_shots = of_noise[of_noise["shots"] > 0]
        lines = [
            _line(str(word), g, "shots") for word, g in with_shots.groupby("mitigation", sort=False)
        ]
        levels = [(100 * of_noise["ideal_accuracy"].mean(), "without noise")]
        panels.append(Panel(title, lines, levels))
    paths = plot_lines(
        folder / f"{part.stem}-shots",
        panels[:MAX_PANELS],
        xlabel="shots per circuit execution",
        ylabel=_ACCURACY,
        title=part.title,
        scale="log",
        limits=(0, 100),
    )
    yield Drawn(paths[0], "Test accuracy against shots; bands: 95 % over seeds.")


def _qubits(part: _Slice, folder: Path) -> Iterator[Drawn]:
    """Error of features by the qubit that they are measured on, of the last quantum layer."""
    if part.results.empty:
        return
    lines = []
    for row in records(_typical(part.plain())):
        cells = part.rows_of(row)
        sizes = cells["layer_qubits"].iloc[0]
        values = np.stack([list(v)[-sizes[-1] :] for v in cells["qubit_rms"]])
        found = [mean_interval(column) for column in values.T]
        lines.append(_band(_condition(row), range(sizes[-1]), found))
    paths = plot_lines(
        folder / f"{part.stem}-qubits",
        [Panel("", lines)],
        xlabel="qubit",
        ylabel="rms error of features",
        title=part.title,
        scale="whole",
        limits=(0, math.inf),
    )
    yield Drawn(
        paths[0],
        "Root mean square error of the last quantum layer's features, by the qubit that they are "
        "measured on; bands: 95 % over seeds.",
    )


def _margins(part: _Slice, folder: Path) -> Iterator[Drawn]:
    """Flipped predictions by the margin that the network has without noise."""
    if part.results.empty:
        return
    centers = [(a + b) / 2 for a, b in itertools.pairwise(MARGIN_EDGES)]
    lines = []
    for row in records(_typical(part.plain())):
        cells = part.rows_of(row)
        flips = np.stack([list(v) for v in cells["flips_by_margin"]]).astype(float)
        images = np.stack([list(v) for v in cells["images_by_margin"]]).astype(float)
        with np.errstate(invalid="ignore"):
            shares = 100 * flips / images
        found = [mean_interval(column[np.isfinite(column)]) for column in shares.T]
        lines.append(_band(_condition(row), centers, found))
    paths = plot_lines(
        folder / f"{part.stem}-margins",
        [Panel("", lines)],
        xlabel="margin without noise (probability of first minus second class)",
        ylabel="flipped predictions / %",
        title=part.title,
        limits=(0, 100),
    )
    yield Drawn(
        paths[0], "Predictions that noise changes, by how sure the network is without noise."
    )


def _pareto(part: _Slice, folder: Path) -> Iterator[Drawn]:
    """Accuracy against circuit executions, of every encoder, mitigation and number of shots."""
    has_shots = bool((part.summary["shots"] > 0).any())
    frame = part.summary[(part.summary["shots"] > 0) == has_shots].copy()
    of_each = "shots" if has_shots else "two_qubit_gates"
    frame["cost"] = frame["executions_per_image"] * frame[of_each]
    if len(frame.drop_duplicates(["encoder", "shots", "mitigation"])) < 2:
        return
    panels = []
    for title, of_noise in _conditions(frame):
        points = [
            (
                row.mitigation if part.summary["encoder"].nunique() == 1 else _choice(row),
                float(row.cost),
                100 * row.accuracy,
                100 * row.accuracy_low,
                100 * row.accuracy_high,
            )
            for row in records(of_noise)
        ]
        panels.append(Points(title, points))
    paths = plot_pareto(
        folder / f"{part.stem}-pareto",
        panels[:MAX_PANELS],
        xlabel="shots of circuits per image" if has_shots else "two-qubit gates per image",
        ylabel=_ACCURACY,
        title=part.title,
        limit=100,
    )
    yield Drawn(
        paths[0],
        f"Test accuracy against cost: circuit executions per image times "
        f"{'shots' if has_shots else 'two-qubit gates of a circuit'}; the grey line joins choices "
        "that no other beats. Bars: 95 % over seeds.",
    )


def _of_quantities(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Factors apart from strengths of channels, which share an axis."""
    is_factor = frame["quantity"] == "factor"
    for quantity, chosen in (("strength", frame[~is_factor]), ("factor", frame[is_factor])):
        if not chosen.empty:
            yield quantity, chosen


def _conditions(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Every noise at every strength and depth, with its name."""
    for _, group in frame.groupby(["noise", "strength", "num_layers"], sort=False):
        row = records(group)[0]
        yield f"{_condition(row)}, {_blocks(row.num_layers)}", group


def _typical(frame: pd.DataFrame) -> pd.DataFrame:
    """One strength of each noise, the deepest network."""
    frame = frame[frame["num_layers"] == frame["num_layers"].max()]
    chosen = []
    for _, group in frame.groupby("noise", sort=False):
        target = 1.0 if group["quantity"].iloc[0] == "factor" else TYPICAL
        distance = (group["strength"].clip(lower=1e-12) / target).map(lambda r: abs(math.log(r)))
        chosen.append(distance.idxmin())
    return frame.loc[chosen]


def _line(label: str, frame: pd.DataFrame, x: str = "strength") -> Curve:
    frame = frame.sort_values(x)
    low, high = (list(100 * frame[f"accuracy_{side}"]) for side in ("low", "high"))
    has_band = bool(np.isfinite(low).all())
    return Curve(
        label,
        list(frame[x]),
        list(100 * frame["accuracy"]),
        low if has_band else (),
        high if has_band else (),
    )


def _band(label: str, x: Sequence[float], found: Sequence[Any]) -> Curve:
    has_band = all(math.isfinite(each.low) for each in found)
    return Curve(
        label,
        list(x),
        [each.mean for each in found],
        [each.low for each in found] if has_band else (),
        [each.high for each in found] if has_band else (),
    )


def _table(title: str, frame: pd.DataFrame, rows: str) -> HeatMap:
    table = frame.pivot_table(index=rows, columns="strength", values="drop", sort=False)
    table = table[sorted(table.columns)]
    if rows == "num_layers":
        table = table.sort_index()
    values = (100 * table.to_numpy()).tolist()
    return HeatMap(title, [str(v) for v in table.index], [f"{v:g}" for v in table.columns], values)


def _marks(told: Sequence[dict[str, Any]]) -> list[tuple[float, str]]:
    return [
        (mark[name], f"{mark['device']}: median {words}")
        for mark in told
        for name, words in (
            ("two_qubit_error", "2-qubit error"),
            ("readout_error", "readout error"),
        )
        if mark[name]
    ]


def _quantity(frame: pd.DataFrame) -> str:
    if (frame["quantity"] == "factor").all():
        return "strength / device or preset as it is"
    return f"strength ({', '.join(dict.fromkeys(frame['quantity']))})"


def _condition(row: Any) -> str:
    return (
        f"{row.noise} x{row.strength:g}"
        if row.quantity == "factor"
        else (f"{row.noise} {row.strength:g}")
    )


def _choice(row: Any) -> str:
    return f"{row.encoder}, {row.mitigation}"


def _for(trained: object) -> str:
    return "without noise" if trained == "clean" else f"for {trained}"


def _seeds(frame: pd.DataFrame) -> str:
    seeds = int(frame["num_seeds"].max())
    return f"{seeds} seed{'s' * (seeds != 1)}"


def _blocks(layers: object) -> str:
    return f"{layers} block{'s' * (layers != 1)}"


def _suffix(quantity: str) -> str:
    return "-factor" if quantity == "factor" else ""
