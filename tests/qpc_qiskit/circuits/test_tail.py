"""What is left out of an ansatz changes no expectation value."""

import math

import numpy as np
import pytest
import torch
from cases import USER_CIRCUITS, evs_of
from hypothesis import given
from hypothesis import strategies as st
from qiskit import QuantumCircuit
from qiskit.circuit import Gate, Parameter, ParameterVector
from qiskit.circuit.library import CCZGate, CPhaseGate, CXGate, PermutationGate, iSwapGate
from qiskit.primitives import StatevectorEstimator
from qiskit.quantum_info import SparsePauliOp, Statevector, random_statevector

from qpc_qiskit import ExactEngine, QuantumPointwiseConv2d
from qpc_qiskit.circuits.ansatz import ANSATZE, make_ansatz
from qpc_qiskit.circuits.directions import canonical_directions
from qpc_qiskit.circuits.encoder import make_encoder
from qpc_qiskit.circuits.observables import pauli_z
from qpc_qiskit.circuits.parities import read_z_string
from qpc_qiskit.circuits.tail import absorb_tail
from qpc_qiskit.rows.pubs import Template, make_pub


def expectations(circuit, observables, state):
    evolved = state.evolve(circuit)
    return np.array([evolved.expectation_value(o).real for o in observables])


def check_same_features(circuit, absorbed, rng):
    """Whole circuit and Z against what is left and its parities, parameters and state random."""
    values = rng.uniform(-7, 7, circuit.num_parameters)
    state = random_statevector(2**circuit.num_qubits, seed=rng)
    whole = expectations(circuit.assign_parameters(values), pauli_z(circuit.num_qubits), state)
    left = absorbed.circuit.assign_parameters(values[list(absorbed.columns)])
    np.testing.assert_allclose(
        expectations(left, absorbed.observables, state), whole, rtol=0, atol=1e-12
    )


def labels(absorbed):
    return [f"{'-' if o.coeffs[0].real < 0 else '+'}{o.paulis[0]}" for o in absorbed.observables]


@pytest.mark.parametrize("name", ANSATZE)
@pytest.mark.parametrize("n", range(1, 6))
@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_ansatze(name, n, num_layers, rng):
    template = make_ansatz(name, n, num_layers).template
    absorbed = absorb_tail(template)
    check_same_features(template, absorbed, rng)
    if name == "circuit_centric":
        assert absorbed.circuit is template
        assert absorbed.num_absorbed == absorbed.num_absorbed_two_qubit == 0
    else:
        assert absorbed.num_absorbed_two_qubit == (n if n > 1 else 0)
        assert absorbed.num_absorbed == n + absorbed.num_absorbed_two_qubit
        assert len(absorbed.columns) == template.num_parameters - n
    before, after = template.count_ops(), absorbed.circuit.count_ops()
    assert before.get("cx", 0) - after.get("cx", 0) == absorbed.num_absorbed_two_qubit
    assert absorbed.circuit.size() == template.size() - absorbed.num_absorbed


@pytest.mark.parametrize("name", ["strongly_entangling", "figure1"])
def test_columns_are_those_of_the_occurrence_angles(name):
    """The last RZ of every qubit goes; more than ten angles, so that order could go wrong."""
    ansatz = make_ansatz(name, 4, 3)
    columns = absorb_tail(ansatz.template).columns
    each = 3 if name == "strongly_entangling" else 2
    last = {ansatz.num_angles - each * q - 1 for q in range(4)}
    assert columns == tuple(i for i in range(ansatz.num_angles) if i not in last)
    left = absorb_tail(ansatz.template).circuit.parameters
    assert [p.index for p in left] == list(columns)


def test_ring_by_hand():
    """Bits after CNOTs 0->1, 1->2, 2->0: b1 + b2, b0 + b1, b0 + b1 + b2."""
    absorbed = absorb_tail(make_ansatz("figure1", 3, 1).template)
    assert labels(absorbed) == ["+ZZI", "+IZZ", "+ZZZ"]


@pytest.mark.parametrize("key", USER_CIRCUITS)
def test_users_circuits(key, rng):
    circuit = USER_CIRCUITS[key]()
    template = make_ansatz(circuit, circuit.num_qubits).template
    check_same_features(template, absorb_tail(template), rng)


GATES = {
    "cx": 2, "cz": 2, "swap": 2, "iswap": 2, "dcx": 2, "cy": 2, "ecr": 2, "x": 1, "y": 1, "z": 1,
    "h": 1, "sx": 1, "s": 1, "t": 1, "sdg": 1, "id": 1, "ccx": 3, "ccz": 3, "cswap": 3, "rccx": 3,
    "rz": -1, "p": -1, "rx": -1, "ry": -1, "crz": -2, "cp": -2, "rzz": -2, "rxx": -2, "barrier": 2,
}  # fmt: skip
"""Name -> number of qubits; negative: with an angle."""

STEPS = st.lists(
    st.tuples(st.sampled_from(list(GATES)), st.permutations(range(3)), st.booleans()),
    max_size=12,
)


def build(steps):
    theta = ParameterVector("theta", len(steps))
    circuit = QuantumCircuit(3, global_phase=0.4)
    for angle, (name, order, is_free) in zip(theta, steps, strict=True):
        qubits = order[: abs(GATES[name])]
        angles = [(2 * angle + 0.1 if is_free else 0.7)] if GATES[name] < 0 else []
        getattr(circuit, name)(*angles, *qubits)
    return circuit


@given(STEPS, st.integers(0, 2**32 - 1))
def test_random_circuits(steps, seed):
    circuit = build(steps)
    before = circuit.copy()
    check_same_features(circuit, absorb_tail(circuit), np.random.default_rng(seed))
    assert circuit == before


@given(STEPS, st.integers(0, 2**32 - 1))
def test_random_users_ansatze(steps, seed):
    """As a layer takes them, translated to {rz, sx, x, cx}."""
    circuit = build(steps)
    circuit.rx(Parameter("a"), 0)
    for q in range(2):
        circuit.cx(q, q + 1)
    for i in range(3):
        circuit.rz((i + 1) * Parameter(f"z{i}"), i)
    template = make_ansatz(circuit, 3).template
    absorbed = absorb_tail(template)
    assert absorbed.num_absorbed_two_qubit >= 2
    check_same_features(template, absorbed, np.random.default_rng(seed))


@given(STEPS)
def test_nothing_more_can_be_absorbed(steps):
    absorbed = absorb_tail(build(steps))
    again = absorb_tail(absorbed.circuit)
    assert again.num_absorbed == 0
    assert again.circuit is absorbed.circuit


@pytest.mark.parametrize("name", ["strongly_entangling", "figure1", "circuit_centric"])
def test_equals_the_exact_engine(name, generator, rng):
    layer = QuantumPointwiseConv2d(
        5, 6, num_layers=2, ansatz=name, generator=generator, dtype=torch.float64
    )
    ansatz, n = layer.spec.ansatz, layer.spec.num_qubits
    absorbed = absorb_tail(ansatz.template)
    encoder = make_encoder("multiplexor", n)
    circuit = encoder.circuit.compose(absorbed.circuit)
    parameters = (*encoder.parameters, *absorbed.circuit.parameters)
    pixels = torch.from_numpy(rng.normal(size=(4, 5)))
    weights = layer.weight.detach()
    expected = evs_of(ExactEngine(), layer.spec, pixels, weights).numpy()
    encoder_angles = encoder.angles(canonical_directions(pixels)).numpy()
    template = Template(circuit, parameters, absorbed.observables, absorbed.columns)
    for k, row in enumerate(ansatz.angles(weights.numpy())[:, list(absorbed.columns)]):
        rows = np.hstack([encoder_angles, np.tile(row, (4, 1))])
        job = StatevectorEstimator(seed=0).run([make_pub(template, rows, 0.0)])
        np.testing.assert_allclose(job.result()[0].data.evs.T, expected[:, k], rtol=0, atol=1e-9)


def test_signs():
    circuit = QuantumCircuit(2)
    circuit.x(0)
    circuit.cx(0, 1)
    circuit.y(1)
    absorbed = absorb_tail(circuit)
    assert labels(absorbed) == ["-IZ", "+ZZ"]
    assert [read_z_string(o) for o in absorbed.observables] == [(1, -1), (3, 1)]


def test_a_whole_circuit():
    theta = ParameterVector("theta", 3)
    circuit = QuantumCircuit(2, name="all", global_phase=theta[2])
    circuit.rz(theta[0], 0)
    circuit.swap(0, 1)
    circuit.cp(theta[1], 0, 1)
    circuit.x(1)
    absorbed = absorb_tail(circuit)
    assert absorbed.circuit.size() == 0
    assert absorbed.circuit.num_qubits == 2
    assert absorbed.circuit.name == "all"
    assert absorbed.columns == (2,)  # of the global phase
    assert (absorbed.num_absorbed, absorbed.num_absorbed_two_qubit) == (4, 2)
    assert labels(absorbed) == ["+ZI", "-IZ"]


def test_wider_gates_are_not_counted_as_two_qubit_gates():
    circuit = QuantumCircuit(3)
    circuit.ccz(0, 1, 2)
    circuit.cz(0, 1)
    absorbed = absorb_tail(circuit)
    assert (absorbed.num_absorbed, absorbed.num_absorbed_two_qubit) == (2, 1)


def test_an_empty_circuit():
    absorbed = absorb_tail(QuantumCircuit(2))
    assert absorbed.columns == ()
    assert labels(absorbed) == ["+IZ", "+ZI"]


def test_nothing_to_absorb():
    theta = ParameterVector("theta", 2)
    circuit = QuantumCircuit(2)
    circuit.rz(theta[0], 0)
    circuit.cx(0, 1)
    circuit.rz(theta[1], 1)
    circuit.sx([0, 1])
    circuit.barrier()
    absorbed = absorb_tail(circuit)
    assert absorbed.circuit is circuit
    assert absorbed.observables == pauli_z(2)
    assert absorbed.columns == (0, 1)


def test_partly_blocked(rng):
    """cx(1, 2) has to wait for sx on qubit 1, and blocks qubit 2 for cz(2, 3)."""
    theta = ParameterVector("theta", 12)
    circuit = QuantumCircuit(4)
    circuit.rz(theta[2], 3)
    circuit.ry(theta[0], [0, 1])
    circuit.cz(2, 3)
    circuit.rz(theta[3], 3)
    circuit.cx(1, 2)
    circuit.sx(1)
    circuit.cx(3, 0)
    circuit.rz(theta[11], 2)
    absorbed = absorb_tail(circuit)
    assert [i.operation.name for i in absorbed.circuit.data] == ["rz", "ry", "ry", "cz", "cx", "sx"]
    assert labels(absorbed) == ["+ZIIZ", "+IIZI", "+IZII", "+ZIII"]
    assert absorbed.columns == (0, 1)  # theta[0] and theta[2] of the four in the circuit
    check_same_features(circuit, absorbed, rng)


def test_barriers():
    """In the tail they go; before what is left they stay, and never block."""
    circuit = QuantumCircuit(2)
    circuit.barrier()
    circuit.sx(0)
    circuit.barrier()
    circuit.cx(0, 1)
    circuit.barrier()
    absorbed = absorb_tail(circuit)
    assert [i.operation.name for i in absorbed.circuit.data] == ["barrier", "sx"]
    circuit = QuantumCircuit(2)
    circuit.z(1)
    circuit.barrier()
    circuit.sx(0)
    absorbed = absorb_tail(circuit)
    assert [i.operation.name for i in absorbed.circuit.data] == ["barrier", "sx"]
    assert absorbed.num_absorbed == 1


@pytest.mark.parametrize(
    ("gate", "is_absorbed"),
    [
        (CXGate(ctrl_state=0), True),
        (iSwapGate(), True),
        (CCZGate(), True),
        (PermutationGate([2, 0, 1]), True),
        (CPhaseGate(Parameter("a")), True),
        (CPhaseGate(Parameter("a"), ctrl_state=0), False),  # under another name: not told
        (Gate("mystery", 2, []), False),
        (Gate("mystery", 2, [Parameter("a")]), False),
    ],
)
def test_kinds_of_gates(gate, is_absorbed):
    circuit = QuantumCircuit(gate.num_qubits)
    circuit.append(gate, range(gate.num_qubits))
    assert absorb_tail(circuit).num_absorbed == is_absorbed


@pytest.mark.parametrize("angle", [math.pi, math.pi + 1e-6])
def test_angles_are_looked_at_closely(angle):
    circuit = QuantumCircuit(1)
    circuit.rx(angle, 0)
    assert absorb_tail(circuit).num_absorbed == (angle == math.pi)


def test_no_gate_at_all():
    """What is no gate stays and blocks."""
    circuit = QuantumCircuit(1, 1)
    circuit.x(0)
    circuit.measure(0, 0)
    circuit.x(0)
    absorbed = absorb_tail(circuit)
    assert [i.operation.name for i in absorbed.circuit.data] == ["x", "measure"]
    assert absorbed.observables == (SparsePauliOp("Z", -1),)


def test_open_control_by_hand():
    """X on qubit 1 where qubit 0 is 0: Z1 becomes -Z0 Z1."""
    circuit = QuantumCircuit(2)
    circuit.append(CXGate(ctrl_state=0), [0, 1])
    absorbed = absorb_tail(circuit)
    assert labels(absorbed) == ["+IZ", "-ZZ"]
    state = Statevector.from_label("00")
    found = expectations(absorbed.circuit, absorbed.observables, state)
    np.testing.assert_array_equal(found, [1, -1])
