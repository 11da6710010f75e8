"""Driving a run of a checkpoint to its end: passes over all images until every value is there."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from hardware_runs.checkpoints.checkpoint_runs import Work
from hardware_runs.checkpoints.runlog import log
from hardware_runs.durable_engine.engine import POLL_SECONDS, DurableEngine
from hardware_runs.durable_engine.status import noise_of, progress_line
from hardware_runs.ledger import ChunkState
from qpc_qiskit.common.interrupts import StopRequested
from qpc_qiskit.connector import use_engine
from qpc_qiskit.errors import BudgetError, LedgerConflictError, ResultsPending
from qpc_qiskit.options.engine import EngineOptions
from qpc_qiskit.training.evaluation import accuracy_interval, compare, predict, score

_AT_WORK = [ChunkState.UNSENT, ChunkState.OPEN]


def advance(engine: DurableEngine, work: Work) -> tuple[Tensor | None, str]:
    """One pass over all images: sends what can be sent, collects what is there.

    Returns:
        The logits; None while results are pending, with what is waited for besides jobs.

    Raises:
        BudgetError: the next job would exceed the budget, whatever is under way.
        EngineError: a job failed for good, or the service refuses jobs.
    """
    engine.begin_pass()
    try:
        with torch.no_grad(), use_engine(work.network, engine):
            parts = engine.map(work.network, work.batches())
    except ResultsPending:
        return None, str(engine.dispatcher.problems)
    return torch.cat([part.cpu() for part in parts]), ""


def advance_until_done(
    engine: DurableEngine,
    work: Work,
    *,
    sleep: Callable[[float], None] = time.sleep,
    poll_seconds: float = POLL_SECONDS,
    on_poll: Callable[[str], None] = lambda message: None,
) -> Tensor:
    """Passes until all results are there.

    Args:
        engine: of the run.
        work: to be done.
        sleep: waits for some seconds.
        poll_seconds: between two looks.
        on_poll: called with what is waited for, and what stands in the way.

    Returns:
        The logits, (N, num_classes).
    """
    told: str | None = None
    while True:
        logits, problems = advance(engine, work)
        if logits is not None:
            return logits
        while True:
            progress = progress_line(engine.known.state)
            if told != progress:  # problems are logged where they are noted
                log("waiting", progress=progress)
                told = progress
            on_poll("; ".join(filter(None, (progress, problems))))
            sleep(poll_seconds)
            try:
                if engine.dispatcher.step() or not engine.known.state.chunks(states=_AT_WORK):
                    break  # at the latest when another process has stored what was waited for
            except (BudgetError, LedgerConflictError):
                break  # `advance` tells whether that ends the run
            problems = str(engine.dispatcher.problems)


def report(engine: DurableEngine, work: Work, logits: Tensor) -> dict[str, Any]:
    """What came of a run: quality, the exact engine's beside it, and cost; plain values."""
    task = work.task
    exact = predict(work.network, work.images, task.batch_size)
    found, reference = (score(each, work.labels, task.loss) for each in (logits, exact))
    state = engine.known.state
    chunks = state.chunks()
    return {
        "run": engine.run.name,
        "run_id": engine.run.id,
        "state": "done",
        "backend": engine.run.settings["backend"],
        "noise": noise_of(engine.run.settings),
        "images": task.num_images,
        "accuracy": found.accuracy,
        "accuracy_interval": accuracy_interval(found.accuracy, task.num_images),
        "loss": found.loss,
        "same_data_as_in_training": task.is_training_data,
        "exact_accuracy": reference.accuracy,
        **asdict(compare(logits, exact)),
        "shots": engine.shots,
        "economy": EngineOptions.of_run(engine.run.settings).to_dict(),
        "patches": [asdict(record) for record in engine.patch_records()],
        "jobs": sum(attempt.job_id is not None for attempt in state.all_attempts),
        "executions": sum(chunk.num_rows for chunk in chunks),
        "predicted_qpu_seconds": _total([chunk.predicted_seconds for chunk in chunks]),
        "used_qpu_seconds": state.budget.used_seconds,
        "reserved_qpu_seconds": state.budget.reserved_seconds,
    }


def finish(
    engine: DurableEngine,
    work: Work,
    *,
    wait: bool,
    check: Callable[[], None] = lambda: None,
    poll_seconds: float = POLL_SECONDS,
    on_poll: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Send what can be sent and collect what is there; with `wait`, until all is there.

    Args:
        engine: of the run; closed at the end.
        work: to be done.
        wait: see above.
        check: called every fifth of a second of waiting; may raise to stop.
        poll_seconds: between two looks.
        on_poll: called with what is waited for, and what stands in the way.

    Returns:
        Plain values: `state` is `done`, with `report`, or `pending`, with a message.
    """
    log("opened", backend=engine.run.settings["backend"], run_id=engine.run.id, wait=wait)
    try:
        with engine:
            logits: Tensor | None
            if wait:
                logits = advance_until_done(
                    engine,
                    work,
                    sleep=lambda seconds: _sleep(seconds, check),
                    poll_seconds=poll_seconds,
                    on_poll=on_poll,
                )
                message = ""
            else:
                logits, message = advance(engine, work)
            result = _pending(engine, message) if logits is None else report(engine, work, logits)
    except StopRequested:
        log("interrupted")
        raise
    except BaseException as error:
        log("stopped", logging.ERROR, error=f"{type(error).__name__}: {error}")
        raise
    log(result["state"], **{key: value for key, value in result.items() if key != "run"})
    return result


def _pending(engine: DurableEngine, message: str) -> dict[str, Any]:
    state = engine.known.state
    chunks = state.chunks()
    return {
        "run": engine.run.name,
        "run_id": engine.run.id,
        "state": "pending",
        "backend": engine.run.settings["backend"],
        "jobs_done": sum(chunk.state == ChunkState.DONE for chunk in chunks),
        "jobs_open": sum(chunk.state == ChunkState.OPEN for chunk in chunks),
        "jobs_unsent": sum(chunk.state == ChunkState.UNSENT for chunk in chunks),
        "progress": progress_line(state),
        "message": message,
    }


def _sleep(seconds: float, check: Callable[[], None]) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        check()
        time.sleep(min(left, 0.2))
    check()


def _total(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) if len(known) == len(values) else None
