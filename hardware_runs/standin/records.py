"""Jobs and sessions, and the state they are in at a time.

A state is not stored but follows from the record and the time: a clock that is moved, or a
stand-in that was killed meanwhile, changes nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

RAN_TOO_LONG = 1305
RESULT_TOO_LARGE = 5302
SESSION_CLOSED = 1217

MAX_TTL_SECONDS = 8 * 3600
IDLE_SECONDS = 30 * 60
"""A session without jobs closes."""


@dataclass(frozen=True)
class Job:
    """What was posted, and how it is to end."""

    number: int
    """In the order of acceptance, from 0."""
    job_id: str
    backend: str
    created: float
    tags: tuple[str, ...] = ()
    session_id: str | None = None
    max_execution_time: float | None = None
    private: bool = False
    log_level: str | None = None
    program_sha256: str = ""
    """Of what is executed: the same for the same job posted anew, by any process."""
    posted_sha256: str = ""
    """Of the bytes of the program as they came; parameters' random ids make it change."""
    shots: int = 0
    """Of each circuit of each row and randomization."""
    num_executions: int = 0
    forecast_seconds: float = 0.0
    usage_factor: float = 1.0
    usage_pending_seconds: float = 0.0
    """From its end until its metrics tell the usage."""
    has_usage: bool = True
    """Whether its metrics ever tell it."""
    queue_seconds: float = 0.0
    run_seconds: float = 0.0
    ending: str = "Completed"
    reason: str | None = None
    reason_code: int | None = None
    cancelled: float | None = None
    deleted: bool = False

    @property
    def starts(self) -> float:
        """When it leaves the queue."""
        return self.created + self.queue_seconds

    @property
    def ends(self) -> float:
        """When it is through, or was cancelled."""
        ends = self.starts + self.run_seconds
        return ends if self.cancelled is None else min(ends, self.cancelled)


@dataclass(frozen=True)
class State:
    """Of a job at a time."""

    status: str
    """Queued, Running, Completed, Failed or Cancelled."""
    reason: str | None = None
    reason_code: int | None = None
    usage_seconds: float = 0.0
    is_final: bool = True


@dataclass(frozen=True)
class SessionRecord:
    """A session or a batch."""

    session_id: str
    mode: str
    """`dedicated` or `batch`."""
    backend: str
    created: float
    max_ttl: float = MAX_TTL_SECONDS
    stopped: float | None = None
    """Accepts no more jobs since."""
    closed: float | None = None
    """Closed with all that waited since."""


def is_accepting(session: SessionRecord, jobs: Iterable[Job], now: float) -> bool:
    """Whether jobs may still be posted to it."""
    return session.stopped is None and now < closing_time(session, jobs)


def activated(jobs: Iterable[Job], now: float) -> float | None:
    """When the first job of a session started."""
    return min((job.starts for job in jobs if job.starts <= min(now, job.ends)), default=None)


def closing_time(session: SessionRecord, jobs: Iterable[Job]) -> float:
    """When it closes: told to, at the end of its time to live, or after half an hour idle."""
    jobs = list(jobs)
    last = max((job.ends for job in jobs), default=session.created)
    times = [max(last, session.created) + IDLE_SECONDS]
    if session.closed is not None:
        times.append(session.closed)
    if session.stopped is not None:
        times.append(max(session.stopped, last))
    start = activated(jobs, float("inf"))
    if start is not None:
        times.append(start + session.max_ttl)
    return min(times)


def elapsed_seconds(
    session: SessionRecord, jobs: Iterable[Job], states: Iterable[State], now: float
) -> float:
    """What it costs: a batch what its jobs do, a session the time since its first job."""
    jobs = list(jobs)
    if session.mode == "batch":
        return sum(state.usage_seconds for state in states)
    start = activated(jobs, now)
    return 0.0 if start is None else min(now, closing_time(session, jobs)) - start


def state_of(job: Job, now: float, closes: float = float("inf")) -> State:
    """The state of a job.

    Args:
        job: as recorded.
        now: the time.
        closes: when its session closes; what has not started by then fails.
    """
    if job.cancelled is not None and job.cancelled <= min(now, job.starts):
        return State("Cancelled", job.reason, job.reason_code)
    if job.starts > closes and now >= closes:
        return State("Failed", "The session was closed before the job started.", SESSION_CLOSED)
    if now < job.starts:
        return State("Queued", is_final=False)
    if now < job.ends:
        return State("Running", is_final=False)
    usage = job.forecast_seconds * job.usage_factor
    cap = job.max_execution_time
    if job.cancelled is not None and job.cancelled < job.starts + job.run_seconds:
        share = (job.cancelled - job.starts) / job.run_seconds
        return State("Cancelled", job.reason, job.reason_code, usage * share)
    if job.reason_code == RAN_TOO_LONG:
        usage = max(usage, cap or usage)
    elif cap is None or usage <= cap:
        return State(job.ending, job.reason, job.reason_code, usage)
    cap = usage if cap is None else cap
    text = f"Job exceeded its maximum execution time of {cap:g} seconds."
    return State("Cancelled", text, RAN_TOO_LONG, min(usage, cap))


def cancel(job: Job, now: float) -> Job:
    """The job as somebody cancels it now."""
    return replace(job, cancelled=now)
