"""The folder of a training run: which files it has, when it may be begun and when resumed."""

import csv
import io
import math
import zipfile
from collections.abc import Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from qpc_qiskit import __version__
from qpc_qiskit.common.files import parse_json, read_file, write_text
from qpc_qiskit.common.metrics import EpochMetrics
from qpc_qiskit.common.pickles import MAX_OPERATIONS, check_for_torch
from qpc_qiskit.errors import CheckpointError
from qpc_qiskit.options.fields import Options
from qpc_qiskit.options.records import StoredNetConfig, TrainConfig
from qpc_qiskit.training.checkpoint import RECORD_FILE, WEIGHTS_FILE, DataRecord, validated

RUN_FILE = "run.json"
STATE_FILE = "last.ckpt"
METRICS_FILE = "metrics.csv"
SECONDS_FILE = "seconds.csv"
CURVES_FILE = "curves.png"
RUN_FILES = (
    RECORD_FILE,
    WEIGHTS_FILE,
    STATE_FILE,
    METRICS_FILE,
    SECONDS_FILE,
    CURVES_FILE,
    RUN_FILE,
)

# What the state of a training refers to; storages are those of weights, moments and counts.
_STATE_NAMES = {
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor_v2",
    *(f"torch.{name}Storage" for name in ("Float", "Double", "Long", "Int", "Bool")),
}


class RunRecord(Options):
    """What a run trains, how and on which data: `run.json`."""

    format_version: Literal[1] = 1
    """Of this record."""
    net: StoredNetConfig
    """The network."""
    training: TrainConfig
    """The training options."""
    data: DataRecord
    """The data."""
    package_version: str = __version__
    """Of qpc-qiskit; another one may compute something else."""


def begin_run(folder: Path, run: RunRecord, *, force: bool) -> None:
    """Claim a folder for a new run.

    Args:
        folder: made if it is missing.
        run: written to it.
        force: delete the files of a run that is there; other files are left alone.

    Raises:
        CheckpointError: the folder holds a run and `force` is not given.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = [name for name in RUN_FILES if (folder / name).exists()]
    if found and not force:
        raise CheckpointError(
            f"{folder} holds a run already ({', '.join(found)}). Resume it (resume=True, "
            "--resume), overwrite it (force=True, --force), delete it, or choose another folder."
        )
    for name in found:
        (folder / name).unlink()
    write_text(folder / RUN_FILE, run.model_dump_json(indent=2) + "\n")


def check_resumable(folder: Path, run: RunRecord) -> None:
    """Refuse to resume a run with other options or data than it was begun with.

    Raises:
        CheckpointError: there is no run, or something differs; the message names what.
    """
    # The same images may have moved: their checksum counts, not where they came from.
    exclude = {"data": {"source", "provenance"}}
    begun = read_run(folder).model_dump(exclude=exclude)
    wanted = run.model_dump(exclude=exclude)
    for part in begun:
        if begun[part] == wanted[part]:
            continue
        if part == "package_version":
            raise CheckpointError(
                f"{folder} was begun with qpc-qiskit {begun[part]} and cannot be resumed with "
                f"{wanted[part]}, which may compute something else. Install that version, or begin "
                "another run."
            )
        pairs = (
            f"{part}.{key}: begun with {value!r}, now {wanted[part][key]!r}"
            for key, value in begun[part].items()
            if value != wanted[part][key]
        )
        raise CheckpointError(
            f"{folder} cannot be resumed with other options: {'; '.join(pairs)}. "
            "Give the options that it was begun with, or begin another run."
        )


def read_run(folder: Path | str) -> RunRecord:
    """What the run in a folder was begun with.

    Raises:
        CheckpointError: there is none, or its record is corrupt.
    """
    path = Path(folder) / RUN_FILE
    try:
        content = read_file(path, CheckpointError)
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} holds no run ({RUN_FILE} is missing).") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error}).") from error
    return validated(RunRecord, parse_json(content, path, CheckpointError), path)


def read_state(folder: Path) -> dict[str, Any] | None:
    """Lightning's state after the last finished epoch; None when no epoch was finished.

    Raises:
        CheckpointError: the file is corrupt.
    """
    path = folder / STATE_FILE
    if not path.exists():
        return None
    try:
        _check_archive(path)
        # Mapped, a tensor cannot reach beyond the file, whatever size it says it has.
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        parse_history(state["history"])
        _check_tensors(state)
        if not all(isinstance(each, Tensor) for each in state["state_dict"].values()):
            raise TypeError("something else than tensors among the weights")
    except Exception as error:  # a damaged pickle raises almost anything
        raise CheckpointError(
            f"{path}: expected the state of an unfinished run, found a damaged file "
            f"({type(error).__name__}). Begin the run again: delete {folder}, or give force=True "
            "or --force."
        ) from error
    return state


def _check_archive(path: Path) -> None:
    """Refuse a file that unpacks to more than it has, or refers to more than tensors need.

    Raises:
        ValueError, zipfile.BadZipFile, PickleError: it is no state of a training.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(each.compress_type != zipfile.ZIP_STORED for each in entries):
            raise ValueError("compressed parts")
        if sum(each.file_size for each in entries) > path.stat().st_size:
            raise ValueError("parts in each other")
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"another checksum of {damaged!r}")
        (pickled,) = (each for each in entries if each.filename.lower().endswith("data.pkl"))
        check_for_torch(archive.read(pickled), _STATE_NAMES)


def _check_tensors(state: dict[str, Any]) -> None:
    """Refuse tensors that have more values than are stored, which a copy would take memory for."""
    level: list[Any] = [state]
    num_values = 0
    while level:
        num_values += len(level)
        inner: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                inner += each.values()
            elif isinstance(each, list | tuple):
                inner += each
            elif isinstance(each, Tensor):
                stored = each.untyped_storage().nbytes()
                if each.numel() * each.element_size() > stored:
                    raise ValueError(f"a tensor {tuple(each.shape)} of {stored} bytes")
            if num_values + len(inner) > MAX_OPERATIONS:  # a list may be in itself, or in many
                raise ValueError(f"more than {MAX_OPERATIONS:,} values")
        level = inner


def parse_history(rows: Sequence[dict[str, Any]]) -> list[EpochMetrics]:
    """Metrics from the plain values in which a state file holds them.

    Raises:
        TypeError, ValueError: they are not those of epochs 1, 2, ...
    """
    history = [EpochMetrics(**row) for row in rows]
    for number, metrics in enumerate(history, 1):
        if metrics.epoch != number:
            raise ValueError(f"epoch {metrics.epoch} in the place of {number}")
        if not all(map(math.isfinite, astuple(metrics))):
            raise ValueError(f"not a finite number in epoch {number}")
    return history


def write_metrics(folder: Path, history: Sequence[EpochMetrics]) -> None:
    """Replace `metrics.csv` by the whole history, numbers in full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in fields(EpochMetrics))
    writer.writerows(astuple(metrics) for metrics in history)
    write_text(folder / METRICS_FILE, text.getvalue())


def read_metrics(folder: Path) -> list[EpochMetrics]:
    """The history that `write_metrics` wrote, bit for bit.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    path = folder / METRICS_FILE
    try:
        names = [field.name for field in fields(EpochMetrics)][1:]
        return parse_history(
            [
                {"epoch": int(row["epoch"]), **{name: float(row[name]) for name in names}}
                for row in _rows_of(path)
            ]
        )
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise CheckpointError(
            f"{path}: expected one row per epoch, found a missing or damaged file ({error})."
        ) from error


def note_seconds(folder: Path, epoch: int, seconds: float) -> None:
    """Write into `seconds.csv` how long an epoch took; of later epochs nothing is known then.

    Beside the metrics, not among them: those are the same bits whenever a run is trained.
    """
    known = {e: s for e, s in read_seconds(folder).items() if e < epoch} | {epoch: seconds}
    lines = (f"{number},{value:.3f}\n" for number, value in known.items())
    write_text(folder / SECONDS_FILE, f"epoch,seconds\n{''.join(lines)}")


def read_seconds(folder: Path) -> dict[int, float]:
    """Seconds by epoch; empty where they are not known, since reports alone read them."""
    try:
        rows = _rows_of(folder / SECONDS_FILE)
        return {int(row["epoch"]): float(row["seconds"]) for row in rows}
    except (OSError, KeyError, TypeError, ValueError, csv.Error):
        return {}


def _rows_of(path: Path) -> list[dict[str, str]]:
    text = read_file(path, ValueError).decode()
    return list(csv.DictReader(io.StringIO(text, newline="")))
