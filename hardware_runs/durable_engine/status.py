"""What the ledger says of a run, as plain records; nobody else is asked."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from hardware_runs.ledger import Attempt, AttemptState, Chunk, ChunkState, Ledger, Run
from qpc_qiskit.options.engine import EngineOptions, shots_of


@dataclass(frozen=True, kw_only=True)
class LayerStatus:
    """How far a quantum layer has come."""

    layer: str
    num_blocks: int
    """Calls of the layer whose rows are frozen."""
    num_pixels: int
    """Of them."""
    num_pixels_expected: int | None
    """Of the whole run; None: the run was begun by a script of its own."""
    num_chunks: Mapping[str, int]
    """By state: unsent, open, done, failed."""
    num_rows: int
    num_rows_done: int
    predicted_seconds_left: float | None


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """One attempt at a chunk, and its job."""

    layer: str
    chunk: int
    num_rows: int
    attempt: int
    tag: str
    state: str
    """intent, posted, done, failed, cancelled, released."""
    job_id: str | None
    predicted_seconds: float | None
    reserved_seconds: int
    """Its cap."""
    usage_seconds: float | None
    """Real QPU time; None: not known yet."""
    error: str | None


@dataclass(frozen=True, kw_only=True)
class RevisionRecord:
    """A change of how rows are executed."""

    number: int
    created: str
    """ISO 8601, UTC."""
    reason: str


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
    layers: tuple[LayerStatus, ...]
    jobs: tuple[JobRecord, ...]
    revisions: tuple[RevisionRecord, ...]
    """Of circuits, patches and budget, the first one on."""
    duplicates: tuple[str, ...]
    """Jobs beyond those that count."""
    max_qpu_seconds: float | None
    reserved_seconds: float
    used_seconds: float
    left_seconds: float | None
    usage_over_forecast: float | None
    """Of all jobs whose usage is known; None: of none, or the forecast is not."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        told, asked = asdict(self), self.asked
        del told["asked"]
        names = ("backend", "mode", "precision", "resilience", "seed")
        return told | {
            **{name: getattr(asked, name) for name in names},
            "shots": self.shots,
            "options": asked.options or {},
            "dedupe": asked.dedupe_grid is not None,
            "economy": asked.to_dict(),
        }

    @property
    def shots(self) -> int | None:
        """Asked for, of each execution; None: the backend's default, or exact values."""
        return shots_of(self.asked.precision) if self.asked.precision else None


def run_status(ledger: Ledger, run: Run) -> RunStatus:
    """What the ledger says of a run."""
    given = run.settings
    about = given.get("about")
    pixels = about.get("pixels", {}) if isinstance(about, Mapping) else {}
    chunks = {chunk.id: chunk for chunk in ledger.chunks(run.id, with_replaced=True)}
    jobs = tuple(_job(attempt, chunks[attempt.chunk_id]) for attempt in ledger.attempts(run.id))
    layers = tuple(
        LayerStatus(
            layer=found.layer,
            num_blocks=found.num_blocks,
            num_pixels=found.num_positions,
            num_pixels_expected=pixels.get(found.layer),
            num_chunks={str(state): count for state, count in found.num_chunks.items()},
            num_rows=found.num_rows,
            num_rows_done=found.num_rows_done,
            predicted_seconds_left=found.predicted_seconds_left,
        )
        for found in ledger.progress(run.id)
    )
    budget = ledger.budget(run.id)
    return RunStatus(
        run=run.name,
        run_id=run.id,
        state=_state(run, layers, pixels),
        created=_time(run.created_at),
        asked=EngineOptions.of_run(given).changed(noise_model=None),
        noise=noise_of(given),
        cancel_reason=run.cancel_reason,
        layers=layers,
        jobs=jobs,
        revisions=tuple(
            RevisionRecord(number=r.number, created=_time(r.created_at), reason=r.reason)
            for r in ledger.revisions(run.id)
        ),
        duplicates=tuple(duplicate.job_id for duplicate in ledger.duplicates(run.id)),
        max_qpu_seconds=budget.max_qpu_seconds,
        reserved_seconds=budget.reserved_seconds,
        used_seconds=budget.used_seconds,
        left_seconds=budget.left_seconds,
        usage_over_forecast=_ratio(jobs),
    )


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def progress_line(ledger: Ledger, run_id: str) -> str:
    """How many jobs are done, by layer."""
    return ", ".join(
        f"{found.layer}: {found.num_chunks[ChunkState.DONE]} of "
        f"{sum(found.num_chunks.values())} jobs done"
        for found in ledger.progress(run_id)
    )


def noise_of(settings: Mapping[str, Any]) -> str | None:
    """The noise in a run's settings, as it was given; the digest of a model that was an object."""
    about = settings.get("about")
    told: str | None = about.get("noise") if isinstance(about, Mapping) else None
    return told or settings.get("engine_options", {}).get("noise_model")


def _job(attempt: Attempt, chunk: Chunk) -> JobRecord:
    return JobRecord(
        layer=chunk.layer,
        chunk=chunk.id,
        num_rows=chunk.num_rows,
        attempt=attempt.number,
        tag=attempt.tag,
        state=str(attempt.state),
        job_id=attempt.job_id,
        predicted_seconds=chunk.predicted_seconds,
        reserved_seconds=attempt.reserved_seconds,
        usage_seconds=attempt.usage_seconds,
        error=attempt.error,
    )


def _state(run: Run, layers: tuple[LayerStatus, ...], pixels: Mapping[str, int]) -> str:
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


def pixels_reached(layers: Iterable[LayerStatus]) -> Counter[str]:
    """Pixels whose rows are frozen, by layer of the network."""
    reached: Counter[str] = Counter()
    for layer in layers:  # one that is used again in a call has a name of its own, NAME#2
        reached[layer.layer.partition("#")[0]] += layer.num_pixels
    return reached


def _ratio(jobs: tuple[JobRecord, ...]) -> float | None:
    """A local job has a usage of zero: no device, no comparison."""
    known = [
        (job.usage_seconds, job.predicted_seconds)
        for job in jobs
        if job.state == AttemptState.DONE and job.usage_seconds and job.predicted_seconds
    ]
    if not known:
        return None
    return math.fsum(used for used, _ in known) / math.fsum(told for _, told in known)
