"""Checks of a transpiled circuit before anything is sent; the services make few of them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
from qiskit import QuantumCircuit
from qiskit.circuit import ControlFlowOp, Gate, Instruction, Parameter
from qiskit.providers import BackendV2
from qiskit.quantum_info import SparsePauliOp, Statevector
from qiskit.transpiler import Target

from qpc_qiskit.circuits.ansatz import affine_coefficients
from qpc_qiskit.common.arrays import Array
from qpc_qiskit.devices.targets import Qargs
from qpc_qiskit.errors import EngineError, NotISAError

RZZ_MAX = math.pi / 2
"""Fractional rzz gates take angles from 0 to this, in radians."""
_ROUNDING = 1e-10


def is_isa(circuit: QuantumCircuit, target: Target) -> bool:
    """Whether the target supports every instruction on its qubits."""
    return next(_unsupported(circuit, target), None) is None


def check_isa(circuit: QuantumCircuit, target: Target) -> None:
    """Check that the target supports every instruction on its qubits.

    Raises:
        NotISAError: it does not, or the circuit is wider than the target.
    """
    if target.num_qubits is not None and circuit.num_qubits > target.num_qubits:
        raise NotISAError(
            f"The circuit has {circuit.num_qubits} qubits; the backend has {target.num_qubits}. "
            "Use a larger backend."
        )
    for operation, qubits in _unsupported(circuit, target):
        name = operation.name
        if target.instruction_supported(name, qubits):
            has = f"its parameters {operation.params} are out of range"
        elif name in target.operation_names:
            has = "only other qubits have it"
        else:
            has = "no qubits have it"
        raise NotISAError(
            f"The backend does not support {name!r} on qubits {qubits}: {has}. Transpile the "
            "circuit for this very backend first."
        )


def faulty(backend: BackendV2) -> tuple[frozenset[int], frozenset[Qargs]]:
    """Qubits and pairs of qubits that a backend's properties tell to be out of order.

    Returns:
        Qubits, and pairs (a, b) with a < b; both empty for a backend without such properties.
    """
    properties = getattr(backend, "properties", None)
    told: Any = properties() if callable(properties) else None
    if told is None or not hasattr(told, "faulty_qubits"):
        return frozenset(), frozenset()
    gates = [tuple(sorted(gate.qubits)) for gate in told.faulty_gates()]
    qubits = {*told.faulty_qubits(), *(gate[0] for gate in gates if len(gate) == 1)}
    return frozenset(qubits), frozenset(gate for gate in gates if len(gate) == 2)


def check_faulty(
    circuit: QuantumCircuit, bad_qubits: Collection[int], bad_edges: Collection[Qargs]
) -> None:
    """Check that no instruction stands on faulty qubits, see `faulty`.

    Raises:
        NotISAError: one does.
    """
    edges = {tuple(sorted(edge)) for edge in bad_edges}
    for operation, qubits in _instructions(circuit, range(circuit.num_qubits)):
        if tuple(sorted(qubits)) in edges or not set(bad_qubits).isdisjoint(qubits):
            raise NotISAError(
                f"{operation.name!r} stands on qubits {qubits}, which the backend tells to be "
                "faulty. Place the circuit anew, on other qubits."
            )


def check_rzz_angles(circuit: QuantumCircuit, parameters: Sequence[Parameter], rows: Array) -> None:
    """Check that every rzz angle of every row is one that the hardware has.

    Args:
        circuit: its rzz angles are affine in the parameters.
        parameters: the P columns of `rows`.
        rows: (M, P), radians.

    Raises:
        NotISAError: an angle is not in [0, pi/2].
    """
    gates = [
        (operation.params[0], qubits)
        for operation, qubits in _instructions(circuit, range(circuit.num_qubits))
        if operation.name == "rzz"
    ]
    if not gates or not len(rows):
        return
    columns = tuple(parameters)
    affine = [affine_coefficients(a, columns, f"the rzz angle on {q}") for a, q in gates]
    angles = rows @ np.stack([scale for scale, _ in affine]).T + [offset for _, offset in affine]
    wrong = np.argwhere(~((angles >= -_ROUNDING) & (angles <= RZZ_MAX + _ROUNDING)))
    if len(wrong):
        row, gate = wrong[0]
        raise NotISAError(
            f"Row {row} of {len(rows)} gives the rzz gate on qubits {gates[gate][1]} the angle "
            f"{angles[row, gate]:.6g}; hardware has angles from 0 to pi/2 only. Turn fractional "
            "gates off (use_fractional_gates=False) and place the circuit anew."
        )


def check_equivalence(
    circuit: QuantumCircuit,
    parameters: Sequence[Parameter],
    observables: Sequence[SparsePauliOp],
    rows: Array,
    expected: Array,
    atol: float,
) -> None:
    """Check, by simulation without noise, that a transpiled circuit computes what it should.

    Args:
        circuit: any width; only the qubits that it or an observable uses are simulated.
        parameters: the P columns of `rows`.
        observables: V of them, on the circuit's qubits.
        rows: (M, P), radians; a few.
        expected: (M, V) expectation values.
        atol: allowed deviation.

    Raises:
        EngineError: a value deviates by more, or is not a number.
    """
    active = _active_qubits(circuit, observables)
    wire = {q: i for i, q in enumerate(active)}
    small = QuantumCircuit(len(active), global_phase=circuit.global_phase)
    for operation, qubits in _instructions(circuit, range(circuit.num_qubits)):
        small.append(operation, [wire[q] for q in qubits])
    kept = [_restricted(observable, active) for observable in observables]
    for index, row in enumerate(rows):
        values = dict(zip(parameters, row, strict=True))
        state = Statevector(small.assign_parameters({p: values[p] for p in small.parameters}))
        found = np.array([state.expectation_value(observable).real for observable in kept])
        deviation = np.abs(found - expected[index])
        if not np.all(deviation <= atol):
            worst = int(np.argmax(deviation))
            raise EngineError(
                f"The transpiled circuit does not compute the same as the exact engine: observable "
                f"{worst} in row {index} is {found[worst]:.9g}, expected "
                f"{expected[index][worst]:.9g}, a deviation of {deviation[worst]:.3g} where "
                f"{atol:.3g} is allowed. Do not use this circuit; remove passes of your own from "
                "the transpilation, or report it as a bug."
            )


def _active_qubits(circuit: QuantumCircuit, observables: Sequence[SparsePauliOp]) -> list[int]:
    used = {q for _, qubits in _instructions(circuit, range(circuit.num_qubits)) for q in qubits}
    for observable in observables:
        used |= set(np.flatnonzero((observable.paulis.z | observable.paulis.x).any(0)).tolist())
    return sorted(used)


def _restricted(observable: SparsePauliOp, qubits: Sequence[int]) -> SparsePauliOp:
    """An observable that is the identity elsewhere, on some qubits only."""
    labels = [
        "".join(label[::-1][q] for q in reversed(qubits)) for label in observable.paulis.to_labels()
    ]
    return SparsePauliOp(labels, observable.coeffs)


def _unsupported(circuit: QuantumCircuit, target: Target) -> Iterator[tuple[Instruction, Qargs]]:
    for operation, qubits in _instructions(circuit, range(circuit.num_qubits)):
        fixed = operation.params if isinstance(operation, Gate) else None
        if not target.instruction_supported(operation.name, qubits, parameters=fixed):
            yield operation, qubits


def _instructions(
    circuit: QuantumCircuit, qubits: Sequence[int]
) -> Iterator[tuple[Instruction, Qargs]]:
    """Every instruction but barriers, those within control flow included, and its qubits."""
    wire = dict(zip(circuit.qubits, qubits, strict=True))
    for instruction in circuit.data:
        operation, on = instruction.operation, tuple(wire[q] for q in instruction.qubits)
        if operation.name != "barrier":
            yield operation, on
        if isinstance(operation, ControlFlowOp):
            for block in operation.blocks:
                yield from _instructions(block, on)
