"""Many rows in one execution: which row runs on which patch, and what came of it. Pure functions.

A circuit that stands on J disjoint patches evaluates J rows per shot. An execution of it is a row
of *slots*, one for each patch. Rows go to patches in turn, shifted by one from execution to
execution, so that neither a pixel nor a kernel meets one patch only. Reference rows, whose values
are known, run on every patch of every job, spread over it; what is left over is filled with more of
them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from qpc_qiskit.common.arrays import Array, Indices
from qpc_qiskit.rows.pubs import Rows

IDLE = -1
"""A slot that runs nothing: all its angles are 0."""


def num_executions(num_rows: int, num_patches: int, num_references: int = 0) -> int:
    """Executions of a job with so many rows."""
    return -(-num_rows // num_patches) + num_references


def fill(num_rows: int, num_patches: int, num_references: int = 0) -> Indices:
    """Slots of a job.

    Args:
        num_rows: M, that are asked for.
        num_patches: J.
        num_references: R, that run on each patch.

    Returns:
        (W, J) with W of `num_executions`: a row 0..M-1, or M + r for reference r, or `IDLE`.
    """
    asked = -(-num_rows // num_patches)
    numbers = np.arange(asked * num_patches).reshape(asked, num_patches)
    columns = np.arange(num_patches)
    shifted = (columns[None, :] - np.arange(asked)[:, None]) % num_patches
    rows = np.take_along_axis(numbers, shifted, axis=1)
    spare = rows >= num_rows
    if num_references:
        rows[spare] = num_rows + np.arange(spare.sum()) % num_references
    else:
        rows[spare] = IDLE
    turns = np.arange(num_references)[:, None]
    references = num_rows + (turns + columns[None, :]) % max(num_references, 1)
    places = np.linspace(0, asked, num_references + 2)[1:-1].round().astype(np.intp)
    return np.insert(rows, places, references, axis=0).astype(np.intp)


def wide_values(rows: Rows, slots: Indices) -> Array:
    """Parameter values of executions.

    Args:
        rows: M + R, references behind the rows asked for.
        slots: (W, J).

    Returns:
        (W, J*P): the values of patch 0, then those of patch 1, ...
    """
    count, num_patches = slots.shape
    values = np.zeros((count, num_patches, rows.num_columns))
    values[slots != IDLE] = rows.values(slots[slots != IDLE])
    return values.reshape(count, num_patches * rows.num_columns)


@dataclass(frozen=True, eq=False)
class Gathered:
    """Values of executions, sorted by what ran."""

    values: Array = field(repr=False)
    """(rows, ...) of the rows asked for that the executions hold, in their order."""
    row: Indices = field(repr=False)
    """(rows,) which."""
    patch: Indices = field(repr=False)
    """(rows,) where each ran."""
    reference_values: Array = field(repr=False)
    """(T, ...) of every slot that held a reference row."""
    reference: Indices = field(repr=False)
    """(T,) which one."""
    reference_patch: Indices = field(repr=False)
    """(T,) where."""


def gather(values: Array, slots: Indices, num_rows: int) -> Gathered:
    """Sort the values of executions.

    Args:
        values: (W, J, ...) by execution and patch.
        slots: (W, J).
        num_rows: M.
    """
    is_row = (slots != IDLE) & (slots < num_rows)
    executions, patches = np.nonzero(is_row)
    order = np.argsort(slots[is_row])
    reference_executions, reference_patches = np.nonzero(slots >= num_rows)
    return Gathered(
        values=values[executions[order], patches[order]],
        row=slots[is_row][order],
        patch=patches[order],
        reference_values=values[reference_executions, reference_patches],
        reference=slots[reference_executions, reference_patches] - num_rows,
        reference_patch=reference_patches,
    )
