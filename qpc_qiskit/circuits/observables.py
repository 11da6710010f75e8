"""Observables: products of Z, each a bit mask in which qubit q is bit q; qubit 0 first."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from qiskit.quantum_info import SparsePauliOp
from torch import Tensor

from qpc_qiskit.circuits.parities import make_z_string


@cache
def single_z(num_qubits: int) -> tuple[int, ...]:
    """Z on qubit q, for q = 0 .. n-1."""
    return tuple(1 << q for q in range(num_qubits))


@cache
def z_observables(strings: tuple[int, ...], num_qubits: int) -> tuple[SparsePauliOp, ...]:
    """The same as operators on n qubits."""
    return tuple(make_z_string(mask, num_qubits) for mask in strings)


def pauli_z(num_qubits: int) -> tuple[SparsePauliOp, ...]:
    """Z on qubit q, for q = 0 .. n-1, as operators."""
    return z_observables(single_z(num_qubits), num_qubits)


def z_signs(strings: tuple[int, ...], num_qubits: int) -> Tensor:
    """(m, 2**n) float64: eigenvalue of each string in basis state i."""
    basis = np.arange(2**num_qubits)
    signs = np.ones((len(strings), len(basis)))
    for row, mask in zip(signs, strings, strict=True):
        for q in range(num_qubits):
            if mask >> q & 1:
                row *= 1.0 - 2.0 * (basis >> q & 1)
    return torch.from_numpy(signs)
