"""The end of an ansatz that need not be run: it only permutes what is measured.

A gate that permutes basis states linearly (x, cx, swap, ...), a diagonal gate (rz, cz, t, ...), or
a product of both maps every product of Z to a product of Z, up to a sign. Where an ansatz ends in
such gates they are left out and parities of several qubits are measured instead of single ones: the
same numbers for every state, without the errors and the time of these gates. `strongly_entangling`
and `figure1` end in a ring of n CNOTs and n RZ; `circuit_centric` ends in RX and keeps all of it.

A parity is read wrongly if any odd number of its qubits is, so readout errors count for more;
`qpc_qiskit.circuits.parities` takes them out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from qiskit import QuantumCircuit
from qiskit.circuit import CircuitInstruction, Gate, Operation, ParameterExpression
from qiskit.exceptions import QiskitError
from qiskit.quantum_info import Operator, SparsePauliOp

from qpc_qiskit.circuits.observables import pauli_z
from qpc_qiskit.circuits.parities import make_z_string, read_z_string

DIAGONAL = frozenset({"rz", "p", "u1", "crz", "cp", "cu1", "rzz", "mcphase"})
"""Gates that are diagonal for all angles; others without free angles are told by their matrix."""

_MAX_GATE_QUBITS = 4  # of gates whose matrix is looked at
_TOLERANCE = 1e-13

_ZString = tuple[int, bool]  # qubits as bits, and whether the sign is negative


@dataclass(frozen=True, eq=False)
class Absorbed:
    """A circuit without its tail, and what is to be measured on it."""

    circuit: QuantumCircuit = field(repr=False)
    """What is left, on the same qubits, with the parameters of the gates that are left; the whole
    circuit itself if nothing could be left out."""
    observables: tuple[SparsePauliOp, ...]
    """Products of Z with coefficient 1 or -1: here their values are those of the ones that were
    given on the whole circuit."""
    columns: tuple[int, ...]
    """Ascending: which of the whole circuit's parameters are left, as indices into its
    `circuit.parameters`. For an ansatz' template these are its occurrence angles."""
    num_absorbed: int
    """Gates left out."""
    num_absorbed_two_qubit: int
    """Of these on two qubits."""


def absorb_tail(
    circuit: QuantumCircuit, observables: Sequence[SparsePauliOp] | None = None
) -> Absorbed:
    """Turn the end of a circuit into observables, as far as possible; exact for every state.

    An instruction is left out if it maps products of Z to products of Z and no instruction after it
    on one of its qubits had to stay.

    Args:
        circuit: usually an ansatz' template; not modified. All of it may be left out.
        observables: signed products of Z; None: Z of every qubit.
    """
    n = circuit.num_qubits
    wanted = pauli_z(n) if observables is None else observables
    signed = [read_z_string(each) for each in wanted]
    strings: list[_ZString] = [(mask, sign < 0) for mask, sign in signed]
    blocked: set[int] = set()
    left: list[CircuitInstruction] = []
    absorbed: list[CircuitInstruction] = []
    for instruction in reversed(circuit.data):
        qubits = [circuit.find_bit(q).index for q in instruction.qubits]
        is_barrier = instruction.operation.name == "barrier"
        if is_barrier and blocked.isdisjoint(qubits):
            continue  # nothing is left after it
        images = None
        if not is_barrier and blocked.isdisjoint(qubits):
            images = _z_images(instruction.operation)
        if images is None:
            left.append(instruction)
            blocked.update(() if is_barrier else qubits)
        else:
            absorbed.append(instruction)
            strings = [_conjugated(string, qubits, images) for string in strings]
    rest = circuit
    if absorbed:
        rest = circuit.copy_empty_like()
        for instruction in reversed(left):
            rest.append(instruction)
    kept = set(rest.parameters)
    return Absorbed(
        rest,
        tuple(make_z_string(mask, n, -1 if minus else 1) for mask, minus in strings),
        tuple(i for i, parameter in enumerate(circuit.parameters) if parameter in kept),
        len(absorbed),
        sum(len(instruction.qubits) == 2 for instruction in absorbed),
    )


def _conjugated(string: _ZString, qubits: list[int], images: list[_ZString]) -> _ZString:
    """A Z-string before a gate, given what the gate makes of Z on each of its own qubits."""
    mask, minus = string
    result = mask & ~sum(1 << q for q in qubits)
    for qubit, (image, flips) in zip(qubits, images, strict=True):
        if mask >> qubit & 1:
            for j, other in enumerate(qubits):
                result ^= (image >> j & 1) << other
            minus ^= flips
    return result, minus


def _z_images(operation: Operation) -> list[_ZString] | None:
    """U^+ Z_q U for each qubit of a gate, on the gate's own qubits; None if one is no Z-string."""
    if not isinstance(operation, Gate) or operation.num_clbits:
        return None
    width = operation.num_qubits
    if operation.name in DIAGONAL:
        return [(1 << q, False) for q in range(width)]
    is_free = any(isinstance(p, ParameterExpression) and p.parameters for p in operation.params)
    if is_free or width > _MAX_GATE_QUBITS:
        return None
    try:
        matrix = np.abs(Operator(operation).data)
    except QiskitError:  # it has no matrix
        return None
    target = matrix.argmax(axis=0)  # basis state i goes to target[i], up to a phase
    states = np.arange(2**width)
    matrix[target, states] -= 1
    if np.abs(matrix).max() > _TOLERANCE:
        return None
    images = []
    for q in range(width):
        flips = int(target[0]) >> q & 1
        mask = sum(((int(target[1 << j]) >> q & 1) ^ flips) << j for j in range(width))
        parity = np.array([(int(i) & mask).bit_count() & 1 for i in states])
        if not np.array_equal(parity ^ flips, target >> q & 1):
            return None  # a permutation that is not linear, like ccx
        images.append((mask, bool(flips)))
    return images
