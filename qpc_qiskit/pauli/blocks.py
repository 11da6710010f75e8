"""Tables of a stage for the compiled kernel: segments of steps, and blocks of rows in each.

The rows of some consecutive steps, before, between and after them, form a graph: rows that a step
combines are connected. Its components do not mix, so each can run through all of these steps while
it stays in the first-level cache. A segment takes as many steps as its components stay small.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from qpc_qiskit.common.arrays import Array, Indices
from qpc_qiskit.pauli.steps import Stage, Step

Ints = NDArray[np.int32]

BLOCK_ROWS = 128
"""Of a block, if there is a choice: two states of it, 64 bytes a row, take half of 32 KiB."""

PAIRS, SINGLES = 1, 0  # as in kernel.c
_MANY = 2**20  # more entries than a row has


@dataclass(frozen=True, eq=False)
class Tables:
    """What `kernel.c` reads; see there."""

    program: Ints = field(repr=False)
    tables: NDArray[np.int64] = field(repr=False)
    code: Ints = field(repr=False)
    factors: Array = field(repr=False)
    max_rows: int
    max_block_rows: int
    max_kept_rows: int
    kept_rows: int
    """Rows of the states before all segments."""


def make_tables(stage: Stage, block_rows: int = BLOCK_ROWS) -> Tables:
    """The tables of a stage.

    Args:
        stage: the steps.
        block_rows: see `BLOCK_ROWS`.
    """
    writer = _Writer()
    program: list[int] = []
    rows = [len(stage.first)]
    most_block = most_kept = 1
    for steps in _segments(stage, block_rows):
        matrices = [step.matrix for step in steps]
        blocks = list(_blocks(steps, block_rows))
        program += [int(matrices[-1].shape[0]), len(blocks), len(steps)]
        program += [step.angle for step in steps]
        rows.append(int(matrices[-1].shape[0]))
        for block in blocks:
            sizes = [len(each) for each in block]
            last = len(steps) - 1
            program += [
                writer.table(step, block[j], block[j + 1], j == 0, j == last)
                for j, step in enumerate(steps)
            ]
            program += sizes[1:]
            most_block = max(most_block, *sizes)
            most_kept = max(most_kept, sum(sizes[1:]))
    head = [len(rows) - 1, rows[0], rows[-1]]
    return Tables(
        np.array(head + program, np.int32),
        np.array(writer.places, np.int64).reshape(-1, 2),
        np.concatenate([np.zeros(0, np.int32), *writer.codes]),
        np.concatenate([np.zeros(0), *writer.factors]),
        max(rows),
        most_block,
        most_kept,
        sum(rows[:-1]),
    )


def _segments(stage: Stage, block_rows: int) -> Iterator[tuple[Step, ...]]:
    """Runs of steps whose components have at most so many rows; single steps have any."""
    held: list[Step] = []
    sizes = labels = np.zeros(0, np.int64)  # of each component; the component of each row
    for step in stage.steps:
        if held:
            longer = _extended(sizes, labels, step)
            if longer[0].max() <= block_rows:
                held.append(step)
                sizes, labels = longer
                continue
            yield tuple(held)
        held = [step]
        rows = int(step.matrix.shape[1])
        sizes, labels = _extended(np.ones(rows, np.int64), np.arange(rows), step)
    if held:
        yield tuple(held)


def _extended(sizes: Indices, labels: Indices, step: Step) -> tuple[Indices, Indices]:
    """Components after one step more.

    Args:
        sizes: rows of each component, at most, in any of its states.
        labels: component of each row before the step.
        step: the step.

    Returns:
        The same after it; sizes of components that join are added, which is a bound.
    """
    count, rows = len(sizes), int(step.matrix.shape[0])
    entries = step.matrix.tocoo()
    pairs = np.arange(step.num_pairs) + count
    ends = np.concatenate([entries.row + count, pairs])
    begins = np.concatenate([labels[entries.col], pairs + step.num_pairs])
    graph = coo_array((np.ones(len(ends), bool), (ends, begins)), shape=(count + rows,) * 2)
    found, joined = connected_components(graph, directed=False)
    before = np.bincount(joined[:count], weights=sizes, minlength=found).astype(np.int64)
    after = joined[count:].astype(np.int64)
    return np.maximum(before, np.bincount(after, minlength=found)), after


def _components(steps: Sequence[Step]) -> tuple[int, list[Indices]]:
    """How many there are, and that of each row before, between and after the steps."""
    sizes = [int(steps[0].matrix.shape[1]), *(int(s.matrix.shape[0]) for s in steps)]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    ends: list[Indices] = []
    begins: list[Indices] = []
    for j, step in enumerate(steps):
        entries = step.matrix.tocoo()
        ends.append(entries.row + starts[j + 1])
        begins.append(entries.col + starts[j])
        pairs = np.arange(step.num_pairs) + starts[j + 1]
        ends.append(pairs)
        begins.append(pairs + step.num_pairs)
    rows, columns = np.concatenate(ends), np.concatenate(begins)
    graph = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(starts[-1],) * 2)
    count, labels = connected_components(graph, directed=False)
    return int(count), np.split(labels.astype(np.int64), starts[1:-1])


def _blocks(steps: Sequence[Step], block_rows: int) -> Iterator[list[Indices]]:
    """Rows of each block before, between and after the steps; small components share a block."""
    count, labels = _components(steps)
    sizes = np.max([np.bincount(each, minlength=count) for each in labels], axis=0)
    owner = np.empty(count, np.int64)
    block, filled = 0, 0
    for component, size in enumerate(sizes):
        if filled and filled + size > block_rows:
            block, filled = block + 1, 0
        owner[component] = block
        filled += int(size)
    owners = [owner[each] for each in labels]
    orders = [np.argsort(each, kind="stable") for each in owners]
    cuts = [np.cumsum(np.bincount(each, minlength=block + 1))[:-1] for each in owners]
    parts = [np.split(order, cut) for order, cut in zip(orders, cuts, strict=True)]
    for b in range(block + 1):
        yield [part[b] for part in parts]


class _Writer:
    """Tables one after the other, equal ones once."""

    def __init__(self) -> None:
        self.places: list[tuple[int, int]] = []
        self.codes: list[Ints] = []
        self.factors: list[Array] = []
        self._known: dict[bytes, int] = {}
        self._ends = (0, 0)
        self._made: dict[tuple[object, ...], int] = {}
        self._numbers: dict[int, int] = {}  # by identity: the stage keeps its matrices
        self._contents: dict[bytes, int] = {}

    def table(
        self, step: Step, before: Indices, after: Indices, is_first: bool, is_last: bool
    ) -> int:
        """The number of a step's table for a block.

        Args:
            step: the step.
            before: rows of the block before it.
            after: rows of the block after it.
            is_first: whether it reads the whole state.
            is_last: whether it writes the whole state.
        """
        ends = (is_first, is_last, before.tobytes(), after.tobytes())
        whole = (self._number(step.matrix), step.num_pairs, *ends)
        if whole not in self._made:
            self._made[whole] = self._table(step, before, after, is_first, is_last)
        return self._made[whole]

    def _number(self, matrix: csr_array) -> int:
        """The same for equal matrices, of which a multiplexor has few."""
        if id(matrix) not in self._numbers:
            parts = (matrix.indptr, matrix.indices, matrix.data)
            content = b"".join(part.tobytes() for part in parts)
            self._numbers[id(matrix)] = self._contents.setdefault(content, len(self._contents))
        return self._numbers[id(matrix)]

    def _table(
        self, step: Step, before: Indices, after: Indices, is_first: bool, is_last: bool
    ) -> int:
        inputs = np.zeros(int(step.matrix.shape[1]), np.int64)
        inputs[before] = before if is_first else np.arange(len(before))
        outputs = np.zeros(int(step.matrix.shape[0]), np.int64)
        outputs[after] = after if is_last else np.arange(len(after))
        code, factors = _table(step.matrix, step.num_pairs, after, inputs, outputs)
        key = code.tobytes() + factors.tobytes()
        if key not in self._known:
            self._known[key] = len(self.places)
            self.places.append(self._ends)
            self.codes.append(code)
            self.factors.append(factors)
            self._ends = (self._ends[0] + len(code), self._ends[1] + len(factors))
        return self._known[key]


def _table(
    matrix: csr_array, num_pairs: int, rows: Indices, inputs: Indices, outputs: Indices
) -> tuple[Ints, Array]:
    """Code and factors of some rows of a step.

    Args:
        matrix: of the step.
        num_pairs: of the step.
        rows: of the matrix; a pair is in it with both or not at all.
        inputs: number of each column.
        outputs: number of each row.
    """
    counts = np.diff(matrix.indptr)
    uppers, others = rows[rows < num_pairs], rows[rows >= 2 * num_pairs]
    forms = [
        (PAIRS, counts[uppers], counts[uppers + num_pairs], np.stack([uppers, uppers + num_pairs])),
        (SINGLES, counts[others], np.zeros_like(counts[others]), others[None]),
    ]
    code: list[NDArray[np.int64]] = []
    factors: list[Array] = []
    num_groups = 0
    for kind, of_u, of_w, members in forms:
        for form in np.unique(of_u * _MANY + of_w):
            nu, nw = divmod(int(form), _MANY)
            group = members[:, (of_u == nu) & (of_w == nw)]
            entries = [
                matrix.indptr[each][:, None] + np.arange(n)
                for each, n in zip(group, (nu, nw), strict=False)
            ]
            columns = [inputs[matrix.indices[each]] for each in entries]
            code.append(np.array([kind, nu, nw, group.shape[1]]))
            code.append(np.concatenate([outputs[group].T, *columns], axis=1).ravel())
            factors.append(np.concatenate([matrix.data[e] for e in entries], axis=1).ravel())
            num_groups += 1
    return (
        np.concatenate([[num_groups], *code]).astype(np.int32),
        np.concatenate([np.zeros(0), *factors]),
    )
