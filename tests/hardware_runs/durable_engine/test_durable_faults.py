"""Everything that a network, a service or a device may do wrong: success, or one clear message."""

import logging
import re

import pytest
import torch
from durable_runs import RULES, check_paid_once, images, network
from tiers import thorough

from hardware_runs import Rules
from hardware_runs.ledger import AttemptState
from hardware_runs.standin import Fault
from hardware_runs.standin.service import TOKEN
from qpc_qiskit.errors import BudgetError, EngineError, JobFailed, QPCError, ResultsPending

pytestmark = pytest.mark.usefixtures("no_backoff", "no_secrets")
BOTH = images(2)
"""A job for each."""
X = BOTH[:1]
DEEP = {"model": network(), "max_qpu_seconds": 20_000}
"""What lies between two layers."""


@pytest.fixture
def no_secrets(tmp_path, caplog):
    """The token is nowhere, whatever happened."""
    caplog.set_level(logging.INFO)
    for name in ("hardware_runs", "qpc_qiskit", "qiskit_ibm_runtime"):
        caplog.set_level(logging.DEBUG, name)
    yield
    assert TOKEN not in caplog.text
    for file in tmp_path.rglob("*"):
        if file.is_file():
            assert TOKEN.encode() not in file.read_bytes(), file


def check(script, standin, logits, x=X, step=61.0, **counts):
    assert torch.equal(script.finish(x, step=step), logits[: len(x)])
    check_paid_once(script, standin, **counts)
    for job in standin.records()["jobs"]:
        assert TOKEN not in "".join(job["tags"])


def told(script, x, rounds):
    """Messages of the errors that a script ends with while something is wrong."""
    messages = []
    for _ in range(rounds):
        try:
            script.once(x)
        except ResultsPending:
            pass
        except QPCError as error:
            messages.append(str(error))
        script.clock.advance(61)
    return messages


# Requests.


def test_connection_is_cut_after_a_job_was_accepted(broken, logits):
    standin, script = broken(Fault("cut_after"))
    check(script, standin, logits, BOTH)
    assert standin.records()["num_posts"] == 2


def test_unclear_post_does_not_block_the_next_process(broken, logits):
    """The lease outlasts a POST; the POST is over."""
    standin, script = broken(Fault("cut_after"), script={"rules": Rules()})
    with pytest.raises(ResultsPending, match=r"qpc-\w+-\d+-1: .*ibm_manila"):
        script.once(X)
    check(script, standin, logits, step=1)


def test_connection_is_cut_before_a_job_was_accepted(broken, logits):
    """Two look-ups, a minute apart, before it is posted again."""
    standin, script = broken(Fault("cut"))
    with pytest.raises(ResultsPending):
        script.once(X)
    for _ in range(2):
        script.clock.advance(10)
        message = r"qpc-[\w-]+: .*may have accepted .* again 60 s later"
        with pytest.raises(ResultsPending, match=message):
            script.once(X)
        ledger, run_id = script.ledger()
        assert len(ledger.state(run_id).attempts(states=[AttemptState.INTENT])) == 1
    check(script, standin, logits)
    assert standin.records()["num_posts"] == 2


def test_listing_lags_after_a_cut(broken, logits):
    standin, script = broken(Fault("cut_after"), Fault("lag", seconds=59, times=None))
    check(script, standin, logits, step=20)
    assert standin.records()["num_posts"] == 1


def test_listing_lags_too_long(broken, logits):
    """The duplicate is found by a later listing, cancelled and reported."""
    standin, script = broken(
        Fault("cut_after"), Fault("lag", seconds=150, times=None), queue_seconds=300
    )
    check(script, standin, logits, duplicates=1)


def test_client_posts_again_after_a_504(broken, logits, caplog):
    standin, script = broken(Fault("status_after", status=504, times=2), queue_seconds=50)
    check(script, standin, logits, duplicates=2)
    first = standin.records()["jobs"][0]["job_id"]
    assert len(standin.records()["cancels"]) == 2
    assert first not in standin.records()["cancels"]
    assert f"duplicate of job {first}" in caplog.text


def test_duplicate_that_is_done_already_is_counted(broken, logits):
    standin, script = broken(Fault("status_after", status=504))
    check(script, standin, logits, duplicates=1)


def test_duplicate_that_cannot_be_cancelled_at_once(broken, logits):
    standin, script = broken(
        Fault("status_after", status=504),
        Fault("status", route="POST /jobs/*/cancel", status=503, times=6),
        queue_seconds=200,
    )
    check(script, standin, logits, duplicates=1)
    assert len(standin.records()["cancels"]) == 1


def test_client_posts_again_and_the_listing_lags(broken, logits):
    """It shows the first of the two only: the second is known all the same."""
    standin, script = broken(
        Fault("status_after", status=504), Fault("lag", seconds=30, times=1), queue_seconds=100
    )
    check(script, standin, logits, duplicates=1)


def test_long_burst_after_acceptance(broken, logits):
    """Six jobs, and no answer to any."""
    standin, script = broken(Fault("status_after", status=504, times=6), queue_seconds=50)
    check(script, standin, logits, duplicates=5)


def test_too_many_requests(broken, logits):
    standin, script = broken(Fault("status", status=429, code=1202, times=2))
    with pytest.raises(ResultsPending, match=r"429|1202"):
        script.once(X)
    check(script, standin, logits)
    ledger, run_id = script.ledger()
    assert {a.number for a in ledger.state(run_id).attempts()} == {1}


@pytest.mark.parametrize(
    "route",
    [
        "POST /jobs",
        "*",
        *thorough(
            "GET /jobs",
            "GET /jobs/*",
            "GET /jobs/*/results",
            "GET /jobs/*/metrics",
            "POST /sessions",
            "GET /sessions/*",
            "GET /instances/usage",
            "GET /backends/*/status",
        ),
    ],
)
def test_bursts_of_500(broken, logits, route):
    """The client tries six times; then the run is usable, and goes on when it is over."""
    standin, script = broken(
        Fault("status", route=route, status=500, times=7, skip=4 * (route == "*")),
        script={"mode": "batch"},
    )
    for message in told(script, X, rounds=2):
        assert re.search("500|too many", message)
        assert re.search("'run'|ibm_manila", message)
    check(script, standin, logits)


def test_token_expires(broken, logits):
    standin, script = broken(Fault("expired_token", route="*", skip=4))
    for message in told(script, X, rounds=2):
        assert TOKEN not in message
    script.backend = standin.service().backend("ibm_manila")  # as a new process does
    check(script, standin, logits)


def test_refused_job_names_run_and_chunk(broken, logits):
    standin, script = broken(Fault("status", status=403, message="not allowed", times=1))
    with pytest.raises(EngineError, match=r"Run 'run', layer '0', chunk \d+: .*refused.*run the"):
        script.once(X)
    check(script, standin, logits)


# Jobs.


def test_system_error_is_tried_again(broken, logits):
    standin, script = broken(Fault("failed", code=9999, times=2))
    check(script, standin, logits, failed=2)
    ledger, run_id = script.ledger()
    states = [a.state for a in ledger.state(run_id).attempts()]
    assert states.count(AttemptState.FAILED) == 2


def test_at_most_max_attempts(broken):
    standin, script = broken(Fault("failed", code=9999, message="no luck", times=None))
    with pytest.raises(
        JobFailed, match=r"(?s)Run 'run', 0, chunk 1: job \w+ failed in attempt 3: .*9999.*no luck"
    ):
        script.finish(X)
    assert len(standin.records()["jobs"]) == RULES.max_attempts
    with pytest.raises(JobFailed):
        script.once(X)
    assert len(standin.records()["jobs"]) == RULES.max_attempts
    standin.clear_faults()
    ledger, run_id = script.ledger()
    assert ledger.retry_failed_chunks(run_id) == 1
    script.finish(X)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault("failed", code=1500, message="your circuit", factor=1.0), "1500.*your circuit"),
        (Fault("too_long"), "maximum execution time"),
        (Fault("too_large"), "5302"),
    ],
)
def test_errors_that_would_come_again(broken, logits, fault, said):
    standin, script = broken(fault)
    with pytest.raises(
        JobFailed, match=rf"(?s)Run 'run', 0, chunk \d: job \w+ failed.* 1: .*{said}"
    ):
        script.finish(X)
    ledger, run_id = script.ledger()
    assert [a.number for a in ledger.state(run_id).attempts()].count(2) == 0
    ledger.retry_failed_chunks(run_id)
    check(script, standin, logits, failed=1)


def test_cancelled_by_somebody_else(broken, logits):
    """The dashboard is where one stops a run in a hurry: what was stopped is not sent again."""
    standin, script = broken(Fault("cancelled"))
    with pytest.raises(JobFailed, match=r"Run 'run'.*cancelled at the service, not by this run"):
        script.finish(X)
    ledger, run_id = script.ledger()
    assert len(standin.records()["jobs"]) == 1
    assert ledger.retry_failed_chunks(run_id) == 1
    check(script, standin, logits, failed=1)


@pytest.mark.parametrize("kind", ["truncated", "corrupted"])
def test_result_is_fetched_again(broken, logits, kind):
    standin, script = broken(Fault(kind, times=2))
    check(script, standin, logits)


def test_result_that_stays_unreadable_is_told(broken, logits):
    standin, script = broken(Fault("corrupted", times=None))
    with pytest.raises(ResultsPending, match=r"Run 'run'.*job \w+: .*could not be fetched"):
        script.finish(X, limit=3)
    standin.clear_faults()
    check(script, standin, logits)


def test_calibrated_anew(broken, logits):
    standin, script = broken(Fault("recalibrated", times=None))
    check(script, standin, logits)


# Batches and sessions.


@pytest.mark.parametrize("mode", ["batch", pytest.param("session", marks=pytest.mark.slow)])
def test_closed_as_a_job_comes(broken, logits, mode):
    standin, script = broken(Fault("closed_session", skip=1), script={"mode": mode})
    check(script, standin, logits, BOTH)
    assert len(standin.records()["sessions"]) == 2


@pytest.mark.parametrize("mode", [pytest.param("batch", marks=pytest.mark.slow), "session"])
def test_closed_while_jobs_wait(broken, logits, mode):
    standin, script = broken(queue_seconds=100, script={"mode": mode, "max_qpu_seconds": 20_000})
    with pytest.raises(ResultsPending):
        script.once(BOTH)
    (session,) = standin.records()["sessions"]
    standin.close_session(session["session_id"])
    check(script, standin, logits, BOTH, failed=2)
    ledger, run_id = script.ledger()
    assert len(ledger.state(run_id).sessions) == 2
    assert ledger.state(run_id).budget.reserved_seconds == 0


@pytest.mark.parametrize("mode", ["batch", pytest.param("session", marks=pytest.mark.slow)])
def test_closed_by_itself_between_layers(broken, deep_logits, mode):
    """Idle for half an hour: the script came back too late."""
    standin, script = broken(script={**DEEP, "mode": mode})
    with pytest.raises(ResultsPending):
        script.once(X)
    script.clock.advance(3600)
    check(script, standin, deep_logits)
    assert len(standin.records()["sessions"]) == 2


def test_session_that_idles_uses_its_budget_up(broken):
    """It is billed by the clock, until it has used what it reserved."""
    _, script = broken(script={**DEEP, "mode": "session", "max_qpu_seconds": 50})
    with pytest.raises(ResultsPending):
        script.once(X)
    script.clock.advance(3600)
    with pytest.raises(BudgetError, match=r"Run 'run'.*budget of 50 s \(50 s are used"):
        script.finish(X)


def test_opening_a_batch_is_refused(broken, logits):
    standin, script = broken(
        Fault("status", route="POST /sessions", status=403), script={"mode": "batch"}
    )
    with pytest.raises(EngineError, match=r"Run 'run': No batch on ibm_manila"):
        script.once(X)
    check(script, standin, logits)


# The rate.


def test_at_most_so_many_posts_a_minute(broken):
    """Also by processes that follow one another."""
    standin, script = broken(
        posts_per_minute=2, script={"rules": Rules(max_in_flight=50, posts_per_minute=2)}
    )
    x = images(5)
    with pytest.raises(ResultsPending):
        script.once(x[:1])
    script.finish(x, step=25.0)
    times = [job["created"] for job in standin.records()["jobs"]]
    assert len(times) == 5
    assert all(late - early >= 60 for early, late in zip(times, times[2:], strict=False))
    assert [status for route, status in standin.records()["requests"] if status == 429] == []


@pytest.mark.filterwarnings("ignore:This instance has met its usage limit")
def test_usage_limit_of_the_instance(broken):
    _, script = broken(usage_limit_seconds=3)
    with pytest.raises(EngineError, match=r"Run 'run', layer '0', chunk 3: .*usage limit"):
        script.finish(images(3))
