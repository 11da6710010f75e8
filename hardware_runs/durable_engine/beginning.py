"""Beginning a durable run, or going on with one: its settings, its budget, its engine."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from qiskit.providers import BackendV2
from qiskit_aer import AerSimulator
from qiskit_aer.noise import NoiseModel

from hardware_runs.durable_engine.dispatch import Rules
from hardware_runs.durable_engine.engine import DurableEngine
from hardware_runs.durable_engine.known import KnownRun
from hardware_runs.durable_engine.services import JobService, LocalService, NoService
from hardware_runs.ledger import ChunkState, Ledger, Run, RunState
from noise_models.snapshots import SnapshotBackend
from qpc_qiskit.backends.named import is_ibm
from qpc_qiskit.circuits.brickwall import Progress
from qpc_qiskit.common.versions import library_versions
from qpc_qiskit.devices.noise import CircuitNoise, noise_digest
from qpc_qiskit.engines import EstimatorEngine
from qpc_qiskit.errors import BackendError, EngineError, LedgerConflictError
from qpc_qiskit.options.engine import EngineOptions


def durable(
    ledger: str | Path | Ledger,
    name: str,
    backend: str | BackendV2 | EngineOptions,
    *,
    wait: bool = False,
    rules: Rules | None = None,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
    check: Callable[[], None] = lambda: None,
    about: dict[str, Any] | None = None,
    on_fit: Progress | None = None,
    **options: Any,
) -> DurableEngine:
    """An engine whose run survives a crash at any line; use it as a context manager.

    Args:
        ledger: path of an SQLite file, a database URL, or a `Ledger`.
        name: of the run. An existing run goes on, with the settings that it was begun with. One
            whose results are all there needs no backend any more.
        backend: see `EstimatorEngine.from_backend`.
        wait: wait for results instead of raising `ResultsPending`. `map` sends all batches first.
        rules: how jobs are sent, instead of the usual rules.
        clock: seconds since the epoch.
        sleep: waits for some seconds.
        check: called before each job is sent or looked at; may raise to stop cleanly.
        about: JSON that is kept with the run, for whoever goes on with it.
        on_fit: told of the directions whose angles are fitted; see `EstimatorEngine.on_fit`.
        options: of `EstimatorEngine` and its `from_backend`, by keyword; kept with the run. But
            `max_qpu_seconds` is the budget of the run: every job reserves its cap before it is
            sent. A device of IBM's needs one; math.inf is none. What an existing run was begun
            with, given again, leaves a budget that was changed meanwhile (see `set_budget`).

    Raises:
        BackendError: unknown backend, or no access to it.
        EngineError: the run was begun with other settings, or a device was given no budget.
    """
    book = ledger if isinstance(ledger, Ledger) else Ledger(ledger)
    found = book.find_run(name)
    known = None if found is None else KnownRun(book, found)
    asked = EngineOptions.of(backend, **options)
    backend, max_qpu_seconds = asked.backend, asked.max_qpu_seconds
    asked = asked.changed(max_qpu_seconds=None)
    estimator: EstimatorEngine | BackendError
    service: JobService
    try:
        estimator = EstimatorEngine.from_backend(asked)
        estimator.on_fit = on_fit
        device = estimator.destination.backend
        service = LocalService(estimator.destination)
        if device is not None and is_ibm(device):
            from qpc_qiskit.backends import runtime
            from qpc_qiskit.backends.service import IBMJobs

            given = runtime.estimator_options(asked.resilience, asked.options)
            service = IBMJobs(device, given)
    except BackendError as error:
        if known is None or not _is_done(known.state):
            raise
        estimator, service = error, NoService(error)
    where = backend if isinstance(backend, str) else backend.name
    if isinstance(backend, AerSimulator):
        asked = asked.changed(noise_model=backend.options.noise_model)
    settings = asked.changed(backend=where).for_run()
    settings["engine_options"] = _kept_options(settings["engine_options"])
    if about is not None:
        settings["about"] = about
    is_new = known is None or not known.state.revisions  # its process may have died at once
    if is_new and not service.is_local and max_qpu_seconds is None:
        raise EngineError(
            f"Run {name!r} would send paid jobs to {where}: give max_qpu_seconds, its budget "
            "(math.inf for none). Nothing was sent."
        )
    known = _begun(book, name, known, settings, max_qpu_seconds, clock)
    return DurableEngine(
        known,
        estimator,
        service,
        replace(rules or Rules(), mode=asked.mode),
        wait=wait,
        clock=clock,
        sleep=sleep,
        seed=asked.seed,
        check=check,
    )


def set_budget(ledger: Ledger, run: Run, max_qpu_seconds: float, *, now: float) -> None:
    """Give a run another budget, what it has used before included; math.inf: none."""
    ledger.set_budget(run.id, _finite(max_qpu_seconds), now=now)


def _finite(budget: float | None) -> float | None:
    return None if budget == math.inf else budget


def _is_done(state: RunState) -> bool:
    chunks = state.chunks()
    return bool(chunks) and all(chunk.state == ChunkState.DONE for chunk in chunks)


def _kept_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """What of an engine's options decides its values, as JSON.

    Raises:
        EngineError: an option that cannot be compared when the run goes on.
    """
    kept = {}
    for name, value in options.items():
        if isinstance(value, AerSimulator) and value.options.noise_model is not None:
            value = value.options.noise_model
        if isinstance(value, NoiseModel | CircuitNoise | SnapshotBackend):
            kept[name] = digest_of(value)
        elif isinstance(value, BackendV2):
            kept[name] = value.name
        else:
            try:
                kept[name] = json.loads(json.dumps(value))
            except (TypeError, ValueError) as error:
                raise EngineError(
                    f"{name}={value!r} cannot be kept with a durable run; give plain values."
                ) from error
    return kept


def digest_of(noise: NoiseModel | CircuitNoise | SnapshotBackend) -> str:
    """The same for equal noise: what a run keeps of noise that has no name."""
    return noise.snapshot.digest if isinstance(noise, SnapshotBackend) else noise_digest(noise)


def _begun(
    ledger: Ledger,
    name: str,
    known: KnownRun | None,
    settings: dict[str, Any],
    max_qpu_seconds: float | None,
    clock: Callable[[], float],
) -> KnownRun:
    if known is None:
        try:
            run = ledger.create_run(name, settings, now=clock())
        except LedgerConflictError:  # another process has just begun it
            run = ledger.get_run(name)
        known = KnownRun(ledger, run)
    stored = json.loads(json.dumps(settings))  # as it comes back: tuples are lists
    changed = [k for k, v in stored.items() if known.run.settings.get(k) != v]
    if changed:
        raise EngineError(
            f"Run {name!r} was begun with other settings ({', '.join(changed)}). Give the "
            "same again, or begin a run with another name."
        )
    budgets = [revision.max_qpu_seconds for revision in known.state.revisions]
    given = _finite(max_qpu_seconds)
    if not budgets:  # new, or its process died right here
        ledger.add_revision(
            known.run.id,
            reason="begun",
            content={"versions": library_versions()},
            max_qpu_seconds=given,
            now=clock(),
        )
    elif max_qpu_seconds is not None and given not in (budgets[0], budgets[-1]):
        ledger.set_budget(known.run.id, given, now=clock())
    return known
