"""A run is read once, not question by question; what is old is not trusted."""

import sys
from collections import Counter

import pytest
import torch
from durable_runs import Clock, Script, check_paid_once, images, network, shallow
from ledgers import claimed, planned
from sqlalchemy import Engine, event
from tiers import thorough

from hardware_runs.durable_engine.known import KnownRun
from hardware_runs.durable_engine.problems import Problems
from hardware_runs.durable_engine.sessions import RunSessions
from hardware_runs.durable_engine.status import run_status
from hardware_runs.ledger import Ledger
from hardware_runs.reports.report import examine
from qpc_qiskit import use_engine
from qpc_qiskit.errors import ResultsPending

PRODUCT = ("qpc_qiskit.", "noise_models.", "hardware_runs.")


@pytest.fixture
def transactions(path):
    """How many there were on the ledger, reading (False) and writing (True)."""
    found = Counter()

    def begun(connection):
        if connection.engine.url.database == str(path):
            found[connection.get_execution_options()["qpc_is_write"]] += 1

    event.listen(Engine, "begin", begun)
    yield found
    event.remove(Engine, "begin", begun)


@pytest.mark.parametrize("mode", ["job", *thorough("session")])
def test_transactions_of_a_run_of_four_jobs(start, path, transactions, mode):
    """Two layers, two batches: three processes send and collect, a fourth one reports."""
    standin = start()
    backend = standin.service().backend("ibm_manila")
    given = {"shots": 64, "mode": mode, "max_qpu_seconds": 600}
    script = Script(path, backend, Clock(standin), network(), **given)
    x = images(2)
    for _ in range(2):
        with pytest.raises(ResultsPending):
            script.once(x)
        script.clock.advance(61)
    script.once(x)
    with Ledger(path) as ledger:
        run = ledger.get_run("run")
        run_status(ledger.state(run.id))
        examine(ledger, run, where=str(path), now=script.clock())
    told = dict(transactions)
    assert len(check_paid_once(script, standin)) == 4
    # Written: the run, its first revision, a circuit, two layers and four blocks; of each job the
    # claim, the POST, its id and its result; of a session that it is opened, its id, its end.
    assert told[True] == 3 + 2 + 4 + 4 * 4 + (3 if mode == "session" else 0)
    assert sum(told.values()) <= 80


def crossings(act):
    """How often a call of the product comes from another module than the call before."""
    found = []

    def note(frame, kind, _):
        module = frame.f_globals.get("__name__", "")
        if kind == "call" and module.startswith(PRODUCT) and found[-1:] != [module]:
            found.append(module)

    sys.setprofile(note)
    try:
        act()
    finally:
        sys.setprofile(None)
    return len(found) - 1


def test_modules_that_a_warm_layer_crosses(path):
    """One layer of one job that is done, asked a second time: 253 before a run was read at once."""
    x, script = images(1), Script(path, "aer", model=shallow())
    with script.engine() as engine, torch.no_grad(), use_engine(script.model, engine):
        engine.map(script.model, [x])
        engine.begin_pass()
        assert crossings(lambda: engine.map(script.model, [x])) <= 126


def test_state_is_read_again_after_a_write_here(path):
    with Ledger(path) as ledger, Ledger(path) as other:
        run, _ = planned(ledger)
        known = KnownRun(ledger, run)
        before = known.state
        assert known.state is before
        ledger.set_budget(run.id, 71.0, now=3.0)
        assert known.state.budget.max_qpu_seconds == 71
        other.set_budget(run.id, 72.0, now=4.0)
        assert known.state.budget.max_qpu_seconds == 71
        assert known.renew().budget.max_qpu_seconds == 72


def test_a_reading_that_is_interrupted_leaves_the_state_old(path, monkeypatch):
    """Ctrl-C: what is done on the way out must know what was claimed before it."""
    with Ledger(path) as ledger:
        run, block = planned(ledger)
        known = KnownRun(ledger, run)
        assert known.state.all_attempts == ()
        claimed(ledger, block.chunks[0])
        with monkeypatch.context() as patch:
            patch.setattr(ledger, "state", interrupted)
            with pytest.raises(KeyboardInterrupt):
                known.renew()
        assert len(known.state.all_attempts) == 1


def interrupted(run_id):
    raise KeyboardInterrupt


def test_session_that_got_its_id_meanwhile_is_not_lost(path):
    """Who read it before must not close it, and count it as free."""
    with Ledger(path) as ledger:
        run, _ = planned(ledger)
        made = ledger.open_session(run.id, "session", "A", now=5.0, reserve_seconds=30)
        ledger.record_session(made, "s-1")
        found = ledger.close_session(made, now=70.0, usage_seconds=0.0)
        assert (found.session_id, found.closed_at, found.usage_seconds) == ("s-1", None, None)
        assert ledger.state(run.id).budget.reserved_seconds == 30


class Closing:
    """A service that closes sessions."""

    def __init__(self):
        self.closed = []

    def close_session(self, session_id):
        self.closed.append(session_id)

    def session_seconds(self, _session_id):
        return 7.0


@pytest.mark.parametrize("at", ["before it is read", "before it is recorded"])
def test_a_session_whose_id_comes_while_all_are_closed_is_closed_too(path, monkeypatch, at):
    """A cancelled run must not leave one open, which is billed by the clock."""
    with Ledger(path) as ledger, Ledger(path) as other:
        run, _ = planned(ledger)
        made = ledger.open_session(run.id, "session", "A", now=5.0, reserve_seconds=30)
        known, service = KnownRun(ledger, run), Closing()
        sessions = RunSessions(
            known, service, "session", "B", lambda: 9.0, 60.0, Problems(run.name)
        )
        assert known.state.sessions[0].session_id is None
        if at == "before it is read":
            other.record_session(made, "s-1")
        else:
            close = ledger.close_session

            def late(session, **given):
                if session.session_id is None:
                    other.record_session(made, "s-1")
                return close(session, **given)

            monkeypatch.setattr(ledger, "close_session", late)
        sessions.close_all()
        assert service.closed == ["s-1"]
        (found,) = ledger.state(run.id).sessions
        assert (found.closed_at, found.usage_seconds) == (9.0, 7.0)
