"""Noisy circuits, slow and obvious: density matrices gate by gate, sharing no code with ours."""

from __future__ import annotations

import numpy as np
from qiskit.circuit.library import IGate
from qiskit.quantum_info import DensityMatrix, Kraus, SuperOp, random_unitary
from qiskit_aer import AerSimulator
from qiskit_aer.noise import (
    NoiseModel,
    QuantumError,
    ReadoutError,
    amplitude_damping_error,
    coherent_unitary_error,
    depolarizing_error,
    pauli_error,
    phase_damping_error,
    reset_error,
    thermal_relaxation_error,
)

LOGICAL = ["rz", "rx", "ry", "cx", "cz"]
DEVICE = ["rz", "sx", "x", "cx"]


def error_of(model, name, qubits):
    """As documented by Aer: the error of these qubits takes the place of that of all."""
    local = model._local_quantum_errors.get(name, {})
    return local.get(tuple(qubits), model._default_quantum_errors.get(name))


def confusion_of(model, qubit):
    """(true, reported)."""
    found = model._local_readout_errors.get((qubit,), model._default_readout_error)
    return np.eye(2) if found is None else np.asarray(found.probabilities)


def reported_signs(circuit, model):
    """<Z_q> as reported, for all qubits of a bound circuit."""
    state = DensityMatrix.from_label("0" * circuit.num_qubits)
    for instruction in circuit.data:
        qubits = [circuit.find_bit(q).index for q in instruction.qubits]
        operation = instruction.operation
        if operation.name == "barrier":
            continue
        state = state.evolve(SuperOp(operation), qubits)
        error = error_of(model, operation.label or operation.name, qubits)
        if error is not None:
            state = state.evolve(SuperOp(error), qubits)
    signs = []
    for qubit in range(circuit.num_qubits):
        error = error_of(model, "measure", [qubit])
        after = state if error is None else state.evolve(SuperOp(error), [qubit])
        reported = after.probabilities([qubit]) @ confusion_of(model, qubit)
        signs.append(reported[0] - reported[1])
    return np.array(signs)


def aer_signs(circuit, model):
    """The same by Aer's density matrix, but for the readout."""
    measured = circuit.copy()
    for qubit in range(circuit.num_qubits):
        measured.append(IGate(label="measure"), [qubit])
    measured.save_density_matrix()
    simulator = AerSimulator(method="density_matrix", noise_model=model)
    state = DensityMatrix(simulator.run(measured).result().data()["density_matrix"])
    signs = []
    for qubit in range(circuit.num_qubits):
        reported = state.probabilities([qubit]) @ confusion_of(model, qubit)
        signs.append(reported[0] - reported[1])
    return np.array(signs)


def random_channel(rng, num_qubits, strength=0.1):
    """Kraus operators of a random channel near the identity."""
    size = 2**num_qubits
    noise = rng.normal(size=(3, size, size)) + 1j * rng.normal(size=(3, size, size))
    operators = strength * noise
    operators[0] += np.eye(size)
    total = sum(k.conj().T @ k for k in operators)
    values, vectors = np.linalg.eigh(total)
    normal = vectors @ np.diag(values**-0.5) @ vectors.conj().T
    return QuantumError(Kraus([k @ normal for k in operators]))


def pauli_channel(rng, num_qubits):
    labels = ["".join(p) for p in np.array(list("IXYZ"))[rng.integers(0, 4, (3, num_qubits))]]
    shares = rng.uniform(0, 0.05, 3)
    return pauli_error(
        [("I" * num_qubits, 1 - shares.sum()), *zip(labels, shares.tolist(), strict=True)]
    )


def thermal_channel(rng, num_qubits):
    """T2 above T1 on some qubits, which Aer writes with Kraus operators."""
    error = None
    for _ in range(num_qubits):
        t1 = rng.uniform(50, 150)
        one = thermal_relaxation_error(t1, rng.uniform(0.3, 1.9) * t1, 2.0, rng.uniform(0, 0.3))
        error = one if error is None else error.tensor(one)
    return error


def coherent_channel(rng, num_qubits):
    generator = random_unitary(2**num_qubits, seed=int(rng.integers(2**31))).data
    values, vectors = np.linalg.eig(generator)
    small = vectors @ np.diag(np.exp(0.05 * np.log(values))) @ np.linalg.inv(vectors)
    left, _, right = np.linalg.svd(small)
    return coherent_unitary_error(left @ right)


def damping_channel(rng, num_qubits):
    error = None
    for _ in range(num_qubits):
        one = amplitude_damping_error(rng.uniform(0, 0.1)).compose(
            phase_damping_error(rng.uniform(0, 0.1))
        )
        error = one if error is None else error.tensor(one)
    return error


def reset_channel(rng, num_qubits):
    error = None
    for _ in range(num_qubits):
        one = reset_error(rng.uniform(0, 0.05), rng.uniform(0, 0.05))
        error = one if error is None else error.tensor(one)
    return error


CHANNELS = {
    "kraus": random_channel,
    "pauli": pauli_channel,
    "depolarizing": lambda rng, n: depolarizing_error(rng.uniform(0.001, 0.05), n),
    "thermal": thermal_channel,
    "coherent": coherent_channel,
    "damping": damping_channel,
    "reset": reset_channel,
    "mixture": lambda rng, n: pauli_channel(rng, n).compose(random_channel(rng, n, 0.05)),
}


def readout_channel(rng):
    a, b = rng.uniform(0, 0.1, 2)
    return ReadoutError([[1 - a, a], [b, 1 - b]])


def noise_model(rng, one, two, *, basis=LOGICAL, num_qubits=0, measured=True):
    """Errors of the named kinds; with a number of qubits, further ones of single places."""
    model = NoiseModel(list(basis))
    for name in basis:
        is_two = name in ("cx", "cz")
        if name != "rz":
            model.add_all_qubit_quantum_error(
                CHANNELS[two if is_two else one](rng, 1 + is_two), name
            )
    for q in range(num_qubits):
        model.add_quantum_error(CHANNELS[two](rng, 1), basis[1], [q], warnings=False)
        if num_qubits > 1:
            other = (q + 1) % num_qubits
            model.add_quantum_error(CHANNELS[one](rng, 2), basis[-1], [q, other], warnings=False)
        model.add_readout_error(readout_channel(rng), [q])
    if measured and num_qubits == 0:
        model.add_all_qubit_readout_error(readout_channel(rng))
    if measured:
        model.add_all_qubit_quantum_error(CHANNELS[one](rng, 1), "measure")
    return model


def bound_circuit(prepared, encoder, ansatz_angles, directions):
    """What Aer runs for each direction with one kernel."""
    template = prepared.template
    for row in encoder.angles(directions).numpy():
        values = np.concatenate([row, ansatz_angles[list(template.columns)]])
        yield template.circuit.assign_parameters(
            dict(zip(template.parameters, values, strict=True))
        )
