"""Jobs: what was posted for an attempt, and how it ended."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, insert, select

from hardware_runs.ledger import schema
from hardware_runs.ledger.intents import LOOKUP_INTERVAL_SECONDS
from hardware_runs.ledger.records import Attempt, AttemptState, ChunkState, RecordedJob
from hardware_runs.ledger.store import (
    Store,
    describe_chunk,
    is_cancelled,
    load_attempt,
    load_chunk,
    set_chunk_state,
    update_attempt,
)
from qpc_qiskit.errors import LedgerConflictError


class Jobs(Store):
    """Methods of the ledger on attempts that have a job."""

    def record_job(
        self,
        attempt: Attempt,
        owner: str,
        job_id: str,
        *,
        now: float,
        duplicates: Sequence[str] = (),
    ) -> RecordedJob:
        """Record the job of an attempt, posted or found by its tag; as often as one likes.

        The first that is recorded counts. Any other is a duplicate, to be cancelled: also when the
        lease was lost, and somebody else posted or finished the attempt meanwhile.

        Args:
            attempt: claimed, by whomever.
            owner: who reports it.
            job_id: of the job.
            now: seconds since the epoch.
            duplicates: further jobs with the same tag.

        Raises:
            LedgerConflictError: this owner did not call `begin_post` before.
        """
        with self._writing(attempt.run_id) as connection:
            stored = load_attempt(connection, attempt.id)
            is_own = stored.state == AttemptState.INTENT and stored.owner == owner
            if is_own and stored.post_begun_at is None:
                raise LedgerConflictError(
                    f"A job {job_id} is reported for {stored.tag}, but begin_post was not called "
                    "before its POST: a crash in between would have posted it twice."
                )
            if _may_take_job(connection, stored) and job_id not in stored.duplicates:
                stored = update_attempt(
                    connection, stored, state=AttemptState.POSTED, job_id=job_id, posted_at=now
                )
                set_chunk_state(connection, stored.chunk_id, ChunkState.OPEN)
            others = [job for job in (job_id, *duplicates) if job != stored.job_id]
            _note_duplicates(connection, stored, others, now)
            is_kept = stored.job_id == job_id
            is_over = is_kept and is_cancelled(connection, stored.run_id)
            return RecordedJob(
                attempt=load_attempt(connection, stored.id),
                is_kept=is_kept,
                to_cancel=(
                    *([job_id] if is_over else []),
                    *_not_cancelled(connection, stored.id),
                ),
            )

    def note_duplicates(
        self, attempt: Attempt, job_ids: Sequence[str], *, now: float
    ) -> tuple[str, ...]:
        """Record further jobs that a listing has shown under the tag of an attempt with a job.

        Returns:
            All duplicates of the attempt that are not known to be cancelled.
        """
        with self._writing(attempt.run_id) as connection:
            stored = load_attempt(connection, attempt.id)
            others = [job for job in job_ids if job != stored.job_id]
            _note_duplicates(connection, stored, others, now)
            return _not_cancelled(connection, stored.id)

    def fail_attempt(
        self,
        attempt: Attempt,
        *,
        usage_seconds: float | None,
        error: str,
        retry: bool,
        now: float,
    ) -> Attempt:
        """Record that the job of an attempt failed; the first report counts.

        Args:
            attempt: posted.
            usage_seconds: real QPU time, which replaces the reservation; None: not known yet, the
                reservation stays until `record_usage`.
            error: what the service said.
            retry: whether the chunk may be claimed again, as the next attempt.
            now: seconds since the epoch.

        Returns:
            The attempt as it stands now.

        Raises:
            LedgerConflictError: it has no job, or its result is stored.
        """
        with self._writing(attempt.run_id) as connection:
            stored = load_attempt(connection, attempt.id)
            if stored.state in (AttemptState.FAILED, AttemptState.CANCELLED):
                return _with_usage(connection, stored, usage_seconds)
            if stored.state != AttemptState.POSTED:
                raise _wrong_state(connection, stored, "cannot have failed")
            state = ChunkState.UNSENT if retry else ChunkState.FAILED
            set_chunk_state(connection, stored.chunk_id, state)
            return update_attempt(
                connection,
                stored,
                state=AttemptState.FAILED,
                usage_seconds=_usage(stored, usage_seconds),
                error=error,
                finished_at=now,
            )

    def cancel_attempt(
        self,
        attempt: Attempt,
        *,
        usage_seconds: float | None,
        now: float,
        error: str = "cancelled",
        owner: str | None = None,
        lookup_interval_seconds: float = LOOKUP_INTERVAL_SECONDS,
    ) -> Attempt:
        """Record that the job of an attempt was cancelled; its chunk is unsent again.

        Args:
            attempt: posted; or an intent of `owner` that certainly has no job.
            usage_seconds: real QPU time; None: not known yet.
            now: seconds since the epoch.
            error: why.
            owner: of the intent.
            lookup_interval_seconds: see `begin_post`.

        Returns:
            The attempt as it stands now.

        Raises:
            LedgerConflictError: its result is stored, or its intent is not this owner's, or may
                have been posted.
        """
        with self._writing(attempt.run_id) as connection:
            stored = load_attempt(connection, attempt.id)
            if stored.state in (AttemptState.FAILED, AttemptState.CANCELLED):
                return _with_usage(connection, stored, usage_seconds)
            is_own = stored.state == AttemptState.INTENT and stored.owner == owner
            if stored.state != AttemptState.POSTED and not (
                is_own and owner is not None and stored.is_unposted(owner, lookup_interval_seconds)
            ):
                raise _wrong_state(connection, stored, "cannot be cancelled")
            set_chunk_state(connection, stored.chunk_id, ChunkState.UNSENT)
            return update_attempt(
                connection,
                stored,
                state=AttemptState.CANCELLED,
                usage_seconds=0.0 if is_own else _usage(stored, usage_seconds),
                error=error,
                finished_at=now,
            )

    def record_usage(self, attempt: Attempt, usage_seconds: float) -> Attempt:
        """Record the real QPU time of an attempt, in place of what was known before."""
        with self._writing(attempt.run_id) as connection:
            stored = load_attempt(connection, attempt.id)
            return update_attempt(connection, stored, usage_seconds=_usage(stored, usage_seconds))


def _may_take_job(connection: Connection, attempt: Attempt) -> bool:
    """Whether a job that is reported becomes the one that counts.

    A released attempt may: an owner that lost its lease reports late. Not if its chunk went on
    without it, in another attempt, at another revision, or in chunks that took its place.
    """
    if attempt.job_id is not None:
        return False
    if attempt.state == AttemptState.INTENT:
        return True
    chunk = load_chunk(connection, attempt.chunk_id)
    is_as_it_was = chunk.replaced_at is None and chunk.revision == attempt.revision
    is_waiting = attempt.state == AttemptState.RELEASED and chunk.state == ChunkState.UNSENT
    return is_waiting and is_as_it_was


def _note_duplicates(
    connection: Connection, attempt: Attempt, job_ids: Sequence[str], now: float
) -> None:
    for job_id in dict.fromkeys(job_ids):
        if job_id not in attempt.duplicates:
            connection.execute(
                insert(schema.duplicates).values(
                    job_id=job_id, run_id=attempt.run_id, attempt_id=attempt.id, noticed_at=now
                )
            )


def _not_cancelled(connection: Connection, attempt_id: int) -> tuple[str, ...]:
    table = schema.duplicates.c
    query = select(table.job_id).where(table.attempt_id == attempt_id, table.cancelled_at.is_(None))
    return tuple(connection.scalars(query.order_by(table.noticed_at, table.job_id)))


def _usage(attempt: Attempt, usage_seconds: float | None) -> float | None:
    if usage_seconds is not None and not usage_seconds >= 0:
        raise ValueError(f"Expected usage_seconds >= 0, or None; got {usage_seconds}.")
    return attempt.usage_seconds if usage_seconds is None else float(usage_seconds)


def _with_usage(connection: Connection, attempt: Attempt, usage_seconds: float | None) -> Attempt:
    """A second report adds nothing but a usage that was not known."""
    if attempt.usage_seconds is not None or usage_seconds is None:
        return attempt
    return update_attempt(connection, attempt, usage_seconds=_usage(attempt, usage_seconds))


def _wrong_state(connection: Connection, attempt: Attempt, what: str) -> LedgerConflictError:
    chunk = describe_chunk(connection, load_chunk(connection, attempt.chunk_id))
    job = f"job {attempt.job_id}" if attempt.job_id else "no job"
    return LedgerConflictError(
        f"The {chunk}: attempt {attempt.number} ({job}) is {attempt.state.value!r} with owner "
        f"{attempt.owner!r}, so it {what}. Read it again."
    )
