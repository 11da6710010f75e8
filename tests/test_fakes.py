"""The test doubles with the real client: what passes here, an engine's tests may rely on."""

import threading

import numpy as np
import pytest
from fakes import FakeVendorBackend, RecordingService, Spy
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector
from qiskit.primitives import BackendEstimatorV2, StatevectorEstimator
from qiskit.primitives.containers import DataBin, PrimitiveResult
from qiskit.providers.exceptions import QiskitBackendNotFoundError
from qiskit.quantum_info import SparsePauliOp
from qiskit.transpiler import generate_preset_pass_manager
from qiskit_ibm_runtime import Batch, IBMBackend, RuntimeJobV2, Session
from qiskit_ibm_runtime.api.exceptions import RequestsApiError
from qiskit_ibm_runtime.exceptions import (
    IBMInputValueError,
    IBMRuntimeError,
    RuntimeInvalidStateError,
    RuntimeJobFailureError,
    RuntimeJobMaxTimeoutError,
    RuntimeJobTimeoutError,
)
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
    return RecordingService(noisy=False)


@pytest.fixture
def backend(service):
    return service.backend("ibm_manila")


def estimator_for(mode, level=0, **options):
    return Estimator(mode, options={"resilience_level": level, "default_shots": SHOTS, **options})


class TestBackends:
    @pytest.mark.parametrize(
        ("name", "num_qubits"),
        [("ibm_manila", 5), ("ibm_guadalupe", 16), ("ibm_torino", 133), ("ibm_fractional", 5)],
    )
    def test_are_the_clients_own(self, service, name, num_qubits):
        backend = service.backend(name)
        assert type(backend) is IBMBackend
        assert backend.name == name
        assert backend.num_qubits == num_qubits
        assert backend.service is service
        assert backend.status().operational
        assert backend.properties().backend_name == name
        assert 0 < backend.target["measure"][(0,)].error < 1
        assert backend.default_rep_delay > 0

    def test_unknown_name(self, service):
        with pytest.raises(QiskitBackendNotFoundError, match="No backend matches"):
            service.backend("ibm_atlantis")

    def test_fractional_gates(self, service):
        assert "rzz" not in service.backend("ibm_fractional").target
        assert "rzz" in service.backend("ibm_fractional", use_fractional_gates=True).target
        with pytest.raises(IBMInputValueError, match="does not support fractional"):
            service.backend("ibm_manila", use_fractional_gates=True)

    def test_least_busy(self, service):
        assert service.least_busy(min_num_qubits=100).name == "ibm_torino"


class TestJobs:
    @pytest.mark.parametrize("level", [0, 1])
    @pytest.mark.parametrize("mode", ["job", "batch", "session"])
    def test_values_in_every_mode(self, service, backend, exact, mode, level):
        if mode == "job":
            job = estimator_for(backend, level).run([pub_for(backend)])
        else:
            with (Batch if mode == "batch" else Session)(backend, max_time="25m") as opened:
                assert not service.sessions[0].closed
                job = estimator_for(opened, level).run([pub_for(backend)])
        assert type(job) is RuntimeJobV2
        result = job.result()
        assert isinstance(result, PrimitiveResult)
        assert_close(result, exact)
        assert job.status() == "DONE"

        (posted,) = service.jobs_posted
        assert posted.job_id == job.job_id()
        assert posted.backend == "ibm_manila"
        assert posted.shots == SHOTS
        assert posted.num_executions == SHOTS * (3 + level)  # TREX: one row more
        assert posted.estimator_options["resilience_level"] == level
        if mode == "job":
            assert service.sessions == []
            assert posted.session_id is None
        else:
            (session,) = service.sessions
            assert session.mode == {"batch": "batch", "session": "dedicated"}[mode]
            assert session.backend == "ibm_manila"
            assert session.max_time == 25 * 60
            assert session.closed
            assert not session.cancelled
            assert posted.session_id == session.session_id == job.session_id

    def test_noise_shows_and_trex_helps(self, exact):
        backend = RecordingService().backend("ibm_manila")
        errors = []
        for level in (0, 1):
            options = {"twirling": {"num_randomizations": 16}}
            result = estimator_for(backend, level, **options).run([pub_for(backend)]).result()
            assert_close(result, exact, bias=0.1)
            errors.append(np.abs(result[0].data.evs - exact)[:, 2].max())
        # Without noise the last row is exact: both qubits stay in state zero.
        assert errors[1] < errors[0]
        assert errors[0] > 0.01

    def test_seeds(self):
        def values(seed):
            backend = RecordingService(noisy=False, seed=seed).backend("ibm_manila")
            estimator = estimator_for(backend)
            jobs = [estimator.run([pub_for(backend)]) for _ in range(2)]
            return np.array([job.result()[0].data.evs for job in jobs])

        first = values(1)
        np.testing.assert_array_equal(values(1), first)
        assert np.any(values(2) != first)
        assert np.any(first[0] != first[1])

    def test_options_arrive(self, service, backend):
        options = {
            "max_execution_time": 300,
            "environment": {"job_tags": ["chunk-0"], "private": True},
            "execution": {"rep_delay": 1e-4},
        }
        job = estimator_for(backend, **options).run([pub_for(backend)], precision=0.1)
        (posted,) = service.jobs_posted
        assert posted.max_execution_time == 300
        assert posted.tags == ["chunk-0"] == job.tags
        assert posted.private
        assert posted.shots == 100
        assert posted.executor_options.execution.rep_delay == 1e-4
        assert posted.program.items[0].shape == (1, 3)

    def test_retrieval_by_id_and_by_tag(self, service, backend):
        options = {"environment": {"job_tags": ["uid"]}}
        job = estimator_for(backend, **options).run([pub_for(backend)])
        estimator_for(backend).run([pub_for(backend)])
        (found,) = service.jobs(job_tags=["uid"], limit=None)
        assert found.job_id() == job.job_id()
        assert len(service.jobs()) == 2
        again = service.job(job.job_id()).result()
        np.testing.assert_array_equal(again[0].data.evs, job.result()[0].data.evs)
        assert found.usage() > 2
        assert found.metrics()["usage"]["status"] == "complete"
        assert job.usage_estimation["quantum_seconds"] > 2

    def test_a_wide_device_records_and_answers_without_noise_only(self, exact):
        for noisy in (True, False):
            service = RecordingService(noisy=noisy)
            backend = service.backend("ibm_torino")
            job = estimator_for(backend).run([pub_for(backend)])
            assert service.jobs_posted[0].program.items[0].circuit.num_qubits == 133
            if noisy:
                with pytest.raises(NotImplementedError, match="133 qubits"):
                    job.result()
            else:
                assert_close(job.result(), exact)

    def test_threads_get_their_own_jobs(self, service, backend):
        pub = pub_for(backend, rows=1)
        jobs = []

        def submit():
            jobs.append(estimator_for(backend).run([pub]))

        threads = [threading.Thread(target=submit) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {job.job_id() for job in jobs} == {job.job_id for job in service.jobs_posted}
        assert len(service.jobs_posted) == service.num_posts == 4


class TestFaults:
    def test_a_post_fails(self, service, backend):
        service.fail_run = {1: RequestsApiError("429 Too Many Requests", 429), 3: OSError("gone")}
        estimator = estimator_for(backend)
        pub = pub_for(backend, rows=1)
        estimator.run([pub])
        with pytest.raises(IBMRuntimeError, match="429") as info:
            estimator.run([pub])
        assert info.value.__context__.status_code == 429
        estimator.run([pub])
        with pytest.raises(OSError, match="gone"):
            estimator.run([pub])
        assert service.num_posts == 4
        assert [job.index for job in service.jobs_posted] == [0, 1]

    def test_the_reply_is_lost_but_the_job_exists(self, service, backend):
        service.lose_reply = {0: RequestsApiError("connection dropped", -1)}
        options = {"environment": {"job_tags": ["uid"]}}
        with pytest.raises(IBMRuntimeError, match="dropped"):
            estimator_for(backend, **options).run([pub_for(backend)])
        (job,) = service.jobs(job_tags=["uid"], limit=None)
        assert job.result()[0].data.evs.shape == (3, 3)

    @pytest.mark.parametrize(
        ("failure", "text"),
        [
            (RuntimeJobFailureError("Error code 6053; compiler"), "6053"),
            (RuntimeJobMaxTimeoutError("too slow"), "too slow"),
        ],
    )
    def test_a_job_fails(self, service, backend, failure, text):
        service.fail_result = {0: failure}
        job = estimator_for(backend).run([pub_for(backend)])
        assert job.status() == "ERROR"
        with pytest.raises(type(failure), match=text):
            job.result()
        assert text in job.error_message()

    def test_a_circuit_that_is_not_native_is_accepted_and_fails(self, backend):
        job = estimator_for(backend).run([(two_qubits(), [["ZZ"]], ANGLES)])
        with pytest.raises(RuntimeJobFailureError, match="ry"):
            job.result()

    def test_a_result_cannot_be_had_twice_then_can(self, service, backend):
        service.fail_result = {0: [RequestsApiError("503", -1), OSError("gone")]}
        job = estimator_for(backend).run([pub_for(backend)])
        with pytest.raises(RequestsApiError, match="503"):
            job.result()
        with pytest.raises(OSError, match="gone"):
            job.result()
        assert job.status() == "DONE"
        assert job.result()[0].data.evs.shape == (3, 3)

    def test_a_result_never_comes(self, service, backend):
        service.fail_result = {0: OSError("gone")}
        job = estimator_for(backend).run([pub_for(backend)])
        for _ in range(2):
            with pytest.raises(OSError, match="gone"):
                job.result()

    def test_transform(self, service, backend):
        seen = []
        service.transform = lambda result: seen.append(result) or "transformed"
        job = estimator_for(backend).run([pub_for(backend)])
        assert job.result() == "transformed"
        assert service.job(job.job_id()).result() == "transformed"
        assert isinstance(seen[0], PrimitiveResult)

    def test_cancelling(self, service, backend):
        service.hold = {0}
        held, finished = (estimator_for(backend).run([pub_for(backend)]) for _ in range(2))
        assert held.status() == "QUEUED"
        with pytest.raises(RuntimeJobTimeoutError):
            held.result(timeout=0)
        assert finished.status() == "DONE"
        held.cancel()
        with pytest.raises(RuntimeInvalidStateError, match="409"):
            finished.cancel()
        assert held.status() == "CANCELLED"
        with pytest.raises(RuntimeInvalidStateError, match="cancelled"):
            held.result()
        assert service.cancelled == [held.job_id()]

    def test_a_cancelled_batch(self, service, backend):
        batch = Batch(backend)
        estimator = estimator_for(batch)
        job = estimator.run([pub_for(backend)])
        batch.cancel()
        assert service.sessions[0].cancelled
        assert service.cancelled == [job.job_id()]
        with pytest.raises(IBMRuntimeError, match="closed"):
            estimator.run([pub_for(backend)])
        assert Batch.from_id(batch.session_id, service).status() == "Closed"

    def test_a_session_that_the_server_closed(self, service, backend):
        session = Session(backend)
        service.sessions[0].closed = True
        with pytest.raises(IBMRuntimeError, match="1217"):
            estimator_for(session).run([pub_for(backend)])

    def test_a_device_under_maintenance_and_a_spent_account_warn(self, service, backend):
        service.statuses["ibm_manila"] = {"status_msg": "internal"}
        with pytest.warns(UserWarning, match="status of internal"):
            estimator_for(backend).run([pub_for(backend)])
        service.statuses.clear()
        service.instance_usage["usage_limit_reached"] = True
        with pytest.warns(UserWarning, match="no more time available"):
            estimator_for(backend).run([pub_for(backend)])


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
