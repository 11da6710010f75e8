"""Processes that die, race and take turns: every chunk is paid for once."""

import threading
from contextlib import suppress

import pytest
import torch
from durable_crashes import die_after_effects
from durable_runs import LEASE, RULES, Clock, Script, check_paid_once, images, shallow, watch
from processes import elsewhere

from hardware_runs.ledger import Ledger
from qpc_qiskit import use_engine
from qpc_qiskit.errors import ResultsPending

SHOTS = {"shots": 64}


@pytest.mark.parametrize(
    ("mode", "every", "num_jobs"),
    [
        ("batch", 4, 1),
        pytest.param("batch", 1, 4, marks=pytest.mark.slow),
        pytest.param("job", 3, 4, marks=pytest.mark.slow),
        pytest.param("session", 3, 4, marks=pytest.mark.slow),
    ],
)
def test_death_after_an_effect(tmp_path, mode, every, num_jobs):
    told = elsewhere(die_after_effects, mode, tmp_path, every, num_jobs > 1)
    assert told["failures"] == []
    assert {"create_run", "freeze_block", "claim_intent", "begin_post", "send"} <= {
        *told["effects"]
    }
    assert told["effects"].count("send") == num_jobs
    assert told["cases"] == len(range(0, len(told["effects"]), every))


@pytest.fixture
def two(start, path):
    """two(rules..., faults=[...]) -> a stand-in and a script."""

    def two(**rules):
        standin = start(**rules)
        backend = standin.service().backend("ibm_manila")
        return standin, Script(path, backend, Clock(standin), shallow(), **SHOTS)

    return two


def uninterrupted(script, x, tmp_path):
    path = tmp_path / "whole.sqlite"
    other = Script(path, script.backend, script.clock, script.model, **script.given)
    return other.finish(x)


def alike(script):
    """The same with a network of its own: threads cannot share one."""
    given = {"name": script.name, **script.given}
    return Script(script.path, script.backend, script.clock, shallow(), **given)


def in_threads(acts):
    """What each returns or raises."""
    found = [None] * len(acts)

    def call(k):
        try:
            found[k] = acts[k]()
        except Exception as error:  # noqa: BLE001 - looked at by the test
            found[k] = error

    threads = [threading.Thread(target=call, args=(k,)) for k in range(len(acts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
        assert not thread.is_alive()
    return found


def test_taken_over_between_intent_and_post(two, tmp_path):
    """A process stops for hours between `begin_post` and its POST, which then goes out."""
    standin, script = two()
    x = images(1)
    ledger = Ledger(script.path)
    others = []

    def stopped(name):
        if name == "send" and not others:
            script.clock.advance(LEASE + 1)
            for _ in range(4):
                try:
                    others.append(script.once(x))
                except ResultsPending as error:
                    others.append(error)
                script.clock.advance(61)

    engine = script.engine(ledger)
    watch(engine.dispatcher.service, ["send"], lambda name: None, stopped)
    with engine, torch.no_grad(), use_engine(script.model, engine), suppress(ResultsPending):
        engine.map(script.model, [x])
    logits = script.finish(x)
    check_paid_once(script, standin, duplicates=1)  # only the lease is that long
    assert torch.equal(logits, uninterrupted(script, x, tmp_path))


def test_two_submitters_at_once(two, tmp_path):
    standin, script = two()
    x = images(2)
    found = in_threads([lambda: alike(script).finish(x, step=0.0)] * 2)
    assert all(isinstance(each, torch.Tensor) for each in found), found
    assert torch.equal(*found)
    check_paid_once(script, standin)
    assert torch.equal(found[0], uninterrupted(script, x, tmp_path))


def test_two_submitters_with_other_batches(two):
    standin, script = two()
    x = images(3)
    found = in_threads(
        [lambda size=size: alike(script).finish(x, size, step=0.0) for size in (1, 2)]
    )
    assert all(isinstance(each, torch.Tensor) for each in found), found
    check_paid_once(script, standin)


def test_two_collectors_at_once(two):
    standin, script = two(queue_seconds=100)
    x = images(2)
    with pytest.raises(ResultsPending):
        script.once(x)
    script.clock.advance(101)
    barrier = threading.Barrier(2)

    def collect():
        barrier.wait(20)
        return alike(script).once(x)

    found = in_threads([collect, collect])
    assert all(isinstance(each, torch.Tensor) for each in found), found
    assert torch.equal(*found)
    check_paid_once(script, standin)


def test_killed_before_the_first_revision(tmp_path):
    """Between `create_run` and its first revision."""
    script = Script(tmp_path / "runs.sqlite", "aer", model=shallow())
    ledger = Ledger(script.path)

    class Death(BaseException):
        pass

    def die(*arguments, **named):
        raise Death

    ledger.add_revision = die
    with pytest.raises(Death):
        script.engine(ledger)
    assert script.once(images(1)).shape == (1, 2)


def test_lease_is_dropped_when_a_script_ends(two):
    """Ctrl-C in a POST: the next one need not wait for hours."""
    standin, script = two()
    x = images(1)
    ledger = Ledger(script.path)
    engine = script.engine(ledger, rules=None)

    def interrupt(name):
        raise KeyboardInterrupt

    watch(engine.dispatcher.service, ["send"], interrupt)
    with (
        pytest.raises(KeyboardInterrupt),
        engine,
        torch.no_grad(),
        use_engine(script.model, engine),
    ):
        engine.map(script.model, [x])
    script.given["rules"] = None
    script.finish(x, step=5)
    check_paid_once(script, standin)
    assert RULES.lease_seconds == LEASE
