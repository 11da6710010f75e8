"""Sending rows as jobs and collecting their values: the only place where a primitive is called."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from qiskit.primitives import BaseEstimatorV2

from qpc_qiskit.backends.destinations import Destination, JobSettings
from qpc_qiskit.common.arrays import Array
from qpc_qiskit.devices.isa import check_rzz_angles
from qpc_qiskit.errors import EngineError, FetchError, QPCError
from qpc_qiskit.rows.planning import JobPlan
from qpc_qiskit.rows.prepared import Prepared
from qpc_qiskit.rows.pubs import Template, concatenated, evs_from_data, make_pub, stds_from_data

logger = logging.getLogger(__name__)

State = Literal["waiting", "done", "failed", "cancelled"]


@dataclass(frozen=True)
class JobTimes:
    """When what happened to a job: the service's clock, seconds since the epoch; None: not told."""

    created: float | None = None
    running: float | None = None
    finished: float | None = None


@dataclass(frozen=True)
class JobStatus:
    """What the service says of a job."""

    state: State
    """`waiting` is queued or running."""
    error: str = ""
    """Why it failed or was cancelled."""
    ran_too_long: bool = False
    """Whether it was ended for taking more time than its cap."""
    usage_seconds: float | None = None
    """QPU time that it is charged; None: not known yet."""
    times: JobTimes = JobTimes()
    """Of a job that has ended."""


@dataclass(frozen=True, eq=False)
class RowValues:
    """What executions came out as."""

    evs: Array
    """(W, J*n) of all executions: what was measured on patch 0, then on patch 1, ..."""
    stds: Array
    """(W, J*n) standard errors; NaN where not known."""
    job_ids: tuple[str, ...] = ()
    """In the order of the rows."""


def send(
    destination: Destination,
    estimator: BaseEstimatorV2,
    template: Template,
    rows: Array,
    precision: float | None,
    settings: JobSettings,
) -> Any:
    """Send rows (rows, P) as a job with one PUB.

    Returns:
        The primitive's job.
    """
    if destination.configure is not None:
        destination.configure(estimator, settings)
    return estimator.run([make_pub(template, rows, precision)])


def collect(
    destination: Destination, job: Any, num_rows: int, num_observables: int
) -> tuple[Array, Array]:
    """Wait for a job: expectation values and standard errors, (rows, m) each.

    Raises:
        EngineError: the values are missing, of another shape, or not finite.
    """
    data = destination.fetch(job)[0].data
    return (
        evs_from_data(data, num_rows, num_observables),
        stds_from_data(data, num_rows, num_observables),
    )


def check_rows(destination: Destination, prepared: Prepared, plan: JobPlan) -> None:
    """Check the angles of all rows before the first is sent.

    Raises:
        NotISAError: an angle that the hardware does not have.
    """
    if not destination.limits_rzz:
        return
    for part in prepared.parts:
        if "rzz" in part.circuit.count_ops():
            check_rzz_angles(part.circuit, part.parameters, plan.rows.values())


def run_plan(
    destination: Destination,
    prepared: Prepared,
    estimator: BaseEstimatorV2,
    plan: JobPlan,
    precision: float | None,
    *,
    next_seed: Callable[[], int],
    on_sent: Callable[[int], None],
) -> RowValues:
    """Send all jobs of a plan and wait for them.

    At most `destination.jobs_in_flight` jobs wait at a time. When one fails, or Ctrl-C comes, those
    that still wait are cancelled, unless a result merely could not be fetched; no value is returned
    then.

    Args:
        destination: where.
        prepared: by it.
        estimator: of it.
        plan: what to run.
        precision: of all jobs; None: the estimator's own default.
        next_seed: for destinations whose jobs are seeded one by one.
        on_sent: called with a job's number, from 0, as soon as it is sent.

    Raises:
        NotISAError: an angle that the hardware does not have; nothing was sent.
        FetchError: a result could not be fetched.
        EngineError: the estimator failed (its error is chained) or returned something unusable.
    """
    check_rows(destination, prepared, plan)
    template = prepared.template
    num_observables = len(template.observables)
    waiting: deque[tuple[slice, Any]] = deque()
    found: list[tuple[Array, Array]] = []
    job_ids: list[str] = []
    current = 0  # the job that is being sent or collected

    def collect_one() -> None:
        nonlocal current
        current = len(found)
        part, job = waiting[0]
        found.append(collect(destination, job, part.stop - part.start, num_observables))
        waiting.popleft()

    try:
        for number, part in enumerate(plan.parts):
            if len(waiting) == destination.jobs_in_flight:
                collect_one()
            current = number
            settings = JobSettings(
                seed=next_seed(),
                predicted_seconds=None if plan.seconds is None else plan.seconds[number],
            )
            values = plan.values(part)
            job = send(destination, estimator, template, values, precision, settings)
            waiting.append((part, job))
            on_sent(number)
            job_ids.append(_job_id(job))
            logger.info("%s: job %s sent, %s", destination.name, job_ids[-1], _span(part, plan))
        while waiting:
            collect_one()
    except BaseException as error:
        if not isinstance(error, FetchError):
            _cancel([job for _, job in waiting])
        where = f"job {current + 1} of {len(plan.parts)} ({_span(plan.parts[current], plan)})"
        if isinstance(error, QPCError) or not isinstance(error, Exception):
            error.add_note(f"{destination.name}: at {where}{_known(job_ids)}.")
            raise  # the toolkit's own, such as a result that is pending; or Ctrl-C
        raise EngineError(
            f"{destination.name}: {type(estimator).__name__} failed on {where}: "
            f"{type(error).__name__}: {error}{_known(job_ids)}"
        ) from error
    return RowValues(
        concatenated([evs for evs, _ in found], num_observables),
        concatenated([stds for _, stds in found], num_observables),
        tuple(job_ids),
    )


def _span(part: slice, plan: JobPlan) -> str:
    return f"rows {part.start} to {part.stop - 1} of {len(plan.slots)}"


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
