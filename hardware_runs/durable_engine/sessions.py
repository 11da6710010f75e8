"""The batch or session that a run's jobs are sent in: opened once, found again, closed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from hardware_runs.durable_engine.known import KnownRun
from hardware_runs.durable_engine.problems import Problems
from hardware_runs.durable_engine.services import JobService
from hardware_runs.ledger import Attempt, ChunkState, Session
from qpc_qiskit.errors import EngineError, FetchError, JobDeferred, LedgerConflictError

LONGEST_SESSION_SECONDS = 8 * 3600


@dataclass(eq=False)
class RunSessions:
    """Batches or sessions of a run, one open at a time.

    Args:
        known: the run.
        service: where they are opened.
        mode: batch or session.
        owner: unique to this process and start.
        clock: seconds since the epoch.
        lookup_interval_seconds: after which one whose id was not recorded counts as lost.
        problems: what the service did not answer.
    """

    known: KnownRun
    service: JobService
    mode: str
    owner: str
    clock: Callable[[], float]
    lookup_interval_seconds: float
    problems: Problems

    def current(self) -> Session | None:
        """The open one, opened if need be; None: not now, and `problems` says why.

        Raises:
            BudgetError: the budget leaves no time for a session.
            EngineError: the service refuses.
        """
        ledger, now = self.known.ledger, self.clock()
        for session in self._open:
            if session.session_id is not None:
                return session
            is_lost = now - session.opened_at >= self.lookup_interval_seconds
            if session.owner != self.owner and not is_lost:
                self.problems.note(self.mode, f"Another process is opening a {self.mode}.")
                return None
            ledger.close_session(session, now=now, usage_seconds=0.0)  # no job is in it
        made = ledger.open_session(
            self.known.run.id, self.mode, self.owner, now=now, reserve_seconds=self._cap()
        )
        if made is None:
            self.problems.note(self.mode, f"Another process is opening a {self.mode}.")
            return None
        try:
            session_id = self.service.open_session(self.mode, made.reserved_seconds or None)
        except EngineError as error:
            ledger.close_session(made, now=self.clock(), usage_seconds=0.0)
            if isinstance(error, JobDeferred):
                self.problems.note(self.mode, error)
                return None
            raise type(error)(f"Run {self.known.run.name!r}: {error}") from error
        try:
            return ledger.record_session(made, session_id)
        except LedgerConflictError:  # it took so long that somebody else opened another one
            try:
                self.service.close_session(session_id)
            except FetchError as error:
                self.problems.note(f"{self.mode} {session_id}", error)
            return None

    def _cap(self) -> int:
        if self.mode != "session":
            return 0
        left = self.known.renew().budget.left_seconds
        if left is None:
            return LONGEST_SESSION_SECONDS
        # At least 1: the ledger then tells that the budget is used up.
        return max(1, min(int(left), LONGEST_SESSION_SECONDS))

    @property
    def _open(self) -> list[Session]:
        return [each for each in self.known.state.sessions if each.closed_at is None]

    def end(self, attempt: Attempt) -> None:
        """Record that the one of an attempt takes no more jobs."""
        for session in self._open:
            if session.id == attempt.session:
                self._record_end(session)

    def finish(self) -> None:
        """Close what is open, if nothing is left to send or to wait for."""
        if self._open and not self.known.renew().chunks(
            states=[ChunkState.UNSENT, ChunkState.OPEN]
        ):
            self.close_all()

    def close_all(self) -> None:
        """Close what is open; where the service does not answer it stays to be tried again."""
        self.known.renew()
        for session in self._open:
            self._close(session)

    def _close(self, session: Session) -> None:
        if session.session_id is not None:
            try:
                self.service.close_session(session.session_id)
            except FetchError as error:
                self.problems.note(f"{session.mode} {session.session_id}", error)
                return
        stored = self._record_end(session)
        if stored.closed_at is None:  # its owner has given it an id since it was read
            self._close(stored)

    def settle(self) -> bool:
        """Ask what sessions that have ended are charged; whether anything changed."""
        changed = False
        for session in self.known.state.sessions:
            is_known = session.usage_seconds is not None or session.mode == "batch"
            if session.closed_at is None or session.session_id is None or is_known:
                continue
            try:
                usage = self.service.session_seconds(session.session_id)
            except FetchError as error:
                self.problems.note(f"session {session.session_id}", error)
                continue
            if usage is not None:
                self.known.ledger.close_session(session, now=self.clock(), usage_seconds=usage)
                changed = True
        return changed

    def _record_end(self, session: Session) -> Session:
        usage = None
        if session.session_id is not None:
            with suppress(FetchError):  # asked again by `settle`
                usage = self.service.session_seconds(session.session_id)
        return self.known.ledger.close_session(session, now=self.clock(), usage_seconds=usage)
