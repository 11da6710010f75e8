"""What a run has measured, from its ledger alone: nothing is sent, asked for or written.

Unlike a `DurableEngine`, which goes on with a run, this reads whatever part of it is there: rows of
jobs that are done, beside the exact values of the very inputs that were frozen, and the logits of
those images of which every value was measured.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from qiskit import qasm3
from qiskit.exceptions import QiskitError
from torch import Tensor

from hardware_runs.checkpoints.checkpoint_runs import Work
from hardware_runs.durable_engine.circuits import FrozenCircuits, Qubits
from hardware_runs.durable_engine.known import KnownRun
from hardware_runs.durable_engine.passes import Pass
from hardware_runs.durable_engine.revising import PatchRecord, Reviser
from hardware_runs.durable_engine.values import values_of
from hardware_runs.ledger import Block, Chunk, ChunkResult, ChunkState, Layer
from qpc_qiskit.circuits.ansatz import ANSATZE
from qpc_qiskit.circuits.spec import LayerSpec, make_spec
from qpc_qiskit.common.arrays import Array, Indices
from qpc_qiskit.common.files import MAX_TEXT_BYTES
from qpc_qiskit.connector import use_engine
from qpc_qiskit.engines import Engine, EstimatorEngine, ExactEngine, LayerCall
from qpc_qiskit.errors import BackendError, EngineError
from qpc_qiskit.rows.prepared import Prepared
from qpc_qiskit.rows.pubs import by_pixel_and_kernel
from qpc_qiskit.rows.slots import IDLE

ANGLE_TOLERANCE = 1e-6
"""Radians between frozen angles and those of the weights that were found for them."""


@dataclass(frozen=True, eq=False)
class MeasuredRows:
    """Rows of a layer that were measured, in the order of their jobs."""

    layer: str
    measured: Array = field(repr=False)
    """(M, m) values as the network got them: calibrated, where the run calibrates."""
    stds: Array = field(repr=False)
    """(M, m) their standard errors from shots and calibration; NaN where not known."""
    raw: Array = field(repr=False)
    """(M, m) before calibration."""
    exact: Array = field(repr=False)
    """(M, m) of the same frozen inputs; NaN where not known."""
    patch: Indices = field(repr=False)
    """(M,) where each ran, an index into `patches`."""
    patches: tuple[Qubits, ...]
    """Qubits of the device; empty qubits where there is no device."""


class RunReader:
    """Reads what a run has measured.

    Args:
        known: the run.
    """

    def __init__(self, known: KnownRun) -> None:
        self.known = known
        self.circuits = FrozenCircuits(known, _no_estimator, None, lambda: 0.0)
        self.layers = known.state.layers
        known.read(known.state.all_blocks)
        known.results(known.state.chunks(states=[ChunkState.DONE]))

    @property
    def calibrates(self) -> bool:
        """Whether values are corrected by what the reference rows say, if there are any."""
        settings = self.known.state.run.settings
        return bool(settings.get("engine_options", {}).get("calibrate", True))

    def blocks(self, layer: str) -> tuple[Block, ...]:
        """Calls of a layer that are frozen."""
        return self.known.state.blocks(layer)

    def results(self, layer: str) -> Mapping[int, ChunkResult]:
        """Of its chunks that are done, by the chunk's id."""
        done = self.known.state.chunks(layer=layer, states=[ChunkState.DONE])
        return {result.chunk.id: result for result in self.known.results(done)}

    def prepared(self, chunk: Chunk) -> Prepared:
        """The circuit that a chunk was sent with."""
        return self.circuits.thawed(chunk.revision, self.circuits.key(chunk.layer))

    def patch_records(self) -> tuple[PatchRecord, ...]:
        """What reference rows say; see `Reviser.patch_records`."""
        return Reviser(self.known, self.circuits, _no_estimator, lambda: 0.0).patch_records()

    def table(self, layer: str) -> Array:
        """Values (N, K, m) by position in the layer's pass; NaN where nothing was measured."""
        blocks = self.blocks(layer)
        stop = max(block.stop for block in blocks)
        num_maps = self.known.rows(blocks[0]).exact.shape[1]
        found = np.full((stop, blocks[0].num_kernels, num_maps), np.nan)
        for block in blocks:
            frozen = self.known.rows(block)
            values = np.full((len(frozen.pairs), found.shape[2]), np.nan)
            for rows, part in self._parts(block, applies=self.calibrates):
                values[rows] = part[0]
            found[block.start : block.stop] = by_pixel_and_kernel(
                values[frozen.which], block.count, block.num_kernels
            )
        return found

    def rows(self, layer: str, spec: LayerSpec | None = None) -> MeasuredRows | None:
        """Every row of a layer that was measured; None: none was.

        Args:
            layer: its name.
            spec: of the layer; None: as the ledger tells it.
        """
        spec = spec or spec_of(next(each for each in self.layers if each.name == layer))
        places: dict[Qubits, int] = {}
        found: list[tuple[Array, Array, Array, Array, Indices]] = []
        for block in self.blocks(layer):
            exact = self._exact(block, spec)
            applied = self._parts(block, applies=self.calibrates)
            raw = self._parts(block, applies=False)
            for (rows, (evs, stds, patch)), (_, (plain, _, _)) in zip(applied, raw, strict=True):
                numbers = np.array([places.setdefault(each, len(places)) for each in patch])
                found.append((evs, stds, plain, exact[rows], numbers))
        if not found:
            return None
        measured, stds, plain, ideal, numbers = (
            np.concatenate(each) for each in zip(*found, strict=True)
        )
        return MeasuredRows(layer, measured, stds, plain, ideal, numbers, tuple(places))

    def _parts(
        self, block: Block, *, applies: bool
    ) -> Iterator[tuple[Indices, tuple[Array, Array, list[Qubits]]]]:
        """Of each chunk that is done: its rows, their values, errors, and patches."""
        frozen = self.known.rows(block)
        num_rows = frozen.num_rows
        done = self.results(block.layer)
        for chunk in block.chunks:
            if chunk.id not in done:
                continue
            prepared = self.prepared(chunk)
            found = values_of(frozen, [done[chunk.id]], self.prepared, applies=applies)
            slots = frozen.slots[chunk.row_start : chunk.row_stop]
            rows = np.sort(slots[(slots != IDLE) & (slots < num_rows)])
            qubits = [each.patch.qubits for each in prepared.placements] or [()]
            # Without a device a circuit of several parts has them all in one place.
            where = [qubits[j] if j < len(qubits) else () for j in found.patch[rows]]
            yield rows, (found.evs[rows], found.stds[rows], where)

    def _exact(self, block: Block, spec: LayerSpec | None) -> Array:
        """Exact values (V, m) of the rows of a block; NaN where they are not known."""
        frozen = self.known.rows(block)
        num_rows = frozen.num_rows
        found = np.full((num_rows, frozen.exact.shape[1]), np.nan)
        weights = None if spec is None else self._weights(block, spec)
        if spec is None or weights is None:
            return found
        pixels = torch.from_numpy(frozen.directions)
        evs = ExactEngine().evs(LayerCall(spec, pixels, torch.from_numpy(weights)))
        rows, first = np.unique(frozen.which, return_index=True)
        # `which` counts pixels within kernels, see `product_pairs`.
        found[rows] = evs.numpy()[first % block.count, frozen.pairs[rows, 1]]
        return found

    def _weights(self, block: Block, spec: LayerSpec) -> Array | None:
        """Weights (K, P) of the frozen angles; those of gates that were left out do not matter."""
        columns = list(self.prepared(block.chunks[0]).parts[0].columns)
        angles = self.known.rows(block).ansatz_angles[: spec.num_kernels]
        scale, offset = spec.ansatz.scale[columns], spec.ansatz.offset[columns]
        if angles.shape[1] != len(columns):
            return None
        weights = np.linalg.lstsq(scale, (angles - offset).T, rcond=None)[0].T
        far = np.abs(weights @ scale.T + offset - angles).max(initial=0.0)
        return np.ascontiguousarray(weights) if far <= ANGLE_TOLERANCE else None


def spec_of(layer: Layer) -> LayerSpec | None:
    """The layer as the ledger tells it; None: a circuit that cannot be read here."""
    told = layer.spec
    ansatz = told["ansatz"]
    given = {"num_layers": told["num_layers"]}
    if ansatz not in ANSATZE:
        if not _is_plain(told["circuit"]):
            return None
        try:
            ansatz, given = qasm3.loads(told["circuit"]), {}
        except (QiskitError, ImportError, RecursionError):  # the library that reads it is optional
            return None
    one = make_spec(told["in_channels"], 1, ansatz=ansatz, num_qubits=told["num_qubits"], **given)
    return replace(one, num_kernels=told["num_kernels"])


def _is_plain(text: str) -> bool:
    """Whether a circuit in OpenQASM 3 is one that a layer writes: gates on some qubits, one by one.

    Loops, definitions of gates and registers of millions make a few bytes a circuit of gigabytes.
    """
    indices = re.findall(r"\[([^\]]*)\]", text)
    few = all(re.fullmatch(r"[0-9]{1,2}", index) for index in indices)
    return few and "{" not in text and len(text) <= MAX_TEXT_BYTES


def _no_estimator() -> EstimatorEngine:
    raise BackendError("A report prepares no circuits.")


@dataclass(frozen=True, eq=False)
class Replayed:
    """What a network makes of measured values."""

    logits: Tensor = field(repr=False)
    """(N, num_classes); NaN for images that are not complete."""
    is_complete: NDArray[np.bool_] = field(repr=False)
    """(N,) whether every value of an image was measured, in every layer."""

    @property
    def complete(self) -> Indices:
        """Images of which every value was measured."""
        return np.flatnonzero(self.is_complete)


def replay(work: Work, reader: RunReader) -> Replayed:
    """Logits of the images of a run, from measured values alone.

    Args:
        work: of the run.
        reader: of the same run.
    """
    reached = [each.name for each in reader.layers if reader.blocks(each.name)]
    engine = _ReplayEngine({name: reader.table(name) for name in reached})
    modes = [(module, module.training) for module in work.network.modules()]
    work.network.eval()
    logits, complete = [], []
    try:
        with torch.no_grad(), use_engine(work.network, engine):
            for batch in work.batches():
                engine.begin_call(len(batch))
                outputs = work.network(batch).cpu()
                is_complete = engine.is_complete
                outputs[torch.from_numpy(~is_complete)] = torch.nan
                logits.append(outputs)
                complete.append(is_complete)
    finally:
        for module, training in modes:
            module.training = training
    return Replayed(torch.cat(logits), np.concatenate(complete))


class _ReplayEngine(Engine):
    """Answers with what was measured, and keeps a record of the images for which something is not.

    Args:
        tables: by layer, (N, K, m); NaN where nothing was measured.
    """

    name = "replay"
    has_gradients = False

    def __init__(self, tables: Mapping[str, Array]) -> None:
        super().__init__()
        self._tables = tables
        self._pass = Pass(is_mapped=True)
        self.is_complete: NDArray[np.bool_] = np.ones(0, bool)

    def begin_call(self, num_images: int) -> None:
        """The network is called with the next images."""
        self._pass.begin_call()
        self.is_complete = np.ones(num_images, bool)

    def evs(self, call: LayerCall) -> Tensor:
        """Values of the next pixels of a layer; see `Engine.evs`.

        Where nothing was measured they are 0, so that later layers, which refuse what is not
        finite, can be reached for the other images.
        """
        if call.layer is None:
            raise EngineError("A replay tells layers by name: use it with use_engine(model, ...).")
        layer = self._pass.enter(call.layer)
        start, stop = self._pass.advance(layer, len(call.pixels))
        found = np.full(call.shape, np.nan)
        known = self._tables.get(layer)
        if known is not None:
            part = known[start:stop]
            found[: len(part)] = part
        is_known = np.isfinite(found).all(axis=(1, 2))
        self.is_complete &= is_known.reshape(len(self.is_complete), -1).all(axis=1)
        return torch.from_numpy(np.nan_to_num(found, nan=0.0)).to(call.pixels)
