"""Rows, jobs and PUBs: how pixels and kernels become primitive calls, and come back.

Pure functions. A row is one set of parameter values of the layer's one circuit: the angles that
encode a direction, then the angles of one kernel. Rows are held as pairs of indices into two
tables, so a forward pass is the full product of pixels and kernels, a gradient is a list, and
merging equal directions is a change of indices. All rows of a job go into one PUB: observables of
shape (m, 1) against parameters of shape (rows,) broadcast to (m, rows), and since all Z commute an
estimator needs one execution per row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.primitives.containers.bindings_array import BindingsArray
from qiskit.primitives.containers.estimator_pub import EstimatorPub
from qiskit.primitives.containers.observables_array import ObservablesArray
from qiskit.quantum_info import SparsePauliOp

from qpc_qiskit.circuits.ansatz import Ansatz
from qpc_qiskit.circuits.encoder import Encoder
from qpc_qiskit.circuits.observables import pauli_z
from qpc_qiskit.common.arrays import Array, Indices
from qpc_qiskit.errors import EngineError
from qpc_qiskit.options.engine import GRID


@dataclass(frozen=True, eq=False)
class Template:
    """The one parametrized circuit of a layer, and what is measured on it."""

    circuit: QuantumCircuit = field(repr=False)
    """Encoder, then ansatz in its occurrence angles."""
    parameters: tuple[Parameter, ...] = field(repr=False)
    """Encoder angles, then ansatz angles: the columns of a row."""
    observables: tuple[SparsePauliOp, ...] = field(repr=False)
    """One for each of the m features, on the qubits of `circuit`."""
    columns: tuple[int, ...] = field(repr=False)
    """Occurrence angles of the ansatz that are still in the circuit, ascending."""
    encoder_size: int | None = None
    """Instructions of the encoder, the first of the circuit; None: not known any more."""
    encoder: str | None = None
    """Name of the encoder; None: not known any more."""


def make_template(
    encoder: Encoder,
    ansatz: Ansatz,
    observables: tuple[SparsePauliOp, ...] | None = None,
    *,
    absorbs_tail: bool = False,
) -> Template:
    """Encoder followed by ansatz, on the same qubits.

    Args:
        encoder: prepares a direction.
        ansatz: of the layer.
        observables: of the layer, products of Z; None: Z of every qubit.
        absorbs_tail: whether the end of the ansatz, where it only permutes what is measured, is
            left out: other products of Z are then measured instead.
    """
    circuit = QuantumCircuit(ansatz.num_qubits, name=f"{encoder.name}+{ansatz.name}")
    circuit.compose(encoder.circuit, inplace=True)
    body = ansatz.template
    if observables is None:
        observables = pauli_z(ansatz.num_qubits)
    if absorbs_tail:
        from qpc_qiskit.circuits.tail import absorb_tail

        absorbed = absorb_tail(body, observables)
        body, observables = absorbed.circuit, absorbed.observables
    circuit.compose(body, inplace=True)
    theta = {p.index: p for p in body.parameters}
    columns = tuple(sorted(theta))
    parameters = (*encoder.parameters, *(theta[i] for i in columns))
    size = len(encoder.circuit.data)
    return Template(circuit, parameters, observables, columns, size, encoder.name)


@dataclass(frozen=True, eq=False)
class Rows:
    """Parameter rows as pairs of indices into two tables."""

    encoder_angles: Array
    """(A, E), radians."""
    ansatz_angles: Array
    """(B, R), radians."""
    pairs: Indices
    """(M, 2): row m is encoder row pairs[m, 0] followed by ansatz row pairs[m, 1]."""

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def num_columns(self) -> int:
        """E + R."""
        return int(self.encoder_angles.shape[1] + self.ansatz_angles.shape[1])

    def values(self, part: slice | Indices = slice(None)) -> Array:
        """The rows themselves, or some of them: (rows, E + R)."""
        encoder, ansatz = self.pairs[part].T
        return np.concatenate([self.encoder_angles[encoder], self.ansatz_angles[ansatz]], axis=1)


def product_pairs(num_pixels: int, num_kernels: int) -> Indices:
    """Every pixel with every kernel, (K*N, 2): pair k*N + i is pixel i with kernel k."""
    kernel, pixel = np.divmod(np.arange(num_kernels * num_pixels), max(num_pixels, 1))
    return np.stack([pixel, kernel], axis=1)


def by_pixel_and_kernel(values: Array, num_pixels: int, num_kernels: int) -> Array:
    """Values (K*N, ...) of `product_pairs` as (N, K, ...)."""
    blocks = values.reshape(num_kernels, num_pixels, *values.shape[1:])
    return np.ascontiguousarray(blocks.swapaxes(0, 1))


def merge_directions(directions: Array, grid: float = GRID) -> tuple[Indices, Indices]:
    """Directions that need running, if those that agree on a grid are run once.

    Two unit vectors of a cell differ by at most `grid * sqrt(C)`, and values of both by at most
    twice that, whatever the ansatz: 1.6e-5 for 64 channels and the default grid. The first
    direction of a cell stands for all, unchanged, so that adding pixels after it changes nothing.

    Args:
        directions: canonical, (D, C).
        grid: cell size, > 0.

    Returns:
        (U,) indices of the first direction of each cell, ascending; (D,) which of them stands for
        each direction.
    """
    return _first_of_each(np.rint(directions / grid).astype(np.int64))


def unique_rows(angles: Array) -> tuple[Array, Indices]:
    """Distinct rows (U, R) in order of first appearance, and which of them each row is."""
    first, which = _first_of_each(angles)
    return angles[first], which


def _first_of_each(table: NDArray[Any]) -> tuple[Indices, Indices]:
    """Indices of the first of equal rows, ascending, and which of them each row equals."""
    _, first, inverse = np.unique(table, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order], rank[inverse.reshape(-1)]


def unique_pairs(pairs: Indices) -> tuple[Indices, Indices]:
    """Distinct pairs in order of first appearance, and which of them each pair is.

    Returns:
        (V, 2); (M,) with `pairs == unique[which]`.
    """
    if len(pairs) == 0:
        return pairs, np.zeros(0, np.intp)
    width = int(pairs[:, 0].max()) + 1
    keys = pairs[:, 1] * width + pairs[:, 0]
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return pairs[first[order]], rank[inverse]


@dataclass(frozen=True, kw_only=True)
class JobLimits:
    """How large a job may be; None: no limit of that kind."""

    max_rows: int | None = None
    """Rows: memory of what runs or decodes them."""
    max_bytes: int | None = None
    """Parameter values of a job, before compression."""
    max_executions: int | None = None
    """Rows times shots."""
    max_qpu_seconds: float | None = None
    """Predicted time on the device."""


def split_jobs(
    num_rows: int,
    limits: JobLimits,
    *,
    row_bytes: int,
    shots: int | None = None,
    qpu_seconds_per_row: float | None = None,
    num_extra: int = 0,
) -> list[slice]:
    """Rows of each job, in order: as few jobs as the limits allow, of nearly equal size.

    Args:
        num_rows: M.
        limits: of a job.
        row_bytes: size of one row's values.
        shots: per row; None: not known or exact, so that `max_executions` has no effect.
        qpu_seconds_per_row: predicted; None: not known.
        num_extra: further rows that every job has.

    Raises:
        EngineError: a limit does not even allow one row.
    """
    bounds = {"rows": limits.max_rows}
    if limits.max_bytes is not None:
        bounds["bytes"] = limits.max_bytes // row_bytes
    if limits.max_executions is not None and shots:
        bounds["executions"] = limits.max_executions // shots
    if limits.max_qpu_seconds is not None and qpu_seconds_per_row:
        possible = limits.max_qpu_seconds / qpu_seconds_per_row
        bounds["QPU seconds"] = int(possible) if possible < math.inf else None
    allowed = {what: bound for what, bound in bounds.items() if bound is not None}
    for what, bound in allowed.items():
        if bound < 1 + num_extra:
            besides = f" besides {num_extra} reference rows" if num_extra else ""
            raise EngineError(
                f"One row ({row_bytes} bytes, {shots or 'default'} shots){besides} exceeds what a "
                f"job may hold in {what}; ask for fewer shots, or raise the limit."
            )
    if num_rows == 0:
        return []
    most = min(allowed.values(), default=num_rows + num_extra) - num_extra
    num_jobs = math.ceil(num_rows / most)
    ends = [round(num_rows * (j + 1) / num_jobs) for j in range(num_jobs)]
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def make_pub(template: Template, rows: Array, precision: float | None = None) -> EstimatorPub:
    """One PUB for all rows: observables (m, 1) against parameters (rows,)."""
    observables = [[observable] for observable in template.observables]
    bindings = BindingsArray({template.parameters: rows})
    return EstimatorPub(template.circuit, ObservablesArray.coerce(observables), bindings, precision)


def evs_from_data(data: object, num_rows: int, num_observables: int) -> Array:
    """Expectation values of a PUB result, (rows, m).

    Raises:
        EngineError: they are missing, of another shape, or not finite.
    """
    values = getattr(data, "evs", None)
    expected = (num_observables, num_rows)
    if values is None or np.shape(values) != expected:
        found = "no values" if values is None else f"values of shape {np.shape(values)}"
        raise EngineError(
            f"The estimator returned {found}; expected shape {expected} ({num_observables} "
            f"observables against {num_rows} rows). Nothing of this result is used."
        )
    evs = np.asarray(values, np.float64)
    if not np.isfinite(evs).all():
        raise EngineError(
            f"Of {evs.size} values that the estimator returned {int((~np.isfinite(evs)).sum())} "
            "are not finite; nothing of this result is used. Check its options (extrapolation, "
            "mitigation)."
        )
    return np.ascontiguousarray(evs.T)


def stds_from_data(data: object, num_rows: int, num_observables: int) -> Array:
    """Standard errors of a PUB result, (rows, m); NaN where none is known.

    IBM's extrapolation returns NaN or infinity for some: there the shot noise alone,
    `ensemble_standard_error`, is taken. Values that were paid for are not lost for lack of an
    error: a field of another shape counts as not known.
    """
    expected = (num_observables, num_rows)
    stds = np.full(expected, np.nan)
    for name in ("stds", "ensemble_standard_error"):
        found = getattr(data, name, None)
        if found is not None and np.shape(found) == expected:
            found = np.asarray(found, np.float64)
            usable = ~np.isfinite(stds) & np.isfinite(found)
            stds[usable] = found[usable]
    return np.ascontiguousarray(stds.T)


def concatenated(parts: Sequence[Array], num_columns: int) -> Array:
    """Parts (rows, columns) of several jobs as one array; (0, columns) for none."""
    return np.concatenate([np.zeros((0, num_columns)), *parts])
