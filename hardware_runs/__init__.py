"""Durable runs on IBM Quantum hardware: a forward pass that survives a crash at any line.

`durable` (in `beginning`) gives an engine for anybody's model (`engine`), which freezes rows and
circuits in a ledger (`ledger`, `circuits`), sends jobs exactly once (`dispatch`) and collects them
(`collecting`) through a service (`services`). `standin` is a loopback stand-in of IBM's service for
trials and tests.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hardware_runs.durable_engine.beginning import durable
    from hardware_runs.durable_engine.dispatch import Rules
    from hardware_runs.durable_engine.engine import DurableEngine

__all__ = ["DurableEngine", "Rules", "durable"]


_HOME = {"DurableEngine": "engine", "Rules": "dispatch", "durable": "beginning"}


def __getattr__(name: str) -> Any:
    """SQLAlchemy, Aer and IBM's client are loaded when a run is begun."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"hardware_runs.{_HOME[name]}"), name)
