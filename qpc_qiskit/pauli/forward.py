"""Stages of a program in torch: states of a chunk of pixels, forwards and backwards.

A state is a tensor (rows, pixels): strings down, pixels across. See `steps` for what a step does.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from qpc_qiskit.pauli.steps import Stage


class Runner(Protocol):
    """What runs the steps of a stage."""

    chunk: int
    """Pixels that are best taken at a time."""

    def run(self, first: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        """The state after the steps.

        Args:
            first: (rows, B), not modified.
            cosines: (T, B) of all angles of the program, contiguous.
            sines: (T, B).

        Returns:
            (rows, B), valid until the runner is used again in the same thread.
        """

    def pull(
        self, first: Tensor, cosines: Tensor, sines: Tensor, slopes: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Derivatives by the first state and by the angles, of anything that the last decides.

        Args:
            first: as for `run`.
            cosines: as for `run`.
            sines: as for `run`.
            slopes: the last state -> derivative by it; may be overwritten.

        Returns:
            (rows, B) by the first state; (T, B) by the angles, 0 for those of other stages.
        """


class SparseMap:
    """A constant sparse matrix, to be multiplied with states.

    Where every row has exactly one entry, as with Pauli noise, it gathers instead.
    """

    def __init__(self, matrix: csr_array, dtype: torch.dtype, device: torch.device) -> None:
        self.num_rows = int(matrix.shape[0])
        data = torch.from_numpy(np.array(matrix.data)).to(device, dtype)
        columns = torch.from_numpy(matrix.indices.astype(np.int64)).to(device)
        self._gathers = bool((np.diff(matrix.indptr) == 1).all())
        if self._gathers:
            self._columns, self._factors = columns, data[:, None]
            self._scales = bool((data != 1).any())
        else:
            pointers = torch.from_numpy(matrix.indptr.astype(np.int64)).to(device)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state")
                self._matrix = torch.sparse_csr_tensor(
                    pointers, columns, data, matrix.shape, dtype=dtype, check_invariants=False
                )

    def __call__(self, state: Tensor, out: Tensor) -> Tensor:
        """(rows, B) of a contiguous state, into `out`."""
        if not self._gathers:
            return torch.mm(self._matrix, state, out=out)
        torch.index_select(state, 0, self._columns, out=out)
        return out.mul_(self._factors) if self._scales else out


class TorchStage:
    """A stage on one device, in one dtype; any number of threads may use it.

    Args:
        stage: the steps.
        num_angles: T, of the whole program.
        dtype: of the states.
        device: where they are.
    """

    def __init__(
        self, stage: Stage, num_angles: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        made: dict[bytes, SparseMap] = {}

        def share(matrix: csr_array) -> SparseMap:
            """The same object for equal matrices: a multiplexor has few different ones."""
            parts = (matrix.data, matrix.indices, matrix.indptr)
            key = b"".join(part.tobytes() for part in parts) + repr(matrix.shape).encode()
            if key not in made:
                made[key] = SparseMap(matrix, dtype, device)
            return made[key]

        self._steps = [(share(step.matrix), step.num_pairs, step.angle) for step in stage.steps]
        self._transposes = [share(csr_array(step.matrix.T.tocsr())) for step in stage.steps]
        self._num_angles = num_angles
        self.chunk = _chunk(stage.max_rows, dtype, device)

    def run(self, first: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        """See `Runner.run`."""
        state = first
        for multiply, num_pairs, angle in self._steps:
            state = multiply(state, state.new_empty(multiply.num_rows, first.shape[1]))
            if num_pairs:
                _rotate(state, num_pairs, cosines[angle], sines[angle])
        return state

    def pull(
        self, first: Tensor, cosines: Tensor, sines: Tensor, slopes: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """See `Runner.pull`."""
        states = [first]
        for multiply, num_pairs, angle in self._steps:
            state = multiply(states[-1], first.new_empty(multiply.num_rows, first.shape[1]))
            if num_pairs:
                _rotate(state, num_pairs, cosines[angle], sines[angle])
            states.append(state)
        slope = slopes(states[-1])
        by_angles = first.new_zeros(self._num_angles, first.shape[1])
        backwards = zip(
            reversed(self._steps), reversed(self._transposes), reversed(states), strict=False
        )
        for (_, num_pairs, angle), multiply, state in backwards:
            if num_pairs:
                u, w = slice(num_pairs), slice(num_pairs, 2 * num_pairs)
                product = torch.mul(slope[u], state[w])
                by_angles[angle] = product.addcmul_(slope[w], state[u], value=-1).sum(0)
                _rotate(slope, num_pairs, cosines[angle], -sines[angle])
            slope = multiply(slope, slope.new_empty(multiply.num_rows, first.shape[1]))
        return slope, by_angles


def _rotate(state: Tensor, num_pairs: int, cosine: Tensor, sine: Tensor) -> None:
    """u, w <- c u + s w, c w - s u, in place."""
    u, w = state[:num_pairs], state[num_pairs : 2 * num_pairs]
    old = u * sine
    u.mul_(cosine).addcmul_(w, sine)
    w.mul_(cosine).sub_(old)


_CHUNK_BYTES = {"cpu": 2**20}  # of a state: two of them still in a core's share of cache
_CHUNK_BYTES_ELSEWHERE = 2**27


def _chunk(max_rows: int, dtype: torch.dtype, device: torch.device) -> int:
    size = _CHUNK_BYTES.get(device.type, _CHUNK_BYTES_ELSEWHERE)
    pixels = size // (max_rows * dtype.itemsize)
    return max(16, min(pixels // 16 * 16, 4096))
