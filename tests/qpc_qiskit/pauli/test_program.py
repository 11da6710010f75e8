"""Circuits of every kind, read and run, against density matrices gate by gate."""

import numpy as np
import pytest
import torch
from noisy_circuits import CHANNELS, noise_model, reported_signs
from qiskit import QuantumCircuit
from qiskit.circuit import Delay, Measure, ParameterVector
from qiskit.circuit.library import RYGate
from qiskit_aer.noise import NoiseModel, amplitude_damping_error

from qpc_qiskit.circuits.observables import pauli_z
from qpc_qiskit.errors import EngineError
from qpc_qiskit.pauli.layers import NoisyLayer, make_stages
from qpc_qiskit.pauli.program import Constant, read_program

E = ParameterVector("encoder", 3)
W = ParameterVector("theta", 3)


def read(circuit, model):
    observables = pauli_z(circuit.num_qubits)
    return read_program(circuit, tuple(E), tuple(W), observables, model)


def values(program, encoder, ansatz):
    """(K, n, N)."""
    layer = NoisyLayer(make_stages(program), torch.float64, torch.device("cpu"))
    out = torch.empty(len(ansatz), len(program.observables), len(encoder), dtype=torch.float64)
    layer.values(layer.kernels(torch.from_numpy(ansatz)), torch.from_numpy(encoder), out)
    return out.numpy()


def check(circuit, model, rng):
    """Two pixels, two kernels; returns the program."""
    encoder, ansatz = rng.uniform(-4, 4, (2, 2, 3))
    program = read(circuit, model)
    found = values(program, encoder, ansatz)
    for i, pixel in enumerate(encoder):
        for k, kernel in enumerate(ansatz):
            given = dict(zip([*E, *W], [*pixel, *kernel], strict=True))
            used = {p: v for p, v in given.items() if p in circuit.parameters}
            expected = reported_signs(circuit.assign_parameters(used), model)
            np.testing.assert_allclose(found[k, :, i], expected, rtol=0, atol=1e-12)
    return program


FREE = {
    **dict.fromkeys(("rx", "ry", "rz", "p"), (1, 1)),
    **dict.fromkeys(("rxx", "ryy", "rzz", "rzx", "cp", "crz"), (2, 1)),
    "u": (1, 3),
    "r": (1, 2),
}


@pytest.mark.parametrize("source", [E, W], ids=["pixel", "kernel"])
@pytest.mark.parametrize("name", FREE)
def test_gates_with_free_angles(name, source, rng):
    """Both orders of the qubits, and an error after the whole gate."""
    size, count = FREE[name]
    model = NoiseModel([name, "u", "cx"])
    model.add_all_qubit_quantum_error(CHANNELS["kraus"](rng, size), name)
    circuit = QuantumCircuit(2)
    for q in range(2):
        circuit.u(0.3 + q, 1.1, -0.4, q)
    for qubits in ([0, 1], [1, 0]):
        angles = [source[j] * (j + 1) - 0.3 for j in range(count)]
        getattr(circuit, name)(*angles, *qubits[:size])
        circuit.sx(qubits[0])
    circuit.cx(0, 1)
    check(circuit, model, rng)


def test_gates_without_free_angles(rng):
    circuit = QuantumCircuit(3)
    circuit.ry(E[0], 0)
    circuit.h(1)
    circuit.ccx(0, 1, 2)
    circuit.swap(0, 2)
    circuit.barrier()
    circuit.iswap(1, 2)
    circuit.crx(0.7, 2, 0)
    circuit.cx(0, 1, ctrl_state=0)
    circuit.unitary(np.array([[0.6, 0.8], [-0.8, 0.6]]), [1])
    circuit.reset(2)
    circuit.ry(E[1], 2)
    circuit.ecr(2, 1)
    circuit.rx(W[0], 1)
    model = noise_model(rng, "damping", "kraus", basis=["rz", "ry", "rx", "cx"])
    model.add_all_qubit_quantum_error(CHANNELS["pauli"](rng, 3), "ccx")
    model.add_all_qubit_quantum_error(CHANNELS["pauli"](rng, 1), "reset")
    check(circuit, model, rng)


def test_kernels_before_pixels_are_mixed(rng):
    """As a router leaves them; and both kinds of angle in one gate."""
    circuit = QuantumCircuit(3)
    circuit.ry(E[0], 0)
    circuit.rx(W[0], 1)
    circuit.ry(E[1], 2)
    circuit.cx(1, 0)
    circuit.rz(2 * E[1] - W[1] + 0.4, 0)
    circuit.ry(E[2], 0)
    circuit.cx(0, 2)
    circuit.ry(W[2], 2)
    program = check(circuit, noise_model(rng, "thermal", "kraus"), rng)
    assert program.mixed
    assert program.shared
    assert program.suffix


def test_operations_are_split_where_qubits_allow():
    circuit = QuantumCircuit(3)
    circuit.ry(E[0], 0)
    circuit.ry(E[1], 1)
    circuit.cx(0, 1)
    circuit.rx(W[0], 0)
    circuit.h(2)
    circuit.ry(E[2], 1)
    circuit.cx(1, 2)
    program = read(circuit, NoiseModel())

    def kinds(operations):
        return [(type(op) is Constant, op.qubits) for op in operations]

    assert kinds(program.shared) == [
        (False, (0,)), (False, (1,)), (True, (0, 1)), (False, (1,))
    ]  # fmt: skip
    assert not program.mixed
    assert kinds(program.suffix) == [(False, (0,)), (True, (2,)), (True, (1, 2))]


def test_labels_decide_on_errors(rng):
    """Aer looks an error up by the label, and by the name only where there is none."""
    model = NoiseModel(["ry"])
    model.add_all_qubit_quantum_error(amplitude_damping_error(0.3), "ry")
    model.add_all_qubit_quantum_error(amplitude_damping_error(0.1), "mine")
    circuit = QuantumCircuit(1)
    for label in (None, "mine", "other"):
        circuit.append(RYGate(E[0], label=label), [0])
    check(circuit, model, rng)


def test_delays_have_their_noise(rng):
    """A pass of the noise model puts it in, as Aer does."""
    from qiskit_aer.noise.passes import RelaxationNoisePass

    model = NoiseModel(["ry", "delay"])
    model._custom_noise_passes.append(RelaxationNoisePass([50e-6], [40e-6], 1e-9, Delay))
    circuit = QuantumCircuit(1)
    circuit.ry(E[0], 0)
    circuit.delay(20_000, 0)
    program = read(circuit, model)
    angle = 0.7
    (found,) = values(program, np.array([[angle, 0, 0]]), np.zeros((1, 3))).ravel()
    decay = np.exp(-20e-6 / 50e-6)
    assert found == pytest.approx(1 - decay + decay * np.cos(angle), abs=1e-12)


def circuit_with(add):
    circuit = QuantumCircuit(2, 1)
    add(circuit)
    return circuit


@pytest.mark.parametrize(
    ("add", "match"),
    [
        (lambda c: c.crx(E[0], 0, 1), "holds 'crx' with a free angle"),
        (lambda c: c.crz(E[0], 0, 1, ctrl_state=0), "holds 'crz.*' with a free angle"),
        (lambda c: c.ry(E[0] * E[1], 0), "not affine"),
        (lambda c: c.append(Measure(), [0], [0]), "holds 'measure'"),
    ],
)
def test_what_cannot_be_read_is_refused(add, match):
    with pytest.raises(EngineError, match=match):
        read(circuit_with(add), NoiseModel())
