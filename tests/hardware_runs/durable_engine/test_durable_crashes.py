"""Processes that die, race and take turns: every chunk is paid for once."""

import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import durable_crashes
import pytest
import torch
from durable_runs import LEASE, RULES, Clock, Script, check_paid_once, images, watch

from hardware_runs.ledger import Ledger
from qpc_qiskit import use_engine
from qpc_qiskit.errors import ResultsPending

SHOTS = {"shots": 64}


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "every"), [("batch", 1), ("job", 3), ("session", 3)])
def test_death_after_every_effect(tmp_path, mode, every):
    tests = Path(durable_crashes.__file__).parent
    done = subprocess.run(
        [sys.executable, durable_crashes.__file__, mode, str(tmp_path), str(every)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONPATH": f"{tests}:{tests.parent}",
        },
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["failures"] == []
    assert {"create_run", "freeze_block", "claim_intent", "begin_post", "send"} <= {
        *told["effects"]
    }
    assert told["effects"].count("send") == 4
    assert told["cases"] == len(range(0, len(told["effects"]), every))


@pytest.fixture
def two(start, tmp_path):
    """two(rules..., faults=[...]) -> a stand-in and a script."""

    def two(**rules):
        standin = start(**rules)
        backend = standin.service().backend("ibm_manila")
        return standin, Script(tmp_path / "runs.sqlite", backend, Clock(standin), **SHOTS)

    return two


def uninterrupted(script, x, tmp_path):
    other = Script(tmp_path / "whole.sqlite", script.backend, script.clock, **script.given)
    return other.finish(x)


def alike(script):
    """The same with a network of its own: threads cannot share one."""
    return Script(script.path, script.backend, script.clock, name=script.name, **script.given)


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


@pytest.mark.parametrize("lag", [0, 45])
def test_taken_over_between_intent_and_post(two, tmp_path, lag):
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
    x = images(3)

    found = in_threads([lambda: alike(script).finish(x, step=0.0)] * 2)
    assert all(isinstance(each, torch.Tensor) for each in found), found
    assert torch.equal(*found)
    check_paid_once(script, standin)
    assert torch.equal(found[0], uninterrupted(script, x, tmp_path))


def test_two_submitters_with_other_batches(two):
    standin, script = two()
    x = images(4)
    found = in_threads(
        [lambda size=size: alike(script).finish(x, size, step=0.0) for size in (1, 3)]
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
        return alike(script).finish(x, step=0.0)

    first, second = in_threads([lambda: collect_layer(script, x, barrier)] * 2)
    for each in (first, second):
        assert isinstance(each, ResultsPending), each
    script.clock.advance(101)
    found = in_threads([collect, collect])
    assert all(isinstance(each, torch.Tensor) for each in found), found
    assert torch.equal(*found)
    check_paid_once(script, standin)


def collect_layer(script, x, barrier):
    barrier.wait(20)
    return alike(script).once(x)


def test_killed_before_the_first_revision(tmp_path):
    """Between `create_run` and its first revision."""
    script = Script(tmp_path / "runs.sqlite", "aer")
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
