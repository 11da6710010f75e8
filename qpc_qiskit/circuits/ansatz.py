"""Ansätze: the trainable part of a kernel, as Qiskit circuits.

Conventions, here and everywhere: qubit 0 is the lowest bit of a basis state's index (Qiskit's
order); block l entangles qubit q with qubit (q + r) mod n, r = l mod (n - 1) + 1, except in
`figure1`, where r = 1; one qubit has no entangler. Each ansatz is built from {rz, rx, sx, x, cx}
alone, because Aer binds a parametrized `cp` wrongly (qiskit-aer#2403); a controlled phase is three
RZ and two CX.

`circuit` is a circuit in the P weights. `template` is the same circuit with one parameter per
parametrized gate *occurrence*, R of them, and `angles = weights @ scale.T + offset` says which: a
weight that occurs twice, or as 2*w + 1, is two occurrences, each the bare angle of one rotation. So
two-term shifts are right for each of them, whatever the noise between the gates. R = P, but for
`circuit_centric`, whose controlled phases are three occurrences each: R = 7nL for n > 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Self

import numpy as np
from qiskit import QuantumCircuit, transpile
from qiskit.circuit import ControlFlowOp, Gate, Parameter, ParameterExpression, ParameterVector
from qiskit.exceptions import QiskitError

from qpc_qiskit.circuits.encoder import PARAMETER_NAME
from qpc_qiskit.circuits.qpy import circuits_to_bytes
from qpc_qiskit.errors import AnsatzError, EngineError

USER_ANSATZ = "user"
NATIVE_GATES = ("rz", "sx", "x", "cx")
"""What a user's circuit is translated to."""


@dataclass(frozen=True, eq=False)
class Ansatz:
    """A parametrized circuit and its map from weights to gate angles.

    Compared by identity; `make_ansatz` returns the same object for the same built-in arguments.
    """

    name: str
    """`strongly_entangling`, `figure1`, `circuit_centric` or `user`."""
    num_layers: int | None
    """Number of blocks; None for a user's circuit."""
    circuit: QuantumCircuit = field(repr=False)
    """The circuit in the weights."""
    parameters: tuple[Parameter, ...] = field(repr=False)
    """The P parameters of `circuit`, in the order of a weight row."""
    template: QuantumCircuit = field(repr=False)
    """The circuit in the R occurrence angles `theta[r]`, each the bare angle of one gate."""
    scale: np.ndarray = field(repr=False)
    """(R, P), float64."""
    offset: np.ndarray = field(repr=False)
    """(R,), float64, radians."""

    @property
    def num_qubits(self) -> int:
        """Number of qubits, n."""
        return self.circuit.num_qubits

    @property
    def num_weights(self) -> int:
        """Weights of one kernel, P."""
        return len(self.parameters)

    @property
    def num_angles(self) -> int:
        """Parametrized gate occurrences, R."""
        return len(self.offset)

    def __reduce__(self) -> tuple[object, ...]:
        """A named ansatz is unpickled as the very object that `make_ansatz` gives."""
        if self.name in ANSATZE:
            return make_ansatz, (self.name, self.num_qubits, self.num_layers)
        return object.__new__, (type(self),), self.__dict__

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        """Immutable: copies of a layer share their ansatz and what is cached for it."""
        return self

    def angles(self, weights: np.ndarray) -> np.ndarray:
        """Occurrence angles (K, R) in radians of the weights (K, P), float64."""
        return np.asarray(weights, np.float64) @ self.scale.T + self.offset


def make_ansatz(ansatz: str | QuantumCircuit, num_qubits: int, num_layers: int = 3) -> Ansatz:
    """The named ansatz, or a user's circuit checked and translated.

    Args:
        ansatz: a key of `ANSATZE`, or a circuit: unitary gates only, every angle affine in the
            parameters (repeats allowed). Its parameters, in `circuit.parameters` order, are a
            kernel's weights.
        num_qubits: n.
        num_layers: number of blocks of a named ansatz; ignored for a circuit, which is the whole
            ansatz.

    Raises:
        AnsatzError: unknown name, wrong width, or a circuit that is not allowed (the reason is
            named).
    """
    if isinstance(ansatz, QuantumCircuit):
        return _user_ansatz(ansatz, num_qubits)
    if ansatz not in ANSATZE:
        raise AnsatzError(
            f"Unknown ansatz {ansatz!r}; expected one of {', '.join(ANSATZE)}, or a qiskit "
            "QuantumCircuit."
        )
    return _named_ansatz(ansatz, num_qubits, num_layers)


@cache
def _named_ansatz(name: str, num_qubits: int, num_layers: int) -> Ansatz:
    weights_per_layer, add_block = ANSATZE[name]
    count = weights_per_layer(num_qubits)
    theta = ParameterVector("theta", count * num_layers)
    circuit = QuantumCircuit(num_qubits, name=name)
    for layer in range(num_layers):
        add_block(circuit, list(theta[layer * count : (layer + 1) * count]), layer)
    parameters = tuple(theta)
    return Ansatz(name, num_layers, circuit, parameters, *_split_occurrences(circuit, parameters))


def entangler_range(num_qubits: int, layer: int) -> int:
    """Distance between control and target in block `layer`; 0 for one qubit."""
    return layer % (num_qubits - 1) + 1 if num_qubits > 1 else 0


def _add_rotations(circuit: QuantumCircuit, theta: list[Parameter]) -> None:
    """G = RZ RX RZ on every qubit; three weights a qubit, in the order they act."""
    for q in range(circuit.num_qubits):
        circuit.rz(theta[3 * q], q)
        circuit.rx(theta[3 * q + 1], q)
        circuit.rz(theta[3 * q + 2], q)


def _add_cnot_ring(circuit: QuantumCircuit, distance: int) -> None:
    n = circuit.num_qubits
    if n > 1:
        for q in range(n):
            circuit.cx(q, (q + distance) % n)


def _add_strongly_entangling(circuit: QuantumCircuit, theta: list[Parameter], layer: int) -> None:
    _add_rotations(circuit, theta)
    _add_cnot_ring(circuit, entangler_range(circuit.num_qubits, layer))


def _add_figure1(circuit: QuantumCircuit, theta: list[Parameter], layer: int) -> None:
    for q in range(circuit.num_qubits):
        circuit.rx(theta[2 * q], q)
        circuit.rz(theta[2 * q + 1], q)
    _add_cnot_ring(circuit, 1)


def _add_circuit_centric(circuit: QuantumCircuit, theta: list[Parameter], layer: int) -> None:
    n = circuit.num_qubits
    _add_rotations(circuit, theta)
    rest = iter(theta[3 * n :])
    for q in range(n):
        if n > 1:
            target = (q + entangler_range(n, layer)) % n
            _add_controlled_phase(circuit, next(rest), q, target)
        circuit.rx(next(rest), q)


def _add_controlled_phase(
    circuit: QuantumCircuit, angle: ParameterExpression, control: int, target: int
) -> None:
    """CP(angle) up to a global phase; see the module docstring for why not `cp`."""
    circuit.rz(angle / 2, control)
    circuit.rz(angle / 2, target)
    circuit.cx(control, target)
    circuit.rz(-angle / 2, target)
    circuit.cx(control, target)


Block = Callable[[QuantumCircuit, list[Parameter], int], None]

ANSATZE: dict[str, tuple[Callable[[int], int], Block]] = {
    # arXiv:2412.01241 builds on PennyLane's StronglyEntanglingLayers (Rot = RZ RY RZ): the same up
    # to fixed shifts of -pi/2 and +pi/2 of a qubit's first and last weight.
    "strongly_entangling": (lambda n: 3 * n, _add_strongly_entangling),
    # arXiv:2412.01241, Fig. 1.
    "figure1": (lambda n: 2 * n, _add_figure1),
    # arXiv:2412.01241's equation, from arXiv:1804.00633: prod_k RX_k C_k(P_k+r) prod_j G_j.
    "circuit_centric": (lambda n: 5 * n if n > 1 else 4, _add_circuit_centric),
}
"""Name -> (weights of a block on n qubits, function that appends a block)."""


def _user_ansatz(circuit: QuantumCircuit, num_qubits: int) -> Ansatz:
    if circuit.num_qubits != num_qubits:
        raise AnsatzError(
            f"The ansatz circuit has {circuit.num_qubits} qubits but the layer encodes into "
            f"{num_qubits}; give a circuit of that width, or set num_qubits."
        )
    for i, instruction in enumerate(circuit.data):
        operation = instruction.operation
        unitary = isinstance(operation, Gate) or operation.name == "barrier"
        if not unitary or isinstance(operation, ControlFlowOp) or instruction.clbits:
            raise AnsatzError(
                f"Instruction {i} of the ansatz circuit is {operation.name!r}; only unitary "
                "gates are allowed (no measurement, reset, control flow or classical bits)."
            )
    if not circuit.parameters:
        raise AnsatzError(
            "The ansatz circuit has no parameters, so there is nothing to train; give it at "
            "least one."
        )
    parameters = tuple(circuit.parameters)
    for parameter in parameters:
        if parameter.name.split("[")[0] == PARAMETER_NAME:
            raise AnsatzError(
                f"The ansatz circuit has a parameter {parameter.name!r}, a name kept for the "
                "encoder's angles; rename it."
            )
    native = _in_sums(_to_native(circuit), parameters)
    idle = [p.name for p in parameters if p not in native.parameters]
    if idle:
        raise AnsatzError(
            f"Parameter {idle[0]!r} of the ansatz circuit is in no gate's angle once the circuit "
            f"is translated to {{{', '.join(NATIVE_GATES)}}} (a global phase has no effect); "
            "remove it."
        )
    try:
        circuits_to_bytes([native])  # its layer is to be pickled, exported and kept
    except EngineError as error:
        raise AnsatzError(str(error)) from error
    return Ansatz(USER_ANSATZ, None, native, parameters, *_split_occurrences(native, parameters))


def _to_native(circuit: QuantumCircuit) -> QuantumCircuit:
    try:
        native = transpile(circuit, basis_gates=list(NATIVE_GATES), optimization_level=1)
    except (QiskitError, TypeError, ValueError) as error:
        raise AnsatzError(
            f"The ansatz circuit cannot be translated to {{{', '.join(NATIVE_GATES)}}}: {error}"
        ) from error
    result = QuantumCircuit(circuit.num_qubits, name=circuit.name)
    for instruction in native.data:
        qubits = [native.find_bit(q).index for q in instruction.qubits]
        if instruction.operation.name == "barrier":
            continue
        if instruction.operation.name not in NATIVE_GATES:
            raise AnsatzError(
                f"The ansatz circuit holds {instruction.operation.name!r}, which cannot be "
                f"translated to {{{', '.join(NATIVE_GATES)}}}."
            )
        result.append(instruction.operation, qubits)
    return result  # without the global phase, which no expectation value sees


def _in_sums(circuit: QuantumCircuit, parameters: tuple[Parameter, ...]) -> QuantumCircuit:
    """Angles of several terms as sums of multiples: Qiskit 2.1's QPY and pickle keep no others."""
    result = circuit.copy_empty_like()
    for instruction in circuit.data:
        operation = instruction.operation
        if _is_parametrized(operation) and not isinstance(operation.params[0], Parameter):
            what = f"an angle of {operation.name!r}"
            scale, offset = affine_coefficients(operation.params[0], parameters, what)
            angle: ParameterExpression | float = offset
            for factor, parameter in zip(scale.tolist(), parameters, strict=True):
                if factor:
                    angle = (parameter if factor == 1 else factor * parameter) + angle
            operation = operation.to_mutable()
            operation.params = [angle]
        result.append(operation, instruction.qubits)
    return result


def _split_occurrences(
    circuit: QuantumCircuit, parameters: tuple[Parameter, ...]
) -> tuple[QuantumCircuit, np.ndarray, np.ndarray]:
    """Template, scale and offset: every parametrized gate gets a parameter of its own."""
    rows = [
        affine_coefficients(i.operation.params[0], parameters, f"an angle of {i.operation.name!r}")
        for i in circuit.data
        if _is_parametrized(i.operation)
    ]
    theta = iter(ParameterVector("theta", len(rows)))
    template = QuantumCircuit(circuit.num_qubits, name=circuit.name)
    for instruction in circuit.data:
        qubits = [circuit.find_bit(q).index for q in instruction.qubits]
        if _is_parametrized(instruction.operation):
            operation = instruction.operation.to_mutable()
            operation.params = [next(theta)]
            template.append(operation, qubits)
        else:
            template.append(instruction.operation, qubits)
    return (
        template,
        np.array([scale for scale, _ in rows]).reshape(len(rows), len(parameters)),
        np.array([offset for _, offset in rows]),
    )


def _is_parametrized(operation: Gate) -> bool:
    return any(isinstance(p, ParameterExpression) and p.parameters for p in operation.params)


def affine_coefficients(
    expression: ParameterExpression | float, parameters: tuple[Parameter, ...], what: str
) -> tuple[np.ndarray, float]:
    """(scale, offset) with `expression == scale @ parameters + offset`.

    Args:
        expression: a circuit angle; a plain number is its own offset.
        parameters: the P parameters.
        what: names the angle in the error.

    Raises:
        AnsatzError: the expression is not affine in the parameters.
    """
    scale = np.zeros(len(parameters))
    if not isinstance(expression, ParameterExpression) or not expression.parameters:
        return scale, float(expression)
    for parameter in expression.parameters:
        try:
            slope = expression.gradient(parameter)
        except RuntimeError as error:  # qiskit has no derivative of sign(), for example
            raise AnsatzError(
                f"In the ansatz circuit {what} is {expression}, which is not affine in "
                f"{parameter.name}: {error}."
            ) from error
        if isinstance(slope, ParameterExpression):
            if slope.parameters:
                raise AnsatzError(
                    f"In the ansatz circuit {what} is {expression}, which is not affine in "
                    f"{parameter.name}; only sums of multiples of parameters and constants are "
                    "allowed."
                )
            slope = slope.numeric()
        if isinstance(slope, complex) or not math.isfinite(slope):
            raise AnsatzError(f"In the ansatz circuit {what} is {expression}, which is not real.")
        scale[parameters.index(parameter)] = float(slope)
    # Derivatives of Qiskit 2.1 are wrong (1/a gives 1): values at two points have to agree.
    values = []
    try:
        for factor in (0.0, 1.0):
            point = {p: factor * math.sqrt(2 + parameters.index(p)) for p in expression.parameters}
            values.append(complex(expression.bind(point).numeric()))
    except ZeroDivisionError:  # what Qiskit says of an infinite value
        values = [math.nan, math.nan]
    expected = float(scale @ np.sqrt(2 + np.arange(len(parameters))))
    if not abs(values[1] - values[0] - expected) <= 1e-9 * max(1.0, abs(expected)):
        names = ", ".join(sorted(p.name for p in expression.parameters))
        raise AnsatzError(
            f"In the ansatz circuit {what} is {expression}, which is not affine in {names}."
        )
    return scale, float(values[0].real)
