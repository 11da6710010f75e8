"""The exact engine: one matrix product for all pixels of all kernels.

The unitaries are shared by all pixels, so they are built once per call (`unitary.py`) and stacked
as a real matrix M of shape (K * 2 * 2**n, C): the real parts of kernel k's rows, then its imaginary
parts. For a unit vector x the outcome probabilities of kernel k are the squares of M x, and feature
q is their signed sum.

Pixels are taken in chunks, with the pixel index last, as images have it: a chunk's product fits
into the cache, its squares and signed sums touch it there, and memory beyond input and output does
not grow with N. The backward pass recomputes the products instead of keeping them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from qpc_qiskit.directions import largest_magnitudes
from qpc_qiskit.engines.base import Engine, EngineReport
from qpc_qiskit.engines.threads import map_ranges, run_in_worker
from qpc_qiskit.observables import z_signs
from qpc_qiskit.spec import LayerSpec
from qpc_qiskit.unitary import unitaries

_CHUNK_BYTES = {"cpu": 3 * 2**20}  # of amplitudes: few calls, and still in a core's share of cache
_CHUNK_BYTES_ELSEWHERE = 2**28
_CHUNK_STEP = 64  # chunks are multiples of it: odd sizes cost a matrix product some 5 %
_MIN_RANGE_PIXELS = 128


class ExactEngine(Engine):
    """Noiseless expectation values to rounding, on the device and in the dtype of the pixels."""

    name = "exact"

    def evs(self, spec: LayerSpec, pixels: Tensor, weights: Tensor) -> Tensor:
        """See `Engine.evs`."""
        with torch.no_grad(), _no_autocast(pixels):
            matrix = run_in_worker(lambda: _real_rows(spec, weights), weights.device)
            out = _evs(spec, pixels, matrix)
        self._record(
            EngineReport(
                engine=self.name,
                num_pixels=len(pixels),
                num_kernels=spec.num_kernels,
                num_executions=0,
            )
        )
        return out

    def vjp(
        self,
        spec: LayerSpec,
        pixels: Tensor,
        weights: Tensor,
        grad: Tensor,
        wrt: tuple[bool, bool] = (True, True),
    ) -> tuple[Tensor | None, Tensor | None]:
        """See `Engine.vjp`."""
        with _no_autocast(pixels):
            with torch.enable_grad():
                leaf = weights.detach().requires_grad_(wrt[1])
                matrix = run_in_worker(lambda: _real_rows(spec, leaf), leaf.device)
            with torch.no_grad():
                grad_pixels, grad_matrix = _vjp(spec, pixels, matrix.detach(), grad, wrt)
            if grad_matrix is None:
                return grad_pixels, None
            (grad_weights,) = run_in_worker(
                lambda: torch.autograd.grad(matrix, leaf, grad_matrix), leaf.device
            )
            return grad_pixels, grad_weights


def _no_autocast(pixels: Tensor) -> torch.autocast:
    return torch.autocast(pixels.device.type, enabled=False)


def _real_rows(spec: LayerSpec, weights: Tensor) -> Tensor:
    """M, (K * 2 * 2**n, C): real parts, then imaginary parts, of each kernel's rows."""
    unitary = unitaries(spec.ansatz, weights, spec.in_channels)
    return torch.cat([unitary.real, unitary.imag], 1).reshape(-1, spec.in_channels)


def _chunks(items: slice, rows: Tensor) -> Iterator[slice]:
    """Parts of a range of pixels whose products with the `rows` of M fit into the cache."""
    budget = _CHUNK_BYTES.get(rows.device.type, _CHUNK_BYTES_ELSEWHERE)
    size = budget // (len(rows) * rows.element_size()) // _CHUNK_STEP * _CHUNK_STEP
    size = max(size, _CHUNK_STEP)
    for start in range(items.start, items.stop, size):
        yield slice(start, min(start + size, items.stop))


class _Workspace:
    """Buffers that successive chunks share; a shorter last chunk uses their beginning."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._buffers: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        size = math.prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < size:
            buffer = self._buffers[name] = self._like.new_empty(size)
        return buffer[:size].view(shape)


def _unit_columns(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors as columns (C, m), and 1/|x| (m,), which is 0 where a pixel counts as zero."""
    unit = pixels.T.clone(memory_format=torch.contiguous_format)
    scale, is_zero = largest_magnitudes(unit.T)
    unit /= scale
    unit[0] += is_zero  # what else such a pixel holds is subnormal and vanishes beside the 1
    norm = (unit * unit).sum(0).sqrt_()
    unit /= norm
    return unit, (~is_zero) / (norm * scale)


def _evs(spec: LayerSpec, pixels: Tensor, matrix: Tensor) -> Tensor:
    kernels, n, dimension = spec.num_kernels, spec.num_qubits, 2**spec.num_qubits
    signs = z_signs(n).to(pixels).expand(kernels, n, dimension)
    out = pixels.new_empty(kernels * n, len(pixels))

    def fill(items: slice) -> None:
        workspace = _Workspace(matrix)
        for chunk in _chunks(items, matrix):
            unit, _ = _unit_columns(pixels[chunk])
            m = unit.shape[1]
            amplitudes = torch.mm(matrix, unit, out=workspace("amplitudes", len(matrix), m))
            squares = amplitudes.square_().view(kernels, 2, dimension, m)
            probabilities = workspace("probabilities", kernels, dimension, m)
            torch.add(squares[:, 0], squares[:, 1], out=probabilities)
            values = torch.bmm(signs, probabilities, out=workspace("values", kernels, n, m))
            out[:, chunk] = values.flatten(0, 1).clamp_(-1, 1)  # rounding may leave [-1, 1]

    map_ranges(fill, len(pixels), _MIN_RANGE_PIXELS, pixels.device)
    return out.T.unflatten(1, (kernels, n))


def _vjp(
    spec: LayerSpec, pixels: Tensor, matrix: Tensor, grad: Tensor, wrt: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients by the pixels (N, C) and by M.

    With y = M u and feature f = sum_i s_i y_i**2: df/dM = 2 (s y) u^T and df/du = 2 M^T (s y), of
    which the pixel x = |x| u sees the part orthogonal to u, divided by |x|.
    """
    kernels, n, dimension = spec.num_kernels, spec.num_qubits, 2**spec.num_qubits
    signs = (2 * z_signs(n).T).to(pixels).contiguous().expand(kernels, dimension, n)
    transposed = matrix.T.contiguous()
    grad_columns = pixels.new_empty(pixels.shape[1], len(pixels)) if wrt[0] else None

    def accumulate(items: slice) -> Tensor | None:
        total = torch.zeros_like(transposed) if wrt[1] else None
        workspace = _Workspace(matrix)
        for chunk in _chunks(items, matrix):
            unit, inverse_norm = _unit_columns(pixels[chunk])
            m = unit.shape[1]
            amplitudes = torch.mm(matrix, unit, out=workspace("amplitudes", len(matrix), m))
            grad_values = workspace("values", kernels, n, m)
            grad_values.flatten(0, 1).copy_(grad[chunk].flatten(1).T)
            slopes = torch.bmm(signs, grad_values, out=workspace("slopes", kernels, dimension, m))
            amplitudes.view(kernels, 2, dimension, m).mul_(slopes[:, None])
            if grad_columns is not None:
                along = torch.mm(transposed, amplitudes, out=workspace("along", *unit.shape))
                along.addcmul_(unit, (unit * along).sum(0), value=-1).mul_(inverse_norm)
                grad_columns[:, chunk] = along
            if total is not None:
                total.addmm_(unit, amplitudes.T)
        return total

    totals = map_ranges(accumulate, len(pixels), _MIN_RANGE_PIXELS, pixels.device)
    grad_pixels = None if grad_columns is None else grad_columns.T
    if totals[0] is None:
        return grad_pixels, None
    return grad_pixels, torch.stack([t for t in totals if t is not None]).sum(0).T
