"""Durable runs that nothing goes wrong in: the same logits, nothing sent twice."""

import contextlib
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import evs_of
from durable_runs import (
    ROUNDING,
    RULES,
    Clock,
    Script,
    check_paid_once,
    check_replay,
    images,
    network,
    run_script,
    shallow,
)
from processes import elsewhere
from tiers import thorough
from torch import nn

from hardware_runs.durable_engine.known import KnownRun
from hardware_runs.ledger import AttemptState, Ledger
from hardware_runs.reports.replay import RunReader
from hardware_runs.standin import Fault
from qpc_qiskit import EstimatorEngine, QuantumPointwiseConv2d, use_engine
from qpc_qiskit.errors import BudgetError, EngineError, QPCError, ResultsPending
from qpc_qiskit.nets import quantum_layers
from qpc_qiskit.rows.pubs import merge_directions

SHOTS = {"shots": 64}


@pytest.fixture
def device(start, path):
    """device(rules..., faults=[...], script's...) -> a stand-in and a script that runs on it."""

    def device(*, script=None, **rules):
        standin = start(**rules)
        backend = standin.service().backend("ibm_manila")
        return standin, Script(path, backend, Clock(standin), **{**SHOTS, **(script or {})})

    return device


def direct(model, x, backend, **given):
    with (
        EstimatorEngine.from_backend(backend, **given) as engine,
        torch.no_grad(),
        use_engine(model, engine),
    ):
        return model(x)


# Simulators: a script runs through at once.


def test_aer_is_exact(path):
    x = images(3, size=2)
    script = Script(path, "aer")
    logits = script.once(x, 2)
    with torch.no_grad():
        torch.testing.assert_close(logits, script.model(x), rtol=0, atol=ROUNDING)
    torch.testing.assert_close(logits, direct(script.model, x, "aer"), rtol=0, atol=ROUNDING)


def test_snapshot_with_shots(path):
    x = images(2)
    script = Script(path, "fake_manila", shots=20_000, seed=3)
    logits = script.once(x)
    exact = direct(script.model, x, "fake_manila", precision=0)
    torch.testing.assert_close(logits, exact, atol=0.1, rtol=0)
    check_replay(script, x, 2, logits)  # read, not run again


def test_shots_do_not_depend_on_the_ledger(path, tmp_path):
    x, given = images(2), {"backend": "fake_manila", "shots": 50, "seed": 3, "model": shallow()}
    alone = Script(tmp_path / "other.sqlite", **given).once(x)
    Script(path, name="before", **given).once(images(3))
    assert torch.equal(Script(path, **given).once(x), alone)


def test_runs_without_a_seed_are_independent(path):
    x, given = images(2), {"backend": "fake_manila", "shots": 50, "model": shallow()}
    one = Script(path, name="one", **given).once(x)
    assert not torch.equal(Script(path, name="two", **given).once(x), one)
    other = path.with_name("other.sqlite")
    assert not torch.equal(Script(other, name="one", **given).once(x), one)


def test_local_run_goes_on_after_a_death(path):
    """What a dead process had under way is done by the next one, soon."""
    x, model = images(2), shallow()
    logits = Script(path, "aer", model=model).once(x)
    other = path.with_name("killed.sqlite")

    class Death(BaseException):
        pass

    script = Script(other, "aer", model=model, rules=None)
    ledger = Ledger(other)
    begin_post, ledger.begin_post = ledger.begin_post, None

    def die(attempt, *arguments, **named):
        begin_post(attempt, *arguments, **named)
        raise Death

    ledger.begin_post = die
    with pytest.raises(Death):
        script.once(x, ledger=ledger)
    script.clock.advance(120)
    assert torch.equal(script.once(x), logits)


def test_local_jobs_of_two_processes_are_not_confused(path):
    """Both have a first job; what one has just sent the other must not collect."""
    x, y = images(1), images(1, seed=9)
    script = Script(path, "aer", model=shallow())
    logits = script.once(x)
    other = Script(path, "aer", model=shallow(), name="other")
    with other.engine() as first, other.engine() as second:
        collector = first.dispatcher.collector
        collect_one = collector.collect_one
        collector.collect_one = lambda attempt, chunk: False
        with torch.no_grad(), use_engine(other.model, first), pytest.raises(ResultsPending):
            other.model(y)
        collector.collect_one = collect_one
        with (
            contextlib.suppress(ResultsPending),
            torch.no_grad(),
            use_engine(other.model, second),
        ):
            second.map(other.model, [y])
        states = {a.state for a in first.ledger.state(first.run.id).attempts()}
        assert AttemptState.FAILED not in states
        first.begin_pass()
        with torch.no_grad(), use_engine(other.model, first):
            first.map(other.model, [y])
    assert torch.equal(script.once(x), logits)


# A device.


@pytest.mark.parametrize("mode", ["job", *thorough("batch", "session")])
def test_device(device, mode):
    standin, script = device(script={"mode": mode, "max_qpu_seconds": 600})
    x = images(3)
    logits = script.finish(x, 3)
    jobs = check_paid_once(script, standin)
    assert len(jobs) == 2
    assert len(standin.records()["sessions"]) == (mode != "job")
    assert {job["session_id"] is not None for job in jobs} == {mode != "job"}
    assert torch.equal(logits, direct(script.model, x, script.backend, **SHOTS))


def test_session_without_a_budget(device):
    _, script = device(script={"mode": "session", "model": shallow()})
    x = images(1)
    assert torch.equal(script.finish(x), direct(script.model, x, script.backend, **SHOTS))


@pytest.mark.parametrize("mode", ["batch", "session"])
def test_batch_is_closed_when_all_is_done(device, mode):
    """A session is billed by the clock until somebody closes it."""
    standin, script = device(script={"mode": mode, "max_qpu_seconds": 600, "model": shallow()})
    script.finish(images(2), 2)
    ledger, run_id = script.ledger()
    (session,) = standin.records()["sessions"]
    assert session["stopped"] is not None
    (kept,) = ledger.state(run_id).sessions
    assert kept.closed_at is not None
    assert ledger.state(run_id).budget.reserved_seconds == 0


def test_replay_sends_nothing(device):
    standin, script = device()
    x = images(6)
    logits = script.finish(x, 2)
    rows = script.rows
    before = standin.records()
    jobs = [job["job_id"] for job in before["jobs"]]
    noisy = x * (1 + 1e-7 * torch.randn(x.shape, generator=torch.Generator().manual_seed(2)))
    for again, size in [(x, 1), (x, 6), (x, 4), (noisy, 3)]:
        check_replay(script, again, size, logits, rows)
    with script.engine() as engine, torch.no_grad(), use_engine(script.model, engine):
        singly = torch.cat([script.model(each) for each in x.split(1)])
    torch.testing.assert_close(singly, logits, rtol=0, atol=ROUNDING)
    threads = torch.get_num_threads()
    torch.set_num_threads(2 if threads == 1 else 1)
    try:
        check_replay(script, x, 2, logits, rows)
    finally:
        torch.set_num_threads(threads)
    after = standin.records()
    assert [job["job_id"] for job in after["jobs"]] == jobs
    assert after["num_posts"] == before["num_posts"]


def test_noise_of_classical_layers_before(path):
    """Half of the pixels are zero behind a ReLU, and some only nearly."""
    generator = torch.Generator().manual_seed(4)
    quantum = QuantumPointwiseConv2d(4, 2, generator=generator)
    x = torch.randn(8, 4, 3, 3, generator=generator).relu()
    x[:6] = 0
    model = nn.Sequential(quantum, nn.Flatten()).eval()
    script = Script(path, "aer", model=model)
    logits = script.once(x, 4)
    moved = x.clone()
    moved[0, 2, 0, 0] = 1e-9
    check_replay(script, moved, 8, logits)


def test_pixels_whose_sign_is_undecided(path):
    """The largest components tie but for the last bits: the sign of the direction flips."""
    x = torch.randn(3, 4, 1, 1, generator=torch.Generator().manual_seed(4))
    x[1, :, 0, 0] = 1e6 * torch.tensor([1.0, -1.0, 0.3, 0.2])
    moved = x.clone()
    moved[1, 0] *= 1 - 1.2e-6
    moved[1, 1] *= 1 + 1.2e-6
    script = Script(path, "aer")
    logits = script.once(x, 3)
    check_replay(script, moved, 3, logits)


def test_more_images_than_before(device):
    standin, script = device()
    x = images(5)
    script.finish(x[:2], 2)
    known = script.rows
    num_jobs = len(standin.records()["jobs"])
    script.finish(x, 4)
    assert len(standin.records()["jobs"]) == num_jobs + 4  # 2:4 and 4:5 of each layer
    assert all(
        torch.equal(rows[:2], before) for rows, before in zip(script.rows, known, strict=True)
    )
    check_direct(script)


def check_direct(script):
    """The values of all rows are those that a direct run gives for the frozen pixels."""
    ledger, run_id = script.ledger()
    reader = RunReader(KnownRun(ledger, ledger.get_run(run_id)))
    with EstimatorEngine.from_backend(script.backend, **SHOTS) as engine, torch.no_grad():
        for name, layer in quantum_layers(script.model).items():
            (weights,) = layer.parameters()
            found = [
                evs_of(engine, layer.spec, torch.from_numpy(rows.pixels), weights)
                for rows in ledger.rows(ledger.state(run_id).blocks(name))
            ]
            assert np.array_equal(reader.table(name), torch.cat(found).numpy())


def direct_in_blocks(script, x, sizes):
    return torch.cat(
        [direct(script.model, part, script.backend, **SHOTS) for part in x.split(sizes)]
    )


def test_no_images(device):
    standin, script = device()
    with script.engine() as engine, torch.no_grad(), use_engine(script.model, engine):
        assert script.model(images(0)).shape == (0, 2)
    assert standin.records()["jobs"] == []


def test_images_that_repeat(device):
    standin, script = device()
    x = images(2)[[0, 1, 0, 0, 1]]
    script.finish(x, 5)
    rows = script.rows[0]
    assert torch.equal(rows[0], rows[2])
    assert torch.equal(rows[1], rows[4])
    first, second = standin.records()["jobs"]
    assert first["num_executions"] == 2 * 2 * 64  # 2 distinct pixels, 2 kernels
    ledger, run_id = script.ledger()
    (block,) = ledger.state(run_id).blocks("2")  # behind a layer that rounds: more may be distinct
    (rows,) = ledger.rows([block])
    distinct, _ = merge_directions(rows.directions)
    assert second["num_executions"] == len(distinct) * 2 * 64


def test_dtypes(path):
    x = images(2)
    script = Script(path, "aer")
    logits = script.once(x)
    script.model.double()
    again = script.once(x.double())
    assert again.dtype == torch.float64
    torch.testing.assert_close(again.float(), logits)


# What is not the same run.


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    script = Script(tmp_path_factory.mktemp("done") / "runs.sqlite", "aer")
    x = images(4, size=2)
    script.once(x, 2)
    return script, x


def changed(script, **changes):
    given = {**script.given, **changes.pop("given", {})}
    model = changes.pop("model", script.model)
    return Script(script.path, changes.pop("backend", "aer"), script.clock, model, **given)


def test_changed_weights_are_refused(done):
    script, x = done
    with pytest.raises(EngineError, match=r"'run'.*'0'.*weights.*Load the checkpoint"):
        changed(script, model=network(seed=5)).once(x)


def test_changed_second_layer_is_refused(done):
    script, x = done
    model = network()
    model[2] = network(seed=5)[2]
    with pytest.raises(EngineError, match=r"'run'.*'2'.*weights"):
        changed(script, model=model).once(x)


def test_another_network_is_refused(done):
    script, x = done
    with pytest.raises(EngineError, match=r"'run'.*'0'"):
        changed(script, model=network(width=8)).once(x)


def test_changed_images_are_refused(done):
    script, x = done
    moved = x.clone()
    moved[2, 1, 0, 1] += 0.01
    with pytest.raises(EngineError, match=r"Run 'run', 0: pixel 9 .*Restore them, or begin"):
        script.once(moved)


def test_changed_order_is_refused(done):
    script, x = done
    with pytest.raises(EngineError, match=r"order"):
        script.once(x[[0, 2, 1, 3]])


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"backend": "fake_manila"}, "backend"),
        ({"given": {"shots": 100}}, "precision"),
        ({"given": {"seed": 7}}, "seed"),
        ({"given": {"options": {"method": "statevector"}}}, "options"),
        ({"given": {"mode": "batch"}, "backend": "fake_manila"}, "mode"),
    ],
)
def test_changed_settings_are_refused(done, changes, what):
    script, x = done
    with pytest.raises(EngineError, match=rf"'run' was begun with other settings.*{what}.*another"):
        changed(script, **changes).once(x)


def test_options_come_back_from_the_ledger(path):
    """Tuples, which JSON does not know, are no change."""
    given = {"options": {"method": "automatic", "basis_gates": ("ry", "cx", "rz")}}
    x = images(1)
    script = Script(path, "aer", **given)
    try:
        logits = script.once(x)
    except (ValueError, QPCError):
        pytest.skip("Aer takes no such options")
    assert torch.equal(script.once(x), logits)


# Pending.


def test_pending_until_the_queue_is_through(device):
    standin, script = device(faults=[Fault("queue", seconds=3600, times=None)])
    x = images(2)
    for _ in range(3):
        with pytest.raises(ResultsPending, match=r"Run 'run' waits at 0 \(0: 0 of \d jobs done\)"):
            script.once(x)
    assert len(standin.records()["jobs"]) == 2
    script.clock.advance(3601)
    with pytest.raises(ResultsPending, match=r"waits at 2 \(0: 2 of 2 jobs done, 2: 0 of \d jobs"):
        script.once(x)
    assert len(standin.records()["jobs"]) == 4  # the second layer goes on by itself
    script.clock.advance(3601)
    assert script.once(x).shape == (2, 2)
    check_paid_once(script, standin)


def test_waiting_moves_on_by_itself(device):
    standin, script = device(queue_seconds=35, script={"wait": True})
    x = images(2)
    logits = script.once(x, 2)
    check_paid_once(script, standin)
    check_replay(script, x, 1, logits, wait=False)


def test_second_layer_starts_as_soon_as_its_images_are_there(device):
    standin, script = device(faults=[Fault("queue", seconds=3600, skip=1)])
    x = images(2)
    with pytest.raises(ResultsPending):
        script.once(x)
    with pytest.raises(ResultsPending):
        script.once(x)
    # The second image waits; what lies behind it has no positions yet.
    assert len(standin.records()["jobs"]) == 3
    script.clock.advance(3601)
    logits = script.finish(x)
    check_paid_once(script, standin)
    assert torch.equal(logits, direct_in_blocks(script, x, 1))


def test_single_calls_that_wait(device):
    """Who catches `ResultsPending` himself gets the right positions too."""
    standin, script = device(faults=[Fault("queue", seconds=3600)])
    x = images(2)

    def calls():
        found = []
        with script.engine() as engine, torch.no_grad(), use_engine(script.model, engine):
            for each in x.split(1):
                try:
                    found.append(script.model(each))
                except ResultsPending:
                    found.append(None)
        return found

    for _ in range(3):
        calls()
    script.clock.advance(3601)
    for _ in range(2):
        found = calls()
    assert torch.equal(torch.cat(found), script.once(x))
    assert torch.equal(torch.cat(found), direct_in_blocks(script, x, 1))
    check_paid_once(script, standin)


def test_jobs_in_flight_are_bounded(device):
    rules = replace(RULES, max_in_flight=2)
    standin, script = device(queue_seconds=50, script={"rules": rules, "model": shallow()})
    x = images(3)
    with pytest.raises(ResultsPending):
        script.once(x)
    assert len(standin.records()["jobs"]) == 2
    script.finish(x)
    check_paid_once(script, standin)


# Another process.


@pytest.mark.slow
def test_collected_by_another_process(start, path):
    standin = start(faults=[Fault("queue", seconds=60, times=4)])
    assert elsewhere(run_script, path, 2, 32) is None
    assert len(standin.records()["jobs"]) == 2
    standin.advance(61)
    assert elsewhere(run_script, path, 2, 32) is None
    jobs = [job["job_id"] for job in standin.records()["jobs"]]
    assert len(jobs) == 4
    standin.advance(61)
    logits = torch.from_numpy(elsewhere(run_script, path, 1, 1))
    assert [job["job_id"] for job in standin.records()["jobs"]] == jobs
    backend = standin.service().backend("ibm_manila")
    x, model = images(40), network()
    parts = [direct(model, part, backend, **SHOTS) for part in x.split(32)]
    torch.testing.assert_close(logits, torch.cat(parts), rtol=0, atol=ROUNDING)


# Money.


def predicted(script, x):
    """QPU seconds that each layer's job reserves."""
    ledger, run_id = script.ledger()
    return [chunk.predicted_seconds for chunk in ledger.state(run_id).chunks()]


def test_refused_before_the_first_job(device):
    standin, script = device(script={"max_qpu_seconds": 1, "model": shallow()})
    with pytest.raises(BudgetError, match=r"Run 'run'.*budget of 1 s.*Nothing was sent"):
        script.once(images(1))
    assert standin.records()["num_posts"] == 0
    logits = script.finish(images(1), max_qpu_seconds=100)  # more is allowed, it goes on
    assert logits.shape == (1, 2)


def test_reservation_is_freed(device):
    """Two caps do not fit at once, two jobs do: the second waits for the first."""
    standin, script = device(queue_seconds=30, script={"max_qpu_seconds": 6.5, "model": shallow()})
    x = images(2)
    with pytest.raises(ResultsPending):
        script.once(x)
    ledger, run_id = script.ledger()
    held = ledger.state(run_id).budget.reserved_seconds
    assert 0 < held <= 6.5
    assert len(standin.records()["jobs"]) == 1
    script.finish(x)
    check_paid_once(script, standin)
    assert 4 < ledger.state(run_id).budget.used_seconds <= 6.5


def test_real_usage_above_the_forecast_stays_inside_the_budget(device):
    standin, script = device(usage_factor=1.45, script={"max_qpu_seconds": 7, "model": shallow()})
    with pytest.raises(BudgetError, match=r"Run 'run'.*are used"):
        script.finish(images(3))
    used = sum(job["usage_seconds"] for job in standin.records()["jobs"])
    assert 5 < used <= 7
    ledger, run_id = script.ledger()
    assert abs(ledger.state(run_id).budget.used_seconds - used) < 1e-6


def test_jobs_that_run_too_long_stay_inside_the_budget(device):
    standin, script = device(usage_factor=10, script={"max_qpu_seconds": 7, "model": shallow()})
    with pytest.raises(QPCError, match=r"Run 'run'"):
        script.finish(images(3))
    used = sum(job["usage_seconds"] for job in standin.records()["jobs"])
    assert 0 < used <= 7


def test_session_reserves_its_time(device):
    standin, script = device(queue_seconds=30, script={"mode": "session", "max_qpu_seconds": 300})
    with pytest.raises(ResultsPending):
        script.once(images(1))
    ledger, run_id = script.ledger()
    (session,) = standin.records()["sessions"]
    assert session["mode"] == "dedicated"
    assert ledger.state(run_id).budget.reserved_seconds == session["max_ttl"] == 300
    assert all(a.is_billed_by_session for a in ledger.state(run_id).attempts())


# Files and secrets.


def test_files_are_the_owners_alone(device, path):
    _, script = device(script={"model": shallow()})
    script.finish(images(1))
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_no_pickle():
    for file in Path("hardware_runs").rglob("*.py"):
        text = file.read_text()
        assert "import pickle" not in text, file
        assert "allow_pickle=True" not in text, file
        assert "torch.load" not in text, file
