"""A noisy circuit, read once and split by what depends on pixels and what on kernels.

Every operation becomes a constant channel, a gate's error included, or a rotation by a free angle.
In the order of the circuit, rearranged only where operations share no qubit:

    shared   depends on the pixel alone: run once for all kernels
    mixed    comes after some rotation of a kernel, and before some rotation of a pixel. Empty for
             circuits as layers build them; a transpiler that routes qubits lets an ansatz begin on
             one while the encoder is still at work elsewhere, and then swaps them
    suffix   everything that no rotation of a pixel follows: folded into the observables

Measurement errors and readout errors are part of the observables.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from qiskit import QuantumCircuit
from qiskit.circuit import Instruction, Parameter, ParameterExpression
from qiskit.quantum_info import SparsePauliOp
from qiskit_aer.noise import NoiseModel

from qpc_qiskit.circuits.ansatz import affine_coefficients
from qpc_qiskit.circuits.parities import Inversion, read_z_string
from qpc_qiskit.common.arrays import Array
from qpc_qiskit.devices.noise import measurement_noise
from qpc_qiskit.devices.readout import confusions_of_model
from qpc_qiskit.errors import AnsatzError, EngineError
from qpc_qiskit.pauli.channels import GateErrors, instruction_matrix, rotation_matrix

Angle: TypeAlias = ParameterExpression | float

X, Y, Z = 1, 2, 3


@dataclass(frozen=True, eq=False)
class Constant:
    """A channel without free angles."""

    qubits: tuple[int, ...]
    matrix: Array = field(repr=False)
    """Transfer matrix (4**k, 4**k)."""


@dataclass(frozen=True, eq=False)
class Rotation:
    """exp(-i phi P / 2) with a free angle phi."""

    qubits: tuple[int, ...]
    pauli: tuple[int, ...]
    """Digits of P on these qubits."""
    angle: int
    """Row of the tables in `Program`."""


Operation = Constant | Rotation


@dataclass(frozen=True, eq=False)
class Program:
    """See the module's text. T angles are `encoder @ a + ansatz @ b + offset`."""

    num_qubits: int
    """n, of the circuit."""
    shared: tuple[Operation, ...] = field(repr=False)
    mixed: tuple[Operation, ...] = field(repr=False)
    suffix: tuple[Operation, ...] = field(repr=False)
    encoder: Array = field(repr=False)
    """(T, E), of the encoder's angles."""
    ansatz: Array = field(repr=False)
    """(T, R), of the ansatz' angles that are in the circuit; an angle has one of both kinds."""
    offset: Array = field(repr=False)
    """(T,), radians."""
    observables: Array = field(repr=False)
    """(m, 4**n): what the features are after the last operation, measurement errors included."""


def read_program(
    circuit: QuantumCircuit,
    encoder: Sequence[Parameter],
    ansatz: Sequence[Parameter],
    observables: Sequence[SparsePauliOp],
    noise_model: NoiseModel | None,
    inversion: Inversion | None = None,
) -> Program:
    """Read a circuit as Aer would run it.

    Args:
        circuit: on n qubits, in the gates that the noise model knows.
        encoder: the E parameters that pixels set.
        ansatz: the R parameters that kernels set.
        observables: signed Z-strings that are measured.
        noise_model: on qubits 0 to n-1; None: none.
        inversion: how features follow from what is measured; None: they are the same.

    Raises:
        EngineError: an instruction, an angle or an error that cannot be represented exactly.
    """
    model = NoiseModel() if noise_model is None else noise_model
    errors = GateErrors(model)
    if (passes := model._pass_manager()) is not None:  # as Aer itself does, for noise of delays
        circuit = passes.run(circuit)
    reader = _Reader(
        {p: i for i, p in enumerate(encoder)}, {p: i for i, p in enumerate(ansatz)}, errors
    )
    operations: list[Operation] = []
    for instruction in circuit.data:
        qubits = tuple(circuit.find_bit(q).index for q in instruction.qubits)
        operations += reader.read(instruction.operation, qubits)
    tables = reader.tables()
    shared, mixed, suffix = _split(operations, np.asarray(tables[0].any(axis=1)))
    measured = _measured(observables, circuit.num_qubits, errors, model)
    if inversion is not None:
        inverted = inversion.matrix @ measured
        inverted[:, 0] += inversion.offset
        measured = inverted
    return Program(
        circuit.num_qubits,
        tuple(_merged(shared)),
        tuple(_merged(mixed)),
        tuple(_merged(suffix)),
        *tables,
        measured,
    )


def check_names(noise_model: NoiseModel, circuit: QuantumCircuit) -> None:
    """Refuse errors on what is neither a gate that the model knows nor a label in the circuit.

    A slip of the pen in a label would otherwise be noise that is silently missing. Errors on known
    gates that this circuit happens not to hold are well.

    Raises:
        EngineError: naming them.
    """
    names = {operation.label or operation.name for operation in _instructions(circuit)}
    known = names | set(noise_model.basis_gates) | {"measure", "reset", "delay"}
    unknown = GateErrors(noise_model).names - known
    if unknown:
        raise EngineError(
            f"The noise model has errors on {', '.join(sorted(unknown))}: no gate of the circuit "
            "has that name or label, and the model's basis_gates do not have it. Correct the name, "
            "or leave the error out."
        )


def _instructions(circuit: QuantumCircuit) -> Iterator[Instruction]:
    return (instruction.operation for instruction in circuit.data)


_ROTATIONS: dict[str, tuple[int, ...]] = {
    "rx": (X,),
    "ry": (Y,),
    "rz": (Z,),
    "p": (Z,),
    "u1": (Z,),
    "rxx": (X, X),
    "ryy": (Y, Y),
    "rzz": (Z, Z),
    "rzx": (Z, X),
}
"""Gates of one angle -> Pauli digits on their qubits; global phases have no effect."""


def _rotations(
    name: str, angles: Sequence[Angle]
) -> list[tuple[tuple[int, ...], tuple[int, ...], Angle]] | None:
    """A gate as rotations that act in turn, each (Pauli digits, which of its qubits, angle)."""
    if name in _ROTATIONS:
        pauli = _ROTATIONS[name]
        return [(pauli, tuple(range(len(pauli))), angles[0])]
    half = angles[0] / 2
    match name:
        case "u" | "u3":
            theta, phi, lam = angles
            return [((Z,), (0,), lam), ((Y,), (0,), theta), ((Z,), (0,), phi)]
        case "u2":
            phi, lam = angles
            return [((Z,), (0,), lam), ((Y,), (0,), np.pi / 2), ((Z,), (0,), phi)]
        case "r":
            theta, phi = angles
            return [((Z,), (0,), -1 * phi), ((X,), (0,), theta), ((Z,), (0,), phi)]
        case "crz":
            return [((Z,), (1,), half), ((Z, Z), (0, 1), -1 * half)]
        case "cp" | "cu1":
            return [((Z,), (0,), half), ((Z,), (1,), half), ((Z, Z), (0, 1), -1 * half)]
    return None


def _is_free(angle: object) -> bool:
    return isinstance(angle, ParameterExpression) and bool(angle.parameters)


class _Reader:
    """Turns instructions into operations, and numbers their free angles."""

    def __init__(
        self, encoder: dict[Parameter, int], ansatz: dict[Parameter, int], errors: GateErrors
    ) -> None:
        self._encoder, self._ansatz, self._errors = encoder, ansatz, errors
        self._rows: list[tuple[Array, Array, float]] = []
        self._constants: dict[tuple[object, ...], Array] = {}

    def tables(self) -> tuple[Array, Array, Array]:
        """(T, E), (T, R) and (T,): the angles that were numbered."""
        count = len(self._rows)
        return (
            np.array([row[0] for row in self._rows]).reshape(count, len(self._encoder)),
            np.array([row[1] for row in self._rows]).reshape(count, len(self._ansatz)),
            np.array([row[2] for row in self._rows]),
        )

    def read(self, operation: Instruction, qubits: tuple[int, ...]) -> Iterator[Operation]:
        """The operations of an instruction, then its error."""
        if operation.name == "barrier":
            return
        if any(map(_is_free, operation.params)):
            yield from self._free(operation, qubits)
        else:
            yield Constant(qubits, self._constant(operation))
        error = self._errors.after(operation.label or operation.name, qubits)
        if error is not None:
            yield Constant(qubits, error)

    def _constant(self, operation: Instruction) -> Array:
        """Transfer matrix, computed once for equal standard gates."""
        kind = operation.base_class
        if not kind.__module__.startswith("qiskit.circuit.library.standard_gates"):
            return instruction_matrix(operation)
        state = getattr(operation, "ctrl_state", None)
        key = (kind, operation.num_qubits, state, *map(float, operation.params))
        if key not in self._constants:
            self._constants[key] = instruction_matrix(operation)
        return self._constants[key]

    def _free(self, operation: Instruction, qubits: tuple[int, ...]) -> Iterator[Operation]:
        rotations = _rotations(operation.name, operation.params)
        if rotations is None or getattr(operation, "ctrl_state", 1) != 1:
            raise EngineError(
                f"The circuit holds {operation.name!r} with a free angle, which the noisy engine "
                f"cannot turn; it takes {', '.join([*_ROTATIONS, 'u', 'u2', 'u3', 'r'])}, crz, cp "
                "and gates without free angles. Give the noise model other basis_gates, such as "
                "rz, sx, x, cx."
            )
        for pauli, which, angle in rotations:
            on = tuple(qubits[i] for i in which)
            if not _is_free(angle):
                yield Constant(on, rotation_matrix(pauli, float(angle)))
                continue
            for number in self._number(angle, operation.name):
                yield Rotation(on, pauli, number)

    def _number(self, angle: ParameterExpression, name: str) -> Iterator[int]:
        """Rows for an angle: of a pixel's part and of a kernel's, as rotations about one axis add.

        The constant part goes with the first.
        """
        parameters = tuple(angle.parameters)
        try:
            slopes, offset = affine_coefficients(angle, parameters, f"an angle of {name!r}")
        except AnsatzError as error:
            raise EngineError(f"Of the noisy engine's circuit: {error}") from error
        parts = [np.zeros(len(self._encoder)), np.zeros(len(self._ansatz))]
        for parameter, slope in zip(parameters, slopes, strict=True):
            for part, indices in zip(parts, (self._encoder, self._ansatz), strict=True):
                if parameter in indices:
                    part[indices[parameter]] = slope
        for i, part in enumerate(parts):
            if part.any():
                row = [np.zeros_like(parts[0]), np.zeros_like(parts[1])]
                row[i] = part
                self._rows.append((row[0], row[1], offset))
                offset = 0.0
                yield len(self._rows) - 1


def _split(
    operations: Sequence[Operation], is_pixels: NDArray[np.bool_]
) -> tuple[list[Operation], list[Operation], list[Operation]]:
    """Shared, mixed and suffix; see the module's text.

    Args:
        operations: of the whole circuit.
        is_pixels: (T,) whether an angle depends on the pixel.
    """

    def depends(operation: Operation, on_pixels: bool) -> bool:
        return isinstance(operation, Rotation) and bool(is_pixels[operation.angle]) == on_pixels

    blocked: set[int] = set()
    suffix: list[Operation] = []
    prefix: list[Operation] = []
    for operation in reversed(operations):
        if depends(operation, True) or not blocked.isdisjoint(operation.qubits):
            blocked.update(operation.qubits)
            prefix.append(operation)
        else:
            suffix.append(operation)
    tainted: set[int] = set()
    shared: list[Operation] = []
    mixed: list[Operation] = []
    for operation in reversed(prefix):
        if depends(operation, False) or not tainted.isdisjoint(operation.qubits):
            tainted.update(operation.qubits)
            mixed.append(operation)
        else:
            shared.append(operation)
    return shared, mixed, suffix[::-1]


def _merged(operations: Iterable[Operation]) -> list[Operation]:
    """Fewer operations that do the same: constants of one qubit are multiplied together."""
    found: list[Operation] = []
    last: dict[int, int] = {}  # the last operation on each qubit, as an index into `found`
    for operation in operations:
        before = last.get(operation.qubits[0])
        if (
            isinstance(operation, Constant)
            and before is not None
            and isinstance(found[before], Constant)
            and found[before].qubits == operation.qubits
            and all(last.get(q) == before for q in operation.qubits)
        ):
            earlier = found[before]
            assert isinstance(earlier, Constant)
            found[before] = replace(operation, matrix=operation.matrix @ earlier.matrix)
            continue
        found.append(operation)
        last.update(dict.fromkeys(operation.qubits, len(found) - 1))
    return found


def _measured(
    observables: Sequence[SparsePauliOp], num_qubits: int, errors: GateErrors, model: NoiseModel
) -> Array:
    """(O, 4**n): Z-strings as they are reported, errors before and in the readout included."""
    measurement_noise(model)  # refuses readout errors of several qubits together
    single = []
    for qubit, confusion in enumerate(confusions_of_model(model, num_qubits)):
        sign = confusion @ [1, -1]  # mean of the reported value, by the true outcome
        row = np.array([sign[0] + sign[1], 0, 0, sign[0] - sign[1]]) / 2
        before = errors.after("measure", (qubit,))
        single.append(row if before is None else row @ before)
    found = np.zeros((len(observables), 4**num_qubits))
    for i, observable in enumerate(observables):
        mask, sign = read_z_string(observable)
        product: NDArray[Any] = np.ones(1)
        for qubit in range(num_qubits):
            factor = single[qubit] if mask >> qubit & 1 else [1, 0, 0, 0]
            product = np.kron(factor, product)
        found[i] = sign * product
    return found
