"""Derivatives of expectation values from expectation values alone. Pure functions.

Weights: the two-term shift of each gate occurrence. An occurrence angle is the bare angle of one
rotation, so df/dtheta = [f(theta + pi/2) - f(theta - pi/2)] / 2, whatever the noise.

Pixels: f is a quadratic form over a norm, and polarisation gives its slopes from values at other
directions. With u = x/|x| and f(w) the value for the direction w/|w|:

    grad f = sum_i [(1 + u_i) f(u + e_i) - (1 - u_i) f(u - e_i)] (e_i - u_i u) / |x|

The last factor projects on what a pixel's length does not change, so f(u) itself is not needed:
with shots it would share its noise with the outer gradient and bias the product. No encoder angle
is differentiated: the chain rule through the angle tree fails where a pair of channels is zero, and
a tree angle drives controlled rotations, for which two-term shifts are wrong. This holds at zeros,
at one-hot pixels and for every encoder that is itself without noise; under a noisy encoder f is no
quadratic form and it is an approximation.

`Shift` probes every angle and every channel: at most N*K*(2R + 2C) rows. `Spsa` probes along random
signs: at most N*K*4S rows for S samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from qpc_qiskit.circuits.directions import canonical_directions
from qpc_qiskit.circuits.spec import LayerSpec
from qpc_qiskit.common.arrays import Array, Indices
from qpc_qiskit.rows.pubs import product_pairs


@dataclass(frozen=True)
class Shift:
    """Every derivative, exactly (up to shot noise)."""


@dataclass(frozen=True)
class Spsa:
    """Slopes along random signs: few rows, unbiased for pixels, of bias `step`**2 for weights.

    Source: J. C. Spall, IEEE Trans. Autom. Control 37, 332 (1992).
    """

    step: float = 0.2
    """Perturbation of every weight, radians. Shot noise of a slope grows as 1/step."""
    num_samples: int = 1
    """Random directions that are averaged, S."""

    def __post_init__(self) -> None:
        if not 0 < self.step < math.inf:
            raise ValueError(f"step must be a positive number of radians, got {self.step!r}.")
        if self.num_samples < 1:
            raise ValueError(f"num_samples must be at least 1, got {self.num_samples!r}.")


GRADIENTS: dict[str, type[Shift] | type[Spsa]] = {"shift": Shift, "spsa": Spsa}
"""Name -> method with its defaults."""


def make_gradients(method: str | Shift | Spsa) -> Shift | Spsa:
    """A method by name, or the method itself.

    Raises:
        ValueError: unknown name.
    """
    if isinstance(method, Shift | Spsa):
        return method
    if method not in GRADIENTS:
        raise ValueError(
            f"Unknown gradients {method!r}; expected one of {', '.join(GRADIENTS)}, or a Spsa(...)."
        )
    return GRADIENTS[method]()


@dataclass(frozen=True, eq=False)
class _Probes:
    """Pairs of points f+ and f- whose combination is a slope: (S of them for each of G things)."""

    points: Array
    """(G, S, 2, width): angle rows of a kernel, or directions of a pixel."""
    factors: Array
    """(G, S, 2): slope = factors[0] * f+ + factors[1] * f-."""
    basis: Array
    """(G, S, size): gradient = scale * sum over S of slope * basis."""
    scale: Array
    """(G, 1): 1/|x| of a pixel, apart from the factors since its square may overflow."""


def _weight_probes(
    spec: LayerSpec, weights: Array, method: Shift | Spsa, rng: np.random.Generator
) -> _Probes:
    ansatz, num_kernels = spec.ansatz, len(weights)
    if isinstance(method, Shift):
        angles = ansatz.angles(weights)[:, None, None, :]  # (K, 1, 1, R)
        shifts = np.stack([np.eye(ansatz.num_angles), -np.eye(ansatz.num_angles)], axis=1)
        points, factor = angles + shifts * (math.pi / 2), 0.5
        basis = np.broadcast_to(ansatz.scale, (num_kernels, *ansatz.scale.shape))
    else:
        shape = (num_kernels, method.num_samples, spec.num_weights)
        signs = rng.choice([-1.0, 1.0], size=shape)
        moved = weights[:, None, None, :] + method.step * np.stack([signs, -signs], axis=2)
        points = ansatz.angles(moved.reshape(-1, spec.num_weights)).reshape(*moved.shape[:3], -1)
        factor, basis = 0.5 / method.step, signs / method.num_samples
    factors = np.broadcast_to([factor, -factor], points.shape[:3])
    return _Probes(points, factors, basis, np.ones((num_kernels, 1)))


def _pixel_probes(
    pixels: Array, is_zero: NDArray[np.bool_], method: Shift | Spsa, rng: np.random.Generator
) -> _Probes:
    num_pixels, channels = pixels.shape
    scale = np.abs(pixels).max(axis=1, initial=0)
    scale[is_zero] = 1
    scaled = pixels / scale[:, None]  # so that squares neither overflow nor vanish
    length = np.linalg.norm(scaled, axis=1)
    length[is_zero] = 1
    unit = scaled / length[:, None]
    if isinstance(method, Shift):
        along = np.broadcast_to(np.eye(channels), (num_pixels, channels, channels))
        basis = along - unit[:, :, None] * unit[:, None, :]
        factors = np.stack([1 + unit, unit - 1], axis=2)
    else:
        shape = (num_pixels, method.num_samples, channels)
        signs = rng.choice([-1.0, 1.0], size=shape) / math.sqrt(channels)
        along = signs - np.einsum("ic,isc->is", unit, signs)[..., None] * unit[:, None, :]
        basis = along * (channels / method.num_samples * _multiplicity(along)[..., None])
        half = (1 + (along**2).sum(axis=2)) / 2
        factors = np.stack([half, -half], axis=2)
    points = unit[:, None, None, :] + np.stack([along, -along], axis=2)
    # A point of length zero has no direction, and its factor is zero. Rounding may leave both tiny.
    factors[np.abs(factors) < 1e-15] = 0
    # A pixel's length changes nothing, so neither does a slope along it or a zero pixel's; a sample
    # that was drawn before counts there.
    factors[is_zero[:, None] | ((basis**2).sum(axis=2) < 1e-28)] = 0
    return _Probes(points, factors, basis, (1 / length / scale)[:, None])


def _multiplicity(along: Array) -> Array:
    """How often each line was drawn, told where it was drawn first, else 0: (N, S).

    Lines drawn twice would have the same rows, so their shot noise would not be independent.
    """
    squares = np.einsum("isc,isc->is", along, along)
    overlaps = np.einsum("isc,itc->ist", along, along) ** 2
    # Of the same length too: zero, or another pair of points on a line, is no repetition.
    same = overlaps >= (1 - 1e-9) * np.maximum(squares[:, :, None], squares[:, None, :]) ** 2
    first = same.argmax(axis=2)
    return np.asarray((first[:, None] == np.arange(along.shape[1])[:, None]).sum(axis=2), float)


@dataclass(frozen=True, eq=False)
class Gradient:
    """Rows to evaluate, and what to make of their values. See `plan_gradient`."""

    directions: Array
    """(D, C) canonical."""
    angles: Array
    """(B, R) radians."""
    pairs: Indices
    """(M, 2): a row is a direction and a row of angles."""
    shape: tuple[int, int, int]
    """N, K, m."""
    weight_rows: Indices
    """(N, K, S, 2), -1: not sent."""
    pixel_rows: Indices
    """(N, K, S, 2), -1: not sent."""
    weights: _Probes | None
    pixels: _Probes | None


def plan_gradient(
    spec: LayerSpec,
    pixels: Array,
    is_zero: NDArray[np.bool_],
    weights: Array,
    active: NDArray[np.bool_],
    wrt: tuple[bool, bool],
    *,
    method: Shift | Spsa,
    rng: np.random.Generator,
) -> Gradient:
    """Rows whose values give the derivatives of a layer.

    Rows that are not needed are left out: outer gradient zero, a pixel that counts as zero (for its
    own derivative), slopes along the pixel itself.

    Args:
        spec: the layer.
        pixels: (N, C).
        is_zero: (N,) pixels that count as zero.
        weights: (K, P).
        active: (N, K), false where the outer gradient is zero.
        wrt: which of (pixels, weights) to differentiate by.
        method: see the module's text.
        rng: of `Spsa`.
    """
    num_pixels, num_kernels = active.shape
    directions = [canonical_directions(torch.from_numpy(pixels)).numpy()]
    directions[0][is_zero] = np.eye(1, spec.in_channels)
    angles = [spec.ansatz.angles(weights)]
    pairs: list[Indices] = []
    count = 0

    def take(direction: Indices, angle: Indices, wanted: NDArray[np.bool_]) -> Indices:
        """Number the wanted rows; -1 for the others."""
        nonlocal count
        rows = np.full(wanted.shape, -1, np.intp)
        rows[wanted] = count + np.arange(np.count_nonzero(wanted))
        both = np.broadcast_arrays(direction, angle)
        pairs.append(np.stack([index[wanted] for index in both], axis=1))
        count += len(pairs[-1])
        return rows

    pixel = np.arange(num_pixels)[:, None]
    kernel = np.arange(num_kernels)[None, :]
    by_pixels = _pixel_probes(pixels, is_zero, method, rng) if wrt[0] else None
    by_weights = _weight_probes(spec, weights, method, rng) if wrt[1] else None
    none = np.full((num_pixels, num_kernels, 0, 2), -1, np.intp)
    weight_rows, pixel_rows = none, none
    if by_weights is not None:
        samples = by_weights.points.shape[1]
        index = len(angles[0]) + np.arange(num_kernels * samples * 2)
        angles.append(by_weights.points.reshape(len(index), -1))
        wanted = np.broadcast_to(active[..., None, None], (num_pixels, num_kernels, samples, 2))
        weight_rows = take(
            pixel[..., None, None], index.reshape(1, num_kernels, samples, 2), wanted
        )
    if by_pixels is not None:
        samples = by_pixels.points.shape[1]
        sent = by_pixels.factors != 0  # (N, S, 2)
        index = np.full(sent.shape, -1, np.intp)
        index[sent] = num_pixels + np.arange(np.count_nonzero(sent))
        directions.append(canonical_directions(torch.from_numpy(by_pixels.points[sent])).numpy())
        wanted = active[..., None, None] & sent[:, None]
        pixel_rows = take(index[:, None], kernel[..., None, None], wanted)
    return Gradient(
        np.concatenate(directions),
        np.concatenate(angles),
        np.concatenate([product_pairs(0, 0), *pairs]),
        (num_pixels, num_kernels, spec.num_maps),
        weight_rows,
        pixel_rows,
        by_weights,
        by_pixels,
    )


@dataclass(frozen=True, eq=False)
class Values:
    """What the rows of a gradient came out as."""

    evs: Array
    """(M, m)."""
    stds: Array
    """(M, m) standard errors, NaN where not known."""
    which: Indices
    """(M,): rows with the same number were executed once and share their shot noise."""


def jacobian(plan: Gradient, values: Values) -> tuple[Array | None, Array | None]:
    """Derivatives of every value: (N, K, m, C) by pixels, (N, K, m, P) by weights.

    A kernel's values depend on its own weights alone. None where not asked for.
    """
    by_pixels = by_weights = None
    if plan.pixels is not None:
        by_pixels = np.einsum("iksq,isc->ikqc", _pixel_slopes(plan, values), plan.pixels.basis)
        by_pixels = _scaled(by_pixels, plan.pixels.scale[..., None, None])
    if plan.weights is not None:
        by_weights = np.einsum("iksq,ksp->ikqp", _weight_slopes(plan, values), plan.weights.basis)
    return by_pixels, by_weights


def vector_jacobian(
    plan: Gradient, values: Values, grad: Array
) -> tuple[tuple[Array, Array] | None, tuple[Array, Array] | None]:
    """Gradients and their standard errors by pixels, (N, C) twice, and weights, (K, P) twice.

    The standard error is that of shot noise alone, propagated with the m values of one execution
    taken as fully correlated, since their correlation is not reported: an upper bound. It does not
    hold what `Spsa` leaves to chance.

    Args:
        plan: of the rows.
        values: of the rows.
        grad: (N, K, m).
    """
    by_pixels = by_weights = None
    if plan.pixels is not None:
        basis = plan.pixels.basis
        slopes = np.einsum("iksq,ikq->is", _pixel_slopes(plan, values), grad)
        variance = np.einsum("is,isc->ic", _pixel_variance(plan, values, grad), basis**2)
        found = np.einsum("is,isc->ic", slopes, basis), np.sqrt(variance)
        by_pixels = _scaled(found[0], plan.pixels.scale), _scaled(found[1], plan.pixels.scale)
    if plan.weights is not None:
        basis = plan.weights.basis
        slopes = np.einsum("iksq,ikq->ks", _weight_slopes(plan, values), grad)
        variance = np.einsum("ks,ksp->kp", _weight_variance(plan, values, grad), basis**2)
        by_weights = np.einsum("ks,ksp->kp", slopes, basis), np.sqrt(variance)
    return by_pixels, by_weights


def _scaled(values: Array, scale: Array) -> Array:
    """Their product. Derivatives by very small pixels may be infinite."""
    with np.errstate(over="ignore"):
        return np.asarray(values * scale)


def _taken(values: Array, rows: Indices) -> Array:
    """Values (M, m) of rows (...), (..., m); 0 where a row was not sent."""
    padded = np.concatenate([values, np.zeros((1, values.shape[1]))])
    return padded[rows]  # -1 is the last


def _pixel_slopes(plan: Gradient, values: Values) -> Array:
    """(N, K, S, m)."""
    assert plan.pixels is not None
    evs = _taken(values.evs, plan.pixel_rows)
    return np.einsum("iksdq,isd->iksq", evs, plan.pixels.factors)


def _weight_slopes(plan: Gradient, values: Values) -> Array:
    """(N, K, S, m)."""
    assert plan.weights is not None
    evs = _taken(values.evs, plan.weight_rows)
    return np.einsum("iksdq,ksd->iksq", evs, plan.weights.factors)


def _pixel_variance(plan: Gradient, values: Values, grad: Array) -> Array:
    """Variance of each pixel's slopes from their own rows, (N, S)."""
    assert plan.pixels is not None
    stds = _taken(values.stds, plan.pixel_rows)
    spread = np.einsum("iksdq,ikq->iksd", stds, np.abs(grad))
    return np.einsum("iksd,isd->is", spread**2, plan.pixels.factors**2)


def _weight_variance(plan: Gradient, values: Values, grad: Array) -> Array:
    """Variance of each kernel's slopes, (K, S); rows that were run as one add before squaring."""
    assert plan.weights is not None
    rows = plan.weight_rows
    sent = rows >= 0
    executions = values.which[rows[sent]]
    factors = plan.weights.factors[None, ..., None] * grad[:, :, None, None, :]
    coefficients = np.zeros((values.which.max(initial=-1) + 1, grad.shape[2]))
    np.add.at(coefficients, executions, factors[sent])
    stds = np.zeros_like(coefficients)
    stds[executions] = values.stds[rows[sent]]
    variance = (np.abs(coefficients) * stds).sum(1) ** 2  # of each execution
    _, kernel, sample, _ = np.nonzero(sent)
    num_samples = rows.shape[2]
    slope = np.zeros(len(variance), np.intp)
    slope[executions] = kernel * num_samples + sample
    used = np.unique(executions)
    total = np.zeros(len(plan.weights.points) * num_samples)
    np.add.at(total, slope[used], variance[used])
    return total.reshape(-1, num_samples)
