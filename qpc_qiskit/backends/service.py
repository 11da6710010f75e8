"""Jobs at IBM's service, by tag and by id: what a run needs that outlives its process.

Whoever sends a job may die before he hears its id. So every job carries a tag of its own by which
it is found again, errors say whether a job may exist all the same, and nothing here is remembered.
Beside `runtime` this is the only module that imports IBM's client.
"""

from __future__ import annotations

import re
from contextvars import Context
from datetime import UTC, datetime
from typing import Any

from qiskit.providers import BackendV2
from qiskit.providers.exceptions import QiskitBackendNotFoundError

from qpc_qiskit.backends.jobs import JobStatus, JobTimes, State
from qpc_qiskit.common.arrays import Array
from qpc_qiskit.common.extras import importing
from qpc_qiskit.errors import FetchError, JobDeferred, JobRefused, JobUnclear, SessionEnded
from qpc_qiskit.rows.prepared import Prepared
from qpc_qiskit.rows.pubs import make_pub

with importing("ibm", "IBM's service"):
    from qiskit_ibm_runtime import Batch, IBMBackend, Session
    from qiskit_ibm_runtime.api.exceptions import RequestsApiError
    from qiskit_ibm_runtime.exceptions import (
        IBMInputValueError,
        IBMNotAuthorizedError,
        IBMRuntimeError,
        RuntimeInvalidStateError,
    )
    from qiskit_ibm_runtime.executor_estimator import Estimator
    from qiskit_ibm_runtime.options_models import EstimatorOptions
    from qiskit_ibm_runtime.runtime_job_v2 import RuntimeJobV2
    from requests import RequestException

REFUSED = range(400, 500)
"""HTTP status codes of a POST, sent once, that the service certainly has not taken."""
RATE_LIMITED = 429
_SAYS_CLOSED = re.compile(r"(?<![\w-])1217(?![\w-])|session is closed")
"""The code alone, not as a part of an id."""


_UNANSWERED = (IBMRuntimeError, IBMInputValueError, RequestsApiError, IBMNotAuthorizedError)
"""With which the client says that a question was not answered."""


class IBMJobs:
    """Jobs of one backend at the service; a `JobService` of durable runs.

    Args:
        backend: of a `QiskitRuntimeService`; one object for all jobs, since the client takes two
            for different devices.
        options: of the Estimator, for all jobs.
    """

    is_local = False

    def __init__(self, backend: IBMBackend, options: EstimatorOptions) -> None:
        self.backend: BackendV2 = backend
        self._service = backend.service
        self._options = options

    def open_session(self, mode: str, max_seconds: int | None) -> str:
        """Open a batch or a session; its id.

        Raises:
            JobRefused: the service refused.
            JobDeferred: it did not answer, or will not now.
        """
        kind = Batch if mode == "batch" else Session
        try:
            opened = Context().run(kind, self.backend, max_time=max_seconds)
        except (IBMRuntimeError, RequestsApiError, IBMNotAuthorizedError) as error:
            text = f"No {mode} on {self.backend.name}: {error}"
            code = _status_code(error)
            if code in REFUSED and code != RATE_LIMITED:
                raise JobRefused(text) from error
            raise JobDeferred(text, is_rate_limit=code == RATE_LIMITED) from error
        return str(opened.session_id)

    def close_session(self, session_id: str) -> None:
        """Take no more jobs; those that wait still run. One that is closed stays so.

        Raises:
            FetchError: the service did not answer: a session may still be open, and billed.
        """
        try:
            self._session(session_id).close()
        except SessionEnded:
            return
        except (*_UNANSWERED, JobDeferred) as error:
            raise FetchError(f"{session_id} could not be closed: {error}") from error

    def is_session_open(self, session_id: str) -> bool:
        """Whether a batch or session takes jobs.

        Raises:
            FetchError: the service did not answer.
        """
        try:
            return self._details(session_id).get("state") != "closed"
        except SessionEnded:
            return False

    def session_seconds(self, session_id: str) -> float | None:
        """What a batch or session that has ended is charged; None: it has not ended.

        Raises:
            FetchError: the service did not answer, or does not know it.
        """
        try:
            details = self._details(session_id)
        except SessionEnded as error:
            raise FetchError(str(error)) from error
        used = details.get("usage_time")
        return float(used) if details.get("state") == "closed" and used is not None else None

    def _details(self, session_id: str) -> dict[str, Any]:
        try:
            return self._session(session_id).details() or {}
        except (*_UNANSWERED, JobDeferred) as error:
            raise FetchError(f"{session_id} could not be looked up: {error}") from error

    def send(
        self,
        prepared: Prepared,
        rows: Array,
        precision: float | None,
        *,
        tag: str,
        cap_seconds: int,
        session_id: str | None,
        seed: int,
    ) -> str:
        """Send rows (m, P) as a job with one PUB; its id.

        Args:
            prepared: the circuit.
            rows: its parameter values.
            precision: of every row; None: the options'.
            tag: by which `find` finds it.
            cap_seconds: whole seconds of QPU time after which the service ends it.
            session_id: of a batch or session; None: job mode.
            seed: has no effect on a device.

        Raises:
            SessionEnded: the batch or session takes no more jobs; there is no job.
            JobRefused: there is certainly no job.
            JobDeferred: there is certainly none, and the same may be sent later.
            JobUnclear: there may be one; look for its tag.
        """
        options = self._options.model_copy(deep=True)
        options.environment.job_tags = [*options.environment.job_tags, tag]
        options.max_execution_time = cap_seconds
        pub = make_pub(prepared.template, rows, precision)

        def run() -> RuntimeJobV2:
            mode = self.backend if session_id is None else self._session(session_id)
            return Estimator(mode, options).run([pub])

        try:
            return str(Context().run(run).job_id())  # a context that knows of no open batch
        except Exception as error:
            raise _why_not_sent(error, self.backend.name, session_id) from error

    def _session(self, session_id: str) -> Batch | Session:
        """A batch or session by its id, on the backend as it was opened.

        Raises:
            SessionEnded: the service does not know it (any more).
            JobDeferred: it did not answer.
        """
        gates = bool(getattr(self.backend.options, "use_fractional_gates", False))
        try:
            try:
                return Batch.from_id(session_id, self._service, use_fractional_gates=gates)
            except IBMInputValueError:  # it is the other kind, or there is none
                return Session.from_id(session_id, self._service, use_fractional_gates=gates)
        except (IBMInputValueError, IBMRuntimeError) as error:
            raise SessionEnded(f"{session_id}: {error}") from error
        except (RequestsApiError, IBMNotAuthorizedError, QiskitBackendNotFoundError) as error:
            raise JobDeferred(f"{session_id} could not be looked up: {error}") from error

    def find(self, tag: str) -> list[str]:
        """Ids of the jobs with a tag, oldest first.

        Raises:
            FetchError: the service did not answer.
        """
        try:
            jobs = self._service.jobs(limit=None, job_tags=[tag])
        except _UNANSWERED as error:
            raise FetchError(f"Jobs with the tag {tag} could not be listed: {error}") from error
        jobs = jobs[::-1]  # the service gives the newest first, also of equal dates
        return [str(job.job_id()) for job in sorted(jobs, key=lambda job: job.creation_date)]

    def status(self, job_id: str) -> JobStatus:
        """How a job is.

        Raises:
            FetchError: the service did not answer, or knows no such job.
        """
        job = self._job(job_id)
        try:
            told = str(job.status())
            if told not in ("DONE", "ERROR", "CANCELLED"):
                return JobStatus("waiting")
            told_of = job.metrics()
            usage = told_of.get("usage") or {}
            charged = usage.get("qpu_charge_time_seconds")
            if usage.get("status") == "pending":  # some of it may be told already
                charged = None
            state: State = {"DONE": "done", "ERROR": "failed"}.get(told, "cancelled")  # type: ignore[assignment]
            error = "" if state == "done" else str(job.error_message() or "")
            # Not merely "1305": the id of the job is in the text, too.
            too_long = "Error code 1305" in error or "maximum execution time" in error
        except _UNANSWERED as problem:
            raise FetchError(f"The state of job {job_id} is not known: {problem}") from problem
        usage_seconds = None if charged is None else float(charged)
        return JobStatus(state, error, too_long, usage_seconds, _times(told_of.get("timestamps")))

    def result(self, job_id: str) -> Any:
        """The data of a finished job's one PUB.

        Raises:
            FetchError: it could not be fetched, or is corrupt; asking again may help.
        """
        job = self._job(job_id)
        try:
            return job.result()[0].data
        except Exception as error:  # a truncated answer ends in whatever the client stumbles over
            raise FetchError(
                f"The result of job {job_id} could not be fetched: {type(error).__name__}: {error}"
            ) from error

    def cancel(self, job_id: str) -> bool:
        """Cancel a job that waits; false if it is too late or the service did not answer."""
        try:
            self._job(job_id).cancel()
        except (RuntimeInvalidStateError, *_UNANSWERED, FetchError):
            return False
        return True

    def _job(self, job_id: str) -> RuntimeJobV2:
        try:
            return self._service.job(job_id)
        except _UNANSWERED as error:
            raise FetchError(f"Job {job_id} could not be looked up: {error}") from error


def _times(told: Any) -> JobTimes:
    """Of a job's metrics; what is no date counts as not told."""
    found: dict[str, float] = {}
    for name in ("created", "running", "finished"):
        try:
            date = datetime.fromisoformat(told[name])
        except (KeyError, TypeError, ValueError):
            continue
        if date.tzinfo is None:  # the service tells UTC
            date = date.replace(tzinfo=UTC)
        found[name] = date.timestamp()
    return JobTimes(**found)


def _why_not_sent(error: Exception, name: str, session_id: str | None) -> Exception:
    """The error to raise for one of the client's, in `send`."""
    text = f"{name}: {type(error).__name__}: {error}"
    if isinstance(error, SessionEnded | JobDeferred):
        return error
    if isinstance(error, QiskitBackendNotFoundError):
        # Asked before every POST; the client says that also where the service is down.
        return JobDeferred(text)
    if _was_repeated(error):
        # The client posts again after an answer of 5xx: the first may have been accepted.
        return JobUnclear(text)
    if session_id is not None and _SAYS_CLOSED.search(str(error)):
        return SessionEnded(text)
    if isinstance(error, IBMNotAuthorizedError | IBMInputValueError):
        return JobRefused(text)
    if isinstance(error, IBMRuntimeError):
        code = _status_code(error)
        if code == RATE_LIMITED:
            return JobDeferred(text, is_rate_limit=True)
        if code in REFUSED:
            return JobRefused(text)
    return JobUnclear(text)


def _status_code(error: BaseException) -> int | None:
    """HTTP status of the client's error, or of the one that it was made of."""
    for each in (error, error.__context__):
        if isinstance(each, RequestsApiError):
            return int(each.status_code)
    return None


def _was_repeated(error: BaseException) -> bool:
    """Whether a request behind an error was sent more than once."""
    each: BaseException | None = error
    while each is not None:
        if isinstance(each, RequestException) and each.response is not None:
            retries = getattr(each.response.raw, "retries", None)
            if retries is None or retries.history:
                return True
        each = each.__cause__ or each.__context__
    return False
