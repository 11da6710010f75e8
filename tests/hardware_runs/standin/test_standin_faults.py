"""What each fault does to the real client: exceptions, and how often it posts."""

import zlib

import pytest
from qiskit.providers.exceptions import QiskitBackendNotFoundError
from qiskit_ibm_runtime import Batch, QiskitRuntimeService, Session
from qiskit_ibm_runtime.accounts import InvalidAccountError
from qiskit_ibm_runtime.api.exceptions import RequestsApiError
from qiskit_ibm_runtime.exceptions import (
    IBMInputValueError,
    IBMNotAuthorizedError,
    IBMRuntimeError,
    RuntimeInvalidStateError,
    RuntimeJobFailureError,
    RuntimeJobMaxTimeoutError,
    RuntimeJobNotFound,
)
from tiers import thorough

from hardware_runs.standin import Fault, Remote, programs
from qpc_qiskit.backends import runtime
from qpc_qiskit.backends.named import find_backend
from qpc_qiskit.backends.survey import best_patch, ibm_summaries
from qpc_qiskit.errors import BackendError

pytestmark = pytest.mark.usefixtures("no_backoff")


@pytest.fixture
def opened(start):
    """opened(rules..., faults=[...]) -> a stand-in, its service and a small backend."""

    def opened(**given):
        standin = start(**given)
        service = standin.service()
        return standin, service, service.backend("ibm_manila")

    return opened


def posts(standin):
    """POSTs tried, jobs accepted."""
    records = standin.records()
    return records["num_posts"], len(records["jobs"])


def status_of(error):
    """The client drops the status from the text, but not from the context."""
    return error.value.__context__.status_code


# Posting.


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_short_burst_is_survived_by_the_client(opened, send, status):
    standin, _, backend = opened(faults=[Fault("status", status=status, times=3)])
    assert send(backend).result()
    assert posts(standin) == (4, 1)


def test_long_burst(opened, send):
    standin, _, backend = opened(faults=[Fault("status", status=500, times=6)])
    with pytest.raises(IBMRuntimeError, match="too many 500 error responses") as error:
        send(backend)
    assert status_of(error) == -1
    assert posts(standin) == (6, 0)
    assert send(backend).status() == "DONE"


def test_gateway_timeout_after_acceptance_duplicates(opened, send):
    """The client posts again by itself: two jobs with one tag."""
    standin, service, backend = opened(faults=[Fault("status_after", status=504)])
    job = send(backend, tags=["chunk-1"])
    assert posts(standin) == (2, 2)
    found = service.jobs(job_tags=["chunk-1"], limit=None)
    newest, _ = found
    assert newest.job_id() == job.job_id()
    first, second = standin.records()["jobs"]
    assert first["posted_sha256"] == second["posted_sha256"]


def test_connection_cut_after_acceptance(opened, send):
    standin, service, backend = opened(faults=[Fault("cut_after")])
    with pytest.raises(IBMRuntimeError, match="Connection aborted") as error:
        send(backend, tags=["chunk-1"])
    assert status_of(error) == -1
    assert posts(standin) == (1, 1)  # not posted again
    (job,) = service.jobs(job_tags=["chunk-1"], limit=None)
    assert job.result()


def test_connection_cut_before_acceptance(opened, send):
    """Not to be told from the one above, but by the listing."""
    standin, service, backend = opened(faults=[Fault("cut")])
    with pytest.raises(IBMRuntimeError, match="Connection aborted") as error:
        send(backend, tags=["chunk-1"])
    assert status_of(error) == -1
    assert posts(standin) == (1, 0)
    assert service.jobs(job_tags=["chunk-1"], limit=None) == []


def test_lagging_listing(opened, send):
    lag = Fault("lag", seconds=45, times=None)
    standin, service, backend = opened(faults=[Fault("cut_after"), lag])
    with pytest.raises(IBMRuntimeError):
        send(backend, tags=["chunk-1"])
    assert service.jobs(job_tags=["chunk-1"], limit=None) == []
    standin.advance(44)
    assert service.jobs(job_tags=["chunk-1"], limit=None) == []
    standin.advance(1)
    assert len(service.jobs(job_tags=["chunk-1"], limit=None)) == 1
    assert standin.records()["tag_lookups"] == [["chunk-1"]] * 3


def test_too_many_requests(opened, send):
    standin, _, backend = opened(faults=[Fault("status", status=429, code=1202)])
    with pytest.raises(IBMRuntimeError, match="429") as error:
        send(backend)
    assert status_of(error) == 429
    assert posts(standin) == (1, 0)  # not posted again


def test_five_posts_a_minute(opened, send):
    standin, _, backend = opened(posts_per_minute=5)
    for _ in range(5):
        send(backend)
    with pytest.raises(IBMRuntimeError, match="At most 5 jobs a minute") as error:
        send(backend)
    assert status_of(error) == 429
    standin.advance(60)
    send(backend)
    assert posts(standin) == (7, 6)


def test_usage_limit_reached(opened, send):
    standin, service, backend = opened(usage_limit_seconds=3)
    send(backend)
    assert 0 < service.usage()["usage_remaining_seconds"] < 1
    send(backend)
    with (
        pytest.warns(UserWarning, match="usage limit"),
        pytest.raises(IBMRuntimeError, match="409") as error,
    ):
        send(backend)
    assert status_of(error) == 409
    assert posts(standin) == (3, 2)
    assert service.usage()["usage_remaining_seconds"] == 0


# How jobs end.


def test_failed_by_the_system(opened, send):
    fault = Fault("failed", code=6053, message="Internal compiler error")
    _, _, backend = opened(faults=[fault])
    job = send(backend)
    assert job.status() == "ERROR"
    with pytest.raises(RuntimeJobFailureError, match="Error code 6053; Internal compiler error"):
        job.result()
    assert "Internal compiler error" in job.error_message()
    assert job.usage() == 0


def test_failed_by_the_user_is_charged(opened, send):
    _, _, backend = opened(faults=[Fault("failed", factor=0.5)])
    job = send(backend)
    assert job.errored()
    assert job.usage() == pytest.approx(job.usage_estimation["quantum_seconds"] / 2)


def test_cancelled_by_somebody_else(opened, send):
    _, _, backend = opened(faults=[Fault("cancelled")])
    job = send(backend)
    assert job.status() == "CANCELLED"
    with pytest.raises(RuntimeInvalidStateError, match="was cancelled"):
        job.result()
    assert job.usage() == 0


def test_cancelling(opened, send):
    standin, _, backend = opened(queue_seconds=10, run_seconds=10)
    waiting, running, done = (send(backend) for _ in range(3))
    waiting.cancel()
    assert waiting.status() == "CANCELLED"
    standin.advance(15)
    standin.cancel_job(running.job_id())
    assert running.status() == "CANCELLED"
    assert running.usage() == pytest.approx(running.usage_estimation["quantum_seconds"] / 2)
    standin.advance(10)
    with pytest.raises(RuntimeInvalidStateError, match="cannot be cancelled"):
        done.cancel()
    assert done.status() == "DONE"
    assert standin.records()["cancels"] == [waiting.job_id()]


def test_ran_too_long(opened, send):
    _, _, backend = opened(faults=[Fault("too_long", skip=1)])
    assert send(backend, max_execution_time=30).status() == "DONE"
    job = send(backend, max_execution_time=30)
    assert job.status() == "ERROR"
    with pytest.raises(RuntimeJobMaxTimeoutError, match="1305"):
        job.result()
    assert job.usage() == 30


def test_more_used_than_forecast_is_stopped_at_the_cap(opened, send):
    _, _, backend = opened(faults=[Fault("usage", factor=5, times=2)])
    free = send(backend)
    assert free.usage() == pytest.approx(5 * free.usage_estimation["quantum_seconds"])
    capped = send(backend, max_execution_time=4)
    with pytest.raises(RuntimeJobMaxTimeoutError, match="maximum execution time of 4 seconds"):
        capped.result()
    assert capped.usage() == 4
    assert send(backend, max_execution_time=4).result()


def usage_of(job):
    return job.metrics()["usage"]


def test_usage_that_is_told_later(opened, send):
    """By the client's own `usage`, a job that ended is free until then."""
    fault = Fault("pending_usage", seconds=60)
    standin, _, backend = opened(run_seconds=10, faults=[fault])
    job = send(backend)
    forecast = job.usage_estimation["quantum_seconds"]
    waiting = {"qpu_charge_time_seconds": 0, "status": "pending"}
    assert usage_of(job) == waiting
    standin.advance(69)
    assert job.status() == "DONE"
    assert usage_of(job) == waiting
    assert job.usage() == job.usage(partial=True) == 0
    standin.advance(1)
    assert usage_of(job) == {"qpu_charge_time_seconds": forecast, "status": "complete"}
    assert job.usage() == forecast
    other = send(backend)
    standin.advance(10)
    assert usage_of(other)["status"] == "complete"


def test_usage_that_is_never_told(opened, send):
    """The client itself stumbles over it."""
    standin, _, backend = opened(faults=[Fault("no_usage")])
    job = send(backend)
    assert usage_of(job) is None
    with pytest.raises(AttributeError):
        job.usage()
    (record,) = standin.records()["jobs"]
    assert record["usage_seconds"] > 2
    assert send(backend).usage() > 2


def test_usage_of_what_a_closed_session_left(opened, send):
    """It ended as its session closed, not when it would have run."""
    faults = [Fault("queue", seconds=600), Fault("pending_usage", seconds=60)]
    standin, _, backend = opened(faults=faults)
    batch = Batch(backend)
    job = send(batch)
    standin.advance(5)
    standin.close_session(batch.session_id)
    closed = job.metrics()["timestamps"]["finished"]
    assert usage_of(job)["status"] == "pending"
    standin.advance(60)
    assert usage_of(job) == {"qpu_charge_time_seconds": 0, "status": "complete"}
    assert job.metrics()["timestamps"]["finished"] == closed


def test_hours_in_the_queue(opened, send):
    standin, service, backend = opened(faults=[Fault("queue", seconds=7200)])
    job = send(backend)
    standin.advance(7199)
    assert job.status() == "QUEUED"
    assert backend.status().pending_jobs == 1
    assert len(service.jobs(pending=True)) == 1
    standin.advance(1)
    assert job.result()


def test_result_too_large(opened, send):
    _, _, backend = opened(faults=[Fault("too_large")])
    with pytest.raises(RuntimeJobFailureError, match="5302"):
        send(backend).result()


def test_result_truncated(opened, send):
    """A download that ended early; the client takes it for text. The next one is whole."""
    _, _, backend = opened(faults=[Fault("truncated")])
    job = send(backend)
    with pytest.raises(TypeError, match="string indices"):
        job.result()
    assert job.result()


def test_result_corrupted(opened, send):
    """For one chunk, and for good."""
    _, service, backend = opened(faults=[Fault("corrupted", times=None, tag="chunk-2*")])
    jobs = [send(backend, tags=[tag]) for tag in ("chunk-1", "chunk-2.1", "chunk-3")]
    for job in (jobs[1], service.job(jobs[1].job_id())):
        with pytest.raises(zlib.error):
            job.result()
    assert jobs[0].result()
    assert jobs[2].result()


# Reading.


def test_reading_in_a_burst(opened, send):
    standin, service, backend = opened()
    job = send(backend)
    standin.add_fault(Fault("status", route="GET /jobs*", times=3))
    assert job.result()
    standin.add_fault(Fault("status", route="GET /jobs*", times=None))
    with pytest.raises(RequestsApiError) as raw:
        service.jobs()
    assert raw.value.status_code == -1
    with pytest.raises(IBMRuntimeError, match="Failed to retrieve job"):
        service.job(job.job_id())
    with pytest.raises(IBMRuntimeError, match="Failed to get job metadata"):
        job.usage()
    standin.clear_faults()
    assert service.job(job.job_id()).result()


def test_reading_over_a_cut_connection(opened, send):
    """GETs are sent again, unlike POSTs."""
    standin, _, backend = opened()
    job = send(backend)
    standin.add_fault(Fault("cut", route="GET /jobs/*", times=2))
    assert job.result()


def test_outage_at_the_devices_looks_like_no_device(opened, send):
    """In job mode the client lists the devices before each POST, and swallows what goes wrong."""
    standin, _, backend = opened()
    batch = Batch(backend)
    standin.add_fault(Fault("status", route="GET /backends", times=None))
    with pytest.raises(QiskitBackendNotFoundError):
        send(backend)
    assert posts(standin) == (0, 0)
    assert send(batch).result()


def test_unknown_job(opened):
    _, service, _ = opened()
    with pytest.raises(RuntimeJobNotFound, match="nothing"):
        service.job("nothing")


def test_forgotten_job(opened, send):
    """It is still listed, and nothing else is known of it."""
    standin, service, backend = opened()
    job, other = (send(backend, tags=[tag]) for tag in ("chunk-1", "chunk-2"))
    standin.add_fault(Fault("status", status=404, route="GET /jobs/*", tag="chunk-1", times=None))
    with pytest.raises(RuntimeJobNotFound, match=job.job_id()):
        service.job(job.job_id())
    with pytest.raises(RequestsApiError) as raw:
        job.result()
    assert raw.value.status_code == 404
    assert len(service.jobs(job_tags=["chunk-1"], limit=None)) == 1
    assert service.job(other.job_id()).result()


@pytest.mark.parametrize("mode", [Batch, Session])
def test_forgotten_session(opened, send, mode):
    standin, service, backend = opened()
    place = mode(backend)
    job = send(place)
    standin.add_fault(Fault("status", status=404, route="GET /sessions/*", times=None))
    with pytest.raises(RequestsApiError) as raw:
        place.details()
    assert raw.value.status_code == 404
    with pytest.raises(IBMInputValueError, match="Session not found"):
        mode.from_id(place.session_id, service)
    assert job.result()


def test_deleted_job(opened, send):
    _, service, backend = opened()
    job = send(backend)
    service.delete_job(job.job_id())
    with pytest.raises(RequestsApiError) as raw:
        job.result()
    assert raw.value.status_code == 404


# Sessions.


@pytest.mark.parametrize("mode", [Batch, Session])
def test_session_closed_as_the_job_comes(opened, send, mode):
    standin, service, backend = opened(faults=[Fault("closed_session", skip=1)])
    place = mode(backend)
    job = send(place)
    with pytest.raises(IBMRuntimeError, match="1217") as error:
        send(place)
    assert status_of(error) == 400
    assert posts(standin) == (2, 1)
    assert place.status() == "Closed"
    assert job.result()
    again = mode.from_id(place.session_id, service)
    with pytest.raises(IBMRuntimeError, match="The session is closed"):
        send(again)
    assert posts(standin) == (2, 1)  # the client itself refused


def test_batch_lives_its_time(opened, send):
    """From its first job's start; what still waits then fails."""
    late = Fault("queue", seconds=700, skip=1)
    standin, _, backend = opened(queue_seconds=100, faults=[late])
    batch = Batch(backend, max_time="10m")
    standin.advance(600)
    first, second = send(batch), send(batch)
    standin.advance(600)
    assert first.status() == "DONE"
    assert batch.status() == "In progress, accepting new jobs"
    assert batch.usage() == first.usage() > 2
    standin.advance(100)
    assert batch.status() == "Closed"
    with pytest.raises(IBMRuntimeError, match="1217"):
        send(batch)
    with pytest.raises(RuntimeJobFailureError, match="closed before the job started"):
        second.result()
    assert second.usage() == 0


def test_idle_batch_closes(opened, send):
    standin, _, backend = opened()
    batch = Batch(backend)
    assert batch.status() == "Pending"
    standin.advance(1799)
    assert send(batch).result()
    standin.advance(1799)
    assert batch.status() == "In progress, accepting new jobs"
    standin.advance(1)
    assert batch.status() == "Closed"


def test_session_costs_wall_clock(opened, send):
    standin, _, backend = opened()
    session = Session(backend)
    standin.advance(50)
    send(session)
    standin.advance(100)
    assert session.usage() == 100
    session.close()
    standin.advance(100)
    assert session.usage() == 100


def test_closed_and_cancelled_sessions(opened, send):
    """Closing lets waiting jobs run, cancelling does not."""
    standin, _, backend = opened(queue_seconds=10)
    closed, cancelled = Batch(backend), Batch(backend)
    kept, lost = send(closed), send(cancelled)
    closed.close()
    cancelled.cancel()
    assert kept.status() == "QUEUED"
    assert lost.status() == "CANCELLED"
    standin.advance(10)
    assert kept.result()


# Account.


def test_wrong_token(start):
    standin = start()
    with pytest.raises(InvalidAccountError, match="valid API token"):
        standin.service(token="w" * 44)


def test_refused_once(opened, send):
    """401 on one request; the next one is good again."""
    standin, _, backend = opened(faults=[Fault("status", status=401)])
    with pytest.raises(IBMNotAuthorizedError):
        send(backend)
    assert posts(standin) == (1, 0)
    assert send(backend).result()


def test_expired_token_needs_a_new_service(opened, send):
    """The client renews by its own clock only: it goes on with the old token.

    In job mode it looks the device up before each POST, and hides why it found none.
    """
    standin, _, backend = opened(faults=[Fault("expired_token")])
    batch = Batch(backend)
    for _ in range(2):
        with pytest.raises(IBMNotAuthorizedError):
            send(batch)
    with pytest.raises(QiskitBackendNotFoundError):
        send(backend)
    renewed = QiskitRuntimeService().backend("ibm_manila")
    assert send(renewed).result()
    assert posts(standin)[1] == 1


def test_short_token_is_renewed_by_the_client(opened, send):
    standin, _, backend = opened(token_seconds=0.5)
    send(backend).result()
    tokens = [route for route, _ in standin.records()["requests"] if "token" in route]
    assert len(tokens) >= 2
    assert all(status < 400 for _, status in standin.records()["requests"])


# Devices.


def test_calibrated_between_submit_and_collect(opened, send):
    standin, service, backend = opened(faults=[Fault("recalibrated")])
    before = backend.properties()
    job = send(backend)
    standin.advance(60)
    fresh = service.backend("ibm_manila")
    after = fresh.properties()
    assert after.last_update_date > before.last_update_date
    assert after.readout_error(0) == pytest.approx(1.25 * before.readout_error(0))
    assert after.gate_error("cx", [0, 1]) == pytest.approx(1.25 * before.gate_error("cx", [0, 1]))
    assert fresh.target["measure"][(0,)].error == after.readout_error(0)
    assert backend.properties().last_update_date == before.last_update_date  # as cached
    assert job.result()


def test_properties_of_the_time_of_a_job(opened, send):
    standin, _, backend = opened(run_seconds=5)
    before = backend.properties().last_update_date
    job = send(backend)
    standin.advance(10)
    standin.recalibrate()
    assert job.properties().last_update_date == before
    assert backend.properties(refresh=True).last_update_date > before


# The script itself.


def test_remote_sees_and_does_the_same(opened, send):
    standin, _, backend = opened()
    remote = Remote(standin.url)
    remote.add_fault(Fault("cut"))
    with pytest.raises(IBMRuntimeError):
        send(backend)
    remote.add_fault(Fault("queue", seconds=30, times=None))
    job = send(backend)
    remote.advance(30)
    remote.clear_faults()
    assert job.status() == "DONE"
    batch = Batch(backend)
    remote.close_session(batch.session_id)
    assert batch.status() == "Closed"
    remote.recalibrate()
    remote.expire_tokens()
    with pytest.raises(IBMNotAuthorizedError):
        backend.status()
    assert remote.records() == standin.records()
    with pytest.raises(ValueError, match="expected one of"):
        remote._call("shutdown")


def test_unknown_fault():
    with pytest.raises(ValueError, match="Unknown fault 'flood'; expected one of status, cut"):
        Fault("flood")


def test_faults_come_one_after_the_other(opened, send):
    """The second is not used up by what the first refused."""
    faults = [Fault("status", times=2), Fault("cut"), Fault("queue", seconds=5, skip=1)]
    standin, _, backend = opened(faults=faults)
    with pytest.raises(IBMRuntimeError, match="Connection aborted"):
        send(backend)
    assert posts(standin) == (3, 0)
    jobs = [send(backend) for _ in range(3)]
    assert [job.status() for job in jobs] == ["DONE", "QUEUED", "DONE"]


def test_own_mistakes_do_not_look_like_the_services(start, send, monkeypatch):
    """501 is not retried, and the test that caused it is told."""
    standin = start()
    backend = standin.service().backend("ibm_manila")
    monkeypatch.setattr("hardware_runs.standin.programs.decode", lambda *a, **k: 1 / 0)
    with pytest.raises(IBMRuntimeError, match="stand-in itself failed: ZeroDivisionError"):
        send(backend)
    assert "ZeroDivisionError" in standin.errors.pop()


def test_a_refused_token_is_told_where_no_device_is_found(start):
    """The client takes an error of the list of devices for an empty list."""
    standin = start()
    service = standin.service()
    standin.add_fault(Fault("status", status=401, times=None, route="GET *"))
    with pytest.raises(BackendError, match="IBM's devices: IBMNotAuthorizedError"):
        runtime.ibm_backends(service)
    with pytest.raises(BackendError, match="ibm_manila: IBMNotAuthorizedError"):
        find_backend("ibm_manila", service=service)


def test_a_device_that_is_not_there(start):
    with pytest.raises(BackendError, match="ibm_atlantis: QiskitBackendNotFoundError"):
        find_backend("ibm_atlantis", service=start().service())


# Devices as they are.


def find_broken(start, name, *qubits):
    standin = start(faults=[Fault("not_operational", times=None, qubits=qubits)])
    return find_backend(name, service=standin.service())


@pytest.mark.parametrize("name", ["ibm_manila", *thorough("ibm_torino", "ibm_fez")])
@pytest.mark.parametrize("broken", [[(0,)], [(3,)], [(0,), (1,)], [(0, 1)]], ids=str)
def test_broken_qubits_and_gates_are_not_in_the_target(start, name, broken):
    target = find_broken(start, name, *broken).target
    places = {qubits for op in target.operation_names for qubits in target[op] or () if qubits}
    for where in broken:
        assert not any(set(where) <= set(qubits) for qubits in places)
    assert target["reset"].keys() == target["measure"].keys()
    assert len(target["measure"]) == target.num_qubits - sum(len(where) == 1 for where in broken)


def test_the_best_patch_is_without_broken_qubits(start):
    best = best_patch(find_backend("ibm_lagos", service=start().service()), 3)
    other = best_patch(find_broken(start, "ibm_lagos", best.qubits[:1]), 3)
    assert not {best.qubits[0]} & set(other.qubits)


def test_a_device_all_of_whose_qubits_are_broken(start):
    backend = find_broken(start, "ibm_manila", *((qubit,) for qubit in range(5)))
    assert "no 2 connected healthy qubits: 0 of its 5" in best_patch(backend, 2).problem


def test_a_device_that_cannot_be_described_is_told_and_hides_no_other(start, monkeypatch):
    standin = start()
    properties = programs.properties

    def told(name, times):
        return properties(name, times) | ({"qubits": [[]]} if name == "ibm_manila" else {})

    monkeypatch.setattr(programs, "properties", told)
    service = standin.service()
    with pytest.raises(BackendError, match="ibm_manila: its target cannot be built from what"):
        find_backend("ibm_manila", service=service)
    monkeypatch.setattr(runtime, "QiskitRuntimeService", lambda: service)
    notes = {summary.name: summary.note for summary in ibm_summaries()}
    assert "its target cannot be built" in notes.pop("ibm_manila")
    assert len(notes) > 3
    assert not any(notes.values())
