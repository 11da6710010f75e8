"""Cancelling a run, and taking that back."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from hardware_runs.checkpoints.checkpoint_runs import reopen
from hardware_runs.durable_engine.status import run_status
from hardware_runs.ledger import AttemptState, ChunkState, Ledger, Run, RunState
from qpc_qiskit.errors import BackendError, FetchError, LedgerError


@dataclass(frozen=True, kw_only=True)
class Cancelled:
    """What cancelling a run did."""

    cancelled: tuple[str, ...]
    """Jobs that the service will not execute any more."""
    not_cancelled: tuple[str, ...]
    """Jobs that it would not cancel: they run, or are done, or it did not answer."""
    unclear: tuple[str, ...]
    """Tags of jobs that may or may not have been accepted, and were not found."""
    problem: str = ""
    """Why nobody could be asked."""


def cancel(
    ledger: Ledger, run: Run, *, reason: str = "cancelled", clock: Callable[[], float] = time.time
) -> Cancelled:
    """Send nothing more for a run, cancel its jobs that wait, and keep its results.

    Asking again is safe, and tries again what could not be cancelled.
    """
    ledger.cancel_run(run.id, now=clock(), reason=reason)
    state = ledger.state(run.id)
    jobs, intents = state.jobs_to_cancel, state.attempts(states=[AttemptState.INTENT])
    is_in_session = any(session.closed_at is None for session in state.sessions)
    if not jobs and not intents and not is_in_session:
        return Cancelled(cancelled=(), not_cancelled=(), unclear=())
    try:
        engine = reopen(ledger, run)
    except BackendError as error:
        waiting = tuple(job.job_id for job in jobs)
        tags = tuple(intent.tag for intent in intents)
        return Cancelled(cancelled=(), not_cancelled=waiting, unclear=tags, problem=str(error))
    service, collector = engine.dispatcher.service, engine.dispatcher.collector
    unclear = []
    for intent in intents:
        found: list[str] = []
        with suppress(FetchError):
            found = service.find(intent.tag)
        if found:
            ledger.record_job(intent, intent.owner, found[0], now=clock(), duplicates=found[1:])
        elif not service.is_local:
            unclear.append(intent.tag)
    done, left = collector.cancel_unwanted()
    if unclear:  # after two look-ups in vain there certainly is no job
        engine.dispatcher.resolve()
        left_over = engine.known.state.attempts(states=[AttemptState.INTENT])
        unclear = [attempt.tag for attempt in left_over]
    engine.dispatcher.sessions.close_all()
    collector.collect()  # what was done before it could be cancelled
    return Cancelled(cancelled=tuple(done), not_cancelled=tuple(left), unclear=tuple(unclear))


def give_up(
    ledger: Ledger, run: Run, job_id: str, *, clock: Callable[[], float] = time.time
) -> None:
    """Wait no more for a job that can never be fetched; its chunk counts as failed.

    Its cap stays taken from the budget until the service says what it has used. The chunk is sent
    again, and paid again, only after `allow_again`.

    Raises:
        LedgerError: the run waits for no such job.
    """
    posted = ledger.state(run.id).attempts(states=[AttemptState.POSTED])
    waiting = {attempt.job_id: attempt for attempt in posted}
    if job_id not in waiting:
        names = ", ".join(str(name) for name in waiting) or "no job"
        raise LedgerError(
            f"Run {run.name!r} does not wait for a job {job_id!r}; it waits for {names}."
        )
    ledger.fail_attempt(
        waiting[job_id],
        usage_seconds=None,
        error="it was given up by the user.",
        retry=False,
        now=clock(),
    )


def allow_again(ledger: Ledger, run: Run) -> None:
    """Let a cancelled run be sent again, and chunks that failed for good be tried again."""
    ledger.resume_run(run.id)
    ledger.retry_failed_chunks(run.id)


def needs_again(state: RunState) -> str | None:
    """Why a run does not go on by itself; None: it does, or is done."""
    if run_status(state).state == "done":
        return None
    run = state.run
    advice = f"`qpc run resume {run.name} --again`"
    if run.cancelled_at is not None:
        return f"Run {run.name!r} was cancelled. {advice} lets it be sent again."
    failed = state.chunks(states=[ChunkState.FAILED])
    if failed:
        last = state.attempts(chunk_id=failed[0].id)[-1]
        return (
            f"Run {run.name!r}, {failed[0].layer}, chunk {failed[0].id}: job {last.job_id} failed "
            f"in attempt {last.number}: {last.error} The other results are kept; {advice} pays for "
            "another attempt."
        )
    return None
