"""IBM's devices and their snapshots: what is posted, in which mode, and what a failure leaves."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from cases import Case, evs_of
from conformance import weights_of
from fakes import recording
from qiskit_aer.noise import NoiseModel, ReadoutError
from qiskit_ibm_runtime import Batch, Session
from qiskit_ibm_runtime.api.exceptions import RequestsApiError
from qiskit_ibm_runtime.exceptions import RuntimeJobFailureError, RuntimeJobMaxTimeoutError
from qiskit_ibm_runtime.fake_provider import FakeManilaV2, FakeTorino
from qiskit_ibm_runtime.fake_provider.fake_backend import FakeBackendV2
from tiers import thorough

from qpc_qiskit import EstimatorEngine, ExactEngine, use_engine
from qpc_qiskit.backends import runtime
from qpc_qiskit.backends.named import find_backend, is_fake, is_ibm
from qpc_qiskit.devices.forecast import JobCost
from qpc_qiskit.devices.isa import is_isa
from qpc_qiskit.errors import BudgetError, EngineError, FetchError
from qpc_qiskit.rows.pubs import JobLimits

CASE = Case(3, 4, 2, "figure1", 2)
SPEC = CASE.spec()  # K = 2
BOUND = 5 / 32
"""1024 shots, five standard errors of at most 1/32: 1e-5 false alarms for 16 values, all seeds."""


@pytest.fixture
def service():
    return recording()


def engine_for(service, name="ibm_manila", **options):
    options = {"shots": 1024, **options}
    return EstimatorEngine.from_backend(name, service=service, **options)


def ids(service):
    """Of the jobs that were sent."""
    return [job.job_id for job in service.jobs_posted]


class Data:
    """Pixels, weights and exact values of one test."""

    def __init__(self, generator, case=CASE, count=3):
        self.spec = case.spec()
        self.pixels = torch.randn(count, case.in_channels, generator=generator, dtype=torch.float64)
        self.weights = weights_of(case, generator)
        self.exact = evs_of(ExactEngine(), self.spec, self.pixels, self.weights)

    def send(self, engine):
        return evs_of(engine, self.spec, self.pixels, self.weights)


@pytest.fixture
def data(generator):
    return Data(generator)


class TestWhatIsPosted:
    @pytest.mark.parametrize("name", ["ibm_manila", *thorough("ibm_torino")])
    def test_one_pub_in_the_full_width(self, service, data, name):
        engine = engine_for(service, name)
        found = data.send(engine)
        assert float((found - data.exact).abs().max()) < BOUND
        (job,) = service.jobs_posted
        assert job.backend == name
        assert job.shots == 1024
        assert job.num_executions == 1024 * 3 * 2
        assert job.estimator_options["resilience_level"] == 0
        assert job.max_execution_time == math.ceil(1.5 * engine.last_report.predicted_qpu_seconds)
        assert job.session_id is None
        (item,) = job.program.items
        target = service.backend(name).target
        measured = {"ibm_manila": 5, "ibm_torino": 133}[name]
        assert item.circuit.num_qubits == measured
        assert is_isa(item.circuit, target)
        report = engine.last_report
        assert report.job_ids == (job.job_id,)
        used = {
            item.circuit.find_bit(q).index
            for each in item.circuit.data
            for q in each.qubits
            if each.operation.name not in ("measure", "barrier", "box")
        }
        assert used <= set(range(measured))
        assert set(report.layout) == set(report.patch)

    def test_observables_stand_on_the_qubits_of_the_layout(self, service, data, generator):
        """Known answers: pixel e_i and no rotations give (-1)**bit of i (figure1: CNOT ring)."""
        engine = engine_for(service)
        case = Case(4, 2, 2, "figure1", 1)
        weights = torch.zeros(1, case.spec().num_weights, dtype=torch.float64)
        found = evs_of(engine, case.spec(), torch.eye(4, dtype=torch.float64), weights)
        expected = evs_of(ExactEngine(), case.spec(), torch.eye(4, dtype=torch.float64), weights)
        assert len({tuple(row) for row in expected[:, 0].tolist()}) == 4
        assert torch.equal(found.round(), expected.round())
        (job,) = service.jobs_posted
        told = job.program.passthrough_data["qiskit_mitigation"]
        layout = engine.last_report.layout
        labels = [next(iter(observable.ravel().tolist()[0])) for observable in _observables(told)]
        for q, label in enumerate(labels):
            assert [i for i, pauli in enumerate(reversed(label)) if pauli == "Z"] == [layout[q]]

    @pytest.mark.parametrize("level", [0, 1, 2])
    def test_resilience_levels(self, service, data, level):
        engine = engine_for(service, resilience=level)
        found = data.send(engine)
        assert found.shape == (3, 2, 2)
        (job,) = service.jobs_posted
        assert job.estimator_options["resilience_level"] == level
        # What the budget counts is what is executed.
        cost = engine.destination.cost(engine.prepare(data.spec), 1024)
        assert job.num_executions == 6 * cost.shots_per_row + cost.shots_per_job
        assert engine.last_report.about["resilience"] == level

    @pytest.mark.parametrize("shots", [1, 100, 1000, 4096])
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"twirling": {"enable_gates": True, "num_randomizations": 7}},
            {"twirling": {"enable_measure": True, "shots_per_randomization": 30}},
            {"resilience": {"zne_mitigation": True, "zne": {"noise_factors": (1, 3)}}},
            {
                "resilience": {
                    "measure_mitigation": True,
                    "measure_noise_learning": {"num_randomizations": 5},
                },
            },
        ],
    )
    def test_executed_shots_are_what_is_posted(self, service, generator, shots, options):
        engine = engine_for(service, shots=shots, options=options)
        data = Data(generator, count=1)
        service.fail_result = {0: OSError("not executed")}
        with pytest.raises(EngineError, match="not executed"):
            data.send(engine)
        (job,) = service.jobs_posted
        cost = engine.destination.cost(engine.prepare(data.spec), shots)
        assert job.num_executions == 2 * cost.shots_per_row + cost.shots_per_job

    def test_options_arrive(self, service, data):
        options = {
            "max_execution_time": 300,
            "environment": {"job_tags": ["mine"]},
            "execution": {"rep_delay": 1e-4},
            "dynamical_decoupling": {"enable": True, "sequence_type": "XY4"},
        }
        engine = engine_for(service, options=options)
        data.send(engine)
        (job,) = service.jobs_posted
        assert job.max_execution_time == 300
        assert job.tags == ["mine"]
        assert job.executor_options.execution.rep_delay == 1e-4
        assert job.estimator_options["dynamical_decoupling"]["enable"]
        assert engine.last_report.about["options"] == options

    def test_the_default_precision(self, service, data):
        engine = engine_for(service, shots=None)
        data.send(engine)
        assert service.jobs_posted[0].shots == 4096 == engine.last_report.shots
        engine = engine_for(service, shots=None, precision=0.1)
        data.send(engine)
        assert service.jobs_posted[1].shots == 100 == engine.last_report.shots

    def test_limits_make_jobs(self, service, data):
        engine = engine_for(service, limits=JobLimits(max_rows=2))
        found = data.send(engine)
        assert float((found - data.exact).abs().max()) < BOUND
        assert [job.program.items[0].size() for job in service.jobs_posted] == [2, 2, 2]
        assert {job.shots for job in service.jobs_posted} == {1024}
        assert engine.last_report.job_ids == tuple(job.job_id for job in service.jobs_posted)

    @pytest.mark.parametrize("shots", [*thorough(100_000), 1_000_000])
    def test_a_job_takes_ten_minutes_at_most(self, service, generator, shots):
        engine = engine_for(service, "ibm_torino", shots=shots)
        service.fail_result = {0: OSError("not executed")}
        data = Data(generator, count=15)
        with pytest.raises(EngineError, match="not executed") as caught:
            data.send(engine)
        seconds = shots * engine.prepare(data.spec).times.total()
        sent = math.ceil(30 / int(600 / seconds))
        assert sent > 1
        assert f"job 1 of {sent}" in str(caught.value)
        rows = [job.program.items[0].size() for job in service.jobs_posted]
        assert max(rows) * seconds <= 600
        assert max(rows) - min(rows) <= 1

    def test_one_row_that_takes_longer(self, service, data):
        with pytest.raises(EngineError, match="exceeds what a job may hold in QPU seconds"):
            data.send(engine_for(service, shots=9_000_000))
        assert service.num_posts == 0

    def test_a_layer_and_images(self, service, generator):
        layer = Case(3, 4, 2, "figure1", 2).layer(generator)
        images = torch.randn(2, 3, 2, 2, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            expected = layer(images)
            with use_engine(layer, engine_for(service)) as engine:
                found = layer(images)
        assert float((found - expected).abs().max()) < BOUND
        assert engine.total_pubs == len(service.jobs_posted) == 1


def _observables(told):
    """The n observables of the PUB, however deep the client packs them."""
    from qiskit.primitives.containers.observables_array import ObservablesArray

    for value in told.values() if isinstance(told, dict) else told:
        if isinstance(value, dict | list):
            found = _observables(value)
            if found:
                return found
        elif isinstance(value, ObservablesArray):
            return [ObservablesArray([each]) for each in value.ravel().tolist()]
    return []


class TestModes:
    @pytest.mark.parametrize(("mode", "kind"), [("batch", "batch"), ("session", "dedicated")])
    def test_opened_with_the_first_job_and_shared(self, service, data, mode, kind):
        engine = engine_for(service, mode=mode)
        engine.prepare(SPEC)
        assert service.sessions == []
        with engine:
            data.send(engine)
            other = Case(2, 2, 1)
            evs_of(engine, other.spec(), data.pixels[:, :2], torch.zeros(2, 9, dtype=torch.float64))
            (session,) = service.sessions
            assert not session.closed
            assert (session.mode, session.backend) == (kind, "ibm_manila")
        (session,) = service.sessions
        assert session.closed
        assert not session.cancelled
        assert [job.session_id for job in service.jobs_posted] == [session.session_id] * 2
        assert engine.last_report.about["mode"] == mode

    @pytest.mark.parametrize("mode", ["batch", "session"])
    def test_closed_after_an_error_and_opened_again(self, service, data, mode):
        engine = engine_for(service, mode=mode)

        def fail():
            with engine:
                data.send(engine)
                raise RuntimeError("mine")

        with pytest.raises(RuntimeError, match="mine"):
            fail()
        assert [session.closed for session in service.sessions] == [True]
        engine.close()
        data.send(engine)
        assert [session.closed for session in service.sessions] == [True, False]
        assert service.jobs_posted[1].session_id == service.sessions[1].session_id
        engine.close()
        engine.close()
        assert [session.closed for session in service.sessions] == [True, True]

    def test_nothing_is_opened_in_vain(self, service, data):
        for mode in ("batch", "session"):
            with engine_for(service, mode=mode, max_qpu_seconds=1) as engine:
                with pytest.raises(BudgetError, match="nothing was sent"):
                    data.send(engine)
                evs_of(engine, SPEC, data.pixels[:0], data.weights)
        assert service.sessions == []
        assert service.num_posts == 0

    def test_no_session_in_job_mode(self, service, data):
        with engine_for(service) as engine:
            data.send(engine)
        assert service.sessions == []

    @pytest.mark.parametrize("kind", [Batch, Session])
    @pytest.mark.parametrize("mode", ["job", "batch", "session"])
    def test_a_batch_of_the_users_own_does_not_matter(self, service, data, mode, kind):
        """Also one for another device, which the client would refuse."""
        for name in ("ibm_manila", "ibm_guadalupe"):
            engine = engine_for(service, mode=mode)
            with kind(service.backend(name)) as around, engine:
                data.send(engine)
            assert service.jobs_posted[-1].session_id != around.session_id
            assert (service.jobs_posted[-1].session_id is None) == (mode == "job")

    def test_a_batch_cannot_be_opened(self, service, data, monkeypatch):
        def refuse(*args, **kwargs):
            raise RequestsApiError("400 Client Error: not on this plan", 400)

        monkeypatch.setattr(service._active_api_client, "create_session", refuse)
        engine = engine_for(service, mode="session")
        with pytest.raises(EngineError, match=r"ibm_manila: .* job 1 of 1 .*not on this plan"):
            data.send(engine)
        engine.close()
        monkeypatch.undo()
        data.send(engine)
        assert len(service.sessions) == 1

    def test_a_session_that_the_service_closed(self, service, data):
        engine = engine_for(service, mode="session")
        data.send(engine)
        service.standin.close_session(service.sessions[0].session_id)
        with pytest.raises(EngineError, match=r"has been closed.*1217|1217.*has been closed"):
            data.send(engine)
        engine.close()
        data.send(engine)
        assert len(service.sessions) == 2


class TestFailures:
    def engine(self, service, **options):
        return engine_for(service, limits=JobLimits(max_rows=1), **options)

    def check_counted(self, engine, service, executions):
        """No report; what was sent, which is paid for, is counted."""
        assert engine.last_report is None
        assert engine.total_pubs == len(service.jobs_posted)
        assert engine.total_executions == executions
        shot = engine.prepare(SPEC).times.total()
        expected = 2 * engine.total_pubs + executions * 1024 * shot
        assert engine.total_predicted_qpu_seconds == pytest.approx(expected)

    def test_a_post_that_fails(self, service, data):
        service.hold = set(range(9))
        service.fail_run = {2: RequestsApiError("429 Too Many Requests", 429)}
        engine = self.engine(service)
        with pytest.raises(EngineError, match=r"failed on job 3 of 6 .*429") as caught:
            data.send(engine)
        first, second = ids(service)
        assert f"sent: {first}, {second}" in str(caught.value)
        assert service.cancelled == [first, second]
        self.check_counted(engine, service, 2)

    @pytest.mark.parametrize(
        ("failure", "text"),
        [
            (RuntimeJobFailureError("6053; internal compiler error"), "6053"),
            (RuntimeJobMaxTimeoutError("ran too long"), "1305.* maximum execution time"),
            (OSError("6053: connection lost"), "6053"),
        ],
    )
    def test_a_result_that_fails(self, service, data, failure, text):
        """Four jobs are in flight: when the second fails, two more are waiting."""
        service.hold = {2, 3, 4, 5}
        service.fail_result = {1: failure}
        engine = self.engine(service)
        with pytest.raises(EngineError, match=f"failed on job 2 of 6 .*{text}") as caught:
            data.send(engine)
        assert str(caught.value).endswith(f"{ids(service)[4]})")
        assert type(caught.value.__cause__) is type(failure)
        assert service.cancelled == ids(service)[2:]
        self.check_counted(engine, service, 5)

    def test_a_job_that_was_cancelled(self, service, data):
        service.hold = {0}
        engine = engine_for(service)
        post = service._active_api_client.program_run

        def cancelled(*args, **kwargs):
            answer = post(*args, **kwargs)
            service._active_api_client.job_cancel(answer["id"])
            return answer

        service._active_api_client.program_run = cancelled
        with pytest.raises(EngineError, match=r"RuntimeInvalidStateError.*cancelled"):
            data.send(engine)
        self.check_counted(engine, service, 6)

    def test_jobs_in_flight_are_four(self, service, data):
        in_flight = []
        run = service._active_api_client.program_run

        def counted(*args, **kwargs):
            in_flight.append(len(service.jobs_posted) - len(service.fetched))
            return run(*args, **kwargs)

        service._active_api_client.program_run = counted
        data.send(self.engine(service))
        assert in_flight == [0, 1, 2, 3, 3, 3]

    def test_values_that_are_not_numbers(self, service, data):
        def spoil(result):
            result[0].data.evs[0, 1] = np.nan
            return result

        service.transform = spoil
        engine = engine_for(service)
        with pytest.raises(EngineError, match="1 are not finite") as caught:
            data.send(engine)
        assert ids(service)[0] in caught.value.__notes__[0]
        self.check_counted(engine, service, 6)

    def test_standard_errors_that_are_not_known(self, service, data):
        """As extrapolation gives them: shot noise alone takes their place."""

        def spoil(result):
            result[0].data.stds[0, 1] = np.nan
            result[0].data.stds[1, 0] = np.inf
            return result

        service.transform = spoil
        engine = engine_for(service)
        data.send(engine)
        (stds,) = engine.last_report.stds
        assert bool(((stds > 0) & (stds <= 1.01 / 32)).all())
        assert engine.last_report.num_unknown_stds == 0

    def test_an_interrupt(self, service, data):
        service.hold = {1, 2, 3}
        service.fail_result = {0: KeyboardInterrupt("^C")}
        engine = self.engine(service)
        with pytest.raises(KeyboardInterrupt, match=r"\^C"):
            data.send(engine)
        assert service.cancelled == ids(service)[1:]
        self.check_counted(engine, service, 4)


def down(text="connection lost", status_code=-1):
    return RequestsApiError(text, status_code=status_code)


class TestFetching:
    """Results that cannot be had at once. Nothing here waits: the sleep is a list's append."""

    ATTEMPTS = 8

    def engine(self, service, slept, **options):
        destination = replace(
            runtime.device(service.backend("ibm_manila")),
            fetch=runtime.retrying_fetch(slept.append),
        )
        return EstimatorEngine(
            shots=1024, limits=JobLimits(max_rows=1), _destination=destination, **options
        )

    @pytest.mark.parametrize(
        ("status_code", "times"),
        [(-1, 3), (429, 1), *thorough((500, 1), (502, 1), (503, 7), (504, 1))],
    )
    def test_what_may_pass_is_asked_for_again(self, service, data, status_code, times):
        service.fail_result = {1: [down(status_code=status_code) for _ in range(times)]}
        slept = []
        engine = self.engine(service, slept)
        found = data.send(engine)
        assert float((found - data.exact).abs().max()) < BOUND
        assert slept == [2, 4, 8, 16, 32, 60, 60][:times]
        assert service.num_posts == 6  # the result is asked for again, and never the job
        assert service.cancelled == []

    def test_every_job_has_its_own_patience(self, service, data):
        service.fail_result = {job: [down() for _ in range(5)] for job in range(6)}
        slept = []
        data.send(self.engine(service, slept))
        assert slept == [2, 4, 8, 16, 32] * 6

    @pytest.mark.parametrize("endless", [True, False])
    def test_giving_up_cancels_nothing(self, service, data, endless):
        """The other jobs are paid for, and so may be had later."""
        service.hold = {2, 3, 4}
        service.fail_result = {1: down() if endless else [down() for _ in range(self.ATTEMPTS)]}
        slept = []
        engine = self.engine(service, slept)
        with pytest.raises(
            FetchError,
            match=r"result of job \w+ could not be fetched in 8 attempts: .*connection",
        ) as caught:
            data.send(engine)
        told = f"QiskitRuntimeService().job('{ids(service)[1]}').result() has its values"
        assert told in str(caught.value)
        assert isinstance(caught.value.__cause__, RequestsApiError)
        (note,) = caught.value.__notes__
        assert "job 2 of 6" in note
        assert f"jobs sent: {', '.join(ids(service))}" in note
        assert len(ids(service)) == 5
        assert service.cancelled == []
        assert len(slept) == self.ATTEMPTS - 1
        assert (engine.total_pubs, engine.total_executions) == (5, 5)
        assert engine.last_report is None

    def test_the_values_are_there_afterwards(self, service, data):
        service.fail_result = {0: [down() for _ in range(self.ATTEMPTS)]}
        with pytest.raises(FetchError):
            data.send(self.engine(service, []))
        assert len(ids(service)) == 4
        for job_id in ids(service):
            assert service.job(job_id).result()[0].data.evs.shape == (2, 1)

    @pytest.mark.parametrize("status_code", [400, 401, 403, 404, 409])
    def test_a_refusal_is_not_repeated(self, service, data, status_code):
        service.hold = {1, 2, 3}
        service.fail_result = {0: down("no", status_code)}
        slept = []
        with pytest.raises(FetchError, match=r"job \w+ could not be fetched in 1 attempt: 'no'"):
            data.send(self.engine(service, slept))
        assert slept == []
        assert service.cancelled == []

    def test_a_job_that_failed_is_not_asked_again(self, service, data):
        service.hold = {1, 2, 3}
        service.fail_result = {0: RuntimeJobFailureError("broken")}
        slept = []
        with pytest.raises(EngineError, match=r"failed on job 1 of 6 .*broken"):
            data.send(self.engine(service, slept))
        assert slept == []
        assert service.cancelled == ids(service)[1:]

    def test_an_interrupt_while_waiting_cancels(self, service, data):
        service.hold = {1, 2, 3}
        service.fail_result = {0: down()}

        def interrupt(seconds):
            raise KeyboardInterrupt

        engine = self.engine(service, [])
        engine._destination = replace(engine.destination, fetch=runtime.retrying_fetch(interrupt))
        with pytest.raises(KeyboardInterrupt):
            data.send(engine)
        assert service.cancelled == ids(service)[1:]

    def test_devices_fetch_this_way(self, service, data, monkeypatch):
        slept = []
        monkeypatch.setattr(runtime.time, "sleep", slept.append)
        engine = engine_for(service)
        service.fail_result = {0: [down()]}
        data.send(engine)
        assert 2 in slept


class TestTimeLimits:
    def send_in_vain(self, service, engine, data):
        service.fail_result = {0: OSError("not executed")}
        with pytest.raises(EngineError, match="not executed"):
            data.send(engine)

    def test_of_every_job(self, service, data):
        """One and a half times what is predicted, in whole seconds."""
        engine = engine_for(service, shots=100_000, limits=JobLimits(max_rows=4))
        engine.prepare(SPEC)
        self.send_in_vain(service, engine, Data(torch.Generator().manual_seed(1), count=5))
        shot = engine.prepare(SPEC).times.total()
        rows = [job.program.items[0].size() for job in service.jobs_posted]
        assert rows == [3, 4, 3]
        posted = [job.max_execution_time for job in service.jobs_posted]
        assert posted == [math.ceil(1.5 * (2 + m * 100_000 * shot)) for m in rows]
        assert min(posted) > 100

    def test_is_the_services_longest(self, service, data):
        engine = engine_for(service, shots=9_000_000, limits=JobLimits())
        self.send_in_vain(service, engine, data)
        assert engine.total_predicted_qpu_seconds * 1.5 > 10800
        assert [job.max_execution_time for job in service.jobs_posted] == [10800]

    def test_the_users_own(self, service, data):
        engine = engine_for(service, options={"max_execution_time": 301})
        data.send(engine)
        data.send(engine)
        assert [job.max_execution_time for job in service.jobs_posted] == [301, 301]

    def test_none_where_the_time_is_not_known(self, service, data):
        assert engine_for(service, options=PEC).forecast(SPEC, 3).qpu_seconds is None
        destination = replace(
            runtime.device(service.backend("ibm_manila")),
            cost=lambda prepared, shots: JobCost(shots_per_row=shots),
        )
        engine = EstimatorEngine(shots=64, _destination=destination)
        data.send(engine)
        assert [job.max_execution_time for job in service.jobs_posted] == [None]
        assert engine.total_predicted_qpu_seconds == 0
        assert engine.last_report.predicted_qpu_seconds is None

    @pytest.mark.parametrize(
        ("budget", "limit"), [(None, None), (100, 100), (100.9, 100), (0.5, 1), (3600.0, 3600)]
    )
    def test_of_a_session(self, service, data, budget, limit):
        for mode, expected in (("session", limit), ("batch", None)):
            destination = runtime.device(
                service.backend("ibm_manila"), mode=mode, max_qpu_seconds=budget
            )
            with EstimatorEngine(shots=64, _destination=destination) as engine:
                data.send(engine)
            assert service.sessions[-1].max_time == expected

    def test_of_the_engines_budget(self, service, data):
        with engine_for(service, mode="session", max_qpu_seconds=77) as engine:
            data.send(engine)
            data.send(engine)
        (session,) = service.sessions
        assert session.max_time == 77

    def test_time_that_is_not_known_is_no_budget(self, service, data):
        engine = engine_for(service, options=PEC, max_qpu_seconds=1e6)
        with pytest.raises(BudgetError, match="with these options is not known; nothing was sent"):
            data.send(engine)
        assert service.num_posts == 0


PEC = {"resilience": {"pec_mitigation": True}}
TREX = {"measure_mitigation": True}


class TestCosts:
    """Costs against computation by hand: ibm_manila, one layer, 1000 shots."""

    def found(self, service, *, shots=1000, name="ibm_manila", **options):
        engine = engine_for(service, name, shots=shots, **options)
        prepared = engine.prepare(SPEC)
        return prepared.times, engine.destination.cost(prepared, shots)

    @pytest.mark.parametrize(
        ("options", "per_row", "per_job"),
        [
            ({}, 1000, 0),
            ({"twirling": {"enable_gates": True, "num_randomizations": 7}}, 7 * 143, 0),
            ({"twirling": {"enable_measure": True, "shots_per_randomization": 30}}, 34 * 30, 0),
            # TREX twirls the measurement: by default in randomizations of at least 64 shots.
            ({"resilience": TREX}, 16 * 64, 16 * 64),
            (
                {
                    "resilience": {**TREX, "measure_noise_learning": {"num_randomizations": 5}},
                    "twirling": {"num_randomizations": 10},
                },
                10 * 100,
                5 * 100,
            ),
            (
                {"resilience": {"zne_mitigation": True, "zne": {"noise_factors": (1, 2, 4, 5)}}},
                4 * 1000,
                0,
            ),
        ],
        ids=["plain", "gates", "measurements", "TREX", "learning", "ZNE"],
    )
    def test_shots(self, service, options, per_row, per_job):
        _, cost = self.found(service, options=options)
        assert (cost.shots_per_row, cost.shots_per_job) == (per_row, per_job)

    def test_plain(self, service):
        times, cost = self.found(service)
        assert times.rep_delay == service.backend("ibm_manila").default_rep_delay
        assert cost.seconds_per_shot == pytest.approx(
            times.rep_delay + times.reset + times.circuit, rel=1e-12
        )
        assert cost.seconds(6) == pytest.approx(2 + 6000 * cost.seconds_per_shot)

    @pytest.mark.parametrize(
        ("execution", "delay", "resets"),
        [
            ({"rep_delay": 1e-4}, 1e-4, 1),
            ({"init_qubits": False}, None, 0),
            ({"rep_delay": 5e-5, "init_qubits": False}, 5e-5, 0),
        ],
    )
    def test_settings_of_a_shot(self, service, execution, delay, resets):
        times, cost = self.found(service, options={"execution": execution})
        delay = times.rep_delay if delay is None else delay
        expected = delay + resets * times.reset + times.circuit
        assert cost.seconds_per_shot == pytest.approx(expected, rel=1e-12)

    @pytest.mark.parametrize(("factors", "mean"), [((1, 3), 2.0), ((1, 3, 5), 3.0), ("auto", 3.0)])
    def test_folded_gates_take_longer(self, service, factors, mean):
        options = {"resilience": {"zne_mitigation": True, "zne": {"noise_factors": factors}}}
        times, cost = self.found(service, options=options)
        expected = times.rep_delay + times.reset + mean * times.circuit
        assert cost.seconds_per_shot == pytest.approx(expected, rel=1e-12)
        assert cost.shots_per_row == 1000 * (3 if factors == "auto" else len(factors))

    def test_what_is_not_known(self, service):
        """What probabilistic error cancellation takes depends on the noise."""
        _, cost = self.found(service, options=PEC)
        assert cost.seconds(1) is cost.seconds_per_shot is None

    def test_a_snapshot_is_priced_as_its_device(self, service):
        for options in ({}, {"resilience": {"zne_mitigation": True}}):
            _, device = self.found(service, options=options)
            engine = EstimatorEngine.from_backend("fake_manila", shots=1000, options=options)
            local = engine.destination.cost(engine.prepare(SPEC), 1000)
            assert local.seconds(5) == pytest.approx(device.seconds(5), rel=1e-9)


class TestOldSnapshots:
    """Their u3 takes parameters and numbers together, which IBM's Estimator cannot."""

    @pytest.mark.parametrize("name", ["fake_almaden", *thorough("fake_cambridge")])
    def test_sample_the_exact_noisy_values(self, data, name):
        """4096 shots: five standard errors of at most 1/64 for 12 values, 7e-6 false alarms."""
        exact = data.send(EstimatorEngine.from_backend(name, precision=0))
        assert 0.005 < float((exact - data.exact).abs().max()) < 0.5
        engine = EstimatorEngine.from_backend(name, seed=3)
        found = data.send(engine)
        assert float((found - exact).abs().max()) < 5 / 64
        assert engine.last_report.shots == 4096
        assert 0 < engine.last_report.max_std <= 1.01 / 64
        again = EstimatorEngine.from_backend(name, seed=3)
        assert torch.equal(data.send(again), found)
        assert not torch.equal(data.send(again), found)

    @pytest.mark.parametrize(
        "options", [{"resilience": 1}, {"options": {"twirling": {"enable_gates": True}}}], ids=str
    )
    def test_have_no_mitigation(self, data, options):
        engine = EstimatorEngine.from_backend("fake_almaden", **options)
        with pytest.raises(EngineError, match=r"fake_almaden has gates such as u3.*newer device"):
            data.send(engine)


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"colour": 1}, "Option 'colour' of the Estimator: Extra inputs"),
            ({"twirling": {"colour": 1}}, "Option 'twirling.colour' of the Estimator"),
            ({"twirling": {"num_randomizations": -1}}, "Option 'twirling.num_randomiz.*"),
            ({"max_execution_time": "long"}, "Option 'max_execution_time.*got 'long'"),
            ({"resilience_level": 1}, "Give the resilience level as resilience"),
            ({"default_shots": 5}, r"Give shots=... or precision=..., not default_shots in opt"),
            ({"default_precision": 0.1}, r"Give shots=.* not default_precision in options"),
            ({"simulator": {"seed_simulator": 1}}, r"Give seed=..., not simulator.seed_simul"),
            (
                {"twirling": {"num_randomizations": 4, "shots_per_randomization": 8}},
                r"ignores the shots that are asked for; set one of them at most",
            ),
        ],
    )
    def test_are_checked(self, service, options, message):
        for backend in ("fake_manila", "ibm_manila", "aer"):
            extra = {"service": service} if backend == "ibm_manila" else {}
            with pytest.raises(ValueError, match=message):
                EstimatorEngine.from_backend(
                    backend, resilience=1, options=options, shots=100, **extra
                )
        assert service.num_posts == 0

    def test_of_a_simulator_for_a_device(self, service):
        with pytest.raises(ValueError, match="simulator in options has no effect on a real device"):
            engine_for(service, options={"simulator": {"angle_decimals": 3}})

    def test_angles_are_not_rounded_unless_asked_for(self):
        coarse = {"simulator": {"angle_decimals": 2}}
        for options, decimals in [({}, 12), (coarse, 2)]:
            engine = EstimatorEngine.from_backend("fake_manila", options=options)
            estimator = engine.destination.connect(engine.prepare(SPEC))
            assert estimator.options.simulator.angle_decimals == decimals

    def test_what_the_user_gave_is_left_alone(self, service, data):
        given = {"twirling": {"enable_gates": True}}
        engine = EstimatorEngine.from_backend(
            "fake_manila", resilience=1, options=given, shots=64, seed=1
        )
        data.send(engine)
        assert given == {"twirling": {"enable_gates": True}}
        assert engine.last_report.about["options"] == given


class TestSnapshots:
    def test_names(self):
        found = runtime.fake_devices()
        assert {"fake_torino", "fake_fez", "fake_manila", "fake_sherbrooke"} <= set(found)
        assert list(found) == sorted(found)
        assert all(issubclass(kind, FakeBackendV2) for kind in found.values())
        assert is_fake(find_backend("fake_manila"))
        assert not is_ibm(find_backend("fake_manila"))

    @pytest.mark.parametrize("mode", ["job", "batch", "session"])
    def test_take_every_mode(self, data, mode):
        with EstimatorEngine.from_backend("fake_manila", mode=mode, seed=1) as engine:
            found = data.send(engine)
        assert float((found - data.exact).abs().max()) < 0.3
        assert engine.last_report.about["mode"] == "local"

    @pytest.mark.parametrize("backend", [FakeManilaV2(), FakeTorino()], ids=["manila", "torino"])
    def test_sample_the_exact_noisy_values(self, data, backend):
        """4096 shots: five standard errors of at most 1/64 for 12 values, 7e-6 false alarms."""
        exact = data.send(EstimatorEngine.from_backend(backend, precision=0))
        assert 0.005 < float((exact - data.exact).abs().max()) < 0.3
        engine = EstimatorEngine.from_backend(backend, seed=3)
        found = data.send(engine)
        assert float((found - exact).abs().max()) < 5 / 64
        assert engine.last_report.shots == 4096

    def test_readout_mitigation_works(self, data):
        """Level 1 undoes a readout error of 10 %; its bound is 1.25 times that of level 0, and TREX
        is itself measured with as many shots."""
        noise = NoiseModel()
        noise.add_all_qubit_readout_error(ReadoutError([[0.9, 0.1], [0.1, 0.9]]))
        raw, mitigated = (
            EstimatorEngine.from_backend(
                "aer", noise_model=noise, resilience=level, shots=20_000, seed=2
            )
            for level in (0, 1)
        )
        error = (data.send(mitigated) - data.exact).abs().max()
        # 2 % is what the client's TREX leaves at 10 %: it rescales by exp(2p), not 1/(1 - 2p).
        assert float(error) < 5 * 2 * 1.25 / math.sqrt(20_000) + 0.023
        torch.testing.assert_close(data.send(raw), 0.8 * data.exact, rtol=0, atol=1e-12 + 5 / 141)

    def test_seeds(self, data):
        def values(seed, **options):
            engine = EstimatorEngine.from_backend("fake_manila", shots=100, seed=seed, **options)
            return [data.send(engine) for _ in range(2)]

        for options in ({}, {"resilience": 1}):
            first = values(1, **options)
            assert all(map(torch.equal, values(1, **options), first))
            assert not torch.equal(values(2, **options)[0], first[0])
            assert not torch.equal(*first)
        assert not torch.equal(values(None)[0], values(None)[0])


def test_default_shots():
    assert runtime.default_shots(runtime.estimator_options(0)) == 4096
