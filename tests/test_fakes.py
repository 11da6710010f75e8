"""The test doubles with the real client: what passes here, an engine's tests may rely on."""

import numpy as np
import pytest
from fakes import FakeVendorBackend, Spy, recording
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector
from qiskit.primitives import BackendEstimatorV2, StatevectorEstimator
from qiskit.primitives.containers import DataBin
from qiskit.quantum_info import SparsePauliOp
from qiskit.transpiler import generate_preset_pass_manager
from qiskit_ibm_runtime.executor_estimator import Estimator

SHOTS = 1024
ANGLES = np.array([[0.3, 1.1], [2.0, -0.7], [0.0, 0.0]])
OBSERVABLES = ["IZ", "ZI", "ZZ"]


def two_qubits():
    angles = ParameterVector("angle", 2)
    circuit = QuantumCircuit(2)
    circuit.ry(angles[0], 0)
    circuit.ry(angles[1], 1)
    circuit.cx(0, 1)
    return circuit


def pub_for(backend, rows=3):
    isa = generate_preset_pass_manager(0, backend=backend, initial_layout=[1, 0]).run(two_qubits())
    observables = [[SparsePauliOp(text).apply_layout(isa.layout)] for text in OBSERVABLES]
    return isa, observables, ANGLES[:rows]


@pytest.fixture(scope="module")
def exact():
    pub = two_qubits(), [[text] for text in OBSERVABLES], ANGLES
    return StatevectorEstimator().run([pub]).result()[0].data.evs


def assert_close(result, exact, bias=0):
    data = result[0].data
    error = 5 / np.sqrt(SHOTS)
    assert data.evs.shape == (3, 3)
    assert np.all(data.stds <= error)
    np.testing.assert_allclose(data.evs, exact, rtol=0, atol=error + bias)


@pytest.fixture
def service():
    return recording()


@pytest.fixture
def backend(service):
    return service.backend("ibm_manila")


def estimator_for(mode, level=0, **options):
    return Estimator(mode, options={"resilience_level": level, "default_shots": SHOTS, **options})


class TestSpy:
    def test_counts_and_passes_on(self, exact):
        spy = Spy()
        pub = two_qubits(), [[text] for text in OBSERVABLES], ANGLES
        result = spy.run([pub, (*pub[:2], ANGLES[:1])]).result()
        spy.run([pub], precision=0.1)
        np.testing.assert_allclose(result[0].data.evs, exact, rtol=0, atol=1e-12)
        assert (spy.num_runs, spy.num_pubs, spy.num_rows) == (2, 3, 7)
        assert [pub.precision for pub in spy.pubs] == [None, None, 0.1]

    def test_wraps_any_estimator(self, service, backend):
        spy = Spy(estimator_for(backend))
        assert spy.run([pub_for(backend)]).result()[0].data.evs.shape == (3, 3)
        assert service.jobs_posted[0].shots == SHOTS
        assert spy.num_rows == 3

    def test_answers_for_itself(self):
        spy = Spy(answer=lambda pub: DataBin(evs=np.full(pub.shape, 0.5), shape=pub.shape))
        result = spy.run([(two_qubits(), [["ZZ"]], ANGLES)]).result()
        np.testing.assert_array_equal(result[0].data.evs, np.full((1, 3), 0.5))

    def test_fails_when_told(self):
        spy = Spy(fail_at=(1, OSError("gone")))
        pub = two_qubits(), "ZZ", ANGLES
        spy.run([pub])
        with pytest.raises(OSError, match="gone"):
            spy.run([pub])
        spy.run([pub])
        assert spy.num_runs == 3


class TestFakeVendorBackend:
    def test_backend_estimator(self, exact):
        backend = FakeVendorBackend(max_circuits=2)
        assert backend.num_qubits == 9
        options = {"default_precision": 1 / np.sqrt(SHOTS), "seed_simulator": 3}
        job = BackendEstimatorV2(backend=backend, options=options).run([pub_for(backend)])
        assert_close(job.result(), exact)
        assert [(count, shots) for count, shots, _ in backend.runs] == [(2, SHOTS), (1, SHOTS)]

    def test_refuses_what_is_not_native(self):
        backend = FakeVendorBackend()
        circuit = QuantumCircuit(9)
        circuit.cx(0, 1)
        with pytest.raises(ValueError, match="cx"):
            backend.run(circuit)
        far = QuantumCircuit(9)
        far.iswap(0, 8)
        with pytest.raises(ValueError, match="iswap"):
            backend.run([far])
