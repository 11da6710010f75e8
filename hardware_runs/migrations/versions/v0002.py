"""Rows dealt anew: executions that take the place of chunks which were never sent."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the table of further executions, and mark what they replace."""
    op.create_table(
        "ledger_deals",
        sa.Column("id", _ID, nullable=False),
        sa.Column("block_id", _ID, nullable=False),
        sa.Column("row_start", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("arrays", sa.LargeBinary(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.CheckConstraint("row_start > 0", name=op.f("ck_ledger_deals_rows")),
        sa.ForeignKeyConstraint(
            ["block_id"], ["ledger_blocks.id"], name=op.f("fk_ledger_deals_block_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger_deals")),
        sa.UniqueConstraint(
            "block_id", "row_start", name=op.f("uq_ledger_deals_block_id_row_start")
        ),
    )
    op.add_column("ledger_chunks", sa.Column("replaced_at", sa.Double(), nullable=True))
