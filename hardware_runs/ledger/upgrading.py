"""Making the tables of a new ledger, and bringing those of an older one up to date."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from hardware_runs.ledger.database import Database
from hardware_runs.ledger.failures import newer
from hardware_runs.ledger.schema import VERSION_TABLE
from qpc_qiskit.errors import LedgerError

MIGRATIONS = Path(__file__).parents[1] / "migrations"

_LOCK = 0x7170635F6C646772
"""PostgreSQL's advisory locks are 64-bit numbers; this one says "qpc_ldgr"."""


def upgrade(database: Database, migrations: Path = MIGRATIONS) -> str:
    """Bring a database to the newest version that this program knows, in one transaction.

    Of several processes one upgrades while the others wait. An up-to-date ledger is only read.

    Args:
        database: empty, or a ledger.
        migrations: folder of alembic scripts.

    Returns:
        The version.

    Raises:
        LedgerVersionError: it was made by a newer program.
        LedgerError: it is a database of something else.
    """
    head, known = _revisions(migrations)
    with database.read() as connection:
        if _version(database, connection, known) == head:
            return head
    with database.write() as connection:
        if not database.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        if _version(database, connection, known) != head:  # nobody else did meanwhile
            config = _config(migrations)
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    return head


def _config(migrations: Path) -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    return config


@cache
def _revisions(migrations: Path) -> tuple[str, frozenset[str]]:
    """The newest revision and all, read once by a process, however often it opens ledgers.

    Raises:
        LedgerError: there are none.
    """
    scripts = ScriptDirectory.from_config(_config(migrations))
    head = scripts.get_current_head()
    if head is None:
        raise LedgerError(f"No migrations were found in {migrations}; install the package again.")
    return head, frozenset(script.revision for script in scripts.walk_revisions())


def _version(database: Database, connection: Connection, known: frozenset[str]) -> str | None:
    """The ledger's version; None if it is empty."""
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    version = context.get_current_revision()
    if version is not None and version not in known:
        raise newer(database.name, version, max(known))
    tables = inspect(connection).get_table_names() if version is None else []
    others = [name for name in tables if database.is_sqlite or name.startswith("ledger_")]
    if version is None and set(others) - {VERSION_TABLE}:
        raise LedgerError(
            f"Ledger {database.name}: this is a database of something else (it has the tables "
            f"{', '.join(sorted(others)[:5])}). Choose another place."
        )
    return version
