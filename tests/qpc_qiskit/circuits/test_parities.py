"""Readout errors of parities, against confusion matrices applied to whole distributions."""

import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qiskit.quantum_info import SparsePauliOp

from qpc_qiskit.circuits.ansatz import make_ansatz
from qpc_qiskit.circuits.observables import pauli_z
from qpc_qiskit.circuits.parities import (
    inversion,
    make_z_string,
    read_z_string,
    readout_contrasts,
    sub_parities,
)
from qpc_qiskit.circuits.tail import absorb_tail


def parity_of(observable, n):
    """(2**n,) eigenvalues, from the operator's own matrix."""
    assert observable.num_qubits == n
    return observable.to_matrix().diagonal().real


def confusions_for(n, rng, largest=0.3):
    """(n, 2, 2) [true, reported], asymmetric."""
    wrong = rng.uniform(0, largest, (n, 2))
    return np.stack([[[1 - p, p], [q, 1 - q]] for p, q in wrong])


def reported(probabilities, confusions):
    """Distribution of reported outcomes: one big confusion matrix, qubit 0 the lowest bit."""
    whole = functools.reduce(lambda low, high: np.kron(high, low), confusions)
    return probabilities @ whole


def random_targets(n, rng):
    return [
        make_z_string(int(mask), n, int(sign))
        for mask, sign in zip(rng.integers(1, 2**n, n), rng.choice([-1, 1], n), strict=True)
    ]


@given(st.integers(1, 6), st.data())
def test_masks_round_trip(n, data):
    mask = data.draw(st.integers(0, 2**n - 1))
    sign = data.draw(st.sampled_from([1, -1]))
    observable = make_z_string(mask, n, sign)
    assert read_z_string(observable) == (mask, sign)
    letters = "".join("Z" if mask >> q & 1 else "I" for q in reversed(range(n)))
    assert observable == SparsePauliOp(letters, sign)


@pytest.mark.parametrize(
    "observable",
    [
        SparsePauliOp("XI"),
        SparsePauliOp("ZY"),
        SparsePauliOp("ZI", 0.5),
        SparsePauliOp("ZI", 1j),
        SparsePauliOp(["ZI", "IZ"]),
    ],
)
def test_other_observables_are_refused(observable):
    with pytest.raises(ValueError, match=r"Expected one product of Z .* got \("):
        read_z_string(observable)


@pytest.mark.parametrize(("p", "q"), [(0, 0), (0.1, 0.1), (0.05, 0.2), (1, 1)])
def test_contrasts(p, q):
    """<Z> that is reported for the two basis states."""
    a, b = readout_contrasts([[[1 - p, p], [q, 1 - q]]])
    assert a[0] + b[0] == pytest.approx((1 - p) - p)
    assert -a[0] + b[0] == pytest.approx(q - (1 - q))


@given(st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_inverts_the_readout_exactly(n, seed):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(2**n, 0.4), size=5)  # outcomes of five rows
    confusions = confusions_for(n, rng)
    targets = random_targets(n, rng)
    strings = sub_parities(targets)
    evs = reported(probabilities, confusions) @ np.stack([parity_of(s, n) for s in strings]).T
    inverse = inversion(strings, targets, *readout_contrasts(confusions))
    assert inverse.matrix.shape == (n, len(strings))
    exact = probabilities @ np.stack([parity_of(t, n) for t in targets]).T
    np.testing.assert_allclose(inverse.features(evs), exact, rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        evs @ inverse.matrix.T + inverse.offset, inverse.features(evs), rtol=0, atol=1e-12
    )


@given(st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_variance_is_that_of_one_shot(n, seed):
    """Each outcome adds a known number to a feature; its variance over the reported outcomes."""
    rng = np.random.default_rng(seed)
    probabilities = reported(rng.dirichlet(np.ones(2**n)), confusions := confusions_for(n, rng))
    targets = random_targets(n, rng)
    strings = sub_parities(targets)
    inverse = inversion(strings, targets, *readout_contrasts(confusions))
    signs = np.stack([parity_of(s, n) for s in strings])  # (m, outcomes)
    per_shot = inverse.matrix @ signs + inverse.offset[:, None]
    mean = per_shot @ probabilities
    variance = (per_shot - mean[:, None]) ** 2 @ probabilities
    evs = (signs @ probabilities)[None]
    stds = inverse.stds_of_shots(evs, 100)[0]
    np.testing.assert_allclose(stds, np.sqrt(variance / 100), rtol=1e-9, atol=1e-9)
    bound = inverse.stds_bound(np.sqrt(np.maximum(1 - evs**2, 0) / 100))[0]
    assert (bound >= stds - 1e-9).all()


def test_stds_in_a_monte_carlo(rng):
    n, shots, trials = 3, 400, 4000
    targets = absorb_tail(make_ansatz("figure1", n, 1).template).observables
    confusions = confusions_for(n, rng, 0.15)
    probabilities = rng.dirichlet(np.ones(2**n))
    strings = sub_parities(targets)
    inverse = inversion(strings, targets, *readout_contrasts(confusions))
    counts = rng.multinomial(shots, reported(probabilities, confusions), size=trials)
    evs = counts / shots @ np.stack([parity_of(s, n) for s in strings]).T
    found = inverse.features(evs)
    exact = np.stack([parity_of(t, n) for t in targets]) @ probabilities
    spread = found.std(axis=0)
    # 5 standard errors: of a mean, and of a standard deviation (1/sqrt(2 trials)); 1e-6 a test
    assert (np.abs(found.mean(axis=0) - exact) < 5 * spread / np.sqrt(trials)).all()
    stds = inverse.stds_of_shots(evs, shots).mean(axis=0)
    np.testing.assert_allclose(stds, spread, rtol=5 / np.sqrt(2 * trials))
    bound = inverse.stds_bound(np.sqrt((1 - evs**2) / shots)).mean(axis=0)
    assert (bound > spread).all()
    assert (bound < 2.5 * spread).all()  # a bound that is of use


def test_no_errors_no_change(rng):
    targets = random_targets(3, rng)
    strings = sub_parities(targets)
    inverse = inversion(strings, targets, np.ones(3), np.zeros(3))
    evs = rng.uniform(-1, 1, (2, len(strings)))
    masks = [read_z_string(s)[0] for s in strings]
    for q, (mask, sign) in enumerate(map(read_z_string, targets)):
        np.testing.assert_array_equal(inverse.features(evs)[:, q], sign * evs[:, masks.index(mask)])
        np.testing.assert_allclose(
            inverse.stds_of_shots(evs, 50)[:, q],
            np.sqrt((1 - evs[:, masks.index(mask)] ** 2) / 50),
        )


def test_which_strings():
    targets = [make_z_string(0b101, 3, -1), make_z_string(0b110, 3)]
    masks = lambda strings: [read_z_string(s)[0] for s in strings]  # noqa: E731
    assert masks(sub_parities(targets)) == [0b001, 0b010, 0b100, 0b101, 0b110]
    assert all(read_z_string(s)[1] == 1 for s in sub_parities(targets))
    assert masks(sub_parities(targets, np.zeros(3))) == [0b101, 0b110]
    # qubit 0 alone is asymmetric: Z2 for the value of Z2 Z0, Z0 for its square
    assert masks(sub_parities(targets, [0.1, 0, 0])) == [0b001, 0b100, 0b101, 0b110]
    assert sub_parities([]) == ()
    whole = make_z_string(2**7 - 1, 7)
    assert len(sub_parities([whole, *pauli_z(7)])) == 127


@pytest.mark.parametrize("asymmetric", [(), (0,), (2,), (0, 1)])
def test_few_strings_are_enough(asymmetric, rng):
    n = 3
    confusions = confusions_for(n, rng)
    for q in set(range(n)) - set(asymmetric):
        confusions[q] = [[0.9, 0.1], [0.1, 0.9]]
    a, b = readout_contrasts(confusions)
    targets = random_targets(n, rng)
    few = sub_parities(targets, b)
    assert len(few) <= len(sub_parities(targets))
    probabilities = rng.dirichlet(np.ones(2**n), size=4)
    evs = reported(probabilities, confusions) @ np.stack([parity_of(s, n) for s in few]).T
    exact = probabilities @ np.stack([parity_of(t, n) for t in targets]).T
    found = inversion(few, targets, a, b)
    np.testing.assert_allclose(found.features(evs), exact, rtol=0, atol=1e-12)
    if not asymmetric:
        assert not found.offset.any()
        assert (np.count_nonzero(found.matrix, axis=1) == 1).all()


def test_errors_that_are_not_known_stay_where_they_are():
    targets = pauli_z(2)
    strings = sub_parities([make_z_string(3, 2)])
    inverse = inversion(strings, targets, [0.9, 0.8], [0.1, 0])
    found = inverse.stds_bound(np.array([[0.09, np.nan, np.nan]]))
    np.testing.assert_allclose(found, [[0.1, np.nan]])


def test_readout_that_tells_nothing():
    confusions = np.array([np.eye(2), [[0.4, 0.6], [0.4, 0.6]]])
    a, b = readout_contrasts(confusions)
    strings = pauli_z(2)
    with pytest.raises(ValueError, match=r"readout of qubit 1 cannot be inverted.*0 Z \+ \(-0.2\)"):
        inversion(strings, pauli_z(2), a, b)
    inversion(strings, pauli_z(2)[:1], a, b)  # qubit 1 is in no feature
    with pytest.raises(ValueError, match="readout of qubit 0 cannot be inverted"):
        inversion(strings, pauli_z(2), [np.nan, 1], [0, 0])


def test_a_string_that_is_missing():
    target = [make_z_string(3, 2)]
    with pytest.raises(ValueError, match=r"qubits \[0, 1\] cannot .* without that of qubits \[1\]"):
        inversion(target, target, [0.9, 0.9], [0.1, 0])


def test_measured_strings_have_no_sign():
    with pytest.raises(ValueError, match="has no sign"):
        inversion([make_z_string(1, 1, -1)], pauli_z(1), [1], [0])
