"""Frozen rows: what each call of a layer evaluates, cut into chunks that make one job each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement, Connection, and_, func, insert, select, update

from hardware_runs.ledger import schema
from hardware_runs.ledger.documents import digest, from_npz, to_npz
from hardware_runs.ledger.records import (
    Block,
    Chunk,
    ChunkPlan,
    ChunkState,
    FrozenRows,
    Indices,
)
from hardware_runs.ledger.store import Store, insert_row, load_chunks, run_name
from qpc_qiskit.errors import LedgerConflictError, LedgerError

_ARRAYS = tuple(each.name for each in fields(FrozenRows) if each.name != "num_kernels")
_INDICES = ("pairs", "which", "slots")


class Blocks(Store):
    """Methods of the ledger on blocks and their chunks."""

    def freeze_block(
        self,
        run_id: str,
        layer: str,
        start: int,
        count: int,
        rows: FrozenRows,
        chunks: Sequence[ChunkPlan],
        *,
        now: float,
    ) -> tuple[Block, FrozenRows]:
        """Freeze the rows of one call of a layer, with their chunks.

        If another process froze exactly these positions meanwhile, its block and rows are returned
        and nothing is written: what counts is what is returned, not what was given.

        Args:
            run_id: of an existing run.
            layer: recorded with `put_layer`.
            start: position of the first pixel in the layer's pass.
            count: pixels.
            rows: of these pixels.
            chunks: they tile the W executions, in order.
            now: seconds since the epoch.

        Raises:
            LedgerConflictError: some of these positions, not all, are frozen already.
            ValueError: rows or chunks do not fit together.
        """
        _check_rows(rows, start, count)
        _check_chunks(chunks, len(rows.slots))
        content = to_npz(_to_arrays(rows), f"Layer {layer!r}, positions {start} to {start + count}")
        with self._writing(run_id) as connection:
            for block in _overlapping(connection, run_id, layer, start, start + count):
                if (block.start, block.count) == (start, count):
                    return block, _load_rows(connection, [block])[0]
                raise LedgerConflictError(
                    f"Run {run_name(connection, run_id)!r}, layer {layer!r}: positions "
                    f"{block.start} to {block.stop} are frozen already; {start} to "
                    f"{start + count} were to be. Replay what is frozen, and "
                    "freeze what lies outside."
                )
            block_id = insert_row(
                connection,
                schema.blocks,
                run_id=run_id,
                layer=layer,
                start=start,
                num_pixels=count,
                created_at=now,
                num_kernels=rows.num_kernels,
                arrays=content,
                sha256=digest(content),
            )
            _insert_chunks(connection, run_id, block_id, chunks)
            (block,) = _overlapping(connection, run_id, layer, start, start + count)
            return block, rows

    def rows(self, blocks: Sequence[Block]) -> list[FrozenRows]:
        """The rows of some blocks, with the executions that were dealt so far.

        Raises:
            LedgerCorruptError: they are not what was written.
        """
        with self._reading() as connection:
            return _load_rows(connection, blocks)

    def move_unsent_chunks(
        self,
        run_id: str,
        to_revision: int,
        *,
        chunks: Sequence[Chunk] | None = None,
        predicted_seconds: Mapping[int, float | None] | None = None,
    ) -> int:
        """Move chunks that nobody is at to another revision.

        Args:
            run_id: of an existing run.
            to_revision: number of one of its revisions.
            chunks: only these; None: all of the run.
            predicted_seconds: new forecast by chunk id; the others keep theirs.

        Returns:
            How many were moved.
        """
        table = schema.chunks
        with self._writing(run_id) as connection:
            _check_revision(connection, run_id, to_revision)
            unsent = _is_free(run_id)
            if chunks is not None:
                unsent &= table.c.id.in_([chunk.id for chunk in chunks])
            moved = connection.execute(
                update(table)
                .where(unsent, table.c.revision != to_revision)
                .values(revision=to_revision)
            ).rowcount
            for chunk_id, seconds in (predicted_seconds or {}).items():
                connection.execute(
                    update(table)
                    .where(unsent, table.c.id == chunk_id)
                    .values(predicted_seconds=seconds)
                )
            return int(moved)

    def deal_anew(
        self,
        block: Block,
        rows: FrozenRows,
        replaced: Sequence[Chunk],
        slots: Indices,
        chunks: Sequence[ChunkPlan],
        *,
        now: float,
    ) -> bool:
        """Replace chunks that nobody is at by others that run the same rows.

        Args:
            block: as read from the ledger.
            rows: of it, likewise.
            replaced: chunks of it.
            slots: (W, J) executions that take their place.
            chunks: they tile these executions, counted from 0.
            now: seconds since the epoch.

        Returns:
            False, and nothing was done, if somebody is at one of the chunks now, or dealt rows of
            this block meanwhile.

        Raises:
            ValueError: the rows are not those of the replaced chunks, or the chunks do not fit.
        """
        _check_chunks(chunks, len(slots))
        _check_same_rows(rows, replaced, slots)
        content = to_npz({"slots": slots}, f"Layer {block.layer!r}, rows dealt anew")
        table = schema.chunks
        ids = [chunk.id for chunk in replaced]
        first = len(rows.slots)
        with self._writing(block.run_id) as connection:
            free = _is_free(block.run_id) & table.c.id.in_(ids)
            stop = connection.scalar(
                select(func.max(table.c.row_stop)).where(table.c.block_id == block.id)
            )
            num_free = connection.scalar(select(func.count()).select_from(table).where(free))
            if stop != first or num_free != len(ids):
                return False
            for plan in chunks:
                _check_revision(connection, block.run_id, plan.revision)
            connection.execute(update(table).where(free).values(replaced_at=now))
            insert_row(
                connection,
                schema.deals,
                block_id=block.id,
                row_start=first,
                created_at=now,
                arrays=content,
                sha256=digest(content),
            )
            _insert_chunks(connection, block.run_id, block.id, chunks, first)
            return True

    def retry_failed_chunks(self, run_id: str) -> int:
        """Make failed chunks unsent again; their next attempt takes the next number.

        Returns:
            How many there were.
        """
        table = schema.chunks
        with self._writing(run_id) as connection:
            return int(
                connection.execute(
                    update(table)
                    .where(table.c.run_id == run_id, table.c.state == ChunkState.FAILED)
                    .values(state=ChunkState.UNSENT)
                ).rowcount
            )


def _check_rows(rows: FrozenRows, start: int, count: int) -> None:
    if start < 0 or count < 1:
        raise ValueError(f"Expected start >= 0 and count >= 1; got {start} and {count}.")
    for name in _ARRAYS:
        array = getattr(rows, name)
        expected = np.int64 if name in _INDICES else np.float64
        dimensions = 1 if name == "which" else 2
        if array.dtype != expected or array.ndim != dimensions:
            raise ValueError(
                f"Expected {name} of {np.dtype(expected)} with {dimensions} dimensions; got "
                f"{array.dtype} of shape {array.shape}."
            )
    num_rows = rows.num_rows
    if len(rows.pixels) != count or len(rows.which) != count * rows.num_kernels:
        raise ValueError(
            f"Expected {count} pixels and {count * rows.num_kernels} entries in which; got "
            f"{len(rows.pixels)} and {len(rows.which)}."
        )
    if rows.pairs.shape[1] != 2 or num_rows < 1:
        raise ValueError(
            f"Expected pairs of shape (V, 2), V >= 1, besides {len(rows.exact)} reference rows; "
            f"got {rows.pairs.shape}."
        )
    if (rows.slots < -1).any() or (rows.slots >= len(rows.pairs)).any():
        raise ValueError(f"An index in slots is outside the {len(rows.pairs)} rows.")
    asked = rows.slots[(rows.slots >= 0) & (rows.slots < num_rows)]
    if not np.array_equal(np.sort(asked), np.arange(num_rows)):  # its values would be anything
        raise ValueError(f"Expected each of {num_rows} rows once in slots; got another selection.")
    bounds = np.array([len(rows.encoder_angles), len(rows.ansatz_angles)])
    if (rows.pairs < 0).any() or (rows.pairs >= bounds).any():
        raise ValueError("An index in pairs is outside the encoder's or the ansatz' angles.")
    if (rows.which < 0).any() or (rows.which >= num_rows).any():
        raise ValueError(f"An index in which is outside the {num_rows} rows.")


def _check_chunks(chunks: Sequence[ChunkPlan], num_rows: int) -> None:
    ends = [0, *(chunk.row_stop for chunk in chunks)]
    tiled = all(
        chunk.row_start == end < chunk.row_stop for chunk, end in zip(chunks, ends, strict=False)
    )
    if not tiled or ends[-1] != num_rows:
        raise ValueError(
            f"Expected chunks that tile {num_rows} executions in order; got "
            f"{[(chunk.row_start, chunk.row_stop) for chunk in chunks]}."
        )


def _check_same_rows(rows: FrozenRows, replaced: Sequence[Chunk], slots: Indices) -> None:
    """Whether executions run what the replaced chunks were to run, and reference rows besides."""
    num_rows = rows.num_rows

    def asked(slots: Indices) -> Indices:
        return np.sort(slots[(slots != -1) & (slots < num_rows)])

    before = [asked(rows.slots[chunk.row_start : chunk.row_stop]) for chunk in replaced]
    if slots.dtype != np.int64 or slots.ndim != 2:
        raise ValueError(f"Expected slots (W, J) of int64; got {slots.dtype} {slots.shape}.")
    if (slots < -1).any() or (slots >= len(rows.pairs)).any():
        raise ValueError(f"An index in slots is outside the {len(rows.pairs)} rows.")
    if not before or not np.array_equal(asked(slots), np.sort(np.concatenate(before))):
        raise ValueError("Expected each row of the replaced chunks once; got another selection.")


def _is_free(run_id: str) -> ColumnElement[bool]:
    """Of chunks: whether nobody is at one."""
    table = schema.chunks.c
    return and_(
        table.run_id == run_id,
        table.state == ChunkState.UNSENT,
        table.replaced_at.is_(None),
    )


def _insert_chunks(
    connection: Connection,
    run_id: str,
    block_id: int,
    chunks: Sequence[ChunkPlan],
    first: int = 0,
) -> None:
    """Add chunks whose executions are counted from `first` on."""
    for chunk in chunks:
        connection.execute(
            insert(schema.chunks).values(
                run_id=run_id,
                block_id=block_id,
                row_start=first + chunk.row_start,
                row_stop=first + chunk.row_stop,
                predicted_seconds=chunk.predicted_seconds,
                revision=chunk.revision,
                state=ChunkState.UNSENT,
            )
        )


def _with_deals(connection: Connection, block_id: int, slots: Indices, what: str) -> Indices:
    """Slots of a block with those that were dealt later, as wide as the widest."""
    table = schema.deals
    query = select(table).where(table.c.block_id == block_id).order_by(table.c.row_start)
    found = [slots]
    for row in connection.execute(query):
        found.append(from_npz(row.arrays, row.sha256, f"{what} dealt anew")["slots"])
    width = max(each.shape[1] for each in found)
    return np.concatenate(
        [np.pad(each, ((0, 0), (0, width - each.shape[1])), constant_values=-1) for each in found]
    )


def _check_revision(connection: Connection, run_id: str, number: int) -> None:
    table = schema.revisions
    query = select(table.c.number).where(table.c.run_id == run_id, table.c.number == number)
    if connection.scalar(query) is None:
        raise LedgerError(f"Run {run_name(connection, run_id)!r} has no revision {number}.")


def _to_arrays(rows: FrozenRows) -> dict[str, Any]:
    return {name: getattr(rows, name) for name in _ARRAYS}


def load_blocks(
    connection: Connection, chunks: Sequence[Chunk], *where: ColumnElement[bool]
) -> tuple[Block, ...]:
    """Blocks in the order of layers and positions.

    Args:
        connection: in a transaction.
        chunks: of these blocks at least, in order.
        where: which blocks.
    """
    table, layers = schema.blocks, schema.layers
    found: dict[int, list[Chunk]] = {}
    for chunk in chunks:
        if chunk.replaced_at is None:
            found.setdefault(chunk.block_id, []).append(chunk)
    kept = [table.c[name] for name in ("id", "run_id", "layer", "start", "created_at")]
    query = (
        select(*kept, table.c.num_pixels.label("count"), table.c.num_kernels)
        .join(layers, (layers.c.run_id == table.c.run_id) & (layers.c.name == table.c.layer))
        .where(*where)
        .order_by(layers.c.position, table.c.start)
    )
    return tuple(
        Block(**row._mapping, chunks=tuple(found[row.id])) for row in connection.execute(query)
    )


def _load_rows(connection: Connection, blocks: Sequence[Block]) -> list[FrozenRows]:
    table, found = schema.blocks.c, []
    for block in blocks:
        query = select(table.arrays, table.sha256).where(table.id == block.id)
        row = connection.execute(query).one()
        what = (
            f"Run {run_name(connection, block.run_id)!r}, layer {block.layer!r}, frozen rows of "
            f"positions {block.start} to {block.stop} (chunks {block.chunks[0].id} to "
            f"{block.chunks[-1].id}):"
        )
        arrays: dict[str, Any] = from_npz(row.arrays, row.sha256, what)
        arrays["slots"] = _with_deals(connection, block.id, arrays["slots"], what)
        found.append(FrozenRows(**arrays, num_kernels=block.num_kernels))
    return found


def _overlapping(
    connection: Connection, run_id: str, layer: str, start: int, stop: int
) -> tuple[Block, ...]:
    table = schema.blocks.c
    where = (
        table.run_id == run_id,
        table.layer == layer,
        table.start + table.num_pixels > start,
        table.start < stop,
    )
    return load_blocks(connection, load_chunks(connection, *where), *where)
