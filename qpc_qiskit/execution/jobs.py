"""Sending rows as jobs and collecting their values: the only place where a primitive is called."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qpc_qiskit.errors import EngineError, QPCError
from qpc_qiskit.execution.destinations import Destination, Prepared
from qpc_qiskit.execution.isa import check_rzz_angles
from qpc_qiskit.execution.pubs import (
    Array,
    Rows,
    concatenated,
    evs_from_data,
    make_pub,
    stds_from_data,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class RowValues:
    """What rows came out as."""

    evs: Array
    """(M, n)."""
    stds: Array
    """(M, n) standard errors; NaN where not known."""
    job_ids: tuple[str, ...]
    """In the order of the rows."""


def run_rows(
    destination: Destination,
    prepared: Prepared,
    rows: Rows,
    parts: list[slice],
    precision: float | None,
    next_seed: Callable[[], int] | None = None,
) -> RowValues:
    """Send each part of the rows as a job with one PUB, and wait for all.

    At most `destination.jobs_in_flight` jobs wait at a time. When one fails, or Ctrl-C comes, those
    that still wait are cancelled; nothing of what the others gave is returned.

    Args:
        destination: where.
        prepared: by it.
        rows: all of them.
        parts: of each job.
        precision: of all; None: the estimator's own default.
        next_seed: for destinations that are reseeded for every job.

    Raises:
        NotISAError: an angle that the hardware does not have; nothing was sent.
        EngineError: the estimator failed (its error is chained) or returned something unusable.
    """
    template, estimator = prepared.template, prepared.estimator
    num_observables = len(template.observables)
    if destination.limits_rzz and "rzz" in template.circuit.count_ops():
        for part in parts:
            check_rzz_angles(template.circuit, template.parameters, rows.values(part))
    waiting: deque[tuple[slice, Any]] = deque()
    evs: list[Array] = []
    stds: list[Array] = []
    job_ids: list[str] = []
    current = 1  # the job that is being sent or collected

    def collect() -> None:
        nonlocal current
        current = len(evs) + 1
        part, job = waiting[0]
        data = job.result()[0].data
        waiting.popleft()
        size = part.stop - part.start
        evs.append(evs_from_data(data, size, num_observables))
        stds.append(stds_from_data(data, size, num_observables))

    try:
        for part in parts:
            if len(waiting) == destination.jobs_in_flight:
                collect()
            current = len(job_ids) + 1
            if destination.reseed is not None and next_seed is not None:
                destination.reseed(estimator, next_seed())
            job = estimator.run([make_pub(template, rows.values(part), precision)])
            waiting.append((part, job))
            job_ids.append(_job_id(job))
            logger.info(
                "%s: job %s with rows %d to %d of %d",
                destination.name,
                job_ids[-1],
                part.start,
                part.stop - 1,
                len(rows),
            )
        while waiting:
            collect()
    except BaseException as error:
        _cancel([job for _, job in waiting])
        if isinstance(error, QPCError) or not isinstance(error, Exception):
            error.add_note(
                f"{destination.name}: at job {current} of {len(parts)}{_known(job_ids)}."
            )
            raise  # the toolkit's own, such as a result that is pending; or Ctrl-C
        raise EngineError(
            f"{destination.name}: {type(estimator).__name__} failed on job {current} of "
            f"{len(parts)} ({len(rows)} rows in all, {num_observables} observables): "
            f"{type(error).__name__}: {error}{_known(job_ids)}"
        ) from error
    return RowValues(
        concatenated(evs, num_observables), concatenated(stds, num_observables), tuple(job_ids)
    )


def _job_id(job: Any) -> str:
    """A primitive's job should have an id; one of a user's own may not."""
    found = getattr(job, "job_id", None)
    return str(found()) if callable(found) else ""


def _known(job_ids: list[str]) -> str:
    named = [job_id for job_id in job_ids if job_id]
    return f" (jobs sent: {', '.join(named)})" if named else ""


def _cancel(jobs: list[Any]) -> None:
    for job in jobs:
        try:
            job.cancel()
        except Exception:  # noqa: BLE001 - finished, not cancellable: whatever it says
            continue
