"""Alembic migrations of the ledger; `hardware_runs.ledger.upgrading` runs them."""
