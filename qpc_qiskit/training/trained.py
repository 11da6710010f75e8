"""What a folder of a training holds, finished or not: the network, its record and its history.

`checkpoint.load` reads finished networks alone, which is right for whatever goes on with one. A
report also tells of a training that was stopped: the network is then that of the last finished
epoch.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from qpc_qiskit import __version__
from qpc_qiskit.common.metrics import EpochMetrics
from qpc_qiskit.errors import CheckpointError
from qpc_qiskit.nets import ImageClassifier
from qpc_qiskit.options.records import TrainConfig
from qpc_qiskit.training.checkpoint import (
    RECORD_FILE,
    DataRecord,
    Record,
    build_with,
    describe,
    load,
)
from qpc_qiskit.training.runs import (
    METRICS_FILE,
    RUN_FILE,
    STATE_FILE,
    parse_history,
    read_metrics,
    read_run,
    read_seconds,
    read_state,
)

_OF_MODEL = "model."  # before the names of the network's tensors in Lightning's state


@dataclass(frozen=True, eq=False)
class Training:
    """A training as its folder tells it."""

    folder: Path
    """As it was given."""
    model: ImageClassifier = field(repr=False)
    """In evaluation mode, on the CPU."""
    dtype: Literal["float32", "float64"]
    """Of the weights."""
    data: DataRecord | None
    """What it was trained on, if known."""
    options: TrainConfig | None
    """How, if known."""
    history: tuple[EpochMetrics, ...]
    """Of every finished epoch; the last one alone where `metrics.csv` is missing."""
    seconds: Mapping[int, float]
    """That an epoch took, where that is known."""
    is_finished: bool
    """Whether all epochs are done."""
    versions: Mapping[str, str]
    """Of what the training was made with."""
    weights_sha256: str
    """Of the weights file; empty where there is none yet."""
    notes: tuple[str, ...]
    """What is missing or to be known, and what to do about it; one sentence or more each."""


def open_training(folder: Path | str) -> Training:
    """Read the folder that `qpc train` left.

    Args:
        folder: with a checkpoint, or with a training that was stopped after an epoch or more.

    Raises:
        CheckpointError: it holds neither, or a file is corrupt.
    """
    folder = Path(folder)
    if not (folder / RECORD_FILE).exists() and (folder / RUN_FILE).exists():
        return _stopped(folder)
    model, record = load(folder)
    history, notes = _history(folder, record)
    return Training(
        folder,
        model,
        record.dtype,
        record.data,
        record.training,
        history,
        read_seconds(folder),
        True,
        {"qpc-qiskit": record.package_version, **record.libraries},
        record.weights_sha256,
        notes,
    )


def _history(folder: Path, record: Record) -> tuple[tuple[EpochMetrics, ...], tuple[str, ...]]:
    """Of a finished training, and what is to be said of it."""
    try:
        return tuple(read_metrics(folder)), ()
    except CheckpointError as error:
        reason = str(error) if (folder / METRICS_FILE).exists() else f"{METRICS_FILE} is missing."
    note = (
        f"The curves are not known: {reason} It lies in the folder of the training; copy it beside "
        f"{RECORD_FILE} and make the report again."
    )
    try:
        epoch = int(record.metrics["epoch"])
        last = EpochMetrics(**{**record.metrics, "epoch": epoch})  # type: ignore[arg-type]
    except (KeyError, TypeError):
        return (), (note,)
    return (last,), (note,)


def _stopped(folder: Path) -> Training:
    run, state = read_run(folder), read_state(folder)
    go_on = f"qpc train --resume --out {shlex.quote(str(folder))}"
    if state is None or not state["history"]:
        raise CheckpointError(
            f"{folder}: no epoch of this training is finished, so that there is nothing to report. "
            f"Go on with: {go_on}"
        )
    history = tuple(parse_history(state["history"]))
    weights = {
        name.removeprefix(_OF_MODEL): tensor
        for name, tensor in state["state_dict"].items()
        if name.startswith(_OF_MODEL)
    }
    described = describe(folder / RUN_FILE, run.net, run.training.dtype)
    model = build_with(folder / STATE_FILE, weights, described, RUN_FILE)
    notes = [
        f"This training is not finished: {len(history)} of {run.training.epochs} epochs are done, "
        f"and everything here is of the last of them. Go on with: {go_on}"
    ]
    if run.package_version != __version__:
        notes.append(
            f"It was begun with qpc-qiskit {run.package_version}, and this report is made with "
            f"{__version__}, which may compute something else."
        )
    return Training(
        folder,
        model.eval(),
        run.training.dtype,
        run.data,
        run.training,
        history,
        read_seconds(folder),
        False,
        {"qpc-qiskit": run.package_version},
        "",
        tuple(notes),
    )
