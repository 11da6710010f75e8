"""What the service is, before anybody asks: rules, records, faults to come, the time."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from hardware_runs.standin.faults import Fault, Script
from hardware_runs.standin.protocol import Refusal
from hardware_runs.standin.records import Job, SessionRecord, State, cancel, closing_time, state_of
from hardware_runs.standin.store import RecordStore
from hardware_runs.standin.tokens import Tokens

TOKEN = "stand-in-" + "0" * 35


@dataclass(frozen=True)
class Rules:
    """How the service behaves while nothing goes wrong."""

    noisy: bool = True
    """Execute with the devices' noise; those too wide for that (`ibm_fez`, `ibm_torino`) execute
    without it."""
    token: str = TOKEN
    """The API key that is accepted."""
    token_seconds: float = 3600.0
    """How long an access token lasts, in real time."""
    queue_seconds: float = 0.0
    run_seconds: float = 0.0
    """By the stand-in's clock; how long a result takes to compute is another matter."""
    usage_factor: float = 1.0
    """Real usage over forecast."""
    posts_per_minute: int | None = None
    """Jobs accepted in a minute; IBM says 5. None: any number."""
    usage_limit_seconds: float | None = None
    """Once used up, jobs are refused."""


class Service:
    """State and logic; its methods may be called from any thread.

    Args:
        store: of jobs and sessions.
        rules: how it behaves.
        clock: seconds since the epoch; `advance` adds to it.
        faults: what goes wrong.
    """

    def __init__(
        self,
        store: RecordStore,
        rules: Rules,
        clock: Callable[[], float] = time.time,
        faults: Iterable[Fault] = (),
    ) -> None:
        self.store = store
        self.rules = rules
        self.script = Script(list(faults))
        self._clock = clock
        self.tokens = Tokens(
            store.fact("secret", lambda: secrets.token_hex(16)), rules.token_seconds
        )
        self.executing = threading.Lock()

    # What tests and scripts do to it.

    @property
    def now(self) -> float:
        """Seconds since the epoch, by the clock and what was added to it."""
        return self._clock() + float(self.store.fact("advanced", lambda: 0.0))

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        with self.store.lock:
            self.store.set_fact("advanced", self.store.fact("advanced", lambda: 0.0) + seconds)

    def add_fault(self, fault: Fault) -> None:
        """Another thing will go wrong."""
        with self.store.lock:
            self.script.add(fault)

    def clear_faults(self) -> None:
        """Nothing goes wrong any more."""
        with self.store.lock:
            self.script.clear()

    def recalibrate(self) -> None:
        """All devices are calibrated anew, now."""
        with self.store.lock:
            self.store.set_fact("calibrations", [*self.calibrations, self.now])

    def expire_tokens(self) -> None:
        """Every access token given out so far ends."""
        with self.store.lock:
            self.store.set_fact("generation", self.generation + 1)

    def close_session(self, session_id: str) -> None:
        """As the service closes a session by itself: what waits in it fails."""
        with self.store.lock:
            self.store.update_session(replace(self.session(session_id), closed=self.now))

    def cancel_job(self, job_id: str) -> None:
        """As somebody else cancels it."""
        with self.store.lock:
            self.store.update_job(cancel(self.job(job_id), self.now))

    def closes(self, job: Job) -> float:
        """When the session of a job closes; infinite without one."""
        if job.session_id is None:
            return float("inf")
        session = self.session(job.session_id)
        return closing_time(session, self.store.jobs_of(session.session_id))

    def state(self, job: Job) -> State:
        """Of a job, now."""
        return state_of(job, self.now, self.closes(job))

    def records(self) -> dict[str, Any]:
        """All that happened, as JSON values."""
        with self.store.lock:
            jobs = [
                {
                    **asdict(job),
                    "tags": list(job.tags),
                    "state": state.status,
                    "usage_seconds": state.usage_seconds,
                }
                for job in self.store.jobs()
                for state in [self.state(job)]
            ]
            requests = self.store.requests()
        return {
            "jobs": jobs,
            "sessions": [asdict(session) for session in self.store.sessions()],
            "num_posts": sum(route == "POST /jobs" for _, route, _, _ in requests),
            "tag_lookups": [tags for _, route, _, tags in requests if route == "GET /jobs"],
            "cancels": [
                route.split("/")[2]
                for _, route, status, _ in requests
                if fnmatchcase(route, "POST /jobs/*/cancel") and status == 204
            ],
            "requests": [[route, status] for _, route, status, _ in requests],
        }

    # What the answers are made from.

    @property
    def generation(self) -> int:
        """Of the access tokens that are accepted."""
        return int(self.store.fact("generation", lambda: 0))

    @property
    def calibrations(self) -> list[float]:
        """When the devices were calibrated anew."""
        times: list[float] = self.store.fact("calibrations", list)
        return times

    @property
    def used_seconds(self) -> float:
        """QPU seconds that all jobs of the instance have used."""
        return sum(self.state(job).usage_seconds for job in self.store.jobs())

    @property
    def is_used_up(self) -> bool:
        """Whether no more jobs are taken."""
        limit = self.rules.usage_limit_seconds
        return limit is not None and self.used_seconds >= limit

    def job(self, job_id: str) -> Job:
        """A job that there is.

        Raises:
            Refusal: 404.
        """
        job = self.store.job(job_id)
        if job is None or job.deleted:
            raise Refusal(404, f"Job not found: {job_id}", 1291)
        return job

    def session(self, session_id: str) -> SessionRecord:
        """A session that there is.

        Raises:
            Refusal: 404.
        """
        session = self.store.session(session_id)
        if session is None:
            raise Refusal(404, f"Session not found: {session_id}")
        return session
