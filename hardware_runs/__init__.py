"""Durable runs on IBM Quantum hardware: a forward pass that survives a crash at any line.

`durable` gives an engine for anybody's model (`durable_engine`), which freezes rows and circuits in
a ledger (`ledger`), sends jobs exactly once and collects them. `planning` tells before what that
costs, `checkpoints` drives runs of a trained network, `reports` tells what a run did. `standin` is
a loopback stand-in of IBM's service for trials and tests.

May import `noise_models` and `qpc_qiskit`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qpc_qiskit.common.lazy import lazy_names

if TYPE_CHECKING:
    from hardware_runs.durable_engine.beginning import durable
    from hardware_runs.durable_engine.dispatch import Rules
    from hardware_runs.durable_engine.engine import DurableEngine

__all__ = ["DurableEngine", "Rules", "durable"]

_HOME = {
    "DurableEngine": "durable_engine.engine",
    "Rules": "durable_engine.dispatch",
    "durable": "durable_engine.beginning",
}

__getattr__ = lazy_names(__name__, _HOME)
"""SQLAlchemy, Aer and IBM's client are loaded when a run is begun."""
