"""What the report of a run says, as plain records; the JSON of a report is made of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hardware_runs.durable_engine.revising import PatchRecord
from hardware_runs.durable_engine.services import LOCAL
from hardware_runs.durable_engine.status import JobRecord, RunStatus, iso_time
from hardware_runs.ledger import LayerProgress
from hardware_runs.reports.scores import Scored, Shown
from qpc_qiskit.backends.jobs import JobTimes

FORMAT = 1
"""Of the JSON; a change of meaning needs another one."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How measured values lie against the exact values of the same frozen inputs.

    A line `measured = scale * exact + offset` is fitted to all values alike.
    """

    num_values: int
    rms_error: float
    """Root mean square of measured minus exact."""
    bias: float
    """Mean of measured minus exact."""
    bias_std: float
    """Standard error of the bias, as if values were independent."""
    scale: float | None
    """1 without noise; None: the exact values are all alike."""
    scale_std: float | None
    offset: float | None
    expected_rms: float | None
    """From shots and calibration alone, by the standard errors; None: not known."""


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """What was measured of a quantum layer."""

    progress: LayerProgress
    num_pixels_expected: int | None
    num_rows: int
    """That were measured."""
    num_qubits: int
    as_used: Agreement | None
    """Of the values as the network got them; None: nothing was measured, or the exact values are
    not known."""
    as_measured: Agreement | None
    """Before calibration; None also where nothing is calibrated."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        told = asdict(self)
        progress = told.pop("progress")
        return told | {
            "layer": progress["layer"],
            "num_pixels": progress["num_pixels"],
            "num_executions": progress["num_rows"],
            "num_executions_done": progress["num_rows_done"],
        }


@dataclass(frozen=True, kw_only=True)
class PatchReport:
    """What was measured on a patch."""

    references: PatchRecord
    """What its reference rows say; of no jobs without them."""
    state: str
    """`in use` by what is still to be sent, or was sent last; `dropped` since."""
    predicted_fidelity: float | None
    num_jobs: int
    num_rows: int
    rms_error: float | None
    """Of the values as used; None: not known."""
    rms_error_std: float | None
    """Its standard error, as if values were independent."""
    bias: float | None
    expected_rms: float | None
    """From shots and calibration alone."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        told = asdict(self)
        references = told.pop("references")
        scale = references.pop("scale")
        return {**references, "reference_scale": scale, **told}


@dataclass(frozen=True)
class JobReport(JobRecord):
    """A job with what the service tells of it.

    Times of the attempt are of the machine that ran the commands, those of the service of another
    clock; `attempt.finished_at` is when somebody looked, not when the job ended.
    """

    session_id: str | None
    times: JobTimes
    """By the service."""

    @property
    def is_local(self) -> bool:
        """Whether it was computed on a machine of this side: it took no QPU time."""
        job_id = self.attempt.job_id
        return job_id is not None and job_id.startswith(LOCAL)

    @property
    def queue_seconds(self) -> float | None:
        """By the service; None: not known."""
        return _between(self.times.created, self.times.running)

    @property
    def run_seconds(self) -> float | None:
        """By the service, classical parts included; None: not known."""
        return _between(self.times.running, self.times.finished)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; times in ISO 8601, UTC."""
        told, attempt = super().to_dict(), self.attempt
        times = {
            "claimed_at": attempt.claimed_at,
            "post_begun_at": attempt.post_begun_at,
            "posted_at": attempt.posted_at,
            "created_at": self.times.created,
            "running_at": self.times.running,
            "ended_at": self.times.finished,
            "stored_at": attempt.finished_at,
        }
        return told | {
            "num_executions": told.pop("num_rows"),
            "is_replaced": self.chunk.replaced_at is not None,
            "revision": attempt.revision,
            "session_id": self.session_id,
            **{name: _iso(value) for name, value in times.items()},
            "duplicates": attempt.duplicates,
            "queue_seconds": self.queue_seconds,
            "run_seconds": self.run_seconds,
        }


@dataclass(frozen=True, kw_only=True)
class UsageReport:
    """QPU time, besides the budget."""

    predicted_seconds_done: float | None
    """Forecast of the jobs that are done; None: not known for some."""
    predicted_seconds_left: float | None
    """Forecast of what is not done."""
    num_jobs: int
    num_unknown: int
    """Jobs that ended and whose usage is not known."""


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """What a run did."""

    status: RunStatus
    ledger: str
    """Where it is, without a password."""
    made: str
    """When the report was made, ISO 8601, UTC."""
    warnings: tuple[str, ...]
    """What is missing or not as it should be, in sentences."""
    notes: tuple[str, ...]
    """What is not known or was not computed."""
    num_images: int | None
    """Of the run; None: not known."""
    num_complete: int | None
    """Of which every value was measured; None: not known."""
    data: str | None
    """Name of the data set."""
    engines: tuple[Scored, ...]
    class_names: tuple[str, ...]
    confusion: Mapping[str, Sequence[Sequence[int]]]
    """By engine: rows are true classes, columns predicted ones; of all complete images."""
    images: tuple[Shown, ...]
    layers: tuple[LayerReport, ...]
    patches: tuple[PatchReport, ...]
    jobs: tuple[JobReport, ...]
    usage: UsageReport
    versions_begun: Mapping[str, str] | None
    """Of the libraries when the run began; None: an older program began it."""
    versions: Mapping[str, str]
    """Of the libraries that made the report."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what is not known is None."""
        status, budget = self.status.to_dict(), self.status.budget
        del status["jobs"]  # `jobs` has more of them
        told = {
            "format": FORMAT,
            "run": self.status.run,
            "state": self.status.state,
            **{
                name: getattr(self, name)
                for name in ("ledger", "made", "warnings", "notes", "num_images", "num_complete")
            },
            "data": self.data,
            "engines": [asdict(each) for each in self.engines],
            "class_names": self.class_names,
            "confusion": self.confusion,
            "images": [asdict(each) for each in self.images],
            "layers": [each.to_dict() for each in self.layers],
            "patches": [each.to_dict() for each in self.patches],
            "jobs": [each.to_dict() for each in self.jobs],
            "usage": {
                "max_seconds": budget.max_qpu_seconds,
                "used_seconds": budget.used_seconds,
                "reserved_seconds": budget.reserved_seconds,
                "left_seconds": budget.left_seconds,
                "usage_over_forecast": self.status.usage_over_forecast,
                **asdict(self.usage),
            },
            "status": status,
            "versions_begun": self.versions_begun,
            "versions": self.versions,
        }
        return {name: _plain(value) for name, value in told.items()}


def _iso(seconds: float | None) -> str | None:
    return None if seconds is None else iso_time(seconds)


def _between(start: float | None, stop: float | None) -> float | None:
    return None if start is None or stop is None else stop - start


def _plain(value: Any) -> Any:
    """As JSON has it: lists for tuples, None for NaN."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
