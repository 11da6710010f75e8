"""What the ledger says of a run, as plain records; nobody else is asked."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any

from hardware_runs.ledger import (
    Attempt,
    AttemptState,
    Budget,
    Chunk,
    ChunkState,
    LayerProgress,
    Revision,
    Run,
    RunState,
)
from qpc_qiskit.options.engine import EngineOptions, shots_of


@dataclass(frozen=True)
class JobRecord:
    """One attempt at a chunk, and its job."""

    chunk: Chunk
    attempt: Attempt

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "layer": self.chunk.layer,
            "chunk": self.chunk.id,
            "num_rows": self.chunk.num_rows,
            "attempt": self.attempt.number,
            "predicted_seconds": self.chunk.predicted_seconds,
            **{
                name: getattr(self.attempt, name)
                for name in ("tag", "job_id", "reserved_seconds", "usage_seconds", "error")
            },
            "state": str(self.attempt.state),
        }


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """What the ledger says of a run."""

    run: str
    run_id: str
    state: str
    """`done`: every value is there; `failed`: a chunk failed for good; `cancelled`; `pending`:
    jobs are under way; `unfinished`: something is still to be sent; `collected`: everything that
    was sent is there, and whether more follows only the script knows that began the run."""
    created: str
    """ISO 8601, UTC."""
    asked: EngineOptions
    """As the run was begun, without the noise."""
    noise: str | None
    """On aer, as it was given; the digest of a model that was an object."""
    cancel_reason: str | None
    layers: tuple[LayerProgress, ...]
    pixels_expected: Mapping[str, int]
    """By layer, of the whole run; empty where it was begun by a script of its own."""
    jobs: tuple[JobRecord, ...]
    revisions: tuple[Revision, ...]
    """Of circuits, patches and budget, the first one on."""
    duplicates: tuple[str, ...]
    """Jobs beyond those that count."""
    budget: Budget
    usage_over_forecast: float | None
    """Of all jobs whose usage is known; None: of none, or the forecast is not."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        plain = {each.name: getattr(self, each.name) for each in fields(self)}
        expected, budget = plain.pop("pixels_expected"), plain.pop("budget")
        asked: EngineOptions = plain.pop("asked")
        names = ("backend", "mode", "precision", "resilience", "seed")
        return plain | {
            **{name: getattr(asked, name) for name in names},
            "shots": self.shots,
            "options": asked.options or {},
            "dedupe": asked.dedupe_grid is not None,
            "economy": asked.to_dict(),
            "layers": [
                {**asdict(each), "num_pixels_expected": expected.get(each.layer)}
                for each in self.layers
            ],
            "jobs": [each.to_dict() for each in self.jobs],
            "revisions": [
                {"number": each.number, "created": iso_time(each.created_at), "reason": each.reason}
                for each in self.revisions
            ],
            **asdict(budget),
            "left_seconds": budget.left_seconds,
        }

    @property
    def shots(self) -> int | None:
        """Asked for, of each execution; None: the backend's default, or exact values."""
        return shots_of(self.asked.precision) if self.asked.precision else None


def run_status(state: RunState) -> RunStatus:
    """What the ledger says of a run."""
    run, given = state.run, state.run.settings
    about = given.get("about")
    pixels = about.get("pixels", {}) if isinstance(about, Mapping) else {}
    jobs = tuple(JobRecord(state.chunk(a.chunk_id), a) for a in state.all_attempts)
    layers = state.progress
    return RunStatus(
        run=run.name,
        run_id=run.id,
        state=_state(run, layers, pixels),
        created=iso_time(run.created_at),
        asked=EngineOptions.of_run(given).changed(noise_model=None),
        noise=noise_of(given),
        cancel_reason=run.cancel_reason,
        layers=layers,
        pixels_expected=pixels,
        jobs=jobs,
        revisions=state.revisions,
        duplicates=tuple(duplicate.job_id for duplicate in state.duplicates),
        budget=state.budget,
        usage_over_forecast=_ratio(jobs),
    )


def iso_time(seconds: float) -> str:
    """ISO 8601 in UTC of seconds since the epoch."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def progress_line(state: RunState) -> str:
    """How many jobs are done, by layer."""
    return ", ".join(
        f"{found.layer}: {found.num_chunks[ChunkState.DONE]} of "
        f"{sum(found.num_chunks.values())} jobs done"
        for found in state.progress
    )


def noise_of(settings: Mapping[str, Any]) -> str | None:
    """The noise in a run's settings, as it was given; the digest of a model that was an object."""
    about = settings.get("about")
    told: str | None = about.get("noise") if isinstance(about, Mapping) else None
    return told or settings.get("engine_options", {}).get("noise_model")


def _state(run: Run, layers: tuple[LayerProgress, ...], pixels: Mapping[str, int]) -> str:
    def count(state: ChunkState) -> int:
        return sum(layer.num_chunks[state] for layer in layers)

    reached = pixels_reached(layers)
    is_over = all(reached[name] >= n for name, n in pixels.items())
    if layers and is_over and not any(count(s) for s in ChunkState if s != ChunkState.DONE):
        return "done" if pixels else "collected"
    if run.cancelled_at is not None:
        return "cancelled"
    if count(ChunkState.FAILED):
        return "failed"
    return "pending" if count(ChunkState.OPEN) else "unfinished"


def pixels_reached(layers: Iterable[LayerProgress]) -> Counter[str]:
    """Pixels whose rows are frozen, by layer of the network."""
    reached: Counter[str] = Counter()
    for layer in layers:  # one that is used again in a call has a name of its own, NAME#2
        reached[layer.layer.partition("#")[0]] += layer.num_pixels
    return reached


def _ratio(jobs: tuple[JobRecord, ...]) -> float | None:
    """A local job has a usage of zero: no device, no comparison."""
    known = [
        (job.attempt.usage_seconds, job.chunk.predicted_seconds)
        for job in jobs
        if job.attempt.state == AttemptState.DONE
        and job.attempt.usage_seconds
        and job.chunk.predicted_seconds
    ]
    if not known:
        return None
    return math.fsum(used for used, _ in known) / math.fsum(told for _, told in known)
