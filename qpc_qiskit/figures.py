"""Figures, drawn off screen without touching the user's matplotlib state."""

from collections.abc import Sequence
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
