"""Measured values against exact ones: of whole layers and of each patch. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from hardware_runs.durable_engine.circuits import Qubits
from hardware_runs.durable_engine.revising import PatchRecord
from hardware_runs.reports.records import Agreement, PatchReport
from hardware_runs.reports.replay import MeasuredRows, RunReader
from qpc_qiskit.common.arrays import Array
from qpc_qiskit.rows.references import fit_scale


def agreement(exact: Array, measured: Array, stds: Array | None = None) -> Agreement | None:
    """How measured values lie against exact ones; None: no exact value is known.

    Args:
        exact: any shape; NaN where not known.
        measured: likewise.
        stds: standard errors of `measured`, NaN where not known; None: they are not known.
    """
    is_known = np.isfinite(exact) & np.isfinite(measured)
    if not is_known.any():
        return None
    x, y = exact[is_known], measured[is_known]
    line = fit_scale(x, y, np.full(len(x), np.nan))
    error = y - x
    return Agreement(
        num_values=len(x),
        rms_error=_rms(error),
        bias=float(error.mean()),
        bias_std=float(error.std(ddof=1) / math.sqrt(len(x))) if len(x) > 1 else math.nan,
        scale=_known(line.scale),
        scale_std=_known(math.sqrt(line.covariance[0, 0])),
        offset=_known(line.offset),
        expected_rms=None if stds is None else _expected(stds[is_known]),
    )


def patch_reports(
    rows: MeasuredRows,
    reader: RunReader,
    records: Sequence[PatchRecord],
) -> Iterator[PatchReport]:
    """Of each patch that a layer ran on, the best first.

    Args:
        rows: of the layer.
        reader: of the run.
        records: what reference rows say.
    """
    told = {record.qubits: record for record in records if record.layer == rows.layer}
    fidelities, jobs, newest = _placements(reader, rows.layer)
    order = sorted(
        range(len(rows.patches)), key=lambda j: -(fidelities.get(rows.patches[j]) or 0.0)
    )
    for j in order:
        qubits, here = rows.patches[j], rows.patch == j
        error = (rows.measured - rows.exact)[here]
        error = error[np.isfinite(error)]
        yield PatchReport(
            references=told.get(qubits) or PatchRecord(layer=rows.layer, qubits=qubits),
            state="in use" if qubits in newest else "dropped",
            predicted_fidelity=fidelities.get(qubits),
            num_jobs=jobs[qubits],
            num_rows=int(here.sum()),
            rms_error=_rms(error) if len(error) else None,
            rms_error_std=_rms_std(error),
            bias=float(error.mean()) if len(error) else None,
            expected_rms=_expected(rows.stds[here]),
        )


def _placements(
    reader: RunReader, layer: str
) -> tuple[Mapping[Qubits, float], Mapping[Qubits, int], set[Qubits]]:
    """Predicted fidelity and number of jobs of each patch, and those of the last circuit."""
    fidelities: dict[Qubits, float] = {}
    jobs: dict[Qubits, int] = {}
    last, newest = 0, set[Qubits]()
    for block in reader.blocks(layer):
        for chunk in block.chunks:
            prepared = reader.prepared(chunk)
            here: set[Qubits] = {each.patch.qubits for each in prepared.placements} or {()}
            fidelities |= {p.patch.qubits: p.patch.fidelity for p in prepared.placements}
            if chunk.revision >= last:
                last, newest = chunk.revision, here
            if chunk.id in reader.results(layer):
                for qubits in here:
                    jobs[qubits] = jobs.get(qubits, 0) + 1
    return fidelities, jobs, newest


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _rms_std(error: Array) -> float | None:
    """Of a root mean square, to first order."""
    rms = _rms(error) if len(error) > 1 else 0.0
    if not rms:
        return None
    return float((error**2).std(ddof=1) / math.sqrt(len(error)) / (2 * rms))


def _expected(stds: Array) -> float | None:
    """None where not all are known."""
    is_known = stds.size and bool(np.isfinite(stds).all())
    return _rms(stds) if is_known else None


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
