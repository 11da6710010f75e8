"""Durable runs: a forward pass whose quantum layers survive a crash at any line.

    with hardware_runs.durable("runs.sqlite", "digits", "ibm_fez", shots=1024) as engine:
        with torch.no_grad(), use_engine(model, engine):
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
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from qiskit.providers import BackendV2
from torch import Tensor

from hardware_runs.dispatch import Dispatcher, Payload, Rules
from hardware_runs.ledger import Block, Chunk, ChunkPlan, ChunkState, FrozenRows, Ledger, Run
from hardware_runs.services import DeviceService, JobService, LocalService
from qpc_qiskit.directions import canonical_directions
from qpc_qiskit.engines import Engine, EstimatorEngine
from qpc_qiskit.errors import EngineError, JobFailed, LedgerConflictError, ResultsPending
from qpc_qiskit.execution.destinations import Prepared
from qpc_qiskit.execution.frozen import freeze, thaw
from qpc_qiskit.execution.jobs import check_rows
from qpc_qiskit.execution.pubs import Array, Rows, by_pixel_and_kernel
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
        estimator: plans and prepares rows; sends nothing itself.
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
        estimator: EstimatorEngine,
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
        self._estimator = estimator
        self._wait, self._clock, self._sleep = wait, clock, sleep
        self.dispatcher = Dispatcher(
            ledger=ledger,
            run=run,
            service=service,
            payload=self._payload,
            rules=rules,
            owner=owner or f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}",
            clock=clock,
            seed=seed,
            check=check,
        )
        self._positions: dict[str, int] = {}
        self._called: set[str] = set()
        self._first: str | None = None
        self._stalled: set[str] | None = None
        self._circuits: dict[tuple[int, str], Prepared] = {}
        self._blocks: dict[int, Block] = {}

    def __enter__(self) -> Self:
        self.begin_pass()
        return self

    def __exit__(self, *exception: object) -> None:
        self.dispatcher.leave()
        if exception[:1] in ((None,), (JobFailed,)):
            self.dispatcher.finish()
        self._estimator.close()
        self.dispatcher.leave()

    @property
    def shots(self) -> int | None:
        """Per execution; None: exact values."""
        return self._estimator.shots

    def begin_pass(self) -> None:
        """Begin with the first image again."""
        self._positions.clear()
        self._called.clear()
        self._first = None
        self._stalled = None

    def map(self, model: Callable[[Tensor], Tensor], batches: Iterable[Tensor]) -> list[Tensor]:
        """The model's outputs for all batches, of which as much as possible is sent first.

        Raises:
            ResultsPending: for some batch; everything that could be sent was sent.
        """
        outputs: list[Tensor] = []
        pending: ResultsPending | None = None
        for batch in batches:
            try:
                outputs.append(model(batch))
            except ResultsPending as error:
                pending = pending or error
        if pending is not None:
            raise pending
        return outputs

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
            EngineError: weights or images are not those that the run began with.
        """
        if self._first in (None, layer):  # another call of the network
            self._first = layer
            self._called.clear()
        self._called.add(layer)
        if self._stalled is not None and layer not in self._stalled:
            raise ResultsPending(f"Run {self.run.name!r}: {layer} waits for the layers before it.")
        try:
            return self._evaluate(layer, spec, pixels, weights)
        except ResultsPending:
            # Layers behind the one that waits were not reached: their positions are unknown.
            known = self._called if self._stalled is None else self._stalled & self._called
            self._stalled = set(known)
            raise

    def _evaluate(self, layer: str, spec: LayerSpec, pixels: Tensor, weights: Tensor) -> Tensor:
        start = self._positions.get(layer, 0)
        stop = start + len(pixels)
        self._positions[layer] = stop
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
        while True:
            self.dispatcher.step()
            values = self._values(layer, spec, blocks, start, stop)
            if values is not None:
                return torch.from_numpy(values).to(pixels)
            if not self._wait:
                break
            self._sleep(POLL_SECONDS)
        raise ResultsPending(self._pending(layer))

    def _frozen(
        self, layer: str, spec: LayerSpec, pixels: Tensor, weights: Tensor, start: int, stop: int
    ) -> tuple[Block, ...]:
        """Blocks that cover the positions; what is not frozen yet is frozen now."""
        while gaps := self._gaps(layer, start, stop):
            gap_start, gap_stop = gaps[0]
            part = pixels[gap_start - start : gap_stop - start]
            plan = self._estimator.plan(spec, part, weights)
            check_rows(self._estimator.destination, self._estimator.prepare(spec), plan)
            revision = self._revision_with(spec)
            frozen = FrozenRows(
                pixels=part.to(torch.float64).numpy(),
                directions=canonical_directions(part).numpy(),
                encoder_angles=plan.rows.encoder_angles,
                ansatz_angles=plan.rows.ansatz_angles,
                pairs=plan.rows.pairs.astype(np.int64),
                which=plan.which.astype(np.int64),
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
        """The newest revision, if it has the layer's circuit; else one more that has it."""
        key = circuit_key(spec)
        revisions = self.ledger.revisions(self.run.id)
        newest = revisions[-1]
        if key in newest.blobs:
            return newest.number
        prepared = self._estimator.prepare(spec)
        made = self.ledger.add_revision(
            self.run.id,
            reason=f"circuit of a layer with {spec.num_qubits} qubits",
            content=newest.content,
            max_qpu_seconds=newest.max_qpu_seconds,
            now=self._clock(),
            blobs={**newest.blobs, key: freeze(prepared)},
        )
        return made.number

    def _circuit(self, chunk: Chunk) -> Prepared:
        layers = {layer.name: layer for layer in self.ledger.layers(self.run.id)}
        key = circuit_key(layers[chunk.layer].spec)
        if (chunk.revision, key) not in self._circuits:
            revisions = {r.number: r for r in self.ledger.revisions(self.run.id)}
            self._circuits[chunk.revision, key] = thaw(revisions[chunk.revision].blobs[key])
        return self._circuits[chunk.revision, key]

    def _payload(self, chunk: Chunk) -> Payload:
        if chunk.block_id not in self._blocks:
            for block in self.ledger.blocks(self.run.id, chunk.layer):
                self._blocks[block.id] = block
        frozen = self._blocks[chunk.block_id].rows
        rows = Rows(frozen.encoder_angles, frozen.ansatz_angles, frozen.pairs)
        settings = self.run.settings
        return Payload(
            self._circuit(chunk),
            rows.values(slice(chunk.row_start, chunk.row_stop)),
            settings["precision"],
            self._estimator.shots,
            self._blocks[chunk.block_id].start,
        )

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
            evs = np.concatenate([found[chunk.id].evs for chunk in block.chunks])
            table = by_pixel_and_kernel(evs[block.rows.which], block.count, spec.num_kernels)
            low, high = max(start, block.start), min(stop, block.stop)
            values[low - start : high - start] = table[low - block.start : high - block.start]
        return values

    def _raise_failed(self, block: Block) -> None:
        for chunk in self.ledger.chunks(self.run.id, layer=block.layer, states=[ChunkState.FAILED]):
            if chunk.block_id == block.id:
                last = self.ledger.attempts(self.run.id, chunk_id=chunk.id)[-1]
                raise JobFailed(
                    f"Run {self.run.name!r}, {chunk.layer}, chunk {chunk.id}: job {last.job_id} "
                    f"failed in attempt {last.number}: {last.error} The other results are kept; "
                    "retry_failed_chunks of the ledger lets it be sent again."
                )

    def _pending(self, layer: str) -> str:
        progress = self.ledger.progress(self.run.id)
        told = ", ".join(
            f"{p.layer}: {p.num_chunks[ChunkState.DONE]} of {sum(p.num_chunks.values())} jobs done"
            for p in progress
        )
        problems = "".join(f" {what}: {text}" for what, text in self.dispatcher.problems.items())
        return (
            f"Run {self.run.name!r} waits at {layer} ({told}). Run the same again later.{problems}"
        )


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
        name: of the run. An existing run goes on, with the settings that it was begun with.
        backend: see `EstimatorEngine.from_backend`, as for the arguments that are not told here.
        mode: job, batch or session.
        shots: per execution.
        precision: instead of shots.
        resilience: IBM's level.
        options: of IBM's Estimator.
        max_qpu_seconds: the budget of the run: every job reserves its cap before it is sent.
        seed: of simulated shots.
        wait: wait for results instead of raising `ResultsPending`.
        rules: how jobs are sent, instead of the usual rules.
        clock: seconds since the epoch.
        sleep: waits for some seconds.
        check: called before each job is sent or looked at; may raise to stop cleanly.
        about: JSON that is kept with the run, for whoever goes on with it.
        engine_options: of `EstimatorEngine`.

    Raises:
        EngineError: the run was begun with other settings.
    """
    from qpc_qiskit.execution import runtime
    from qpc_qiskit.execution.service import IBMJobs

    book = ledger if isinstance(ledger, Ledger) else Ledger(ledger)
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
    destination = estimator.destination
    settings = {
        "backend": destination.name,
        "mode": mode,
        "precision": estimator.precision,
        "resilience": resilience,
        "options": options or {},
        "seed": seed,
        "dedupe_grid": estimator.dedupe_grid,
    }
    if about is not None:
        settings["about"] = about
    run = _run(book, name, settings, max_qpu_seconds, clock)
    service: JobService = LocalService(destination)
    found = destination.backend
    if found is not None and runtime.is_ibm(found):
        given = runtime.estimator_options(resilience, options)
        service = DeviceService(IBMJobs(found, given))
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


def _run(
    ledger: Ledger,
    name: str,
    settings: dict[str, Any],
    max_qpu_seconds: float | None,
    clock: Callable[[], float],
) -> Run:
    known = _known(ledger, name)
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
    revisions = ledger.revisions(known.id)
    newest = revisions[-1] if revisions else None
    if newest is None:  # new, or its process died right here
        ledger.add_revision(
            known.id, reason="begun", content={}, max_qpu_seconds=max_qpu_seconds, now=clock()
        )
    elif max_qpu_seconds is not None and max_qpu_seconds != newest.max_qpu_seconds:
        ledger.add_revision(
            known.id,
            reason="another budget",
            content=newest.content,
            max_qpu_seconds=max_qpu_seconds,
            now=clock(),
            blobs=newest.blobs,
        )
    return known


def _known(ledger: Ledger, name: str) -> Run | None:
    return next((run for run in ledger.list_runs() if run.name == name), None)
