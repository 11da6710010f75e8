"""Runs that die at every effect.

For a process of its own, because it forks: all that computes happens in forked children, so that no
thread is lost in a fork. The stand-in is one of them.
"""

import json
import mmap
import os
import struct
import sys
import time
from pathlib import Path

import torch
from durable_runs import (
    LEASE,
    LEDGER_EFFECTS,
    SERVICE_EFFECTS,
    START,
    Script,
    check_paid_once,
    images,
    network,
    shallow,
    watch,
)
from qiskit_ibm_runtime import QiskitRuntimeService

from hardware_runs import Rules
from hardware_runs.ledger import Ledger
from hardware_runs.standin import Remote, Standin
from hardware_runs.standin import Rules as StandinRules
from qpc_qiskit import use_engine
from qpc_qiskit.errors import ResultsPending

DEAD = 17
POSTS_PER_MINUTE = 5


class SharedClock:
    """Seconds since the epoch, the same for all forked children; who moves it may die."""

    def __init__(self):
        self._memory = mmap.mmap(-1, 8)
        self._memory[:] = struct.pack("d", START)

    def __call__(self):
        return struct.unpack("d", self._memory[:])[0]

    def advance(self, seconds):
        self._memory[:] = struct.pack("d", self() + seconds)


def forked(act):
    """What `act` returns, in a process of its own: JSON; None if it died on purpose."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            answer = json.dumps(act())
            with os.fdopen(writing, "w") as pipe:
                pipe.write(answer)
            code = 0
        except BaseException:  # noqa: BLE001 - a child never returns
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        answer = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code == DEAD:
        return None
    assert code == 0, f"a child failed with {code}"
    return json.loads(answer)


def start_standin(clock):
    """A stand-in that ends with this process."""
    parent = os.getpid()
    reading, writing = os.pipe()
    if os.fork() == 0:
        rules = StandinRules(noisy=False, posts_per_minute=POSTS_PER_MINUTE)
        standin = Standin(rules, clock=clock)
        standin.start()
        told = {"url": standin.url, "environment": standin.environment()}
        os.write(writing, json.dumps(told).encode() + b"\n")
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = json.loads(pipe.readline())
    os.environ.update(told["environment"])
    return Remote(told["url"])


def run(script, x, size, die_after=None):
    """A process that goes on until all is there, or that dies after some effect."""
    effects = []

    def after(name):
        if name == "put_layer" and effects.count(name) == 2:
            return  # of a layer that is known: it reads
        effects.append(name)
        if len(effects) == die_after:
            os._exit(DEAD)

    torch.set_num_threads(1)
    if die_after == 0:
        os._exit(DEAD)
    ledger = Ledger(script.path)
    watch(ledger, LEDGER_EFFECTS, after)
    engine = script.engine(ledger)
    watch(engine.dispatcher.service, SERVICE_EFFECTS, after)
    for _ in range(30):
        try:
            with engine, torch.no_grad(), use_engine(script.model, engine):
                logits = torch.cat(engine.map(script.model, x.split(size)))
            return {"logits": logits.tolist(), "effects": effects}
        except ResultsPending:
            script.clock.advance(61)
    raise AssertionError("still pending")


def check_rate(remote):
    """Never more than five jobs in a minute."""
    times = [job["created"] for job in remote.records()["jobs"]]
    for early, late in zip(times, times[POSTS_PER_MINUTE:], strict=False):
        assert late - early >= 60


def die_after_effects(mode, folder, every, is_deep):
    """One uninterrupted run; one that dies after each of its effects, and is gone on with.

    Between two effects nothing changes but memory: dying after one is dying before the next.

    Args:
        mode: job, batch or session.
        folder: for ledgers.
        every: of so many effects, one.
        is_deep: whether there are two quantum layers, and two jobs of each.
    """
    clock = SharedClock()
    remote = start_standin(clock)
    backend = QiskitRuntimeService().backend("ibm_manila")
    x, size = (images(3), 2) if is_deep else (images(1), 1)
    model = network() if is_deep else shallow()

    def script(name):
        path = Path(folder) / f"{mode}-{name}.sqlite"
        given = {"shots": 32, "mode": mode, "max_qpu_seconds": 20_000}
        return Script(path, backend, clock, model, rules=Rules(lease_seconds=LEASE), **given)

    whole = script("whole")
    reference = forked(lambda: run(whole, x, size))
    num_chunks = len(check_paid_once(whole, remote))
    failures = []
    moments = range(0, len(reference["effects"]), every)
    for moment in moments:
        case = script(moment)
        assert forked(lambda case=case, moment=moment: run(case, x, size, moment)) is None
        clock.advance(LEASE + 1)
        try:
            found = forked(lambda case=case: run(case, x, size))
            assert found["logits"] == reference["logits"]
            assert len(check_paid_once(case, remote)) == num_chunks
        except AssertionError as error:
            failures.append(f"after {['start', *reference['effects']][moment]} ({moment}): {error}")
        clock.advance(61)
    check_rate(remote)
    return {"cases": len(moments), "effects": reference["effects"], "failures": failures}
