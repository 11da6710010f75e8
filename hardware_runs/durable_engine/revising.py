"""Plan revisions: rows that are not sent yet leave patches that are lost or bad.

A patch is lost when the device, as it is now, can run its circuit no more; it is bad when the
reference rows of a job say so. Either makes a new revision of the circuit, and chunks that nobody
is at are moved to it. If it stands on another number of patches their rows are dealt anew; what was
measured stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from hardware_runs.durable_engine.circuits import FrozenCircuits, Qubits, circuit_key
from hardware_runs.durable_engine.known import KnownRun
from hardware_runs.durable_engine.values import calibration_of
from hardware_runs.ledger import Chunk, ChunkPlan, ChunkResult, ChunkState
from qpc_qiskit.circuits.spec import LayerSpec
from qpc_qiskit.engines import EstimatorEngine
from qpc_qiskit.rows.references import Calibration, bad_patches
from qpc_qiskit.rows.slots import IDLE


@dataclass(frozen=True, kw_only=True)
class PatchRecord:
    """What reference rows say of a patch, over all jobs of a layer."""

    layer: str
    qubits: Qubits
    """Of the device; none where there is no device."""
    num_jobs: int = 0
    """That ran on it."""
    scale: float | None = None
    """What it leaves of a value: median over its jobs and features; None: of none it is known."""
    num_features: int = 0
    """Of all jobs together."""
    num_not_calibrated: int = 0
    """Of these, left as measured: their reference rows tell too little."""
    problems: tuple[str, ...] = ()
    """Why jobs found it bad. Rows that were not sent by then are kept off it, if others are
    better."""


@dataclass(frozen=True, eq=False)
class _Judged:
    """What the reference rows of one job say."""

    calibration: Calibration
    patches: tuple[Qubits, ...]
    bad: Mapping[Qubits, str]


class Reviser:
    """Moves chunks of a run that are not sent yet.

    Args:
        known: the run.
        circuits: of its layers.
        estimator: forecasts jobs; asked for when rows are dealt anew, and may raise.
        clock: seconds since the epoch.
        note: told what stands in the way.
    """

    def __init__(
        self,
        known: KnownRun,
        circuits: FrozenCircuits,
        estimator: Callable[[], EstimatorEngine],
        clock: Callable[[], float],
        note: Callable[[str, str], None] = lambda what, problem: None,
    ) -> None:
        self._known, self._circuits = known, circuits
        self._estimator, self._clock = estimator, clock
        self._note = note
        self._found: dict[int, _Judged | None] = {}

    def revise(self, specs: Mapping[str, LayerSpec]) -> None:
        """Move what cannot, or should not, be sent as it was frozen.

        Args:
            specs: layers by the keys of their circuits; others are left as they are.

        Raises:
            BackendError: a circuit must be placed anew, and the device is out of reach or has no
                place for it.
        """
        unsent: dict[str, list[Chunk]] = {}
        for chunk in self._known.state.chunks(states=[ChunkState.UNSENT]):
            unsent.setdefault(self._circuits.key(chunk.layer), []).append(chunk)
        for key, chunks in unsent.items():
            if key not in specs:
                continue
            bad = self.bad_patches(key)
            if unfit := [c for c in chunks if not self._circuits.is_fit(c.revision, key, bad)]:
                revision = self._circuits.revision_with(specs[key], bad)
                others = [c for c in unfit if c.revision != revision]
                self._move(self._of_encoder(others, key, revision), specs[key], revision)
                if bad and not self._circuits.is_fit(revision, key, bad):
                    self._note(
                        f"patches of {chunks[0].layer}",
                        "Reference rows find all of them bad; the run goes on with them, since it "
                        f"has no better ones. {' '.join(dict.fromkeys(bad.values()))}",
                    )

    def _of_encoder(self, chunks: Sequence[Chunk], key: str, revision: int) -> list[Chunk]:
        """Those whose rows were encoded for the circuit of a revision.

        Others, from before the layer fell back to another encoder, stay where they are.
        """
        encoder = self._encoder(revision, key)
        for chunk in chunks:
            is_other = self._encoder(chunk.revision, key) != encoder
            if is_other and not self._circuits.can_run(chunk.revision, key):
                self._note(
                    f"chunk {chunk.id}",
                    "Its rows were encoded for a circuit that the device can run no more, and the "
                    "layer has another encoder since. It is sent when the device can run that "
                    "circuit again; or begin a run with another name, with "
                    f"encoder={encoder[0]!r}.",
                )
        return [c for c in chunks if self._encoder(c.revision, key) == encoder]

    def _encoder(self, revision: int, key: str) -> tuple[str | None, int]:
        """Its name, and how many parameters its circuit has."""
        part = self._circuits.thawed(revision, key).parts[0]
        return part.encoder, len(part.parameters)

    def bad_patches(self, key: str) -> Mapping[Qubits, str]:
        """Patches of a circuit that reference rows of some job found bad, and why."""
        found: dict[Qubits, str] = {}
        for layer in self._known.state.layers:
            if self._circuits.key(layer.name) == key:
                for judged in self._judged(layer.name):
                    found = {**judged.bad, **found}
        return found

    def patch_records(self) -> tuple[PatchRecord, ...]:
        """What the reference rows of all jobs so far say of each patch, layer by layer."""
        found = []
        for layer in self._known.state.layers:
            jobs = self._judged(layer.name)
            for qubits in dict.fromkeys(qubits for job in jobs for qubits in job.patches):
                of = [(job, job.patches.index(qubits)) for job in jobs if qubits in job.patches]
                calibrated = np.stack([job.calibration.is_calibrated[j] for job, j in of])
                scale = np.stack([job.calibration.scale[j] for job, j in of])
                found.append(
                    PatchRecord(
                        layer=layer.name,
                        qubits=qubits,
                        num_jobs=len(of),
                        scale=float(np.median(scale[calibrated])) if calibrated.any() else None,
                        num_features=calibrated.size,
                        num_not_calibrated=int((~calibrated).sum()),
                        problems=tuple(job.bad[qubits] for job, _ in of if qubits in job.bad),
                    )
                )
        return tuple(found)

    def _judged(self, layer: str) -> list[_Judged]:
        """Jobs of a layer that are done and had reference rows."""
        done = self._known.state.chunks(layer=layer, states=[ChunkState.DONE])
        for result in self._known.results([c for c in done if c.id not in self._found]):
            self._found[result.chunk.id] = self._judge(result)
        found = (self._found[chunk.id] for chunk in done)
        return [judged for judged in found if judged is not None]

    def _judge(self, result: ChunkResult) -> _Judged | None:
        chunk = result.chunk
        prepared = self._circuits.thawed(chunk.revision, self._circuits.key(chunk.layer))
        rows = self._known.rows(self._known.block_of(chunk))
        known = calibration_of(rows, result, prepared)
        if known is None:
            return None
        patches = tuple(each.patch.qubits for each in prepared.placements) or ((),)
        return _Judged(known, patches, {patches[j]: why for j, why in bad_patches(known).items()})

    def _move(self, chunks: Sequence[Chunk], spec: LayerSpec, revision: int) -> None:
        """Move chunks of one circuit to another revision of it."""
        key = circuit_key(spec)

        def num_patches(revision: int) -> int:
            return self._circuits.thawed(revision, key).num_patches

        is_same = {c.id: num_patches(c.revision) == num_patches(revision) for c in chunks}
        same = [chunk for chunk in chunks if is_same[chunk.id]]
        if same:
            seconds = {c.id: self._estimator().seconds(spec, c.num_rows) for c in same}
            self._known.ledger.move_unsent_chunks(
                self._known.run.id, revision, chunks=same, predicted_seconds=seconds
            )
        others = [chunk for chunk in chunks if not is_same[chunk.id]]
        for _, group in groupby(others, key=lambda chunk: chunk.block_id):
            self._deal_anew(list(group), spec, revision)

    def _deal_anew(self, chunks: list[Chunk], spec: LayerSpec, revision: int) -> None:
        """Deal the rows of some chunks of one block to the patches of a revision."""
        block = self._known.renew().block(chunks[0].block_id)
        frozen = self._known.rows(block)
        num_rows = frozen.num_rows
        slots = np.concatenate([frozen.slots[c.row_start : c.row_stop] for c in chunks])
        rows = np.sort(slots[(slots != IDLE) & (slots < num_rows)])
        dealt = self._estimator().deal(spec, len(rows))
        # As dealt, row i is the i-th of these rows, and reference rows follow.
        names = np.concatenate([rows, num_rows + np.arange(len(frozen.exact)), [IDLE]])
        plans = [
            ChunkPlan(
                part.start,
                part.stop,
                None if dealt.seconds is None else dealt.seconds[i],
                revision,
            )
            for i, part in enumerate(dealt.parts)
        ]
        self._known.ledger.deal_anew(
            block, frozen, chunks, names[dealt.slots].astype(np.int64), plans, now=self._clock()
        )  # whether or not somebody else was first: the next look finds what there is to do
