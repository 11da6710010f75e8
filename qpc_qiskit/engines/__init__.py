"""Engines: ways to evaluate a layer, and the table that names them.

May import `backends`, `pauli` and all below them; knows no layer, network or training.
"""

from __future__ import annotations

from collections.abc import Callable

from qpc_qiskit.engines.base import Engine
from qpc_qiskit.engines.calls import LayerCall
from qpc_qiskit.engines.estimator import EstimatorEngine
from qpc_qiskit.engines.exact import ExactEngine
from qpc_qiskit.engines.noisy import NoisyEngine
from qpc_qiskit.engines.reports import EngineReport, EstimatorReport, NoisyReport
from qpc_qiskit.errors import EngineError


def _no_noise() -> Engine:
    raise EngineError(
        "The 'noisy' engine needs to know which noise: give NoisyEngine(noise), with a NoiseModel "
        "or a device's name such as 'fake_torino', in place of its name."
    )


ENGINES: dict[str, Callable[[], Engine]] = {
    ExactEngine.name: ExactEngine,
    NoisyEngine.name: _no_noise,
    EstimatorEngine.name: EstimatorEngine,
}
"""Name -> constructor without arguments; that of `noisy` says what it needs."""


def make_engine(engine: str | Engine) -> Engine:
    """An engine by name, or the engine itself.

    Raises:
        ValueError: unknown name.
        TypeError: neither a name nor an engine.
    """
    if isinstance(engine, Engine):
        return engine
    if not isinstance(engine, str):
        raise TypeError(
            f"Expected an engine or one of the names {', '.join(ENGINES)}, got "
            f"{type(engine).__name__}."
        )
    if engine not in ENGINES:
        raise ValueError(f"Unknown engine {engine!r}; expected one of {', '.join(ENGINES)}.")
    return ENGINES[engine]()


__all__ = [
    "ENGINES",
    "Engine",
    "EngineReport",
    "EstimatorEngine",
    "EstimatorReport",
    "ExactEngine",
    "LayerCall",
    "NoisyEngine",
    "NoisyReport",
    "make_engine",
]
