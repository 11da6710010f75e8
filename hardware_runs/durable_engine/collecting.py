"""What came of jobs: results stored, failures judged, unwanted jobs cancelled, usage settled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hardware_runs.durable_engine.known import KnownRun
from hardware_runs.durable_engine.problems import Problems
from hardware_runs.durable_engine.services import JobService
from hardware_runs.ledger import JOB_TIMES, Attempt, AttemptState, Chunk
from qpc_qiskit.backends.jobs import JobStatus, JobTimes
from qpc_qiskit.errors import EngineError, FetchError
from qpc_qiskit.rows.prepared import Prepared
from qpc_qiskit.rows.pubs import evs_from_data, stds_from_data

_ENDED = (AttemptState.DONE, AttemptState.FAILED, AttemptState.CANCELLED)


@dataclass(frozen=True, eq=False)
class Payload:
    """What a chunk sends."""

    prepared: Prepared
    rows: NDArray[np.float64]
    """(m, P)."""
    precision: float | None
    shots: int | None
    start: int
    """Position of the first pixel of its block in the layer's pass."""


@dataclass(eq=False)
class Collector:
    """Brings what the service knows of a run's jobs into the ledger.

    Args:
        known: the run.
        service: where its jobs are done.
        payload: of a chunk.
        owner: unique to this process and start.
        clock: seconds since the epoch.
        max_attempts: of a chunk whose jobs failed.
        problems: what the service did not answer.
        check: called before each job is looked at; may raise to stop cleanly.
    """

    known: KnownRun
    service: JobService
    payload: Callable[[Chunk], Payload]
    owner: str
    clock: Callable[[], float]
    max_attempts: int
    problems: Problems
    check: Callable[[], None] = lambda: None

    def collect(self) -> bool:
        """Store what has ended; whether anything had."""
        changed, state = False, self.known.state
        for attempt in state.attempts(states=[AttemptState.POSTED]):
            self.check()
            held = self.service.is_local and attempt.lease_expires_at > self.clock()
            if held and attempt.owner != self.owner:
                continue  # the process that has its result stores it
            try:
                changed |= self.collect_one(attempt, state.chunk(attempt.chunk_id))
            except FetchError as error:
                self.problems.note(f"job {attempt.job_id}", error)
        return changed

    def collect_one(self, attempt: Attempt, chunk: Chunk) -> bool:
        """Store what came of one job, if it has ended; whether it had.

        Raises:
            FetchError: the service did not answer.
        """
        assert attempt.job_id is not None
        status = self.service.status(attempt.job_id)
        if status.state == "waiting":
            return False
        if status.state != "done":
            return self._judge(attempt, status)
        payload = self.payload(chunk)
        num_observables = len(payload.prepared.template.observables)
        data = self.service.result(attempt.job_id)
        try:
            evs = evs_from_data(data, chunk.num_rows, num_observables)
        except EngineError as error:  # it would be the same if it were fetched again
            self._fail(attempt, status, str(error), retry=False)
            return True
        stored = self.known.ledger.store_result(
            attempt,
            evs,
            stds_from_data(data, chunk.num_rows, num_observables),
            shots=payload.shots,
            usage_seconds=status.usage_seconds,
            now=self.clock(),
            extras=_kept_times(status.times),
        )
        self.known.keep(stored)
        if not self.service.is_local:
            try:
                others = self.service.find(attempt.tag)
            except FetchError as error:
                self.problems.note(attempt.tag, error)
                return True
            if len(others) > 1:
                self.known.ledger.note_duplicates(attempt, others, now=self.clock())
        return True

    def _judge(self, attempt: Attempt, status: JobStatus) -> bool:
        """A job that failed or was cancelled: is its chunk sent again by itself?"""
        told = status.error or f"it is {status.state}."
        if self.service.is_local:
            self._fail(attempt, status, told, retry=True)
            return True
        is_over = status.state == "cancelled" and self.known.renew().run.cancelled_at is not None
        if is_over:
            self.known.ledger.cancel_attempt(
                attempt, usage_seconds=status.usage_seconds, now=self.clock(), error=told
            )
            return True
        if status.usage_seconds is None:
            # What was charged decides whether the same may be sent again for nothing.
            self.problems.note(
                f"job {attempt.job_id}",
                f"It {'failed' if status.state == 'failed' else 'was cancelled'} ({told}), and the "
                "service does not say yet what it charges for it. `qpc run resume "
                f"{self.known.run.name} --give-up {attempt.job_id}` does not wait for that.",
            )
            return False
        # The service charges nothing for its own errors; what it charges for would fail again.
        retry = status.usage_seconds == 0 and not status.ran_too_long
        if status.state == "cancelled" and not self._went_with_its_session(attempt):
            retry = False
            told = f"It was cancelled at the service, not by this run. {told}"
        retry = retry and attempt.number < self.max_attempts
        self._fail(attempt, status, told, retry=retry)
        return True

    def _went_with_its_session(self, attempt: Attempt) -> bool:
        """Whether the batch or session of a cancelled job has ended: then nobody meant the job."""
        session = self.known.state.session_of(attempt)
        if session is None or session.session_id is None:
            return False
        return not self.service.is_session_open(session.session_id)

    def _fail(self, attempt: Attempt, status: JobStatus, error: str, *, retry: bool) -> None:
        self.known.ledger.fail_attempt(
            attempt,
            usage_seconds=status.usage_seconds,
            error=error,
            retry=retry,
            now=self.clock(),
        )

    def cancel_unwanted(self) -> tuple[list[str], list[str]]:
        """Cancel duplicates; of a cancelled run, all its jobs.

        Returns:
            Jobs that are cancelled, and those that are not (yet): they run, have ended by
            themselves, or nobody answered.
        """
        done: list[str] = []
        left: list[str] = []
        if not self.known.state.jobs_to_cancel:
            return done, left
        for job in self.known.renew().jobs_to_cancel:  # not if the run goes on meanwhile
            if job.is_duplicate:
                self.problems.note(
                    f"job {job.job_id}",
                    f"It is a duplicate of job {job.attempt.job_id} ({job.attempt.tag}); it is "
                    "cancelled.",
                )
            self.service.cancel(job.job_id)
            try:
                status = self.service.status(job.job_id)
            except FetchError as error:
                self.problems.note(f"job {job.job_id}", error)
                left.append(job.job_id)
                continue
            (done if status.state == "cancelled" else left).append(job.job_id)
            if status.state == "waiting":  # it runs, or could not be reached
                continue
            if job.is_duplicate:
                self.known.ledger.note_duplicate_cancelled(
                    self.known.run.id,
                    job.job_id,
                    now=self.clock(),
                    usage_seconds=status.usage_seconds,
                )
            elif status.state == "cancelled":
                self.known.ledger.cancel_attempt(
                    job.attempt, usage_seconds=status.usage_seconds, now=self.clock()
                )
        return done, left

    def settle(self) -> bool:
        """Ask for usage that was not known when a job ended; whether anything changed."""
        changed = False
        for attempt in self.known.state.attempts(states=_ENDED):
            if attempt.usage_seconds is None and attempt.job_id is not None:
                usage = self._usage(f"job {attempt.job_id}", attempt.job_id)
                if usage is not None:
                    self.known.ledger.record_usage(attempt, usage)
                    changed = True
        for duplicate in self.known.state.duplicates:
            if duplicate.cancelled_at is not None and duplicate.usage_seconds is None:
                usage = self._usage(f"duplicate job {duplicate.job_id}", duplicate.job_id)
                if usage is not None:
                    self.known.ledger.note_duplicate_cancelled(
                        self.known.run.id, duplicate.job_id, now=self.clock(), usage_seconds=usage
                    )
                    changed = True
        return changed

    def _usage(self, what: str, job_id: str) -> float | None:
        try:
            return self.service.status(job_id).usage_seconds
        except FetchError as error:
            self.problems.note(what, error)
            return None


def _kept_times(times: JobTimes) -> dict[str, NDArray[np.float64]]:
    """What is kept of a job's times with its result; nothing, if nothing is told."""
    told = (times.created, times.running, times.finished)
    if told == (None, None, None):
        return {}
    return {JOB_TIMES: np.array([np.nan if each is None else each for each in told])}
