"""From directions and angles to the jobs that evaluate them. Pure functions: nothing is sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from qpc_qiskit.circuits.encoder import Encoded, Encoder
from qpc_qiskit.common.arrays import Array, Indices
from qpc_qiskit.devices.forecast import JobCost
from qpc_qiskit.errors import FitFailed
from qpc_qiskit.rows.pubs import JobLimits, Rows, merge_directions, split_jobs, unique_pairs
from qpc_qiskit.rows.slots import IDLE, fill, wide_values


@dataclass(frozen=True, eq=False, kw_only=True)
class Deal:
    """Which executions run so many rows, and the jobs that they make."""

    num_rows: int
    """M, without reference rows, which are numbered from M on."""
    slots: Indices = field(repr=False)
    """(W, J): what each execution runs on each patch, see `slots.fill`."""
    parts: tuple[slice, ...]
    """Executions of each job, in order."""
    seconds: tuple[float, ...] | None
    """Predicted QPU seconds of each job; None: not known, or no device."""
    exact: Array | None = field(default=None, repr=False)
    """(R, m) features of the reference rows; None: there are none, or they are not known."""

    @property
    def total_seconds(self) -> float | None:
        """Predicted QPU seconds of all jobs."""
        return None if self.seconds is None else sum(self.seconds)


@dataclass(frozen=True, eq=False, kw_only=True)
class JobPlan(Deal):
    """What is to be sent, and how it answers what was asked for."""

    rows: Rows = field(repr=False)
    """M that are run once each, then R reference rows."""
    which: Indices = field(repr=False)
    """The row that answers each one asked for."""
    infidelity: Array = field(default_factory=lambda: np.zeros(0), repr=False)
    """Of each direction as it is encoded; zeros for an exact encoder."""
    encoder: str | None = None
    """Name of the encoder that the angles are for; None: not known any more."""

    def values(self, part: slice = slice(None)) -> Array:
        """Parameter values (w, J*P) of some executions."""
        return wide_values(self.rows, self.slots[part])


@dataclass(frozen=True, eq=False)
class ReferenceRows:
    """Rows with known answers that every job runs on every patch."""

    directions: Array
    """(R, C)."""
    angles: Array
    """(R, columns) of the ansatz."""
    exact: Array
    """(R, m)."""

    def __len__(self) -> int:
        return len(self.exact)


def plan_jobs(
    encoder: Encoder,
    directions: Array,
    angles: Array,
    pairs: Indices,
    *,
    grid: float | None,
    limits: JobLimits,
    cost: JobCost,
    bytes_per_shot: int = 0,
    num_patches: int = 1,
    references: ReferenceRows | None = None,
) -> JobPlan:
    """Plan rows that are given as pairs of directions and angles.

    Args:
        encoder: from directions to angles.
        directions: canonical, (D, C).
        angles: (B, R), radians.
        pairs: (M, 2), indices into both.
        grid: directions that agree on it are run once; None: every one.
        limits: of a job.
        cost: of a job, by its executions.
        bytes_per_shot: kept for every shot of a result.
        num_patches: rows that run at a time.
        references: rows besides, in every job.

    Raises:
        EngineError: one row exceeds a limit.
        FitFailed: the encoder cannot encode a direction.
    """
    which = np.arange(len(pairs))
    if grid is not None and len(pairs):
        kept, stands_for = merge_directions(directions, grid)
        directions = directions[kept]
        pairs = np.stack([stands_for[pairs[:, 0]], pairs[:, 1]], axis=1)
        pairs, which = unique_pairs(pairs)
    num_rows = len(pairs)
    if references is not None:
        numbers = np.arange(len(references))
        more = np.stack([len(directions) + numbers, len(angles) + numbers], axis=1)
        pairs = np.concatenate([pairs, more])
        missing = references.directions.shape[1] - directions.shape[1]
        directions = np.concatenate(
            [np.pad(directions, ((0, 0), (0, missing))), references.directions]
        )
        angles = np.concatenate([angles, references.angles])
    encoded = encoder.encode(torch.from_numpy(directions))
    _check_encoded(encoder, encoded)
    rows = Rows(encoded.angles.numpy(), angles, pairs)
    num_references = 0 if references is None else len(references)
    dealt = deal_rows(
        num_rows,
        rows.num_columns,
        limits=limits,
        cost=cost,
        bytes_per_shot=bytes_per_shot,
        num_patches=num_patches,
        num_references=num_references,
    )
    return JobPlan(
        **{**vars(dealt), "exact": None if references is None else references.exact},
        rows=rows,
        which=which,
        infidelity=encoded.infidelity.numpy(),
        encoder=encoder.name,
    )


def _check_encoded(encoder: Encoder, encoded: Encoded) -> None:
    if encoded.num_failed:
        worst = float(encoded.infidelity.max())
        raise FitFailed(
            f"The {encoder.name} encoder cannot prepare {encoded.num_failed} of "
            f"{len(encoded.infidelity)} directions well enough (infidelity up to {worst:.1g}, a "
            f"feature may be wrong by {2 * worst**0.5:.1g}). Nothing of them was sent. Begin anew "
            f"with {' or '.join(f'encoder={name!r}' for name in _instead(encoder))}.",
            encoded.num_failed,
        )


def _instead(encoder: Encoder) -> list[str]:
    """What to use where it fails; the exact encoder never does."""
    names = [encoder.fallback, "multiplexor"]
    return list(dict.fromkeys(name for name in names if name is not None))


def plan_parts(
    num_rows: int,
    num_columns: int,
    *,
    limits: JobLimits,
    cost: JobCost,
    bytes_per_shot: int = 0,
    num_patches: int = 1,
    num_references: int = 0,
) -> tuple[tuple[slice, ...], tuple[float, ...] | None]:
    """Executions of each job, and the QPU seconds that each job is predicted to take.

    Args:
        num_rows: of all jobs.
        num_columns: parameters of a row.
        limits: of a job.
        cost: of a job.
        bytes_per_shot: kept for every shot of a result.
        num_patches: rows that run at a time.
        num_references: executions of reference rows in every job.

    Raises:
        EngineError: one execution exceeds a limit.
    """
    each = cost.seconds_per_shot
    asked = split_jobs(
        -(-num_rows // num_patches),
        limits,
        row_bytes=8 * num_columns * num_patches + bytes_per_shot * cost.shots_per_row,
        shots=cost.shots_per_row or None,
        qpu_seconds_per_row=None if each is None else each * cost.shots_per_row,
        num_extra=num_references,
    )
    parts = [
        slice(part.start + j * num_references, part.stop + (j + 1) * num_references)
        for j, part in enumerate(asked)
    ]
    seconds = [cost.seconds(part.stop - part.start) for part in parts]
    known = [value for value in seconds if value is not None]
    return tuple(parts), tuple(known) if len(known) == len(seconds) and each is not None else None


def deal_rows(
    num_rows: int,
    num_columns: int,
    *,
    num_patches: int = 1,
    num_references: int = 0,
    **bounds: Any,
) -> Deal:
    """Deal rows to patches, and cut the executions into jobs.

    Args:
        num_rows: M, of all jobs; reference rows are numbered from M on.
        num_columns: see `plan_parts`, as all that follow.
        num_patches: J.
        num_references: in every job.
        **bounds: of a job.

    Raises:
        EngineError: one execution exceeds a limit.
    """
    parts, seconds = plan_parts(
        num_rows,
        num_columns,
        num_patches=num_patches,
        num_references=num_references,
        **bounds,
    )
    slots = _slots(num_rows, num_patches, num_references, parts)
    return Deal(num_rows=num_rows, slots=slots, parts=parts, seconds=seconds)


def _slots(num_rows: int, num_patches: int, num_references: int, parts: Sequence[slice]) -> Indices:
    """Slots of all jobs, one after another."""
    found = [np.zeros((0, num_patches), np.intp)]
    start = 0
    for part in parts:
        asked = (part.stop - part.start - num_references) * num_patches
        count = min(asked, num_rows - start)
        slots = fill(count, num_patches, num_references)
        behind = slots >= count  # references
        slots[behind] += num_rows - count
        slots[~behind & (slots != IDLE)] += start
        found.append(slots)
        start += count
    return np.concatenate(found)
