"""Intents: who may post a chunk.

The rule that makes a POST happen once: `claim_intent` before anything, `begin_post` immediately
before each POST, `record_job` after it. An intent whose POST has begun may have a job that nobody
recorded; `begin_post` allows another POST only after two look-ups of the tag, at least an interval
apart and both after the POST before, have found none.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, select

from hardware_runs.ledger import schema
from hardware_runs.ledger.budget import check_budget
from hardware_runs.ledger.records import Attempt, AttemptState, Chunk, ChunkState
from hardware_runs.ledger.store import (
    Store,
    check_not_cancelled,
    describe_chunk,
    insert_row,
    is_cancelled,
    load_attempt,
    load_attempts,
    load_chunk,
    run_name,
    set_chunk_state,
    update_attempt,
)
from qpc_qiskit.errors import LedgerConflictError

LOOKUP_INTERVAL_SECONDS = 60.0
"""How long a service's listing may lag behind what it has accepted."""


class Intents(Store):
    """Methods of the ledger on attempts that have no job yet."""

    def claim_intent(
        self,
        chunk: Chunk,
        owner: str,
        *,
        now: float,
        lease_seconds: float,
        reserve_seconds: int,
        session: int | None = None,
    ) -> Attempt | None:
        """Claim a chunk that nobody is at, and reserve its cap from the budget.

        Args:
            chunk: as read from the ledger.
            owner: unique to this process and start, so that no other can be taken for it.
            now: seconds since the epoch.
            lease_seconds: longer than a POST with all its retries can take.
            reserve_seconds: the job's cap, whole seconds.
            session: `Session.id` it is to be sent in; of mode "session", that one pays.

        Returns:
            An attempt that no POST was ever begun for; None if somebody is at the chunk, if it is
            finished, replaced, or was moved to another revision than `chunk` says.

        Raises:
            BudgetError: the cap would exceed the budget.
            LedgerConflictError: the run was cancelled.
        """
        if reserve_seconds < 0 or int(reserve_seconds) != reserve_seconds:
            raise ValueError(f"Expected reserve_seconds in whole seconds; got {reserve_seconds}.")
        with self._writing(chunk.run_id) as connection:
            check_not_cancelled(connection, chunk.run_id)
            stored = load_chunk(connection, chunk.id)
            is_free = stored.state == ChunkState.UNSENT and stored.replaced_at is None
            if not is_free or stored.revision != chunk.revision:
                return None
            is_billed_by_session = _pays(connection, chunk.run_id, session)
            if not is_billed_by_session:
                check_budget(connection, chunk.run_id, reserve_seconds)
            values = {
                "revision": stored.revision,
                "state": AttemptState.INTENT,
                "owner": owner,
                "claimed_at": now,
                "lease_expires_at": now + lease_seconds,
                "post_begun_at": None,
                "post_begun_by": None,
                "first_empty_lookup_at": None,
                "last_empty_lookup_at": None,
                "finished_at": None,
                "reserved_seconds": int(reserve_seconds),
                "session": session,
                "is_billed_by_session": is_billed_by_session,
            }
            set_chunk_state(connection, chunk.id, ChunkState.OPEN)
            before = load_attempts(connection, schema.attempts.c.chunk_id == chunk.id)
            last = before[-1] if before else None
            if last is not None and last.state == AttemptState.RELEASED and not last.duplicates:
                return update_attempt(connection, last, **values)
            number = last.number + 1 if last is not None else 1
            tag = f"qpc-{chunk.run_id.replace('-', '')[:12]}-{chunk.id}-{number}"
            attempt_id = insert_row(
                connection,
                schema.attempts,
                run_id=chunk.run_id,
                chunk_id=chunk.id,
                number=number,
                tag=tag,
                **values,
            )
            return load_attempt(connection, attempt_id)

    def renew_lease(
        self, attempt: Attempt, owner: str, *, now: float, lease_seconds: float
    ) -> bool:
        """Keep an intent; False: it is not this owner's (any more), do not post."""
        with self._writing(attempt.run_id) as connection:
            mine = _intent_of(connection, attempt, owner)
            if mine is None:
                return False
            expires = max(mine.lease_expires_at, now + lease_seconds)
            update_attempt(connection, mine, lease_expires_at=expires)
            return True

    def begin_post(
        self,
        attempt: Attempt,
        owner: str,
        *,
        now: float,
        lease_seconds: float,
        lookup_interval_seconds: float = LOOKUP_INTERVAL_SECONDS,
    ) -> bool:
        """Renew the lease immediately before a POST, and record that it may have happened.

        Returns:
            Whether to post: False if the intent is not this owner's (any more), or its run was
            cancelled.

        Raises:
            LedgerConflictError: an earlier POST may have been accepted, and its tag was not looked
                up twice since, `lookup_interval_seconds` apart.
        """
        with self._writing(attempt.run_id) as connection:
            mine = _intent_of(connection, attempt, owner)
            if mine is None or is_cancelled(connection, attempt.run_id):
                return False
            if mine.post_begun_at is not None and not mine.is_excluded(lookup_interval_seconds):
                chunk = describe_chunk(connection, load_chunk(connection, mine.chunk_id))
                raise LedgerConflictError(
                    f"The {chunk}: the service may have accepted a POST under the tag {mine.tag}. "
                    f"Look the tag up twice, at least {lookup_interval_seconds:g} s apart, before "
                    "posting again."
                )
            update_attempt(
                connection,
                mine,
                lease_expires_at=max(mine.lease_expires_at, now + lease_seconds),
                post_begun_at=now,
                post_begun_by=owner,
                first_empty_lookup_at=None,
                last_empty_lookup_at=None,
            )
            return True

    def note_empty_lookup(self, attempt: Attempt, owner: str, *, now: float) -> float | None:
        """Record that the tag was looked up and no job found.

        Returns:
            When it was first looked up in vain since the last POST began; None: now, or the intent
            is not this owner's (any more).
        """
        with self._writing(attempt.run_id) as connection:
            mine = _intent_of(connection, attempt, owner)
            if mine is None:
                return None
            first = mine.first_empty_lookup_at
            update_attempt(
                connection,
                mine,
                first_empty_lookup_at=now if first is None else first,
                last_empty_lookup_at=now,
            )
            return first

    def take_over(
        self,
        attempt: Attempt,
        new_owner: str,
        *,
        now: float,
        lease_seconds: float,
        is_owner_gone: Callable[[str], bool] = lambda owner: False,
    ) -> Attempt | None:
        """Take an intent whose lease has expired from its owner; None: it is not to be had.

        Where `post_begun_at` is set, a job may exist: look its tag up before posting.

        Args:
            attempt: an intent of somebody.
            new_owner: who takes it.
            now: seconds since the epoch.
            lease_seconds: of the new owner.
            is_owner_gone: whether an owner certainly posts no more, whatever its lease says.
        """
        with self._writing(attempt.run_id) as connection:
            stored = load_attempt(connection, attempt.id)
            if stored.state != AttemptState.INTENT:
                return None
            if stored.lease_expires_at > now and not is_owner_gone(stored.owner):
                return None
            return update_attempt(
                connection, stored, owner=new_owner, lease_expires_at=now + lease_seconds
            )

    def drop_lease(self, attempt: Attempt, owner: str, *, now: float) -> bool:
        """Let others take over at once what may or may not have been posted; False: not ours."""
        with self._writing(attempt.run_id) as connection:
            mine = _intent_of(connection, attempt, owner)
            if mine is not None:
                update_attempt(connection, mine, lease_expires_at=min(mine.lease_expires_at, now))
            return mine is not None

    def release_intent(
        self,
        attempt: Attempt,
        owner: str,
        error: str,
        *,
        lookup_interval_seconds: float = LOOKUP_INTERVAL_SECONDS,
    ) -> bool:
        """Give an intent back that was certainly not accepted, with its number and reservation.

        Returns:
            False if it is not this owner's (any more), or if the POST of an earlier owner is not
            excluded by two look-ups: then it stays, and the lease can be dropped.
        """
        with self._writing(attempt.run_id) as connection:
            mine = _intent_of(connection, attempt, owner)
            if mine is None or not mine.is_unposted(owner, lookup_interval_seconds):
                return False
            update_attempt(connection, mine, state=AttemptState.RELEASED, error=error)
            set_chunk_state(connection, mine.chunk_id, ChunkState.UNSENT)
            return True


def _pays(connection: Connection, run_id: str, session: int | None) -> bool:
    """Whether this session pays for what is sent in it."""
    if session is None:
        return False
    table = schema.sessions.c
    query = select(schema.sessions).where(table.id == session, table.run_id == run_id)
    row = connection.execute(query).one_or_none()
    if row is None or row.closed_at is not None:
        raise LedgerConflictError(
            f"Run {run_name(connection, run_id)!r}: session {session} of the ledger is closed, or "
            "is not of this run. Open another one."
        )
    return bool(row.mode == "session")


def _intent_of(connection: Connection, attempt: Attempt, owner: str) -> Attempt | None:
    stored = load_attempt(connection, attempt.id)
    is_own = stored.state == AttemptState.INTENT and stored.owner == owner
    return stored if is_own else None
