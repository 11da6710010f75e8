"""The real client against the stand-in while nothing goes wrong."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from posting import collect_and_post
from processes import elsewhere
from qiskit import QuantumCircuit
from qiskit.quantum_info import SparsePauliOp
from qiskit_ibm_runtime import Batch, QiskitRuntimeService, Session
from qiskit_ibm_runtime.exceptions import RuntimeJobFailureError
from qiskit_ibm_runtime.executor_estimator import Estimator
from qiskit_ibm_runtime.fake_provider import FakeFez
from tiers import thorough

from hardware_runs.standin import Remote, Rules, Standin
from hardware_runs.standin import __main__ as command

ROOT = Path(__file__).parents[3]
MODES = {"job": lambda backend: backend, "batch": Batch, "session": Session}


def evs(job):
    return job.result()[0].data.evs


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("level", [0, 1])
def test_estimator_in_every_mode(start, send, mode, level):
    standin = start()
    backend = QiskitRuntimeService().backend("ibm_manila")
    place = MODES[mode](backend)
    job = send(place, level, rows=2, shots=4096)
    assert job.status() == "DONE"
    angles = np.linspace(0.1, 2.0, 6).reshape(2, 3)
    # The pair's parity is lost to the second qubit alone: <X> of it is 0 before its rotation.
    exact = [np.cos(angles[:, 0]), np.cos(angles[:, 0]) * np.cos(angles[:, 2])]
    np.testing.assert_allclose(evs(job), exact, atol=0.08)
    if mode == "job":
        assert job.session_id is None
    else:
        details = place.details()
        assert job.session_id == place.session_id == details["id"]
        assert details["mode"] == {"batch": "batch", "session": "dedicated"}[mode]
        assert place.status() == "In progress, accepting new jobs"
        place.close()
        assert place.status() == "Closed"
    (record,) = standin.records()["jobs"]
    assert record["session_id"] == job.session_id
    assert record["num_executions"] == 4096 * (2 + level)  # readout mitigation: one row more
    assert record["tags"] == ["chunk"]


def test_noise_is_that_of_the_device(start):
    """Without noise it would be -1."""
    start(noisy=True)
    backend = QiskitRuntimeService().backend("ibm_lagos")
    circuit = QuantumCircuit(7)
    circuit.x(0)
    job = Estimator(backend, {"resilience_level": 0}).run([(circuit, SparsePauliOp("IIIIIIZ"))])
    assert -0.98 < evs(job) < -0.5


@pytest.mark.parametrize(
    ("name", "width", "noisy"), [("ibm_torino", 133, False), *thorough(("ibm_fez", 156, True))]
)
def test_wide_device_runs_without_noise(start, name, width, noisy):
    """With noise, no value would be exactly 1 or -1."""
    start(noisy=noisy)
    backend = QiskitRuntimeService().backend(name)
    assert backend.num_qubits == width
    circuit = QuantumCircuit(width)
    circuit.x(5)
    observables = [SparsePauliOp.from_sparse_list([("Z", [q], 1)], width) for q in (5, width - 1)]
    options = {"resilience_level": 0, "default_shots": 512}
    job = Estimator(backend, options).run([(circuit, observables)])
    assert evs(job).tolist() == [-1, 1]


def test_circuit_that_is_not_native_fails_as_a_job(start):
    """The client does not look; the service does, and charges nothing."""
    start()
    backend = QiskitRuntimeService().backend("ibm_manila")
    circuit = QuantumCircuit(5)
    circuit.cz(0, 1)
    job = Estimator(backend).run([(circuit, SparsePauliOp("IIIIZ"))])
    assert job.status() == "ERROR"
    with pytest.raises(RuntimeJobFailureError, match="instruction cz on qubits"):
        job.result()
    assert job.usage() == 0


def test_devices(start):
    start()
    service = QiskitRuntimeService()
    names = {backend.name for backend in service.backends(simulator=False)}
    assert {"ibm_manila", "ibm_lagos", "ibm_jakarta", "ibm_torino", "ibm_fez"} <= names
    fractional = service.backend("ibm_fractional", use_fractional_gates=True)
    assert "rzz" in fractional.target.operation_names


def test_devices_are_those_of_the_snapshots(start):
    """Dates come in UTC: the client takes them for that, whatever offset they have."""
    start()
    backend = QiskitRuntimeService().backend("ibm_fez")
    found, snapshot = backend.properties(), FakeFez().properties()
    assert found.last_update_date == snapshot.last_update_date
    assert found.qubit_property(7)["T1"] == snapshot.qubit_property(7)["T1"]
    assert backend.target.dt == FakeFez().target.dt


@pytest.mark.parametrize("level", [0, 1, pytest.param(2, marks=pytest.mark.slow)])
def test_identical_jobs_give_identical_bits(start, send, level):
    """Whenever they are posted, between whichever others, with whatever tags, in any mode."""
    standin = start(noisy=level == 2)  # extrapolation warns where nothing scatters
    backend = standin.service().backend("ibm_manila")
    first = send(backend, level, tags=["one"])
    other = send(backend, level, shots=129 + 64 * level)
    again = send(Batch(backend), level, tags=["two"])
    assert np.array_equal(evs(again), evs(first))  # executed in another order than posted
    a, b, c = standin.records()["jobs"]
    assert a["program_sha256"] == c["program_sha256"] != b["program_sha256"]
    assert other.result()[0].data.evs.shape == (2, 1)


def test_another_row_is_another_program(start, send):
    standin = start()
    backend = standin.service().backend("ibm_manila")
    for rows in (1, 2):
        send(backend, rows=rows)
    assert len({job["program_sha256"] for job in standin.records()["jobs"]}) == 2


def test_another_process_collects_and_posts_the_same(start, send):
    """Nothing but the environment connects it; parameters' ids differ, what is executed not."""
    standin = start(noisy=True)
    batch = Batch(standin.service().backend("ibm_manila"))
    job = send(batch, 1)
    said = elsewhere(collect_and_post, job.job_id())
    assert said["found"] == [job.job_id()]
    assert said["tags"] == ["chunk"]
    assert said["evs"] == [evs(job).tolist()] * 2
    first, _, last = standin.records()["jobs"]
    assert first["program_sha256"] == last["program_sha256"]
    assert first["posted_sha256"] != last["posted_sha256"]
    assert standin.records()["tag_lookups"] == [["chunk"]]


def served(*arguments):
    process = subprocess.Popen(
        [sys.executable, "-m", "hardware_runs.standin", "--json", "--no-noise", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    return process, json.loads(process.stdout.readline())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_as_soon_as_it_speaks(number):
    process, _ = served()
    try:
        process.send_signal(number)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_started_again_it_knows_its_jobs(tmp_path, send):
    path = tmp_path / "standin.sqlite"
    with Standin(Rules(noisy=False), path=path) as first:
        first.advance(1000.0)
        service = first.service()
        batch = Batch(service.backend("ibm_manila"))
        job = send(batch)
        (before,) = first.records()["jobs"]
        port = int(first.url.rpartition(":")[2])
    with Standin(Rules(noisy=False), path=path, port=port) as second:
        # The same client goes on: same address, its access token is still good.
        assert evs(job).shape == (2, 1)
        assert second.records()["jobs"] == [before]
        (found,) = service.jobs(session_id=batch.session_id)
        assert found.job_id() == job.job_id()
        assert send(batch).job_id() != job.job_id()


@pytest.mark.slow
def test_killed_and_started_again_it_knows_its_jobs(tmp_path, monkeypatch, send):
    path = tmp_path / "standin.sqlite"
    process, told = served("--file", path)
    try:
        for name, value in told["environment"].items():
            monkeypatch.setenv(name, value)
        remote = Remote(told["url"])
        remote.advance(1000.0)
        service = QiskitRuntimeService()
        batch = Batch(service.backend("ibm_manila"))
        job = send(batch)
        (before,) = remote.records()["jobs"]
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        port = told["url"].rpartition(":")[2]
        slow = '{"kind": "queue", "seconds": 5}'
        process, told = served("--file", path, "--port", port, "--fault", slow)
        # The same client goes on: same address, its access token is still good.
        assert evs(job).shape == (2, 1)
        records = remote.records()
        assert records["jobs"] == [before]
        assert records["num_posts"] == 1
        assert [found.job_id() for found in service.jobs(session_id=batch.session_id)] == [
            job.job_id()
        ]
        late = send(batch)
        assert late.job_id() != job.job_id()
        assert late.status() == "QUEUED"
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize(("noise", "number"), [(True, signal.SIGTERM), (False, signal.SIGINT)])
def test_served_in_the_foreground(monkeypatch, noise, number):
    told = []

    def echo(line):
        """Stopped before it has said everything, it says the rest."""
        told.append(line)
        if len(told) == 1:
            signal.raise_signal(number)

    outer = signal.getsignal(number)
    monkeypatch.setattr(command.typer, "echo", echo)
    command.serve(port=0, noise=noise)
    assert signal.getsignal(number) == outer
    assert told[0] == "export QISKIT_IBM_CHANNEL=ibm_quantum_platform"
    assert any(line.startswith("export IAM_URL=http://127.0.0.1:") for line in told)
    assert "no job leaves this machine" in told[-1]
    wide = "# ibm_fez and ibm_torino are too wide to simulate with noise: they run without."
    assert (wide in told) == noise


def test_threads_post_at_once(start, send):
    """Each its own job; what they give does not depend on which came first."""
    standin = start()
    backend = standin.service().backend("ibm_manila")
    with ThreadPoolExecutor(4) as pool:
        jobs = list(pool.map(lambda shots: send(backend, shots=shots), [64, 65, 66, 64]))
        found = list(pool.map(evs, jobs))
    assert len({job.job_id() for job in jobs}) == 4
    assert np.array_equal(found[0], found[3])
    posted = {job["job_id"]: job["shots"] for job in standin.records()["jobs"]}
    assert [posted[job.job_id()] for job in jobs] == [64, 65, 66, 64]


def test_listing_pages_filters_and_tags(start, send):
    standin = start()
    service = standin.service()
    manila, lagos = (service.backend(name) for name in ("ibm_manila", "ibm_lagos"))
    # The client asks for 20 at a time.
    jobs = [send(manila, tags=["all", f"n{i}"]) for i in range(21)]
    other = send(lagos, tags=["all"], shots=64)
    everything = service.jobs(job_tags=["all"], limit=None)
    assert [job.job_id() for job in everything] == [
        job.job_id() for job in reversed([*jobs, other])
    ]
    assert len(service.jobs(job_tags=["all"])) == 10  # the client's own default
    (found,) = service.jobs(job_tags=["all", "n7"], limit=None)
    assert found.job_id() == jobs[7].job_id()
    assert service.jobs(job_tags=["all", "n7", "n8"], limit=None) == []
    (found,) = service.jobs(backend_name="ibm_lagos")
    assert found.job_id() == other.job_id()
    assert service.jobs(pending=True) == []
    jobs[0].update_tags(["moved"])
    assert [job.job_id() for job in service.jobs(job_tags=["moved"])] == [jobs[0].job_id()]
    service.delete_job(jobs[0].job_id())
    assert service.jobs(job_tags=["moved"]) == []
    (first,) = service.jobs(limit=1, descending=False)
    assert first.job_id() == jobs[1].job_id()


def test_usage_follows_the_formula(start, send):
    """2 s + executions x (repetition delay + reset + circuit); 250 us of delay by default."""
    standin = start(usage_factor=1.5)
    backend = standin.service().backend("ibm_manila")
    job = send(backend, rows=3, shots=1000)
    target = backend.target
    circuit = target["cx"][(0, 1)].duration + target["measure"][(0,)].duration
    each = 250e-6 + target["reset"][(0,)].duration + circuit
    forecast = job.usage_estimation["quantum_seconds"]
    assert forecast == pytest.approx(2 + 3000 * each, rel=0.01)
    assert job.usage() == pytest.approx(1.5 * forecast)
    slow = send(backend, rows=3, shots=1000, execution={"rep_delay": 500e-6})
    assert slow.usage_estimation["quantum_seconds"] - forecast == pytest.approx(3000 * 250e-6)


def test_time_passes_by_its_clock_only(start, send):
    standin = start(queue_seconds=3600, run_seconds=60)
    job = send(standin.service().backend("ibm_manila"))
    assert job.status() == "QUEUED"
    assert job.metrics()["timestamps"]["running"] is None
    assert job.usage() == 0
    standin.advance(3600)
    assert job.status() == "RUNNING"
    standin.advance(60)
    assert job.status() == "DONE"
    assert job.usage() > 2
    assert job.metrics()["timestamps"]["finished"] == "2027-01-15T09:01:00Z"


def test_only_loopback():
    for host in ("0.0.0.0", "192.168.0.1"):
        with pytest.raises(ValueError, match="loopback"):
            Standin(host=host)


def test_environment_is_put_back(monkeypatch):
    monkeypatch.setenv("IAM_URL", "https://somewhere")
    monkeypatch.delenv("QISKIT_IBM_TOKEN", raising=False)
    with Standin(Rules()) as standin:
        assert os.environ["IAM_URL"] == standin.url
        assert os.environ["QISKIT_IBM_TOKEN"]
    assert os.environ["IAM_URL"] == "https://somewhere"
    assert "QISKIT_IBM_TOKEN" not in os.environ


def test_never_started_it_stops(tmp_path):
    standin = Standin(path=tmp_path / "made" / "standin.sqlite")
    standin.stop()
