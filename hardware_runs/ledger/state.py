"""A whole run at one moment, read in one transaction: everything but arrays and circuits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from hardware_runs.ledger import schema
from hardware_runs.ledger.budget import budget_of
from hardware_runs.ledger.records import (
    Attempt,
    AttemptState,
    Block,
    Budget,
    Chunk,
    ChunkState,
    Duplicate,
    JobToCancel,
    Layer,
    LayerProgress,
    Revision,
    Run,
    Session,
)
from hardware_runs.ledger.rows import load_blocks
from hardware_runs.ledger.runs import load_layers, load_revisions, load_run
from hardware_runs.ledger.store import (
    Store,
    load_attempts,
    load_chunks,
    load_duplicates,
    load_sessions,
)


@dataclass(frozen=True, eq=False)
class RunState:
    """What a ledger said of a run when it was read.

    Others may have written since: whatever money rests on is decided again inside a writing method.
    """

    run: Run
    revisions: tuple[Revision, ...]
    """The newest last."""
    layers: tuple[Layer, ...]
    """That the run has reached, in order of first use."""
    sessions: tuple[Session, ...]
    """The newest last; at most that one is open."""
    duplicates: tuple[Duplicate, ...]
    """Every job beyond those that count."""
    all_blocks: tuple[Block, ...] = field(repr=False)
    """In the order of layers and positions."""
    all_chunks: tuple[Chunk, ...] = field(repr=False)
    """In the order of layers, positions and rows, with those that were replaced."""
    all_attempts: tuple[Attempt, ...] = field(repr=False)
    """In the order in which their chunks were frozen."""

    def layer(self, name: str) -> Layer | None:
        """A layer by its name; None: it was not reached."""
        return next((layer for layer in self.layers if layer.name == name), None)

    def blocks(self, layer: str, start: int = 0, stop: int | None = None) -> tuple[Block, ...]:
        """Blocks that overlap positions start to stop, in order; stop None: to the end."""
        return tuple(
            block
            for block in self._blocks.get(layer, ())
            if block.stop > start and (stop is None or block.start < stop)
        )

    def block(self, block_id: int) -> Block:
        """A block by its id."""
        return self._blocks_by_id[block_id]

    @cached_property
    def _blocks_by_id(self) -> Mapping[int, Block]:
        return {block.id: block for block in self.all_blocks}

    @cached_property
    def _blocks(self) -> Mapping[str, Sequence[Block]]:
        found: dict[str, list[Block]] = {}
        for block in self.all_blocks:
            found.setdefault(block.layer, []).append(block)
        return found

    def chunks(
        self, *, layer: str | None = None, states: Sequence[ChunkState] = tuple(ChunkState)
    ) -> tuple[Chunk, ...]:
        """Chunks in some states, of one layer or all, without those that were replaced."""
        return tuple(
            chunk
            for chunk in self.all_chunks
            if chunk.replaced_at is None and chunk.state in states and layer in (None, chunk.layer)
        )

    def chunk(self, chunk_id: int) -> Chunk:
        """A chunk by its id."""
        return self._chunks[chunk_id]

    @cached_property
    def _chunks(self) -> Mapping[int, Chunk]:
        return {chunk.id: chunk for chunk in self.all_chunks}

    def attempts(
        self,
        *,
        chunk_id: int | None = None,
        states: Sequence[AttemptState] = tuple(AttemptState),
    ) -> tuple[Attempt, ...]:
        """Attempts in some states, at one chunk or all."""
        return tuple(
            attempt
            for attempt in self.all_attempts
            if attempt.state in states and chunk_id in (None, attempt.chunk_id)
        )

    def session_of(self, attempt: Attempt) -> Session | None:
        """The session or batch that an attempt is sent in; None: job mode."""
        return next((each for each in self.sessions if each.id == attempt.session), None)

    @property
    def budget(self) -> Budget:
        """QPU time: allowed, held back and used."""
        limit = self.revisions[-1].max_qpu_seconds if self.revisions else None
        return budget_of(limit, self.all_attempts, self.duplicates, self.sessions)

    @property
    def jobs_to_cancel(self) -> tuple[JobToCancel, ...]:
        """Duplicates that are not known to be cancelled; of a cancelled run, its jobs as well."""
        is_over = self.run.cancelled_at is not None
        attempts = {attempt.id: attempt for attempt in self.all_attempts}
        jobs = [
            JobToCancel(attempt.job_id, attempt, is_duplicate=False)
            for attempt in self.attempts(states=[AttemptState.POSTED] if is_over else [])
            if attempt.job_id is not None
        ]
        jobs += [
            JobToCancel(each.job_id, attempts[each.attempt_id], is_duplicate=True)
            for each in self.duplicates
            if each.cancelled_at is None
        ]
        return tuple(jobs)

    @property
    def progress(self) -> tuple[LayerProgress, ...]:
        """How far each layer has come, in order of first use."""
        return tuple(
            _progress(layer.name, self.blocks(layer.name), self.chunks(layer=layer.name))
            for layer in self.layers
        )


class States(Store):
    """The method of the ledger that reads a whole run."""

    def state(self, run_id: str) -> RunState:
        """A run as it stands now.

        Raises:
            LedgerError: there is none with this id.
        """
        with self._reading() as connection:
            attempts = load_attempts(connection, schema.attempts.c.run_id == run_id)
            chunks = load_chunks(connection, schema.chunks.c.run_id == run_id, with_replaced=True)
            return RunState(
                run=load_run(connection, self.name, run_id),
                revisions=load_revisions(connection, run_id),
                layers=load_layers(connection, run_id),
                sessions=load_sessions(connection, run_id),
                duplicates=load_duplicates(connection, run_id),
                all_blocks=load_blocks(connection, chunks, schema.blocks.c.run_id == run_id),
                all_chunks=chunks,
                all_attempts=attempts,
            )


def _progress(layer: str, blocks: Sequence[Block], chunks: Sequence[Chunk]) -> LayerProgress:
    left = [chunk.predicted_seconds for chunk in chunks if chunk.state != ChunkState.DONE]
    known = [seconds for seconds in left if seconds is not None]
    return LayerProgress(
        layer=layer,
        num_blocks=len(blocks),
        num_pixels=sum(block.count for block in blocks),
        num_chunks={str(s): sum(chunk.state == s for chunk in chunks) for s in ChunkState},
        num_rows=sum(chunk.num_rows for chunk in chunks),
        num_rows_done=sum(c.num_rows for c in chunks if c.state == ChunkState.DONE),
        predicted_seconds_left=sum(known) if len(known) == len(left) else None,
    )
