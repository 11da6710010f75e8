import numpy as np
import pytest
from noisy_circuits import CHANNELS
from qiskit import QuantumCircuit
from qiskit.circuit import Instruction, Measure, Reset
from qiskit.circuit.library import CXGate, RXGate
from qiskit.quantum_info import SuperOp
from qiskit_aer.noise import NoiseModel, amplitude_damping_error, depolarizing_error, pauli_error
from references import I2, X, Y, Z, on_qubits, rotation

from qpc_qiskit.errors import EngineError
from qpc_qiskit.pauli.channels import (
    GateErrors,
    instruction_matrix,
    rotation_matrix,
    rotation_parts,
    transfer_matrix,
)

PAULIS = (I2, X, Y, Z)


def strings(num_qubits):
    """Pauli operators in the order of the package: qubit 0 is the lowest digit."""
    for index in range(4**num_qubits):
        digits = {q: PAULIS[index >> 2 * q & 3] for q in range(num_qubits)}
        yield on_qubits(digits, num_qubits)


def matrix_of(apply, num_qubits):
    """By definition: R[i, j] = Tr(P_i channel(P_j)) / 2**n."""
    found = [
        [np.trace(p @ apply(r)) / 2**num_qubits for r in strings(num_qubits)]
        for p in strings(num_qubits)
    ]
    return np.array(found)


@pytest.mark.parametrize("num_qubits", [1, 2])
@pytest.mark.parametrize("kind", CHANNELS)
def test_errors_equal_the_definition(kind, num_qubits, rng):
    error = CHANNELS[kind](rng, num_qubits)
    whole = SuperOp(error).data
    size = 2**num_qubits
    expected = matrix_of(
        lambda rho: (whole @ rho.T.ravel()).reshape(size, size).T,  # columns are stacked
        num_qubits,
    )
    np.testing.assert_allclose(transfer_matrix(error), expected, rtol=0, atol=1e-13)


def test_gates_equal_the_definition():
    matrix = CXGate().to_matrix()
    expected = matrix_of(lambda rho: matrix @ rho @ matrix.conj().T, 2)
    np.testing.assert_allclose(instruction_matrix(CXGate()), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("pauli", [(1,), (2,), (3,), (3, 1), (2, 2)])
def test_rotations_equal_the_definition(pauli):
    generator = on_qubits({q: PAULIS[d] for q, d in enumerate(pauli)}, len(pauli))
    for angle in (0.0, 0.7, -2.5):
        unitary = rotation(generator, angle)
        expected = matrix_of(lambda rho, u=unitary: u @ rho @ u.conj().T, len(pauli))
        np.testing.assert_allclose(rotation_matrix(pauli, angle), expected, rtol=0, atol=1e-14)
    constant, cosine, sine = rotation_parts(pauli)
    assert np.array_equal(constant + cosine, np.eye(4 ** len(pauli)))
    assert np.array_equal(sine, -sine.T)


def test_reset_is_a_channel():
    expected = np.zeros((4, 4))
    expected[[0, 3], 0] = 1
    np.testing.assert_allclose(instruction_matrix(Reset()), expected, rtol=0, atol=1e-14)


def test_what_is_no_channel_is_refused():
    with pytest.raises(EngineError, match="holds 'measure' on 1 qubits and 1 classical bits"):
        instruction_matrix(Measure())
    with pytest.raises(EngineError, match="holds 'thing', of which the noisy engine can make no"):
        instruction_matrix(Instruction("thing", 1, 0, []))
    with pytest.raises(EngineError, match="holds 'big' on 4 qubits"):
        instruction_matrix(QuantumCircuit(4, name="big").to_gate())


def test_errors_are_found_as_by_aer():
    """Those of these very qubits in their order take the place of those of all; see test_noisy."""
    everywhere, here = pauli_error([("X", 0.1), ("I", 0.9)]), amplitude_damping_error(0.2)
    pair = depolarizing_error(0.1, 2)
    model = NoiseModel(["ry", "cx"])
    model.add_all_qubit_quantum_error(everywhere, ["ry", "label"])
    model.add_quantum_error(here, "ry", [1], warnings=False)
    model.add_quantum_error(pair, "cx", [0, 1])
    errors = GateErrors(model)
    assert errors.names == {"ry", "label", "cx"}
    np.testing.assert_array_equal(errors.after("ry", (0,)), transfer_matrix(everywhere))
    np.testing.assert_array_equal(errors.after("ry", (1,)), transfer_matrix(here))
    np.testing.assert_array_equal(errors.after("cx", (0, 1)), transfer_matrix(pair))
    assert errors.after("cx", (1, 0)) is None
    assert errors.after("rx", (0,)) is None
    with pytest.raises(EngineError, match="error of 1 qubits on 'label', which acts on 2"):
        errors.after("label", (0, 1))
    assert RXGate(0.1).name == "rx"


def test_errors_on_many_qubits_are_refused():
    model = NoiseModel(["ry"])
    model.add_all_qubit_quantum_error(depolarizing_error(0.1, 4), "big")
    with pytest.raises(EngineError, match="takes errors of at most 3"):
        GateErrors(model).after("big", (0, 1, 2, 3))
