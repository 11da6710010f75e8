"""What the ledger returns: frozen records of runs, rows, attempts and results.

All times are seconds since the epoch, as the caller gave them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.int64]


class ChunkState(StrEnum):
    """Where a chunk stands."""

    UNSENT = "unsent"
    """Nobody is at it; `claim_intent` may take it."""
    OPEN = "open"
    """One attempt is under way: an intent, or a posted job."""
    DONE = "done"
    """Its result is stored."""
    FAILED = "failed"
    """Its last attempt failed and is not to be repeated by itself."""


class AttemptState(StrEnum):
    """Where an attempt stands."""

    INTENT = "intent"
    """Claimed by an owner; a POST may or may not have begun."""
    POSTED = "posted"
    """The service has a job for it."""
    DONE = "done"
    """Its result is stored."""
    FAILED = "failed"
    """Its job failed."""
    CANCELLED = "cancelled"
    """Its job was cancelled, or it was given up before a POST began."""
    RELEASED = "released"
    """It was certainly not accepted; the next claim uses the same number and tag."""


OPEN_STATES = (AttemptState.INTENT, AttemptState.POSTED)

JOB_TIMES = "job_times"
"""Of the arrays beside a result: when its job was created, began to run and ended, by the service's
clock, in seconds since the epoch; NaN where it does not tell. A service may tell more of them
later, so two readings of one result are the same whatever it told."""


@dataclass(frozen=True)
class Run:
    """One durable execution of a network."""

    id: str
    """A random UUID."""
    name: str
    """Unique in its ledger."""
    created_at: float
    settings: Mapping[str, Any] = field(repr=False)
    """As given to `create_run`."""
    cancelled_at: float | None
    cancel_reason: str | None


@dataclass(frozen=True)
class Revision:
    """What was frozen about how a run's rows are executed."""

    run_id: str
    number: int
    """From 1, without gaps."""
    created_at: float
    reason: str
    max_qpu_seconds: float | None
    """Budget of the run from this revision on; None: no limit."""
    content: Mapping[str, Any] = field(repr=False)
    """Patches, options, calibration id and the like."""
    blobs: frozenset[str] = field(repr=False)
    """Names of its ISA circuits as QPY and the like; `Ledger.blob` reads one."""


@dataclass(frozen=True)
class Layer:
    """A quantum layer that the run has reached."""

    run_id: str
    name: str
    order: int
    """Of first use, from 0."""
    spec: Mapping[str, Any] = field(repr=False)
    weights_hash: str


@dataclass(frozen=True, eq=False)
class FrozenRows:
    """Everything that one call of a layer evaluates, as it was when it was first reached."""

    pixels: Array = field(repr=False)
    """(N, C), raw."""
    directions: Array = field(repr=False)
    """(D, C), canonical."""
    encoder_angles: Array = field(repr=False)
    """(A, E), radians."""
    ansatz_angles: Array = field(repr=False)
    """(B, R), radians."""
    pairs: Indices = field(repr=False)
    """(V + R, 2): row v is encoder row pairs[v, 0] followed by ansatz row pairs[v, 1]; the last R
    are reference rows."""
    which: Indices = field(repr=False)
    """(N*K,): the row, below V, that answers each pixel with each kernel."""
    slots: Indices = field(repr=False)
    """(W, J): the row that each execution runs on each patch; -1: none. Executions that were dealt
    later follow those of the beginning, J being the largest number of patches of any of them."""
    exact: Array = field(repr=False)
    """(R, m) known features of the reference rows."""
    num_kernels: int
    """K."""

    @property
    def num_rows(self) -> int:
        """V."""
        return len(self.pairs) - len(self.exact)


@dataclass(frozen=True)
class ChunkPlan:
    """A chunk that is to be frozen: executions of its block that make one job."""

    row_start: int
    row_stop: int
    predicted_seconds: float | None
    """On the QPU; None: not known, or no device."""
    revision: int
    """Number of the revision under which it is to be sent."""


@dataclass(frozen=True)
class Chunk:
    """Executions of a block that make one job."""

    id: int
    """Unique in the ledger."""
    run_id: str
    layer: str
    block_id: int
    row_start: int
    row_stop: int
    predicted_seconds: float | None
    revision: int
    state: ChunkState
    replaced_at: float | None = None
    """When its rows were dealt anew: it is never sent, and others do what it was to do."""

    @property
    def num_rows(self) -> int:
        """Executions of its job."""
        return self.row_stop - self.row_start


@dataclass(frozen=True)
class Block:
    """One call of a layer: positions start to start + count of its pass; `Ledger.rows` reads it."""

    id: int
    run_id: str
    layer: str
    start: int
    count: int
    """Pixels."""
    created_at: float
    num_kernels: int
    """K."""
    chunks: tuple[Chunk, ...] = field(repr=False)
    """Every row is in one of them; those that were replaced are not among them."""

    @property
    def stop(self) -> int:
        """The position after the last."""
        return self.start + self.count


@dataclass(frozen=True)
class Attempt:
    """One attempt to have a chunk run: at most one job that counts."""

    id: int
    run_id: str
    chunk_id: int
    number: int
    """From 1 for each chunk."""
    tag: str
    """Unique, and short enough for a service's tags; the job carries it."""
    revision: int
    """Under which it was claimed."""
    state: AttemptState
    owner: str
    """Who claimed it or took it over last."""
    claimed_at: float
    lease_expires_at: float
    """From then on another owner may take it over."""
    post_begun_at: float | None
    """When `begin_post` was last called; None: the service has never heard of it."""
    post_begun_by: str | None
    first_empty_lookup_at: float | None
    """First look-up of the tag after the last `begin_post` that found no job."""
    last_empty_lookup_at: float | None
    job_id: str | None
    """The job that counts."""
    posted_at: float | None
    """When the job id was recorded."""
    finished_at: float | None
    reserved_seconds: int
    """Cap of its job, taken from the budget while its real usage is not known."""
    session: int | None
    """`Session.id` of the session or batch that it is sent in."""
    is_billed_by_session: bool
    """Its session pays; its own cap and usage are recorded, not counted."""
    usage_seconds: float | None
    """Real QPU time; None: not known yet."""
    error: str | None
    duplicates: tuple[str, ...]
    """Further jobs that the service accepted under its tag, in the order they were noticed."""

    def is_excluded(self, interval_seconds: float) -> bool:
        """Whether two look-ups, so far apart, have found no job of the last POST."""
        first, last = self.first_empty_lookup_at, self.last_empty_lookup_at
        return first is not None and last is not None and last - first >= interval_seconds

    def is_unposted(self, owner: str, interval_seconds: float) -> bool:
        """Whether this owner, told that its own POST was refused, knows that there is no job."""
        is_own = self.post_begun_at is None or self.post_begun_by == owner
        return is_own or self.is_excluded(interval_seconds)


@dataclass(frozen=True)
class RecordedJob:
    """What `record_job` found and did."""

    attempt: Attempt
    """As it stands now; `attempt.job_id` is the job that counts, if there is one."""
    is_kept: bool
    """Whether the job that was reported is the one that counts."""
    to_cancel: tuple[str, ...]
    """Duplicates of this attempt that are not known to be cancelled, and its job, if the run was
    cancelled."""


@dataclass(frozen=True)
class Duplicate:
    """A job beyond the one that counts: cancelled, counted, reported."""

    job_id: str
    run_id: str
    chunk_id: int
    attempt_id: int
    tag: str
    noticed_at: float
    cancelled_at: float | None
    usage_seconds: float | None


@dataclass(frozen=True)
class JobToCancel:
    """A job of a run that the service may still execute."""

    job_id: str
    attempt: Attempt
    is_duplicate: bool


@dataclass(frozen=True, eq=False)
class ChunkResult:
    """Values of a chunk that is done."""

    chunk: Chunk
    attempt_number: int
    job_id: str | None
    evs: Array = field(repr=False)
    """(W, J*m): expectation values of the chunk's W executions, as they were measured."""
    stds: Array = field(repr=False)
    """(W, J*m): standard errors; NaN where not known."""
    extras: Mapping[str, NDArray[Any]] = field(repr=False)
    """Further arrays by name, such as `JOB_TIMES`."""
    shots: int | None
    """Of each row; None: exact."""
    usage_seconds: float | None
    stored_at: float


@dataclass(frozen=True)
class Session:
    """A session or batch of the service."""

    id: int
    """In the ledger."""
    run_id: str
    mode: str
    """"batch" or "session"."""
    owner: str
    """Who opened it."""
    session_id: str | None
    """The service's; None: not recorded (yet)."""
    opened_at: float
    closed_at: float | None
    reserved_seconds: int
    """Its `max_time`, taken from the budget in mode "session"."""
    usage_seconds: float | None
    """Wall-clock time that was billed; None: not known yet."""


@dataclass(frozen=True)
class Budget:
    """QPU time of a run: allowed, held back and used."""

    max_qpu_seconds: float | None
    """Of the newest revision; None: no limit."""
    reserved_seconds: float
    used_seconds: float

    @property
    def left_seconds(self) -> float | None:
        """What may still be reserved, negative if it was exceeded; None: no limit."""
        if self.max_qpu_seconds is None:
            return None
        return self.max_qpu_seconds - self.reserved_seconds - self.used_seconds


@dataclass(frozen=True)
class LayerProgress:
    """How far a layer has come."""

    layer: str
    num_blocks: int
    """Calls of the layer whose rows are frozen."""
    num_pixels: int
    """Whose rows are frozen."""
    num_chunks: Mapping[str, int]
    """By state: unsent, open, done, failed."""
    num_rows: int
    num_rows_done: int
    predicted_seconds_left: float | None
    """Of chunks that are not done; None: not known for some."""
