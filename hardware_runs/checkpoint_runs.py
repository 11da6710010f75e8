"""Durable runs of a checkpoint on its test images: what `qpc run` and the batch script share.

Everything that a process needs to go on with a run stands in the ledger (`Task`, in the run's
settings): which checkpoint, which images, in which batches, on which backend.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from qiskit.providers import BackendV2
from torch import Tensor

from hardware_runs.dispatch import Rules
from hardware_runs.engine import DurableEngine, durable
from hardware_runs.ledger import Ledger, Run
from hardware_runs.plan import RunPlan, make_plan, planning_engine
from qpc_qiskit.checkpoint import Record, load
from qpc_qiskit.data import load_source, unit_images
from qpc_qiskit.errors import (
    CheckpointError,
    LedgerConflictError,
    LedgerError,
)
from qpc_qiskit.evaluation import predict
from qpc_qiskit.execution.opening import MODES
from qpc_qiskit.execution.pubs import shots_of
from qpc_qiskit.nets import ImageClassifier, check_data, quantum_layers
from qpc_qiskit.options import DataSource

BATCH_SIZE = 64
POLL_SECONDS = 10.0
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""Of a run: its log is a file with this name."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a run computes; plain values."""

    checkpoint: str
    """Absolute path of its folder, where the run was begun."""
    checkpoint_sha256: str
    """Of weights and architecture."""
    data: dict[str, Any]
    """A `DataSource`."""
    data_sha256: str
    """Of all images, before a subset is taken."""
    num_images: int
    """Test images: the subset that `qpc evaluate --images` takes."""
    batch_size: int
    """Images per call of the network."""
    loss: Literal["cross-entropy", "mse"]
    pixels: dict[str, int]
    """That each quantum layer reads in the run."""
    is_training_data: bool
    """Whether the images belong to the data that the network was trained and tested on."""


@dataclass(frozen=True, eq=False)
class Work:
    """A task, with what it needs in memory."""

    task: Task
    network: ImageClassifier = field(repr=False)
    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)

    def batches(self) -> Iterator[Tensor]:
        """The network's arguments, one for each call."""
        parameter = next(self.network.parameters())
        for batch in torch.split(self.images, self.task.batch_size):
            yield unit_images(batch.to(parameter.device), parameter.dtype)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where and how a run is sent."""

    backend: str
    mode: str = "job"
    shots: int | None = None
    """None: the backend's default, exact on aer."""
    resilience: int = 0
    seed: int | None = None
    max_qpu_seconds: float | None = None

    @property
    def is_device(self) -> bool:
        """Whether jobs are paid."""
        return self.backend.startswith("ibm_")


def prepare(
    checkpoint: Path,
    *,
    source: DataSource | None = None,
    num_images: int | None = None,
    batch_size: int = BATCH_SIZE,
) -> Work:
    """Load a checkpoint and its test images.

    Args:
        checkpoint: folder of a finished training run.
        source: of the images; None: those of the training.
        num_images: a random subset, the same every time; None: all.
        batch_size: images per call of the network.

    Raises:
        CheckpointError: it is corrupt, has no quantum layer, or does not say which data it is for.
        DataError: the images are missing, or not those of the network.
    """
    network, record = load(checkpoint)
    if not quantum_layers(network):
        raise CheckpointError(f"{checkpoint} has no quantum layer: there is nothing to send.")
    if source is None:
        source = record.data.source if record.data else None
    if source is None:
        raise CheckpointError(f"{checkpoint} does not say which data it is for; give --data.")
    data = load_source(source)
    check_data(network.config, data)
    whole = data.fingerprint()
    part = data.subset(None, num_images)
    task = Task(
        checkpoint=str(Path(checkpoint).resolve()),
        checkpoint_sha256=_identity(record),
        data=source.model_dump(),
        data_sha256=whole,
        num_images=len(part.test_labels),
        batch_size=batch_size,
        loss=record.training.loss if record.training else "cross-entropy",
        pixels=_pixels(network, part.test_images),
        is_training_data=record.data is not None and record.data.sha256 == whole,
    )
    return Work(task, network, part.test_images, part.test_labels)


def prepare_again(run: Run, checkpoint: Path | None = None) -> Work:
    """Load what a run was begun with.

    Args:
        run: of the ledger.
        checkpoint: where it is now; None: where it was.

    Raises:
        CheckpointError: it is another checkpoint.
        LedgerError: the run was begun by something else than these commands.
        DataError: the images are missing, or others than then.
    """
    task = task_of(run)
    folder = Path(task.checkpoint) if checkpoint is None else checkpoint
    found = prepare(
        folder,
        source=DataSource.model_validate(task.data),
        num_images=task.num_images,
        batch_size=task.batch_size,
    )
    if found.task.checkpoint_sha256 != task.checkpoint_sha256:
        raise CheckpointError(
            f"Run {run.name!r} was begun with another checkpoint than is in {folder} now: its "
            f"weights or architecture changed (SHA-256 {task.checkpoint_sha256[:12]}... then, "
            f"{found.task.checkpoint_sha256[:12]}... now). Restore it, name the folder where it "
            "is, or begin a run with another name."
        )
    if found.task.data_sha256 != task.data_sha256:
        raise CheckpointError(
            f"Run {run.name!r} was begun with other images than {task.data['name']} gives now. "
            "Restore them, or begin a run with another name."
        )
    return Work(task, found.network, found.images, found.labels)


def task_of(run: Run) -> Task:
    """The task of a run.

    Raises:
        LedgerError: the run was begun by something else than these commands.
    """
    try:
        return Task(**run.settings["about"])
    except (KeyError, TypeError, ValidationError) as error:
        raise LedgerError(
            f"Run {run.name!r} was not begun by `qpc run submit`, but by a script of its own: run "
            "that script again to go on with it."
        ) from error


def find_run(ledger: Ledger, name: str) -> Run | None:
    """A run by name; None: there is none."""
    return next((run for run in ledger.list_runs() if run.name == name), None)


def make_run_plan(
    work: Work, settings: Settings, backend: str | BackendV2, *, rate: float | None = None
) -> RunPlan:
    """The plan of a run.

    Args:
        work: to be done.
        settings: of the run.
        backend: that of the settings, or the backend itself, if it was found already.
        rate: price of a second of QPU time.

    Raises:
        BackendError: unknown backend, or no access to it.
        ValueError: an option that is wrong, or has no effect on this backend.
    """
    estimator = planning_engine(
        backend, mode=settings.mode, shots=settings.shots, resilience=settings.resilience
    )
    return make_plan(
        work.network,
        work.batches(),
        estimator,
        mode=settings.mode,
        max_qpu_seconds=settings.max_qpu_seconds,
        rate=rate,
        batch_size=work.task.batch_size,
    )


def brief(plan: RunPlan) -> dict[str, Any]:
    """The totals of a plan, for a log."""
    told = plan.to_dict()
    left_out = ("layers", "assumptions", "what_if")
    return {name: value for name, value in told.items() if name not in left_out}


def find_backend(settings: Settings) -> str | BackendV2:
    """The backend of settings; a device of IBM's is asked for once.

    Raises:
        BackendError: unknown backend, or no access to it.
    """
    if not settings.is_device:
        return settings.backend
    from qpc_qiskit.execution import runtime

    return runtime.find_backend(settings.backend)


def check_settings(settings: Settings) -> None:
    """Refuse settings that contradict each other or have no effect.

    Raises:
        ValueError: beginning with the name of the setting.
    """
    budget = settings.max_qpu_seconds
    if settings.mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}; got {settings.mode!r}.")
    if budget is not None and not 0 < budget < math.inf:
        raise ValueError(f"max_qpu_seconds must be a number above 0; got {budget}.")
    if budget is not None and settings.backend == "aer":
        raise ValueError("max_qpu_seconds has no effect on aer, which is no device; leave it out.")
    if settings.seed is not None and settings.is_device:
        raise ValueError("seed has no effect on a real device; leave it out.")
    if settings.seed is not None and settings.backend == "aer" and settings.shots is None:
        raise ValueError("seed has no effect on exact values; give --shots, or leave it out.")
    if settings.mode == "session" and settings.is_device and budget is None:
        raise ValueError("mode session is billed by the clock: it needs --max-qpu-seconds.")


def check_name(name: str) -> None:
    """Refuse a name that cannot be that of a file.

    Raises:
        ValueError: beginning with `run`.
    """
    if not NAME.fullmatch(name):
        raise ValueError(
            f"run must be a name of letters, digits and . _ - that begins with a letter or digit; "
            f"got {name!r}."
        )


def begin(
    ledger: Ledger,
    name: str,
    work: Work,
    settings: Settings,
    backend: str | BackendV2,
    *,
    check: Callable[[], None] = lambda: None,
) -> DurableEngine:
    """The engine of a new run; of an old one, if it was begun with the same.

    Args:
        ledger: open.
        name: of the run.
        work: to be done.
        settings: of the run.
        backend: that of the settings, or the backend itself.
        check: see `durable`.

    Raises:
        LedgerConflictError: there is a run with this name that was begun with something else.
    """
    known = find_run(ledger, name)
    if known is not None:
        _check_same(known, work, settings)
    about = asdict(work.task) if known is None else dict(known.settings["about"])
    return durable(
        ledger,
        name,
        backend,
        mode=settings.mode,
        shots=settings.shots,
        resilience=settings.resilience,
        max_qpu_seconds=settings.max_qpu_seconds,
        seed=settings.seed,
        check=check,
        about=about,
    )


def reopen(
    ledger: Ledger,
    run: Run,
    *,
    max_qpu_seconds: float | None = None,
    check: Callable[[], None] = lambda: None,
) -> DurableEngine:
    """The engine of a run, with the settings that it was begun with.

    Args:
        ledger: open.
        run: of it.
        max_qpu_seconds: a new budget; None: as before.
        check: see `durable`.
    """
    given = run.settings
    return durable(
        ledger,
        run.name,
        given["backend"],
        mode=given["mode"],
        precision=given["precision"],
        resilience=given["resilience"],
        options=given["options"] or None,
        seed=given["seed"],
        max_qpu_seconds=max_qpu_seconds,
        check=check,
        dedupe_grid=given["dedupe_grid"],
        rules=Rules(mode=given["mode"]),
    )


def _check_same(run: Run, work: Work, settings: Settings) -> None:
    begun, now = task_of(run), work.task
    given = run.settings
    precision = given["precision"]
    shots = shots_of(precision) if precision else None
    pairs = {
        "backend": (given["backend"], settings.backend),
        "mode": (given["mode"], settings.mode),
        "shots": (shots, settings.shots),
        "resilience": (given["resilience"], settings.resilience),
        "seed": (given["seed"], settings.seed),
        "images": (begun.num_images, now.num_images),
        "batch size": (begun.batch_size, now.batch_size),
        "data": (begun.data_sha256[:12], now.data_sha256[:12]),
        "checkpoint": (begun.checkpoint_sha256[:12], now.checkpoint_sha256[:12]),
    }
    changed = [
        f"{name}: begun with {old if old is not None else 'none'}, now "
        f"{new if new is not None else 'none'}"
        for name, (old, new) in pairs.items()
        if old != new
    ]
    if changed:
        raise LedgerConflictError(
            f"There is a run {run.name!r} that was begun with other settings "
            f"({'; '.join(changed)}). Go on with it by `qpc run collect {run.name}`, or choose "
            "another name."
        )


def _pixels(network: ImageClassifier, images: Tensor) -> dict[str, int]:
    """That each quantum layer reads, from one image."""
    counts: dict[str, int] = {}
    hooks = [
        layer.register_forward_hook(
            lambda _layer, given, _result, name=name: counts.update(
                {name: counts.get(name, 0) + given[0][:, 0].numel()}
            )
        )
        for name, layer in quantum_layers(network).items()
    ]
    try:
        predict(network, images[:1], 1)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: count * len(images) for name, count in counts.items()}


def _identity(record: Record) -> str:
    """Of weights and architecture; what was measured or written down later does not count."""
    text = f"{record.weights_sha256} {record.dtype} {record.net.model_dump_json()}"
    return hashlib.sha256(text.encode()).hexdigest()
