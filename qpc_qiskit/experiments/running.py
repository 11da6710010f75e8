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
anything is written. Several processes may be at work in a folder: each takes cells that no other
has, those of a process that died as well, and whichever ends last writes the results of all.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qpc_qiskit.common.progress import Progress
from qpc_qiskit.data.images import ImageData, load_source
from qpc_qiskit.errors import CheckpointError, EngineError, ExperimentError, QPCError
from qpc_qiskit.experiments.folder import ExperimentFolder
from qpc_qiskit.experiments.results import Results
from qpc_qiskit.experiments.spec import Cell, Experiment
from qpc_qiskit.grid.executors import Executor, InProcess, WorkerDied
from qpc_qiskit.grid.locking import FolderHeldError
from qpc_qiskit.grid.running import known_images, run_unheld
from qpc_qiskit.nets import build_net, check_data
from qpc_qiskit.training.checkpoint import DataRecord
from qpc_qiskit.training.runs import RUN_FILE, read_metrics

OnCell = Callable[[int, int, Cell], None]


def run_experiment(
    experiment: Experiment,
    folder: Path | str,
    *,
    data: ImageData | None = None,
    only: Sequence[str] = (),
    progress: bool | Progress = True,
    on_cell: OnCell | None = None,
    on_held: Callable[[Cell, str], None] | None = None,
    executor: Executor | None = None,
) -> Results:
    """Train every cell that is not finished yet, and write what came of all.

    Args:
        experiment: what to run.
        folder: of the results, see the module docstring; made if it is missing.
        data: the images; by default those that the experiment names.
        only: labels of the lines to train; all without any. Finished cells of others are still
            reported.
        progress: as `train` takes it.
        on_cell: called before a cell is trained with its number from 1, the number of all cells,
            and the cell. Not called in other processes.
        on_held: called once with a cell that is left to another process, and with that process.
        executor: where cells are trained, see `grid.executors.open_executor`; None: in this
            process. In others nothing is shown.

    Returns:
        The results of all finished cells, and the failures: a training that diverges, or breaks off
        with another error of its own, does not stop the others.

    Raises:
        ExperimentError: `only` names no line, or the folder is another experiment's.
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
    wanted = {cell.folder for cell in cells if not only or cell.label in only}
    place = ExperimentFolder(experiment, DataRecord.of(data), folder)
    cells = place.write_experiment().cells()
    failed = {cell.folder: place.last_failure(cell) for cell in cells if cell.folder in wanted}
    work = _Work(place, data, progress, on_cell, len(cells), failed)
    left = [(number, cell) for number, cell in enumerate(cells, 1) if cell.folder in wanted]

    def tell(item: tuple[int, Cell], held: FolderHeldError) -> None:
        if on_held is not None:
            on_held(item[1], held.holder)

    for (_, cell), found in run_unheld(executor or InProcess(), work, left, tell):
        if isinstance(found, WorkerDied):
            place.write_failure(cell, found)
        elif isinstance(found, Exception) and not isinstance(found, FolderHeldError):
            raise found
    return place.write_results(with_figure=True)


def _check_labels(only: Sequence[str], cells: Sequence[Cell]) -> None:
    if isinstance(only, str):
        raise ExperimentError(f"only={only!r}: expected a list of labels, as [{only!r}].")
    labels = dict.fromkeys(cell.label for cell in cells)
    for label in only:
        if label not in labels:
            known = ", ".join(map(repr, labels))
            raise ExperimentError(f"No line is called {label!r}; there are {known}.")


@dataclass(frozen=True)
class _Work:
    """Trains a cell, unless that is done, or writes down why that failed."""

    place: ExperimentFolder
    data: ImageData | None
    """None: where the record of the images says."""
    progress: bool | Progress
    on_cell: OnCell | None
    num_cells: int
    failed_before: dict[str, int | None]
    """When, by folder."""

    def __reduce__(self) -> tuple[Any, ...]:
        """For another process, which shows nothing and finds named images itself."""
        data = self.data if self.place.data.source is None else None
        return _Work, (self.place, data, False, None, self.num_cells, self.failed_before)

    def __call__(self, item: tuple[int, Cell]) -> None:
        number, cell = item
        if self.place.finished(cell) is not None:
            return
        with self.place.held(cell):
            failed = self.place.last_failure(cell)
            if self.place.finished(cell) or failed not in (None, self.failed_before[cell.folder]):
                return  # another process had it in the meantime
            self.place.begin(cell)
            if self.on_cell is not None:
                self.on_cell(number, self.num_cells, cell)
            self._try(cell)

    def _try(self, cell: Cell) -> None:
        from qpc_qiskit.training.trainer import TrainingInterrupted

        self.place.forget_failure(cell)
        try:
            self._train(cell)
        except TrainingInterrupted as stop:
            self.place.write_results()
            raise TrainingInterrupted(
                f"Stopped in {cell.label!r}, seed {cell.training.seed}. Finished epochs are in "
                f"{self.place.folder}; the same command goes on from there."
            ) from stop
        except EngineError:  # no GPU: the others would fail alike
            raise
        except (QPCError, ArithmeticError, RuntimeError) as error:
            self.place.write_failure(cell, error)
        self.place.write_results()

    def _train(self, cell: Cell) -> None:
        from qpc_qiskit.training.trainer import train

        where = self.place.folder / cell.folder
        resume = (where / RUN_FILE).exists()
        before = _finished_epochs(where)
        started = time.perf_counter()
        data, known = self.data, self.place.data
        try:
            if data is None:
                assert known.source is not None
                data = known_images(known.source, known.sha256)
            model = build_net(cell.net, seed=cell.training.seed)
            train(model, data, cell.training, where, resume=resume, progress=self.progress)
        finally:
            seconds = time.perf_counter() - started
            self.place.note_seconds(cell, _finished_epochs(where) - before, seconds)


def _finished_epochs(run: Path) -> int:
    """As far as the metrics tell, from which nothing goes on: a damaged file counts as none."""
    try:
        return len(read_metrics(run))
    except CheckpointError:
        return 0
