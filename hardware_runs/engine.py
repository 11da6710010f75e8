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
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from inspect import signature
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from qiskit.providers import BackendV2
from qiskit_aer import AerSimulator
from qiskit_aer.noise import NoiseModel
from torch import Tensor, nn

from hardware_runs.collecting import Payload
from hardware_runs.dispatch import Dispatcher, Rules
from hardware_runs.ledger import (
    Block,
    Chunk,
    ChunkPlan,
    ChunkResult,
    ChunkState,
    FrozenRows,
    Ledger,
    Run,
)
from hardware_runs.owners import new_owner
from hardware_runs.services import DeviceService, JobService, LocalService, NoService
from hardware_runs.status import progress_line
from qpc_qiskit.directions import canonical_directions
from qpc_qiskit.engines import Engine, EstimatorEngine
from qpc_qiskit.engines.estimator import checked_precision
from qpc_qiskit.errors import (
    BackendError,
    EngineError,
    JobFailed,
    LedgerConflictError,
    NotISAError,
    ResultsPending,
)
from qpc_qiskit.execution.destinations import check_runs_on
from qpc_qiskit.execution.frozen import freeze, thaw
from qpc_qiskit.execution.jobs import check_rows
from qpc_qiskit.execution.planning import JobPlan
from qpc_qiskit.execution.prepared import Prepared
from qpc_qiskit.execution.pubs import (
    GRID,
    Array,
    Rows,
    by_pixel_and_kernel,
)
from qpc_qiskit.execution.slots import wide_values
from qpc_qiskit.execution.unpacking import features, unpack
from qpc_qiskit.spec import LayerSpec

DIRECTION_TOLERANCE = 1e-4
"""How far a recomputed pixel may be from the frozen one, as a direction or in the layer's median
norm: another batch size or thread count moves its last bits."""
POLL_SECONDS = 10.0


class DurableEngine(Engine):
    """Evaluates the layers of a model through a ledger; made by `durable`.

    Args:
        ledger: of the run.
        run: the run.
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
        ledger: Ledger,
        run: Run,
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
        self.ledger, self.run = ledger, run
        self._given_estimator = estimator
        self._wait, self._clock, self._sleep = wait, clock, sleep
        self.dispatcher = Dispatcher(
            ledger=ledger,
            run=run,
            service=service,
            payload=self._payload,
            rules=rules,
            owner=owner or new_owner(),
            clock=clock,
            seed=seed,
            check=check,
            may_send=self._may_send,
        )
        self._pass = _Pass()
        self._circuits: dict[tuple[int, str], Prepared] = {}
        self._is_legal: dict[tuple[int, str], bool] = {}
        self._layer_keys: dict[str, str] = {}
        self._blocks: dict[int, Block] = {}

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
        for layer in self.ledger.layers(self.run.id):
            for result in self.ledger.results(self.run.id, layer.name):
                return result.shots
        return None

    def begin_pass(self) -> None:
        """Begin with the first image again."""
        self._pass = _Pass()

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
            self._pass = _Pass(positions=dict(begun_at))

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
        while self.ledger.chunks(self.run.id, states=left):
            self._sleep(POLL_SECONDS)
            self.dispatcher.step()
            if self.ledger.chunks(self.run.id, states=[ChunkState.FAILED]):
                return

    def for_layer(self, name: str) -> Engine:
        """See `Engine.for_layer`."""
        return _LayerEngine(self, name)

    def evs(self, spec: LayerSpec, pixels: Tensor, weights: Tensor) -> Tensor:
        """Not of any one layer: see `for_layer`."""
        raise EngineError(
            "A durable engine tells layers by name: use it with use_engine(model, ...)."
        )

    def evaluate(self, layer: str, spec: LayerSpec, pixels: Tensor, weights: Tensor) -> Tensor:
        """Values of the next pixels of a layer, (N, K, n).

        Raises:
            ResultsPending: they are not there yet.
            JobFailed: a job failed for good.
            BackendError: the device is needed, and cannot be reached.
            EngineError: weights or images are not those that the run began with.
        """
        now = self._pass
        layer = now.enter(layer)
        if now.stalled is not None and layer not in now.stalled:
            raise ResultsPending(f"Run {self.run.name!r}: {layer} waits for the layers before it.")
        try:
            return self._evaluate(layer, spec, pixels, weights)
        except ResultsPending:
            now.stall()
            raise

    def _evaluate(self, layer: str, spec: LayerSpec, pixels: Tensor, weights: Tensor) -> Tensor:
        start, stop = self._pass.advance(layer, len(pixels))
        if start == stop:
            return pixels.new_zeros(0, spec.num_kernels, spec.num_qubits)
        rows = pixels.detach().cpu()
        kernels = weights.detach().cpu().to(torch.float64)
        digest = hashlib.sha256(np.ascontiguousarray(kernels.numpy()).tobytes()).hexdigest()
        try:
            self.ledger.put_layer(self.run.id, layer, spec.to_dict(), digest)
        except LedgerConflictError as error:
            raise EngineError(str(error)) from error
        blocks = self._frozen(layer, spec, rows, kernels, start, stop)
        self._place_anew(spec)
        if self._pass.has_asked:
            self.dispatcher.send()
        else:  # what became of jobs is asked once in a pass, not for every batch and layer
            self.dispatcher.step()
            self._pass.has_asked = True
        while (values := self._values(layer, spec, blocks, start, stop)) is None:
            if not self._wait or self._pass.is_mapped:  # `map` sends all batches, then waits
                raise ResultsPending(self._pending(layer))
            self._sleep(POLL_SECONDS)
            self.dispatcher.step()
        return torch.from_numpy(values).to(pixels)

    def _frozen(
        self, layer: str, spec: LayerSpec, pixels: Tensor, weights: Tensor, start: int, stop: int
    ) -> tuple[Block, ...]:
        """Blocks that cover the positions; what is not frozen yet is frozen now."""
        while gaps := self._gaps(layer, start, stop):
            gap_start, gap_stop = gaps[0]
            part = pixels[gap_start - start : gap_stop - start]
            revision = self._revision_with(spec)
            plan = self._estimator.plan(spec, part, weights)
            check_rows(self._estimator.destination, self._estimator.prepare(spec), plan)
            frozen = FrozenRows(
                pixels=part.to(torch.float64).numpy(),
                directions=canonical_directions(part).numpy(),
                encoder_angles=plan.rows.encoder_angles,
                ansatz_angles=plan.rows.ansatz_angles,
                pairs=plan.rows.pairs.astype(np.int64),
                which=plan.which.astype(np.int64),
                slots=plan.slots.astype(np.int64),
                exact=np.zeros((0, spec.num_qubits)) if plan.exact is None else plan.exact,
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
                self.ledger.freeze_block(
                    self.run.id,
                    layer,
                    gap_start,
                    gap_stop - gap_start,
                    frozen,
                    chunks,
                    now=self._clock(),
                )
        blocks = self.ledger.blocks(self.run.id, layer, start, stop)
        for block in blocks:
            self._blocks[block.id] = block
            self._check_same(layer, block, pixels.to(torch.float64), start, stop)
        return blocks

    def _gaps(self, layer: str, start: int, stop: int) -> list[tuple[int, int]]:
        gaps, reached = [], start
        for block in self.ledger.blocks(self.run.id, layer, start, stop):
            if block.start > reached:
                gaps.append((reached, block.start))
            reached = max(reached, block.stop)
        return [*gaps, (reached, stop)] if reached < stop else gaps

    def _check_same(self, layer: str, block: Block, pixels: Tensor, start: int, stop: int) -> None:
        """Whether recomputed pixels are the frozen ones, up to what another batch size does."""
        low, high = max(start, block.start), min(stop, block.stop)
        new = pixels[low - start : high - start]
        old = torch.from_numpy(block.rows.pixels[low - block.start : high - block.start])
        if new.shape != old.shape:
            raise EngineError(
                f"Run {self.run.name!r}, {layer}: pixels have {new.shape[1]} channels, frozen were "
                f"{old.shape[1]}. The network is another one; begin a new run."
            )
        ours, theirs = canonical_directions(new), canonical_directions(old)
        turned = torch.minimum((ours - theirs).abs().amax(1), (ours + theirs).abs().amax(1))
        norms = torch.linalg.vector_norm(torch.from_numpy(block.rows.pixels), dim=1)
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

    def _revision_with(self, spec: LayerSpec) -> int:
        """The newest revision with the layer's circuit, which the estimator has from then on."""
        key = circuit_key(spec)
        newest = self.ledger.revisions(self.run.id)[-1]
        if key in newest.blobs and self._can_run(newest.number, key, newest.blobs):
            self._estimator.adopt(spec, self._thawed(newest.number, key, newest.blobs))
            return newest.number
        again = key in newest.blobs
        return self._place(spec, f"circuit of {spec.num_qubits} qubits{', placed anew' * again}")

    def _place(self, spec: LayerSpec, reason: str) -> int:
        """A new revision with the layer's circuit on the best qubits of the device as it is now."""
        self._estimator.forget(spec)
        blobs = {circuit_key(spec): freeze(self._estimator.prepare(spec))}
        made = self.ledger.add_circuits(self.run.id, reason=reason, blobs=blobs, now=self._clock())
        return made.number

    def _place_anew(self, spec: LayerSpec) -> None:
        """Move what is not sent yet, where its circuit can run no more, to a new revision.

        A device that is calibrated anew may have lost a qubit or a gate; as long as a circuit can
        run it stays, so that the rows of a run belong together.
        """
        if self.dispatcher.service.is_local:
            return
        key = circuit_key(spec)
        unsent = [
            chunk
            for chunk in self.ledger.chunks(self.run.id, states=[ChunkState.UNSENT])
            if self._key(chunk.layer) == key
        ]
        if all(self._can_run(revision, key) for revision in {c.revision for c in unsent}):
            return
        number = self._revision_with(spec)
        self._check_as_many_patches(unsent, self._thawed(number, key).num_patches)
        self.ledger.move_unsent_chunks(self.run.id, number)

    def _check_as_many_patches(self, chunks: Iterable[Chunk], num_patches: int) -> None:
        """Rows were dealt to patches when they were frozen: others may carry them, but as many.

        Raises:
            EngineError: there are fewer or more.
        """
        for chunk in chunks:
            dealt = self._block_of(chunk).rows.slots.shape[1]
            if dealt != num_patches:
                self.dispatcher.collect()
                raise EngineError(
                    f"Run {self.run.name!r}, {chunk.layer}: a patch can run the circuit no more. "
                    f"The device has {num_patches} good patches now, and rows that are not sent "
                    f"yet were dealt to {dealt}. What was measured is kept. Begin a run with "
                    f"another name for the rest, with num_patches={min(num_patches, dealt)}."
                )

    def _may_send(self, chunk: Chunk) -> bool:
        return self._can_run(chunk.revision, self._key(chunk.layer))

    def _can_run(self, revision: int, key: str, blobs: Mapping[str, bytes] | None = None) -> bool:
        """Whether a frozen circuit is one that the device, as it is now, can run."""
        if self.dispatcher.service.is_local or isinstance(self._given_estimator, BackendError):
            return True
        if (revision, key) not in self._is_legal:
            backend = self._estimator.destination.backend
            assert backend is not None
            try:
                check_runs_on(self._thawed(revision, key, blobs).template.circuit, backend)
                self._is_legal[revision, key] = True
            except NotISAError:
                self._is_legal[revision, key] = False
        return self._is_legal[revision, key]

    def _key(self, layer: str) -> str:
        """Of a layer's circuit."""
        if layer not in self._layer_keys:
            found = self.ledger.layers(self.run.id)
            self._layer_keys |= {each.name: circuit_key(each.spec) for each in found}
        return self._layer_keys[layer]

    def _thawed(
        self, revision: int, key: str, blobs: Mapping[str, bytes] | None = None
    ) -> Prepared:
        if (revision, key) not in self._circuits:
            if blobs is None:
                revisions = {r.number: r for r in self.ledger.revisions(self.run.id)}
                blobs = revisions[revision].blobs
            self._circuits[revision, key] = thaw(blobs[key])
        return self._circuits[revision, key]

    def _payload(self, chunk: Chunk) -> Payload:
        frozen = self._block_of(chunk).rows
        rows = Rows(frozen.encoder_angles, frozen.ansatz_angles, frozen.pairs)
        slots = frozen.slots[chunk.row_start : chunk.row_stop]
        settings = self.run.settings
        return Payload(
            self._thawed(chunk.revision, self._key(chunk.layer)),
            wide_values(rows, slots),
            settings["precision"],
            self.shots,
            self._block_of(chunk).start,
        )

    def _block_of(self, chunk: Chunk) -> Block:
        if chunk.block_id not in self._blocks:
            for block in self.ledger.blocks(self.run.id, chunk.layer):
                self._blocks[block.id] = block
        return self._blocks[chunk.block_id]

    def _values(
        self, layer: str, spec: LayerSpec, blocks: tuple[Block, ...], start: int, stop: int
    ) -> Array | None:
        """Values at the positions, (N, K, n); None while some are missing."""
        found = {
            result.chunk.id: result
            for result in self.ledger.results(self.run.id, layer, start, stop)
        }
        values = np.empty((stop - start, spec.num_kernels, spec.num_qubits))
        for block in blocks:
            if any(chunk.id not in found for chunk in block.chunks):
                self._raise_failed(block)
                return None
            evs = self._unpacked(block, [found[chunk.id] for chunk in block.chunks])
            table = by_pixel_and_kernel(evs[block.rows.which], block.count, spec.num_kernels)
            low, high = max(start, block.start), min(stop, block.stop)
            values[low - start : high - start] = table[low - block.start : high - block.start]
        return values

    def _unpacked(self, block: Block, results: Sequence[ChunkResult]) -> Array:
        """Values of a block's rows, (V, n), from what its executions gave."""
        rows = block.rows
        plan = JobPlan(
            rows=Rows(rows.encoder_angles, rows.ansatz_angles, rows.pairs),
            num_rows=len(rows.pairs) - len(rows.exact),
            which=rows.which,
            slots=rows.slots,
            parts=tuple(slice(c.row_start, c.row_stop) for c in block.chunks),
            seconds=None,
            exact=rows.exact if len(rows.exact) else None,
        )
        key = self._key(block.layer)
        measured = [
            features(self._thawed(each.chunk.revision, key), each.evs, each.stds, each.shots)
            for each in results
        ]
        evs, stds = (np.concatenate([each[i] for each in measured]) for i in (0, 1))
        applies = self.run.settings["engine_options"].get("calibrate", True)
        return unpack(plan, evs, stds, applies=applies).evs

    def _raise_failed(self, block: Block) -> None:
        for chunk in self.ledger.chunks(self.run.id, layer=block.layer, states=[ChunkState.FAILED]):
            if chunk.block_id == block.id:
                last = self.ledger.attempts(self.run.id, chunk_id=chunk.id)[-1]
                raise JobFailed(
                    f"Run {self.run.name!r}, {chunk.layer}, chunk {chunk.id}: job {last.job_id} "
                    f"failed in attempt {last.number}: {last.error} The other results are kept; "
                    f"`qpc run resume {self.run.name} --again`, or retry_failed_chunks of the "
                    "ledger in a script of yours, lets it be sent and paid again."
                )

    def _pending(self, layer: str) -> str:
        progress = progress_line(self.ledger, self.run.id)
        told = f"Run {self.run.name!r} waits at {layer} ({progress}). Run the same again later."
        return f"{told} {self.dispatcher.problems}".strip()


@dataclass
class _Pass:
    """How far the network has come in the images."""

    positions: dict[str, int] = field(default_factory=dict)
    """Pixels that each layer has seen."""
    called: set[str] = field(default_factory=set)
    """Layers that the present call of the network has reached."""
    times: dict[str, int] = field(default_factory=dict)
    """How often it has reached each."""
    first: str | None = None
    """The layer that begins a call."""
    stalled: set[str] | None = None
    """Layers whose positions are still known; None: no result was missing yet."""
    is_mapped: bool = False
    """Whether it is known where a call begins."""
    has_asked: bool = False
    """Whether the service was asked what became of its jobs."""

    def begin_call(self) -> None:
        """The network is called with the next batch."""
        self.called.clear()
        self.times.clear()

    def enter(self, layer: str) -> str:
        """A layer is reached; its name, with a number if it was reached before in this call.

        Without the number, the pixels of a layer that a network uses twice would be counted in an
        order that depends on the batch size.
        """
        if not self.is_mapped and self.first in (None, layer):
            self.first = layer
            self.begin_call()
        self.times[layer] = self.times.get(layer, 0) + 1
        if self.is_mapped and self.times[layer] > 1:
            layer = f"{layer}#{self.times[layer]}"
        self.called.add(layer)
        return layer

    def advance(self, layer: str, count: int) -> tuple[int, int]:
        """Positions of the next pixels of a layer."""
        start = self.positions.get(layer, 0)
        self.positions[layer] = start + count
        return start, start + count

    def stall(self) -> None:
        """Layers behind the one that waits were not reached: their positions are unknown."""
        known = self.called if self.stalled is None else self.stalled & self.called
        self.stalled = set(known)


class _LayerEngine(Engine):
    """The view of a durable engine that one layer has."""

    name = DurableEngine.name
    has_gradients = False

    def __init__(self, engine: DurableEngine, layer: str) -> None:
        super().__init__()
        self._engine, self._layer = engine, layer

    def evs(self, spec: LayerSpec, pixels: Tensor, weights: Tensor) -> Tensor:
        """See `DurableEngine.evaluate`."""
        return self._engine.evaluate(self._layer, spec, pixels, weights)


def circuit_key(spec: LayerSpec | Any) -> str:
    """What tells the circuits of layers apart: their ansatz, not their weights or kernels."""
    told = spec.to_dict() if isinstance(spec, LayerSpec) else dict(spec)
    kept = {k: v for k, v in told.items() if k not in ("in_channels", "num_kernels", "conventions")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def durable(
    ledger: str | Path | Ledger,
    name: str,
    backend: str | BackendV2,
    *,
    mode: str = "job",
    shots: int | None = None,
    precision: float | None = None,
    resilience: int = 0,
    options: dict[str, Any] | None = None,
    max_qpu_seconds: float | None = None,
    seed: int | None = None,
    wait: bool = False,
    rules: Rules | None = None,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
    check: Callable[[], None] = lambda: None,
    about: dict[str, Any] | None = None,
    **engine_options: Any,
) -> DurableEngine:
    """An engine whose run survives a crash at any line; use it as a context manager.

    Args:
        ledger: path of an SQLite file, a database URL, or a `Ledger`.
        name: of the run. An existing run goes on, with the settings that it was begun with. One
            whose results are all there needs no backend any more.
        backend: see `EstimatorEngine.from_backend`, as for the arguments that are not told here.
        mode: job, batch or session.
        shots: per execution.
        precision: instead of shots.
        resilience: IBM's level.
        options: of IBM's Estimator.
        max_qpu_seconds: the budget of the run: every job reserves its cap before it is sent. A
            device of IBM's needs one; math.inf is none. What an existing run was begun with, given
            again, leaves a budget that was changed meanwhile (see `set_budget`).
        seed: of simulated shots.
        wait: wait for results instead of raising `ResultsPending`. `map` sends all batches first.
        rules: how jobs are sent, instead of the usual rules.
        clock: seconds since the epoch.
        sleep: waits for some seconds.
        check: called before each job is sent or looked at; may raise to stop cleanly.
        about: JSON that is kept with the run, for whoever goes on with it.
        engine_options: of `EstimatorEngine` and its `from_backend`; kept with the run.

    Raises:
        BackendError: unknown backend, or no access to it.
        EngineError: the run was begun with other settings, or a device was given no budget.
    """
    from qpc_qiskit.execution import runtime
    from qpc_qiskit.execution.service import IBMJobs

    book = ledger if isinstance(ledger, Ledger) else Ledger(ledger)
    known = book.find_run(name)
    estimator: EstimatorEngine | BackendError
    service: JobService
    try:
        estimator = EstimatorEngine.from_backend(
            backend,
            mode=mode,
            shots=shots,
            precision=precision,
            resilience=resilience,
            options=options,
            seed=seed,
            **engine_options,
        )
        device = estimator.destination.backend
        service = LocalService(estimator.destination)
        if device is not None and runtime.is_ibm(device):
            service = DeviceService(IBMJobs(device, runtime.estimator_options(resilience, options)))
    except BackendError as error:
        if known is None or not _is_done(book, known):
            raise
        estimator, service = error, NoService(error)
    where = backend if isinstance(backend, str) else backend.name
    own_noise = (
        {"noise_model": backend.options.noise_model} if isinstance(backend, AerSimulator) else {}
    )
    settings = {
        "backend": where,
        "mode": mode,
        "precision": checked_precision(precision, shots),
        "resilience": resilience,
        "options": options or {},
        "seed": seed,
        "dedupe_grid": engine_options.get("dedupe_grid", GRID),
        "engine_options": _kept_options({**engine_options, **own_noise}),
    }
    if about is not None:
        settings["about"] = about
    is_new = known is None or not book.revisions(known.id)  # its process may have died at once
    if is_new and not service.is_local and max_qpu_seconds is None:
        raise EngineError(
            f"Run {name!r} would send paid jobs to {where}: give max_qpu_seconds, its budget "
            "(math.inf for none). Nothing was sent."
        )
    run = _run(book, name, known, settings, max_qpu_seconds, clock)
    return DurableEngine(
        book,
        run,
        estimator,
        service,
        replace(rules or Rules(), mode=mode),
        wait=wait,
        clock=clock,
        sleep=sleep,
        seed=seed,
        check=check,
    )


def set_budget(ledger: Ledger, run: Run, max_qpu_seconds: float, *, now: float) -> None:
    """Give a run another budget, what it has used before included; math.inf: none."""
    ledger.set_budget(run.id, _finite(max_qpu_seconds), now=now)


def _finite(budget: float | None) -> float | None:
    return None if budget == math.inf else budget


def _is_done(ledger: Ledger, run: Run) -> bool:
    chunks = ledger.chunks(run.id)
    return bool(chunks) and all(chunk.state == ChunkState.DONE for chunk in chunks)


def _kept_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """What of an engine's options decides its values, as JSON.

    Raises:
        EngineError: an option that cannot be compared when the run goes on.
    """
    kept = {}
    defaults = {
        **signature(EstimatorEngine.__init__).parameters,
        **signature(EstimatorEngine.from_backend).parameters,
    }
    for name, value in options.items():
        if name in ("service", "limits", "dedupe_grid"):
            continue  # who asks, and how much at a time; the grid is told apart
        if name in defaults and value == defaults[name].default:
            continue
        if isinstance(value, AerSimulator) and value.options.noise_model is not None:
            value = value.options.noise_model
        if isinstance(value, NoiseModel):
            kept[name] = _noise_digest(value)
        elif isinstance(value, BackendV2):
            kept[name] = value.name
        else:
            try:
                kept[name] = json.loads(json.dumps(value))
            except (TypeError, ValueError) as error:
                raise EngineError(
                    f"{name}={value!r} cannot be kept with a durable run; give plain values."
                ) from error
    return kept


def _noise_digest(noise: NoiseModel) -> str:
    """The same for equal models, whose errors have random ids and come in any order."""
    told = noise.to_dict(serializable=True)["errors"]
    errors = [{name: value for name, value in each.items() if name != "id"} for each in told]
    texts = sorted(json.dumps(each, sort_keys=True) for each in errors)
    text = json.dumps([sorted(noise.basis_gates), texts])
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _run(
    ledger: Ledger,
    name: str,
    known: Run | None,
    settings: dict[str, Any],
    max_qpu_seconds: float | None,
    clock: Callable[[], float],
) -> Run:
    if known is None:
        try:
            known = ledger.create_run(name, settings, now=clock())
        except LedgerConflictError:  # another process has just begun it
            known = ledger.get_run(name)
    stored = json.loads(json.dumps(settings))  # as it comes back: tuples are lists
    changed = [k for k, v in stored.items() if known.settings.get(k) != v]
    if changed:
        raise EngineError(
            f"Run {name!r} was begun with other settings ({', '.join(changed)}). Give the "
            "same again, or begin a run with another name."
        )
    budgets = [revision.max_qpu_seconds for revision in ledger.revisions(known.id)]
    given = _finite(max_qpu_seconds)
    if not budgets:  # new, or its process died right here
        ledger.add_revision(
            known.id, reason="begun", content={}, max_qpu_seconds=given, now=clock()
        )
    elif max_qpu_seconds is not None and given not in (budgets[0], budgets[-1]):
        ledger.set_budget(known.id, given, now=clock())
    return known
