"""Statistics against SciPy and numbers worked out by hand."""

import math

import numpy as np
import pytest
from later import later

from qpc_qiskit.grid import statistics

stats = later("scipy.stats")


def test_intervals_over_seeds_are_students(rng):
    values = rng.normal(size=8)
    found = statistics.mean_interval(values)
    expected = stats.t.interval(0.95, 7, loc=values.mean(), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected)
    assert found.mean == pytest.approx(values.mean())


def test_an_interval_needs_two_values():
    found = statistics.mean_interval([0.5])
    assert found.mean == 0.5
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert statistics.mean_interval([0.5, 0.5]) == statistics.Interval(0.5, 0.5, 0.5)


def test_the_paired_bootstrap_agrees_with_scipy(rng):
    first = rng.random((3, 200)) < 0.9
    second = first & (rng.random((3, 200)) < 0.9)
    found = statistics.paired_bootstrap(first, second, num_resamples=4000)
    by_image = (first.astype(float) - second).mean(axis=0)
    scipy = stats.bootstrap(
        (by_image,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert found.mean == pytest.approx(by_image.mean())
    # Two bootstraps of 4,000 draws: their quantiles differ by a few hundredths of the width.
    assert (found.low, found.high) == pytest.approx(
        (scipy.low, scipy.high), abs=0.1 * (scipy.high - scipy.low)
    )


def test_what_is_hard_for_both_cancels(rng):
    hard = np.broadcast_to(rng.random(100) < 0.5, (4, 100))
    assert statistics.paired_bootstrap(hard, hard) == statistics.Interval(0, 0, 0)
    with pytest.raises(ValueError, match=r"two arrays \(seeds, images\)"):
        statistics.paired_bootstrap(hard, hard[:2])


def test_the_paired_test_is_wilcoxons(rng):
    first, second = rng.normal(size=(2, 10))
    found = statistics.paired_test(first, second)
    assert found.p_value == pytest.approx(stats.wilcoxon(first, second).pvalue)
    difference = first - second
    assert found.cohen_dz == pytest.approx(difference.mean() / difference.std(ddof=1))
    ranks = stats.rankdata(abs(difference))
    up, down = ranks[difference > 0].sum(), ranks[difference < 0].sum()
    assert found.effect == pytest.approx((up - down) / (up + down))


@pytest.mark.parametrize("count", [1, 5, 7])
def test_too_few_seeds_are_not_tested(count):
    assert statistics.paired_test(np.arange(count) + 1.0, np.zeros(count)) is None


def test_eight_seeds_of_one_sign_are_significant_and_ties_are_not():
    found = statistics.paired_test(np.arange(1, 9) / 100, np.zeros(8))
    assert found.p_value == pytest.approx(statistics.smallest_p(8)) == pytest.approx(1 / 128)
    assert found.effect == 1
    assert statistics.smallest_p(5) == 0.0625
    tied = statistics.paired_test(np.full(8, 0.1) * 3, np.full(8, 0.3))  # differ by rounding
    assert (tied.p_value, tied.effect) == (1, 0)


def test_holm_by_hand():
    # Sorted .01, .03, .04 times 3, 2, 1: .03, .06, and .04, which must not fall below .06.
    assert statistics.holm([0.04, math.nan, 0.01, 0.03]) == pytest.approx(
        [0.06, math.nan, 0.03, 0.06], nan_ok=True
    )
    assert statistics.holm([]) == []


def test_a_fixed_sequence_stops_at_the_first_that_is_not_significant():
    found = statistics.fixed_sequence([0.008, 0.02, 0.3, 0.01, math.nan, 0.5])
    assert found == pytest.approx([0.008, 0.02, 0.3, 0.3, math.nan, 0.5], nan_ok=True)
    assert statistics.fixed_sequence([]) == []


def test_where_a_drop_crosses_a_threshold():
    strengths, drops = [0.01, 0.1, 1.0], [0.0, 0.04, 0.08]
    found = statistics.crossing(strengths, drops, 0.06)
    assert found.strength == pytest.approx(10**-0.5)
    assert (found.below, found.above, found.step) == (0.1, 1.0, pytest.approx(0.04))
    assert statistics.crossing([0.0, 1.0], [0.0, 0.1], 0.06).strength == pytest.approx(0.6)
    assert statistics.crossing([0.0, 0.01, 0.1], [0, 0, 0.1], 0.05).strength == pytest.approx(
        10**-1.5
    ), "a strength of 0 below makes no other line straight"
    never = statistics.crossing(strengths, drops, 0.1)
    assert never.below == 1.0
    assert np.isnan([never.strength, never.above, never.step]).all()
    at_once = statistics.crossing(strengths, drops, -0.1)
    assert at_once.above == 0.01
    assert np.isnan([at_once.strength, at_once.below, at_once.step]).all()


def test_shot_noise_floor():
    assert statistics.shot_noise_floor(400) == 0.05
