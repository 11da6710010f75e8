"""Quantum pointwise convolution for PyTorch, evaluated by simulators or Qiskit primitives.

The names below are loaded on first use, so that `import qpc_qiskit` costs little more than `import
torch`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qpc_qiskit.circuits.spec import LayerSpec, make_spec
    from qpc_qiskit.connector import PointwiseConnector, PointwiseQNN, use_engine
    from qpc_qiskit.engines import EstimatorEngine, ExactEngine, NoisyEngine
    from qpc_qiskit.layer import (
        QuantumPointwiseConv1d,
        QuantumPointwiseConv2d,
        QuantumPointwiseConv3d,
    )

__version__ = "0.1.0"

_HOME = {
    "EstimatorEngine": "engines",
    "ExactEngine": "engines",
    "LayerSpec": "spec",
    "NoisyEngine": "engines",
    "PointwiseConnector": "connector",
    "PointwiseQNN": "connector",
    "QuantumPointwiseConv1d": "layer",
    "QuantumPointwiseConv2d": "layer",
    "QuantumPointwiseConv3d": "layer",
    "make_spec": "spec",
    "use_engine": "connector",
}

__all__ = [
    "EstimatorEngine",
    "ExactEngine",
    "LayerSpec",
    "NoisyEngine",
    "PointwiseConnector",
    "PointwiseQNN",
    "QuantumPointwiseConv1d",
    "QuantumPointwiseConv2d",
    "QuantumPointwiseConv3d",
    "make_spec",
    "use_engine",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
