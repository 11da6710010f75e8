"""Running an experiment: a folder in which every cell is a training run of its own.

    cells/LABEL/seed-N/     a run as `qpc train` makes it: its checkpoint, state and metrics, or
                            failed.json with the error that ended it
    results.json            every finished cell with its curve
    curves.csv, curves.png  the same as a table and as a figure
    summary.md              accuracies after the last epoch, beside the paper's and between lines
    experiment.json         what was asked for
    seconds.csv             how long each stretch of training took; appended to, nothing reads it

Running it again does what is missing: a finished cell is read, an interrupted one resumed, bit for
bit, one that failed tried again. Seeds that the folder has are reported although fewer are asked
for. A cell that was trained with other options or data than are asked for now is an error, before
anything is written. One process at a time may be at work in a folder.
"""

import csv
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from statistics import median

from qpc_qiskit.checkpoint import RECORD_FILE, DataRecord
from qpc_qiskit.data import ImageData, load_source
from qpc_qiskit.errors import CheckpointError, EngineError, ExperimentError, QPCError
from qpc_qiskit.experiments.locking import locked
from qpc_qiskit.experiments.results import (
    CellResult,
    Epoch,
    Failure,
    Results,
    curves,
    differences,
    write_results,
)
from qpc_qiskit.experiments.spec import Cell, Experiment, changed
from qpc_qiskit.files import write_text
from qpc_qiskit.nets import build_net, check_data, parameter_table
from qpc_qiskit.runs import (
    METRICS_FILE,
    RUN_FILE,
    EpochMetrics,
    RunRecord,
    check_resumable,
    read_metrics,
    read_seconds,
)
from qpc_qiskit.versions import library_versions

EXPERIMENT_FILE = "experiment.json"
FIGURE_FILE = "curves.png"
SECONDS_FILE = "seconds.csv"
FAILED_FILE = "failed.json"


def run_experiment(
    experiment: Experiment,
    folder: Path | str,
    *,
    data: ImageData | None = None,
    only: Sequence[str] = (),
    progress: bool = True,
    on_cell: Callable[[int, int, Cell], None] | None = None,
) -> Results:
    """Train every cell that is not finished yet, and write what came of all.

    Args:
        experiment: what to run.
        folder: of the results, see the module docstring; made if it is missing.
        data: the images; by default those that the experiment names.
        only: labels of the lines to train; all without any. Finished cells of others are still
            reported.
        progress: show a bar, and a line per epoch, on stderr.
        on_cell: called before a cell is trained with its number from 1, the number of all cells,
            and the cell.

    Returns:
        The results of all finished cells, and the failures: a training that diverges, or breaks off
        with another error of its own, does not stop the others.

    Raises:
        ExperimentError: `only` names no line, or another process is at work in the folder.
        DataError: the images cannot be had, or have another shape than the data's name says.
        CheckpointError: a cell in the folder was trained with other options or data.
        EngineError: a GPU was asked for and there is none.
        TrainingInterrupted: Ctrl-C or SIGTERM came; running it again goes on.
    """
    folder = Path(folder)
    cells = experiment.cells()
    _check_labels(only, cells)
    data = load_source(experiment.data) if data is None else data
    check_data(cells[0].net, data)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        whole = _with_begun_seeds(experiment, folder)
        wanted = {cell.folder for cell in cells if not only or cell.label in only}
        return _run(whole, wanted, data, folder, progress, on_cell)


def _with_begun_seeds(experiment: Experiment, folder: Path) -> Experiment:
    """The experiment with the seeds that its lines were begun with before."""
    begun = {
        int(run.parent.name.removeprefix("seed-"))
        for place in {str(Path(cell.folder).parent) for cell in experiment.cells()}
        for run in (folder / place).glob(f"seed-*/{RUN_FILE}")
        if run.parent.name.removeprefix("seed-").isdecimal()
    }
    if begun <= set(experiment.seeds):
        return experiment
    return changed(experiment, seeds=sorted(begun | set(experiment.seeds)))


def _run(
    experiment: Experiment,
    wanted: Collection[str],
    data: ImageData,
    folder: Path,
    progress: bool,
    on_cell: Callable[[int, int, Cell], None] | None,
) -> Results:
    from qpc_qiskit.figures import plot_experiment
    from qpc_qiskit.training import TrainingInterrupted

    cells = experiment.cells()
    record = DataRecord.of(data)
    done = {cell: _finished(cell, record, folder) for cell in cells}
    write_text(folder / EXPERIMENT_FILE, experiment.model_dump_json(indent=2) + "\n")
    for number, cell in enumerate(cells, 1):
        if done[cell] is not None or cell.folder not in wanted:
            continue
        if on_cell is not None:
            on_cell(number, len(cells), cell)
        failed = folder / cell.folder / FAILED_FILE
        failed.unlink(missing_ok=True)
        try:
            _train(cell, data, folder, progress)
        except TrainingInterrupted as stop:
            _write(experiment, record, done, folder)
            raise TrainingInterrupted(
                f"Stopped in {cell.label!r}, seed {cell.training.seed}. Finished epochs are in "
                f"{folder}; the same command goes on from there."
            ) from stop
        except EngineError:  # no GPU: the others would fail alike
            raise
        except (QPCError, ArithmeticError, RuntimeError) as error:
            failed.parent.mkdir(parents=True, exist_ok=True)
            write_text(failed, _failure(cell, error).model_dump_json(indent=2) + "\n")
        done[cell] = _finished(cell, record, folder)
        _write(experiment, record, done, folder)
    results = _write(experiment, record, done, folder)
    if results.cells:
        plot_experiment(folder / FIGURE_FILE, curves(results), results.title)
    return results


def _check_labels(only: Sequence[str], cells: Sequence[Cell]) -> None:
    labels = dict.fromkeys(cell.label for cell in cells)
    for label in only:
        if label not in labels:
            known = ", ".join(map(repr, labels))
            raise ExperimentError(f"No line is called {label!r}; there are {known}.")


def _failure(cell: Cell, error: Exception) -> Failure:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
    text = reason if isinstance(error, QPCError) else f"{type(error).__name__}: {reason}"
    return Failure(label=cell.label, seed=cell.training.seed, folder=cell.folder, error=text)


def _read_failure(path: Path) -> Failure | None:
    try:
        return Failure.model_validate_json(path.read_bytes())
    except (OSError, ValueError):  # none, or damaged: the run is just not finished
        return None


def _train(cell: Cell, data: ImageData, folder: Path, progress: bool) -> None:
    from qpc_qiskit.training import train

    where = folder / cell.folder
    resume = (where / RUN_FILE).exists()
    before = len(read_metrics(where)) if (where / METRICS_FILE).exists() else 0
    started = time.perf_counter()
    try:
        model = build_net(cell.net, seed=cell.training.seed)
        train(model, data, cell.training, where, resume=resume, progress=progress)
    finally:
        seconds = time.perf_counter() - started
        epochs = len(read_metrics(where)) - before if (where / METRICS_FILE).exists() else 0
        _note_seconds(folder / SECONDS_FILE, cell, epochs, seconds)


def _note_seconds(path: Path, cell: Cell, epochs: int, seconds: float) -> None:
    is_new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if is_new:
            writer.writerow(["label", "seed", "finished_epochs", "seconds"])
        writer.writerow([cell.label, cell.training.seed, epochs, f"{seconds:.1f}"])


def _finished(cell: Cell, data: DataRecord, folder: Path) -> CellResult | None:
    """The result of a cell, if its run is finished.

    Raises:
        CheckpointError: the run in its folder is another one.
    """
    where = folder / cell.folder
    if not (where / RUN_FILE).exists():
        return None
    check_resumable(where, RunRecord(net=cell.net, training=cell.training, data=data))
    if not (where / RECORD_FILE).exists():
        return None
    history: list[EpochMetrics] = read_metrics(where)
    if len(history) != cell.training.epochs:
        raise CheckpointError(
            f"{where / METRICS_FILE}: expected {cell.training.epochs} epochs of a finished run, "
            f"found {len(history)}. Delete the folder to train it anew."
        )
    count = parameter_table(build_net(cell.net))
    return CellResult(
        label=cell.label,
        seed=cell.training.seed,
        folder=cell.folder,
        net=cell.net,
        training=cell.training,
        parameters=count.total,
        pointwise_parameters=count.pointwise,
        curve=tuple(Epoch.of(metrics) for metrics in history),
    )


def _write(
    experiment: Experiment,
    data: DataRecord,
    done: dict[Cell, CellResult | None],
    folder: Path,
) -> Results:
    finished = tuple(result for result in done.values() if result is not None)
    failures = (
        _read_failure(folder / cell.folder / FAILED_FILE)
        for cell, result in done.items()
        if result is None
    )
    seconds = {each.folder: read_seconds(folder / each.folder).values() for each in finished}
    found = Results(
        name=experiment.name,
        title=experiment.title,
        question=experiment.question,
        paper=experiment.paper,
        data=data.provenance,
        num_train=data.num_train,
        num_test=data.num_test,
        is_complete=len(finished) == len(done),
        cells=finished,
        failures=tuple(each for each in failures if each is not None),
        paper_accuracies={cell.label: cell.paper for cell in done if cell.paper},
        differences=differences(finished, {cell.label: cell.against for cell in done}),
        epoch_seconds={place: median(times) for place, times in seconds.items() if times},
        libraries=library_versions(),
    )
    write_results(folder, found)
    return found
