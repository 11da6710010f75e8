"""Pauli-transfer matrices of gates and of Aer's errors. See the package's text for the basis."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import numpy as np
from qiskit.circuit import Instruction
from qiskit.exceptions import QiskitError
from qiskit.quantum_info import PTM, Operator, SuperOp
from qiskit_aer.noise import NoiseModel

from qpc_qiskit.common.arrays import Array
from qpc_qiskit.errors import EngineError

MAX_GATE_QUBITS = 3
"""Of a gate or an error: a channel on four qubits already has 65,536 entries."""

_ROUNDING = 1e-14  # entries below are rounding errors of zeros, which would hide the sparsity
_PAULIS = np.array([[[1, 0], [0, 1]], [[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]])


def transfer_matrix(channel: object) -> Array:
    """Pauli-transfer matrix (4**k, 4**k) of anything that Qiskit can make a channel of.

    Args:
        channel: a gate, an instruction such as `reset` or `kraus`, a `QuantumError`, a `SuperOp`.

    Raises:
        QiskitError: Qiskit cannot make a channel of it.
    """
    matrix = np.asarray(PTM(SuperOp(channel)).data)
    real = np.ascontiguousarray(matrix.real)  # a channel maps Hermitian to Hermitian operators
    real[np.abs(real) < _ROUNDING] = 0
    return real


@cache
def rotation_parts(pauli: tuple[int, ...]) -> tuple[Array, Array, Array]:
    """Matrices A, B, C: exp(-i phi P / 2) has the transfer matrix A + B cos(phi) + C sin(phi).

    A and B are the projectors on the Paulis that commute and that do not commute with P. C swaps
    the latter in pairs, with signs: C[i, j] = 1 goes with C[j, i] = -1.

    Args:
        pauli: digits of P, qubit 0 first.
    """
    generator = np.eye(1)
    for digit in pauli:
        generator = np.kron(_PAULIS[digit], generator)
    whole, half = (
        transfer_matrix(Operator(np.cos(a) * np.eye(len(generator)) - 1j * np.sin(a) * generator))
        for a in (np.pi / 2, np.pi / 4)
    )
    unit = np.eye(len(whole))
    return (
        np.rint((unit + whole) / 2),
        np.rint((unit - whole) / 2),
        np.rint(half - (unit + whole) / 2),
    )


def rotation_matrix(pauli: tuple[int, ...], angle: float) -> Array:
    """Transfer matrix of exp(-i angle P / 2)."""
    constant, cosine, sine = rotation_parts(pauli)
    return constant + np.cos(angle) * cosine + np.sin(angle) * sine


def instruction_matrix(operation: Instruction) -> Array:
    """Transfer matrix of an instruction without free parameters.

    Raises:
        EngineError: it is no channel, or acts on too many qubits.
    """
    if operation.num_clbits or operation.num_qubits > MAX_GATE_QUBITS:
        raise EngineError(
            f"The circuit holds {operation.name!r} on {operation.num_qubits} qubits and "
            f"{operation.num_clbits} classical bits; the noisy engine takes gates and channels of "
            f"at most {MAX_GATE_QUBITS} qubits, without classical bits. Use the estimator engine."
        )
    if operation.name == "delay":
        return np.eye(4)
    try:
        return transfer_matrix(operation)
    except (QiskitError, TypeError, ValueError) as error:
        raise EngineError(
            f"The circuit holds {operation.name!r}, of which the noisy engine can make no "
            f"channel: {error} Use the estimator engine."
        ) from error


@dataclass(frozen=True, eq=False)
class GateErrors:
    """Quantum errors of a noise model, as Aer applies them: after the gate that has their name."""

    model: NoiseModel = field(repr=False)
    _matrices: dict[int, Array] = field(default_factory=dict, repr=False)

    @property
    def names(self) -> frozenset[str]:
        """Instructions, or labels of instructions, that have an error somewhere."""
        # Aer has no public access to its errors but a dictionary of serialised circuits.
        return frozenset(self.model._default_quantum_errors) | frozenset(
            self.model._local_quantum_errors
        )

    def after(self, name: str, qubits: tuple[int, ...]) -> Array | None:
        """Transfer matrix of the error of an instruction; None: it has none.

        An error for these very qubits, in this order, takes the place of the one for all qubits.

        Args:
            name: the instruction's label if it has one, else its name.
            qubits: in the order of the instruction.

        Raises:
            EngineError: the error is for another number of qubits.
        """
        local = self.model._local_quantum_errors.get(name, {})
        error = local.get(qubits, self.model._default_quantum_errors.get(name))
        if error is None:
            return None
        if error.num_qubits != len(qubits):
            raise EngineError(
                f"The noise model has an error of {error.num_qubits} qubits on {name!r}, which "
                f"acts on {len(qubits)}; which of them it is for is not defined. Give an error of "
                f"{len(qubits)} qubits."
            )
        if len(qubits) > MAX_GATE_QUBITS:
            raise EngineError(
                f"The noise model has an error of {error.num_qubits} qubits on {name!r}; the noisy "
                f"engine takes errors of at most {MAX_GATE_QUBITS}. Use the estimator engine."
            )
        if id(error) not in self._matrices:  # the model, which is kept, keeps the error
            self._matrices[id(error)] = transfer_matrix(error)
        return self._matrices[id(error)]
