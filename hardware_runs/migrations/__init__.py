"""Alembic migrations of the ledger; `hardware_runs.ledger.upgrading` runs them."""

from qpc_qiskit.common.extras import importing

with importing("runs", "The ledger of durable runs"):
    import alembic  # noqa: F401
