"""Tables of the ledger, as the newest migration leaves them.

The rules that must hold whatever a program does stand here as constraints: one open attempt and one
result per chunk, one job id and one tag per attempt, numbered revisions.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

VERSION_TABLE = "ledger_version"
"""Not alembic's default: a team's database may have one of those already."""

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_Id = BigInteger().with_variant(Integer(), "sqlite")  # SQLite counts up INTEGER keys only


def _run() -> Column[str]:
    return Column("run_id", Text, ForeignKey("ledger_runs.id"), nullable=False)


runs = Table(
    "ledger_runs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("created_at", Double, nullable=False),
    Column("settings", Text, nullable=False),
    Column("cancelled_at", Double),
    Column("cancel_reason", Text),
)

revisions = Table(
    "ledger_revisions",
    metadata,
    Column("run_id", Text, ForeignKey("ledger_runs.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("created_at", Double, nullable=False),
    Column("reason", Text, nullable=False),
    Column("max_qpu_seconds", Double),
    Column("content", Text, nullable=False),
)

revision_blobs = Table(
    "ledger_revision_blobs",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("name", Text, primary_key=True),
    Column("content", LargeBinary, nullable=False),
    Column("sha256", Text, nullable=False),
    ForeignKeyConstraint(
        ["run_id", "number"], ["ledger_revisions.run_id", "ledger_revisions.number"]
    ),
)

layers = Table(
    "ledger_layers",
    metadata,
    Column("run_id", Text, ForeignKey("ledger_runs.id"), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("position", Integer, nullable=False),
    Column("spec", Text, nullable=False),
    Column("weights_hash", Text, nullable=False),
    UniqueConstraint("run_id", "position"),
)

blocks = Table(
    "ledger_blocks",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("run_id", Text, nullable=False),
    Column("layer", Text, nullable=False),
    Column("start", BigInteger, nullable=False),
    Column("num_pixels", BigInteger, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("num_kernels", Integer, nullable=False),
    Column("arrays", LargeBinary, nullable=False),
    Column("sha256", Text, nullable=False),
    ForeignKeyConstraint(["run_id", "layer"], ["ledger_layers.run_id", "ledger_layers.name"]),
    UniqueConstraint("run_id", "layer", "start"),
    CheckConstraint("start >= 0 AND num_pixels > 0", name="range"),
)

deals = Table(
    "ledger_deals",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("block_id", _Id, ForeignKey("ledger_blocks.id"), nullable=False),
    Column("row_start", BigInteger, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("arrays", LargeBinary, nullable=False),
    Column("sha256", Text, nullable=False),
    UniqueConstraint("block_id", "row_start"),
    CheckConstraint("row_start > 0", name="rows"),
)

chunks = Table(
    "ledger_chunks",
    metadata,
    Column("id", _Id, primary_key=True),
    _run(),
    Column("block_id", _Id, ForeignKey("ledger_blocks.id"), nullable=False),
    Column("row_start", BigInteger, nullable=False),
    Column("row_stop", BigInteger, nullable=False),
    Column("predicted_seconds", Double),
    Column("revision", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("replaced_at", Double),
    ForeignKeyConstraint(
        ["run_id", "revision"], ["ledger_revisions.run_id", "ledger_revisions.number"]
    ),
    UniqueConstraint("block_id", "row_start"),
    CheckConstraint("row_start >= 0 AND row_stop > row_start", name="rows"),
    CheckConstraint("state IN ('unsent', 'open', 'done', 'failed')", name="state"),
    Index(None, "run_id", "state"),
)

sessions = Table(
    "ledger_sessions",
    metadata,
    Column("id", _Id, primary_key=True),
    _run(),
    Column("mode", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("session_id", Text),
    Column("opened_at", Double, nullable=False),
    Column("closed_at", Double),
    Column("reserved_seconds", Integer, nullable=False),
    Column("usage_seconds", Double),
    UniqueConstraint("run_id", "session_id"),
    CheckConstraint("mode IN ('batch', 'session')", name="mode"),
    CheckConstraint("reserved_seconds >= 0", name="reserved"),
    Index(
        "ix_ledger_sessions_one_open",
        "run_id",
        unique=True,
        sqlite_where=text("closed_at IS NULL"),
        postgresql_where=text("closed_at IS NULL"),
    ),
)

attempts = Table(
    "ledger_attempts",
    metadata,
    Column("id", _Id, primary_key=True),
    _run(),
    Column("chunk_id", _Id, ForeignKey("ledger_chunks.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("tag", Text, nullable=False, unique=True),
    Column("revision", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("claimed_at", Double, nullable=False),
    Column("lease_expires_at", Double, nullable=False),
    Column("post_begun_at", Double),
    Column("post_begun_by", Text),
    Column("first_empty_lookup_at", Double),
    Column("last_empty_lookup_at", Double),
    Column("job_id", Text),
    Column("posted_at", Double),
    Column("finished_at", Double),
    Column("reserved_seconds", Integer, nullable=False),
    Column("session", _Id, ForeignKey("ledger_sessions.id")),
    Column("is_billed_by_session", Boolean, nullable=False),
    Column("usage_seconds", Double),
    Column("error", Text),
    UniqueConstraint("chunk_id", "number"),
    UniqueConstraint("run_id", "job_id"),
    CheckConstraint(
        "state IN ('intent', 'posted', 'done', 'failed', 'cancelled', 'released')", name="state"
    ),
    CheckConstraint("state NOT IN ('posted', 'done') OR job_id IS NOT NULL", name="job"),
    CheckConstraint("reserved_seconds >= 0", name="reserved"),
    Index(None, "run_id", "state"),
    Index(
        "ix_ledger_attempts_one_open",
        "chunk_id",
        unique=True,
        sqlite_where=text("state IN ('intent', 'posted')"),
        postgresql_where=text("state IN ('intent', 'posted')"),
    ),
)

duplicates = Table(
    "ledger_duplicates",
    metadata,
    Column("run_id", Text, ForeignKey("ledger_runs.id"), primary_key=True),
    Column("job_id", Text, primary_key=True),
    Column("attempt_id", _Id, ForeignKey("ledger_attempts.id"), nullable=False, index=True),
    Column("noticed_at", Double, nullable=False),
    Column("cancelled_at", Double),
    Column("usage_seconds", Double),
)

results = Table(
    "ledger_results",
    metadata,
    Column("chunk_id", _Id, ForeignKey("ledger_chunks.id"), primary_key=True, autoincrement=False),
    Column("attempt_id", _Id, ForeignKey("ledger_attempts.id"), nullable=False),
    Column("arrays", LargeBinary, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("shots", Integer),
    Column("stored_at", Double, nullable=False),
)
