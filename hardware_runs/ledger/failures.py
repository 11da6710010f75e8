"""Failures of the database as errors that name the ledger and say what to do."""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from qpc_qiskit.errors import LedgerBusyError, LedgerConflictError, LedgerError, LedgerVersionError

_UNWRITTEN = "Nothing of this step was written; the ledger stays usable."
_FULL = f"the disk is full. Free some space, then run the same command again. {_UNWRITTEN}"
_READ_ONLY = (
    "it cannot be written to. Make the file and its folder (a journal is written beside it) "
    f"writable for you, or choose another place. {_UNWRITTEN}"
)
_CANNOT_OPEN = (
    "it or the journal beside it cannot be opened. Make the file and its folder readable and "
    f"writable for you, or choose another place. {_UNWRITTEN}"
)
_BUSY = (
    "another process kept it locked for too long. See whether one hangs, or is stopped; "
    f"then run the same command again. {_UNWRITTEN}"
)
_DAMAGED = (
    "it is damaged, or no ledger at all. Choose another file, or restore a copy; jobs that were "
    "posted after the copy was made are listed by the service under the tags of the run."
)
_IO = f"its disk or file system failed. Check both, then run the same command again. {_UNWRITTEN}"
_TOO_BIG = f"a value is too large for it. Use a smaller batch size. {_UNWRITTEN}"
_CONFLICT = (
    "another process wrote something that excludes this step, or the step itself is wrong. "
    f"{_UNWRITTEN}"
)
_NO_SERVER = (
    "its server cannot be reached, or the connection was lost. If it was lost at the very end of a "
    "step, that step may have been written. Check the server, then run the same command again: "
    "every step finds out by itself what was done."
)

_SQLITE = {  # primary result codes
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_READONLY: _READ_ONLY,
    sqlite3.SQLITE_PERM: _READ_ONLY,
    sqlite3.SQLITE_CANTOPEN: _CANNOT_OPEN,
    sqlite3.SQLITE_BUSY: _BUSY,
    sqlite3.SQLITE_LOCKED: _BUSY,
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
    sqlite3.SQLITE_IOERR: _IO,
    sqlite3.SQLITE_TOOBIG: _TOO_BIG,
    sqlite3.SQLITE_CONSTRAINT: _CONFLICT,
}
_POSTGRESQL = {  # SQLSTATE, by its longest known beginning
    "53100": _FULL,
    "25006": _READ_ONLY,
    "42501": _READ_ONLY,
    "55P03": _BUSY,
    "40001": _BUSY,
    "40P01": _BUSY,
    "25P03": _NO_SERVER,  # a transaction that did nothing for too long was ended
    "54000": _TOO_BIG,
    "23": _CONFLICT,
    "08": _NO_SERVER,
    "57P": _NO_SERVER,
}


def ledger_error(ledger: str, error: SQLAlchemyError | OSError) -> LedgerError:
    """A failure of the database as an error of the ledger.

    Args:
        ledger: its path, or its place without any password.
        error: of the database, or of its file.
    """
    if isinstance(error, OSError):
        return LedgerError(
            f"Ledger {ledger}: its file or folder cannot be made or read ({error}). Choose a "
            "place that is writable for you."
        )
    advice, original = _advice(error), getattr(error, "orig", None)
    said = str(original if original is not None else error).strip().split("\n")[0]
    kind = {_BUSY: LedgerBusyError, _CONFLICT: LedgerConflictError}.get(advice, LedgerError)
    return kind(f"Ledger {ledger}: {advice} (The database said: {said})")


def newer(ledger: str, found: str, known: str) -> LedgerVersionError:
    """A ledger has a version that this program does not know."""
    return LedgerVersionError(
        f"Ledger {ledger}: it has version {found!r}, this program knows up to {known!r}. A newer "
        "qpc-qiskit made or upgraded it: install that one. Nothing was changed."
    )


def _advice(error: SQLAlchemyError) -> str:
    if not isinstance(error, DBAPIError):
        return f"the database layer failed. {_UNWRITTEN}"
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is not None:
        return _SQLITE.get(code & 0xFF, f"the database failed. {_UNWRITTEN}")
    if isinstance(error.orig, sqlite3.Error):
        return f"the database failed. {_UNWRITTEN}"
    state = getattr(error.orig, "sqlstate", None)
    if state is None:
        return _NO_SERVER
    for length in (5, 3, 2):
        if state[:length] in _POSTGRESQL:
            return _POSTGRESQL[state[:length]]
    return f"the database failed. {_UNWRITTEN}"
