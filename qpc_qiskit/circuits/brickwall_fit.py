"""Angles of a brickwall circuit for given states: a batched Levenberg-Marquardt descent.

A brickwall on n qubits is RY on every qubit, then layers of CZ(a, a+1) RY(a) RY(a+1) on alternate
pairs of neighbours (`Brickwall`). Its amplitudes are real, and every RY has a derivative of norm
1/2, so that |state(angles) - direction|**2 is a least-squares problem without bad scales.

How an iteration goes, for all pixels of a window at once:

- The derivatives by the angles are carried, by layer matrices, not to the end of the circuit but
  to a cut in its middle: those before it forwards, those behind it and the direction backwards.
  All inner products are the same there, at half the products.
- Damped normal equations of the size of the state, by Cholesky. The damping shrinks with the
  residual and is adapted by the ratio of actual to predicted gain.
- A second-order correction of the step with the same factors, from one more state (Transtrum and
  Sethna, arXiv:1201.5885, "geodesic acceleration"). It takes a third off the number of iterations
  and rescues most of the sparse pixels, whose solutions lie where the derivatives are dependent.

A window is refilled from the pixels that wait. No operation mixes pixels. On most processors
torch's batched products and factorisations give each matrix of a batch the same bits whatever its
place, except in a batch of one, which is therefore never used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

ACCELERATION_PROBE = 0.1
"""Fraction of a step at which the curvature along it is probed."""
ACCELERATION_BOUND = 0.75
"""Twice a correction is at most this fraction of the step, as in the source."""
LARGEST_STEP = 2.0
"""Radians, norm over all angles: beyond it a linear model of rotations says nothing."""
FIRST_DAMPING = 0.03
SMALLEST_DAMPING, LARGEST_DAMPING = 1e-3, 1e4
MATRIX_NUMBERS = 2**21
"""Layer matrices are made for so many pixels at a time that they hold about so many numbers."""
DAMPING_FLOOR = 1e-6
"""Of the damping times the residual's norm: keeps float32 factorisations positive definite."""


@dataclass(frozen=True)
class Brickwall:
    """Which gates a brickwall has."""

    num_qubits: int
    depth: int
    """Layers of CZ: the two-qubit depth."""

    @cached_property
    def pairs(self) -> tuple[tuple[int, ...], ...]:
        """Lower qubit of every CZ, layer by layer."""
        return tuple(tuple(range(layer % 2, self.num_qubits - 1, 2)) for layer in range(self.depth))

    @cached_property
    def rotated(self) -> tuple[tuple[int, ...], ...]:
        """Qubits of every RY: the first rotations, then layer by layer."""
        layers = (tuple(q for a in layer for q in (a, a + 1)) for layer in self.pairs)
        return (tuple(range(self.num_qubits)), *layers)

    @property
    def num_angles(self) -> int:
        """E."""
        return sum(map(len, self.rotated))


@dataclass(frozen=True)
class Descent:
    """What `Fitter.descend` found."""

    angles: Tensor
    """(N, E), the dtype it worked in."""
    num_iterations: Tensor
    """(N,) int64."""


class Fitter:
    """State, derivatives and descent of one brickwall in one dtype on one device.

    Batches of states are kept as (2**n, b), the batch innermost, where gates act on them one by
    one; as (b, 2**n) where they meet matrices.

    Args:
        shape: the circuit.
        dtype: float32 or float64.
        device: of all tensors.
    """

    def __init__(self, shape: Brickwall, dtype: torch.dtype, device: torch.device) -> None:
        self.shape, self._dtype, self._device = shape, dtype, device
        self._size = 2**shape.num_qubits
        ends = [0]
        for qubits in shape.rotated:
            ends.append(ends[-1] + len(qubits))
        self._angles_of = [slice(a, b) for a, b in pairwise(ends)]
        self._cut = (shape.depth + 1) // 2
        index = torch.arange(self._size, device=device)
        self._signs = [_cz_signs(index, pairs).to(dtype) for pairs in shape.pairs]
        rows, signs = zip(
            *(
                (layer * self._size + (index ^ (1 << q)), (index >> q & 1) - 0.5)
                for layer, qubits in enumerate(shape.rotated)
                for q in qubits
            ),
            strict=True,
        )
        angles = torch.arange(ends[-1], device=device)
        self._angles_of_parity = [
            torch.cat([angles[part] for part in self._angles_of[parity + 1 :: 2]])
            for parity in range(min(2, shape.depth))
        ]
        self._identity = torch.eye(2, dtype=dtype, device=device)
        self._block = max(3, MATRIX_NUMBERS // max(1, shape.depth * self._size**2))
        # Memory that is asked for anew every time costs more than the numbers written to it.
        of_a_layer = self._block * self._size**2
        self._buffers = [
            torch.empty(len(shape.pairs[parity::2]) * of_a_layer, dtype=dtype, device=device)
            for parity in range(2)
        ]
        self._derivative_rows = torch.cat(rows)
        self._derivative_signs = torch.cat(signs).to(dtype)[:, None]

    def states(self, angles: Tensor) -> Tensor:
        """Amplitudes (N, 2**n) for angles (N, E), in this fitter's dtype."""
        cos, sin = self._half_angles(angles)
        # Contiguous: the order in which a sum over amplitudes is taken depends on the layout.
        return self._layer_states(cos, sin)[-1].T.contiguous()

    def descend(
        self,
        directions: Tensor,
        angles: Tensor,
        *,
        tolerance: float,
        max_iterations: int,
        window: int,
        on_done: Callable[[int], None],
    ) -> Descent:
        """Fit each direction from its own start, until the squared residual is within tolerance.

        Args:
            directions: (N, 2**n) unit vectors.
            angles: (N, E) starts.
            tolerance: of |state -+ direction|**2, whichever sign is nearer at the start.
            max_iterations: of one pixel.
            window: pixels at work at the same time.
            on_done: told how many pixels have come within tolerance, whenever some are finished.

        Returns:
            The best angles found for each pixel, and its iterations.
        """
        found = angles.to(self._dtype, copy=True)
        used = torch.zeros(len(angles), dtype=torch.int64, device=self._device)
        work = self._begin(directions[:0], found[:0], 0)
        waiting = 0
        while waiting < len(angles) or len(work.index):
            if len(work.index) < window and waiting < len(angles):
                fresh = slice(waiting, waiting + window - len(work.index))
                work = work.join(self._begin(directions[fresh], found[fresh], waiting))
                waiting = min(fresh.stop, len(angles))
            else:
                work = self._iterate(work)
            is_done = (work.loss <= tolerance) | (work.count >= max_iterations)
            if bool(is_done.any()):
                done = work.take(is_done)
                found[done.index] = done.angles
                used[done.index] = done.count
                on_done(int((done.loss <= tolerance).sum()))
                work = work.take(~is_done)
        return Descent(found, used)

    def _begin(self, directions: Tensor, angles: Tensor, first: int) -> _Work:
        """Pixels at their starts; the direction's sign becomes the one nearer to the state."""
        target = directions.to(self._dtype)
        states = self.states(angles)
        target = torch.where((states * target).sum(1, keepdim=True) < 0, -target, target)
        count = len(angles)
        return _Work(
            index=torch.arange(first, first + count, device=self._device),
            target=target,
            angles=angles,
            loss=(states - target).square().sum(1),
            damping=torch.full((count,), FIRST_DAMPING, dtype=self._dtype, device=self._device),
            count=torch.zeros(count, dtype=torch.int64, device=self._device),
        )

    def _iterate(self, work: _Work) -> _Work:
        """One step of every pixel, taken where it helps."""
        if len(work.index) == 1:  # a batch of one runs through other kernels, with other bits
            return self._iterate(work.join(work)).take(slice(1))
        step, model_loss = self._step(work)
        angles = work.angles + step
        loss = (self.states(angles) - work.target).square().sum(1)
        gain = (work.loss - loss) / (work.loss - model_loss).clamp(min=1e-30)
        is_better = loss < work.loss
        factor = torch.where(gain > 0.75, 0.5, torch.where(gain > 0.25, 1.0, 2.0))
        return _Work(
            work.index,
            work.target,
            torch.where(is_better[:, None], angles, work.angles),
            torch.where(is_better, loss, work.loss),
            (work.damping * factor.to(self._dtype)).clamp(SMALLEST_DAMPING, LARGEST_DAMPING),
            work.count + 1,
        )

    def _step(self, work: _Work) -> tuple[Tensor, Tensor]:
        """Change of the angles (b, E), and the loss (b,) that the linear model expects of it."""
        cos, sin = self._half_angles(work.angles)
        layers = self._layer_states(cos, sin)
        rows, target = self._derivatives(layers, cos, sin, work.target)
        slopes, state = rows[:, :-1], rows[:, -1]
        residual = target - state
        damping = (work.damping * work.loss.sqrt()).clamp(min=DAMPING_FLOOR)
        solve = _damped_solver(rows, damping)
        velocity = solve(residual)
        velocity = velocity * _shrink(velocity, LARGEST_STEP)
        change = torch.bmm(velocity[:, None], slopes)[:, 0]
        model_loss = (residual - change).square().sum(1)
        probe = self._layer_states(*self._half_angles(work.angles + ACCELERATION_PROBE * velocity))
        seen = self._pulled_back(probe[-1], cos, sin).T
        bend = (seen - state - ACCELERATION_PROBE * change) * (2 / ACCELERATION_PROBE**2)
        correction = -0.5 * solve(bend)
        correction = correction * _shrink(
            correction, 0.5 * ACCELERATION_BOUND * torch.linalg.vector_norm(velocity, dim=1)
        )
        return velocity + correction, model_loss

    def _half_angles(self, angles: Tensor) -> tuple[Tensor, Tensor]:
        """(E, b) cosines and sines of half the angles (b, E)."""
        half = angles.to(self._dtype).T / 2
        return half.cos(), half.sin()

    def _layer_states(self, cos: Tensor, sin: Tensor) -> Tensor:
        """States after the first rotations and after every layer, (depth + 1, 2**n, b)."""
        out = cos.new_empty(self.shape.depth + 1, self._size, cos.shape[1])
        state = cos.new_zeros(self._size, cos.shape[1])
        state[0] = 1
        turns = iter(zip(cos.unbind(), sin.unbind(), strict=True))
        for layer, qubits in enumerate(self.shape.rotated):
            if layer:
                state = state * self._signs[layer - 1][:, None]
            for qubit in qubits:
                state = _rotated(state, qubit, *next(turns))
            out[layer] = state
        return out

    def _pulled_back(self, states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """States (2**n, b) behind the circuit, seen from the cut."""
        for layer in range(self.shape.depth, self._cut, -1):
            part = self._angles_of[layer]
            turns = zip(self.shape.rotated[layer], cos[part], -sin[part], strict=True)
            for qubit, c, s in turns:
                states = _rotated(states, qubit, c, s)
            states = states * self._signs[layer - 1][:, None]
        return states

    def _derivatives(
        self, layers: Tensor, cos: Tensor, sin: Tensor, target: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What a step needs, all seen from the cut.

        Returns:
            (b, E + 1, 2**n) the state's derivatives by the angles, then the state itself; (b, 2**n)
            the target.
        """
        count = cos.shape[1]
        rows = cos.new_empty(count, self.shape.num_angles + 1, self._size)
        seen = torch.empty_like(target)
        for part in _even_parts(count, self._block):
            matrices = self._layer_matrices(cos[:, part], sin[:, part])
            # Rotations of a layer commute: each has its derivative behind the whole layer.
            local = layers[..., part].flatten(0, 1)[self._derivative_rows]
            local = local.mul_(self._derivative_signs).view(-1, self._size, local.shape[1])
            local = local.permute(2, 0, 1).contiguous()
            before, behind = self._carried(local, target[part], matrices)
            state = layers[self._cut, :, part].T[:, None]
            torch.cat([before, behind[:, :-1], state], 1, out=rows[part])
            seen[part] = behind[:, -1]
        return rows, seen

    def _carried(
        self, local: Tensor, target: Tensor, matrices: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Derivatives behind their own layers (b, E, D), and the target, carried to the cut."""
        before = local[:, self._angles_of[0]]
        for layer in range(1, self._cut + 1):
            before = torch.bmm(before, matrices[layer - 1].transpose(1, 2))
            before = torch.cat([before, local[:, self._angles_of[layer]]], 1)
        behind = target[:, None]
        for layer in range(self.shape.depth, self._cut, -1):
            behind = torch.cat([local[:, self._angles_of[layer]], behind], 1)
            behind = torch.bmm(behind, matrices[layer - 1])
        return before, behind

    def _layer_matrices(self, cos: Tensor, sin: Tensor) -> list[Tensor]:
        """(b, D, D) of the CZ and RY gates of each layer; overwritten by the next call.

        Layers with the same pairs are made together: few large calls.
        """
        count, half = cos.shape[1], self.shape.num_qubits // 2
        matrices: list[Tensor] = [cos] * self.shape.depth
        for parity in range(min(2, self.shape.depth)):
            layers = range(parity, self.shape.depth, 2)
            angles = self._angles_of_parity[parity]
            c, s = cos[angles], sin[angles]  # (layers * RYs of a layer, b)
            qubits = self.shape.rotated[parity + 1]
            turns = torch.stack([c, -s, s, c], 2).view(len(layers), len(qubits), count, 2, 2)
            by_qubit = dict(zip(qubits, turns.unbind(1), strict=True))
            still = self._identity.expand(len(layers), count, 2, 2)
            factors = [
                by_qubit.get(q, still).reshape(-1, 2, 2) for q in range(self.shape.num_qubits)
            ]
            low, high = _product(factors[:half]), _product(factors[half:])
            out = self._buffers[parity][: len(low) * self._size**2]
            made = _kron(high, low, self._signs[parity], out)
            for layer, matrix in zip(
                layers, made.view(len(layers), count, *made.shape[1:]), strict=True
            ):
                matrices[layer] = matrix
        return matrices


@dataclass(frozen=True)
class _Work:
    """Pixels in a window."""

    index: Tensor
    """(b,) where each pixel stands in the batch."""
    target: Tensor
    """(b, 2**n), its sign chosen."""
    angles: Tensor
    """(b, E)."""
    loss: Tensor
    """(b,) squared norm of the residual."""
    damping: Tensor
    """(b,), in units of the residual's norm."""
    count: Tensor
    """(b,) iterations so far."""

    def take(self, which: Tensor | slice) -> _Work:
        return _Work(*(value[which] for value in vars(self).values()))

    def join(self, other: _Work) -> _Work:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return _Work(*(torch.cat(pair) for pair in pairs))


def _damped_solver(rows: Tensor, damping: Tensor) -> Callable[[Tensor], Tensor]:
    """From residuals (b, D) to changes of the angles (b, E), for the rows of `_derivatives`.

    With E < D the equations are those of the angles. Otherwise they are those of the residual; no
    derivative has a component along the state, whose row is kept so that no eigenvalue is zero.
    """
    slopes = rows[:, :-1]
    by_angles = slopes.shape[1] < slopes.shape[2]
    left = slopes if by_angles else rows.transpose(1, 2)
    gram = torch.bmm(left, left.transpose(1, 2))
    gram.diagonal(dim1=1, dim2=2).add_(damping[:, None])
    # A failed one makes a senseless step, which is not taken, and the damping grows.
    factor, _ = torch.linalg.cholesky_ex(gram)

    def solve(residual: Tensor) -> Tensor:
        if by_angles:
            projected = torch.bmm(slopes, residual[..., None])
            return torch.cholesky_solve(projected, factor)[..., 0]
        return torch.bmm(slopes, torch.cholesky_solve(residual[..., None], factor))[..., 0]

    return solve


def _shrink(vectors: Tensor, bound: float | Tensor) -> Tensor:
    """(b, 1) factors that cut vectors (b, E) to norms within a bound."""
    norm = torch.linalg.vector_norm(vectors, dim=1)
    return (bound / norm.clamp(min=1e-30)).clamp(max=1)[:, None]


def _rotated(states: Tensor, qubit: int, cos: Tensor, sin: Tensor) -> Tensor:
    """RY on states (2**n, b), for cosines and sines (b,) of half the angle."""
    old = states.view(len(states) >> (qubit + 1), 2, 2**qubit, states.shape[1])
    new = old * cos
    (old0, old1), (new0, new1) = old.unbind(1), new.unbind(1)
    new0.addcmul_(old1, sin, value=-1)
    new1.addcmul_(old0, sin)
    return new.view_as(states)


def _product(factors: Sequence[Tensor]) -> Tensor:
    """Kronecker product of matrices (b, 2, 2), the first for the lowest qubit."""
    product = factors[0]
    for factor in factors[1:]:
        product = _kron(factor, product)
    return product


def _kron(
    high: Tensor, low: Tensor, signs: Tensor | None = None, out: Tensor | None = None
) -> Tensor:
    """Kronecker products (b, hk, hk) of (b, h, h) and (b, k, k), their columns times signs (hk,).

    Both are first widened to whole rows: a product over rows of h * k numbers is several times
    faster than one over k numbers at a time.
    """
    count, h, k = len(high), high.shape[1], low.shape[1]
    rows_high = high[:, :, None, :, None].expand(count, h, 1, h, k).reshape(count, h, 1, h * k)
    rows_low = low[:, None, :, None, :].expand(count, 1, k, h, k).reshape(count, 1, k, h * k)
    if signs is not None:
        rows_high = rows_high * signs
    if out is not None:
        out = out.view(count, h, k, h * k)
    return torch.mul(rows_high, rows_low, out=out).view(count, h * k, h * k)


def _even_parts(count: int, largest: int) -> list[slice]:
    """Ranges that cover 0 .. count-1, of nearly equal lengths: none of one item among longer."""
    parts = max(1, -(-count // largest))
    return [slice(a, b) for a, b in pairwise(count * i // parts for i in range(parts + 1))]


def _cz_signs(index: Tensor, pairs: tuple[int, ...]) -> Tensor:
    """(2**n,): diagonal of CZ on every pair (a, a+1)."""
    parity = torch.zeros_like(index)
    for a in pairs:
        parity ^= index >> a & index >> (a + 1) & 1
    return 1 - 2 * parity
