"""Figures, drawn off screen without touching the user's matplotlib state."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qpc_qiskit.common.files import write_text, written_aside

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike
    from qiskit import QuantumCircuit

    from qpc_qiskit.common.metrics import EpochMetrics

# Okabe and Ito's palette, told apart with every common colour blindness; dashes help in print.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")

_WRONG = PALETTE[1]
_INCHES_PER_GATE = 0.55


def plot_curves(path: Path, history: "Sequence[EpochMetrics]", title: str = "") -> None:
    """Draw loss and accuracy against the epoch, for both splits, side by side.

    Args:
        path: file to write in one step; its suffix names the format.
        history: one entry per epoch.
        title: above both panels.
    """
    with written_aside(path) as aside:
        _curves(history, title).savefig(aside, dpi=150)


def plot_history(path: Path, history: "Sequence[EpochMetrics]", title: str = "") -> list[Path]:
    """The same as `plot_curves`, with its data.

    Args:
        path: without suffix.
        history: one entry per epoch, at least one.
        title: above both panels.

    Returns:
        The files: PNG, SVG, CSV.
    """
    header = [field.name for field in fields(history[0])]
    return save_with_data(_curves(history, title), path, header, map(astuple, history))


def _curves(history: "Sequence[EpochMetrics]", title: str) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    epochs = [metrics.epoch for metrics in history]
    marker = "o" if len(epochs) <= 30 else ""
    panels = (
        ("loss", [m.train_loss for m in history], [m.test_loss for m in history]),
        (
            "accuracy / %",
            [100 * m.train_accuracy for m in history],
            [100 * m.test_accuracy for m in history],
        ),
    )
    for axes, (label, *splits) in zip(figure.subplots(1, 2), panels, strict=True):
        for i, (split, values) in enumerate(zip(("train", "test"), splits, strict=True)):
            style = {"color": PALETTE[i], "linestyle": DASHES[i]}
            axes.plot(epochs, values, marker=marker, markersize=3, label=split, **style)
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    if title:
        figure.suptitle(title)
    return figure


def plot_experiment(
    path: Path, lines: "Mapping[str, Sequence[Sequence[Mapping[str, float]]]]", title: str = ""
) -> None:
    """Draw loss and accuracy against the epoch for both splits, as in the paper's Figs. 4-8.

    Rows are loss and accuracy, columns the training and the test split, which share an axis. A line
    is the mean over the seeds, its band from the least to the largest.

    Args:
        path: file to write in one step; its suffix names the format.
        lines: by label, for each seed, for each epoch: `epoch`, `train_loss`, `train_accuracy`,
            `test_loss` and `test_accuracy`.
        title: above the panels.
    """
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    height = 5.6 + 0.22 * ((len(lines) + 1) // 2)
    figure = Figure(figsize=(9, height), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2, sharex=True, sharey="row")
    for row, (quantity, unit, scale) in enumerate((("loss", "", 1), ("accuracy", " / %", 100))):
        for column, split in enumerate(("train", "test")):
            axes = panels[row][column]
            for index, seeds in enumerate(lines.values()):
                length = min(len(curve) for curve in seeds)
                epochs = [epoch["epoch"] for epoch in seeds[0][:length]]
                values = scale * np.array(
                    [[epoch[f"{split}_{quantity}"] for epoch in curve[:length]] for curve in seeds]
                )
                style = {
                    "color": PALETTE[index % len(PALETTE)],
                    "linestyle": DASHES[index // len(PALETTE) % len(DASHES)],
                }
                marker = "o" if length <= 30 else ""
                axes.plot(epochs, values.mean(0), marker=marker, markersize=3, **style)
                if len(seeds) > 1:
                    axes.fill_between(
                        epochs, values.min(0), values.max(0), alpha=0.15, color=style["color"]
                    )
            axes.set_title(f"{'training' if split == 'train' else 'test'} {quantity}", fontsize=10)
            axes.grid(alpha=0.3)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            if column == 0:
                axes.set_ylabel(f"{quantity}{unit}")
            if row == 1:
                axes.set_xlabel("epoch")
    # matplotlib leaves out labels that begin with "_" and sets what stands between "$" as formulas.
    numbers = [str(number) for number in range(len(lines))]
    legend = figure.legend(
        panels[0][0].lines, numbers, loc="outside lower center", ncols=2, fontsize=9
    )
    for entry, label in zip(legend.get_texts(), lines, strict=True):
        entry.set(text=label, parse_math=False)
    if title:
        figure.suptitle(title, parse_math=False)
    with written_aside(path) as aside:
        figure.savefig(aside, dpi=150)


def plot_confusion(
    path: Path, matrix: "ArrayLike", labels: Sequence[str], title: str = ""
) -> list[Path]:
    """Draw which classes were taken for which: rows are the truth, columns the prediction.

    Colours are shares of a row, on a scale that shows single mistakes; the numbers are counts.

    Args:
        path: without suffix.
        matrix: counts, shape (classes, classes).
        labels: names of the classes.
        title: above it.

    Returns:
        The files: PNG, SVG, CSV.
    """
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    counts = np.asarray(matrix, dtype=int)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = 2.2 + 0.42 * len(labels)
    figure = Figure(figsize=(size + 0.9, size), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    drawn = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1))
    is_long = max(map(len, labels)) > 3
    turned: dict[str, Any] = (
        {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if is_long else {}
    )
    axes.set_xticks(range(len(labels)), labels, fontsize=9, **turned)
    axes.set_yticks(range(len(labels)), labels, fontsize=9)
    axes.set(xlabel="prediction", ylabel="truth")
    small = 8 if counts.max() < 1000 else 7
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > 0.35 else "black"
            axes.text(column, row, count, ha="center", va="center", color=colour, fontsize=small)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.9, ticks=[0, 0.01, 0.05, 0.2, 0.5, 1])
    bar.ax.set_yticklabels(["0", "1 %", "5 %", "20 %", "50 %", "100 %"], fontsize=8)
    bar.set_label("share of the true class", fontsize=9)
    if title:
        figure.suptitle(title, fontsize=10)
    rows = (
        (labels[row], labels[column], int(count)) for (row, column), count in np.ndenumerate(counts)
    )
    return save_with_data(figure, path, ("truth", "prediction", "images"), rows)


def plot_predictions(
    path: Path, images: "ArrayLike", titles: Sequence[str], wrong: Sequence[bool]
) -> list[Path]:
    """Draw small images in a grid, each with its caption; wrong ones have a frame and a cross.

    Args:
        path: without suffix.
        images: bytes or floats in [0, 1], shape (N, C, H, W) with one or three channels; N at
            least 1.
        titles: caption of each; may have several lines.
        wrong: whether each is to be marked.

    Returns:
        The files: PNG, SVG, and a CSV with the captions.
    """
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    pixels = np.asarray(images).transpose(0, 2, 3, 1)
    across = min(8, len(pixels))
    down = math.ceil(len(pixels) / across)
    lines = max(title.count("\n") + 1 for title in titles)
    figure = Figure(figsize=(1.2 * across, (1.05 + 0.17 * lines) * down), layout="constrained")
    FigureCanvasAgg(figure)
    grid = list(figure.subplots(down, across, squeeze=False).flat)
    highest = 255 if pixels.dtype == np.uint8 else 1
    for axes, image, title, is_wrong in zip(grid, pixels, titles, wrong, strict=False):
        axes.imshow(
            image.squeeze(-1) if image.shape[-1] == 1 else image, "gray", vmin=0, vmax=highest
        )
        axes.set_title(title, fontsize=7.5, color=_WRONG if is_wrong else "black", pad=3)
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set(color=_WRONG if is_wrong else "0.6", linewidth=2.5 if is_wrong else 0.8)
        if is_wrong:
            place = {"transform": axes.transAxes, "marker": "X", "linestyle": "none"}
            look = {"color": _WRONG, "markeredgecolor": "white", "markersize": 10}
            axes.plot([0.88], [0.88], clip_on=False, **place, **look)
    for axes in grid[len(pixels) :]:
        axes.remove()
    rows = (
        (number, " ".join(title.split()), bool(is_wrong))
        for number, (title, is_wrong) in enumerate(zip(titles, wrong, strict=True))
    )
    return save_with_data(figure, path, ("image", "caption", "wrong"), rows)


def plot_circuit(path: Path, circuit: "QuantumCircuit", *, columns: int = 15) -> list[Path]:
    """Draw a circuit with Qiskit's drawer.

    Args:
        path: without suffix.
        circuit: its global phase is not drawn.
        columns: of gates in a line, about; the drawing goes on below in lines of one length.

    Returns:
        The files: PNG and SVG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = circuit.copy()
    drawn.global_phase = 0  # the drawer would write it into pyplot's current figure

    def on(width: float, height: float, fold: int) -> "tuple[Figure, float, float]":
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1))
        drawn.draw("mpl", ax=axes, fold=fold, style="iqp", reverse_bits=False, idle_wires=True)
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        return figure, right - left, top - bottom

    # The drawer fits gates and letters to the width that it is given, and says only then how many
    # gates wide and high the drawing is: without lines, with them, and at last in its size.
    _, whole, _ = on(8, 8, -1)
    fold = max(2, math.ceil(whole / math.ceil(whole / columns)))
    _, width, height = on(8, 8, fold)
    figure, _, _ = on(_INCHES_PER_GATE * width, _INCHES_PER_GATE * height, fold)
    return _save_drawing(figure, path)


def save_with_data(
    figure: "Figure", path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]
) -> list[Path]:
    """Write PNG and SVG, the same bytes for the same figure, and the data beside them.

    Args:
        figure: drawn.
        path: without suffix.
        header: of the data.
        rows: of the data.

    Returns:
        The files: PNG, SVG, CSV.
    """
    files = _save_drawing(figure, path)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    data = path.with_name(f"{path.name}.csv")
    write_text(data, text.getvalue())
    return [*files, data]


def _save_drawing(figure: "Figure", path: Path) -> list[Path]:
    from matplotlib import rc_context

    files = [path.with_name(f"{path.name}.{suffix}") for suffix in ("png", "svg")]
    for file in files:
        with rc_context({"svg.hashsalt": path.name}), written_aside(file) as aside:
            metadata = {"Date": None} if file.suffix == ".svg" else None
            figure.savefig(aside, dpi=150, metadata=metadata)
    return files
