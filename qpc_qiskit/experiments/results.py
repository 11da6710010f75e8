"""What came of an experiment: one entry for each finished cell, tables and curves of them."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from statistics import mean, median

from pydantic import Field, ValidationError

from qpc_qiskit.common.files import parse_json, read_file, write_text
from qpc_qiskit.common.metrics import EpochMetrics
from qpc_qiskit.errors import ExperimentError
from qpc_qiskit.experiments.spec import first_problem
from qpc_qiskit.grid.statistics import MIN_PAIRS, paired_test
from qpc_qiskit.options.fields import Options
from qpc_qiskit.options.records import StoredNetConfig, TrainConfig

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
    net: StoredNetConfig
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


class Failure(Options):
    """A training run that ended with an error."""

    label: str
    """Of its line."""
    seed: int
    """Of the run."""
    folder: str
    """Of the run, beside the results."""
    error: str
    """What it said."""


class Difference(Options):
    """Accuracies of a line minus those of another on the same seeds."""

    label: str
    """Of the line."""
    against: str
    """Label of the other."""
    seeds: tuple[int, ...]
    """Finished in both."""
    train: tuple[float, ...]
    """Of the training images, in -1..1, for each seed."""
    test: tuple[float, ...]
    """Of the test images, in -1..1, for each seed."""
    p_value: float | None
    """Two-sided, Wilcoxon's signed ranks of the test differences; None with fewer than `MIN_PAIRS`
    seeds."""


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
    """Whether every line is finished with every seed that was asked for or begun."""
    cells: tuple[CellResult, ...]
    """The finished cells."""
    failures: tuple[Failure, ...] = ()
    """The cells that ended with an error when they were last tried."""
    paper_accuracies: dict[str, str] = Field(default_factory=dict)
    """What the paper shows in %, by label of the line; of which split it does not say."""
    differences: tuple[Difference, ...] = ()
    """Of lines that the experiment compares, where two or more seeds are finished in both."""
    epoch_seconds: dict[str, float] = Field(default_factory=dict)
    """Median time of an epoch, its scoring of both splits included, by folder of the run."""
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
        ExperimentError: they are damaged.
    """
    path = Path(folder) / RESULTS_FILE
    content = parse_json(read_file(path, ExperimentError), path, ExperimentError)
    try:
        return Results.model_validate(content)
    except ValidationError as error:
        raise ExperimentError(f"{path}: {first_problem(error)}.") from error


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


def differences(
    cells: Sequence[CellResult], against: Mapping[str, Sequence[str]]
) -> tuple[Difference, ...]:
    """Compare lines seed by seed, after the last epoch.

    Args:
        cells: finished ones.
        against: labels of the lines that a line is compared with, by its own label.
    """
    found = {(cell.label, cell.seed): cell.last for cell in cells}
    pairs = ((label, other) for label, others in against.items() for other in others)
    made = []
    for label, other in pairs:
        seeds = [seed for line, seed in found if line == label and (other, seed) in found]
        if len(seeds) < 2:
            continue
        ours, theirs = ([found[line, seed] for seed in seeds] for line in (label, other))
        both = list(zip(ours, theirs, strict=True))
        test = tuple(mine.test_accuracy - its.test_accuracy for mine, its in both)
        # A tie must count as one, whatever the last bits of its two differences.
        tested = paired_test([round(value, 12) for value in test], [0.0] * len(test))
        made.append(
            Difference(
                label=label,
                against=other,
                seeds=tuple(seeds),
                train=tuple(mine.train_accuracy - its.train_accuracy for mine, its in both),
                test=test,
                p_value=None if tested is None else tested.p_value,
            )
        )
    return tuple(made)


HEADER = (
    "line",
    "seeds",
    "epochs",
    "train accuracy / %",
    "test accuracy / %",
    "paper / %",
    "s per epoch",
    "pointwise",
    "all",
)


def summary_table(results: Results) -> list[tuple[str, ...]]:
    """Rows of text for each line: accuracies after the last epoch, mean and range over seeds.

    Returns:
        As many cells a row as `HEADER`; the last two are numbers of parameters.
    """
    rows: list[tuple[str, ...]] = []
    for label, cells in results.by_line().items():
        times = results.epoch_seconds
        seconds = [times[cell.folder] for cell in cells if cell.folder in times]
        rows.append(
            (
                label,
                str(len(cells)),
                str(cells[0].training.epochs),
                _spread([100 * cell.last.train_accuracy for cell in cells]),
                _spread([100 * cell.last.test_accuracy for cell in cells]),
                results.paper_accuracies.get(label, "-"),
                f"{median(seconds):.3g}" if seconds else "-",
                str(cells[0].pointwise_parameters),
                str(cells[0].parameters),
            )
        )
    return rows


def _spread(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


DIFFERENCES_HEADER = ("line", "minus", "seeds", "train / points", "test / points", "p (test)")


def differences_table(results: Results) -> list[tuple[str, ...]]:
    """Rows of text for each comparison: mean difference, and in brackets that of each seed.

    Returns:
        As many cells a row as `DIFFERENCES_HEADER`.
    """
    return [
        (
            each.label,
            each.against,
            ", ".join(map(str, each.seeds)),
            _each([100 * value for value in each.train]),
            _each([100 * value for value in each.test]),
            "-" if each.p_value is None else f"{each.p_value:.4f}",
        )
        for each in results.differences
    ]


def _each(values: Sequence[float]) -> str:
    return f"{mean(values):+.2f} ({', '.join(f'{value:+.2f}' for value in values)})"


def _markdown(results: Results) -> str:
    paper = f"\nThe paper: {results.paper}\n" if results.paper else ""
    state = "" if results.is_complete else "\nNot all cells are finished.\n"
    if results.failures:
        state += "\nFailed, and not in the tables; the same command tries them again:\n\n"
        state += "".join(
            f"- {each.label}, seed {each.seed}: {each.error}\n" for each in results.failures
        )
    notes = (
        "After the last epoch; mean, and least to greatest over the seeds. "
        f"{results.num_train} training and {results.num_test} test images: {results.data}."
    )
    if results.paper_accuracies:
        notes += (
            " The paper does not say whether its accuracies are those of training or of test "
            "images, so they stand beside both."
        )
    text = f"# {results.title}\n\n{results.question}\n{paper}{state}\n"
    text += f"{_table(HEADER, summary_table(results))}\n{notes}\n"
    if results.differences:
        tests = (
            f"p: Wilcoxon's signed ranks, two-sided, from {MIN_PAIRS} seeds on; with fewer it "
            "could not be small, so there is none."
        )
        text += (
            "\n## Differences on the same seeds\n\n"
            f"{_table(DIFFERENCES_HEADER, differences_table(results))}\n"
            f"In percentage points: the mean, and each seed in brackets. {tests}\n"
        )
    return text


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = (header, ["---"] * len(header), *rows)
    escaped = ([cell.replace("|", r"\|") for cell in cells] for cells in lines)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in escaped)


def curves(results: Results) -> dict[str, list[list[dict[str, float]]]]:
    """For each line the curve of each seed, as `figures.plot_experiment` takes them."""
    return {
        label: [[asdict(epoch) for epoch in cell.curve] for cell in cells]
        for label, cells in results.by_line().items()
    }
