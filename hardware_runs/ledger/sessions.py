"""Sessions and batches of the service: at most one open in a run."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, select, update

from hardware_runs.ledger import schema
from hardware_runs.ledger.budget import check_budget
from hardware_runs.ledger.records import Session
from hardware_runs.ledger.store import Store, check_not_cancelled, insert_row, run_name
from qpc_qiskit.errors import LedgerConflictError, LedgerError

MODES = ("batch", "session")


class Sessions(Store):
    """Methods of the ledger on sessions and batches."""

    def open_session(
        self, run_id: str, mode: str, owner: str, *, now: float, reserve_seconds: int = 0
    ) -> Session | None:
        """Record, before the service is asked for it, that a session or batch is opened.

        Args:
            run_id: of an existing run.
            mode: "batch" or "session".
            owner: who opens it.
            now: seconds since the epoch.
            reserve_seconds: `max_time`, taken from the budget; 0 in a batch, whose jobs pay.

        Returns:
            None if the run has an open one already: see `Ledger.state`. One whose id was never
            recorded was lost in a crash; no job is in it, so it can be closed.

        Raises:
            BudgetError: it would exceed the budget.
            LedgerConflictError: the run was cancelled.
        """
        if mode not in MODES:
            raise ValueError(f"Expected mode {' or '.join(map(repr, MODES))}; got {mode!r}.")
        if int(reserve_seconds) != reserve_seconds or (reserve_seconds > 0) != (mode == "session"):
            raise ValueError(
                "Expected reserve_seconds in whole seconds, > 0 in mode 'session' and 0 in mode "
                f"'batch'; got {reserve_seconds} in mode {mode!r}."
            )
        with self._writing(run_id) as connection:
            check_not_cancelled(connection, run_id)
            table = schema.sessions
            query = select(table.c.id).where(table.c.run_id == run_id, table.c.closed_at.is_(None))
            if connection.scalar(query) is not None:
                return None
            check_budget(connection, run_id, reserve_seconds)
            row_id = insert_row(
                connection,
                table,
                run_id=run_id,
                mode=mode,
                owner=owner,
                opened_at=now,
                reserved_seconds=int(reserve_seconds),
            )
            return _load(connection, row_id)

    def record_session(self, session: Session, session_id: str) -> Session:
        """Record the service's id of an open session; as often as one likes.

        Raises:
            LedgerConflictError: it has another id, or was closed.
        """
        with self._writing(session.run_id) as connection:
            stored = _load(connection, session.id)
            if stored.session_id == session_id:
                return stored
            if stored.session_id is not None or stored.closed_at is not None:
                raise LedgerConflictError(
                    f"Run {run_name(connection, session.run_id)!r}: {stored.mode} {session.id} of "
                    f"the ledger has the id {stored.session_id}, or was closed; {session_id} "
                    "cannot take its place. Close that one at the service."
                )
            return _update(connection, stored, session_id=session_id)

    def close_session(
        self, session: Session, *, now: float, usage_seconds: float | None
    ) -> Session:
        """Record that a session or batch is closed, or what a closed one has used.

        One that its owner gave an id after it was read without one is not lost: it stays open.

        Args:
            session: as read from the ledger.
            now: seconds since the epoch.
            usage_seconds: wall-clock time billed, which replaces the reservation; None: not known
                yet, the reservation stays.
        """
        if usage_seconds is not None and not usage_seconds >= 0:
            raise ValueError(f"Expected usage_seconds >= 0, or None; got {usage_seconds}.")
        with self._writing(session.run_id) as connection:
            stored = _load(connection, session.id)
            if session.session_id is None and stored.session_id is not None:
                return stored
            return _update(
                connection,
                stored,
                closed_at=now if stored.closed_at is None else stored.closed_at,
                usage_seconds=stored.usage_seconds if usage_seconds is None else usage_seconds,
            )


def _load(connection: Connection, row_id: int) -> Session:
    table = schema.sessions
    row = connection.execute(select(table).where(table.c.id == row_id)).one_or_none()
    if row is None:
        raise LedgerError(f"The ledger has no session with id {row_id}.")
    return Session(**row._mapping)


def _update(connection: Connection, session: Session, **values: Any) -> Session:
    table = schema.sessions
    connection.execute(update(table).where(table.c.id == session.id).values(**values))
    return _load(connection, session.id)
