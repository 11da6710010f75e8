"""What a run would send and cost, before anything is sent, and what other choices would cost.

May import `durable_engine`, `ledger` and whatever is below this package.
"""
