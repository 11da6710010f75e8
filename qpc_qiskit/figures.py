"""Figures, drawn off screen without touching the user's matplotlib state."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qpc_qiskit.files import written_aside

if TYPE_CHECKING:
    from qpc_qiskit.training import EpochMetrics


def plot_curves(path: Path, history: "Sequence[EpochMetrics]", title: str = "") -> None:
    """Draw loss and accuracy against the epoch, for both splits, side by side.

    Args:
        path: file to write in one step; its suffix names the format.
        history: one entry per epoch.
        title: above both panels.
    """
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
    for axes, (label, train, test) in zip(figure.subplots(1, 2), panels, strict=True):
        axes.plot(epochs, train, marker=marker, markersize=3, label="train")
        axes.plot(epochs, test, marker=marker, markersize=3, label="test")
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    if title:
        figure.suptitle(title)
    with written_aside(path) as aside:
        figure.savefig(aside, dpi=150)


# Okabe and Ito's palette, told apart with every common colour blindness; dashes help in print.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")


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
            for index, (label, seeds) in enumerate(lines.items()):
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
                axes.plot(epochs, values.mean(0), marker=marker, markersize=3, label=label, **style)
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
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=9)
    if title:
        figure.suptitle(title)
    with written_aside(path) as aside:
        figure.savefig(aside, dpi=150)
