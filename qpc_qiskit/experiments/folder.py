"""The folder of an experiment, in which several processes may be at work."""

import csv
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import median

from qpc_qiskit.common.files import parse_json, read_file, write_text
from qpc_qiskit.common.metrics import EpochMetrics
from qpc_qiskit.common.versions import library_versions
from qpc_qiskit.errors import CheckpointError, ExperimentError, QPCError
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
from qpc_qiskit.grid.locking import FolderHeldError, locked
from qpc_qiskit.nets import build_net, parameter_table
from qpc_qiskit.training.checkpoint import RECORD_FILE, DataRecord, read_record
from qpc_qiskit.training.runs import (
    METRICS_FILE,
    RUN_FILE,
    RUN_FILES,
    RunRecord,
    begin_run,
    check_resumable,
    read_metrics,
    read_seconds,
)

EXPERIMENT_FILE = "experiment.json"
FIGURE_FILE = "curves.png"
SECONDS_FILE = "seconds.csv"
FAILED_FILE = "failed.json"


class ExperimentFolder:
    """What an experiment has in its folder, read and written under locks.

    Args:
        experiment: what is asked for.
        data: on which images.
        folder: must exist.
    """

    def __init__(self, experiment: Experiment, data: DataRecord, folder: Path) -> None:
        self.folder, self.data = folder, data
        self._experiment = experiment
        self._finished: dict[str, CellResult] = {}

    @contextmanager
    def held(self, cell: Cell) -> Iterator[None]:
        """Keep other processes from a cell.

        Raises:
            FolderHeldError: one has it.
        """
        where = self.folder / cell.folder
        with ExitStack() as stack:
            with locked(self.folder, wait=True):  # or `_is_held` would be taken for a holder
                stack.enter_context(locked(where))
            yield

    def write_experiment(self) -> Experiment:
        """Write down what is asked for, once nothing in the folder contradicts it.

        Returns:
            The experiment with the seeds that were begun before, here or elsewhere.

        Raises:
            CheckpointError: a run in the folder has other options or data.
            ExperimentError: the folder is that of another experiment.
        """
        with locked(self.folder, wait=True):
            self._check()
            return self._write_experiment()

    def begin(self, cell: Cell) -> None:
        """Write down with which options a cell, which this process holds, is trained.

        Under the lock of the folder, so that of two processes with different options, begun at the
        same moment, one is refused before it has trained anything. What a run was begun with counts
        from its first finished epoch on; until then it is begun anew.

        Raises:
            CheckpointError, ExperimentError: as above.
        """
        where = self.folder / cell.folder
        with locked(self.folder, wait=True):
            self._check(held=cell)
            if _is_untrained(where):
                begin_run(where, self._record(cell), force=True)

    def _check(self, held: Cell | None = None) -> None:
        name = _name_in(self.folder / EXPERIMENT_FILE)
        if name not in (None, self._experiment.name):
            raise ExperimentError(
                f"{self.folder} holds experiment {name!r}; {self._experiment.name!r} needs a "
                "folder of its own (--out)."
            )
        for cell in self._with_begun_seeds().cells():
            where = self.folder / cell.folder
            if _is_untrained(where):
                if cell != held and _is_held(where):
                    self._check_options(cell)
            else:
                self.finished(cell)

    def _check_options(self, cell: Cell) -> None:
        where = self.folder / cell.folder
        try:
            check_resumable(where, self._record(cell))
        except CheckpointError as error:
            raise CheckpointError(f"{error} Or delete {where}, to train it anew.") from error

    def _record(self, cell: Cell) -> RunRecord:
        return RunRecord(net=cell.net, training=cell.training, data=self.data)

    def _write_experiment(self) -> Experiment:
        whole = self._with_begun_seeds()
        write_text(self.folder / EXPERIMENT_FILE, whole.model_dump_json(indent=2) + "\n")
        return whole

    def _with_begun_seeds(self) -> Experiment:
        """The experiment with the seeds that its lines were begun with, here or elsewhere."""
        lines = {str(Path(cell.folder).parent) for cell in self._experiment.cells()}
        begun = {
            int(run.parent.name.removeprefix("seed-"))
            for line in lines
            for run in (self.folder / line).glob(f"seed-*/{RUN_FILE}")
            if run.parent.name.removeprefix("seed-").isdecimal()
        }
        if begun <= set(self._experiment.seeds):
            return self._experiment
        return changed(self._experiment, seeds=sorted(begun | set(self._experiment.seeds)))

    def finished(self, cell: Cell) -> CellResult | None:
        """The result of a cell, if its run is finished.

        Raises:
            CheckpointError: the run in its folder is another one.
        """
        if cell.folder in self._finished:
            return self._finished[cell.folder]
        where = self.folder / cell.folder
        if _is_untrained(where) or not (where / RUN_FILE).exists():
            return None
        self._check_options(cell)
        if not (where / RECORD_FILE).exists():
            return None
        history = _read_finished(where, cell.training.epochs)
        count = parameter_table(build_net(cell.net))
        self._finished[cell.folder] = CellResult(
            label=cell.label,
            seed=cell.training.seed,
            folder=cell.folder,
            net=cell.net,
            training=cell.training,
            parameters=count.total,
            pointwise_parameters=count.pointwise,
            curve=tuple(Epoch.of(metrics) for metrics in history),
        )
        return self._finished[cell.folder]

    def last_failure(self, cell: Cell) -> int | None:
        """When a cell failed last; None when it has not."""
        try:
            return (self.folder / cell.folder / FAILED_FILE).stat().st_mtime_ns
        except OSError:
            return None

    def forget_failure(self, cell: Cell) -> None:
        """A cell is tried again."""
        (self.folder / cell.folder / FAILED_FILE).unlink(missing_ok=True)

    def write_failure(self, cell: Cell, error: Exception) -> None:
        """Write down why a cell failed."""
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
        text = reason if isinstance(error, QPCError) else f"{type(error).__name__}: {reason}"
        failure = Failure(label=cell.label, seed=cell.training.seed, folder=cell.folder, error=text)
        path = self.folder / cell.folder / FAILED_FILE
        write_text(path, failure.model_dump_json(indent=2) + "\n")

    def note_seconds(self, cell: Cell, epochs: int, seconds: float) -> None:
        """Append how long a stretch of training took.

        Nothing reads that: where it cannot be written, as on a full disk, it is left out rather
        than to hide why the training ended.
        """
        path = self.folder / SECONDS_FILE
        with (
            suppress(OSError),
            locked(self.folder, wait=True),
            path.open("a", newline="", encoding="utf-8") as file,
        ):
            writer = csv.writer(file, lineterminator="\n")
            if file.tell() == 0:
                writer.writerow(["label", "seed", "finished_epochs", "seconds"])
            writer.writerow([cell.label, cell.training.seed, epochs, f"{seconds:.1f}"])

    def write_results(self, *, with_figure: bool = False) -> Results:
        """Gather what all processes have finished, and write it."""
        from qpc_qiskit.plots.figures import plot_experiment

        with locked(self.folder, wait=True):
            self._write_experiment()
            results = self._results()
            write_results(self.folder, results)
            if with_figure and results.cells:
                plot_experiment(self.folder / FIGURE_FILE, curves(results), results.title)
        return results

    def _results(self) -> Results:
        cells = self._with_begun_seeds().cells()
        done = [(cell, self.finished(cell)) for cell in cells]
        finished = tuple(result for _, result in done if result is not None)
        failures = (
            _read_failure(self.folder / cell.folder / FAILED_FILE)
            for cell, result in done
            if result is None
        )
        seconds = {each.folder: read_seconds(self.folder / each.folder) for each in finished}
        return Results(
            name=self._experiment.name,
            title=self._experiment.title,
            question=self._experiment.question,
            paper=self._experiment.paper,
            data=self.data.provenance,
            num_train=self.data.num_train,
            num_test=self.data.num_test,
            is_complete=len(finished) == len(cells),
            cells=finished,
            failures=tuple(each for each in failures if each is not None),
            paper_accuracies={cell.label: cell.paper for cell in cells if cell.paper},
            differences=differences(finished, {cell.label: cell.against for cell in cells}),
            epoch_seconds={where: median(of.values()) for where, of in seconds.items() if of},
            libraries=library_versions(),
        )


def _is_untrained(run: Path) -> bool:
    """Whether a run has nothing but, perhaps, what it was begun with."""
    return not any((run / name).exists() for name in RUN_FILES if name != RUN_FILE)


def _is_held(run: Path) -> bool:
    """Whether a process trains a run, or this one does."""
    if not (run / RUN_FILE).exists():
        return False
    try:
        with locked(run):
            return False
    except FolderHeldError:
        return True


def _read_finished(run: Path, epochs: int) -> list[EpochMetrics]:
    try:
        read_record(run)
        history = read_metrics(run)
        if len(history) != epochs:
            raise CheckpointError(
                f"{run / METRICS_FILE}: expected {epochs} epochs of a finished run, found "
                f"{len(history)}."
            )
    except CheckpointError as error:
        raise CheckpointError(f"{error} Delete {run} to train it anew.") from error
    return history


def _name_in(path: Path) -> str | None:
    try:
        return str(parse_json(read_file(path, ValueError), path, ValueError)["name"])
    except (OSError, ValueError, KeyError, TypeError):  # none, or damaged: it is written anew
        return None


def _read_failure(path: Path) -> Failure | None:
    try:
        return Failure.model_validate(parse_json(read_file(path, ValueError), path, ValueError))
    except (OSError, ValueError):  # none, or damaged: the run is just not finished
        return None
