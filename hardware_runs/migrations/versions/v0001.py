"""The first version: runs, revisions, layers, blocks, chunks, attempts, sessions, results.

Written out, not taken from `hardware_runs.ledger.schema`: that one goes on, this one never changes.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make all tables."""
    op.create_table(
        "ledger_runs",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("settings", sa.Text(), nullable=False),
        sa.Column("cancelled_at", sa.Double(), nullable=True),
        sa.Column("cancel_reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger_runs")),
        sa.UniqueConstraint("name", name=op.f("uq_ledger_runs_name")),
    )
    op.create_table(
        "ledger_layers",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("weights_hash", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"], ["ledger_runs.id"], name=op.f("fk_ledger_layers_run_id")
        ),
        sa.PrimaryKeyConstraint("run_id", "name", name=op.f("pk_ledger_layers")),
        sa.UniqueConstraint("run_id", "position", name=op.f("uq_ledger_layers_run_id_position")),
    )
    op.create_table(
        "ledger_revisions",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("max_qpu_seconds", sa.Double(), nullable=True),
        sa.Column("content", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"], ["ledger_runs.id"], name=op.f("fk_ledger_revisions_run_id")
        ),
        sa.PrimaryKeyConstraint("run_id", "number", name=op.f("pk_ledger_revisions")),
    )
    op.create_table(
        "ledger_sessions",
        sa.Column("id", _ID, nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=True),
        sa.Column("opened_at", sa.Double(), nullable=False),
        sa.Column("closed_at", sa.Double(), nullable=True),
        sa.Column("reserved_seconds", sa.Integer(), nullable=False),
        sa.Column("usage_seconds", sa.Double(), nullable=True),
        sa.CheckConstraint("mode IN ('batch', 'session')", name=op.f("ck_ledger_sessions_mode")),
        sa.CheckConstraint("reserved_seconds >= 0", name=op.f("ck_ledger_sessions_reserved")),
        sa.ForeignKeyConstraint(
            ["run_id"], ["ledger_runs.id"], name=op.f("fk_ledger_sessions_run_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger_sessions")),
        sa.UniqueConstraint(
            "run_id", "session_id", name=op.f("uq_ledger_sessions_run_id_session_id")
        ),
    )
    op.create_index(
        "ix_ledger_sessions_one_open",
        "ledger_sessions",
        ["run_id"],
        unique=True,
        sqlite_where=sa.text("closed_at IS NULL"),
        postgresql_where=sa.text("closed_at IS NULL"),
    )
    op.create_table(
        "ledger_blocks",
        sa.Column("id", _ID, nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("layer", sa.Text(), nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False),
        sa.Column("num_pixels", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("num_kernels", sa.Integer(), nullable=False),
        sa.Column("arrays", sa.LargeBinary(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.CheckConstraint("start >= 0 AND num_pixels > 0", name=op.f("ck_ledger_blocks_range")),
        sa.ForeignKeyConstraint(
            ["run_id", "layer"],
            ["ledger_layers.run_id", "ledger_layers.name"],
            name=op.f("fk_ledger_blocks_run_id_layer"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger_blocks")),
        sa.UniqueConstraint(
            "run_id", "layer", "start", name=op.f("uq_ledger_blocks_run_id_layer_start")
        ),
    )
    op.create_table(
        "ledger_revision_blobs",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id", "number"],
            ["ledger_revisions.run_id", "ledger_revisions.number"],
            name=op.f("fk_ledger_revision_blobs_run_id_number"),
        ),
        sa.PrimaryKeyConstraint("run_id", "number", "name", name=op.f("pk_ledger_revision_blobs")),
    )
    op.create_table(
        "ledger_chunks",
        sa.Column("id", _ID, nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("block_id", _ID, nullable=False),
        sa.Column("row_start", sa.BigInteger(), nullable=False),
        sa.Column("row_stop", sa.BigInteger(), nullable=False),
        sa.Column("predicted_seconds", sa.Double(), nullable=True),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "state IN ('unsent', 'open', 'done', 'failed')", name=op.f("ck_ledger_chunks_state")
        ),
        sa.CheckConstraint(
            "row_start >= 0 AND row_stop > row_start", name=op.f("ck_ledger_chunks_rows")
        ),
        sa.ForeignKeyConstraint(
            ["block_id"], ["ledger_blocks.id"], name=op.f("fk_ledger_chunks_block_id")
        ),
        sa.ForeignKeyConstraint(
            ["run_id", "revision"],
            ["ledger_revisions.run_id", "ledger_revisions.number"],
            name=op.f("fk_ledger_chunks_run_id_revision"),
        ),
        sa.ForeignKeyConstraint(
            ["run_id"], ["ledger_runs.id"], name=op.f("fk_ledger_chunks_run_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger_chunks")),
        sa.UniqueConstraint(
            "block_id", "row_start", name=op.f("uq_ledger_chunks_block_id_row_start")
        ),
    )
    op.create_index(
        op.f("ix_ledger_chunks_run_id_state"), "ledger_chunks", ["run_id", "state"], unique=False
    )
    op.create_table(
        "ledger_attempts",
        sa.Column("id", _ID, nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("chunk_id", _ID, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("tag", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("claimed_at", sa.Double(), nullable=False),
        sa.Column("lease_expires_at", sa.Double(), nullable=False),
        sa.Column("post_begun_at", sa.Double(), nullable=True),
        sa.Column("post_begun_by", sa.Text(), nullable=True),
        sa.Column("first_empty_lookup_at", sa.Double(), nullable=True),
        sa.Column("last_empty_lookup_at", sa.Double(), nullable=True),
        sa.Column("job_id", sa.Text(), nullable=True),
        sa.Column("posted_at", sa.Double(), nullable=True),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.Column("reserved_seconds", sa.Integer(), nullable=False),
        sa.Column("session", _ID, nullable=True),
        sa.Column("is_billed_by_session", sa.Boolean(), nullable=False),
        sa.Column("usage_seconds", sa.Double(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "state IN ('intent', 'posted', 'done', 'failed', 'cancelled', 'released')",
            name=op.f("ck_ledger_attempts_state"),
        ),
        sa.CheckConstraint(
            "state NOT IN ('posted', 'done') OR job_id IS NOT NULL",
            name=op.f("ck_ledger_attempts_job"),
        ),
        sa.CheckConstraint("reserved_seconds >= 0", name=op.f("ck_ledger_attempts_reserved")),
        sa.ForeignKeyConstraint(
            ["chunk_id"], ["ledger_chunks.id"], name=op.f("fk_ledger_attempts_chunk_id")
        ),
        sa.ForeignKeyConstraint(
            ["run_id"], ["ledger_runs.id"], name=op.f("fk_ledger_attempts_run_id")
        ),
        sa.ForeignKeyConstraint(
            ["session"], ["ledger_sessions.id"], name=op.f("fk_ledger_attempts_session")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger_attempts")),
        sa.UniqueConstraint("chunk_id", "number", name=op.f("uq_ledger_attempts_chunk_id_number")),
        sa.UniqueConstraint("run_id", "job_id", name=op.f("uq_ledger_attempts_run_id_job_id")),
        sa.UniqueConstraint("tag", name=op.f("uq_ledger_attempts_tag")),
    )
    op.create_index(
        "ix_ledger_attempts_one_open",
        "ledger_attempts",
        ["chunk_id"],
        unique=True,
        sqlite_where=sa.text("state IN ('intent', 'posted')"),
        postgresql_where=sa.text("state IN ('intent', 'posted')"),
    )
    op.create_index(
        op.f("ix_ledger_attempts_run_id_state"),
        "ledger_attempts",
        ["run_id", "state"],
        unique=False,
    )
    op.create_table(
        "ledger_duplicates",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("attempt_id", _ID, nullable=False),
        sa.Column("noticed_at", sa.Double(), nullable=False),
        sa.Column("cancelled_at", sa.Double(), nullable=True),
        sa.Column("usage_seconds", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(
            ["attempt_id"], ["ledger_attempts.id"], name=op.f("fk_ledger_duplicates_attempt_id")
        ),
        sa.ForeignKeyConstraint(
            ["run_id"], ["ledger_runs.id"], name=op.f("fk_ledger_duplicates_run_id")
        ),
        sa.PrimaryKeyConstraint("run_id", "job_id", name=op.f("pk_ledger_duplicates")),
    )
    op.create_index(
        op.f("ix_ledger_duplicates_attempt_id"), "ledger_duplicates", ["attempt_id"], unique=False
    )
    op.create_table(
        "ledger_results",
        sa.Column("chunk_id", _ID, autoincrement=False, nullable=False),
        sa.Column("attempt_id", _ID, nullable=False),
        sa.Column("arrays", sa.LargeBinary(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("shots", sa.Integer(), nullable=True),
        sa.Column("stored_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["attempt_id"], ["ledger_attempts.id"], name=op.f("fk_ledger_results_attempt_id")
        ),
        sa.ForeignKeyConstraint(
            ["chunk_id"], ["ledger_chunks.id"], name=op.f("fk_ledger_results_chunk_id")
        ),
        sa.PrimaryKeyConstraint("chunk_id", name=op.f("pk_ledger_results")),
    )
