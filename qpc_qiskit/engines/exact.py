"""The exact engine: one matrix product for all pixels of all kernels.

The unitaries are shared by all pixels, so they are built once per call (`unitary.py`) and stacked
as a real matrix M of shape (K * 2 * 2**n, C): the real parts of kernel k's rows, then its imaginary
parts. For a unit vector x the outcome probabilities of kernel k are the squares of M x, and a
feature is their signed sum.

Pixels are taken in chunks, with the pixel index last, as images have it: a chunk's product fits
into the cache, its squares and signed sums touch it there, and memory beyond input and output does
not grow with N. What has no K in it, such as the norms, is done for a block of several chunks. The
backward pass recomputes the products; only while all of them together are small does the forward
pass keep them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from qpc_qiskit.circuits.directions import largest_magnitudes
from qpc_qiskit.circuits.spec import LayerSpec
from qpc_qiskit.circuits.unitary import unitaries
from qpc_qiskit.common.threads import run_in_workers, split_ranges
from qpc_qiskit.engines.base import Engine
from qpc_qiskit.engines.calls import LayerCall
from qpc_qiskit.engines.reports import EngineReport

_CHUNK_BYTES = {"cpu": 9 * 2**18}  # of amplitudes: few calls, and still in a core's share of cache
_CHUNK_BYTES_ELSEWHERE = 2**28
_BLOCK_PIXELS = 2048
_CHUNK_STEP = 64  # chunks are multiples of it: odd sizes cost a matrix product some 5 %
_MIN_RANGE_PIXELS = 128
_KEPT_BYTES = 2**25  # of amplitudes that a layer may keep from its forward to its backward pass


class ExactEngine(Engine):
    """Noiseless expectation values to rounding, on the device and in the dtype of the pixels."""

    name = "exact"

    def evs(self, call: LayerCall) -> Tensor:
        """See `Engine.evs`."""
        with torch.no_grad():
            return self._evs(_Pass.begin(call), call.pixels)

    def evs_with_residuals(self, call: LayerCall) -> tuple[Tensor, object]:
        """See `Engine.evs_with_residuals`."""
        with torch.enable_grad():
            started = _Pass.begin(call, keep_amplitudes=True)
        with torch.no_grad():
            return self._evs(started, call.pixels), started

    def vjp(
        self,
        call: LayerCall,
        grad: Tensor,
        wrt: tuple[bool, bool] = (True, True),
        *,
        residuals: object = None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """See `Engine.vjp`."""
        if isinstance(residuals, _Pass):
            started = residuals
        else:
            with torch.enable_grad():
                started = _Pass.begin(call)
        with torch.no_grad():
            grad_pixels, grad_matrix = _vjp(started, call.pixels, grad, wrt)
        if grad_matrix is None:
            return grad_pixels, None
        (grad_weights,) = run_in_workers(
            lambda g: torch.autograd.grad(started.graph, started.weights, g)[0],
            [grad_matrix],
            call.weights.device,
        )
        return grad_pixels, grad_weights

    def _evs(self, started: _Pass, pixels: Tensor) -> Tensor:
        self._record(
            EngineReport(
                engine=self.name,
                num_pixels=len(pixels),
                num_kernels=started.spec.num_kernels,
                num_executions=0,
                max_std=0.0,
            )
        )
        return _evs(started, pixels)


@dataclass(frozen=True, eq=False)
class _Pass:
    """What the forward and the backward pass over the same pixels share."""

    spec: LayerSpec
    weights: Tensor
    """(K, P), a leaf."""
    graph: Tensor
    """M, differentiable by `weights` if gradients were enabled."""
    matrix: Tensor
    """M itself."""
    ranges: list[slice]
    """Pixels of each worker."""
    kept: Tensor | None
    """Room for the amplitudes of all pixels, or None: they are recomputed."""

    @classmethod
    def begin(cls, call: LayerCall, keep_amplitudes: bool = False) -> _Pass:
        """Build M, with a graph if gradients are enabled, and plan the work."""
        spec, pixels = call.spec, call.pixels
        leaf = call.weights.detach().requires_grad_(torch.is_grad_enabled())
        (graph,) = run_in_workers(lambda w: _real_rows(spec, w), [leaf], leaf.device)
        ranges = split_ranges(len(pixels), _MIN_RANGE_PIXELS, pixels.device)
        size = len(graph) * len(pixels)
        kept = None
        if keep_amplitudes and size * graph.element_size() <= _KEPT_BYTES:
            kept = graph.detach().new_empty(size)
        return cls(spec, leaf, graph, graph.detach(), ranges, kept)

    def blocks(self, pixels: slice) -> Iterator[tuple[slice, list[slice]]]:
        """Parts of a range of pixels, each with its chunks, counted from the part's beginning.

        The amplitudes of a chunk fit into the cache.
        """
        budget = _CHUNK_BYTES.get(self.matrix.device.type, _CHUNK_BYTES_ELSEWHERE)
        chunk = budget // (len(self.matrix) * self.matrix.element_size())
        chunk = max(round(chunk / _CHUNK_STEP), 2) * _CHUNK_STEP
        for block in _parts(pixels, max(_BLOCK_PIXELS // chunk, 1) * chunk):
            yield block, list(_parts(slice(0, block.stop - block.start), chunk))

    def amplitudes(self, first: int, count: int, workspace: _Workspace) -> Tensor:
        """Where the amplitudes of pixels first .. first+count-1 are, or go: (rows of M, count)."""
        rows = len(self.matrix)
        if self.kept is None:
            return workspace("amplitudes", rows, count)
        return self.kept[rows * first : rows * (first + count)].view(rows, count)


def _parts(items: slice, size: int) -> Iterator[slice]:
    for start in range(items.start, items.stop, size):
        yield slice(start, min(start + size, items.stop))


def _real_rows(spec: LayerSpec, weights: Tensor) -> Tensor:
    """M, (K * 2 * 2**n, C): real parts, then imaginary parts, of each kernel's rows."""
    with torch.autocast(weights.device.type, enabled=False):
        unitary = unitaries(spec.ansatz, weights, spec.in_channels)
    return torch.cat([unitary.real, unitary.imag], 1).reshape(-1, spec.in_channels)


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
    """Unit vectors as columns (C, B), and 1/|x| (B,), which is 0 where a pixel counts as zero."""
    unit = pixels.T.clone(memory_format=torch.contiguous_format)
    scale, is_zero = largest_magnitudes(unit.T)
    unit /= scale
    unit[0] += is_zero  # what else such a pixel holds is subnormal and vanishes beside the 1
    norm = (unit * unit).sum(0).sqrt_()
    unit /= norm
    return unit, (~is_zero) / (norm * scale)


def _evs(started: _Pass, pixels: Tensor) -> Tensor:
    spec, matrix = started.spec, started.matrix
    kernels, maps, dimension = spec.num_kernels, spec.num_maps, 2**spec.num_qubits
    signs = spec.signs.to(pixels).expand(kernels, maps, dimension)
    out = pixels.new_empty(kernels * maps, len(pixels))

    def fill(items: slice) -> None:
        workspace = _Workspace(matrix)
        for block, chunks in started.blocks(items):
            units, _ = _unit_columns(pixels[block])
            for chunk in chunks:
                first, size = block.start + chunk.start, chunk.stop - chunk.start
                amplitudes = started.amplitudes(first, size, workspace)
                unit = workspace("unit", len(units), size).copy_(units[:, chunk])
                torch.mm(matrix, unit, out=amplitudes)
                real, imaginary = amplitudes.view(kernels, 2, dimension, size).unbind(1)
                probabilities = workspace("probabilities", kernels, dimension, size)
                torch.mul(real, real, out=probabilities).addcmul_(imaginary, imaginary)
                values = torch.bmm(
                    signs, probabilities, out=workspace("values", kernels, maps, size)
                )
                out[:, first : first + size] = values.flatten(0, 1)
            out[:, block].clamp_(-1, 1)  # rounding may leave [-1, 1]

    with torch.autocast(pixels.device.type, enabled=False):
        run_in_workers(fill, started.ranges, pixels.device)
    return out.T.unflatten(1, (kernels, maps))


def _vjp(
    started: _Pass, pixels: Tensor, grad: Tensor, wrt: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients by the pixels (N, C) and by M; overwrites kept amplitudes.

    With y = M u and feature f = sum_i s_i y_i**2: df/dM = 2 (s y) u^T and df/du = 2 M^T (s y), of
    which the pixel x = |x| u sees the part orthogonal to u, divided by |x|.
    """
    spec, matrix = started.spec, started.matrix
    kernels, maps, dimension = spec.num_kernels, spec.num_maps, 2**spec.num_qubits
    signs = (2 * spec.signs.T).to(pixels).contiguous().expand(kernels, dimension, maps)
    transposed = matrix.T.contiguous()
    grad_columns = pixels.new_empty(pixels.shape[1], len(pixels)) if wrt[0] else None

    def accumulate(items: slice) -> Tensor | None:
        total = torch.zeros_like(transposed) if wrt[1] else None
        workspace = _Workspace(matrix)
        for block, chunks in started.blocks(items):
            units, inverse_norms = _unit_columns(pixels[block])
            grads = grad[block].flatten(1).T.contiguous().unflatten(0, (kernels, maps))
            along = workspace("along", *units.shape)
            for chunk in chunks:
                first, size = block.start + chunk.start, chunk.stop - chunk.start
                amplitudes = started.amplitudes(first, size, workspace)
                unit = workspace("unit", len(units), size).copy_(units[:, chunk])
                if started.kept is None:
                    torch.mm(matrix, unit, out=amplitudes)
                slopes = workspace("slopes", kernels, dimension, size)
                torch.bmm(signs, grads[..., chunk], out=slopes)
                amplitudes.view(kernels, 2, dimension, size).mul_(slopes[:, None])
                if grad_columns is not None:
                    part = workspace("part", len(units), size)
                    along[:, chunk] = torch.mm(transposed, amplitudes, out=part)
                if total is not None:
                    total.addmm_(unit, amplitudes.T)
            if grad_columns is not None:
                along.addcmul_(units, (units * along).sum(0), value=-1).mul_(inverse_norms)
                grad_columns[:, block] = along
        return total

    with torch.autocast(pixels.device.type, enabled=False):
        totals = run_in_workers(accumulate, started.ranges, pixels.device)
    grad_pixels = None if grad_columns is None else grad_columns.T
    if not wrt[1]:
        return grad_pixels, None
    return grad_pixels, torch.stack([t for t in totals if t is not None]).sum(0).T
