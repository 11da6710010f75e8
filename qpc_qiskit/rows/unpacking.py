"""From the values of executions to those of rows: sorted by row, calibrated by reference rows."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from qpc_qiskit.common.arrays import Array, Indices
from qpc_qiskit.rows.planning import Deal
from qpc_qiskit.rows.prepared import Prepared
from qpc_qiskit.rows.references import Calibration, apply, calibrate
from qpc_qiskit.rows.slots import gather


@dataclass(frozen=True, eq=False)
class Unpacked:
    """Values of rows."""

    evs: Array = field(repr=False)
    """(M, m)."""
    stds: Array = field(repr=False)
    """(M, m), with those of the calibration."""
    patch: Indices = field(repr=False)
    """(M,) the patch that each ran on."""
    calibrations: tuple[Calibration, ...] = field(repr=False)
    """Of each job; empty without reference rows."""


def unpack(deal: Deal, evs: Array, stds: Array, *, applies: bool = True) -> Unpacked:
    """Sort the values of all executions of a plan.

    Args:
        deal: what was sent.
        evs: (W, J*m), the features of patch 0, then of patch 1, ...; see `features`.
        stds: (W, J*m).
        applies: whether values are corrected by what the reference rows say.
    """
    count, num_patches = deal.slots.shape
    num_maps = evs.shape[1] // num_patches
    both = np.stack([evs, stds], axis=-1).reshape(count, num_patches, num_maps, 2)
    values = np.full((deal.num_rows, num_maps, 2), np.nan)
    patch = np.empty(deal.num_rows, np.intp)
    calibrations: list[Calibration] = []
    for part in deal.parts:
        found = gather(both[part], deal.slots[part], deal.num_rows)
        sorted_evs, sorted_stds = found.values[..., 0], found.values[..., 1]
        if deal.exact is not None:
            known = calibrate(
                deal.exact[found.reference],
                found.reference_values[..., 0],
                found.reference_values[..., 1],
                found.reference_patch,
                num_patches,
            )
            calibrations.append(known)
            if applies:
                sorted_evs, sorted_stds = apply(known, sorted_evs, sorted_stds, found.patch)
        values[found.row] = np.stack([sorted_evs, sorted_stds], axis=-1)
        patch[found.row] = found.patch
    return Unpacked(values[..., 0], values[..., 1], patch, tuple(calibrations))


def features(prepared: Prepared, evs: Array, stds: Array, shots: int | None) -> tuple[Array, Array]:
    """Features and their standard errors (W, J*m) from what was measured.

    Args:
        prepared: what was sent.
        evs: (W, J*S), of S products of Z on each patch.
        stds: (W, J*S).
        shots: of an execution; None: exact, or not known.
    """
    inversions = prepared.inversions
    if not inversions:
        return evs, stds
    values, errors = [], []
    for inversion, patch_evs, patch_stds in zip(
        inversions,
        np.split(evs, len(inversions), axis=1),
        np.split(stds, len(inversions), axis=1),
        strict=True,
    ):
        values.append(inversion.features(patch_evs))
        # All parities of an execution come from the same shots: their errors are not independent.
        bound = inversion.stds_bound(patch_stds)
        errors.append(bound if shots is None else inversion.stds_of_shots(patch_evs, shots))
    return np.concatenate(values, axis=1), np.concatenate(errors, axis=1)
