"""Nothing is paid twice, nothing paid is forgotten, and the budget is what the user last said."""

import math

import pytest
import torch
from durable_runs import START, check_paid_once, images, watch
from qiskit_ibm_runtime import Batch, Session

from hardware_runs.checkpoints.cancelling import allow_again, cancel, give_up
from hardware_runs.durable_engine.beginning import set_budget
from hardware_runs.ledger import AttemptState, ChunkState, Ledger
from hardware_runs.standin import Fault
from qpc_qiskit import use_engine
from qpc_qiskit.errors import (
    EngineError,
    JobFailed,
    LedgerConflictError,
    LedgerError,
    ResultsPending,
)

pytestmark = pytest.mark.usefixtures("no_backoff")
X = images(2)[:1]
"""One job."""
LONG = 10_000


def pending(script, match, x=X):
    with pytest.raises(ResultsPending, match=match):
        script.once(x)


def states(script):
    ledger, run_id = script.ledger()
    return [attempt.state for attempt in ledger.state(run_id).attempts()]


def budget(script):
    ledger, run_id = script.ledger()
    return ledger.state(run_id).budget


# POSTs.


@pytest.mark.parametrize(
    ("status", "code", "mode"),
    [(429, 1202, "job"), (409, None, "job"), (400, 1217, "batch"), (403, None, "job")],
)
def test_refused_when_the_client_posts_again(broken, logits, status, code, mode):
    """After a 504 the first may have been accepted, whatever the answer to the second."""
    standin, script = broken(
        Fault("status_after", status=504),
        Fault("status", status=status, code=code, skip=1),
        script={"mode": mode},
    )
    pending(script, rf"qpc-[\w-]+: ibm_manila: .*{status}")
    assert states(script) == [AttemptState.INTENT]
    assert budget(script).reserved_seconds > 0
    assert torch.equal(script.finish(X, step=1), logits[:1])
    check_paid_once(script, standin)
    assert standin.records()["num_posts"] == 2
    assert len(standin.records()["sessions"]) == (mode == "batch")


def test_duplicate_is_cancelled_by_the_process_that_made_it(broken):
    """Nobody may come back for an hour."""
    standin, script = broken(Fault("status_after", status=504), queue_seconds=LONG)
    pending(script, "duplicate")
    kept, second = standin.records()["jobs"]
    assert standin.records()["cancels"] == [second["job_id"]]
    assert [kept["state"], second["state"]] == ["Queued", "Cancelled"]
    ledger, run_id = script.ledger()
    (duplicate,) = ledger.state(run_id).duplicates
    assert (duplicate.job_id, duplicate.usage_seconds) == (second["job_id"], 0)


# Usage.


def test_usage_that_is_not_told_yet(broken, logits):
    """0 s, the service says, and that it is pending: the reservation stays until it is not."""
    standin, script = broken(Fault("pending_usage", seconds=300, times=None))
    assert torch.equal(script.finish(X, step=1), logits[:1])
    ledger, run_id = script.ledger()
    (attempt,) = ledger.state(run_id).attempts()
    assert attempt.usage_seconds is None
    held = budget(script)
    assert (held.used_seconds, held.reserved_seconds) == (0, attempt.reserved_seconds)
    script.clock.advance(300)
    script.once(X)
    check_paid_once(script, standin)


def test_usage_that_is_never_told(broken, logits):
    _, script = broken(Fault("no_usage", times=None))
    assert torch.equal(script.finish(X, step=1), logits[:1])
    assert budget(script).used_seconds == 0
    assert budget(script).reserved_seconds > 0


def test_failed_job_that_was_charged_is_not_sent_again(broken):
    """Also where the code is that of the service's own errors."""
    standin, script = broken(Fault("failed", code=9999, factor=0.5))
    with pytest.raises(JobFailed, match=r"Run 'run', 0, chunk 1: job \w+ failed in attempt 1"):
        script.finish(X)
    (job,) = standin.records()["jobs"]
    assert budget(script).used_seconds == pytest.approx(job["usage_seconds"])


@pytest.mark.parametrize("factor", [0.0, 0.5])
def test_failed_job_whose_charge_is_not_told_yet(broken, logits, factor):
    standin, script = broken(
        Fault("failed", code=9999, factor=factor), Fault("pending_usage", seconds=500)
    )
    pending(script, "waits at 0")
    (job,) = standin.records()["jobs"]
    for _ in range(2):
        script.clock.advance(61)
        name = job["job_id"]
        pending(script, rf"(?s)job {name}: It failed .*`qpc run resume run --give-up {name}`")
    assert states(script) == [AttemptState.POSTED]
    script.clock.advance(500)
    if factor:
        with pytest.raises(JobFailed, match="failed in attempt 1"):
            script.once(X)
        assert len(standin.records()["jobs"]) == 1
    else:
        assert torch.equal(script.finish(X), logits[:1])
        check_paid_once(script, standin, failed=1)


@pytest.mark.parametrize(("mode", "kind"), [("batch", Batch), ("session", Session)])
def test_cancelled_with_its_session(broken, logits, mode, kind):
    """Who cancels a batch has not decided about any one job."""
    standin, script = broken(
        Fault("queue", seconds=LONG), script={"mode": mode, "max_qpu_seconds": math.inf}
    )
    pending(script, "waits at 0")
    (session,) = standin.records()["sessions"]
    kind.from_id(session["session_id"], standin.service()).cancel()
    assert standin.records()["jobs"][0]["state"] == "Cancelled"
    assert torch.equal(script.finish(X), logits[:1])
    check_paid_once(script, standin, failed=1)
    assert len(standin.records()["sessions"]) == 2


# Cancelling and giving up.


@pytest.mark.parametrize("is_accepted", [False, True])
def test_run_is_cancelled_while_a_job_is_posted(broken, is_accepted):
    """Its process has begun the POST and cannot take it back; it cancels the job."""
    standin, script = broken(queue_seconds=LONG)
    engine = script.engine()
    send, told = engine.dispatcher.service.send, []

    def sent_meanwhile(*arguments, **named):
        job_id = send(*arguments, **named) if is_accepted else None
        with Ledger(script.path) as ledger:
            told.append(cancel(ledger, ledger.get_run("run"), clock=script.clock))
        return job_id or send(*arguments, **named)

    engine.dispatcher.service.send = sent_meanwhile
    with (
        pytest.raises((ResultsPending, LedgerConflictError)),
        engine,
        torch.no_grad(),
        use_engine(script.model, engine),
    ):
        engine.map(script.model, X.split(1))
    (job,) = standin.records()["jobs"]
    assert job["state"] == "Cancelled"
    assert len(told[0].cancelled) == is_accepted
    assert len(told[0].unclear) == (not is_accepted)
    assert states(script) == [AttemptState.CANCELLED]
    assert budget(script).reserved_seconds == 0
    with pytest.raises(LedgerConflictError, match=r"'run' was cancelled"):
        script.once(X)
    assert standin.records()["num_posts"] == 1


def test_unclear_job_of_a_cancelled_run(broken):
    """Nobody found it, twice: what it held back is free."""
    standin, script = broken(Fault("cut"))
    pending(script, "qpc-")
    ledger, run_id = script.ledger()
    (intent,) = ledger.state(run_id).attempts()
    found = cancel(ledger, ledger.get_run("run"), clock=script.clock)
    assert found.unclear == (intent.tag,)
    script.clock.advance(61)
    with script.engine() as engine:
        engine.dispatcher.step()
    assert budget(script).reserved_seconds == intent.reserved_seconds > 0
    script.clock.advance(61)
    with pytest.raises(LedgerConflictError, match="was cancelled"), script.engine() as engine:
        engine.dispatcher.step()  # settles it, then finds a chunk that it may not send
    assert budget(script).reserved_seconds == 0
    assert states(script) == [AttemptState.CANCELLED]
    assert standin.records()["num_posts"] == 1


def test_job_is_given_up(broken, logits):
    """The service has forgotten it; the user decides to pay for another one."""
    standin, script = broken()
    pending(script, "waits at 0")
    (job,) = standin.records()["jobs"]
    job_id = job["job_id"]
    standin.add_fault(Fault("status", route=f"GET /jobs/{job_id}*", status=404, times=None))
    script.clock.advance(61)
    pending(script, rf"job {job_id}: .*could not be looked up.*not found")

    ledger, run_id = script.ledger()
    run = ledger.get_run("run")
    with pytest.raises(LedgerError, match=rf"'run' does not wait for a job 'other'.* {job_id}\."):
        give_up(ledger, run, "other", clock=script.clock)
    give_up(ledger, run, job_id, clock=script.clock)
    with pytest.raises(LedgerError, match=r"it waits for no job\."):
        give_up(ledger, run, job_id, clock=script.clock)
    cap = ledger.state(run_id).attempts()[0].reserved_seconds
    with pytest.raises(JobFailed, match=rf"job {job_id} .*given up by the user.* --again"):
        script.once(X)
    assert budget(script).reserved_seconds == cap > 0

    allow_again(ledger, run)
    assert torch.equal(script.finish(X), logits[:1])
    assert [a.number for a in ledger.state(run_id).attempts()] == [1, 2]
    assert budget(script).reserved_seconds == cap
    standin.clear_faults()
    script.once(X)
    check_paid_once(script, standin, failed=1)


# The budget.


def test_ledger_keeps_the_newest_budget(tmp_path):
    """Circuits and budgets are added by processes that do not know of each other."""
    with Ledger(tmp_path / "runs.sqlite") as one, Ledger(tmp_path / "runs.sqlite") as other:
        run_id = one.create_run("run", {}, now=START).id
        one.add_revision(run_id, reason="begun", content={}, max_qpu_seconds=100, now=START)
        other.set_budget(run_id, 5, now=START)
        one.add_circuits(run_id, reason="circuit", blobs={"a": b"1"}, now=START)
        other.set_budget(run_id, None, now=START)
        one.add_circuits(run_id, reason="circuit", blobs={"b": b"2"}, now=START)
        found = [(r.max_qpu_seconds, set(r.blobs)) for r in other.state(run_id).revisions]
    assert found == [(100, set()), (5, set()), (5, {"a"}), (None, {"a"}), (None, {"a", "b"})]


@pytest.mark.parametrize("begun", [100, math.inf])
def test_budget_that_changes_while_circuits_are_placed(broken, begun):
    _, script = broken(queue_seconds=LONG, script={"max_qpu_seconds": begun})
    ledger = Ledger(script.path)

    def lower(name):
        with Ledger(script.path) as other:
            set_budget(other, other.get_run("run"), 50, now=script.clock())

    watch(ledger, ["add_circuits"], after=lambda name: None, before=lower)
    with pytest.raises(ResultsPending):
        script.once(X, ledger=ledger)
    assert budget(script).max_qpu_seconds == 50
    pending(script, "waits at")  # the same script again, with the budget that it always gave
    assert budget(script).max_qpu_seconds == 50


def test_budget_of_an_old_run(broken):
    _, script = broken(script={"max_qpu_seconds": 100})
    run = script.engine().run
    ledger, _ = script.ledger()
    for given, expected in [(100, 100), (70, 70), (100, 70), (None, 70), (math.inf, None)]:
        script.engine(max_qpu_seconds=given)
        assert ledger.state(run.id).budget.max_qpu_seconds == expected, given
    num_revisions = len(ledger.state(run.id).revisions)
    script.engine(max_qpu_seconds=math.inf)
    assert len(ledger.state(run.id).revisions) == num_revisions


def test_budget_of_a_run_without_one(broken):
    _, script = broken(script={"max_qpu_seconds": math.inf})
    run = script.engine().run
    ledger, _ = script.ledger()
    assert ledger.state(run.id).budget.left_seconds is None
    for given, expected in [(50, 50), (math.inf, 50)]:
        script.engine(max_qpu_seconds=given)
        assert ledger.state(run.id).budget.max_qpu_seconds == expected, given


def test_device_without_a_budget(broken):
    """Refused also where a process died before it could write the budget down."""
    standin, script = broken(script={"max_qpu_seconds": None})
    before = standin.records()["requests"]
    with pytest.raises(EngineError, match=r"'run' would send paid jobs to ibm_manila: give max_"):
        script.once(X)
    ledger = Ledger(script.path)
    assert ledger.list_runs() == ()

    class Death(BaseException):
        pass

    def die(name):
        raise Death

    watch(ledger, ["add_revision"], after=lambda name: None, before=die)
    with pytest.raises(Death):
        script.engine(ledger, max_qpu_seconds=100)
    with pytest.raises(EngineError, match="Nothing was sent"):
        script.once(X)
    script.engine(max_qpu_seconds=100)
    assert budget(script).max_qpu_seconds == 100
    sent = standin.records()["requests"][len(before) :]
    assert [route for route, _ in sent if route.startswith("POST")] == []
    assert ledger.state(ledger.get_run("run").id).chunks(states=[ChunkState.OPEN]) == ()


def test_session_that_could_not_be_closed_is_tried_again(broken):
    """It is billed until it is closed."""
    standin, script = broken(
        Fault("status", status=503, route="PATCH /sessions/*", times=None),
        script={"mode": "session", "max_qpu_seconds": 300},
    )
    script.finish(X)
    ledger, run_id = script.ledger()
    assert ledger.state(run_id).sessions[0].closed_at is None
    standin.clear_faults()
    script.once(X)
    assert ledger.state(run_id).sessions[0].closed_at is not None
    assert standin.records()["sessions"][0]["stopped"] is not None
