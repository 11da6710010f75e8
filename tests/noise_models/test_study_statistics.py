"""Statistics and measures against SciPy, scikit-learn and numbers worked out by hand."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import confusion_matrix as sklearn_confusion
from sklearn.metrics import f1_score

from noise_models import statistics
from noise_models.builders import compose, depolarizing, readout
from noise_models.measures import (
    average_fidelity,
    circuit_quality,
    feature_errors,
    flips_by_margin,
    margins,
)


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


def test_classification_as_scikit_learn_has_it(rng):
    labels, predictions = rng.integers(0, 5, size=(2, 100))
    labels[labels == 3] = 2  # a class that is predicted and never right
    found = statistics.confusion_matrix(labels, predictions, 6)
    assert (found == sklearn_confusion(labels, predictions, labels=range(6))).all()
    assert statistics.macro_f1(found) == pytest.approx(
        f1_score(labels, predictions, average="macro")
    )


def test_where_a_drop_crosses_a_threshold():
    strengths, drops = [0.01, 0.1, 1.0], [0.0, 0.04, 0.08]
    assert statistics.crossing(strengths, drops, 0.06, logarithmic=True) == pytest.approx(10**-0.5)
    assert statistics.crossing(strengths, drops, 0.06, logarithmic=False) == pytest.approx(0.55)
    assert math.isnan(statistics.crossing(strengths, drops, 0.1, logarithmic=True))
    assert statistics.crossing(strengths, drops, -0.1, logarithmic=True) == 0.01


def test_shot_noise_floor():
    assert statistics.shot_noise_floor(400) == 0.05


def test_scale_and_shift_of_every_channel(rng):
    ideal = rng.normal(size=(50, 6))
    scale, shift = rng.uniform(0.5, 1, size=(2, 6))
    found = feature_errors(scale * ideal + shift, ideal, num_qubits=2)
    assert found.scale == pytest.approx(scale)
    assert found.shift == pytest.approx(shift)
    error = (scale - 1) * ideal + shift
    assert found.mse == pytest.approx((error**2).mean())
    assert found.qubit_rms == pytest.approx(
        [np.sqrt((error[:, q::2] ** 2).mean()) for q in range(2)]
    )
    assert feature_errors(3 * ideal, ideal, 2).cosine == pytest.approx(1)
    constant = feature_errors(ideal, np.ones_like(ideal), 2)
    assert np.isnan(constant.scale).all()


def test_flips_by_margin_by_hand():
    logits = np.log([[0.9, 0.1, 1e-9], [0.4, 0.35, 0.25], [0.2, 0.6, 0.2]])
    assert margins(logits) == pytest.approx([0.8, 0.05, 0.4], abs=1e-6)
    flips, images = flips_by_margin([0, 1, 0], [0, 0, 1], [0.9, 0.05, 0.45])
    assert flips.tolist() == [1, 0, 1, 0, 0]
    assert images.tolist() == [1, 0, 1, 0, 1]


def test_fidelity_of_a_circuit_is_the_product_of_its_errors():
    from qiskit import QuantumCircuit

    circuit = QuantumCircuit(2)
    for _ in range(3):
        circuit.cx(0, 1)
    circuit.sx(0)
    circuit.rz(0.3, 0)
    model = compose(depolarizing(0.01, 0.02), readout(0.1, 0.3)).build().model
    found = circuit_quality(circuit, model, [0, 1])
    # Average infidelity p/2 of one qubit, 3p/4 of two; rz is virtual.
    assert found.gate_fidelity == pytest.approx((1 - 0.015) ** 3 * (1 - 0.005))
    assert found.readout_fidelity == pytest.approx(0.8**2)
    assert (found.num_two_qubit_gates, found.two_qubit_depth) == (3, 3)
    assert circuit_quality(circuit, None, [0]).gate_fidelity == 1
    assert average_fidelity(np.eye(4)) == 1
