"""Runs that go on: in another process, on another day, with other batches, on a changed device."""

import collections
import math

import pytest
import torch
from durable_runs import (
    ROUNDING,
    START,
    Clock,
    Script,
    check_paid_once,
    check_replay,
    images,
    network,
    shallow,
)
from qiskit_aer import AerSimulator
from qiskit_aer.noise import NoiseModel, depolarizing_error
from torch import nn

from hardware_runs import Rules
from hardware_runs.ledger import Ledger, RunState
from hardware_runs.standin import Fault
from qpc_qiskit import EstimatorEngine, QuantumPointwiseConv2d, use_engine
from qpc_qiskit.backends import destinations, runtime
from qpc_qiskit.errors import BackendError, EngineError, ResultsPending
from qpc_qiskit.rows.frozen import thaw
from qpc_qiskit.rows.gradients import Spsa

pytestmark = pytest.mark.usefixtures("no_backoff")
X = images(2)


def direct(model, batches, backend, **given):
    with (
        EstimatorEngine.from_backend(backend, **given) as evaluating,
        torch.no_grad(),
        use_engine(model, evaluating),
    ):
        return torch.cat([model(batch) for batch in batches])


def pending(script, match, x=X[:1], **given):
    with pytest.raises(ResultsPending, match=match):
        script.once(x, **given)


# The network.


class Twice(nn.Module):
    """Uses its layer twice."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.q = QuantumPointwiseConv2d(4, 4, generator=generator)

    def forward(self, x):
        return self.q(torch.relu(self.q(x))).flatten(1)


def test_layer_that_is_used_twice(path):
    x, model = images(5), Twice().eval()
    script = Script(path, "aer", model=model)
    values = script.once(x, 2)
    expected = direct(model, [x], "aer")
    torch.testing.assert_close(values, expected, rtol=0, atol=ROUNDING)
    for size in (5, 1, 3):
        check_replay(script, x, size, values)
    more = images(7)
    again = script.once(torch.cat([x, more[5:]]), 4)
    expected = direct(model, [x, more[5:]], "aer")
    torch.testing.assert_close(again, expected, rtol=0, atol=ROUNDING)


def test_layer_that_is_used_twice_on_a_device(broken):
    x, model = images(3), Twice().eval()
    standin, script = broken(Fault("queue", seconds=30, times=4), script={"model": model})
    values = script.finish(x, 2)
    assert len(check_paid_once(script, standin)) == 4
    for size in (1, 3):
        check_replay(script, x, size, values)
    assert standin.records()["num_posts"] == 4
    assert torch.equal(values, direct(model, x.split(2), script.backend, shots=64))


def test_model_in_training_mode(broken):
    standin, script = broken(script={"model": network().train()})
    with pytest.raises(ValueError, match=r"training mode.*Call model\.eval\(\)"):
        script.once(X)
    assert standin.records()["num_posts"] == 0
    ledger, run_id = script.ledger()
    assert ledger.state(run_id).layers == ()


# What belongs to a run.


def depolarizing(probability, gates=("rz", "sx", "x", "cx")):
    model = NoiseModel(basis_gates=list(gates))
    model.add_all_qubit_quantum_error(depolarizing_error(probability, 2), ["cx"])
    model.add_all_qubit_quantum_error(depolarizing_error(probability, 1), ["sx", "x"])
    return model


@pytest.mark.parametrize(
    ("backend", "begun", "now"),
    [
        ("aer", {"noise_model": "fake_manila"}, {}),
        ("aer", {}, {"noise_model": "fake_manila"}),
        ("aer", {"noise_model": depolarizing(0.1)}, {"noise_model": depolarizing(0.2)}),
        ("aer", {"noise_model": depolarizing(0.1)}, {}),
        (
            "aer",
            {"noise_model": depolarizing(0.1)},
            {"noise_model": depolarizing(0.1, ["ry", "rz", "sx", "x", "cx"])},
        ),
        (
            "aer",
            {"noise_model": AerSimulator(noise_model=depolarizing(0.1))},
            {"noise_model": AerSimulator(noise_model=depolarizing(0.2))},
        ),
        ("fake_manila", {"qubits": (0, 1)}, {"qubits": (1, 2)}),
        ("fake_manila", {"qubits": (0, 1)}, {}),
    ],
)
def test_options_that_change_numbers(path, backend, begun, now):
    Script(path, backend, **begun).engine()
    Script(path, backend, **begun).engine()
    with pytest.raises(
        EngineError, match=r"'run' was begun with other settings \(engine_options\)"
    ):
        Script(path, backend, **now).engine()


def test_simulators_with_other_noise(path):
    begun = AerSimulator(noise_model=depolarizing(0.1))
    Script(path, begun).engine()
    Script(path, begun).engine()
    for other in ("aer", AerSimulator(), AerSimulator(noise_model=depolarizing(0.2))):
        with pytest.raises(EngineError, match="other settings"):
            Script(path, other).engine()


def test_fractional_gates_belong_to_a_run(start, path, monkeypatch):
    """No device of the stand-in has them."""
    backend = start().service().backend("ibm_manila")
    monkeypatch.setattr(runtime, "ibm_backend", lambda *given: backend)
    Script(path, "ibm_manila", use_fractional_gates=True).engine()
    with pytest.raises(EngineError, match="other settings"):
        Script(path, "ibm_manila").engine()


def test_equal_noise_models(path):
    """Each of their errors has a random id."""
    values = Script(path, "aer", noise_model=depolarizing(0.1)).once(X[:1])
    again = Script(path, "aer", noise_model=depolarizing(0.1))
    assert torch.equal(again.once(X)[:1], values)
    with_noise = direct(network(), X.split(1), "aer", noise_model=depolarizing(0.1))
    torch.testing.assert_close(again.once(X), with_noise)


def test_option_that_cannot_be_kept(path):
    with pytest.raises(EngineError, match=r"gradients=Spsa\(.*cannot be kept.*plain values"):
        Script(path, "aer", gradients=Spsa()).engine()
    assert Ledger(path).list_runs() == ()


# A finished run.


def test_finished_run_without_its_backend(broken, logits):
    standin, script = broken(script={"mode": "batch"})
    script.backend = "ibm_manila"
    assert torch.equal(script.finish(X), logits)
    standin.stop()
    check_replay(script, X, 2, logits)
    durable = script.engine()
    assert durable.shots == 64
    with pytest.raises(BackendError, match=r"No access to ibm_manila"):
        script.once(images(3))


def test_finished_run_that_left_something_open(broken, logits, monkeypatch):
    """A batch and a duplicate: they are not closed now, and that is no reason to fail."""
    standin, script = broken(Fault("status_after", status=504), script={"mode": "batch"})
    script.backend = "ibm_manila"
    ledger = Ledger(script.path)
    with monkeypatch.context() as patch:
        patch.setattr(RunState, "jobs_to_cancel", ())
        assert torch.equal(script.finish(X, ledger=ledger), logits)
    run_id = ledger.get_run("run").id
    opened = ledger.open_session(run_id, "batch", "owner", now=START)
    ledger.record_session(opened, "another")
    assert len(Ledger(script.path).state(run_id).jobs_to_cancel) == 1
    standin.stop()
    assert torch.equal(script.once(X), logits)
    assert ledger.state(run_id).sessions[-1].closed_at is None


def test_unfinished_run_needs_its_backend(broken):
    standin, script = broken()
    script.backend = "ibm_manila"
    pending(script, "waits at 0")
    standin.stop()
    with pytest.raises(BackendError, match=r"No access to ibm_manila"):
        script.once(X[:1])


# Batches and sessions.


@pytest.mark.parametrize("mode", ["batch", "session"])
def test_session_that_the_service_has_forgotten(broken, logits, mode):
    standin, script = broken(script={"mode": mode, "max_qpu_seconds": math.inf})
    pending(script, "waits at 0")
    (session,) = standin.records()["sessions"]
    route = f"GET /sessions/{session['session_id']}"
    standin.add_fault(Fault("status", route=route, status=404, times=None))
    script.clock.advance(61)
    assert torch.equal(script.finish(X[:1]), logits[:1])
    check_paid_once(script, standin)
    assert [job["session_id"] for job in standin.records()["jobs"]] == [
        each["session_id"] for each in standin.records()["sessions"]
    ]


@pytest.mark.parametrize(("mode", "status"), [("batch", 503), ("session", 429)])
def test_session_that_cannot_be_looked_up(broken, deep_logits, mode, status):
    standin, script = broken(script={"mode": mode, "model": network()})
    pending(script, "waits at 0")
    (session,) = standin.records()["sessions"]
    script.clock.advance(61)
    standin.add_fault(Fault("status", route="GET /sessions/*", status=status, times=None))
    pending(script, rf"(?s)qpc-[\w-]+: {session['session_id']} could not be looked up")
    assert len(standin.records()["jobs"]) == 1
    standin.clear_faults()
    assert torch.equal(script.finish(X[:1]), deep_logits[:1])
    check_paid_once(script, standin)
    assert len(standin.records()["sessions"]) == 1


def test_too_many_sessions(broken, logits):
    standin, script = broken(
        Fault("status", route="POST /sessions", status=429), script={"mode": "batch"}
    )
    pending(script, r"batch: No batch on ibm_manila: .*")
    assert standin.records()["jobs"] == []
    assert torch.equal(script.finish(X[:1]), logits[:1])
    check_paid_once(script, standin)
    assert len(standin.records()["sessions"]) == 1


# A device that changes.


def circuits(ledger, run_id, number):
    """Those of a revision."""
    revision = ledger.state(run_id).revisions[number - 1]
    return [thaw(ledger.blob(run_id, number, name)) for name in revision.blobs]


def patches(script):
    """Qubits that each chunk of the first layer is sent to, and the revision of its last job."""
    ledger, run_id = script.ledger()
    found = []
    for chunk in ledger.state(run_id).chunks(layer="0"):
        attempts = ledger.state(run_id).attempts(chunk_id=chunk.id)
        revision = attempts[-1].revision if attempts else chunk.revision
        (circuit,) = circuits(ledger, run_id, revision)
        found.append((revision, circuit.placement.patch.qubits))
    return found


@pytest.fixture
def placements(monkeypatch):
    """Backends that circuits were placed on."""
    found, placed_on = [], destinations.placed_on

    def place(template, backend, *arguments, **named):
        found.append(backend.name)
        return placed_on(template, backend, *arguments, **named)

    monkeypatch.setattr(destinations, "placed_on", place)
    return found


def test_qubit_that_is_lost(broken, monkeypatch, placements):
    rules = Rules(max_in_flight=1, posts_per_minute=100)
    standin, script = broken(script={"rules": rules, "shots": 1024, "max_qpu_seconds": math.inf})
    x = images(3)
    pending(script, "waits at 0", x)
    before = patches(script)
    assert len(standin.records()["jobs"]) == 1
    assert len(set(before)) == len(placements) == 1

    lost = before[0][1][0]
    bad = frozenset({lost}), frozenset()
    monkeypatch.setattr(destinations, "faulty", lambda backend: bad)
    standin.recalibrate()
    script.backend = standin.service().backend("ibm_manila")
    values = script.finish(x)
    after = patches(script)
    assert after[0] == before[0]
    assert after[1] == after[2] != before[1]
    assert lost not in after[1][1]
    assert len(placements) == 2  # the new one is found again by every later process
    check_paid_once(script, standin)
    # 5 standard errors: two layers, each of 1024 shots, through a head with weights below 2
    with torch.no_grad():
        torch.testing.assert_close(values, script.model(x), atol=0.5, rtol=0)


def test_patch_that_is_lost(start, path, monkeypatch):
    """Rows were dealt to two patches; the one that is left runs the rest of them."""
    standin = start()
    rules = Rules(max_in_flight=1, posts_per_minute=100)
    given = {"rules": rules, "shots": 1024, "num_patches": None}
    backend = standin.service().backend("ibm_lagos")
    script = Script(path, backend, Clock(standin), shallow(), **given)
    x = images(3)
    pending(script, "waits at 0", x)
    ledger, run_id = script.ledger()
    (circuit,) = circuits(ledger, run_id, len(ledger.state(run_id).revisions))
    found = [placement.patch.qubits for placement in circuit.placements]
    assert len(found) > 1
    bad = frozenset(qubit for patch in found[1:] for qubit in patch), frozenset()
    monkeypatch.setattr(destinations, "faulty", lambda backend: bad)
    standin.recalibrate()
    script.backend = standin.service().backend("ibm_lagos")
    values = script.finish(x)
    check_paid_once(script, standin)
    with torch.no_grad():
        torch.testing.assert_close(values, script.model(x), atol=0.5, rtol=0)
    moved = [a.revision for a in ledger.state(run_id).attempts()]
    assert len(set(moved)) > 1
    for revision in set(moved[1:]) - {moved[0]}:
        for circuit in circuits(ledger, run_id, revision):
            assert not bad[0] & {
                qubit for each in circuit.placements for qubit in each.patch.qubits
            }


def test_nothing_is_placed_again(broken, logits, placements):
    """Calibrated anew, as devices are every day, and as good as it was."""
    standin, script = broken(queue_seconds=30)
    pending(script, "waits at 0")
    assert len(placements) == 1
    standin.recalibrate()
    script.backend = standin.service().backend("ibm_manila")
    assert torch.equal(script.finish(X), logits)
    assert len(placements) == 1
    ledger, run_id = script.ledger()
    assert {attempt.revision for attempt in ledger.state(run_id).attempts()} == {2}


# Time and requests.


def test_requests_of_one_look(broken):
    """What became of 4 jobs is asked once, not for each of 10 batches."""
    standin, script = broken(queue_seconds=5000, script={"max_qpu_seconds": math.inf})
    x = images(10)
    pending(script, "waits at 0", x)
    before = len(standin.records()["requests"])
    script.clock.advance(61)
    pending(script, "waits at 0", x)
    routes = collections.Counter(
        route for route, _ in standin.records()["requests"][before:] if "/jobs" in route
    )
    assert set(routes) == {f"GET /jobs/{job['job_id']}" for job in standin.records()["jobs"]}
    assert max(routes.values()) <= 2


def test_clock_that_is_set_back(broken):
    rules = Rules(posts_per_minute=2, max_in_flight=50)
    standin, script = broken(queue_seconds=5000, script={"rules": rules})
    x = images(7)
    durable = script.engine()
    with pytest.raises(ResultsPending), torch.no_grad(), use_engine(script.model, durable):
        durable.map(script.model, x.split(1))
    assert durable.dispatcher.problems["pace"].startswith("2 jobs a minute are sent")
    pending(script, r"pace: 2 jobs a minute are sent; the next ones follow", x)
    assert len(standin.records()["jobs"]) == 2
    script.clock.now -= 86400
    durable.dispatcher.step()
    assert len(standin.records()["jobs"]) == 4
    script.clock.now -= 86400
    pending(script, "pace", x)
    assert len(standin.records()["jobs"]) == 6


class Watched(Clock):
    """Counts jobs at every wait."""

    def advance(self, seconds):
        self.waits.append(len(self.standin.records()["jobs"]))
        super().advance(seconds)


def test_waiting_for_many_batches(broken, deep_logits):
    standin, script = broken(queue_seconds=25, script={"wait": True, "model": network()})
    script.clock = Watched(standin)
    script.clock.waits = []
    assert torch.equal(script.once(X), deep_logits)
    assert list(dict.fromkeys(script.clock.waits)) == [2, 4]
    assert script.clock() - START <= 2 * 30
    check_paid_once(script, standin)
