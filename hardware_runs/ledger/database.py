"""Where a ledger is kept, and transactions on it: whole or not at all, on SQLite and PostgreSQL.

SQLite: home folders on clusters are NFS or Lustre, where a write-ahead log is unsafe, so a rollback
journal it is. `synchronous=EXTRA` is FULL that also syncs the folder once the journal is deleted:
with FULL alone a power failure can bring the journal back and undo an intent that was committed
before its POST. A writing transaction takes the write lock when it begins, so what it has read
stays true until it ends.

PostgreSQL: a writing transaction locks the row of its run before it reads anything else, so that
the writers of one run follow one another there as well; a reading one sees one snapshot.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from hardware_runs.ledger.failures import ledger_error, newer
from hardware_runs.ledger.schema import VERSION_TABLE
from qpc_qiskit.common.extras import require
from qpc_qiskit.errors import LedgerError

BUSY_SECONDS = 60
"""How long a transaction waits for the others."""
IDLE_SECONDS = 300
"""How long a server lets a transaction do nothing: a stopped process must not keep a run locked."""

_VERSION = text(f"SELECT version_num FROM {VERSION_TABLE}")
_IS_WRITE = "qpc_is_write"


class Database:
    """An open database.

    Args:
        where: path of an SQLite file, or an SQLAlchemy URL of SQLite or PostgreSQL.
        create: whether an SQLite file that does not exist is made.

    Raises:
        LedgerError: it cannot be opened, or is of a kind that is not supported.
        MissingExtra: it is on PostgreSQL, and psycopg is not installed.
    """

    def __init__(self, where: str | Path, *, create: bool = True) -> None:
        url = _url(where)
        self.is_sqlite = url.get_backend_name() == "sqlite"
        self.name = _name(url)
        self._process = os.getpid()
        self.version: str | None = None
        """That every transaction expects; None: any."""
        try:
            if self.is_sqlite:
                _prepare_file(Path(str(url.database)), create)
            self.engine = _sqlite(url) if self.is_sqlite else _postgresql(url)
        except (SQLAlchemyError, OSError) as error:
            raise ledger_error(self.name, error) from error

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads: everything in it is of one moment."""
        options: dict[str, Any] = {_IS_WRITE: False}
        if not self.is_sqlite:
            options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        with self._transaction(options) as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that writes: committed when the block ends, undone when it fails."""
        options: dict[str, Any] = {_IS_WRITE: True}
        if not self.is_sqlite:
            options["isolation_level"] = "READ COMMITTED"  # each statement sees what is committed
        with self._transaction(options) as connection:
            yield connection

    @contextmanager
    def _transaction(self, options: dict[str, Any]) -> Iterator[Connection]:
        if os.getpid() != self._process:  # a fork must not speak through its parent's connections
            self.engine.dispose(close=False)
            self._process = os.getpid()
        try:
            with (
                self.engine.connect().execution_options(**options) as connection,
                connection.begin(),
            ):
                self._check_version(connection)
                yield connection
        except (SQLAlchemyError, OSError) as error:
            raise ledger_error(self.name, error) from error

    def _check_version(self, connection: Connection) -> None:
        """Check that no newer program upgraded the ledger while it was open here."""
        if self.version is not None:
            found = connection.scalar(_VERSION)
            if found != self.version:
                raise newer(self.name, str(found), self.version)

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def public(where: str) -> str:
    """A ledger's place without a password."""
    return make_url(where).render_as_string() if "://" in where else where


def _url(where: str | Path) -> URL:
    if isinstance(where, Path) or "://" not in where:
        return URL.create("sqlite", database=str(Path(where).expanduser().absolute()))
    try:
        url = make_url(where)
        kind = url.get_backend_name()
    except (ArgumentError, NoSuchModuleError):
        # Not chained: the message would repeat the URL, password included.
        raise LedgerError(
            "The ledger's URL is not valid. Expected a path, or a URL such as "
            "postgresql://user@host/database."
        ) from None
    if kind == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    if kind == "sqlite" and url.database and url.database != ":memory:" and not url.query:
        return URL.create("sqlite", database=str(Path(url.database).expanduser().absolute()))
    raise LedgerError(
        f"A ledger cannot be kept in {kind!r} this way. Use the path of a file on disk (SQLite), "
        "or a postgresql:// URL: its guarantees are tested on these two."
    )


def _name(url: URL) -> str:
    """For messages: never a password, wherever in the URL it stands."""
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    return f"postgresql://{url.host or 'localhost'}:{url.port or 5432}/{url.database or ''}"


def _prepare_file(path: Path, create: bool) -> None:
    """Make the file, for its owner alone, and the folders above it that are missing."""
    if path.is_dir():
        raise LedgerError(f"Ledger {path}: expected a file, found a folder. Name a file in it.")
    if not create:
        if not path.exists():
            raise LedgerError(
                f"Ledger {path}: there is none. `qpc run submit` begins a run; or check the path."
            )
        return
    missing = [folder for folder in path.parents if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        return  # its owner may have opened it to a group


class _Connection(sqlite3.Connection):
    """Closes its cursors with itself.

    One that an interrupted statement leaves open (Ctrl-C in a notebook, which keeps the traceback)
    would keep the file locked for everybody.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._cursors: list[sqlite3.Cursor] = []

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        cursor = super().cursor(*args, **kwargs)
        self._cursors.append(cursor)
        return cursor

    def close(self) -> None:
        for cursor in self._cursors:
            cursor.close()
        super().close()


def _sqlite(url: URL) -> Engine:
    # No pool: a connection is made in less than a millisecond, and one that is left open across
    # a fork loses its locks.
    arguments = {"timeout": BUSY_SECONDS, "factory": _Connection}
    engine = create_engine(url, poolclass=NullPool, hide_parameters=True, connect_args=arguments)

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _: object) -> None:
        connection.isolation_level = None  # transactions begin below, and nowhere else
        for setting in ("journal_mode=DELETE", "synchronous=EXTRA", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {setting}").close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        is_write = connection.get_execution_options().get(_IS_WRITE)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if is_write else "BEGIN")

    return engine


def _postgresql(url: URL) -> Engine:
    require("postgres", "A ledger on PostgreSQL")
    try:
        engine = create_engine(url, hide_parameters=True, pool_pre_ping=True)
    except ImportError as error:  # psycopg is there, the library that it calls is not
        raise LedgerError(f"psycopg cannot be loaded: {error}") from error

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET lock_timeout = '{int(1000 * BUSY_SECONDS)}ms'")
            cursor.execute(f"SET idle_in_transaction_session_timeout = '{IDLE_SECONDS}s'")
            # What is committed is on disk, whatever the server's default; `remote_apply` stays.
            cursor.execute(
                "SELECT set_config('synchronous_commit', 'on', false) "
                "WHERE current_setting('synchronous_commit') = 'off'"
            )
        connection.commit()

    return engine
