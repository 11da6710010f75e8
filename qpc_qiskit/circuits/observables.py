"""Observables: <Z> of every qubit; feature q of a kernel is <Z_q>, qubit 0 first."""

from __future__ import annotations

from functools import cache

import torch
from qiskit.quantum_info import SparsePauliOp
from torch import Tensor


@cache
def pauli_z(num_qubits: int) -> tuple[SparsePauliOp, ...]:
    """Z on qubit q, for q = 0 .. n-1."""
    return tuple(
        SparsePauliOp.from_sparse_list([("Z", [q], 1.0)], num_qubits=num_qubits)
        for q in range(num_qubits)
    )


def z_signs(num_qubits: int) -> Tensor:
    """(n, 2**n) float64: eigenvalue of Z_q in basis state i."""
    basis = torch.arange(2**num_qubits)
    return torch.stack([1.0 - 2.0 * ((basis >> q) & 1) for q in range(num_qubits)]).to(
        torch.float64
    )
