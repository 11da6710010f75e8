"""Noise studies: networks, noise of many strengths, statistics, figures, a report.

    spec = StudySpec.load("study.toml")
    run = run_study(spec, "studies/mine")
    run.summary                     # a pandas frame

The folder of a study:

    study.toml                      the spec, paths relative to the folder
    inputs/                         copies of the files of noise that it names
    networks/                       runs that the study has trained, as `qpc train` writes them
    noise/                          noise as it was found, devices with their calibration, by digest
    cells/                          one Parquet file per finished cell, by its key
    results.parquet                 one row per cell, in the order of the study
    summary.csv, thresholds.csv     statistics over seeds (also as Parquet)
    run.json                        versions, what was skipped, how long each call took
    figures/, report.html           see `study_figures` and `study_report`

Nothing that is finished is computed again. Cells come out the same wherever and in whatever order
they are run, so all tables do.
"""

from __future__ import annotations

import errno
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field, ValidationError

from noise_models.spec import problem_of
from noise_models.study.cell_files import load_cell, save_cell
from noise_models.study.cells import Evaluated, Task, evaluate, one_thread, versions
from noise_models.study.plan import Network, Plan, Row
from noise_models.study.spec import StudySpec
from noise_models.study.tables import (
    read_parquet,
    read_table,
    summarise,
    thresholds,
    write_table,
)
from qpc_qiskit.common.extras import require
from qpc_qiskit.common.files import parse_json, read_file, write_bytes, write_text
from qpc_qiskit.common.versions import library_versions
from qpc_qiskit.data.images import load_source
from qpc_qiskit.errors import CheckpointError, NoiseError, StudyError
from qpc_qiskit.grid.executors import Executor, open_executor
from qpc_qiskit.grid.locking import FolderHeldError, locked
from qpc_qiskit.grid.running import run_unheld

if TYPE_CHECKING:
    import pandas as pd

SPEC_FILE = "study.toml"
RUN_FILE = "run.json"
INPUTS = "inputs"
RESULTS_FILE = "results.parquet"
TABLES = ("summary", "thresholds")

OnProgress = Callable[[str, int, int], None]
"""(what, done, of how many)."""


@dataclass(frozen=True)
class StudyRun:
    """A finished study."""

    folder: Path
    results: pd.DataFrame = field(repr=False)
    """Empty where the folder has none, as a published study may."""
    summary: pd.DataFrame = field(repr=False)
    thresholds: pd.DataFrame = field(repr=False)
    about: dict[str, Any] = field(repr=False)
    """What `run.json` holds."""

    @property
    def last_call(self) -> dict[str, Any]:
        """What the last call did and took; `preparing` is part of the cells' time."""
        return dict(self.about["calls"][-1])


def run_study(
    spec: StudySpec,
    out: str | Path,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    executor: Executor | None = None,
    on_progress: OnProgress = lambda what, done, total: None,
) -> StudyRun:
    """Train what is missing, evaluate what is missing, write all tables.

    Args:
        spec: with absolute paths, as `StudySpec.load` gives it.
        out: folder of the study; what is finished in it is kept.
        workers: see `open_executor`.
        scheduler: see `open_executor`.
        executor: an open one, instead of both.
        on_progress: called after every network and every cell.

    Raises:
        NoiseError: the spec is wrong, see `Plan`; nothing was run.
        CheckpointError: a run is missing or corrupt.
        StudyError: a file cannot be written, or cells failed; all others are finished and kept.
    """
    require("studies", "A noise study")
    import pandas as pd

    out = Path(out).resolve()
    started, clock = time.time(), time.perf_counter()
    plan = Plan(spec, out)
    with _explained(out):
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / SPEC_FILE, _with_inputs(spec, out).beside(out).to_toml())
    with open_executor(workers, scheduler) if executor is None else nullcontext(executor) as place:
        training = _train(plan.missing, place, on_progress)
        rows = plan.rows()
        with _explained(out):
            _keep_noise(out, rows)
        values, evaluated = _evaluate(rows, out, place, on_progress)
    results = pd.DataFrame([{**row.axes, **values[row.key]} for row in rows])
    summary, crossed = summarise(results), thresholds(results)
    call = {
        "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "workers": scheduler or ("given" if executor else "local" if workers is None else workers),
        "num_trained": len(training),
        "num_evaluated": len(evaluated),
        "wall_seconds": round(time.perf_counter() - clock, 3),
        "training_cpu_seconds": round(sum(training), 3),
        "cells_cpu_seconds": round(sum(e.cpu_seconds for e in evaluated), 3),
        "preparing_cpu_seconds": round(sum(e.preparing_seconds for e in evaluated), 3),
    }
    about = {
        "name": spec.name,
        "versions": {**library_versions(), **versions()},
        "num_rows": len(rows),
        "num_cells": len(values),
        "calls": [*_earlier_calls(out), call],
        "skipped": [asdict(each) for each in plan.skipped],
        "marks": _marks(plan),
    }
    with _explained(out):
        write_table(results, out / RESULTS_FILE)
        for name, frame in zip(TABLES, (summary, crossed), strict=True):
            write_table(frame, out / f"{name}.csv")
            write_table(frame, out / f"{name}.parquet")
        write_text(out / RUN_FILE, json.dumps(about, indent=2) + "\n")
    return StudyRun(out, results, summary, crossed, about)


def _earlier_calls(out: Path) -> list[dict[str, Any]]:
    """What earlier calls did and took, for nothing that is finished is done again."""
    try:
        calls = _read_about(out / RUN_FILE)["calls"]
    except (OSError, ValueError):
        return []
    return list(calls)


class _Call(BaseModel):
    """What of a call is told; see `run_study`."""

    num_trained: int
    num_evaluated: int
    wall_seconds: float
    training_cpu_seconds: float
    cells_cpu_seconds: float
    preparing_cpu_seconds: float


class _Mark(BaseModel):
    """See `_marks`."""

    device: str
    calibrated: str | None
    two_qubit_error: float | None
    readout_error: float | None


class _About(BaseModel):
    """What of a `run.json` reports and figures read."""

    name: str
    versions: dict[str, str]
    num_cells: int
    calls: list[_Call] = Field(min_length=1)
    skipped: list[dict[str, str]]
    marks: list[_Mark]


def _read_about(path: Path) -> dict[str, Any]:
    """A `run.json`, with whatever else is in it.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged.
    """
    about: dict[str, Any] = parse_json(read_file(path, ValueError), path, ValueError)
    try:
        _About.model_validate(about)
    except ValidationError as error:
        raise ValueError(f"{path}: {problem_of(error, about)}") from None
    return about


def load_study(folder: str | Path) -> StudyRun:
    """The tables of a finished study, or of one that was published with its CSV files alone.

    Raises:
        StudyError: there is none.
    """
    require("studies", "A noise study")
    import pandas as pd

    folder = Path(folder)
    try:
        about = _read_about(folder / RUN_FILE)
        summary, crossed = (read_table(folder / name) for name in TABLES)
        path = folder / RESULTS_FILE
        results = read_parquet(path) if path.exists() else pd.DataFrame()
    except Exception as error:  # of a damaged Parquet file, almost anything
        raise StudyError(
            f"{folder} holds no finished study ({error}). Run: qpc noise study STUDY.toml --out "
            f"{folder}"
        ) from error
    return StudyRun(folder, results, summary, crossed, about)


def _train(missing: Sequence[Network], place: Executor, on_progress: OnProgress) -> list[float]:
    """Train what is not there; CPU seconds of each."""
    if not missing:
        return []
    on_progress("networks", 0, len(missing))
    seconds: list[float] = []
    failed: list[tuple[str, Exception]] = []
    held: list[Network] = []

    def take(network: Network, found: float | Exception) -> None:
        if isinstance(found, Exception):
            failed.append((network.folder.name, found))
        else:
            seconds.append(found)
        on_progress("networks", len(seconds) + len(failed), len(missing))

    for network, found in run_unheld(place, train_network, missing):
        if isinstance(found, FolderHeldError):
            held.append(network)
        else:
            take(network, found)
    for network, found in place.run(partial(train_network, wait=True), held):
        take(network, found)
    if failed:
        raise StudyError(f"Training failed: {_told(failed)}") from failed[0][1]
    return seconds


def train_network(network: Network, wait: bool = False) -> float:
    """Train a network, or go on with training it; on one thread, for the same weights everywhere.

    Args:
        network: one of `Plan.jobs`.
        wait: where another process trains it.

    Returns:
        CPU seconds.

    Raises:
        FolderHeldError: another process trains it, and `wait` is not given.
    """
    from noise_models.words import parse_noise
    from qpc_qiskit.engines import NoisyEngine
    from qpc_qiskit.nets import build_net
    from qpc_qiskit.training.trainer import train

    started = time.process_time()
    config, source = network.training, network.source
    assert config is not None
    assert source is not None
    with locked(network.folder, wait=wait), one_thread():
        if network.is_done:  # by another process, meanwhile
            return 0.0
        data = load_source(source)
        engine = NoisyEngine(parse_noise(str(config.noise))) if config.engine == "noisy" else None
        for resume in (True, False):
            model = build_net(network.net, seed=config.seed)
            try:
                train(
                    model,
                    data,
                    config,
                    network.folder,
                    resume=resume,
                    force=not resume,
                    progress=False,
                    engine=engine,
                )
                break
            except CheckpointError:  # nothing to go on with, or begun by another version
                if not resume:
                    raise
    return time.process_time() - started


def _evaluate(
    rows: Sequence[Row], out: Path, place: Executor, on_progress: OnProgress
) -> tuple[dict[str, dict[str, Any]], list[Evaluated]]:
    """Values of all cells, by key, and what was evaluated for it."""
    tasks = {row.key: row.task for row in rows}
    labels = {row.key: row.axes for row in rows}
    values = {key: found for key in tasks if (found := load_cell(out, key)) is not None}
    missing = [task for key, task in tasks.items() if key not in values]
    done: list[Evaluated] = []
    failed: list[tuple[str, Exception]] = []
    on_progress("cells", len(values), len(tasks))
    for task, result in place.run(evaluate, missing):
        if isinstance(result, Exception):
            failed.append((_named(labels[task.key]), result))
        else:
            with _explained(out, len(values), len(tasks)):
                save_cell(out, result.key, result.values)
            # As the file gives it back, so that a resumed study has the same types.
            values[result.key] = load_cell(out, result.key) or {}
            done.append(result)
        on_progress("cells", len(values) + len(failed), len(tasks))
    if failed:
        raise StudyError(
            f"{len(failed)} of {len(tasks)} cells failed, the others are kept in {out}. "
            f"{_told(failed)}"
        ) from failed[0][1]
    return values, done


def _told(failed: list[tuple[str, Exception]]) -> str:
    """The first of some failures, and how many there are."""
    what, error = failed[0]
    return f"{what}: {error}" + (f" {len(failed) - 1} more failed." if len(failed) > 1 else "")


def _named(axes: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {axes[name]}"
        for name in ("grid", "network", "num_layers", "seed", "noise", "strength", "mitigation")
    )


def _with_inputs(spec: StudySpec, out: Path) -> StudySpec:
    """The study with copies of its files of noise, so that its folder can go anywhere."""
    found: dict[str, bytes] = {}

    def read(path: str) -> str:
        found[path] = read_file(Path(path), NoiseError)
        return path

    spec.placed(read, str)
    names: dict[str, Path] = {}
    kept: dict[Path, bytes] = {}
    for path, content in found.items():
        folder, number = out / INPUTS, 1
        while kept.get(folder / Path(path).name, content) != content:  # another one of this name
            number += 1
            folder = out / INPUTS / str(number)
        names[path] = folder / Path(path).name
        kept[names[path]] = content
    for place, content in kept.items():  # all are read: one may be where another is written
        place.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(place, content)
    return spec.placed(lambda path: str(names[path]), str)


def _keep_noise(out: Path, rows: Sequence[Row]) -> None:
    """Every noise that was used, once: what a device's name stood for, above all."""
    folder = out / "noise"
    folder.mkdir(exist_ok=True)
    known = {row.task.noise.content: row.task.noise for row in rows}
    for content, noise in known.items():
        path = folder / f"{hashlib.sha256(content.encode()).hexdigest()[:16]}.json"
        if not path.exists():
            write_text(path, json.dumps(dict(noise.data), indent=1) + "\n")


def _marks(plan: Plan) -> list[dict[str, Any]]:
    """Median errors of devices, for figures."""
    import numpy as np

    from noise_models.snapshots import Snapshot

    found = []
    for word in plan.spec.marks:
        snapshot = plan.resolver.find(word)
        assert isinstance(snapshot, Snapshot), "the plan has checked"
        two = [
            gate.error
            for gate in snapshot.gates
            if len(gate.qubits) == 2 and gate.error is not None and gate.error < 0.5
        ]
        readout = [
            (q.p1_given_0 + q.p0_given_1) / 2
            for q in snapshot.calibrations
            if q.p1_given_0 is not None and q.p0_given_1 is not None
        ]
        told: dict[str, Any] = {"device": snapshot.device, "calibrated": snapshot.calibrated}
        told["two_qubit_error"] = float(np.median(two)) if two else None
        told["readout_error"] = float(np.median(readout)) if readout else None
        found.append(told)
    return found


@contextmanager
def _explained(out: Path, done: int | None = None, total: int | None = None) -> Iterator[None]:
    """Tell what is left where a file cannot be written."""
    try:
        yield
    except OSError as error:
        kept = "" if done is None else f" {done} of {total} cells are finished and kept."
        room = " Make room," if error.errno in (errno.ENOSPC, errno.EDQUOT) else " Mend that,"
        what = error.strerror or str(error)
        raise StudyError(
            f"Cannot write to {error.filename or out}: {what}.{kept}{room} and run the same again."
        ) from error


__all__ = ["StudyRun", "StudySpec", "Task", "load_study", "run_study", "train_network"]
