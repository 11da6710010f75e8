"""What the report of a run says, as plain records; the JSON of a report is made of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from hardware_runs.durable_engine.services import LOCAL
from hardware_runs.durable_engine.status import RunStatus
from hardware_runs.reports.scores import Scored, Shown

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

    layer: str
    num_pixels: int
    """Whose rows are frozen."""
    num_pixels_expected: int | None
    num_executions: int
    num_executions_done: int
    num_rows: int
    """That were measured."""
    num_qubits: int
    as_used: Agreement | None
    """Of the values as the network got them; None: nothing was measured, or the exact values are
    not known."""
    as_measured: Agreement | None
    """Before calibration; None also where nothing is calibrated."""


@dataclass(frozen=True, kw_only=True)
class PatchReport:
    """What was measured on a patch."""

    layer: str
    qubits: tuple[int, ...]
    """Of the device; none where there is no device."""
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
    reference_scale: float | None
    """What the patch leaves of a value, by its reference rows; None: without them."""
    num_features: int
    """That reference rows tell something of, over all jobs."""
    num_not_calibrated: int
    """Of these, left as measured."""
    problems: tuple[str, ...]
    """Why jobs found it bad."""


@dataclass(frozen=True, kw_only=True)
class JobReport:
    """An attempt at a chunk, and its job. Times are seconds since the epoch, None: not known.

    The first three are of the machine that ran the commands, the next three of the service, whose
    clock is another one; `stored_at` is when somebody looked, not when the job ended.
    """

    layer: str
    chunk: int
    is_replaced: bool
    """Whether its rows were dealt to other jobs."""
    revision: int
    num_executions: int
    attempt: int
    tag: str
    state: str
    job_id: str | None
    session_id: str | None
    claimed_at: float
    post_begun_at: float | None
    posted_at: float | None
    created_at: float | None
    running_at: float | None
    ended_at: float | None
    stored_at: float | None
    predicted_seconds: float | None
    reserved_seconds: int
    usage_seconds: float | None
    error: str | None
    duplicates: tuple[str, ...]

    @property
    def is_local(self) -> bool:
        """Whether it was computed on a machine of this side: it took no QPU time."""
        return self.job_id is not None and self.job_id.startswith(LOCAL)

    @property
    def queue_seconds(self) -> float | None:
        """By the service; None: not known."""
        return _between(self.created_at, self.running_at)

    @property
    def run_seconds(self) -> float | None:
        """By the service, classical parts included; None: not known."""
        return _between(self.running_at, self.ended_at)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; times in ISO 8601, UTC."""
        told = {
            name: iso_time(value) if name.endswith("_at") else value
            for name, value in asdict(self).items()
        }
        return told | {"queue_seconds": self.queue_seconds, "run_seconds": self.run_seconds}


@dataclass(frozen=True, kw_only=True)
class UsageReport:
    """QPU time of a run: its budget, what was used, what was predicted."""

    max_seconds: float | None
    """The budget; None: no limit."""
    used_seconds: float
    reserved_seconds: float
    """Held back, since it is not known what was used."""
    left_seconds: float | None
    predicted_seconds_done: float | None
    """Forecast of the jobs that are done; None: not known for some."""
    predicted_seconds_left: float | None
    """Forecast of what is not done."""
    usage_over_forecast: float | None
    """Of the jobs for which both are known."""
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
        status = self.status.to_dict()
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
            "layers": [asdict(each) for each in self.layers],
            "patches": [asdict(each) for each in self.patches],
            "jobs": [each.to_dict() for each in self.jobs],
            "usage": asdict(self.usage),
            "status": status,
            "versions_begun": self.versions_begun,
            "versions": self.versions,
        }
        return {name: _plain(value) for name, value in told.items()}


def iso_time(seconds: float | None) -> str | None:
    """ISO 8601 in UTC of seconds since the epoch."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _between(start: float | None, stop: float | None) -> float | None:
    return None if start is None or stop is None else stop - start


def _plain(value: Any) -> Any:
    """As JSON has it: lists for tuples, None for NaN."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
