"""Results of chunks, stored once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Row, insert, select

from hardware_runs.ledger import schema
from hardware_runs.ledger.documents import digest, from_npz, to_npz
from hardware_runs.ledger.records import (
    JOB_TIMES,
    Array,
    Attempt,
    AttemptState,
    Chunk,
    ChunkResult,
    ChunkState,
)
from hardware_runs.ledger.store import (
    Store,
    describe_chunk,
    load_attempt,
    load_chunk,
    load_chunks,
    set_chunk_state,
    update_attempt,
)
from qpc_qiskit.errors import LedgerConflictError

_EXTRA = "extra_"
SAME = 1e-6
"""How far two copies of one result may lie apart: processors sum the same counts to other last
bits, of which the root in a standard error near 0 makes 1e-8. One shot of a million moves 2e-6."""


class Results(Store):
    """Methods of the ledger on results."""

    def store_result(
        self,
        attempt: Attempt,
        evs: Array,
        stds: Array,
        *,
        shots: int | None,
        usage_seconds: float | None,
        now: float,
        extras: Mapping[str, NDArray[Any]] | None = None,
    ) -> ChunkResult:
        """Store what the job of an attempt returned; again is no error if it is the same.

        It may differ by `SAME`; what was stored first is kept.

        Args:
            attempt: posted.
            evs: (W, J*m), for the chunk's W rows.
            stds: (W, J*m); NaN where not known.
            shots: of each row; None: exact.
            usage_seconds: real QPU time, which replaces the reservation; None: not known yet, the
                reservation stays until `record_usage`.
            now: seconds since the epoch.
            extras: further arrays by name.

        Raises:
            LedgerConflictError: the chunk has another result, or the attempt no job.
        """
        if usage_seconds is not None and not usage_seconds >= 0:
            raise ValueError(f"Expected usage_seconds >= 0, or None; got {usage_seconds}.")
        arrays: dict[str, NDArray[Any]] = {
            "evs": np.asarray(evs, np.float64),
            "stds": np.asarray(stds, np.float64),
            **{_EXTRA + name: np.asarray(array) for name, array in (extras or {}).items()},
        }
        content = to_npz(arrays, f"The result of {attempt.tag}")
        with self._writing(attempt.run_id) as connection:
            chunk = load_chunk(connection, attempt.chunk_id)
            stored = load_attempt(connection, attempt.id)
            _check_shape(chunk, arrays)
            found = _load(connection, schema.results.c.chunk_id == chunk.id)
            if found:
                _check_same(connection, found[0], arrays, shots)
                if stored.usage_seconds is None and stored.number == found[0].attempt_number:
                    update_attempt(connection, stored, usage_seconds=usage_seconds)
                return _load(connection, schema.results.c.chunk_id == chunk.id)[0]
            if stored.state != AttemptState.POSTED:
                raise LedgerConflictError(
                    f"The {describe_chunk(connection, chunk)}: attempt {stored.number} (job "
                    f"{stored.job_id}) is {stored.state.value!r}, so it can have no result. Only "
                    "the result of a job that is recorded and under way can be stored."
                )
            connection.execute(
                insert(schema.results).values(
                    chunk_id=chunk.id,
                    attempt_id=stored.id,
                    arrays=content,
                    sha256=digest(content),
                    shots=shots,
                    stored_at=now,
                )
            )
            usage = stored.usage_seconds if usage_seconds is None else float(usage_seconds)
            update_attempt(
                connection, stored, state=AttemptState.DONE, usage_seconds=usage, finished_at=now
            )
            set_chunk_state(connection, chunk.id, ChunkState.DONE)
            return _load(connection, schema.results.c.chunk_id == chunk.id)[0]

    def results(self, chunks: Sequence[Chunk]) -> tuple[ChunkResult, ...]:
        """Results of some chunks, in the order of their rows; of those that are not done, none.

        Raises:
            LedgerCorruptError: a result is not what was written.
        """
        table = schema.results.c
        with self._reading() as connection:
            return _load(connection, table.chunk_id.in_([chunk.id for chunk in chunks]))


def _load(connection: Connection, *where: Any) -> tuple[ChunkResult, ...]:
    results, attempts = schema.results, schema.attempts
    query = (
        select(results, attempts.c.number, attempts.c.job_id, attempts.c.usage_seconds)
        .join(attempts, attempts.c.id == results.c.attempt_id)
        .join(schema.chunks, schema.chunks.c.id == results.c.chunk_id)
        .join(schema.blocks, schema.blocks.c.id == schema.chunks.c.block_id)
        .where(*where)
    )
    rows = {row.chunk_id: row for row in connection.execute(query)}
    chunks = load_chunks(connection, schema.chunks.c.id.in_(list(rows)))
    return tuple(_result(connection, chunk, rows[chunk.id]) for chunk in chunks)


def _result(connection: Connection, chunk: Chunk, row: Row[Any]) -> ChunkResult:
    what = f"The result of {describe_chunk(connection, chunk)} (job {row.job_id})"
    arrays = from_npz(row.arrays, row.sha256, what)
    return ChunkResult(
        chunk=chunk,
        attempt_number=row.number,
        job_id=row.job_id,
        evs=arrays.pop("evs"),
        stds=arrays.pop("stds"),
        extras={name.removeprefix(_EXTRA): array for name, array in arrays.items()},
        shots=row.shots,
        usage_seconds=row.usage_seconds,
        stored_at=row.stored_at,
    )


def _check_shape(chunk: Chunk, arrays: Mapping[str, NDArray[Any]]) -> None:
    evs, stds = arrays["evs"], arrays["stds"]
    if evs.ndim != 2 or len(evs) != chunk.num_rows or stds.shape != evs.shape:
        raise ValueError(
            f"Expected evs and stds of shape ({chunk.num_rows}, n) for chunk {chunk.id}; got "
            f"{evs.shape} and {stds.shape}."
        )


def _check_same(
    connection: Connection,
    stored: ChunkResult,
    arrays: Mapping[str, NDArray[Any]],
    shots: int | None,
) -> None:
    known: dict[str, NDArray[Any]] = {
        "evs": stored.evs,
        "stds": stored.stds,
        **{_EXTRA + name: array for name, array in stored.extras.items()},
    }
    names = known.keys() - {_EXTRA + JOB_TIMES}
    is_same = names == arrays.keys() - {_EXTRA + JOB_TIMES} and all(
        _agree(known[name], arrays[name]) for name in names
    )
    if not is_same or stored.shots != shots:
        raise LedgerConflictError(
            f"The {describe_chunk(connection, stored.chunk)} has a result already (attempt "
            f"{stored.attempt_number}, job {stored.job_id}), and it differs from the one that is "
            "to be stored. The stored one is kept."
        )


def _agree(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Whether they are equal up to `SAME`."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.dtype.kind not in "fc":
        return np.array_equal(a, b)
    return np.allclose(a, b, rtol=0, atol=SAME, equal_nan=True)
