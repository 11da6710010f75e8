"""Durable runs of a trained checkpoint on its test images: begin, drive to the end, cancel, log.

What `qpc run` and the batch script share. May import `planning`, `durable_engine`, `ledger` and
whatever is below this package.
"""
