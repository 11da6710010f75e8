"""The references against values worked out by hand."""

import math

import numpy as np
import pytest
from references import (
    H,
    X,
    Z,
    amplitudes,
    case_features,
    central_differences,
    circuit_unitary,
    controlled,
    expectations,
    features,
    gate_matrix,
    named_unitary,
    on_qubits,
    rotation,
    u_gate,
)

HALF = math.sqrt(0.5)


def test_qubit_zero_is_the_lowest_bit():
    np.testing.assert_array_equal(on_qubits({0: Z}, 2), np.diag([1, -1, 1, -1]))
    np.testing.assert_array_equal(on_qubits({1: Z}, 2), np.diag([1, 1, -1, -1]))


def test_rotations():
    np.testing.assert_allclose(rotation(X, math.pi / 2), [[HALF, -1j * HALF], [-1j * HALF, HALF]])
    np.testing.assert_allclose(rotation(Z, math.pi), [[-1j, 0], [0, 1j]], atol=1e-14)
    np.testing.assert_allclose(u_gate(math.pi / 2, 0, math.pi), H, atol=1e-14)


def test_cnot_from_the_low_qubit_swaps_states_one_and_three():
    expected = np.eye(4)[[0, 3, 2, 1]]
    np.testing.assert_array_equal(controlled(X, [0], 1, 2), expected)
    np.testing.assert_array_equal(gate_matrix("cx", [], [0, 1], 2), expected)


def test_cnot_from_the_high_qubit_swaps_states_two_and_three():
    np.testing.assert_array_equal(controlled(X, [1], 0, 2), np.eye(4)[[0, 1, 3, 2]])


def test_toffoli_swap_and_phases():
    np.testing.assert_array_equal(
        gate_matrix("ccx", [], [0, 1, 2], 3), np.eye(8)[[0, 1, 2, 7, 4, 5, 6, 3]]
    )
    np.testing.assert_allclose(gate_matrix("swap", [], [0, 1], 2), np.eye(4)[[0, 2, 1, 3]])
    np.testing.assert_allclose(
        gate_matrix("cp", [math.pi / 2], [0, 1], 2), np.diag([1, 1, 1, 1j]), atol=1e-15
    )
    np.testing.assert_allclose(
        gate_matrix("rzz", [math.pi], [0, 1], 2), np.diag([-1j, 1j, 1j, -1j]), atol=1e-15
    )


def test_amplitudes_by_hand():
    np.testing.assert_allclose(amplitudes(np.array([3.0, -4.0, 0.0]), 2), [0.6, -0.8, 0, 0])
    np.testing.assert_allclose(amplitudes(np.array([3e-300, 4e-300]), 1), [0.6, 0.8])
    np.testing.assert_array_equal(amplitudes(np.zeros(3), 2), [1, 0, 0, 0])
    np.testing.assert_array_equal(amplitudes(np.array([0.0, 1e-40]), 1, tiny=1e-38), [1, 0])


def test_expectations_by_hand():
    np.testing.assert_array_equal(expectations(np.array([0, 1, 0, 0]), 2), [-1, 1])
    np.testing.assert_allclose(expectations(np.array([0.6, 0, 0, 0.8]), 2), [-0.28, -0.28])


def test_one_qubit_feature_by_hand():
    """RX(t) turns Z into cos(t) Z + sin(t) Y, and <Y> is zero for a real state."""
    unitary = named_unitary("figure1", 1, 1, np.array([0.3, 1.2]))
    value = features([unitary], np.array([[3.0, 4.0]]))[0, 0, 0]
    assert value == pytest.approx(math.cos(0.3) * (0.36 - 0.64), abs=1e-14)


def test_two_qubit_figure1_by_hand():
    """RX(pi) on qubit 0 of |00>, then CNOT 0->1 and CNOT 1->0: |01> -> |11> -> |10>."""
    unitary = named_unitary("figure1", 2, 1, np.array([math.pi, 0, 0, 0]))
    np.testing.assert_allclose(
        features([unitary], np.array([[1.0, 0, 0]]))[0, 0], [1, -1], atol=1e-15
    )


def test_second_block_of_three_qubits_reaches_two_qubits_far():
    """From |001>, which is one X on qubit 0: range 1, then range 2, in between nothing."""
    weights = np.zeros(18)
    unitary = named_unitary("strongly_entangling", 3, 2, weights)
    ring = [(0, 1), (1, 2), (2, 0), (0, 2), (1, 0), (2, 1)]
    state = 1
    for control, target in ring:
        state ^= ((state >> control) & 1) << target
    assert abs(unitary[state, 1]) == pytest.approx(1)


def test_named_ansatz_sizes():
    for name, n, size in [
        ("strongly_entangling", 3, 9),
        ("figure1", 3, 6),
        ("circuit_centric", 3, 15),
    ]:
        named_unitary(name, n, 2, np.zeros(2 * size))
        with pytest.raises(AssertionError):
            named_unitary(name, n, 2, np.zeros(2 * size + 1))


@pytest.mark.parametrize("case_index", range(3))
def test_users_circuits_against_qiskit_operators(case_index, rng):
    from cases import USER, USER_CIRCUITS
    from qiskit.quantum_info import Operator

    circuit = USER_CIRCUITS[USER[case_index].ansatz]()
    bound = circuit.assign_parameters(rng.uniform(0, 6, circuit.num_parameters))
    ours, qiskits = circuit_unitary(bound), Operator(bound).data
    overlap = np.trace(ours.conj().T @ qiskits) / len(ours)
    assert abs(overlap) == pytest.approx(1, abs=1e-12)


def test_central_differences_by_hand():
    slope = central_differences(lambda v: v[0] ** 2 * v[1], np.array([3.0, 5.0]))
    np.testing.assert_allclose(slope, [30, 9], rtol=1e-8)


def test_comparison_fails_for_wrong_weights(rng):
    """The references tell weights, kernels and qubits apart."""
    from cases import Case

    case = Case(3, 4, 2)
    weights = rng.uniform(0, 6, (2, 18))
    pixels = rng.normal(size=(3, 3))
    right = case_features(case, pixels, weights)
    for wrong in (
        case_features(case, pixels, weights[::-1]),
        case_features(case, pixels[:, ::-1], weights),
        right[..., ::-1],
    ):
        with pytest.raises(AssertionError):
            np.testing.assert_allclose(wrong, right, atol=1e-3)
