"""A run as one process knows it: read once, handed down to whoever works on it."""

from __future__ import annotations

from collections.abc import Sequence

from hardware_runs.ledger import (
    Block,
    Chunk,
    ChunkPlan,
    ChunkResult,
    FrozenRows,
    Ledger,
    Run,
    RunState,
)


class KnownRun:
    """What a ledger says of a run, kept in memory.

    `state` is read again after everything that is written through the same ledger, and whenever
    `renew` is called: what other processes have written since may be missing from it. Nothing is
    paid on its word alone: the ledger's writing methods look again. Rows, results and circuits are
    never changed once they are written, and are read once.

    Args:
        ledger: of the run.
        run: the run; its id, name and settings stay.
    """

    def __init__(self, ledger: Ledger, run: Run) -> None:
        self.ledger, self.run = ledger, run
        self._state: RunState | None = None
        self._num_writes = -1
        self._rows: dict[int, FrozenRows] = {}
        self._results: dict[int, ChunkResult] = {}

    @property
    def state(self) -> RunState:
        """The run as it was read last, or after the last write of this process."""
        if self._state is None or self._num_writes != self.ledger.num_writes:
            return self.renew()
        return self._state

    def renew(self) -> RunState:
        """The run as it is now."""
        before = self.ledger.num_writes  # a write that is under way makes it old again
        self._state, self._num_writes = self.ledger.state(self.run.id), before
        return self._state

    def freeze(
        self,
        layer: str,
        start: int,
        rows: FrozenRows,
        chunks: Sequence[ChunkPlan],
        *,
        now: float,
    ) -> None:
        """See `Ledger.freeze_block`."""
        count = len(rows.pixels)
        block, kept = self.ledger.freeze_block(
            self.run.id, layer, start, count, rows, chunks, now=now
        )
        self._rows[block.id] = kept

    def rows(self, block: Block) -> FrozenRows:
        """The rows of a block."""
        self.read([block])
        return self._rows[block.id]

    def read(self, blocks: Sequence[Block]) -> None:
        """Read the rows of some blocks at once."""
        if missing := [block for block in blocks if not self._has(block)]:
            found = self.ledger.rows(missing)
            self._rows |= {block.id: rows for block, rows in zip(missing, found, strict=True)}

    def _has(self, block: Block) -> bool:
        """Whether its rows are here, those that were dealt last included."""
        rows = self._rows.get(block.id)
        return rows is not None and block.chunks[-1].row_stop <= len(rows.slots)

    def block_of(self, chunk: Chunk) -> Block:
        """The block of a chunk of `state`."""
        return (self._state or self.state).block(chunk.block_id)

    def results(self, chunks: Sequence[Chunk]) -> list[ChunkResult]:
        """Results of chunks that are done."""
        if missing := [chunk for chunk in chunks if chunk.id not in self._results]:
            for result in self.ledger.results(missing):
                self.keep(result)
        return [self._results[chunk.id] for chunk in chunks]

    def keep(self, result: ChunkResult) -> None:
        """Remember what is stored."""
        self._results[result.chunk.id] = result

    def blob(self, revision: int, name: str) -> bytes:
        """A circuit of a revision."""
        return self.ledger.blob(self.run.id, revision, name)
