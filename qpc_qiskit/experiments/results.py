"""What came of an experiment: one entry for each finished cell, tables and curves of them."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from statistics import mean, stdev

from qpc_qiskit.files import write_text
from qpc_qiskit.options import NetConfig, Options, TrainConfig
from qpc_qiskit.runs import EpochMetrics

RESULTS_FILE = "results.json"
CURVES_TABLE = "curves.csv"
SUMMARY_FILE = "summary.md"


@dataclass(frozen=True)
class Epoch:
    """Loss and accuracy after an epoch; see `runs.EpochMetrics`."""

    epoch: int
    """From 1."""
    train_loss: float
    """In evaluation mode."""
    train_accuracy: float
    """In 0..1."""
    test_loss: float
    """In evaluation mode."""
    test_accuracy: float
    """In 0..1."""

    @classmethod
    def of(cls, metrics: EpochMetrics) -> "Epoch":
        """The figures without the learning rate, which the options tell."""
        return cls(**{field.name: getattr(metrics, field.name) for field in fields(cls)})


class CellResult(Options):
    """A finished training run."""

    label: str
    """Of its line."""
    seed: int
    """Of the run."""
    folder: str
    """Of the run, beside the results."""
    net: NetConfig
    """The network."""
    training: TrainConfig
    """How it was trained."""
    parameters: int
    """Of the network."""
    pointwise_parameters: int
    """Of its pointwise layers: quantum ones, baselines, 1x1 convolutions."""
    curve: tuple[Epoch, ...]
    """Every epoch."""

    @property
    def last(self) -> Epoch:
        """After the last epoch: nothing is chosen by its test accuracy."""
        return self.curve[-1]


class Results(Options):
    """What came of an experiment so far."""

    format_version: int = 1
    """Of this record."""
    name: str
    """Of the experiment."""
    title: str
    """Above the figure."""
    question: str
    """What it is to answer."""
    paper: str
    """What the paper shows or leaves open."""
    data: str
    """Where the images came from."""
    num_train: int
    """Training images."""
    num_test: int
    """Test images."""
    is_complete: bool
    """Whether every cell is finished."""
    cells: tuple[CellResult, ...]
    """The finished cells."""
    libraries: dict[str, str]
    """Versions of Python and of the libraries that had a part in it."""

    def by_line(self) -> dict[str, list[CellResult]]:
        """The cells of each line, by its label."""
        lines: dict[str, list[CellResult]] = {}
        for cell in self.cells:
            lines.setdefault(cell.label, []).append(cell)
        return lines


def read_results(folder: Path | str) -> Results:
    """The results in an experiment's folder.

    Raises:
        OSError: there are none.
        ValueError: they are damaged.
    """
    return Results.model_validate_json((Path(folder) / RESULTS_FILE).read_bytes())


def write_results(folder: Path, results: Results) -> None:
    """Write the results, their curves as a table, and the summary."""
    write_text(folder / RESULTS_FILE, results.model_dump_json(indent=1) + "\n")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["label", "seed", *(field.name for field in fields(Epoch))])
    for cell in results.cells:
        writer.writerows([cell.label, cell.seed, *astuple(epoch)] for epoch in cell.curve)
    write_text(folder / CURVES_TABLE, text.getvalue())
    write_text(folder / SUMMARY_FILE, _markdown(results))


HEADER = ("line", "seeds", "epochs", "train accuracy / %", "test accuracy / %", "pointwise", "all")


def summary_table(results: Results) -> list[tuple[str, ...]]:
    """Rows of text for each line: accuracies after the last epoch, mean and deviation over seeds.

    Returns:
        As many cells a row as `HEADER`; the last two are numbers of parameters.
    """
    rows: list[tuple[str, ...]] = []
    for label, cells in results.by_line().items():
        rows.append(
            (
                label,
                str(len(cells)),
                str(cells[0].training.epochs),
                _spread([100 * cell.last.train_accuracy for cell in cells]),
                _spread([100 * cell.last.test_accuracy for cell in cells]),
                str(cells[0].pointwise_parameters),
                str(cells[0].parameters),
            )
        )
    return rows


def _spread(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{mean(values):.2f} ± {stdev(values):.2f}"


def _markdown(results: Results) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |\n"

    unfinished = "" if results.is_complete else "\nNot all cells are finished.\n"
    paper = f"\nThe paper: {results.paper}\n" if results.paper else ""
    return (
        f"# {results.title}\n\n{results.question}\n{paper}{unfinished}\n"
        + line(HEADER)
        + line(["---"] * len(HEADER))
        + "".join(line(row) for row in summary_table(results))
        + f"\nAfter the last epoch; mean ± standard deviation over the seeds. {results.num_train} "
        f"training and {results.num_test} test images: {results.data}.\n"
    )


def curves(results: Results) -> dict[str, list[list[dict[str, float]]]]:
    """For each line the curve of each seed, as `figures.plot_experiment` takes them."""
    return {
        label: [[asdict(epoch) for epoch in cell.curve] for cell in cells]
        for label, cells in results.by_line().items()
    }
