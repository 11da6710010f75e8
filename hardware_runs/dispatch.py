"""Sending chunks exactly once, and collecting their results.

Every effect is passed in (ledger, service, clock), every step is a transaction of the ledger or a
call of the service, and nothing is remembered between steps that a crash must not lose: a process
that starts anew does what the ledger says is left to do.
"""

from __future__ import annotations

import logging
import math
import uuid
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from hardware_runs.ledger import (
    Attempt,
    AttemptState,
    Chunk,
    ChunkState,
    Ledger,
    Run,
    Session,
)
from hardware_runs.ledger.intents import LOOKUP_INTERVAL_SECONDS
from hardware_runs.services import JobService
from qpc_qiskit.errors import (
    BudgetError,
    EngineError,
    FetchError,
    JobRefused,
    JobUnclear,
    LedgerConflictError,
    LedgerError,
    SessionEnded,
)
from qpc_qiskit.execution.destinations import Prepared
from qpc_qiskit.execution.pubs import Array, evs_from_data, stds_from_data
from qpc_qiskit.execution.service import JobStatus

logger = logging.getLogger(__name__)

POSTS_PER_MINUTE = 5
"""What the service takes from one user."""
LEASE_SECONDS = 7200.0
"""Longer than a POST can last: a timeout of 900 s, six times, with pauses."""
LOCAL_LEASE_SECONDS = 60.0
"""On this machine nothing is paid twice: at worst two processes compute the same."""
MARGIN = 1.5
LONGEST_JOB_SECONDS = 10800
LONGEST_SESSION_SECONDS = 8 * 3600


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How a run's jobs are sent."""

    mode: str = "job"
    """job, batch or session."""
    max_in_flight: int = 4
    """Jobs that may wait at the service."""
    max_attempts: int = 3
    """Of a chunk whose job failed; each is paid."""
    posts_per_minute: int = POSTS_PER_MINUTE
    lease_seconds: float = LEASE_SECONDS
    lookup_interval_seconds: float = LOOKUP_INTERVAL_SECONDS
    margin: float = MARGIN
    """A job may take this many times its forecast before the service ends it."""


@dataclass(frozen=True, eq=False)
class Payload:
    """What a chunk sends."""

    prepared: Prepared
    rows: Array
    """(m, P)."""
    precision: float | None
    shots: int | None
    start: int
    """Position of the first pixel of its block in the layer's pass."""


@dataclass(eq=False)
class Dispatcher:
    """Sends and collects the chunks of a run.

    Args:
        ledger: of the run.
        run: the run.
        service: where its jobs are done.
        payload: of a chunk.
        rules: how they are sent.
        owner: unique to this process and start.
        clock: seconds since the epoch.
        seed: of simulated shots.
        check: called before each job is sent or looked at; may raise to stop cleanly.
    """

    ledger: Ledger
    run: Run
    service: JobService
    payload: Callable[[Chunk], Payload]
    rules: Rules
    owner: str
    clock: Callable[[], float]
    seed: int | None = None
    check: Callable[[], None] = lambda: None
    problems: dict[str, str] = field(default_factory=dict)
    """What the service did not answer since the last `step` began, by tag, job or session."""
    _posts: list[float] = field(default_factory=list)

    def step(self) -> bool:
        """Collect what is done, clear up what is unclear, send what may be sent.

        Returns:
            Whether anything changed.

        Raises:
            BudgetError: the next job would exceed the budget.
            EngineError: the service refuses jobs, or a job failed for good.
        """
        self.problems.clear()
        changed = self.collect()
        if self._resolve():
            changed = True
            if self.service.is_local:
                self.collect()
        changed |= self._cancel_duplicates()
        changed |= self._settle()
        return self._send() or changed

    def leave(self) -> None:
        """Let others look at once for what may or may not have been sent here."""
        with suppress(LedgerError):  # whatever ends the run is told, not this
            for attempt in self.ledger.attempts(self.run.id, states=[AttemptState.INTENT]):
                self.ledger.drop_lease(attempt, self.owner, now=self.clock())

    def _send(self) -> bool:
        changed = False
        waiting = len(self.ledger.attempts(self.run.id, states=[AttemptState.POSTED]))
        for chunk in self.ledger.chunks(self.run.id, states=[ChunkState.UNSENT]):
            if not self.service.is_local and waiting >= self.rules.max_in_flight:
                break
            if not self._may_post():
                break
            self.check()
            session = None
            if self.rules.mode != "job" and not self.service.is_local:
                session = self._session()
                if session is None:  # another process is opening it
                    break
            try:
                attempt = self.ledger.claim_intent(
                    chunk,
                    self.owner,
                    now=self.clock(),
                    lease_seconds=self._lease_seconds,
                    reserve_seconds=self._cap(chunk),
                    session=None if session is None else session.id,
                )
            except BudgetError as error:
                if not waiting:
                    raise
                # What is under way holds back its caps; its real usage may leave enough.
                self.problems[f"chunk {chunk.id}"] = str(error)
                break
            if attempt is None:  # somebody else is at it
                continue
            waiting += self._post(attempt, chunk, None if session is None else session.session_id)
            changed = True
            if self.service.is_local:
                self.collect()
        return changed

    def _cap(self, chunk: Chunk) -> int:
        if self.service.is_local:
            return 0
        if chunk.predicted_seconds is None:
            return LONGEST_JOB_SECONDS
        return min(math.ceil(chunk.predicted_seconds * self.rules.margin), LONGEST_JOB_SECONDS)

    def _may_post(self) -> bool:
        """Whether the service takes another POST within this minute."""
        if self.service.is_local:
            return True
        now = self.clock()
        self._posts = [time for time in self._posts if now - time < 60]
        others = [
            attempt
            for attempt in self.ledger.attempts(self.run.id)
            if attempt.post_begun_at is not None
            and attempt.post_begun_by != self.owner
            and now - attempt.post_begun_at < 60
        ]
        return len(self._posts) + len(others) < self.rules.posts_per_minute

    def _session(self) -> Session | None:
        """The open batch or session of the run; None: another process is opening it."""
        mode, now = self.rules.mode, self.clock()
        for session in self.ledger.sessions(self.run.id):
            if session.closed_at is not None:
                continue
            if session.session_id is not None:
                return session
            is_lost = now - session.opened_at >= self.rules.lookup_interval_seconds
            if session.owner != self.owner and not is_lost:
                self.problems[mode] = f"Another process is opening a {mode}."
                return None
            self.ledger.close_session(session, now=now, usage_seconds=0.0)  # no job is in it
        made = self.ledger.open_session(
            self.run.id, mode, self.owner, now=now, reserve_seconds=self._session_cap()
        )
        if made is None:
            return None
        try:
            session_id = self.service.open_session(mode, made.reserved_seconds or None)
        except EngineError as error:
            self.ledger.close_session(made, now=self.clock(), usage_seconds=0.0)
            raise type(error)(f"Run {self.run.name!r}: {error}") from error
        try:
            return self.ledger.record_session(made, session_id)
        except LedgerConflictError:  # it took so long that somebody else opened another one
            self.service.close_session(session_id)
            return None

    def _session_cap(self) -> int:
        if self.rules.mode != "session":
            return 0
        left = self.ledger.budget(self.run.id).left_seconds
        # At least 1: the ledger then tells that the budget is used up.
        return (
            LONGEST_SESSION_SECONDS
            if left is None
            else max(1, min(int(left), LONGEST_SESSION_SECONDS))
        )

    def _post(self, attempt: Attempt, chunk: Chunk, session_id: str | None) -> bool:
        """POST an attempt that is ours; whether there is a job now."""
        payload = self.payload(chunk)
        begun = self.ledger.begin_post(
            attempt,
            self.owner,
            now=self.clock(),
            lease_seconds=self._lease_seconds,
            lookup_interval_seconds=self._lookup_interval,
        )
        if not begun:
            return False
        self._posts.append(self.clock())
        try:
            job_id = self.service.send(
                payload.prepared,
                payload.rows,
                payload.precision,
                tag=attempt.tag,
                cap_seconds=max(1, attempt.reserved_seconds),
                session_id=session_id,
                seed=self._seed(chunk, payload),
            )
        except SessionEnded as error:
            self.ledger.release_intent(attempt, self.owner, str(error))
            self._close_session(attempt)
            return False
        except JobRefused as error:
            self.ledger.release_intent(attempt, self.owner, str(error))
            if error.is_rate_limit:
                self._posts = [self.clock()] * self.rules.posts_per_minute
                self._note(attempt.tag, error)
                return False
            raise JobRefused(
                f"{self._about(chunk)}: the service refused the job {attempt.tag}, so there is "
                f"none. {error} Once the cause is gone, run the same again."
            ) from error
        except JobUnclear as error:
            self._note(attempt.tag, error)
            # This POST is over: whoever comes next may look for its job.
            self.ledger.drop_lease(attempt, self.owner, now=self.clock())
            return False
        # A POST that the client repeated after a 504 may have made two jobs.
        found = self._listed(attempt.tag)
        return self._record(attempt, found if job_id in found else [*found, job_id])

    def _about(self, chunk: Chunk) -> str:
        return f"Run {self.run.name!r}, layer {chunk.layer!r}, chunk {chunk.id}"

    def _note(self, what: str, error: Exception) -> None:
        self.problems[what] = str(error)
        logger.warning("run %s: %s: %s", self.run.name, what, error)

    @property
    def _lease_seconds(self) -> float:
        return LOCAL_LEASE_SECONDS if self.service.is_local else self.rules.lease_seconds

    @property
    def _lookup_interval(self) -> float:
        return 0.0 if self.service.is_local else self.rules.lookup_interval_seconds

    def _seed(self, chunk: Chunk, payload: Payload) -> int:
        """One for each chunk, whoever runs it; without a seed, another in every run."""
        seed = uuid.UUID(self.run.id).int if self.seed is None else self.seed
        place = [zlib.crc32(chunk.layer.encode()), payload.start, chunk.row_start]
        return int(np.random.SeedSequence([seed, *place]).generate_state(1)[0])

    def _listed(self, tag: str) -> list[str]:
        try:
            return self.service.find(tag)
        except FetchError as error:
            self._note(tag, error)
            return []

    def _record(self, attempt: Attempt, job_ids: list[str]) -> bool:
        recorded = self.ledger.record_job(
            attempt, self.owner, job_ids[0], now=self.clock(), duplicates=job_ids[1:]
        )
        logger.info("run %s: %s is job %s", self.run.name, attempt.tag, recorded.attempt.job_id)
        return recorded.is_kept

    def _close_session(self, attempt: Attempt) -> None:
        for session in self.ledger.sessions(self.run.id):
            if session.id == attempt.session and session.closed_at is None:
                self._end(session)

    def _end(self, session: Session) -> None:
        usage = None
        if session.session_id is not None:
            with suppress(FetchError):  # asked again in the next step
                usage = self.service.session_seconds(session.session_id)
        self.ledger.close_session(session, now=self.clock(), usage_seconds=usage)

    def finish(self) -> None:
        """Close the batch or session of a run that has nothing left to send or to wait for."""
        states = [ChunkState.UNSENT, ChunkState.OPEN]
        if self.service.is_local or self.ledger.chunks(self.run.id, states=states):
            return
        for session in self.ledger.sessions(self.run.id):
            if session.closed_at is None and session.session_id is not None:
                self.service.close_session(session.session_id)
                self._end(session)

    def _resolve(self) -> bool:
        """Intents of ours that are unclear, and those whose owner is gone: is there a job?"""
        changed = False
        for attempt in self.ledger.attempts(self.run.id, states=[AttemptState.INTENT]):
            now = self.clock()
            held = attempt
            if attempt.owner != self.owner:
                taken = self.ledger.take_over(
                    attempt, self.owner, now=now, lease_seconds=self._lease_seconds
                )
                if taken is None:
                    continue
                held = taken
            changed |= self._look_up(held)
        return changed

    def _look_up(self, attempt: Attempt) -> bool:
        if attempt.post_begun_at is not None:
            try:
                found = self.service.find(attempt.tag)
            except FetchError as error:
                self._note(attempt.tag, error)
                return False
            if found:
                return self._record(attempt, found)
            self.ledger.note_empty_lookup(attempt, self.owner, now=self.clock())
        chunk = self.ledger.get_chunk(attempt.chunk_id)
        if not self._may_post():
            return False
        session_id = None
        for session in self.ledger.sessions(self.run.id):
            if session.id == attempt.session:
                session_id = session.session_id
        try:
            return self._post(attempt, chunk, session_id)
        except LedgerConflictError:  # the second look-up comes later
            self.problems[attempt.tag] = (
                "The service may have accepted this job, and does not list it (yet). It is looked "
                f"up again after {self._lookup_interval:g} s before it is sent anew."
            )
            return False

    def collect(self) -> bool:
        """Store what has ended; whether anything had."""
        changed = False
        for attempt in self.ledger.attempts(self.run.id, states=[AttemptState.POSTED]):
            self.check()
            held = self.service.is_local and attempt.lease_expires_at > self.clock()
            if held and attempt.owner != self.owner:
                continue  # the process that has its result stores it
            try:
                changed |= self._collect_one(attempt)
            except FetchError as error:
                self._note(f"job {attempt.job_id}", error)
        return changed

    def _collect_one(self, attempt: Attempt) -> bool:
        assert attempt.job_id is not None
        status = self.service.status(attempt.job_id)
        if status.state == "waiting":
            return False
        chunk = self.ledger.get_chunk(attempt.chunk_id)
        if status.state == "done":
            payload = self.payload(chunk)
            num_observables = len(payload.prepared.template.observables)
            data = self.service.result(attempt.job_id)
            try:
                evs = evs_from_data(data, chunk.num_rows, num_observables)
            except EngineError as error:  # it would be the same if it were fetched again
                self._fail(attempt, status, str(error), retry=False)
                return True
            self.ledger.store_result(
                attempt,
                evs,
                stds_from_data(data, chunk.num_rows, num_observables),
                shots=payload.shots,
                usage_seconds=status.usage_seconds,
                now=self.clock(),
            )
            others = self._listed(attempt.tag)
            if len(others) > 1:
                self.ledger.note_duplicates(attempt, others, now=self.clock())
            return True
        # The service charges nothing for its own errors; what it charges for would fail again.
        retry = attempt.number < self.rules.max_attempts and not status.ran_too_long
        retry = retry and not (status.state == "failed" and status.usage_seconds)
        told = status.error or f"it is {status.state}."
        self._fail(attempt, status, told, retry=retry or self.service.is_local)
        return True

    def _fail(self, attempt: Attempt, status: JobStatus, error: str, *, retry: bool) -> None:
        self.ledger.fail_attempt(
            attempt,
            usage_seconds=status.usage_seconds,
            error=error,
            retry=retry,
            now=self.clock(),
        )

    def _cancel_duplicates(self) -> bool:
        changed = False
        for job in self.ledger.jobs_to_cancel(self.run.id):
            if job.is_duplicate:
                logger.warning(
                    "run %s: %s is a duplicate of job %s (%s); it is cancelled",
                    self.run.name,
                    job.job_id,
                    job.attempt.job_id,
                    job.attempt.tag,
                )
                self.service.cancel(job.job_id)
                try:
                    status = self.service.status(job.job_id)
                except FetchError as error:
                    self._note(f"duplicate job {job.job_id}", error)
                    continue
                if status.state == "waiting":  # it runs, or could not be reached
                    continue
                self.ledger.note_duplicate_cancelled(
                    self.run.id,
                    job.job_id,
                    now=self.clock(),
                    usage_seconds=status.usage_seconds,
                )
                changed = True
        return changed

    def _settle(self) -> bool:
        """Usage that was not known when a job or session ended."""
        changed = False
        ended = [AttemptState.DONE, AttemptState.FAILED, AttemptState.CANCELLED]
        for attempt in self.ledger.attempts(self.run.id, states=ended):
            if attempt.usage_seconds is None and attempt.job_id is not None:
                usage = self._asked(
                    f"job {attempt.job_id}",
                    lambda job: self.service.status(job).usage_seconds,
                    attempt.job_id,
                )
                if usage is not None:
                    self.ledger.record_usage(attempt, usage)
                    changed = True
        for duplicate in self.ledger.duplicates(self.run.id):
            if duplicate.cancelled_at is not None and duplicate.usage_seconds is None:
                usage = self._asked(
                    f"duplicate job {duplicate.job_id}",
                    lambda job: self.service.status(job).usage_seconds,
                    duplicate.job_id,
                )
                if usage is not None:
                    self.ledger.note_duplicate_cancelled(
                        self.run.id, duplicate.job_id, now=self.clock(), usage_seconds=usage
                    )
                    changed = True
        for session in self.ledger.sessions(self.run.id):
            is_known = session.usage_seconds is not None or session.mode == "batch"
            if session.closed_at is not None and session.session_id is not None and not is_known:
                usage = self._asked(
                    f"session {session.session_id}",
                    self.service.session_seconds,
                    session.session_id,
                )
                if usage is not None:
                    self.ledger.close_session(session, now=self.clock(), usage_seconds=usage)
                    changed = True
        return changed

    def _asked(self, what: str, question: Callable[[str], float | None], name: str) -> float | None:
        try:
            return question(name)
        except FetchError as error:
            self._note(what, error)
            return None
