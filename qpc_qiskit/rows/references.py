"""Reference rows with known answers, and the calibration of each patch that follows from them.

Noise shrinks an expectation value and shifts it: on patch j, a feature comes out as about
`scale * exact + offset`. Directions for which a kernel's feature is extremal span the widest range,
so a line through a few of them tells scale and offset best; inverting it corrects every other value
of the patch. That is exact for readout errors and for depolarizing noise of the same strength in
every row, and an approximation for all else: noise that depends on the direction is left, and shows
as chi2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from qpc_qiskit.circuits.directions import SIGN_TOLERANCE, canonical_directions
from qpc_qiskit.circuits.observables import single_z, z_signs
from qpc_qiskit.common.arrays import Array, Indices

MIN_SPAN = 0.5
"""Of exact values, for a line through them to count."""
MIN_SCALE = 0.1
"""What is left of a signal; below, dividing by it only multiplies noise."""
MIN_SIGNIFICANCE = 5.0
"""Standard errors by which a scale must differ from 0."""

SIGNIFICANCE = 4.0
"""Standard errors by which a scale must be too small for a patch to be bad: that is looked for in
every feature of every patch of every job."""

_DEGENERATE = 1e-6  # eigenvalues closer than this count as one


@dataclass(frozen=True, eq=False)
class References:
    """R rows whose features are known."""

    directions: Array
    """(R, 2**n) canonical directions."""
    kernels: Indices
    """(R,) the kernel that each is run with."""
    exact: Array
    """(R, m) all features of each row."""

    def __len__(self) -> int:
        return len(self.kernels)


def reference_directions(
    unitaries: NDArray[np.complexfloating],
    num_references: int,
    z_strings: tuple[int, ...] | None = None,
) -> References:
    """Directions at which a feature of a kernel is largest or smallest.

    The feature is extremal at the outermost eigenvectors of Re(U^+ O U), O its observable, for
    directions are real. References take the features in turn, largest then smallest, and the
    kernels in turn, so that the first 2m hold both extremes of every feature and the first K every
    kernel. All 2mK are distinct; after that they repeat.

    Args:
        unitaries: (K, 2**n, 2**n), up to a phase each.
        num_references: R, at least 2m.
        z_strings: the m observables, see `LayerSpec.z_strings`; None: Z of every qubit.

    Raises:
        ValueError: fewer references than 2m, or the unitaries have another shape.
    """
    kernels = np.asarray(unitaries, np.complex128)
    shape = kernels.shape
    n = round(math.log2(shape[-1])) if kernels.ndim == 3 and shape[-1] > 1 else 0
    if n < 1 or shape[1:] != (2**n, 2**n) or shape[0] < 1:
        raise ValueError(f"Expected unitaries of shape (K, 2**n, 2**n), K and n >= 1, got {shape}.")
    signs = z_signs(z_strings or single_z(n), n).numpy()
    num_kernels, both = len(kernels), 2 * len(signs)  # each feature at its largest and smallest
    if num_references < both:
        raise ValueError(
            f"{num_references} references are too few for {n} qubits: each needs a largest and a "
            f"smallest value; ask for at least {both}."
        )
    index = np.arange(num_references) % (both * num_kernels)
    # Both counters step together; after each common period one is shifted to give new pairs.
    which = (index + index // math.lcm(both, num_kernels)) % num_kernels
    rows = [
        _extremal_direction(kernels[k], signs[i % both // 2], largest=i % 2 == 0)
        for i, k in zip(index, which, strict=True)
    ]
    directions = canonical_directions(torch.from_numpy(np.stack(rows))).numpy()
    amplitudes = np.einsum("rij,rj->ri", kernels[which], directions)
    return References(directions, which.astype(np.intp), np.abs(amplitudes) ** 2 @ signs.T)


def _extremal_direction(unitary: NDArray[np.complex128], signs: Array, *, largest: bool) -> Array:
    """Of all eigenvectors that are extremal, the projection of the basis state nearest to them.

    Unlike what a solver returns for equal eigenvalues, that does not depend on the solver.
    """
    form = (unitary.conj().T @ (signs[:, None] * unitary)).real
    values, vectors = np.linalg.eigh(form)
    extreme = values[-1] if largest else values[0]
    space = vectors[:, np.abs(values - extreme) <= _DEGENERATE]
    overlaps = (space**2).sum(axis=1)
    nearest = int(np.argmax(overlaps >= (1 - SIGN_TOLERANCE) * overlaps.max()))
    return space @ space[nearest]


@dataclass(frozen=True, eq=False)
class ScaleFit:
    """measured = scale * exact + offset, fitted; all NaN where there is no line."""

    scale: float
    offset: float
    covariance: Array
    """(2, 2) of (scale, offset)."""
    chi2: float
    """Sum of squared residuals in standard errors, of num - 2 degrees of freedom; NaN where the
    standard errors are not known."""
    rms: float
    """Root mean square residual."""
    noise: float
    """Root mean square standard error; NaN where the standard errors are not known."""
    num: int
    """Points."""
    span: float
    """Largest minus smallest exact value."""


def fit_scale(exact: Array, measured: Array, stds: Array) -> ScaleFit:
    """Weighted least squares for a line; nothing is rejected, outliers show in chi2.

    Standard errors that were estimated from the same shots favour values that came out near -1 and
    1: the scale is then too large, by half a standard error at 100 shots and a tenth at 2000.

    Args:
        exact: (R,).
        measured: (R,), finite.
        stds: (R,) standard errors of `measured`. If one of them is not positive and finite all
            points count alike, and the covariance follows from the residuals (three points needed).
    """
    num = len(exact)
    span = float(np.ptp(exact)) if num else 0.0
    if span < 1e-9:
        nan = math.nan
        return ScaleFit(nan, nan, np.full((2, 2), nan), nan, nan, nan, num, span)
    is_known = bool((np.isfinite(stds) & (stds > 0)).all())
    weights = 1 / stds**2 if is_known else np.ones(num)
    total = weights.sum()
    center = weights @ exact / total
    spread = weights @ (exact - center) ** 2
    scale = weights @ ((exact - center) * measured) / spread
    offset = weights @ measured / total - scale * center
    covariance = np.array([[1, -center], [-center, center**2 + spread / total]]) / spread
    squares = (measured - offset - scale * exact) ** 2
    chi2 = weights @ squares
    if not is_known:
        covariance *= chi2 / (num - 2) if num > 2 else math.nan
        chi2 = math.nan
    rms = math.sqrt(squares.mean())
    noise = math.sqrt((stds**2).mean()) if is_known else math.nan
    return ScaleFit(float(scale), float(offset), covariance, float(chi2), rms, noise, num, span)


@dataclass(frozen=True, eq=False)
class Calibration:
    """A line for each of J patches and m features; NaN where there is none."""

    scale: Array
    """(J, m)."""
    offset: Array
    """(J, m)."""
    covariance: Array = field(repr=False)
    """(J, m, 2, 2) of (scale, offset)."""
    is_calibrated: NDArray[np.bool_]
    """(J, m) whether the line is used: its span reaches `MIN_SPAN`, its scale exceeds `MIN_SCALE`
    and `MIN_SIGNIFICANCE` standard errors."""
    chi2: Array
    """(J, m) per degree of freedom; NaN where standard errors are unknown or points too few."""
    rms: Array
    """(J, m) root mean square residual of the measured values."""
    noise: Array
    """(J, m) their root mean square standard error; NaN where it is unknown."""
    span: Array
    """(J, m)."""

    @property
    def scale_stds(self) -> Array:
        """(J, m) standard errors of the scales."""
        return np.sqrt(self.covariance[..., 0, 0])


def calibrate(
    exact: Array,
    measured: Array,
    stds: Array,
    patch_of_row: Indices,
    num_patches: int | None = None,
) -> Calibration:
    """Fit every patch and feature.

    Args:
        exact: (R, m), of the reference rows as they were run: R counts a row on every patch.
        measured: (R, m).
        stds: (R, m), see `fit_scale`.
        patch_of_row: (R,).
        num_patches: J; default one more than the largest of `patch_of_row`. A patch without
            reference rows is not calibrated.
    """
    if num_patches is None:
        num_patches = int(patch_of_row.max(initial=-1)) + 1
    num_maps = exact.shape[1]
    lines = [
        fit_scale(exact[rows, q], measured[rows, q], stds[rows, q])
        for rows in (patch_of_row == j for j in range(num_patches))
        for q in range(num_maps)
    ]

    def table(values: list[float]) -> Array:
        return np.array(values, np.float64).reshape(num_patches, num_maps)

    scale, span = table([line.scale for line in lines]), table([line.span for line in lines])
    covariance = np.array([line.covariance for line in lines]).reshape(num_patches, num_maps, 2, 2)
    significant = scale > MIN_SIGNIFICANCE * np.sqrt(covariance[..., 0, 0])
    return Calibration(
        scale,
        table([line.offset for line in lines]),
        covariance,
        (span >= MIN_SPAN) & (scale > MIN_SCALE) & significant,
        table([line.chi2 / (line.num - 2) if line.num > 2 else math.nan for line in lines]),
        table([line.rms for line in lines]),
        table([line.noise for line in lines]),
        span,
    )


def apply(
    calibration: Calibration, values: Array, stds: Array, patch_of_row: Indices
) -> tuple[Array, Array]:
    """Corrected values and their standard errors.

    Values are not clipped to [-1, 1], which would bias means. Where a feature is not calibrated on
    a patch they stay as measured.

    Args:
        calibration: of the patches.
        values: (M, m), measured.
        stds: (M, m), NaN where not known.
        patch_of_row: (M,).

    Returns:
        (M, m) values; (M, m) standard errors with those of the line, to first order. The line's
        part is common to all rows of a patch: it does not average out over them.
    """
    used = calibration.is_calibrated
    scale = np.where(used, calibration.scale, 1)[patch_of_row]
    offset = np.where(used, calibration.offset, 0)[patch_of_row]
    covariance = np.where(used[..., None, None], calibration.covariance, 0)[patch_of_row]
    corrected = (values - offset) / scale
    of_line = (
        corrected**2 * covariance[..., 0, 0]
        + 2 * corrected * covariance[..., 0, 1]
        + covariance[..., 1, 1]
    )
    return corrected, np.sqrt(stds**2 + np.maximum(of_line, 0)) / scale


def bad_patches(
    calibration: Calibration,
    *,
    min_ratio: float = 0.5,
    max_excess: float = 10.0,
    min_rms: float = 0.1,
) -> dict[int, str]:
    """Patches that are better left out, and why.

    A patch is bad if for one of its features, the references of which reach `MIN_SPAN`,

    - the scale is, by more than `SIGNIFICANCE` standard errors, below `MIN_SCALE`, or below
      `min_ratio` times the median of the other patches' scales of this feature. (A scale that is
      merely uncertain, at few shots, is no evidence: its values are left as measured.);
    - the residuals have a root mean square above `min_rms` *and* are not shot noise: their mean
      square is above `max_excess` times that of the standard errors. (Not chi2: a value that came
      out near 1 has a standard error near 0, and one such point would condemn a good patch.) Where
      standard errors are not known the median residual of the other patches stands for them.

    Args:
        calibration: of all patches.
        min_ratio: see above.
        max_excess: see above.
        min_rms: see above; what no line describes, since noise differs between directions, is
            tolerated up to here.

    Returns:
        By patch, ascending: text that names patch, qubits and numbers.
    """
    found: dict[int, list[str]] = {}
    stds = np.nan_to_num(calibration.scale_stds)
    for j, q in zip(*np.nonzero(calibration.span >= MIN_SPAN), strict=True):
        scale, std, rms = calibration.scale[j, q], stds[j, q], calibration.rms[j, q]
        others = (calibration.span[:, q] >= MIN_SPAN) & (np.arange(len(stds)) != j)
        reasons = []
        median = float(np.median(calibration.scale[others, q])) if others.any() else math.nan
        most = scale + SIGNIFICANCE * std
        if most < MIN_SCALE or (most < min_ratio * median and scale < MIN_SCALE):
            reasons.append(f"scale {scale:.3f} +- {std:.3f} leaves nothing of the signal")
        elif most < min_ratio * median:
            reasons.append(
                f"scale {scale:.3f} +- {std:.3f} is below {min_ratio:g} of the other patches' "
                f"median {median:.3f}"
            )
        noise = calibration.noise[j, q]
        if np.isnan(noise):
            usual = float(np.median(calibration.rms[others, q])) if others.any() else math.inf
            against = f"other patches' median {usual:.3f}"
        else:
            usual, against = noise, f"standard errors {noise:.3f}"
        if rms > min_rms and rms**2 > max_excess * usual**2:
            reasons.append(f"residuals of {rms:.3f} about the line ({against})")
        if reasons:
            found.setdefault(int(j), []).append(f"qubit {q}: {', '.join(reasons)}")
    return {j: f"Patch {j}, {'; '.join(texts)}." for j, texts in found.items()}
