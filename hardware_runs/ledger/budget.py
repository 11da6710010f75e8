"""What a run has used of its QPU time and what is held back for what is under way.

An attempt holds back its cap until its real usage is known, whatever became of it; then the usage
counts, even where it exceeds the cap. What a session pays is counted at the session.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from sqlalchemy import Connection, select

from hardware_runs.ledger import schema
from hardware_runs.ledger.records import OPEN_STATES, AttemptState, Budget, BudgetEntry
from hardware_runs.ledger.store import run_name
from qpc_qiskit.errors import BudgetError


def load_budget(connection: Connection, run_id: str) -> Budget:
    """QPU time of a run at this moment."""
    table = schema.revisions
    limit = connection.scalar(
        select(table.c.max_qpu_seconds)
        .where(table.c.run_id == run_id)
        .order_by(table.c.number.desc())
        .limit(1)
    )
    entries = tuple(
        entry
        for found in (_attempts, _duplicates, _sessions)
        for entry in found(connection, run_id)
    )
    return Budget(
        max_qpu_seconds=limit,
        reserved_seconds=math.fsum(entry.reserved_seconds for entry in entries),
        used_seconds=math.fsum(entry.used_seconds for entry in entries),
        entries=entries,
    )


def check_budget(connection: Connection, run_id: str, more_seconds: int) -> None:
    """Check that more can be held back; the transaction must be alone on the run.

    Raises:
        BudgetError: it cannot.
    """
    budget = load_budget(connection, run_id)
    if budget.left_seconds is not None and more_seconds > budget.left_seconds:
        raise BudgetError(
            f"Run {run_name(connection, run_id)!r}: {more_seconds} s more would exceed its budget "
            f"of {budget.max_qpu_seconds:g} s ({budget.used_seconds:g} s are used, "
            f"{budget.reserved_seconds:g} s are reserved for what is under way). Nothing was sent. "
            "Wait for what is under way, or add a revision with a larger budget."
        )


def _entry(
    kind: str, label: str, cap: float, usage: float | None, *, is_over: bool
) -> Iterator[BudgetEntry]:
    """The larger of cap and usage counts until it is over and its usage known."""
    used = usage or 0.0
    held = 0.0 if is_over and usage is not None else max(cap - used, 0.0)
    if used or held:
        yield BudgetEntry(kind, label, held, used)


def _attempts(connection: Connection, run_id: str) -> Iterator[BudgetEntry]:
    table = schema.attempts.c
    query = select(table.tag, table.state, table.reserved_seconds, table.usage_seconds).where(
        table.run_id == run_id,
        table.is_billed_by_session.is_(False),
        table.state != AttemptState.RELEASED,
    )
    for tag, state, cap, usage in connection.execute(query.order_by(table.id)):
        yield from _entry("attempt", tag, cap, usage, is_over=state not in OPEN_STATES)


def _duplicates(connection: Connection, run_id: str) -> Iterator[BudgetEntry]:
    """Each was sent with the cap of its attempt."""
    table, attempts = schema.duplicates.c, schema.attempts
    query = (
        select(table.job_id, attempts.c.reserved_seconds, table.usage_seconds)
        .join(attempts, attempts.c.id == table.attempt_id)
        .where(table.run_id == run_id, attempts.c.is_billed_by_session.is_(False))
    )
    for job_id, cap, usage in connection.execute(query.order_by(table.job_id)):
        yield from _entry("duplicate", job_id, cap, usage, is_over=True)


def _sessions(connection: Connection, run_id: str) -> Iterator[BudgetEntry]:
    table = schema.sessions.c
    query = select(schema.sessions).where(table.run_id == run_id, table.mode == "session")
    for row in connection.execute(query.order_by(table.id)):
        yield from _entry(
            "session",
            row.session_id or f"(session {row.id}, not recorded)",
            row.reserved_seconds,
            row.usage_seconds,
            is_over=row.closed_at is not None,
        )
