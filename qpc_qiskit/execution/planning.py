"""From directions and angles to the jobs that evaluate them. Pure functions: nothing is sent."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from qpc_qiskit.encoder import Encoder
from qpc_qiskit.execution.forecast import JobCost
from qpc_qiskit.execution.pubs import (
    Array,
    Indices,
    JobLimits,
    Rows,
    merge_directions,
    split_jobs,
    unique_pairs,
)


@dataclass(frozen=True, eq=False)
class JobPlan:
    """What is to be sent, and how it answers what was asked for."""

    rows: Rows = field(repr=False)
    """Each is executed once."""
    which: Indices = field(repr=False)
    """(M,): the row that answers each one asked for."""
    parts: tuple[slice, ...]
    """Rows of each job, in order."""
    seconds: tuple[float, ...] | None
    """Predicted QPU seconds of each job; None: not known, or no device."""

    @property
    def total_seconds(self) -> float | None:
        """Predicted QPU seconds of all jobs."""
        return None if self.seconds is None else sum(self.seconds)


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
) -> JobPlan:
    """Plan rows that are given as pairs of directions and angles.

    Args:
        encoder: from directions to angles.
        directions: canonical, (D, C).
        angles: (B, R), radians.
        pairs: (M, 2), indices into both.
        grid: directions that agree on it are run once; None: every one.
        limits: of a job.
        cost: of a job.
        bytes_per_shot: kept for every shot of a result.

    Raises:
        EngineError: one row exceeds a limit.
    """
    which = np.arange(len(pairs))
    if grid is not None and len(pairs):
        kept, stands_for = merge_directions(directions, grid)
        directions = directions[kept]
        pairs = np.stack([stands_for[pairs[:, 0]], pairs[:, 1]], axis=1)
        pairs, which = unique_pairs(pairs)
    rows = Rows(encoder.angles(torch.from_numpy(directions)).numpy(), angles, pairs)
    parts, seconds = plan_parts(
        len(rows), rows.num_columns, limits=limits, cost=cost, bytes_per_shot=bytes_per_shot
    )
    return JobPlan(rows, which, parts, seconds)


def plan_parts(
    num_rows: int, num_columns: int, *, limits: JobLimits, cost: JobCost, bytes_per_shot: int = 0
) -> tuple[tuple[slice, ...], tuple[float, ...] | None]:
    """Rows of each job, and the QPU seconds that each is predicted to take.

    Args:
        num_rows: of all jobs.
        num_columns: parameters of a row.
        limits: of a job.
        cost: of a job.
        bytes_per_shot: kept for every shot of a result.

    Raises:
        EngineError: one row exceeds a limit.
    """
    each = cost.seconds_per_shot
    parts = split_jobs(
        num_rows,
        limits,
        row_bytes=8 * num_columns + bytes_per_shot * cost.shots_per_row,
        shots=cost.shots_per_row or None,
        qpu_seconds_per_row=None if each is None else each * cost.shots_per_row,
    )
    seconds = [cost.seconds(part.stop - part.start) for part in parts]
    known = [value for value in seconds if value is not None]
    return tuple(parts), tuple(known) if len(known) == len(seconds) and each is not None else None
