"""Tables and measures of studies, against numbers worked out by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from noise_models.builders import compose, depolarizing, readout
from noise_models.study.measures import (
    average_fidelity,
    circuit_quality,
    feature_errors,
    flips_by_margin,
    margins,
)
from noise_models.study.report import _crossing as crossing_text
from noise_models.study.report import _reach as reach_text
from noise_models.study.tables import GROUP, PLAIN_MEANS, records, summarise, thresholds


def results(drops, strengths, noise="bit_flip"):
    """Rows of cells (seeds, strengths) that a table of thresholds looks at."""
    axes = dict.fromkeys(GROUP, "x") | {"noise": noise}
    return pd.DataFrame(
        [
            {**axes, "strength": strength, "seed": seed, "drop": drop}
            for seed, row in enumerate(drops)
            for strength, drop in zip(strengths, row, strict=True)
        ]
    )


def test_a_threshold_in_a_cliff_is_a_bracket():
    """From 0.4 points to 79: where between is the grid's, not the noise's, however it repeats."""
    seeds = [[0.0, 0.004, 0.79 + 0.001 * i] for i in range(8)]
    (row,) = records(thresholds(results(seeds, [0.01, 0.03, 0.1])))
    assert (row.between_low, row.between_high) == (0.03, 0.1)
    assert row.strength == pytest.approx(0.0322, abs=1e-4)
    assert math.isnan(row.strength_low)
    assert math.isnan(row.strength_high)
    assert row.step == pytest.approx(0.79, abs=0.01)
    (fine,) = records(
        thresholds(results([[0.0, 0.02 + 0.002 * i, 0.1] for i in range(8)], [0.01, 0.03, 0.04]))
    )
    assert 0.03 < fine.strength_low < fine.strength < fine.strength_high < 0.04


def test_a_threshold_below_all_strengths_is_not_a_number():
    (row,) = records(thresholds(results([[0.2, 0.5]] * 3, [0.1, 0.2])))
    assert (row.num_crossed, row.num_at_smallest, row.between_high) == (3, 3, 0.1)
    assert math.isnan(row.between_low)
    assert math.isnan(row.strength)
    (some,) = records(thresholds(results([[0.0, 0.1], [0.2, 0.3], [0.0, 0.1]], [0.1, 0.2])))
    assert (some.num_crossed, some.num_at_smallest) == (3, 1)
    assert math.isnan(some.strength), "one seed is known to be at or below 0.1 only"


def test_a_threshold_above_all_strengths():
    (row,) = records(thresholds(results([[0.9, 0.0, 0.01]] * 3, [-0.1, 0.1, 0.2])))
    assert (row.num_crossed, row.between_low) == (0, 0.2)
    assert math.isnan(row.between_high)
    assert thresholds(results([[0.0, 0.1]], [-0.2, 0.1])).empty, "one strength of 0 or more"


@pytest.mark.parametrize(
    ("drops", "strengths", "told"),
    [
        ([[0.0, 0.8]] * 3, [0.03, 0.1], "5 points are lost between 0.03 and 0.1 (probability)."),
        (
            [[0.02, 0.08]] * 3,
            [0.03, 0.04],
            "5 points are lost at 0.035 [0.035, 0.035], between 0.03 and 0.04 (probability).",
        ),
        ([[0.2, 0.8]] * 3, [0.1, 0.2], "5 points are lost at or below 0.1 (probability)."),
        (
            [[0.0, 0.0], [0.0, 0.06]],
            [0.1, 0.2],
            "5 points are lost by 1 of 2 seeds up to 0.2 (probability).",
        ),
        (
            [[0.0, 0.0], [0.0, 0.16]],
            [0.1, 0.2],
            "5 points are lost by 1 of 2 seeds between 0.1 and 0.2 (probability).",
        ),
        ([[0.0, 0.0]], [0.1, 0.2], "fewer than 5 points are lost up to 0.2 (probability)."),
    ],
)
def test_what_the_report_says_of_a_threshold(drops, strengths, told):
    frame = thresholds(results(drops, strengths))
    frame = frame.assign(encoder="multiplexor", shots=0, mitigation="none", quantity="probability")
    (row,) = records(frame)
    assert crossing_text(row) == f"bit_flip: {told}"


def test_a_line_is_tested_from_the_strongest_strength_down(rng):
    """Of sixteen strengths and eight seeds; Holm's correction could not go below 0.125."""
    strengths = [0.001 * 2**i for i in range(16)]
    drops = np.where(np.arange(16) < 14, 0.0, 0.5) + 1e-3 * rng.random((8, 16))
    drops[:, :14] = 0.0
    drops[:, 5] = 0.01 * np.arange(1, 9)  # below strengths without an effect
    frame = results(drops, strengths).assign(
        ideal_accuracy=0.9, mitigation="none", repeat=0, shot_noise_floor=0.0, num_images=2
    )
    frame["accuracy"] = frame["ideal_accuracy"] - frame["drop"]
    for name in PLAIN_MEANS:
        frame[name] = 0.0
    for name in ("predictions", "labels", "ideal_predictions"):
        frame[name] = [[0, 1]] * len(frame)
    for name in ("channel_scale", "channel_shift"):
        frame[name] = [[1.0]] * len(frame)
    summary = summarise(frame.sample(frac=1, random_state=0)).sort_values("strength")
    p = list(summary["p_sequence"])
    assert p[14:] == pytest.approx([1 / 128] * 2)
    assert p[:14] == [1.0] * 14
    assert list(summary["p_value"])[5] == pytest.approx(1 / 128)


def test_the_report_tells_where_seeds_cannot_reach_significance():
    """.0078 times seven is .055; times six it is .047."""
    gains = pd.DataFrame(
        [dict.fromkeys(GROUP, "x") | {"mitigation": f"m{i}", "num_seeds": 8} for i in range(7)]
    )
    assert reach_text(gains) == (
        " With 8 seeds no gain can be significant among 7 mitigations: the smallest p is 0.0078, "
        "corrected 0.055."
    )
    assert reach_text(gains.head(6)) == ""
    assert reach_text(gains.assign(num_seeds=9)) == ""


def test_scale_and_shift_of_every_channel(rng):
    ideal = rng.normal(size=(50, 6))
    scale, shift = rng.uniform(0.5, 1, size=(2, 6))
    found = feature_errors(scale * ideal + shift, ideal, num_maps=2)
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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_channel_that_is_constant_up_to_rounding_has_no_scale(dtype, rng):
    ideal = rng.normal(size=(50, 3)).astype(dtype)
    ideal[:, 1] = 0.3
    ideal[::2, 1] = np.nextafter(dtype(0.3), dtype(1))
    ideal[:, 2] = (4 * np.finfo(dtype).eps * rng.normal(size=50)).astype(dtype)
    noisy = (0.5 * ideal + 0.01 * rng.normal(size=ideal.shape)).astype(dtype)
    found = feature_errors(noisy, ideal, 1)
    assert np.isnan(found.scale).tolist() == [False, True, True]
    weak = ideal * dtype(1e-3)  # small, and no rounding
    assert np.isnan(feature_errors(noisy, weak, 1).scale).tolist() == [False, True, True]


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
