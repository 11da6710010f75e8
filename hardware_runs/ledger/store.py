"""What every part of the ledger stands on: transactions, locks, and rows as records."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, insert, select

from hardware_runs.ledger import schema
from hardware_runs.ledger.database import Database
from hardware_runs.ledger.records import (
    Attempt,
    AttemptState,
    Chunk,
    ChunkState,
    Duplicate,
    Session,
)
from hardware_runs.ledger.upgrading import MIGRATIONS, upgrade
from qpc_qiskit.errors import LedgerConflictError, LedgerError


class Store:
    """An open ledger without its methods.

    Args:
        where: path of an SQLite file, or an SQLAlchemy URL of SQLite or PostgreSQL.
        create: whether an SQLite file that does not exist is made.
        migrations: folder of alembic scripts.
    """

    def __init__(
        self, where: str | Path, *, create: bool = True, migrations: Path = MIGRATIONS
    ) -> None:
        self._database = Database(where, create=create)
        self.num_writes = 0
        """Writing transactions so far: what was read before the last one may be old."""
        try:
            self._database.version = upgrade(self._database, migrations)
        except BaseException:
            self._database.close()
            raise

    @property
    def name(self) -> str:
        """Path, or place without a password: for messages."""
        return self._database.name

    def _reading(self) -> AbstractContextManager[Connection]:
        return self._database.read()

    @contextmanager
    def _writing(self, run_id: str | None) -> Iterator[Connection]:
        """A writing transaction that is alone on its run; None: on no run."""
        try:
            with self._database.write() as connection:
                if run_id is not None:
                    self._lock(connection, run_id)
                yield connection
        finally:
            self.num_writes += 1

    def _lock(self, connection: Connection, run_id: str) -> None:
        # SQLite has no row locks and needs none: the transaction has the whole file.
        column = schema.runs.c.id
        found = connection.scalar(select(column).where(column == run_id).with_for_update())
        if found is None:
            raise no_run(self.name, run_id)


def no_run(ledger: str, run_id: str) -> LedgerError:
    """There is no run with this id."""
    return LedgerError(f"Ledger {ledger}: it has no run with id {run_id}.")


def run_name(connection: Connection, run_id: str) -> str:
    """The name of a run, for messages."""
    name = connection.scalar(select(schema.runs.c.name).where(schema.runs.c.id == run_id))
    return str(name)


def is_cancelled(connection: Connection, run_id: str) -> bool:
    """Whether a run was cancelled."""
    table = schema.runs.c
    return connection.scalar(select(table.cancelled_at).where(table.id == run_id)) is not None


def check_not_cancelled(connection: Connection, run_id: str) -> None:
    """Check that a run may be sent.

    Raises:
        LedgerConflictError: it was cancelled.
    """
    if is_cancelled(connection, run_id):
        raise LedgerConflictError(
            f"Run {run_name(connection, run_id)!r} was cancelled; nothing is sent for it any more. "
            "Resume it first."
        )


def describe_chunk(connection: Connection, chunk: Chunk) -> str:
    """A chunk with its run and layer, for messages."""
    name = run_name(connection, chunk.run_id)
    return f"run {name!r}, layer {chunk.layer!r}, chunk {chunk.id}"


def load_chunks(
    connection: Connection, *where: ColumnElement[bool], with_replaced: bool = False
) -> tuple[Chunk, ...]:
    """Chunks in the order of layers, positions and rows, without those that were replaced."""
    chunks, blocks, layers = schema.chunks, schema.blocks, schema.layers
    query = (
        select(chunks, blocks.c.layer)
        .join(blocks, blocks.c.id == chunks.c.block_id)
        .join(layers, (layers.c.run_id == blocks.c.run_id) & (layers.c.name == blocks.c.layer))
        .where(*where)
        .order_by(layers.c.position, blocks.c.start, chunks.c.row_start)
    )
    if not with_replaced:
        query = query.where(chunks.c.replaced_at.is_(None))
    return tuple(
        Chunk(**{**row._mapping, "state": ChunkState(row.state)})
        for row in connection.execute(query)
    )


def load_chunk(connection: Connection, chunk_id: int) -> Chunk:
    """One chunk.

    Raises:
        LedgerError: there is none with this id.
    """
    found = load_chunks(connection, schema.chunks.c.id == chunk_id, with_replaced=True)
    if not found:
        raise LedgerError(f"The ledger has no chunk with id {chunk_id}.")
    return found[0]


def load_attempts(connection: Connection, *where: ColumnElement[bool]) -> tuple[Attempt, ...]:
    """Attempts in the order in which their chunks were frozen."""
    table, others = schema.attempts, schema.duplicates
    query = select(others.c.attempt_id, others.c.job_id).join(
        table, table.c.id == others.c.attempt_id
    )
    found: dict[int, list[str]] = {}
    for row in connection.execute(
        query.where(*where).order_by(others.c.noticed_at, others.c.job_id)
    ):
        found.setdefault(row.attempt_id, []).append(row.job_id)
    rows = connection.execute(
        select(table).where(*where).order_by(table.c.chunk_id, table.c.number)
    )
    return tuple(
        Attempt(
            **{**row._mapping, "state": AttemptState(row.state)},
            duplicates=tuple(found.get(row.id, ())),
        )
        for row in rows
    )


def load_duplicates(connection: Connection, run_id: str) -> tuple[Duplicate, ...]:
    """Every job of a run beyond those that count."""
    table, attempts = schema.duplicates, schema.attempts
    query = (
        select(table, attempts.c.chunk_id, attempts.c.tag)
        .join(attempts, attempts.c.id == table.c.attempt_id)
        .where(table.c.run_id == run_id)
        .order_by(table.c.noticed_at, table.c.job_id)
    )
    return tuple(Duplicate(**row._mapping) for row in connection.execute(query))


def load_sessions(connection: Connection, run_id: str) -> tuple[Session, ...]:
    """Sessions and batches of a run, the newest last; at most that one is open."""
    table = schema.sessions
    query = select(table).where(table.c.run_id == run_id).order_by(table.c.id)
    return tuple(Session(**row._mapping) for row in connection.execute(query))


def load_attempt(connection: Connection, attempt_id: int) -> Attempt:
    """One attempt, as it stands now.

    Raises:
        LedgerError: there is none with this id.
    """
    found = load_attempts(connection, schema.attempts.c.id == attempt_id)
    if not found:
        raise LedgerError(f"The ledger has no attempt with id {attempt_id}.")
    return found[0]


def update_attempt(connection: Connection, attempt: Attempt, **values: Any) -> Attempt:
    """Change columns of an attempt; the attempt as it stands then."""
    table = schema.attempts
    connection.execute(table.update().where(table.c.id == attempt.id).values(**values))
    return load_attempt(connection, attempt.id)


def insert_row(connection: Connection, table: Table, **values: Any) -> int:
    """Insert a row into a table that counts its rows; its id."""
    key = connection.execute(insert(table).values(**values)).inserted_primary_key
    assert key is not None
    return int(key[0])


def set_chunk_state(connection: Connection, chunk_id: int, state: ChunkState) -> None:
    """Change the state of a chunk."""
    table = schema.chunks
    connection.execute(table.update().where(table.c.id == chunk_id).values(state=state))
