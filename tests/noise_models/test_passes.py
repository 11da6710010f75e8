"""Labels of stages, and crosstalk against circuits with explicit rzz gates."""

import numpy as np
import pytest
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.quantum_info import DensityMatrix, Operator, Statevector
from qiskit.transpiler import PassManager
from qiskit_aer import AerSimulator

from noise_models.builders import compose, over_rotation, zz_crosstalk
from noise_models.passes import InsertCrosstalk, LabelStages
from qpc_qiskit.devices.noise import ANSATZ_BEGINS


def run(circuit, *passes):
    return PassManager(list(passes)).run(circuit)


def told(circuit):
    """(name, label, qubits) of every instruction."""
    return [
        (i.operation.name, i.operation.label, [circuit.find_bit(q).index for q in i.qubits])
        for i in circuit.data
    ]


def final_state(circuit, model):
    circuit = circuit.copy()
    circuit.save_density_matrix()
    simulator = AerSimulator(method="density_matrix", noise_model=model)
    return DensityMatrix(simulator.run(circuit).result().data()["density_matrix"])


class TestLabelStages:
    def test_gates_are_labelled_by_the_barrier(self):
        circuit = QuantumCircuit(2, global_phase=0.5)
        circuit.sx(0)
        circuit.rz(0.3, 0)
        circuit.barrier()  # of the user: tells nothing
        circuit.cx(0, 1)
        circuit.barrier(label=ANSATZ_BEGINS)
        circuit.x(1)
        circuit.cx(1, 0)
        found = run(circuit, LabelStages())
        assert told(found) == [
            ("sx", "encoder.sx", [0]),
            ("rz", None, [0]),
            ("barrier", None, [0, 1]),
            ("cx", "encoder.cx", [0, 1]),
            ("barrier", ANSATZ_BEGINS, [0, 1]),
            ("x", "ansatz.x", [1]),
            ("cx", "ansatz.cx", [1, 0]),
        ]
        assert Operator(found) == Operator(circuit)
        assert found.global_phase == 0.5

    def test_labels_are_kept_behind_the_stage(self):
        circuit = QuantumCircuit(2)
        circuit.cx(0, 1, label="mine")
        assert told(run(circuit, LabelStages())) == [("cx", "encoder.mine", [0, 1])]

    def test_parameters_stay(self):
        angle = Parameter("angle")
        circuit = QuantumCircuit(1)
        circuit.rz(angle, 0)
        circuit.sx(0)
        assert list(run(circuit, LabelStages()).parameters) == [angle]


def crosstalk(circuit, **arguments):
    """Qubits of the identities, in moments that gates part."""
    moments = [[]]
    for name, label, qubits in told(run(circuit, InsertCrosstalk("zz", **arguments))):
        if label in ("zz", "short"):
            moments[-1].append((label, *qubits))
        elif name not in ("rz", "barrier") and moments[-1]:
            moments.append([])
    return [moment for moment in moments if moment]


class TestMoments:
    def test_gates_are_as_early_as_they_can_be(self):
        circuit = QuantumCircuit(4)
        circuit.cx(0, 1)
        circuit.cx(2, 3)  # in the same moment
        circuit.cx(1, 2)
        assert crosstalk(circuit) == [[("zz", 1, 2)], [("zz", 0, 1), ("zz", 2, 3)]]

    def test_rz_takes_no_time(self):
        circuit = QuantumCircuit(3)
        circuit.rz(0.1, 0)
        circuit.cx(0, 1)
        circuit.rz(0.1, 2)
        circuit.rz(0.1, 1)
        assert crosstalk(circuit) == [[("zz", 1, 2)]]

    def test_moments_of_one_qubit_gates_have_their_own(self):
        circuit = QuantumCircuit(3)
        circuit.sx(0)
        circuit.x(1)
        circuit.cx(1, 2)
        assert crosstalk(circuit) == [[("zz", 0, 1)]]
        assert crosstalk(circuit, one_qubit_label="short") == [
            [("short", 0, 1), ("short", 1, 2)],
            [("zz", 0, 1)],
        ]

    def test_a_one_qubit_gate_beside_a_two_qubit_gate(self):
        circuit = QuantumCircuit(3)
        circuit.cx(0, 1)
        circuit.sx(2)
        assert crosstalk(circuit, one_qubit_label="short") == [[("zz", 1, 2)]]

    def test_a_barrier_synchronises(self):
        circuit = QuantumCircuit(4)
        circuit.cx(0, 1)
        circuit.barrier()
        circuit.cx(2, 3)
        pairs = sorted(pair for moment in crosstalk(circuit) for pair in moment)
        assert pairs == [("zz", 0, 1), ("zz", 1, 2), ("zz", 1, 2), ("zz", 2, 3)]  # two moments

    def test_crosstalk_of_the_encoder_comes_before_its_barrier(self):
        circuit = QuantumCircuit(3)
        circuit.cx(0, 1)
        circuit.barrier(label=ANSATZ_BEGINS)
        circuit.cx(1, 2)
        labels = [label for _, label, _ in told(run(circuit, InsertCrosstalk("zz"), LabelStages()))]
        assert labels == ["encoder.cx", "encoder.zz", ANSATZ_BEGINS, "ansatz.cx", "ansatz.zz"]

    def test_neighbours_that_are_given(self):
        circuit = QuantumCircuit(4)
        circuit.cx(0, 1)
        coupling = ((1, 0), (0, 3), (3, 2))
        assert crosstalk(circuit, coupling=coupling) == [[("zz", 0, 3), ("zz", 3, 2)]]

    def test_nothing_where_there_is_nothing(self):
        assert crosstalk(QuantumCircuit(3), one_qubit_label="short") == []
        single = QuantumCircuit(1)
        single.sx(0)
        assert crosstalk(single, one_qubit_label="short") == []

    @pytest.mark.parametrize("seed", range(3))
    def test_without_noise_the_circuit_is_the_same(self, seed):
        circuit = random_circuit(4, seed)
        found = run(circuit, InsertCrosstalk("zz", "short"), LabelStages())
        assert Operator(found).equiv(Operator(circuit))
        assert Statevector(found) == Statevector(circuit)  # the global phase, too

    def test_two_channels_do_not_see_each_other(self):
        circuit = random_circuit(3, 1)
        noise = compose(zz_crosstalk(0.2), zz_crosstalk(0.1, 0.05, coupling=[(0, 1)])).build()
        once = [t for t in told(noise.prepare(circuit)) if t[0] == "rzz"]
        alone = compose(zz_crosstalk(0.1, 0.05, coupling=[(0, 1)])).build()
        found = [t[2] for t in told(alone.prepare(circuit)) if t[0] == "rzz"]
        assert [t[2] for t in once if t[1].startswith("zz_crosstalk_1")] == found


def random_circuit(num_qubits, seed, depth=4):
    rng = np.random.default_rng(seed)
    circuit = QuantumCircuit(num_qubits)
    for _ in range(depth):
        for q in range(num_qubits):
            circuit.rz(rng.uniform(0, 6), q)
            if rng.random() < 0.7:
                circuit.sx(q)
        a, b = rng.choice(num_qubits, 2, replace=False)
        circuit.cx(int(a), int(b))
    return circuit


def explicit(circuit, angle, short, pairs):
    """The same with rzz gates, moment by moment; moments are found by a schedule of their own."""
    busy = dict.fromkeys(range(circuit.num_qubits), 0)
    schedule = {}
    for i in circuit.data:
        qubits = [circuit.find_bit(q).index for q in i.qubits]
        takes = i.operation.name != "rz"
        start = max(busy[q] for q in qubits)
        for q in qubits:
            busy[q] = start + takes
        # rz of a moment run before its gates, on qubits whose gates of earlier moments are done
        schedule.setdefault((start, takes), []).append((i.operation, qubits))
    result = QuantumCircuit(circuit.num_qubits)
    for moment in range(max(busy.values()) + 1):
        for operation, qubits in schedule.get((moment, False), []):
            result.append(operation, qubits)
        gates = schedule.get((moment, True), [])
        for operation, qubits in gates:
            result.append(operation, qubits)
        joined = [set(qubits) for _, qubits in gates if len(qubits) == 2]
        strength = angle if joined else short
        for pair in pairs if gates and strength else ():
            if set(pair) not in joined:
                result.rzz(strength, *pair)
    return result


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("short", [0.0, 0.07])
@pytest.mark.parametrize("coupling", [None, [(0, 2), (1, 3)]])
def test_crosstalk_is_what_explicit_gates_do(seed, short, coupling):
    circuit = random_circuit(4, seed)
    noise = compose(zz_crosstalk(0.3, short, coupling=coupling)).build()
    found = final_state(noise.prepare(circuit), noise.model)
    pairs = coupling or [(0, 1), (1, 2), (2, 3)]
    expected = DensityMatrix(explicit(circuit, 0.3, short, pairs))
    np.testing.assert_allclose(found.data, expected.data, atol=1e-10)
    assert np.abs(found.data - DensityMatrix(circuit).data).max() > 0.01


def test_crosstalk_in_the_encoder_only():
    circuit = QuantumCircuit(3)
    first, second = random_circuit(3, 5), random_circuit(3, 6)
    circuit.compose(first, inplace=True)
    circuit.barrier(label=ANSATZ_BEGINS)
    circuit.compose(second, inplace=True)
    noise = compose(zz_crosstalk(0.3, 0.1, on="encoder")).build()
    assert noise.tells_stages
    found = final_state(noise.prepare(circuit), noise.model)
    expected = explicit(first, 0.3, 0.1, [(0, 1), (1, 2)]).compose(second)
    np.testing.assert_allclose(found.data, DensityMatrix(expected).data, atol=1e-10)


def test_with_noise_of_gates_besides():
    circuit = random_circuit(3, 8)
    noise = compose(zz_crosstalk(0.3), over_rotation(0.1, axis="z", on="two_qubit_gates")).build()
    found = final_state(noise.prepare(circuit), noise.model)
    plain = explicit(circuit, 0.3, 0.0, [(0, 1), (1, 2)])
    expected = QuantumCircuit(3)
    for i in plain.data:
        expected.append(i.operation, [plain.find_bit(q).index for q in i.qubits])
        if i.operation.name == "cx":
            for q in i.qubits:
                expected.rz(0.1, plain.find_bit(q).index)
    np.testing.assert_allclose(found.data, DensityMatrix(expected).data, atol=1e-10)


def test_passes_tell_their_settings():
    assert repr(LabelStages()) == "LabelStages()"
    found = InsertCrosstalk("zz", "short", ((0, 1),))
    assert repr(found) == "InsertCrosstalk('zz', 'short', ((0, 1),))"
