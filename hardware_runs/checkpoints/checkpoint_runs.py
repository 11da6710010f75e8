"""Durable runs of a checkpoint on its test images: what `qpc run` and the batch script share.

Everything that a process needs to go on with a run stands in the ledger (`Task`, in the run's
settings): which checkpoint, which images, in which batches, on which backend.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from qiskit.providers import BackendV2
from torch import Tensor

from hardware_runs.durable_engine.beginning import digest_of, durable
from hardware_runs.durable_engine.engine import DurableEngine
from hardware_runs.durable_engine.status import noise_of
from hardware_runs.ledger import Ledger, Run
from hardware_runs.planning.plan import RunPlan, make_plan, planning_engine
from noise_models.words import parse_noise
from qpc_qiskit.circuits.brickwall import Progress
from qpc_qiskit.data.images import load_source, unit_images
from qpc_qiskit.engines import EstimatorEngine
from qpc_qiskit.errors import BackendError, CheckpointError, LedgerConflictError, LedgerError
from qpc_qiskit.nets import ImageClassifier, check_data, quantum_layers
from qpc_qiskit.options.economy import Economy
from qpc_qiskit.options.engine import EngineOptions, shots_of
from qpc_qiskit.options.fields import OptionError
from qpc_qiskit.options.records import DataSource
from qpc_qiskit.training.checkpoint import Record, load
from qpc_qiskit.training.evaluation import predict

BATCH_SIZE = 64
DIGEST = "sha256:"
"""Stands in the ledger for an object that is no JSON."""
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
    noise: str | None = None
    """On aer, as it was given."""


@dataclass(frozen=True, eq=False)
class Work:
    """A task, with what it needs in memory."""

    task: Task
    network: ImageClassifier = field(repr=False)
    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)

    @property
    def num_qubits(self) -> int:
        """Of the widest quantum layer."""
        return max(layer.spec.num_qubits for layer in quantum_layers(self.network).values())

    def batches(self) -> Iterator[Tensor]:
        """The network's arguments, one for each call."""
        parameter = next(self.network.parameters())
        for batch in torch.split(self.images, self.task.batch_size):
            yield unit_images(batch.to(parameter.device), parameter.dtype)


def prepare(
    checkpoint: Path,
    *,
    data: str | None = None,
    data_dir: Path | None = None,
    num_images: int | None = None,
    batch_size: int = BATCH_SIZE,
) -> Work:
    """Load a checkpoint and its test images.

    Args:
        checkpoint: folder of a finished training run.
        data: name of the data set; None: that of the training.
        data_dir: folder with its files; None: where they were.
        num_images: a random subset, the same every time; None: all.
        batch_size: images per call of the network.

    Raises:
        CheckpointError: it is corrupt, has no quantum layer, or does not say which data it is for.
        DataError: the images are missing, or not those of the network.
        ValidationError: no such data set, or a folder that has no effect.
    """
    network, record = _load(checkpoint)
    if data is not None:
        source = find_source({"name": data}, data_dir)
    elif record.data is not None and record.data.source is not None:
        source = find_source(record.data.source.model_dump(), data_dir)
    else:
        raise CheckpointError(f"{checkpoint} does not say which data it is for; give --data.")
    return _work(checkpoint, network, record, source, num_images, batch_size)


def find_source(told: Mapping[str, Any], data_dir: Path | None) -> DataSource:
    """Where images are.

    Args:
        told: fields of a `DataSource`.
        data_dir: folder with its files; None: as told.

    Raises:
        ValidationError: no such data set, or a folder that has no effect.
    """
    moved = {} if data_dir is None else {"data_dir": str(data_dir.resolve())}
    return DataSource.model_validate({**told, **moved})


def _load(checkpoint: Path) -> tuple[ImageClassifier, Record]:
    network, record = load(checkpoint)
    if not quantum_layers(network):
        raise CheckpointError(f"{checkpoint} has no quantum layer: there is nothing to send.")
    return network, record


def _work(
    checkpoint: Path,
    network: ImageClassifier,
    record: Record,
    source: DataSource,
    num_images: int | None,
    batch_size: int,
) -> Work:
    data = load_source(source)
    check_data(network.config, data)
    whole = data.fingerprint()
    part = data.subset(None, num_images)
    task = Task(
        checkpoint=str(checkpoint.resolve()),
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


def prepare_again(
    run: Run, checkpoint: Path | None = None, *, data_dir: Path | None = None
) -> Work:
    """Load what a run was begun with.

    Args:
        run: of the ledger.
        checkpoint: where it is now; None: where it was.
        data_dir: where the images are now; None: where they were.

    Raises:
        CheckpointError: it is another checkpoint.
        LedgerError: the run was begun by something else than these commands.
        DataError: the images are missing, or others than then.
        ValidationError: a folder that has no effect.
    """
    task = task_of(run)
    folder = Path(task.checkpoint) if checkpoint is None else checkpoint
    network, record = _load(folder)
    source = find_source(task.data, data_dir)
    found = _work(folder, network, record, source, task.num_images, task.batch_size)
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


def make_run_plan(
    work: Work,
    options: EngineOptions,
    backend: str | BackendV2,
    *,
    rate: float | None = None,
    compare: bool = False,
) -> RunPlan:
    """The plan of a run.

    Args:
        work: to be done.
        options: of the run.
        backend: see `find_backend`.
        rate: price of a second of QPU time.
        compare: whether other choices are planned beside it.

    Raises:
        BackendError: a circuit does not fit on the backend.
        OptionError: an option does not go with the network.
    """
    options = options.for_qubits(work.num_qubits)

    def open_engine(economy: Economy) -> EstimatorEngine:
        return planning_engine(backend, **keywords(options.changed(**economy.model_dump())))

    return make_plan(
        work.network,
        work.batches(),
        open_engine(options.economy),
        asked=options,
        compare_with=open_engine if compare else None,
        rate=rate,
        batch_size=work.task.batch_size,
    )


def keywords(options: EngineOptions) -> dict[str, Any]:
    """The keywords of `planning_engine` and `durable` that the options of a run are.

    Raises:
        ValueError: unknown noise.
    """
    given = options.for_engine("backend", "seed", "max_qpu_seconds")
    if options.noise_model is not None:
        given["noise_model"] = parse_noise(options.noise_model)
    return given


def brief(plan: RunPlan) -> dict[str, Any]:
    """The totals of a plan, for a log."""
    told = plan.to_dict()
    left_out = ("layers", "assumptions", "what_if", "choices")
    return {name: value for name, value in told.items() if name not in left_out}


def find_backend(options: EngineOptions) -> str | BackendV2:
    """The backend of a run; a device of IBM's is asked for once.

    Raises:
        BackendError: unknown backend, or no access to it.
    """
    if not options.is_paid:
        return str(options.backend)
    from qpc_qiskit.backends import named

    return named.find_backend(options.backend)


def check_name(name: str) -> None:
    """Refuse a name that cannot be that of a file.

    Raises:
        OptionError: it cannot.
    """
    if not NAME.fullmatch(name):
        raise OptionError(
            "{run} must be a name of letters, digits and . _ - that begins with a letter or digit; "
            "got {got!r}.",
            got=name,
        )


def begin(
    ledger: Ledger,
    name: str,
    work: Work,
    options: EngineOptions,
    backend: str | BackendV2,
    *,
    check: Callable[[], None] = lambda: None,
    on_fit: Progress | None = None,
) -> DurableEngine:
    """The engine of a new run; of an old one, if it was begun with the same.

    Args:
        ledger: open.
        name: of the run.
        work: to be done.
        options: of the run; a budget of `math.inf` is none.
        backend: that of the options, or the backend itself; an old run does not need it.
        check: see `durable`.
        on_fit: likewise.

    Raises:
        LedgerConflictError: there is a run with this name that was begun with something else.
        OptionError: an option does not go with the network.
    """
    options = options.for_qubits(work.num_qubits)
    known = ledger.find_run(name)
    if known is not None:
        check_same(known, work, options)
        budget = options.max_qpu_seconds
        return reopen(ledger, known, max_qpu_seconds=budget, check=check, on_fit=on_fit)
    return durable(
        ledger,
        name,
        backend,
        **keywords(options),
        max_qpu_seconds=options.max_qpu_seconds,
        seed=options.seed,
        check=check,
        on_fit=on_fit,
        about=asdict(replace(work.task, noise=options.noise_model)),
    )


def reopen(
    ledger: Ledger,
    run: Run,
    *,
    max_qpu_seconds: float | None = None,
    check: Callable[[], None] = lambda: None,
    on_fit: Progress | None = None,
) -> DurableEngine:
    """The engine of a run, with the settings that it was begun with.

    Args:
        ledger: open.
        run: of it.
        max_qpu_seconds: see `durable`.
        check: see `durable`.
        on_fit: likewise.

    Raises:
        BackendError: no access to its backend, or it is an object that only its script has.
    """
    begun = EngineOptions.of_run(run.settings)
    if str(begun.noise_model or "").startswith(DIGEST):
        noise = noise_of(run.settings)
        if noise is None or noise.startswith(DIGEST):
            raise BackendError(
                f"Run {run.name!r} was begun with a noise model that only its script has."
            )
        found = parse_noise(noise)
        if isinstance(found, str) or digest_of(found) != begun.noise_model:
            raise BackendError(
                f"The noise {noise} is not what run {run.name!r} was begun with. Give it back its "
                "content, or begin a run with another name."
            )
        begun = begun.changed(noise_model=found)
    return durable(
        ledger,
        run.name,
        begun.backend,
        max_qpu_seconds=max_qpu_seconds,
        check=check,
        on_fit=on_fit,
        **begun.given("backend"),
    )


def check_same(run: Run, work: Work, options: EngineOptions) -> None:
    """Refuse to go on with a run that was begun with something else.

    Raises:
        LedgerConflictError: it was.
        LedgerError: it was begun by something else than these commands.
    """
    begun, now = task_of(run), work.task
    pairs = {
        "images": (begun.num_images, now.num_images),
        "batch size": (begun.batch_size, now.batch_size),
        "data": (begun.data_sha256[:12], now.data_sha256[:12]),
        "checkpoint": (begun.checkpoint_sha256[:12], now.checkpoint_sha256[:12]),
    }
    changed = [
        *_differences(run, options.for_qubits(work.num_qubits)),
        *((name, old, new) for name, (old, new) in pairs.items() if old != new),
    ]
    if changed:
        told = "; ".join(
            f"{name}: begun with {'none' if old is None else old}, now "
            f"{'none' if new is None else new}"
            for name, old, new in changed
        )
        raise LedgerConflictError(
            f"There is a run {run.name!r} that was begun with other settings ({told}). Go on with "
            f"it by `qpc run collect {run.name}`, or choose another name."
        )


def _differences(run: Run, asked: EngineOptions) -> Iterator[tuple[str, object, object]]:
    """Name, value of the run, value now: of what is not as the run was begun with."""
    begun = EngineOptions.of_run(run.settings)
    then, now = begun.precision, asked.standard_error
    if then != now:
        if asked.precision is None:
            yield "shots", _shots(then), _shots(now)
        else:
            yield "precision", then, now
    pairs = {
        "backend": (begun.backend, asked.backend),
        "mode": (begun.mode, asked.mode),
        "resilience": (begun.resilience, asked.resilience),
        "noise": (noise_of(run.settings), asked.noise_model),
        "options": (begun.options, asked.options or None),
        "no-dedupe": (begun.dedupe_grid is None, asked.dedupe_grid is None),
        "seed": (begun.seed, asked.seed),
    }
    old, new = begun.to_dict(), asked.to_dict()
    pairs |= {name.replace("_", "-"): (old[name], new[name]) for name in old if name != "calibrate"}
    pairs["no-calibrate"] = (not begun.calibrate, not asked.calibrate)
    for name, (before, after) in pairs.items():
        if before != after:
            yield name, before, after


def _shots(precision: float | None) -> object:
    return "exact values" if precision == 0 else None if precision is None else shots_of(precision)


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
    # Runs that were begun before there was a head norm go on: without one, nothing is said of it.
    later = {"head_norm"} if record.net.head_norm == "none" else set()
    net = record.net.told(exclude=later)
    text = f"{record.weights_sha256} {record.dtype} {net}"
    return hashlib.sha256(text.encode()).hexdigest()
