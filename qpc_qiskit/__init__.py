"""Quantum pointwise convolution for PyTorch, evaluated by simulators or Qiskit primitives.

The names below are loaded on first use, so that `import qpc_qiskit` costs little more than `import
torch`. Imports none of the other packages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qpc_qiskit.common.lazy import lazy_names
from qpc_qiskit.common.moved import find_moved_modules

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
    "LayerSpec": "circuits.spec",
    "NoisyEngine": "engines",
    "PointwiseConnector": "connector",
    "PointwiseQNN": "connector",
    "QuantumPointwiseConv1d": "layer",
    "QuantumPointwiseConv2d": "layer",
    "QuantumPointwiseConv3d": "layer",
    "make_spec": "circuits.spec",
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

__getattr__ = lazy_names(__name__, _HOME)


def __dir__() -> list[str]:
    return [*globals(), *__all__]


find_moved_modules()
