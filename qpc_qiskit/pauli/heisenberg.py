"""The end of a circuit folded into its observables: once for each kernel, in torch.

The observables of all kernels are one array (K, m, 4, ..., 4), qubit 0 on the last axis. From the
last operation to the first it is multiplied from the right by transfer matrices. What acts on one
qubit is collected until an operation on several comes, and the product of all is applied at once.
Differentiable by the angles.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from qpc_qiskit.pauli.channels import rotation_parts
from qpc_qiskit.pauli.program import Constant, Operation, Program


def fold_suffix(program: Program, angles: Tensor) -> Tensor:
    """Observables before the suffix.

    Args:
        program: of the circuit.
        angles: (K, T) radians, of each kernel; those of pixels are not looked at.

    Returns:
        (K, m, 4**n), dtype and device of `angles`.
    """
    n, count = program.num_qubits, len(angles)
    held = torch.as_tensor(program.observables).to(angles)
    held = held.expand(count, *held.shape).reshape(count, -1, *[4] * n)
    waiting: dict[int, Tensor] = {}
    matrices = _matrices(program.suffix, angles)
    for operation, matrix in zip(reversed(program.suffix), reversed(matrices), strict=True):
        qubits = operation.qubits
        if len(qubits) == 1:
            (qubit,) = qubits
            waiting[qubit] = waiting[qubit] @ matrix if qubit in waiting else matrix
            continue
        unit = torch.eye(4).to(angles)[None]
        factors = [waiting.pop(qubit, unit) for qubit in qubits]
        held = _apply(held, qubits, _product(factors) @ matrix)
    for qubit, matrix in waiting.items():
        held = _apply(held, (qubit,), matrix)
    return held.reshape(count, -1, 4**n)


def _matrices(operations: Sequence[Operation], angles: Tensor) -> list[Tensor]:
    """(K or 1, 4**k, 4**k) of each operation."""
    found: list[Tensor | None] = [None] * len(operations)
    rotations: dict[tuple[int, ...], list[int]] = {}
    for i, operation in enumerate(operations):
        if isinstance(operation, Constant):
            found[i] = torch.as_tensor(operation.matrix).to(angles)[None]
        else:
            rotations.setdefault(operation.pauli, []).append(i)
    for pauli, places in rotations.items():  # all about one axis at once
        constant, cosine, sine = (torch.as_tensor(a).to(angles) for a in rotation_parts(pauli))
        columns = [operations[i].angle for i in places]  # type: ignore[union-attr]
        phi = angles[:, columns].T[:, :, None, None]
        stacked = constant + phi.cos() * cosine + phi.sin() * sine
        for i, matrix in zip(places, stacked.unbind(0), strict=True):
            found[i] = matrix
    return [matrix for matrix in found if matrix is not None]


def _product(factors: Sequence[Tensor]) -> Tensor:
    """Kronecker product, the first factor on the lowest digit."""

    def kron(low: Tensor, high: Tensor) -> Tensor:
        both = high[:, :, None, :, None] * low[:, None, :, None, :]
        return both.flatten(3, 4).flatten(1, 2)

    return reduce(kron, factors)


def _apply(held: Tensor, qubits: Sequence[int], matrix: Tensor) -> Tensor:
    """Multiply the axes of some qubits from the right by a matrix for each kernel."""
    n = held.ndim - 2
    axes = [2 + n - 1 - qubit for qubit in reversed(qubits)]  # the first qubit goes last
    ends = list(range(held.ndim - len(axes), held.ndim))
    moved = held.movedim(axes, ends)
    product = moved.reshape(len(held), -1, matrix.shape[-1]) @ matrix
    return product.reshape(moved.shape).movedim(ends, axes)
