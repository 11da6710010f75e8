"""Channels against the textbook's formulas, against PennyLane's, and their strength."""

import math

import noise_references as textbook
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from later import later
from qiskit.quantum_info import Operator, SuperOp, average_gate_fidelity

from noise_models import builders
from noise_models.building import crosstalk_error, error_of
from noise_models.channels import GateChannel
from qpc_qiskit.errors import NoiseError

qml = later("pennylane")

TIMES = {"sx": 35.0, "x": 70.0, "cx": 400.0}
ONE_QUBIT = {
    "bit_flip": (lambda p: builders.bit_flip(p), textbook.bit_flip),
    "phase_flip": (lambda p: builders.phase_flip(p), textbook.phase_flip),
    "depolarizing": (lambda p: builders.depolarizing(p), textbook.depolarizing),
    "amplitude_damping": (lambda p: builders.amplitude_damping(p), textbook.amplitude_damping),
    "generalized": (
        lambda p: builders.amplitude_damping(p, excited_population=0.2),
        lambda p: textbook.amplitude_damping(p, 0.2),
    ),
    "phase_damping": (lambda p: builders.phase_damping(p), textbook.phase_damping),
    "x": (
        lambda p: builders.over_rotation(p),
        lambda p: textbook.rotation(textbook.X, p),
    ),
    "y": (
        lambda p: builders.over_rotation(p, axis="y"),
        lambda p: textbook.rotation(textbook.Y, p),
    ),
    "z": (
        lambda p: builders.over_rotation(-p, axis="z"),
        lambda p: textbook.rotation(textbook.Z, -p),
    ),
}
"""Name -> (our channel, textbook's Kraus operators) of a strength from 0 to 1."""


def superoperator(error):
    return SuperOp(error).data


@pytest.mark.parametrize("name", ONE_QUBIT)
@pytest.mark.parametrize("strength", [0.0, 1e-4, 0.03, 0.5, 1.0])
def test_one_qubit_channels_are_the_textbooks(name, strength):
    ours, theirs = ONE_QUBIT[name]
    channel, kraus = ours(strength), theirs(strength)
    for gate in ("sx", "x"):
        found = superoperator(error_of(channel, gate, 1))
        np.testing.assert_allclose(found, textbook.superoperator(kraus), atol=1e-12)
    if name != "depolarizing":  # has a channel of both qubits together
        found = superoperator(error_of(channel, "cx", 2))
        expected = textbook.superoperator(textbook.on_both(kraus))
        np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("p", [0.0, 1e-4, 0.03, 1.0])
def test_depolarizing_of_two_qubits(p):
    expected = textbook.superoperator(textbook.depolarizing_2(p))
    for channel in (builders.depolarizing(p), builders.depolarizing(0.5, p)):
        np.testing.assert_allclose(superoperator(error_of(channel, "cx", 2)), expected, atol=1e-12)
    state = np.zeros((4, 4))
    state[0, 0] = 1
    left = (expected @ state.reshape(-1, order="F")).reshape(4, 4, order="F")
    np.testing.assert_allclose(left, (1 - p) * state + p * np.eye(4) / 4, atol=1e-12)


@pytest.mark.parametrize(("t1", "t2"), [(100.0, 80.0), (100.0, 100.0), (100.0, 180.0), (50, 100)])
@pytest.mark.parametrize("excited", [0.0, 0.3])
def test_thermal_relaxation(t1, t2, excited):
    """T2 below and above T1, for which Aer has two representations."""
    channel = builders.thermal_relaxation(t1, t2, TIMES, excited_population=excited)
    for gate, nanoseconds in TIMES.items():
        kraus = textbook.thermal_relaxation(t1, t2, nanoseconds / 1000, excited)
        size = 2 if gate == "cx" else 1
        expected = textbook.superoperator(textbook.on_both(kraus) if size == 2 else kraus)
        found = superoperator(error_of(channel, gate, size))
        np.testing.assert_allclose(found, expected, atol=1e-8)
    excitation = np.array([[0, 0], [0, 1.0]])
    after = (superoperator(error_of(channel, "x", 1)) @ excitation.reshape(-1)).reshape(2, 2)
    decayed = np.exp(-0.07 / t1)
    assert after[1, 1].real == pytest.approx(decayed + (1 - decayed) * excited)
    coherence = superoperator(error_of(channel, "x", 1))[1, 1].real
    assert coherence == pytest.approx(np.exp(-0.07 / t2))


def test_a_gate_without_a_time_has_no_error():
    channel = builders.thermal_relaxation(100, 80, {"cx": 300})
    assert error_of(channel, "sx", 1) is None
    assert error_of(channel, "cx", 2) is not None


@pytest.mark.parametrize("angle", [1e-3, 0.1, -2.0, math.pi])
def test_crosstalk(angle):
    expected = textbook.superoperator(textbook.rotation(textbook.ZZ, angle))
    np.testing.assert_allclose(superoperator(crosstalk_error(angle)), expected, atol=1e-12)


@pytest.mark.parametrize("p", [0.0, 0.02, 0.7])
@pytest.mark.parametrize(
    ("channel", "theirs"),
    [
        (builders.bit_flip, lambda p, wires: qml.BitFlip(p, wires=wires)),
        (builders.phase_flip, lambda p, wires: qml.PhaseFlip(p, wires=wires)),
        (builders.amplitude_damping, lambda p, wires: qml.AmplitudeDamping(p, wires=wires)),
        (builders.phase_damping, lambda p, wires: qml.PhaseDamping(p, wires=wires)),
        # PennyLane's parameter is the probability of any of X, Y, Z.
        (builders.depolarizing, lambda p, wires: qml.DepolarizingChannel(3 * p / 4, wires=wires)),
        (
            lambda p: builders.amplitude_damping(p, excited_population=0.3),
            lambda p, wires: qml.GeneralizedAmplitudeDamping(p, 0.3, wires=wires),
        ),
        (
            lambda p: builders.thermal_relaxation(50, 30, {"sx": 1000 * p}),
            lambda p, wires: qml.ThermalRelaxationError(0.0, 50, 30, p, wires=wires),
        ),
        (
            lambda p: builders.thermal_relaxation(50, 80, {"sx": 1000 * p}),
            lambda p, wires: qml.ThermalRelaxationError(0.0, 50, 80, p, wires=wires),
        ),
    ],
)
def test_pennylanes_channels_are_the_same(channel, theirs, p):
    error = error_of(channel(p), "sx", 1)
    kraus = [np.asarray(k) for k in theirs(p, wires=0).kraus_matrices()]
    found = np.eye(4) if error is None else superoperator(error)
    np.testing.assert_allclose(found, textbook.superoperator(kraus), atol=1e-7)


@pytest.mark.parametrize("angle", [1e-3, 0.3, -2.0])
def test_pennylanes_rotations_are_the_same(angle):
    """It has no channels of coherent errors."""
    for axis, gate in (("x", qml.RX), ("y", qml.RY), ("z", qml.RZ)):
        error = error_of(builders.over_rotation(angle, axis=axis), "sx", 1)
        expected = textbook.superoperator([gate(angle, wires=0).matrix()])
        np.testing.assert_allclose(superoperator(error), expected, atol=1e-12)
    expected = textbook.superoperator([qml.IsingZZ(angle, wires=[0, 1]).matrix()])
    np.testing.assert_allclose(superoperator(crosstalk_error(angle)), expected, atol=1e-12)


# ---- strength

SCALABLE = [
    builders.bit_flip(0.2),
    builders.phase_flip(0.2),
    builders.depolarizing(0.1, 0.2),
    builders.amplitude_damping(0.2, excited_population=0.1),
    builders.phase_damping(0.2),
    builders.thermal_relaxation(1.0, 1.5, TIMES),
    builders.over_rotation(0.6, axis="y"),
    builders.zz_crosstalk(0.5, 0.2),
    builders.readout([0.1, 0.2], 0.15),
]


def fidelities(channel):
    """Average gate fidelities, or probabilities of a right report."""
    if not isinstance(channel, GateChannel):
        if channel.channel == "readout":
            return [1 - (p + q) / 2 for p, q in channel.by_qubit()]
        angles = (channel.angle_rad, channel.one_qubit_angle_rad)
        return [average_gate_fidelity(SuperOp(crosstalk_error(a))) for a in angles]
    found = []
    for gate, size in (("sx", 1), ("cx", 2)):
        error = error_of(channel, gate, size)
        identity = Operator(np.eye(2**size))
        found.append(1.0 if error is None else average_gate_fidelity(SuperOp(error), identity))
    return found


@pytest.mark.parametrize("channel", SCALABLE, ids=lambda c: c.channel)
def test_fidelity_falls_with_the_strength(channel):
    values = np.array([fidelities(builders.scale(channel, f)) for f in (0, 0.1, 0.5, 1, 2, 4, 5)])
    np.testing.assert_allclose(values[0], 1, atol=1e-12)
    assert (np.diff(values, axis=0) < -1e-5).all()


@pytest.mark.parametrize("channel", SCALABLE, ids=lambda c: c.channel)
def test_a_factor_of_one_changes_nothing(channel):
    assert builders.scale(channel, 1) == channel
    assert channel.scaled(1.0) == channel
    spec = builders.compose(channel)
    assert spec.scaled(1) is spec


@pytest.mark.parametrize("channel", SCALABLE, ids=lambda c: c.channel)
def test_a_factor_of_zero_is_no_noise(channel):
    assert builders.compose(builders.scale(channel, 0)).build().model.is_ideal()


def test_what_leaves_its_range_is_refused():
    with pytest.raises(NoiseError, match=r"bit_flip scaled by 3: channels\[0\].probability: exp"):
        builders.scale(builders.bit_flip(0.4), 3)
    with pytest.raises(NoiseError, match="expected an angle in radians from -pi to pi, got 4"):
        builders.scale(builders.over_rotation(2.0), 2)
    with pytest.raises(NoiseError, match=r"p1_given_0: expected a probability from 0 to 1, or a"):
        builders.scale(builders.readout([0.5, 0.6], 0.1), 2)


@pytest.mark.parametrize("factor", [-1, math.nan, math.inf, "2"])
def test_bad_factors(factor):
    with pytest.raises(NoiseError, match="Expected a factor of 0 or more to scale noise by, got"):
        builders.scale(builders.bit_flip(0.1), factor)


@settings(deadline=None, max_examples=20)
@given(st.sampled_from(sorted(ONE_QUBIT)), st.floats(0, 1))
def test_the_average_fidelity_formula_of_the_references(name, strength):
    ours, theirs = ONE_QUBIT[name]
    error = error_of(ours(strength), "sx", 1)
    expected = textbook.average_fidelity(theirs(strength))
    assert average_gate_fidelity(SuperOp(error)) == pytest.approx(expected)


# ---- arguments

BAD = [
    (lambda: builders.bit_flip(-0.1), "bit_flip: probability: expected a probability from 0 to 1"),
    (lambda: builders.bit_flip(1.1), "got 1.1"),
    (lambda: builders.bit_flip("0.1"), "got '0.1'"),
    (lambda: builders.bit_flip(True), "got True"),
    (lambda: builders.phase_flip(math.nan), "got nan"),
    (lambda: builders.depolarizing(0.1, 2), "two_qubit_probability: expected a probability"),
    (
        lambda: builders.depolarizing(0.1, 0.1, on="before_measurement"),
        "two_qubit_probability has no effect on before_measurement",
    ),
    (lambda: builders.amplitude_damping(2), "gamma: expected a probability from 0 to 1, got 2"),
    (lambda: builders.amplitude_damping(0, excited_population=-1), "excited_population: expected"),
    (lambda: builders.phase_damping(-1), "phase_damping: gamma: expected"),
    (lambda: builders.thermal_relaxation(0, 1, TIMES), "t1_us: expected a time above 0, got 0"),
    (
        lambda: builders.thermal_relaxation(10, 20.5, TIMES),
        r"thermal_relaxation: expected t2_us of at most 2 \* t1_us = 20, got 20.5",
    ),
    (lambda: builders.thermal_relaxation(1, 1, {"ry": 1}), "times_ns.ry: expected 'sx', 'x', 'cx'"),
    (lambda: builders.thermal_relaxation(1, 1, {"sx": -1}), "times_ns.sx: expected a time of 0 or"),
    (lambda: builders.thermal_relaxation(1, 1, {}), "expected the times_ns of some gates, got"),
    (
        lambda: builders.thermal_relaxation(1, 1, {"measure": 9}),
        "times_ns of measure has no effect on every_gate",
    ),
    (
        lambda: builders.thermal_relaxation(1, 1, TIMES, on="two_qubit_gates"),
        "times_ns of sx, x has no effect on two_qubit_gates",
    ),
    (lambda: builders.over_rotation(4), "angle_rad: expected an angle in radians from -pi to pi"),
    (lambda: builders.over_rotation(1, axis="w"), "axis: expected 'x', 'y' or 'z', got 'w'"),
    (lambda: builders.zz_crosstalk(1, coupling=[(0, 0)]), "expected a list of different pairs"),
    (lambda: builders.zz_crosstalk(1, coupling=[(0, 1), (1, 0)]), "expected a list of different"),
    (lambda: builders.zz_crosstalk(1, on="before_measurement"), "on: expected 'every_gate', 'enc"),
    (lambda: builders.readout(0.1, [0.1, 1.2]), "p0_given_1: expected a probability from 0 to 1"),
    (lambda: builders.readout([0.1], [0.1, 0.2]), "expected lists of one length, got 1 values"),
    (lambda: builders.bit_flip(0.1, on="gates"), "on: expected 'every_gate', 'one_qubit_gates'"),
    (lambda: builders.bit_flip(0.1, qubits=[0, 0]), "qubits: expected a list of different qubits"),
    (lambda: builders.bit_flip(0.1, qubits=[-1]), r"different qubits from 0 to 15, got \[-1\]"),
    (lambda: builders.bit_flip(0.1, qubits=[]), r"different qubits from 0 to 15, got \[\]"),
]


@pytest.mark.parametrize(("call", "match"), BAD)
def test_bad_arguments(call, match):
    with pytest.raises(NoiseError, match=match) as caught:
        call()
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)
