"""What a run has used of its QPU time and what is held back for what is under way.

An attempt holds back its cap until its real usage is known, whatever became of it; then the usage
counts, even where it exceeds the cap. What a session pays is counted at the session.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from sqlalchemy import Connection, select

from hardware_runs.ledger import schema
from hardware_runs.ledger.records import (
    OPEN_STATES,
    Attempt,
    AttemptState,
    Budget,
    Duplicate,
    Session,
)
from hardware_runs.ledger.store import load_attempts, load_duplicates, load_sessions, run_name
from qpc_qiskit.errors import BudgetError


def budget_of(
    limit: float | None,
    attempts: Iterable[Attempt],
    duplicates: Iterable[Duplicate],
    sessions: Iterable[Session],
) -> Budget:
    """QPU time of a run: allowed, held back and used.

    Args:
        limit: seconds; None: none.
        attempts: all of the run.
        duplicates: likewise.
        sessions: likewise.
    """
    times = list(_times(attempts, duplicates, sessions))
    return Budget(
        max_qpu_seconds=limit,
        reserved_seconds=math.fsum(_held(*each) for each in times),
        used_seconds=math.fsum(usage or 0.0 for _, usage, _ in times),
    )


def check_budget(connection: Connection, run_id: str, more_seconds: int) -> None:
    """Check that more can be held back; the transaction must be alone on the run.

    Raises:
        BudgetError: it cannot.
    """
    table = schema.revisions.c
    newest = select(table.max_qpu_seconds).where(table.run_id == run_id)
    budget = budget_of(
        connection.scalar(newest.order_by(table.number.desc()).limit(1)),
        load_attempts(connection, schema.attempts.c.run_id == run_id),
        load_duplicates(connection, run_id),
        load_sessions(connection, run_id),
    )
    if budget.left_seconds is not None and more_seconds > budget.left_seconds:
        raise BudgetError(
            f"Run {run_name(connection, run_id)!r}: {more_seconds} s more would exceed its budget "
            f"of {budget.max_qpu_seconds:g} s ({budget.used_seconds:g} s are used, "
            f"{budget.reserved_seconds:g} s are reserved for what is under way). Nothing was sent. "
            "Wait for what is under way, or add a revision with a larger budget."
        )


def _times(
    attempts: Iterable[Attempt], duplicates: Iterable[Duplicate], sessions: Iterable[Session]
) -> Iterator[tuple[int, float | None, bool]]:
    """Cap and usage of everything that counts, and whether it is over."""
    paying = {each.id: each for each in attempts if not each.is_billed_by_session}
    for attempt in paying.values():
        if attempt.state != AttemptState.RELEASED:
            is_over = attempt.state not in OPEN_STATES
            yield attempt.reserved_seconds, attempt.usage_seconds, is_over
    for each in duplicates:  # sent with the cap of its attempt
        if each.attempt_id in paying:
            yield paying[each.attempt_id].reserved_seconds, each.usage_seconds, True
    for session in sessions:
        if session.mode == "session":
            yield session.reserved_seconds, session.usage_seconds, session.closed_at is not None


def _held(cap: int, usage: float | None, is_over: bool) -> float:
    """The larger of cap and usage counts until it is over and its usage known."""
    return 0.0 if is_over and usage is not None else max(cap - (usage or 0.0), 0.0)
