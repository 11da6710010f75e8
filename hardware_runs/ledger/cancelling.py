"""Cancelling a run: nothing more is sent, and what may still be executed is known."""

from __future__ import annotations

from sqlalchemy import select, update

from hardware_runs.ledger import schema
from hardware_runs.ledger.records import AttemptState, ChunkState
from hardware_runs.ledger.store import (
    Store,
    load_attempts,
    set_chunk_state,
    update_attempt,
)
from qpc_qiskit.errors import LedgerError


class Cancelling(Store):
    """Methods of the ledger on cancelled runs and duplicate jobs."""

    def cancel_run(self, run_id: str, *, now: float, reason: str) -> None:
        """Let nothing more be sent for a run; intents that no POST was begun for are given up.

        Jobs are not cancelled by this: ask the service, then report each with `cancel_attempt` or
        `note_duplicate_cancelled`. Intents whose POST has begun stay: look their tags up.
        `RunState.jobs_to_cancel` are the jobs.
        """
        runs, attempts = schema.runs, schema.attempts.c
        with self._writing(run_id) as connection:
            connection.execute(
                update(runs)
                .where(runs.c.id == run_id, runs.c.cancelled_at.is_(None))
                .values(cancelled_at=now, cancel_reason=reason)
            )
            never_posted = load_attempts(
                connection,
                attempts.run_id == run_id,
                attempts.state == AttemptState.INTENT,
                attempts.post_begun_at.is_(None),
            )
            for attempt in never_posted:
                update_attempt(
                    connection,
                    attempt,
                    state=AttemptState.CANCELLED,
                    usage_seconds=0.0,
                    error=reason,
                    finished_at=now,
                )
                set_chunk_state(connection, attempt.chunk_id, ChunkState.UNSENT)

    def resume_run(self, run_id: str) -> bool:
        """Let a cancelled run be sent again; False: it was not cancelled."""
        runs = schema.runs
        with self._writing(run_id) as connection:
            resumed = connection.execute(
                update(runs)
                .where(runs.c.id == run_id, runs.c.cancelled_at.is_not(None))
                .values(cancelled_at=None, cancel_reason=None)
            )
            return resumed.rowcount == 1

    def note_duplicate_cancelled(
        self, run_id: str, job_id: str, *, now: float, usage_seconds: float | None
    ) -> None:
        """Record that a duplicate is cancelled, or ended by itself, or what it has used.

        Args:
            run_id: of its run.
            job_id: of the duplicate.
            now: seconds since the epoch.
            usage_seconds: real QPU time; None: not known yet, the cap of its attempt counts.
        """
        if usage_seconds is not None and not usage_seconds >= 0:
            raise ValueError(f"Expected usage_seconds >= 0, or None; got {usage_seconds}.")
        table = schema.duplicates
        where = (table.c.run_id == run_id) & (table.c.job_id == job_id)
        with self._writing(run_id) as connection:
            row = connection.execute(select(table).where(where)).one_or_none()
            if row is None:
                raise LedgerError(f"Ledger {self.name}: job {job_id} is no duplicate of this run.")
            connection.execute(
                update(table)
                .where(where)
                .values(
                    cancelled_at=now if row.cancelled_at is None else row.cancelled_at,
                    usage_seconds=row.usage_seconds if usage_seconds is None else usage_seconds,
                )
            )
