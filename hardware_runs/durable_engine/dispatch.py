"""Sending chunks exactly once.

Every effect is passed in (ledger, service, clock), every step is a transaction of the ledger or a
call of the service, and nothing is remembered between steps that a crash must not lose: a process
that starts anew does what the ledger says is left to do.
"""

from __future__ import annotations

import logging
import threading
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from hardware_runs.durable_engine.collecting import Collector, Payload
from hardware_runs.durable_engine.known import KnownRun
from hardware_runs.durable_engine.owners import is_gone
from hardware_runs.durable_engine.problems import Problems
from hardware_runs.durable_engine.services import JobService
from hardware_runs.durable_engine.sessions import RunSessions
from hardware_runs.ledger import (
    LOOKUP_INTERVAL_SECONDS,
    Attempt,
    AttemptState,
    Chunk,
    ChunkState,
    Session,
)
from qpc_qiskit.devices.forecast import MARGIN, cap_seconds
from qpc_qiskit.errors import (
    BudgetError,
    FetchError,
    JobDeferred,
    JobRefused,
    JobUnclear,
    LedgerConflictError,
    LedgerError,
    SessionEnded,
)

logger = logging.getLogger(__name__)

POSTS_PER_MINUTE = 5
"""What the service takes from one user."""
LEASE_SECONDS = 7200.0
"""Longer than a POST can last: a timeout of 900 s, six times, with pauses."""
LOCAL_LEASE_SECONDS = 60.0
"""On this machine; renewed while a job runs."""
CLAIM_SECONDS = 120.0
"""From a claim to its POST: nothing but circuits and rows are read."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How a run's jobs are sent."""

    mode: str = "job"
    """job, batch or session."""
    max_in_flight: int = 4
    """Jobs that may wait at the service."""
    max_attempts: int = 3
    """Of a chunk whose job failed by a fault of the service."""
    posts_per_minute: int = POSTS_PER_MINUTE
    lease_seconds: float = LEASE_SECONDS
    lookup_interval_seconds: float = LOOKUP_INTERVAL_SECONDS
    margin: float = MARGIN
    """A job may take this many times its forecast before the service ends it."""


@dataclass(eq=False)
class Dispatcher:
    """Sends and collects the chunks of a run.

    Args:
        known: the run.
        service: where its jobs are done.
        payload: of a chunk.
        rules: how they are sent.
        owner: unique to this process and start.
        clock: seconds since the epoch.
        seed: of simulated shots.
        check: called before each job is sent or looked at; may raise to stop cleanly.
        may_send: whether the circuit of a chunk can be sent as it was frozen.
        revise: called before chunks are sent; may move them to another revision, or deal their rows
            anew.
    """

    known: KnownRun
    service: JobService
    payload: Callable[[Chunk], Payload]
    rules: Rules
    owner: str
    clock: Callable[[], float]
    seed: int | None = None
    check: Callable[[], None] = lambda: None
    may_send: Callable[[Chunk], bool] = lambda chunk: True
    revise: Callable[[], None] = lambda: None
    problems: Problems = field(init=False)
    """What stands in the way, since the last `step` began."""
    collector: Collector = field(init=False, repr=False)
    sessions: RunSessions = field(init=False, repr=False)
    _posts: list[float] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        self.problems = Problems(self.known.run.name)
        self.collector = Collector(
            known=self.known,
            service=self.service,
            payload=self.payload,
            owner=self.owner,
            clock=self.clock,
            max_attempts=self.rules.max_attempts,
            problems=self.problems,
            check=self.check,
        )
        self.sessions = RunSessions(
            known=self.known,
            service=self.service,
            mode=self.rules.mode,
            owner=self.owner,
            clock=self.clock,
            lookup_interval_seconds=self.rules.lookup_interval_seconds,
            problems=self.problems,
        )

    def step(self) -> bool:
        """Read the ledger anew, then collect what is done, clear up what is unclear, and send.

        Returns:
            Whether anything changed.

        Raises:
            BudgetError: the next job would exceed the budget.
            EngineError: the service refuses jobs.
        """
        self.problems.clear()
        self.known.renew()
        changed = self.collect()
        if self.resolve():
            changed = True
            if self.service.is_local:
                self.collect()
        self.collector.cancel_unwanted()
        changed |= self.collector.settle()
        changed |= self.sessions.settle()
        return self.send() or changed

    def collect(self) -> bool:
        """Store what has ended, and send nothing; whether anything had."""
        return self.collector.collect()

    def finish(self) -> None:
        """Close the batch or session of a run that has nothing left to send or to wait for."""
        self.sessions.finish()

    def leave(self) -> None:
        """Let others look at once for what may or may not have been sent here."""
        with suppress(LedgerError):  # whatever ends the run is told, not this
            for attempt in self.known.state.attempts(states=[AttemptState.INTENT]):
                self.known.ledger.drop_lease(attempt, self.owner, now=self.clock())

    def send(self) -> bool:
        """Send what may be sent, without asking what became of the rest; whether anything was.

        Raises:
            BudgetError: the next job would exceed the budget.
            EngineError: the service refuses jobs.
        """
        if not self.known.state.chunks(states=[ChunkState.UNSENT]):
            return False
        self.revise()
        changed = False
        for chunk in self.known.state.chunks(states=[ChunkState.UNSENT]):
            waiting = 0 if self.service.is_local else self._num_waiting()
            if waiting >= self.rules.max_in_flight or not self._may_post():
                break
            self.check()
            if not self.may_send(chunk):
                told = "Its circuit is to be placed anew before it is sent."
                self.problems.note(f"chunk {chunk.id}", told)
                continue
            try:
                claimed = self._claim(chunk)
            except BudgetError as error:
                if not waiting:
                    raise
                # What is under way holds back its caps; its real usage may leave enough.
                self.problems.note(f"chunk {chunk.id}", error)
                break
            if claimed is None:  # no session now, and `problems` says why
                break
            attempt, session = claimed
            if attempt is None:  # somebody else is at it
                continue
            posted = self._post(attempt, chunk, None if session is None else session.session_id)
            changed = True
            if posted is not None and self.service.is_local:
                self.collector.collect_one(posted, chunk)
        return changed

    def _num_waiting(self) -> int:
        return len(self.known.state.attempts(states=[AttemptState.POSTED]))

    def _claim(self, chunk: Chunk) -> tuple[Attempt | None, Session | None] | None:
        """Claim a chunk, in the open session where there are such; None: there is none now."""
        session = None
        for is_last in (False, True):
            if self.rules.mode != "job" and not self.service.is_local:
                session = self.sessions.current()
                if session is None:
                    return None
            try:
                attempt = self.known.ledger.claim_intent(
                    chunk,
                    self.owner,
                    now=self.clock(),
                    lease_seconds=min(CLAIM_SECONDS, self._lease_seconds),
                    reserve_seconds=self._cap(chunk),
                    session=None if session is None else session.id,
                )
                return attempt, session
            except LedgerConflictError:
                if session is None or is_last:
                    raise
                # Another process found it closed a moment ago: there will be another one.
        return None

    def _cap(self, chunk: Chunk) -> int:
        """The job's whole share of the budget."""
        if self.service.is_local:
            return 0
        return cap_seconds(chunk.predicted_seconds, self.rules.margin)

    def _may_post(self) -> bool:
        """Whether the service takes another POST within this minute."""
        if self.service.is_local:
            return True
        now = self.clock()
        self._posts = [time for time in self._posts if 0 <= now - time < 60]
        others = [
            attempt
            for attempt in self.known.state.all_attempts
            if attempt.post_begun_at is not None
            and attempt.post_begun_by != self.owner
            and 0 <= now - attempt.post_begun_at < 60
        ]
        if len(self._posts) + len(others) < self.rules.posts_per_minute:
            return True
        told = f"{self.rules.posts_per_minute} jobs a minute are sent; the next ones follow."
        self.problems.note("pace", told)
        return False

    def _post(self, attempt: Attempt, chunk: Chunk, session_id: str | None) -> Attempt | None:
        """POST an attempt that is ours; as it is with its job, None: there is none (yet)."""
        payload = self.payload(chunk)
        begun = self.known.ledger.begin_post(
            attempt,
            self.owner,
            now=self.clock(),
            lease_seconds=self._lease_seconds,
            lookup_interval_seconds=self._lookup_interval,
        )
        if not begun:
            return None
        self._posts.append(self.clock())
        try:
            with self._kept(attempt):
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
            self.known.ledger.release_intent(attempt, self.owner, str(error))
            self.sessions.end(attempt)
            return None
        except JobDeferred as error:
            self.known.ledger.release_intent(attempt, self.owner, str(error))
            if error.is_rate_limit:
                self._posts = [self.clock()] * self.rules.posts_per_minute
            self.problems.note(attempt.tag, error)
            return None
        except JobRefused as error:
            self.known.ledger.release_intent(attempt, self.owner, str(error))
            raise JobRefused(
                f"Run {self.known.run.name!r}, layer {chunk.layer!r}, chunk {chunk.id}: the "
                f"service refused the job {attempt.tag}, so there is none. {error} Once the cause "
                "is gone, run the same again."
            ) from error
        except JobUnclear as error:
            self.problems.note(attempt.tag, error)
            # This POST is over: whoever comes next may look for its job.
            self.known.ledger.drop_lease(attempt, self.owner, now=self.clock())
            return None
        # A POST that the client repeated after a 504 may have made two jobs.
        found = self._listed(attempt.tag)
        return self._record(attempt, found if job_id in found else [*found, job_id])

    @contextmanager
    def _kept(self, attempt: Attempt) -> Iterator[None]:
        """Renew the lease of a job on this machine while it runs, however long."""
        if not self.service.is_local:  # a lease outlasts every POST
            yield
            return
        is_over = threading.Event()

        def renew() -> None:
            while not is_over.wait(LOCAL_LEASE_SECONDS / 3):
                with suppress(LedgerError):  # then it ends, and at worst two compute the same
                    self.known.ledger.renew_lease(
                        attempt, self.owner, now=self.clock(), lease_seconds=LOCAL_LEASE_SECONDS
                    )

        thread = threading.Thread(target=renew, daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()

    @property
    def _lease_seconds(self) -> float:
        return LOCAL_LEASE_SECONDS if self.service.is_local else self.rules.lease_seconds

    @property
    def _lookup_interval(self) -> float:
        return 0.0 if self.service.is_local else self.rules.lookup_interval_seconds

    def _seed(self, chunk: Chunk, payload: Payload) -> int:
        """One for each chunk, whoever runs it; without a seed, another in every run."""
        seed = uuid.UUID(self.known.run.id).int if self.seed is None else self.seed
        place = [zlib.crc32(chunk.layer.encode()), payload.start, chunk.row_start]
        return int(np.random.SeedSequence([seed, *place]).generate_state(1)[0])

    def _listed(self, tag: str) -> list[str]:
        try:
            return self.service.find(tag)
        except FetchError as error:
            self.problems.note(tag, error)
            return []

    def _record(self, attempt: Attempt, job_ids: list[str]) -> Attempt | None:
        """Record the jobs of an attempt; as it is then, None: another job than the first counts."""
        recorded = self.known.ledger.record_job(
            attempt, self.owner, job_ids[0], now=self.clock(), duplicates=job_ids[1:]
        )
        logger.info(
            "run %s: %s is job %s", self.known.run.name, attempt.tag, recorded.attempt.job_id
        )
        if recorded.to_cancel and not self.service.is_local:
            self.collector.cancel_unwanted()  # a process that sends may end right after it
        return recorded.attempt if recorded.is_kept else None

    def resolve(self) -> bool:
        """Intents of ours that are unclear, and those whose owner is gone: is there a job?"""
        changed = False
        for attempt in self.known.state.attempts(states=[AttemptState.INTENT]):
            held = attempt
            if attempt.owner != self.owner:
                taken = self.known.ledger.take_over(
                    attempt,
                    self.owner,
                    now=self.clock(),
                    lease_seconds=self._lease_seconds,
                    is_owner_gone=is_gone,
                )
                if taken is None:
                    changed |= self._watch(attempt)
                    continue
                held = taken
            changed |= self._look_up(held)
        return changed

    def _watch(self, attempt: Attempt) -> bool:
        """Somebody else's intent: its job may be there, whether or not he still is."""
        until = datetime.fromtimestamp(attempt.lease_expires_at, UTC).isoformat(timespec="seconds")
        self.problems.note(
            attempt.tag,
            f"Another process ({attempt.owner}) may be sending it. If that one is gone, the job is "
            f"looked for, and sent from {until} on if there is none.",
        )
        begun = attempt.post_begun_at
        if self.service.is_local or begun is None or self.clock() - begun < self._lookup_interval:
            return False
        found = self._listed(attempt.tag)
        return bool(found) and self._record(attempt, found) is not None

    def _look_up(self, attempt: Attempt) -> bool:
        if attempt.post_begun_at is not None:
            try:
                found = self.service.find(attempt.tag)
            except FetchError as error:
                self.problems.note(attempt.tag, error)
                return False
            if found:
                return self._record(attempt, found) is not None
            self.known.ledger.note_empty_lookup(attempt, self.owner, now=self.clock())
        try:
            state = self.known.renew()
            if state.run.cancelled_at is not None:
                self.known.ledger.cancel_attempt(
                    attempt,
                    usage_seconds=0.0,
                    now=self.clock(),
                    owner=self.owner,
                    lookup_interval_seconds=self._lookup_interval,
                )
                return True
            if not self._may_post():
                return False
            session = state.session_of(attempt)
            chunk = state.chunk(attempt.chunk_id)
            session_id = None if session is None else session.session_id
            return self._post(attempt, chunk, session_id) is not None
        except LedgerConflictError:  # the second look-up comes later
            self.problems.note(
                attempt.tag,
                "The service may have accepted this job, and does not list it (yet). It is looked "
                f"up again {self._lookup_interval:g} s later; if it is not there then, there is "
                "no job.",
            )
            return False
