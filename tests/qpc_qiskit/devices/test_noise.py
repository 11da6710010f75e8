"""What of a noise model concerns a circuit."""

from dataclasses import replace

import numpy as np
import pytest
from qiskit import QuantumCircuit
from qiskit.circuit.library import XGate
from qiskit.quantum_info import Kraus, SparsePauliOp
from qiskit.transpiler.basepasses import TransformationPass
from qiskit_aer import AerSimulator
from qiskit_aer.noise import NoiseModel, QuantumError, ReadoutError, depolarizing_error, pauli_error
from qiskit_ibm_runtime.fake_provider import FakeManilaV2

from qpc_qiskit.backends.aer import AerEstimator
from qpc_qiskit.backends.destinations import noise_on, simulated
from qpc_qiskit.devices.noise import (
    ANSATZ_BEGINS,
    CircuitNoise,
    as_circuit_noise,
    check_acts,
    measurement_noise,
    noise_digest,
)
from qpc_qiskit.errors import EngineError
from qpc_qiskit.rows.pubs import Template

FLIP = pauli_error([("X", 0.1), ("I", 0.9)])
TWO = depolarizing_error(0.1, 2)
A = [[0.9, 0.1], [0.2, 0.8]]
B = [[0.7, 0.3], [0.4, 0.6]]


def named(step):
    """An id that is the same in every process: errors of Aer print a random number."""
    if isinstance(step, str):
        return step
    return " ".join(type(p).__name__ if hasattr(p, "to_dict") else str(p) for p in step)


def model_of(*steps, **options):
    """A noise model after calls of its `add_...` methods: (name of the method, arguments)."""
    model = NoiseModel(**options)
    for method, *arguments in steps:
        getattr(model, f"add_{method}")(*arguments, warnings=False)
    return model


class TestMeasurementNoise:
    def test_none(self):
        noise = measurement_noise(model_of(("all_qubit_quantum_error", FLIP, "sx")))
        assert noise.everywhere is None
        assert noise.local == {}
        assert not noise.has_errors_before
        assert noise.confusion(0) is None

    def test_rows_are_true_outcomes(self):
        noise = measurement_noise(model_of(("all_qubit_readout_error", A)))
        np.testing.assert_array_equal(noise.confusion(7), A)
        assert not noise.has_errors_before

    def test_a_qubits_own_goes_before_the_default(self):
        steps = [("all_qubit_readout_error", A), ("readout_error", B, [2])]
        for order in (steps, steps[::-1]):
            noise = measurement_noise(model_of(*order))
            np.testing.assert_array_equal(noise.confusion(2), B)
            np.testing.assert_array_equal(noise.confusion(1), A)

    def test_qubits_without_any(self):
        noise = measurement_noise(model_of(("readout_error", A, [0]), ("readout_error", B, [3])))
        assert sorted(noise.local) == [0, 3]
        assert noise.confusion(1) is None

    @pytest.mark.parametrize(
        "step",
        [
            ("all_qubit_quantum_error", FLIP, "measure"),
            ("all_qubit_quantum_error", FLIP, ["sx", "measure"]),
            ("quantum_error", FLIP, "measure", [3]),
        ],
        ids=named,
    )
    def test_errors_before(self, step):
        noise = measurement_noise(model_of(("all_qubit_readout_error", A), step))
        assert noise.has_errors_before
        np.testing.assert_array_equal(noise.confusion(3), A)

    @pytest.mark.parametrize("qubits", [[0, 1], [3, 1]])
    def test_several_qubits_together(self, qubits):
        model = NoiseModel()
        model.add_readout_error(ReadoutError(np.full((4, 4), 0.25)), qubits)
        with pytest.raises(EngineError, match="only readout errors of single qubits are supported"):
            measurement_noise(model)

    def test_of_a_device(self):
        backend = FakeManilaV2()
        noise = measurement_noise(NoiseModel.from_backend(backend))
        assert sorted(noise.local) == list(range(5))
        assert noise.everywhere is None
        for qubit in range(5):  # Aer reads one error for both outcomes from a target
            told = backend.target["measure"][(qubit,)].error
            np.testing.assert_allclose(noise.confusion(qubit)[[0, 1], [1, 0]], told)
            np.testing.assert_allclose(noise.confusion(qubit).sum(axis=1), 1)


def circuit():
    result = QuantumCircuit(3)
    result.sx(0)
    result.sx(1)
    result.cx(0, 1)
    result.cx(2, 1)
    result.barrier()
    return result


class TestCheckActs:
    @pytest.mark.parametrize(
        "step",
        [
            ("all_qubit_quantum_error", FLIP, "sx"),
            ("all_qubit_quantum_error", FLIP, ["u", "sx"]),
            ("all_qubit_quantum_error", TWO, "cx"),
            ("all_qubit_quantum_error", FLIP, "measure"),
            ("all_qubit_readout_error", A),
            ("quantum_error", FLIP, "u", [0]),  # and readout, below
        ],
        ids=named,
    )
    def test_one_that_acts(self, step):
        more = [("all_qubit_readout_error", A)] if "u" in step else []
        check_acts(model_of(step, *more), circuit(), range(3))

    def test_an_ideal_one_is_meant_so(self):
        check_acts(NoiseModel(), circuit(), range(3))

    @pytest.mark.parametrize(
        "step",
        [
            ("all_qubit_quantum_error", FLIP, "u"),
            ("all_qubit_quantum_error", TWO, "ecr"),
            ("quantum_error", FLIP, "sx", [2]),
            ("quantum_error", TWO, "cx", [1, 0]),  # 0 -> 1 is another gate
            ("readout_error", A, [5]),
            ("quantum_error", FLIP, "measure", [3]),
        ],
        ids=named,
    )
    def test_one_that_does_nothing(self, step):
        with pytest.raises(
            EngineError,
            match=r"has errors on (u|ecr|sx|cx|measure), of which the circuit has none at the "
            r"places given: it holds .*cx, measure, sx on qubits 0 to 2\. Put the errors on",
        ):
            check_acts(model_of(step), circuit(), range(3))

    def test_only_measured_qubits_count(self):
        model = model_of(("readout_error", A, [2]))
        with pytest.raises(EngineError, match="has errors on measure"):
            check_acts(model, circuit(), [0, 1])

    @pytest.mark.parametrize(
        ("step", "pattern"),
        [
            (("quantum_error", FLIP, "sx", [1]), "1 of 2 'sx' of the circuit have no error"),
            (("quantum_error", TWO, "cx", [2, 1]), "1 of 2 'cx' of the circuit have no error"),
            (("readout_error", A, [0]), "2 of 3 'measure' of the circuit have no error"),
        ],
        ids=named,
    )
    def test_a_warning_where_it_acts_on_some_only(self, step, pattern):
        with pytest.warns(UserWarning, match=pattern):
            check_acts(model_of(step), circuit(), range(3))

    def test_no_warning_where_a_default_covers_the_others(self):
        check_acts(
            model_of(
                ("all_qubit_quantum_error", FLIP, "sx"),
                ("quantum_error", FLIP, "sx", [1]),
                ("all_qubit_readout_error", A),
                ("readout_error", B, [1]),
            ),
            circuit(),
            range(3),
        )

    def test_labels_are_names(self):
        """Aer applies errors by label, where a gate has one."""
        labelled = QuantumCircuit(1)
        labelled.append(XGate(label="noisy"), [0])
        with_label = model_of(("all_qubit_quantum_error", FLIP, "noisy"))
        with_name = model_of(("all_qubit_quantum_error", FLIP, "x"))
        check_acts(with_label, labelled, [0])
        with pytest.raises(EngineError, match="it holds measure, noisy on"):
            check_acts(with_name, labelled, [0])
        labelled.save_probabilities()
        for model, one in [(with_label, 0.9), (with_name, 1.0)]:
            simulator = AerSimulator(method="density_matrix", noise_model=model)
            found = simulator.run(labelled).result().data()["probabilities"]
            assert found[1] == pytest.approx(one)


class TestCircuitNoise:
    def test_a_plain_model_is_noise_without_passes(self):
        model = model_of(("all_qubit_quantum_error", FLIP, "sx"))
        noise = as_circuit_noise(model)
        assert noise.model is model
        assert not noise.changes_circuits
        assert noise.prepare(circuit()) == circuit()
        assert as_circuit_noise(noise) is noise
        assert noise_digest(noise) == noise_digest(model)

    def test_digests_know_no_order(self):
        steps = [("all_qubit_quantum_error", FLIP, "sx"), ("all_qubit_readout_error", A)]
        one, other = model_of(*steps), model_of(*steps[::-1])
        assert noise_digest(one) == noise_digest(other)
        assert noise_digest(one) != noise_digest(model_of(*steps[:1]))
        assert noise_digest(one) != noise_digest(CircuitNoise(one, tells_stages=True))

    def test_digests_know_no_last_bits_and_no_signs_of_operators(self):
        """On another processor exponentials round and eigenvectors turn otherwise."""
        kraus = [np.diag([1, 0.8]), np.array([[0, 0.6], [0, 0]])]
        ours, theirs, other = (
            model_of(
                ("all_qubit_quantum_error", QuantumError(Kraus(operators)), "sx"),
                ("all_qubit_readout_error", ReadoutError([[1 - p, p], [0.2, 0.8]])),
            )
            for operators, p in [
                (kraus, 0.1),
                ([-k * (1 + 2e-16) for k in kraus], 0.1 + 2e-17),
                (kraus, 0.1 + 1e-6),
            ]
        )
        assert noise_digest(ours) == noise_digest(theirs)
        assert noise_digest(ours) != noise_digest(other)

    def test_passes_run_on_the_translated_circuit(self):
        """And the error is found by the label that a pass gives."""
        model = model_of(("all_qubit_quantum_error", FLIP, "loud"), basis_gates=["rz", "sx", "x"])
        noise = CircuitNoise(model, (LabelX(),))
        template = Template(XY, (), (SparsePauliOp("Z"),), ())
        prepared = simulated(template, noise)
        names = [(i.operation.name, i.operation.label) for i in prepared.template.circuit.data]
        assert ("x", "loud") in names
        model = noise_on(prepared, noise)
        pub = (prepared.template.circuit, SparsePauliOp("Z"))
        value = AerEstimator(model).run([pub]).result()[0].data.evs
        assert value == pytest.approx(-0.8)  # flipped with probability 0.1

    def test_a_template_that_does_not_tell_its_encoder(self):
        noise = CircuitNoise(model_of(("all_qubit_quantum_error", FLIP, "x")), tells_stages=True)
        template = Template(XY, (), (SparsePauliOp("Z"),), ())
        with pytest.raises(EngineError, match="needs a template that tells where its encoder ends"):
            simulated(template, noise)
        staged = simulated(replace(template, encoder_size=1), noise).template.circuit
        labels = [i.operation.label for i in staged.data]
        assert labels.count(ANSATZ_BEGINS) == 1

    def test_a_circuit_that_is_too_narrow(self):
        noise = CircuitNoise(NoiseModel(), name="wide", min_qubits=3)
        with pytest.raises(EngineError, match="'wide' is told for qubit 2; the circuit has qubits"):
            simulated(Template(XY, (), (SparsePauliOp("Z"),), ()), noise)

    def test_no_warning_where_noise_was_put_together_on_purpose(self):
        wide = QuantumCircuit(2)
        wide.x([0, 1])
        model = model_of(("quantum_error", FLIP, "x", [0]))
        template = Template(wide, (), (SparsePauliOp("IZ"),), ())
        noise_on(simulated(template, CircuitNoise(model)), CircuitNoise(model))
        with pytest.warns(UserWarning, match="1 of 2 'x' of the circuit have no error"):
            noise_on(simulated(template, model), model)


XY = QuantumCircuit(1)
XY.x(0)


class LabelX(TransformationPass):
    def run(self, dag):
        for node in dag.named_nodes("x"):
            dag.substitute_node(node, XGate(label="loud"))
        return dag

    def __repr__(self):
        return "LabelX()"
