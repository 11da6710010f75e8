"""The brickwall encoder: circuit, fitted angles, cache.

Of 50,000 pixels of these kinds (n = 2 .. 6, and a hundred at n = 7) one fit ended at 1.2e-8, all
others within 1e-8.
"""

import copy
import threading

import numpy as np
import pytest
import torch
from qiskit.quantum_info import Pauli, Statevector, random_unitary
from references import amplitudes
from tiers import thorough, thorough_if

from qpc_qiskit.circuits.brickwall import (
    DEPTHS,
    FAILURE,
    TOLERANCE,
    AngleCache,
    Known,
    brickwall,
    checked_shape,
    encode,
    error_bound,
    fit,
    infidelity_of,
)
from qpc_qiskit.circuits.brickwall_fit import Brickwall, Fitter, _even_parts
from qpc_qiskit.circuits.directions import canonical_directions
from qpc_qiskit.circuits.encoder import make_encoder

CPU = torch.device("cpu")


def gaussian(count, channels, generator):
    return torch.randn(count, channels, generator=generator, dtype=torch.float64)


def post_relu(count, channels, generator):
    """A few common factors, noise, and about half the channels at zero."""
    factors = gaussian(count, 6, generator) @ gaussian(6, channels, generator) / 6**0.5
    return (0.9 * factors + 0.5 * gaussian(count, channels, generator) - 0.15).relu()


def sparse(count, channels, generator):
    mask = torch.rand(count, channels, generator=generator, dtype=torch.float64) < 0.1
    return mask * gaussian(count, channels, generator)


def one_hot(count, channels, generator):
    return torch.eye(channels, dtype=torch.float64)[
        torch.randperm(channels, generator=generator)[:count]
    ]


def constant(count, channels, generator):
    return torch.ones(1, channels, dtype=torch.float64)


KINDS = [gaussian, post_relu, sparse, one_hot, constant]


def states_of(encoder, angles):
    for row in angles.numpy():
        values = dict(zip(encoder.parameters, row, strict=True))
        yield Statevector(encoder.circuit.assign_parameters(values)).data


@pytest.mark.parametrize("n", DEPTHS)
def test_gate_counts(n):
    encoder = make_encoder("brickwall", n)
    counts = encoder.circuit.count_ops()
    assert set(counts) <= {"ry", "cz"}
    assert counts["ry"] == encoder.circuit.num_parameters == len(encoder.parameters)
    assert {2: 1, 3: 3, 4: 8, 5: 16, 6: 33, 7: 66}.get(n, 0) == counts.get("cz", 0)
    assert encoder.circuit.depth(lambda gate: gate.operation.num_qubits == 2) == DEPTHS[n]
    for gate in encoder.circuit.get_instructions("cz"):
        low, high = (encoder.circuit.find_bit(q).index for q in gate.qubits)
        assert high == low + 1
    assert {p.name for p in encoder.parameters} == {
        f"encoder[{j}]" for j in range(checked_shape(n).num_angles)
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", thorough_if(lambda n: n == 7, DEPTHS))
def test_prepares_the_direction(n, kind, generator):
    """Checked on Qiskit's own state vector, not on ours."""
    directions = canonical_directions(kind(3 if n == 7 else 12, 2**n, generator))
    encoder = make_encoder("brickwall", n)
    encoded = encoder.encode(directions)
    assert encoded.angles.shape == (len(directions), len(encoder.parameters))
    assert encoded.angles.dtype == encoded.infidelity.dtype == torch.float64
    assert float(encoded.infidelity.max()) <= TOLERANCE
    assert encoded.num_failed == 0
    for direction, reported, state in zip(
        directions.numpy(), encoded.infidelity, states_of(encoder, encoded.angles), strict=True
    ):
        fidelity = abs(np.vdot(state, amplitudes(direction, n))) ** 2
        assert 1 - fidelity == pytest.approx(float(reported), abs=1e-13)


@pytest.mark.parametrize(
    ("n", "count"), [(2, 300), (3, 300), (4, 200), *thorough((5, 100), (6, 40))]
)
@pytest.mark.parametrize("kind", [gaussian, post_relu, sparse])
def test_nearly_every_fit_is_within_tolerance(n, count, kind, generator):
    found = fit(canonical_directions(kind(count, 2**n, generator)), n)
    assert float(found.infidelity.max()) <= FAILURE
    assert int((found.infidelity > TOLERANCE).sum()) <= count // 50
    assert found.num_restarted <= count // 5  # at most 1 in 25 of these kinds were seen
    assert len(found.failed) == 0


@pytest.mark.parametrize("n", [2, 4])
def test_features_are_within_the_bound(n, generator):
    directions = canonical_directions(gaussian(5, 2**n, generator))
    encoder = brickwall(n, DEPTHS[n] - 1)  # too shallow, so that there is an error to be bounded
    found = fit(directions, n, DEPTHS[n] - 1, restarts=0)
    assert float(found.infidelity.max()) > 1e-4
    unitary = random_unitary(2**n, seed=3)
    for direction, bound, state in zip(
        directions.numpy(),
        error_bound(found.infidelity),
        states_of(encoder, found.angles),
        strict=True,
    ):
        exact = Statevector(amplitudes(direction, n)).evolve(unitary)
        fitted = Statevector(state).evolve(unitary)
        for qubit in range(n):
            z = Pauli("I" * (n - 1 - qubit) + "Z" + "I" * qubit)
            error = abs(fitted.expectation_value(z) - exact.expectation_value(z))
            assert error <= float(bound) + 1e-12


def test_error_bound_is_reached():
    """By the feature that tells two states apart best: Z in the basis of their difference."""
    infidelity = torch.tensor([0.0, 0.01, 1.0], dtype=torch.float64)
    np.testing.assert_allclose(error_bound(infidelity), [0, 0.2, 2], rtol=1e-15)
    angle = np.arcsin(0.1)  # between the states; on the Bloch sphere they lie at +-angle about X
    assert 2 * np.sin(angle) == pytest.approx(0.2)


def test_sign_conventions():
    """Channel 1 is qubit 0; the global sign is free, relative ones are not."""
    directions = torch.tensor([[0.6, 0.8, 0, 0], [0.6, -0.8, 0, 0], [-0.6, -0.8, 0, 0]])
    directions = directions.to(torch.float64)
    encoder = brickwall(2)
    states = np.array(list(states_of(encoder, encoder.angles(directions)))).real
    overlaps = np.abs(states @ directions.numpy().T)
    np.testing.assert_allclose(overlaps, (directions @ directions.T).abs(), atol=1e-3)
    assert overlaps[0, 1] < 0.3


@pytest.mark.parametrize(("n", "depth"), [(1, 0), (2, 1), (3, 3), (4, 2), (5, 8)])
def test_states_are_those_of_the_circuit(n, depth, generator):
    encoder, shape = brickwall(n, depth), Brickwall(n, depth)
    angles = gaussian(3, shape.num_angles, generator)
    states = Fitter(shape, torch.float64, CPU).states(angles).numpy()
    np.testing.assert_allclose(states, np.array(list(states_of(encoder, angles))), atol=1e-14)


@pytest.mark.parametrize(("n", "depth"), [(1, 0), (2, 1), (2, 3), (3, 1), (3, 4), (4, 5), (5, 2)])
def test_derivatives(n, depth, generator):
    """Inner products of the rows, for they are only seen from the cut: dRY(t)/dt = RY(t + pi)/2."""
    shape = Brickwall(n, depth)
    fitter = Fitter(shape, torch.float64, CPU)
    angles = gaussian(4, shape.num_angles, generator)
    target = gaussian(4, 2**n, generator)
    cos, sin = fitter._half_angles(angles)
    rows, seen = fitter._derivatives(fitter._layer_states(cos, sin), cos, sin, target)
    for i in range(len(angles)):
        shifted = angles[i] + torch.pi * torch.eye(shape.num_angles, dtype=torch.float64)
        state = fitter.states(angles[i : i + 1])
        expected = torch.cat([fitter.states(shifted) / 2, state, target[i : i + 1]])
        got = torch.cat([rows[i], seen[i : i + 1]])
        np.testing.assert_allclose(got @ got.T, expected @ expected.T, atol=1e-13)


def assert_same_fit(found, expected):
    """The same solutions, in other batches: a descent multiplies rounding by a thousand.

    Some directions may end elsewhere, where a step was taken by a hair.
    """
    assert float(found.infidelity.max()) <= TOLERANCE
    moved = (found.angles - expected).abs().amax(1)
    assert float(moved.median()) < 0.01


def test_the_same_whatever_the_batch_and_the_threads(generator):
    directions = canonical_directions(post_relu(70, 16, generator))
    found = fit(directions, 4).angles
    others = canonical_directions(gaussian(30, 16, generator))
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            assert_same_fit(fit(directions, 4), found)
            assert_same_fit(fit(directions.flip(0), 4), found.flip(0))
            assert_same_fit(fit(directions[:3], 4), found[:3])
            assert float(fit(directions[7:8], 4).infidelity) <= TOLERANCE
            among_others = fit(torch.cat([others, directions]), 4)
            assert_same_fit(among_others, torch.cat([among_others.angles[:30], found]))
    finally:
        torch.set_num_threads(before)


def test_a_window_is_refilled(generator):
    shape = checked_shape(3)
    fitter = Fitter(shape, torch.float32, CPU)
    directions = canonical_directions(gaussian(20, 8, generator))
    starts = gaussian(20, shape.num_angles, generator)
    counted = []
    options = {"tolerance": 1e-8, "max_iterations": 50}
    wide = fitter.descend(directions, starts, window=20, on_done=counted.append, **options)
    narrow = fitter.descend(directions, starts, window=3, on_done=lambda _: None, **options)
    assert sum(counted) == 20
    moved = (wide.angles - narrow.angles).abs().amax(1)
    assert float(moved.median()) < 0.01  # see `assert_same_fit`
    assert int(wide.num_iterations.median()) == int(narrow.num_iterations.median())


def test_even_parts():
    assert [p.stop - p.start for p in _even_parts(7, 3)] == [2, 2, 3]
    assert _even_parts(3, 3) == [slice(0, 3)]
    assert _even_parts(0, 3) == [slice(0, 0)]


def test_duplicates_are_fitted_once(generator):
    directions = canonical_directions(gaussian(3, 8, generator))
    shape = checked_shape(3)
    progress = []
    encoded = encode(directions[[0, 1, 0, 2, 1]], shape)
    assert torch.equal(encoded.angles[[0, 1, 3]], fit(directions, 3).angles)
    assert torch.equal(encoded.angles[[2, 4]], encoded.angles[[0, 1]])
    fit(directions, 3, on_progress=lambda *done: progress.append(done))
    assert progress[-1] == (3, 3)


def test_warm_starts_take_fewer_iterations(generator):
    directions = canonical_directions(gaussian(40, 16, generator))
    cold = fit(directions, 4)
    moved = canonical_directions(directions + 1e-3 * gaussian(40, 16, generator))
    warm = fit(moved, 4, known=Known(directions, cold.angles))
    assert warm.num_warm == 40
    assert float(warm.infidelity.max()) <= TOLERANCE
    assert 2 * int(warm.num_iterations.sum()) < int(cold.num_iterations.sum())
    again = fit(-directions, 4, known=Known(directions, cold.angles))
    assert int(again.num_iterations.sum()) <= 1  # of one whose loss is within rounding of the bound
    torch.testing.assert_close(again.angles, cold.angles, rtol=0, atol=1e-3)


def test_far_directions_do_not_start_warm(monkeypatch):
    directions = torch.eye(16, dtype=torch.float64)
    found = fit(directions[:5], 4)
    cold, warm = (
        fit(directions[5:], 4),
        fit(directions[5:], 4, known=Known(directions[:5], found.angles)),
    )
    assert warm.num_warm == 0
    assert torch.equal(cold.angles, warm.angles)
    monkeypatch.setattr("qpc_qiskit.circuits.brickwall.SEARCHED_PIXELS", 3)
    mixed = fit(directions, 4, known=Known(directions[:5], found.angles))
    assert mixed.num_warm == 5
    assert float(mixed.infidelity.max()) <= TOLERANCE
    torch.testing.assert_close(mixed.angles[:5], found.angles, rtol=0, atol=1e-3)
    nobody = Known(directions[:0], found.angles[:0])
    assert torch.equal(fit(directions[5:], 4, known=nobody).angles, cold.angles)


def test_a_fit_that_cannot_converge_is_reported(generator):
    directions = canonical_directions(gaussian(6, 16, generator))
    directions[2] = torch.eye(16, dtype=torch.float64)[0]  # a product state: depth 1 will do
    found = fit(directions, 4, 1, restarts=2, max_iterations=10)
    assert found.failed.tolist() == [0, 1, 3, 4, 5]
    assert found.num_restarted == 5
    shape = checked_shape(4, 1)
    again = infidelity_of(directions, found.angles, shape)
    torch.testing.assert_close(again, found.infidelity, rtol=0, atol=1e-13)
    once = fit(directions, 4, 1, restarts=0, max_iterations=10)
    assert bool((found.infidelity <= once.infidelity).all())  # the best start counts
    encoded = brickwall(4, 1).encode(directions[:2])
    assert encoded.num_failed == 2
    assert float(encoded.infidelity.min()) > FAILURE


def test_a_tight_tolerance_is_met_in_float64(generator):
    directions = canonical_directions(gaussian(20, 16, generator))
    assert float(fit(directions, 4, tolerance=1e-13).infidelity.max()) <= 1e-13


def test_progress(generator):
    seen = []
    fit(
        canonical_directions(gaussian(300, 8, generator)),
        3,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    done = [count for count, _ in seen]
    assert {total for _, total in seen} == {300}
    assert done == sorted(set(done))
    assert done[-1] == 300
    assert len(done) > 1


def test_no_pixels():
    found = fit(torch.empty(0, 5), 3)
    assert found.angles.shape == (0, checked_shape(3).num_angles)
    assert found.infidelity.shape == found.num_iterations.shape == (0,)
    assert found.num_restarted == len(found.failed) == 0
    encoded = brickwall(3, cache=AngleCache()).encode(torch.empty(0, 5))
    assert encoded.angles.shape == found.angles.shape


def test_zero_pixels_need_no_rotation():
    directions = canonical_directions(torch.zeros(2, 5))
    encoded = brickwall(3).encode(directions)
    assert not encoded.angles.any()
    assert not encoded.infidelity.any()


def test_missing_channels_are_zero(generator):
    directions = canonical_directions(gaussian(4, 5, generator))
    padded = torch.nn.functional.pad(directions, (0, 3))
    assert torch.equal(fit(directions, 3).angles, fit(padded, 3).angles)


def test_float32_directions(generator):
    directions = canonical_directions(gaussian(8, 8, generator))
    found = fit(directions.float(), 3)
    assert found.angles.dtype == found.infidelity.dtype == torch.float64
    assert float(infidelity_of(directions, found.angles, checked_shape(3)).max()) <= 2 * TOLERANCE


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda(generator):
    directions = canonical_directions(gaussian(50, 16, generator)).cuda()
    found = fit(directions, 4)
    assert found.angles.is_cuda
    assert found.infidelity.is_cuda
    assert float(found.infidelity.max()) <= TOLERANCE
    assert brickwall(4, cache=AngleCache()).encode(directions).angles.is_cuda


class TestCache:
    def test_known_directions_are_not_fitted_again(self, generator, monkeypatch):
        cache = AngleCache()
        encoder = brickwall(3, cache=cache)
        directions = canonical_directions(gaussian(6, 8, generator))
        first = encoder.encode(directions)
        assert len(cache) == 6
        fitted = []

        def counting_fit(wanted, *args, **options):
            fitted.append(len(wanted))
            return fit(wanted, *args, **options)

        monkeypatch.setattr("qpc_qiskit.circuits.brickwall.fit", counting_fit)
        second = encoder.encode(directions.flip(0))
        assert torch.equal(second.angles.flip(0), first.angles)
        assert torch.equal(second.infidelity.flip(0), first.infidelity)
        assert second.num_restarted == 0
        brickwall(3).encode(directions)
        assert fitted == [0, 6]

    def test_it_gives_warm_starts(self, generator):
        cache = AngleCache()
        directions = canonical_directions(gaussian(6, 8, generator))
        brickwall(3, cache=cache).encode(directions)
        known = cache.known(checked_shape(3))
        assert torch.equal(known.directions, directions)
        assert torch.equal(known.angles, fit(directions, 3).angles)
        moved = canonical_directions(directions + 1e-3 * gaussian(6, 8, generator))
        warm = brickwall(3, cache=cache).angles(moved)
        assert torch.equal(warm, fit(moved, 3, known=known).angles)
        assert len(cache) == 12

    def test_it_is_bounded_and_forgets_the_oldest_use(self, generator):
        cache = AngleCache(capacity=3)
        encoder = brickwall(2, cache=cache)
        directions = canonical_directions(gaussian(5, 4, generator))
        encoder.encode(directions[:3])
        encoder.encode(directions[:1])  # used again
        encoder.encode(directions[3:4])
        assert len(cache) == 3
        kept = cache.known(checked_shape(2)).directions
        assert torch.equal(kept, directions[[2, 0, 3]])
        assert encoder.encode(directions).angles.shape == (5, 4)  # more than it holds
        assert len(cache) == 3

    def test_it_keeps_no_batch_in_memory(self, generator):
        cache = AngleCache(capacity=1)
        brickwall(2, cache=cache).encode(canonical_directions(gaussian(50, 4, generator)))
        (row,) = cache._rows.values()
        assert row.direction.untyped_storage().nbytes() == 4 * 8
        assert row.angles.untyped_storage().nbytes() == 4 * 8

    def test_shapes_do_not_mix(self, generator):
        cache = AngleCache()
        directions = canonical_directions(gaussian(3, 4, generator))
        brickwall(2, cache=cache).encode(directions)
        brickwall(3, cache=cache).encode(directions)
        assert len(cache) == 6
        assert cache.known(checked_shape(2)).angles.shape == (3, 4)
        assert cache.known(checked_shape(4)) is None

    def test_failures_are_kept_but_start_nobody(self, generator):
        cache = AngleCache()
        directions = canonical_directions(gaussian(2, 16, generator))
        encoder = brickwall(4, 1, cache=cache)
        assert encoder.encode(directions).num_failed == 2
        assert encoder.encode(directions).num_failed == 2
        assert cache.known(checked_shape(4, 1)) is None

    def test_threads(self, generator):
        cache = AngleCache(capacity=20)
        encoder = brickwall(2, cache=cache)
        directions = canonical_directions(gaussian(30, 4, generator))
        worst = []

        def work(part):
            for _ in range(3):
                worst.append(float(encoder.encode(part).infidelity.max()))

        threads = [threading.Thread(target=work, args=(directions[i::3],)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(worst) == 12
        assert max(worst) <= TOLERANCE
        assert len(cache) == 20

    def test_capacity(self):
        with pytest.raises(ValueError, match="capacity must be at least 1, got 0"):
            AngleCache(0)


def test_encoders_are_made_once():
    assert make_encoder("brickwall", 3) is brickwall(3) is brickwall(3, 3)
    with_cache = brickwall(3, cache=AngleCache())
    assert with_cache is not brickwall(3)
    assert with_cache.circuit is brickwall(3).circuit


def lifted(angles, n, depth):
    """Angles of a brickwall that is two layers deeper, for the same states."""
    shallow, deep = checked_shape(n, depth), checked_shape(n, depth + 2)
    first = dict(zip(range(n), angles.T[:n], strict=True))
    columns = [angles.new_zeros(len(angles))] * n
    for last, qubits in zip((False, True), deep.rotated[1:3], strict=True):
        for qubit in qubits:  # as late as there is a rotation of this qubit
            is_here = last or qubit not in deep.rotated[2]
            columns.append(first[qubit] if is_here else columns[0])
    assert deep.rotated[3:] == shallow.rotated[1:]
    return torch.cat([torch.stack(columns, 1), angles[:, n:]], 1)


@pytest.mark.parametrize("n", [n for n in DEPTHS if n > 1])
def test_deeper_brickwalls_prepare_whatever_others_do(n, generator):
    angles = torch.randn(3, checked_shape(n).num_angles, generator=generator, dtype=torch.float64)
    deep = brickwall(n, DEPTHS[n] + 2)
    for own, other in zip(
        states_of(brickwall(n), angles), states_of(deep, lifted(angles, n, DEPTHS[n])), strict=True
    ):
        np.testing.assert_allclose(other, own, rtol=0, atol=1e-12)


def test_what_follows_on_an_encoder():
    names = [brickwall(4, 2).name]
    while (encoder := make_encoder(names[-1], 4)).fallback is not None:
        names.append(encoder.fallback)
    assert names == ["brickwall:2", "brickwall:4", "brickwall:6", "multiplexor"]
    assert make_encoder("brickwall", 4).fallback == "brickwall:7"
    assert make_encoder("brickwall", 1).fallback == "multiplexor"
    assert make_encoder("brickwall:5", 4) is brickwall(4)
    assert make_encoder("brickwall:7", 4) is brickwall(4, 7)


def test_progress_of_an_encoder(generator):
    told = []
    encoder = brickwall(
        3, cache=AngleCache(), on_progress=lambda done, total: told.append((done, total))
    )
    directions = canonical_directions(gaussian(5, 8, generator))
    encoder.encode(torch.cat([directions, directions[:2]]))
    assert told[-1] == (5, 5)
    told.clear()
    encoder.encode(directions)  # nothing is left to fit
    assert told == []


def test_exact_encoders_have_no_infidelity(generator):
    directions = canonical_directions(gaussian(3, 8, generator))
    encoded = make_encoder("multiplexor", 3).encode(directions)
    assert torch.equal(encoded.angles, make_encoder("multiplexor", 3).angles(directions))
    assert encoded.infidelity.tolist() == [0, 0, 0]
    assert encoded.num_restarted == encoded.num_failed == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: brickwall(8), "takes 1 to 7 qubits, got 8. Use the multiplexor"),
        (lambda: brickwall(0), "takes 1 to 7 qubits, got 0"),
        (lambda: brickwall(3, -1), "depth must be 0 for one qubit and at least 0 for more, got -1"),
        (lambda: brickwall(1, 1), "depth must be 0 for one qubit"),
        (lambda: fit(torch.eye(5), 2), r"at most 4 channels on 2 qubits, got shape \(5, 5\)"),
        (lambda: fit(torch.ones(4), 2), r"got shape \(4,\)"),
        (lambda: fit(torch.tensor([[1.0, 0], [1, 1]]), 2), "direction 1 of 2 has norm 1.41421"),
        (lambda: fit(torch.full((1, 4), torch.nan), 2), "direction 0 of 1 has norm nan"),
        (lambda: fit(torch.eye(4), 2, tolerance=0), "tolerance must be at least 1e-15"),
        (lambda: fit(torch.eye(4), 2, restarts=-1), "restarts must be at least 0"),
        (lambda: fit(torch.eye(4), 2, max_iterations=0), "max_iterations at least 1, got 8 and 0"),
        (
            lambda: fit(torch.eye(4), 2, known=Known(torch.eye(4), torch.zeros(4, 3))),
            r"Expected known angles of shape \(4, 4\).* got \(4, 3\)",
        ),
    ],
)
def test_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_cache_that_does_not_warm(generator, monkeypatch):
    directions = canonical_directions(gaussian(6, 8, generator))
    encoder = brickwall(3, cache=AngleCache(warms=False))
    near = canonical_directions(directions[3:] + 1e-3)
    encoder.encode(near)
    known = []

    def watched_fit(wanted, *args, **options):
        known.append((len(wanted), options["known"]))
        return fit(wanted, *args, **options)

    monkeypatch.setattr("qpc_qiskit.circuits.brickwall.fit", watched_fit)
    first = encoder.encode(directions[:4]).angles
    assert torch.equal(encoder.encode(directions).angles[:4], first)
    assert known == [(4, None), (2, None)]


def test_copies_of_a_cache_begin_empty():
    cache = AngleCache(7, warms=False)
    brickwall(2, cache=cache).encode(torch.eye(4, dtype=torch.float64))
    found = copy.deepcopy(cache)
    assert (len(cache), len(found), found.capacity, found.warms) == (4, 0, 7, False)
