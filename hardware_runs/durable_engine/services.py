"""Where a durable run has its jobs done, behind one interface: this machine, or `IBMJobs`."""

from __future__ import annotations

import uuid
from typing import Any, Protocol

from qiskit.primitives import BaseEstimatorV2

from qpc_qiskit.backends.destinations import Destination, JobSettings
from qpc_qiskit.backends.jobs import JobStatus
from qpc_qiskit.common.arrays import Array
from qpc_qiskit.errors import FetchError, JobDeferred, QPCError
from qpc_qiskit.rows.prepared import Prepared
from qpc_qiskit.rows.pubs import make_pub


class JobService(Protocol):
    """Jobs that are found again by tag and id, in any process.

    Questions raise `FetchError` where nothing is known. `send` raises `JobRefused`, `JobDeferred`
    or `SessionEnded` where there is certainly no job, and `JobUnclear` where there may be one;
    `open_session` raises the first two.
    """

    is_local: bool
    """Whether jobs live in this process: then nobody else can have sent one."""

    def send(
        self,
        prepared: Prepared,
        rows: Array,
        precision: float | None,
        *,
        tag: str,
        cap_seconds: int,
        session_id: str | None,
        seed: int,
    ) -> str:
        """Send rows (m, P) as a job with one PUB; its id."""
        ...

    def find(self, tag: str) -> list[str]:
        """Ids of the jobs with a tag, oldest first."""
        ...

    def status(self, job_id: str) -> JobStatus:
        """How a job is."""
        ...

    def result(self, job_id: str) -> Any:
        """The data of a finished job's PUB."""
        ...

    def cancel(self, job_id: str) -> bool:
        """Cancel a job that waits; false if it is too late."""
        ...

    def open_session(self, mode: str, max_seconds: int | None) -> str:
        """Open a batch or session; its id."""
        ...

    def close_session(self, session_id: str) -> None:
        """Take no more jobs; raises `FetchError` where it may still be open."""
        ...

    def is_session_open(self, session_id: str) -> bool:
        """Whether a batch or session takes jobs."""
        ...

    def session_seconds(self, session_id: str) -> float | None:
        """What a batch or session that has ended is charged; None: not known yet."""
        ...


LOCAL = "local-"
"""Begins the ids of jobs of this machine."""


class LocalService:
    """Simulators: a job runs while it is sent, and is known to this process alone."""

    is_local = True

    def __init__(self, destination: Destination) -> None:
        self._destination = destination
        self._estimators: dict[int, tuple[Prepared, BaseEstimatorV2]] = {}
        self._results: dict[str, Any] = {}
        self._tags: dict[str, str] = {}

    def send(
        self,
        prepared: Prepared,
        rows: Array,
        precision: float | None,
        *,
        tag: str,
        cap_seconds: int,
        session_id: str | None,
        seed: int,
    ) -> str:
        """See `JobService.send`."""
        if id(prepared) not in self._estimators:
            self._estimators[id(prepared)] = prepared, self._destination.connect(prepared)
        estimator = self._estimators[id(prepared)][1]
        if self._destination.configure is not None:
            self._destination.configure(estimator, JobSettings(seed=seed))
        job = estimator.run([make_pub(prepared.template, rows, precision)])
        job_id = f"{LOCAL}{uuid.uuid4().hex[:16]}"  # of no other process's jobs
        self._results[job_id] = job.result()[0].data
        self._tags[tag] = job_id
        return job_id

    def find(self, tag: str) -> list[str]:
        """See `JobService.find`."""
        return [self._tags[tag]] if tag in self._tags else []

    def status(self, job_id: str) -> JobStatus:
        """See `JobService.status`; a job of a process that is gone counts as cancelled."""
        if job_id in self._results:
            return JobStatus("done", usage_seconds=0.0)
        return JobStatus("cancelled", "its process ended", usage_seconds=0.0)

    def result(self, job_id: str) -> Any:
        """See `JobService.result`."""
        if job_id not in self._results:
            raise FetchError(f"{job_id} was a job of a process that ended.")
        return self._results.pop(job_id)

    def cancel(self, job_id: str) -> bool:
        """See `JobService.cancel`."""
        return False

    def open_session(self, mode: str, max_seconds: int | None) -> str:
        """See `JobService.open_session`."""
        return f"local-{mode}"

    def close_session(self, session_id: str) -> None:
        """See `JobService.close_session`."""

    def is_session_open(self, session_id: str) -> bool:
        """See `JobService.is_session_open`."""
        return True

    def session_seconds(self, session_id: str) -> float | None:
        """See `JobService.session_seconds`."""
        return 0.0


class NoService:
    """Stands for a service that cannot be reached, where everything may be in the ledger already.

    Args:
        error: why it cannot.
    """

    is_local = False

    def __init__(self, error: QPCError) -> None:
        self._error = error

    def cancel(self, job_id: str) -> bool:
        """See `JobService.cancel`."""
        return False

    def __getattr__(self, name: str) -> Any:
        def ask(*arguments: Any, **named: Any) -> Any:
            if name in ("send", "open_session"):
                raise JobDeferred(str(self._error))
            raise FetchError(str(self._error))

        return ask
