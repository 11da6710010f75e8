"""Leases of processes that are gone, and of processes that are not."""

import subprocess
import sys
import threading
import uuid

import pytest
import torch
from durable_runs import START, Script, check_paid_once, images, shallow, watch

from hardware_runs import Rules
from hardware_runs.durable_engine import dispatch, engine, owners
from hardware_runs.durable_engine.services import LocalService
from hardware_runs.ledger import Ledger
from qpc_qiskit import use_engine
from qpc_qiskit.errors import ResultsPending

pytestmark = pytest.mark.usefixtures("no_backoff")
X = images(2)[:1]
"""One job."""


class Death(BaseException):
    """Of a process: nothing is tidied up."""


def die(*arguments, **named):
    raise Death


def run_until_death(script, durable):
    """`__exit__` is not reached."""
    with pytest.raises(Death), torch.no_grad(), use_engine(script.model, durable):
        durable.map(script.model, [X])


def pending(script, match):
    with pytest.raises(ResultsPending, match=match):
        script.once(X)


LIVES = """
from hardware_runs.durable_engine.owners import new_owner
print(new_owner(), flush=True)
input()
"""


@pytest.fixture(scope="module")
def dead():
    """Name of a process of this machine that has ended; it was watched before that."""
    process = subprocess.Popen(
        [sys.executable, "-c", LIVES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    name = process.stdout.readline().strip()
    assert not owners.is_gone(name)
    process.communicate("\n", timeout=60)
    return name


def test_process_that_has_ended(dead):
    assert owners.is_gone(dead)
    assert not owners.is_gone(owners.new_owner())
    assert owners.new_owner() != owners.new_owner()


def test_process_of_which_nothing_is_known(dead, monkeypatch):
    host, place, number, random = dead.rsplit(":", 3)
    boot, namespace = place.rsplit("-", 1)
    assert uuid.UUID(boot)
    for name in (
        f"other{host}:{place}:{number}:{random}",
        f"{host}:{uuid.uuid4()}-{namespace}:{number}:{random}",
        f"{host}:{boot}-1{namespace}:{number}:{random}",
        f"{host}::{number}:{random}",
        f"{host}:{place}:x:{random}",
        f"{host}:{place}:-{number}:{random}",
        f"{host}:{place}:{10**30}:{random}",
        f"{host}:{place}:\N{SUPERSCRIPT TWO}:{random}",
        f"{host}:{place}:1:{random}",  # another user's, or init
        "",
        "owner",
        ":::",
    ):
        assert not owners.is_gone(name), name
    monkeypatch.setattr(owners, "_PLACE", ("/nonexistent", "/nonexistent"))
    assert not owners.is_gone(dead)
    assert not owners.is_gone(owners.new_owner())


def test_killed_after_a_post(broken, logits):
    """Its lease lasts two hours, what it posted is found after a minute."""
    standin, script = broken(script={"rules": Rules(posts_per_minute=100)})
    ledger = Ledger(script.path)
    ledger.record_job = die
    run_until_death(script, script.engine(ledger))
    (intent,) = ledger.state(ledger.get_run("run").id).attempts()
    assert intent.lease_expires_at == START + 7200
    pending(
        script, r"Another process \(.*\) may be sending it.* from 2027-01-15T10:00:00\+00:00 on"
    )
    script.clock.advance(59)
    pending(script, r"Another process")
    script.clock.advance(2)
    assert torch.equal(script.finish(X), logits[:1])
    assert script.clock() < START + 300
    check_paid_once(script, standin)
    assert standin.records()["num_posts"] == 1


@pytest.mark.parametrize("is_dead", [True, False])
def test_killed_before_a_post(broken, monkeypatch, dead, is_dead):
    """Whether it lives cannot be told elsewhere: then its lease is waited for."""
    standin, script = broken(script={"rules": Rules()})
    with monkeypatch.context() as patch:
        patch.setattr(engine, "new_owner", lambda: dead if is_dead else "elsewhere:1-2:3:4")
        durable = script.engine()
    durable.dispatcher.service.send = die
    run_until_death(script, durable)
    for seconds in (61, 61):
        script.clock.advance(seconds)
        pending(script, "waits at 0")
    assert len(standin.records()["jobs"]) == is_dead
    if not is_dead:
        for seconds in (7200 - 122 - 1, 1, 61):
            assert standin.records()["jobs"] == []
            script.clock.advance(seconds)
            pending(script, "waits at 0")
    script.finish(X)
    check_paid_once(script, standin)


def test_intent_of_a_process_that_has_ended(path, dead):
    ledger = Ledger(path)
    run_id = run_with_a_chunk(ledger, Script(path, "aer", model=shallow()))
    (chunk,) = ledger.state(run_id).chunks()
    named = {"now": START, "lease_seconds": 7200}
    intent = ledger.claim_intent(chunk, dead, reserve_seconds=1, **named)
    assert ledger.take_over(intent, "new", **named) is None
    taken = ledger.take_over(intent, "new", is_owner_gone=owners.is_gone, **named)
    assert (taken.owner, taken.lease_expires_at) == ("new", START + 7200)
    assert ledger.take_over(intent, "third", is_owner_gone=owners.is_gone, **named) is None


def run_with_a_chunk(ledger, script):
    """Frozen and unsent."""
    durable = script.engine(ledger)
    durable.dispatcher.step = lambda: False
    with pytest.raises(ResultsPending), torch.no_grad(), use_engine(script.model, durable):
        script.model(X)
    return durable.run.id


def test_local_job_that_outlasts_its_lease(path, monkeypatch):
    """The process that computes renews it; another one looks meanwhile."""
    monkeypatch.setattr(dispatch, "LOCAL_LEASE_SECONDS", 0.3)
    begun, may_go_on, renewals = threading.Event(), threading.Event(), threading.Semaphore(0)
    send, sent, values = LocalService.send, [], []

    def slow(*arguments, tag, **named):
        sent.append(tag)
        begun.set()
        assert may_go_on.wait(60)
        return send(*arguments, tag=tag, **named)

    monkeypatch.setattr(LocalService, "send", slow)
    script = Script(path, "aer", model=shallow())
    ledger = Ledger(path)
    watch(ledger, ["renew_lease"], after=lambda name: renewals.release())
    first = threading.Thread(target=lambda: values.append(script.once(X, ledger=ledger)))
    first.start()
    try:
        assert begun.wait(60)
        script.clock.advance(100)
        while renewals.acquire(blocking=False):
            pass
        for _ in range(2):  # the first may have begun before the clock was moved
            assert renewals.acquire(timeout=30)
        pending(script, r"Another process \(.*\) may be sending it")
    finally:
        may_go_on.set()
        first.join()
    assert len(sent) == 1
    assert torch.equal(script.once(X), values[0])
