"""Rows and PUBs: how pixels and kernels become one primitive call, and come back. Pure functions.

Row k*N + i holds pixel i's encoder angles followed by kernel k's ansatz angles. All rows and all
observables go into one PUB: observables of shape (n, 1) against parameters of shape (K*N,)
broadcast to (n, K*N), and since all Z commute an estimator needs one execution per row.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.primitives import EstimatorPub
from qiskit.primitives.containers import BindingsArray, ObservablesArray

from qpc_qiskit.ansatz import Ansatz
from qpc_qiskit.encoder import Encoder
from qpc_qiskit.errors import EngineError
from qpc_qiskit.observables import pauli_z

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Template:
    """The one parametrized circuit of a layer: encoder, then ansatz in its occurrence angles."""

    circuit: QuantumCircuit = field(repr=False)
    parameters: tuple[Parameter, ...] = field(repr=False)
    """Encoder angles, then ansatz angles: the columns of a row."""


def make_template(encoder: Encoder, ansatz: Ansatz) -> Template:
    """Encoder followed by ansatz, on the same qubits."""
    circuit = QuantumCircuit(ansatz.num_qubits, name=f"{encoder.name}+{ansatz.name}")
    circuit.compose(encoder.circuit, inplace=True)
    circuit.compose(ansatz.template, inplace=True)
    theta = {p.index: p for p in ansatz.template.parameters}
    return Template(circuit, (*encoder.parameters, *(theta[i] for i in range(ansatz.num_angles))))


def make_rows(encoder_angles: Array, ansatz_angles: Array) -> Array:
    """Parameter rows of all kernels and pixels.

    Args:
        encoder_angles: (N, E), radians.
        ansatz_angles: (K, R), radians.

    Returns:
        (K*N, E + R).
    """
    num_pixels, num_kernels = len(encoder_angles), len(ansatz_angles)
    return np.concatenate(
        [np.tile(encoder_angles, (num_kernels, 1)), np.repeat(ansatz_angles, num_pixels, axis=0)],
        axis=1,
    )


def split_rows(
    rows: Array, num_pixels: int, num_kernels: int, num_encoder_angles: int
) -> tuple[Array, Array]:
    """Inverse of `make_rows`: encoder angles (N, E) and ansatz angles (K, R)."""
    blocks = rows.reshape(num_kernels, num_pixels, -1)
    return blocks[0, :, :num_encoder_angles], blocks[:, 0, num_encoder_angles:]


def make_pub(template: Template, rows: Array, precision: float | None = None) -> EstimatorPub:
    """One PUB for all rows: observables (n, 1) against parameters (K*N,)."""
    observables = [[z] for z in pauli_z(template.circuit.num_qubits)]
    bindings = BindingsArray({template.parameters: rows})
    return EstimatorPub(template.circuit, ObservablesArray.coerce(observables), bindings, precision)


def evs_from_data(
    data: object, name: str, num_pixels: int, num_kernels: int, num_qubits: int
) -> Array:
    """Field `name` (`evs` or `stds`) of a PUB result's data as (N, K, n).

    Raises:
        EngineError: the field is missing or has another shape.
    """
    values = getattr(data, name, None)
    expected = (num_qubits, num_kernels * num_pixels)
    if values is None or np.shape(values) != expected:
        found = "nothing" if values is None else f"shape {np.shape(values)}"
        raise EngineError(
            f"The estimator returned {found} for {name!r}; expected shape {expected} "
            f"({num_qubits} observables against {num_kernels} kernels x {num_pixels} pixels)."
        )
    array = np.asarray(values, np.float64).reshape(num_qubits, num_kernels, num_pixels)
    return np.ascontiguousarray(array.transpose(2, 1, 0))
