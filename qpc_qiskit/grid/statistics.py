"""Intervals, paired tests and their effect sizes, over seeds or test images. Pure functions.

Seeds are the independent repetitions: an interval or a test over seeds speaks of networks trained
anew. A bootstrap over test images speaks of other images for the same networks. Both are reported,
for neither stands for the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

MIN_PAIRS = 8
"""Seeds from which on a paired test is made: its smallest two-sided p-value is then .0078, so that
it also survives Holm's correction for up to six comparisons; with 5 it is .0625."""

ALPHA = 0.05
"""Level of all tests."""

_ROUNDING = 1e-12  # of means of accuracies: a tie must count as one


@dataclass(frozen=True)
class Interval:
    """A mean and its interval; low and high are NaN where there is none."""

    mean: float
    low: float
    high: float


def mean_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Student's interval of a mean.

    Args:
        values: (S,), one of each seed. One value has no interval; equal values have one of width 0.
        confidence: that the interval holds the true mean.
    """
    from scipy.stats import t

    array = np.asarray(values, np.float64)
    mean = float(array.mean()) if array.size else math.nan
    if array.size < 2:
        return Interval(mean, math.nan, math.nan)
    half = float(t.ppf((1 + confidence) / 2, array.size - 1) * array.std(ddof=1))
    half /= math.sqrt(array.size)
    return Interval(mean, mean - half, mean + half)


def paired_bootstrap(
    first: ArrayLike,
    second: ArrayLike,
    *,
    num_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval of a difference of accuracies on the same test images.

    Images are drawn with replacement; every draw takes all seeds of both sides on the same images,
    so that what makes an image hard for both cancels. One matrix of draws serves all
    rows of a study, where `scipy.stats.bootstrap` draws indices anew for each.

    Args:
        first: (S, N) whether each of S networks is right on each of N images.
        second: (S, N), of the same networks on the same images.
        num_resamples: draws.
        confidence: of the interval.
        seed: of the draws.

    Returns:
        Of the mean of `first` minus the mean of `second`.

    Raises:
        ValueError: the shapes differ, or there are no images.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != b.shape or a.ndim != 2 or a.size == 0:
        raise ValueError(f"Expected two arrays (seeds, images), got {a.shape} and {b.shape}.")
    by_image = (a - b).mean(axis=0)
    means = _resamples(len(by_image), num_resamples, seed) @ by_image / len(by_image)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(by_image.mean()), float(low), float(high))


@lru_cache(maxsize=2)
def _resamples(num_images: int, num_resamples: int, seed: int) -> NDArray[np.float64]:
    """(draws, images): how often each image is drawn, so that a product makes all means."""
    generator = np.random.default_rng(seed)
    share = np.full(num_images, 1 / num_images)
    return generator.multinomial(num_images, share, size=num_resamples).astype(np.float64)


@dataclass(frozen=True)
class PairedTest:
    """Of two treatments of the same seeds."""

    p_value: float
    """Two-sided, Wilcoxon's signed ranks."""
    effect: float
    """Matched-pairs rank-biserial correlation: the share of rank sums for a rise minus the share
    for a fall, from -1 to 1."""
    cohen_dz: float
    """Mean difference in standard deviations of the differences; NaN where they are all equal."""


def paired_test(first: ArrayLike, second: ArrayLike) -> PairedTest | None:
    """Wilcoxon's test of paired values, and how large the effect is.

    Args:
        first: (S,), one of each seed.
        second: (S,), of the same seeds.

    Returns:
        Of `first` minus `second`; None: too few seeds for it to say anything, see `MIN_PAIRS`.
    """
    from scipy.stats import wilcoxon

    difference = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    difference = np.where(np.abs(difference) < _ROUNDING, 0.0, difference)
    if len(difference) < MIN_PAIRS:
        return None
    if not difference.any():
        return PairedTest(1.0, 0.0, math.nan)
    p_value = float(wilcoxon(difference, zero_method="wilcox").pvalue)
    std = float(difference.std(ddof=1))
    return PairedTest(
        p_value, rank_biserial(difference), float(difference.mean()) / std if std else math.nan
    )


def rank_biserial(difference: ArrayLike) -> float:
    """Matched-pairs rank-biserial correlation of differences, zeros left out (Kerby 2014)."""
    from scipy.stats import rankdata

    array = np.asarray(difference, np.float64)
    array = array[array != 0]
    if not array.size:
        return 0.0
    ranks = rankdata(np.abs(array))
    return float((ranks * np.sign(array)).sum() / ranks.sum())


def smallest_p(num_pairs: int) -> float:
    """Smallest two-sided p-value that Wilcoxon's test can reach: all differences of one sign."""
    return min(1.0, 2.0 ** (1 - num_pairs))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm's step-down), in their order; NaN stays NaN."""
    result = [math.nan] * len(p_values)
    order = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    largest = 0.0
    for rank, (p, i) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - rank)))
        result[i] = largest
    return result


def fixed_sequence(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values of tests in an order that was fixed before any result; NaN stays NaN.

    Each test needs no correction of its own, for it counts only where all before it were
    significant: the adjusted p is the largest so far. The probability of any wrong rejection is
    still at most the level (Maurer, Hothorn and Lehmacher 1995; Westfall and Krishen,
    J. Stat. Plan. Inference 99, 25, 2001).

    Args:
        p_values: in the order of testing.
    """
    result, largest = [], 0.0
    for p in p_values:
        if not math.isnan(p):
            largest = max(largest, p)
        result.append(math.nan if math.isnan(p) else largest)
    return result


def shot_noise_floor(shots: int) -> float:
    """Largest standard error of an expectation value from so many shots: 1/sqrt(shots)."""
    return 1 / math.sqrt(shots)


@dataclass(frozen=True)
class Crossing:
    """Where a drop first exceeds a threshold."""

    strength: float
    """Interpolated; NaN where it never does, or does from the beginning."""
    below: float
    """Largest strength tried before it; NaN: it exceeds from the smallest on."""
    above: float
    """Smallest strength tried that exceeds it; NaN: it never does."""
    step: float
    """How much more is lost at `above` than at `below`; NaN without either."""


def crossing(strengths: Sequence[float], drops: Sequence[float], threshold: float) -> Crossing:
    """Find where a drop first exceeds a threshold, and between which strengths that was seen.

    Between two strengths the drop is taken as linear in the logarithm of the strength; in the
    strength itself where the smaller one is 0. That is a guess: only `below` and `above` are seen.

    Args:
        strengths: ascending, 0 or more.
        drops: one of each strength.
        threshold: of the drop.
    """
    over = [i for i, drop in enumerate(drops) if drop > threshold]
    if not over:
        return Crossing(math.nan, float(strengths[-1]), math.nan, math.nan)
    i = over[0]
    right = float(strengths[i])
    if i == 0:
        return Crossing(math.nan, math.nan, right, math.nan)
    left, low, high = float(strengths[i - 1]), drops[i - 1], drops[i]
    share = (threshold - low) / (high - low)
    found = left * (right / left) ** share if left > 0 else left + share * (right - left)
    return Crossing(found, left, right, float(high - low))
