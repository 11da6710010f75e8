"""From the results of chunks to the values of rows, and to what the reference rows say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from hardware_runs.ledger import Chunk, ChunkResult, FrozenRows
from qpc_qiskit.common.arrays import Array
from qpc_qiskit.rows.planning import Deal
from qpc_qiskit.rows.prepared import Prepared
from qpc_qiskit.rows.pubs import Rows
from qpc_qiskit.rows.references import Calibration
from qpc_qiskit.rows.unpacking import Unpacked, features, unpack


def values_of(
    frozen: FrozenRows,
    results: Sequence[ChunkResult],
    prepared_of: Callable[[Chunk], Prepared],
    *,
    applies: bool = True,
) -> Unpacked:
    """Values of the rows of a block that some of its chunks ran; NaN for the others.

    Args:
        frozen: rows of a block.
        results: of chunks of it. They may have run on different numbers of patches.
        prepared_of: the circuit that a chunk was sent with.
        applies: whether values are corrected by what the reference rows say.
    """
    circuits = [prepared_of(each.chunk) for each in results]
    found = [_measured(*each) for each in zip(circuits, results, strict=True)]
    wide = max(each.num_patches for each in circuits)
    num_maps = frozen.exact.shape[1]
    stops = np.cumsum([0, *(len(evs) for evs, _ in found)]).tolist()
    deal = Deal(
        num_rows=frozen.num_rows,
        slots=np.concatenate(
            [frozen.slots[e.chunk.row_start : e.chunk.row_stop, :wide] for e in results]
        ),
        parts=tuple(slice(*ends) for ends in pairwise(stops)),
        seconds=None,
        exact=frozen.exact if len(frozen.exact) else None,
    )
    evs, stds = (
        np.concatenate([_padded(each[i], wide * num_maps) for each in found]) for i in (0, 1)
    )
    return unpack(deal, evs, stds, applies=applies)


def calibration_of(
    frozen: FrozenRows, result: ChunkResult, prepared: Prepared
) -> Calibration | None:
    """What the reference rows of one job say; None: it had none."""
    if not len(frozen.exact):
        return None
    return values_of(frozen, [result], lambda chunk: prepared).calibrations[0]


def rows_of(frozen: FrozenRows) -> Rows:
    """The rows themselves."""
    return Rows(frozen.encoder_angles, frozen.ansatz_angles, frozen.pairs)


def _measured(prepared: Prepared, result: ChunkResult) -> tuple[Array, Array]:
    """Features (W, J*m) of a chunk's executions, and their standard errors."""
    return features(prepared, result.evs, result.stds, result.shots)


def _padded(values: Array, width: int) -> Array:
    """With NaN for patches that these executions did not have; their slots are idle."""
    return np.pad(values, ((0, 0), (0, width - values.shape[1])), constant_values=np.nan)
