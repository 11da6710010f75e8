"""Operations on a growing state as sparse steps between the Pauli strings that can be reached.

A state begins as |0...0> with no qubit touched: the single string I...I. A qubit counts from its
first operation on, and of all strings only those are held that some state can have: found from the
sparsity of the channels. Real channels on real states, for instance, reach only strings with an
even number of Y: 2,080 of 4,096 for six qubits.

Constant channels are multiplied together, as sparse matrices, until a rotation comes. So a step is

    U = matrix @ V;    U[u], U[w] <- c U[u] + s U[w], c U[w] - s U[u]

with the cosine and the sine of an angle, and its rows are ordered so that u is the first
`num_pairs` of them and w the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, identity

from qpc_qiskit.common.arrays import Array
from qpc_qiskit.pauli.channels import rotation_parts
from qpc_qiskit.pauli.program import Constant, Operation, Rotation

Ids = NDArray[np.int64]

_ROUNDING = 1e-15  # of sums that cancel: such entries would hide the sparsity


@dataclass(frozen=True, eq=False)
class Step:
    """See the module's text."""

    matrix: csr_array = field(repr=False)
    """(rows after, rows before)."""
    num_pairs: int
    """0: no rotation."""
    angle: int
    """Row of the angle tables of `Program`; -1 without a rotation."""


@dataclass(frozen=True, eq=False)
class Stage:
    """Steps from a state on some strings to one on others."""

    steps: tuple[Step, ...] = field(repr=False)
    first: Ids = field(repr=False)
    """Strings of the rows before the first step."""
    last: Ids = field(repr=False)
    """Strings of `closing @ state`."""
    closing: csr_array = field(repr=False)
    """(len(last), rows after the last step): what is left of the constants after it."""
    touched: frozenset[int]
    """Qubits that count; on the others the state is |0>, and the strings have I."""

    @property
    def num_rows(self) -> int:
        """Rows after the last step."""
        return int(self.closing.shape[1])

    @property
    def max_rows(self) -> int:
        """Most rows of any state."""
        return max([len(self.first), *(int(step.matrix.shape[0]) for step in self.steps)])

    @property
    def total_rows(self) -> int:
        """Rows of all states together."""
        return len(self.first) + sum(int(step.matrix.shape[0]) for step in self.steps)


def make_stage(
    operations: Sequence[Operation],
    first: Ids | None = None,
    touched: frozenset[int] = frozenset(),
    *,
    touch_all: int = 0,
    closes: bool = True,
) -> Stage:
    """The steps of operations.

    Args:
        operations: act in turn.
        first: strings of the state before them; None: I...I, no qubit being touched.
        touched: qubits that count before them.
        touch_all: qubits 0 to touch_all-1 count after them.
        closes: whether the last step may leave constants to `closing`; else that is the identity.
    """
    builder = _Builder(np.zeros(1, np.int64) if first is None else first, set(touched))
    for operation in operations:
        builder.touch(operation.qubits)
        if isinstance(operation, Constant):
            builder.constant(operation)
        else:
            builder.rotation(operation)
    builder.touch(range(touch_all))
    if not closes:
        builder.end()
    return builder.stage()


class _Builder:
    def __init__(self, first: Ids, touched: set[int]) -> None:
        self._first, self._ids = first, first
        self._touched = touched
        self._pending = csr_array(identity(len(first), format="csr"))
        self._is_plain = True  # nothing is pending
        self._steps: list[Step] = []

    def stage(self) -> Stage:
        return Stage(
            tuple(self._steps), self._first, self._ids, self._pending, frozenset(self._touched)
        )

    def end(self) -> None:
        """Let what is pending be a step of its own."""
        if not self._is_plain:
            self._end(self._pending, 0, -1)

    def touch(self, qubits: Sequence[int]) -> None:
        """Let qubits count that are |0> so far: I becomes I + Z."""
        for qubit in qubits:
            if qubit not in self._touched:
                self._touched.add(qubit)
                start = np.zeros((4, 4))
                start[[0, 3], 0] = 1
                self._apply((qubit,), start)

    def constant(self, operation: Constant) -> None:
        self._apply(operation.qubits, operation.matrix)

    def rotation(self, operation: Rotation) -> None:
        """Order the rows by pairs, and end the step."""
        shifts = _spread(np.arange(4 ** len(operation.qubits)), operation.qubits)
        sine = rotation_parts(operation.pauli)[2]
        digits = _digits(self._ids, operation.qubits)
        rest = self._ids - shifts[digits]
        partners = {int(j): int(i) for i, j in np.argwhere(sine == 1)}
        uppers, is_paired = [], np.zeros(len(self._ids), bool)
        for w, u in partners.items():
            here = (digits == u) | (digits == w)
            is_paired |= here
            base = np.unique(rest[here])
            uppers.append((base + shifts[u], base + shifts[w]))
        u_ids = np.concatenate([u for u, _ in uppers])
        order = np.argsort(u_ids, kind="stable")
        w_ids = np.concatenate([w for _, w in uppers])[order]
        ids = np.concatenate([u_ids[order], w_ids, np.sort(self._ids[~is_paired])])
        sorter = np.argsort(ids)
        rows = sorter[np.searchsorted(ids, self._ids, sorter=sorter)]
        ones = np.ones(len(rows))
        embed = csr_array((ones, (rows, np.arange(len(rows)))), shape=(len(ids), len(rows)))
        self._end(_tidy(embed @ self._pending), len(u_ids), operation.angle)
        self._ids = ids

    def _apply(self, qubits: Sequence[int], matrix: Array) -> None:
        """Multiply what is pending by a channel, or begin a new step if that costs less."""
        shifts = _spread(np.arange(4 ** len(qubits)), qubits)
        digits = _digits(self._ids, qubits)
        rest = self._ids - shifts[digits]
        to, of, values = [], [], []
        for i, j in np.argwhere(matrix):
            which = np.flatnonzero(digits == j)
            to.append(rest[which] + shifts[i])
            of.append(which)
            values.append(np.full(len(which), matrix[i, j]))
        targets = np.concatenate(to)
        ids = np.unique(targets)
        place = (np.searchsorted(ids, targets), np.concatenate(of))
        local = csr_array((np.concatenate(values), place), shape=(len(ids), len(self._ids)))
        product = _tidy(local @ self._pending)
        if not self._is_plain and product.nnz > self._pending.nnz + local.nnz:
            self._end(self._pending, 0, -1)
            product = _tidy(local)
        self._pending, self._is_plain, self._ids = product, False, ids

    def _end(self, matrix: csr_array, num_pairs: int, angle: int) -> None:
        self._steps.append(Step(matrix, num_pairs, angle))
        self._pending = csr_array(identity(matrix.shape[0], format="csr"))
        self._is_plain = True


def _tidy(matrix: csr_array) -> csr_array:
    """Sorted, and without entries that are zero but for rounding."""
    matrix = csr_array(matrix)
    matrix.data[np.abs(matrix.data) < _ROUNDING] = 0
    matrix.eliminate_zeros()
    matrix.sort_indices()
    return matrix


def _digits(ids: Ids, qubits: Sequence[int]) -> Ids:
    """Local index of each string on some qubits, the first of them the lowest digit."""
    found = np.zeros_like(ids)
    for j, qubit in enumerate(qubits):
        found |= (ids >> 2 * qubit & 3) << 2 * j
    return found


def _spread(local: Ids, qubits: Sequence[int]) -> Ids:
    """Strings that have these local indices on some qubits, and I elsewhere."""
    found = np.zeros_like(local)
    for j, qubit in enumerate(qubits):
        found |= (local >> 2 * j & 3) << 2 * qubit
    return found
