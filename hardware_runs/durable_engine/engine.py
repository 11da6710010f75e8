"""Durable runs: a forward pass whose quantum layers survive a crash at any line.

    with hardware_runs.durable(
        "runs.sqlite", "digits", "ibm_fez", shots=1024, max_qpu_seconds=300
    ) as engine, torch.no_grad(), use_engine(model, engine):
        logits = torch.cat(engine.map(model, images.split(32)))

When the pass reaches a quantum layer, its rows are frozen in a ledger, sent as jobs exactly once,
and their results kept. Results that are not there yet raise `ResultsPending`; running the same
script again goes on where it was, in any process, with any batch size and thread count: rows are
found by run, layer and position, never by a hash of recomputed numbers. The model must be in
evaluation mode, and images must come in the same order.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from hardware_runs.durable_engine.circuits import FrozenCircuits, circuit_key
from hardware_runs.durable_engine.collecting import Payload
from hardware_runs.durable_engine.dispatch import Dispatcher, Rules
from hardware_runs.durable_engine.known import KnownRun
from hardware_runs.durable_engine.owners import new_owner
from hardware_runs.durable_engine.passes import Pass
from hardware_runs.durable_engine.revising import PatchRecord, Reviser
from hardware_runs.durable_engine.services import JobService
from hardware_runs.durable_engine.status import progress_line
from hardware_runs.durable_engine.values import rows_of, values_of
from hardware_runs.ledger import Block, Chunk, ChunkPlan, ChunkState, FrozenRows
from qpc_qiskit.backends.jobs import check_rows
from qpc_qiskit.circuits.directions import canonical_directions
from qpc_qiskit.circuits.spec import LayerSpec
from qpc_qiskit.common.arrays import Array
from qpc_qiskit.engines import Engine, EstimatorEngine, LayerCall
from qpc_qiskit.errors import (
    BackendError,
    EngineError,
    FitFailed,
    JobFailed,
    LedgerConflictError,
    ResultsPending,
)
from qpc_qiskit.rows.planning import JobPlan
from qpc_qiskit.rows.prepared import Prepared
from qpc_qiskit.rows.pubs import by_pixel_and_kernel
from qpc_qiskit.rows.slots import wide_values

DIRECTION_TOLERANCE = 1e-4
"""How far a recomputed pixel may be from the frozen one, as a direction or in the layer's median
norm: another batch size or thread count moves its last bits."""
POLL_SECONDS = 10.0


class DurableEngine(Engine):
    """Evaluates the layers of a model through a ledger; made by `durable`.

    Args:
        known: the run.
        estimator: plans and prepares rows, and sends nothing itself; or why there is none.
        service: where jobs are done.
        rules: how they are sent.
        wait: whether to wait for results instead of raising `ResultsPending`.
        clock: seconds since the epoch.
        sleep: waits for some seconds.
        owner: unique to this process and start.
        seed: of simulated shots.
        check: called before each job is sent or looked at; may raise to stop cleanly.
    """

    name = "durable"
    has_gradients = False

    def __init__(
        self,
        known: KnownRun,
        estimator: EstimatorEngine | BackendError,
        service: JobService,
        rules: Rules,
        *,
        wait: bool = False,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        owner: str | None = None,
        seed: int | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self.known, self.ledger, self.run = known, known.ledger, known.run
        self._given_estimator = estimator
        self._wait, self._clock, self._sleep = wait, clock, sleep
        self.dispatcher = Dispatcher(
            known=known,
            service=service,
            payload=self._payload,
            rules=rules,
            owner=owner or new_owner(),
            clock=clock,
            seed=seed,
            check=check,
            may_send=self._may_send,
            revise=self._revise,
        )
        self._pass = Pass()
        backend = None
        if isinstance(estimator, EstimatorEngine) and not service.is_local:
            backend = estimator.destination.backend
        self._circuits = FrozenCircuits(known, lambda: self._estimator, backend, clock)
        self._reviser = Reviser(
            known,
            self._circuits,
            lambda: self._estimator,
            clock,
            self.dispatcher.problems.note,
        )
        self._specs: dict[str, LayerSpec] = {}

    def __enter__(self) -> Self:
        self.begin_pass()
        return self

    def __exit__(self, *exception: object) -> None:
        self.dispatcher.leave()
        if isinstance(self._given_estimator, EstimatorEngine):  # else nobody can be told to close
            if exception[:1] in ((None,), (JobFailed,)):
                self.dispatcher.finish()
            self._given_estimator.close()
        self.dispatcher.leave()

    @property
    def _estimator(self) -> EstimatorEngine:
        if isinstance(self._given_estimator, BackendError):
            raise self._given_estimator
        return self._given_estimator

    @property
    def shots(self) -> int | None:
        """Per execution; None: exact values."""
        if isinstance(self._given_estimator, EstimatorEngine):
            return self._given_estimator.shots
        done = self.known.state.chunks(states=[ChunkState.DONE])
        return self.known.results(done[:1])[0].shots if done else None

    def patch_records(self) -> tuple[PatchRecord, ...]:
        """What the reference rows of all jobs so far say of each patch; none without such rows."""
        return self._reviser.patch_records()

    def begin_pass(self) -> None:
        """Begin with the first image again."""
        self._pass = Pass()

    def map(self, model: Callable[[Tensor], Tensor], batches: Iterable[Tensor]) -> list[Tensor]:
        """The model's outputs for all batches, of which as much as possible is sent first.

        With `wait`, it returns when all results are there.

        Raises:
            ResultsPending: for some batch; everything that could be sent was sent.
            ValueError: the model is in training mode.
        """
        if isinstance(model, nn.Module) and model.training:
            raise ValueError(
                "The model is in training mode, in which the same images give other values. Call "
                "model.eval() first."
            )
        if self._wait:
            batches = list(batches)
        begun_at = dict(self._pass.positions)
        while True:
            outputs, pending = self._map(model, batches)
            if pending is None:
                return outputs
            if not self._wait:
                raise pending
            self._await_jobs()
            self._pass = Pass(positions=dict(begun_at))

    def _map(
        self, model: Callable[[Tensor], Tensor], batches: Iterable[Tensor]
    ) -> tuple[list[Tensor], ResultsPending | None]:
        outputs: list[Tensor] = []
        pending: ResultsPending | None = None
        self._pass.is_mapped = True
        try:
            for batch in batches:
                self._pass.begin_call()
                try:
                    outputs.append(model(batch))
                except ResultsPending as error:
                    pending = pending or error
        finally:
            self._pass.is_mapped = False
        return outputs, pending

    def _await_jobs(self) -> None:
        """Sleep until nothing that is frozen is left to send or to wait for."""
        left = [ChunkState.UNSENT, ChunkState.OPEN]
        while self.known.state.chunks(states=left):
            self._sleep(POLL_SECONDS)
            self.dispatcher.step()
            if self.known.state.chunks(states=[ChunkState.FAILED]):
                return

    def evs(self, call: LayerCall) -> Tensor:
        """Values of the next pixels of a layer; see `Engine.evs`.

        Raises:
            ResultsPending: they are not there yet.
            JobFailed: a job failed for good.
            BackendError: the device is needed, and cannot be reached.
            EngineError: weights or images are not those that the run began with, or the layer has
                no name.
        """
        if call.layer is None:
            raise EngineError(
                "A durable engine tells layers by name: use it with use_engine(model, ...)."
            )
        now = self._pass
        layer = now.enter(call.layer)
        if now.stalled is not None and layer not in now.stalled:
            raise ResultsPending(f"Run {self.run.name!r}: {layer} waits for the layers before it.")
        try:
            return self._evaluate(layer, call)
        except ResultsPending:
            now.stall()
            raise

    def _evaluate(self, layer: str, call: LayerCall) -> Tensor:
        spec, pixels, weights = call.spec, call.pixels, call.weights
        start, stop = self._pass.advance(layer, len(pixels))
        if start == stop:
            return pixels.new_zeros(call.shape)
        rows = pixels.detach().cpu()
        kernels = weights.detach().cpu().to(torch.float64)
        digest = hashlib.sha256(np.ascontiguousarray(kernels.numpy()).tobytes()).hexdigest()
        stored, told = self.known.state.layer(layer), spec.to_dict()
        if stored is None or (stored.spec, stored.weights_hash) != (told, digest):
            try:
                self.ledger.put_layer(self.run.id, layer, told, digest)
            except LedgerConflictError as error:
                raise EngineError(str(error)) from error
        self._specs[circuit_key(spec)] = spec
        self._freeze(layer, spec, rows, kernels, start, stop)
        if self._pass.has_asked:
            self.dispatcher.send()
        else:  # what became of jobs is asked once in a pass, not for every batch and layer
            self.dispatcher.step()
            self._pass.has_asked = True
        while (values := self._values(layer, spec, start, stop)) is None:
            if not self._wait or self._pass.is_mapped:  # `map` sends all batches, then waits
                raise ResultsPending(self._pending(layer))
            self._sleep(POLL_SECONDS)
            self.dispatcher.step()
        return torch.from_numpy(values).to(pixels)

    def _freeze(
        self, layer: str, spec: LayerSpec, pixels: Tensor, weights: Tensor, start: int, stop: int
    ) -> None:
        """See that blocks cover the positions: what is not frozen yet is frozen now."""
        while gaps := _gaps(blocks := self.known.state.blocks(layer, start, stop), start, stop):
            gap_start, gap_stop = gaps[0]
            part = pixels[gap_start - start : gap_stop - start]
            revision, plan = self._plan(spec, part, weights)
            check_rows(self._estimator.destination, self._estimator.prepare(spec), plan)
            frozen = FrozenRows(
                pixels=part.to(torch.float64).numpy(),
                directions=canonical_directions(part).numpy(),
                encoder_angles=plan.rows.encoder_angles,
                ansatz_angles=plan.rows.ansatz_angles,
                pairs=plan.rows.pairs.astype(np.int64),
                which=plan.which.astype(np.int64),
                slots=plan.slots.astype(np.int64),
                exact=np.zeros((0, spec.num_maps)) if plan.exact is None else plan.exact,
                num_kernels=spec.num_kernels,
            )
            chunks = [
                ChunkPlan(
                    p.start, p.stop, None if plan.seconds is None else plan.seconds[i], revision
                )
                for i, p in enumerate(plan.parts)
            ]
            # Another process may freeze other positions meanwhile: then the gaps are others.
            with suppress(LedgerConflictError):
                self.known.freeze(layer, gap_start, frozen, chunks, now=self._clock())
        for block in blocks:
            self._check_same(layer, block, pixels.to(torch.float64), start, stop)

    def _plan(self, spec: LayerSpec, pixels: Tensor, weights: Tensor) -> tuple[int, JobPlan]:
        """The jobs of some pixels, and the revision with their circuit.

        Where its encoder cannot prepare a pixel well enough, the layer's circuit gets another one;
        rows that were frozen before keep theirs.
        """
        tried: set[str] = set()
        while True:
            bad = self._reviser.bad_patches(circuit_key(spec))
            revision = self._circuits.revision_with(spec, bad)
            try:
                return revision, self._estimator.plan(LayerCall(spec, pixels, weights))
            except FitFailed as error:
                now = self._estimator.encoder(spec)
                if now in tried or not self._estimator.fall_back(spec):
                    raise
                tried.add(now)
                self._circuits.place(spec, f"{error} Encoded by {self._estimator.encoder(spec)}.")

    def _check_same(self, layer: str, block: Block, pixels: Tensor, start: int, stop: int) -> None:
        """Whether recomputed pixels are the frozen ones, up to what another batch size does."""
        low, high = max(start, block.start), min(stop, block.stop)
        frozen = torch.from_numpy(self.known.rows(block).pixels)
        new = pixels[low - start : high - start]
        old = frozen[low - block.start : high - block.start]
        if new.shape != old.shape:
            raise EngineError(
                f"Run {self.run.name!r}, {layer}: pixels have {new.shape[1]} channels, frozen were "
                f"{old.shape[1]}. The network is another one; begin a new run."
            )
        ours, theirs = canonical_directions(new), canonical_directions(old)
        turned = torch.minimum((ours - theirs).abs().amax(1), (ours + theirs).abs().amax(1))
        norms = torch.linalg.vector_norm(frozen, dim=1)
        scale = norms[norms > 0].median() if bool((norms > 0).any()) else 1.0
        moved = torch.linalg.vector_norm(new - old, dim=1)
        differs = (turned > DIRECTION_TOLERANCE) & (moved > DIRECTION_TOLERANCE * scale)
        if bool(differs.any()):
            first = low + int(torch.nonzero(differs)[0])
            raise EngineError(
                f"Run {self.run.name!r}, {layer}: pixel {first} is not the one that was frozen. "
                "Weights or images changed, their order did, or the model is not in evaluation "
                "mode. Restore them, or begin a run with another name."
            )

    def _revise(self) -> None:
        """Before chunks are sent; without the device what is frozen is sent as it is."""
        if isinstance(self._given_estimator, EstimatorEngine):
            self._reviser.revise(self._specs)

    def _may_send(self, chunk: Chunk) -> bool:
        """Not where its circuit is to be revised first: in a pass that reaches its layer."""
        key = self._circuits.key(chunk.layer)
        if key in self._specs:
            return self._circuits.can_run(chunk.revision, key)
        return self._circuits.is_fit(chunk.revision, key, self._reviser.bad_patches(key))

    def _payload(self, chunk: Chunk) -> Payload:
        block, prepared = self.known.block_of(chunk), self._prepared_of(chunk)
        rows = self.known.rows(block)
        slots = rows.slots[chunk.row_start : chunk.row_stop, : prepared.num_patches]
        return Payload(
            prepared,
            wide_values(rows_of(rows), slots),
            self.run.settings["precision"],
            self.shots,
            block.start,
        )

    def _prepared_of(self, chunk: Chunk) -> Prepared:
        return self._circuits.thawed(chunk.revision, self._circuits.key(chunk.layer))

    def _values(self, layer: str, spec: LayerSpec, start: int, stop: int) -> Array | None:
        """Values at the positions, (N, K, m); None while some are missing."""
        values = np.empty((stop - start, spec.num_kernels, spec.num_maps))
        applies = self.run.settings["engine_options"].get("calibrate", True)
        for block in self.known.state.blocks(layer, start, stop):
            if any(chunk.state != ChunkState.DONE for chunk in block.chunks):
                self._raise_failed(block)
                return None
            rows, results = self.known.rows(block), self.known.results(block.chunks)
            evs = values_of(rows, results, self._prepared_of, applies=applies).evs
            table = by_pixel_and_kernel(evs[rows.which], block.count, spec.num_kernels)
            low, high = max(start, block.start), min(stop, block.stop)
            values[low - start : high - start] = table[low - block.start : high - block.start]
        return values

    def _raise_failed(self, block: Block) -> None:
        for chunk in block.chunks:
            if chunk.state == ChunkState.FAILED:
                last = self.known.state.attempts(chunk_id=chunk.id)[-1]
                raise JobFailed(
                    f"Run {self.run.name!r}, {chunk.layer}, chunk {chunk.id}: job {last.job_id} "
                    f"failed in attempt {last.number}: {last.error} The other results are kept; "
                    f"`qpc run resume {self.run.name} --again`, or retry_failed_chunks of the "
                    "ledger in a script of yours, lets it be sent and paid again."
                )

    def _pending(self, layer: str) -> str:
        progress = progress_line(self.known.state)
        told = f"Run {self.run.name!r} waits at {layer} ({progress}). Run the same again later."
        return f"{told} {self.dispatcher.problems}".strip()


def _gaps(blocks: Iterable[Block], start: int, stop: int) -> list[tuple[int, int]]:
    """Positions from start to stop that no block covers."""
    gaps, reached = [], start
    for block in blocks:
        if block.start > reached:
            gaps.append((reached, block.start))
        reached = max(reached, block.stop)
    return [*gaps, (reached, stop)] if reached < stop else gaps
