"""Derivatives from rows, against finite differences and the exact engine.

`Rig` evaluates rows with the unitaries of `references.py`, exactly or with shots, so nothing here
depends on an estimator.
"""

import itertools
import math
from functools import cached_property

import numpy as np
import pytest
import torch
from cases import CASES, SMALL_CASES, Case, jacobian_of, vjp_of
from qiskit.circuit import Parameter
from references import X, Y, Z, case_features, gate_matrix, on_qubits
from tiers import thorough

from qpc_qiskit import EstimatorEngine, ExactEngine
from qpc_qiskit.engines import Engine, LayerCall
from qpc_qiskit.rows.gradients import (
    GRADIENTS,
    Shift,
    Spsa,
    Values,
    jacobian,
    make_gradients,
    plan_gradient,
    vector_jacobian,
)
from qpc_qiskit.rows.pubs import merge_directions, unique_pairs

PLAIN = Case(5, 7, 3)
SMALL = [*SMALL_CASES, *(c for c in CASES if c.num_qubits == 4 and c.num_layers == 3)]


class Rig:
    """One layer, its pixels and weights, and what their rows come out as."""

    def __init__(self, case, pixels, weights, is_zero=None):
        self.case, self.spec = case, case.spec()
        self.pixels, self.weights = np.asarray(pixels, float), weights
        if is_zero is None:
            is_zero = np.abs(self.pixels).max(axis=1, initial=0) < np.finfo(float).tiny
        self.is_zero = is_zero
        self.shape = (len(pixels), self.spec.num_kernels, self.spec.num_maps)

    def plan(self, method=Shift(), wrt=(True, True), active=None, rng=None):  # noqa: B008 - frozen
        return plan_gradient(
            self.spec,
            self.pixels,
            self.is_zero,
            self.weights,
            np.ones(self.shape[:2], bool) if active is None else active,
            wrt,
            method=method,
            rng=np.random.default_rng(0) if rng is None else rng,
        )

    def probabilities(self, directions, angles, pairs):
        """(M, 2**n) of the outcomes of rows."""
        states = np.zeros((len(directions), 2**self.spec.num_qubits))
        states[:, : directions.shape[1]] = directions
        used, unitary = np.unique(pairs[:, 1], return_inverse=True)
        unitaries = self.unitaries(angles[used])
        found = np.empty((len(pairs), states.shape[1]))
        for b in range(len(used)):
            rows = unitary == b
            found[rows] = np.abs(states[pairs[rows, 0]] @ unitaries[b].T) ** 2
        return found

    def unitaries(self, angles):
        """(B, 2**n, 2**n) of the ansatz's template, all rows of angles together."""
        n = self.spec.num_qubits
        found = np.broadcast_to(np.eye(2**n, dtype=complex), (len(angles), 2**n, 2**n))
        template = self.spec.ansatz.template
        for instruction in template.data:
            name, params = instruction.operation.name, instruction.operation.params
            qubits = [template.find_bit(q).index for q in instruction.qubits]
            if params and isinstance(params[0], Parameter):
                pauli = on_qubits({qubits[0]: {"rx": X, "ry": Y, "rz": Z}[name]}, n)
                half = angles[:, params[0].index, None, None] / 2
                gate = np.cos(half) * np.eye(2**n) - 1j * np.sin(half) * pauli
            else:
                gate = gate_matrix(name, [float(p) for p in params], qubits, n)
            found = gate @ found
        return found

    @cached_property
    def signs(self):
        """(2**n, n): Z of every qubit for every outcome."""
        n = self.spec.num_qubits
        return 1.0 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)

    def executions(self, plan, dedupe):
        """Distinct rows' probabilities, and which of them each row is."""
        directions, pairs = plan.directions, plan.pairs
        which = np.arange(len(pairs))
        if dedupe and len(pairs):
            kept, stands_for = merge_directions(directions)
            directions = directions[kept]
            pairs = np.stack([stands_for[pairs[:, 0]], pairs[:, 1]], axis=1)
            pairs, which = unique_pairs(pairs)
        return self.probabilities(directions, plan.angles, pairs), which

    def spread(self, probabilities, shots):
        """Standard errors of <Z_q> with shots."""
        evs = probabilities @ self.signs
        return np.sqrt(np.maximum(1 - evs**2, 0) / shots)

    def values(self, plan):
        """Exact values of a plan's rows."""
        probabilities, which = self.executions(plan, dedupe=False)
        evs = probabilities @ self.signs
        return Values(evs, np.zeros_like(evs), which)

    def exact_vjp(self, grad, wrt=(True, True)):
        arrays = (torch.from_numpy(a) for a in (self.pixels, self.weights, grad))
        return [
            None if g is None else g.numpy() for g in vjp_of(ExactEngine(), self.spec, *arrays, wrt)
        ]


def weights_of(case, rng):
    spec = case.spec()
    return rng.uniform(0, 2 * np.pi, (spec.num_kernels, spec.num_weights))


def edge_pixels(channels, rng):
    """Of moderate length: one of each kind for which a formula might fail."""
    random = rng.normal(size=(3, channels))
    one_hot = np.eye(channels)[sorted({0, channels // 2, channels - 1})]
    no_pair = random[:1].copy()
    no_pair[:, :2] = 0  # both channels of a rotation at the leaves of an encoder's tree
    no_upper = random[1:2].copy()
    no_upper[:, channels // 2 :] = 0
    nearly = one_hot[-1:] + 1e-9 * random[:1]
    return np.concatenate(
        [
            random,
            2 * one_hot,
            -0.5 * one_hot,
            no_pair,
            no_upper,
            -random[:1],
            -np.abs(random[1:2]),
            nearly,
            np.full((1, channels), -0.7),
            np.zeros((1, channels)),
            -np.zeros((1, channels)),
        ]
    )


def assert_close(actual, expected, rtol=1e-9):
    """Relative to the largest entry of each pixel's or kernel's gradient."""
    scale = np.abs(expected).reshape(len(expected), -1).max(axis=1, initial=0)
    scale = np.maximum(scale, 1e-3 * scale.max(initial=0)) + 1e-300
    error = np.abs(actual - expected).reshape(len(expected), -1).max(axis=1, initial=0)
    assert (error <= rtol * scale).all(), (error / scale).max()


class TestShift:
    @pytest.mark.parametrize("case", SMALL, ids=str)
    def test_equals_the_exact_engine(self, case, rng):
        rig = Rig(case, edge_pixels(case.in_channels, rng), weights_of(case, rng))
        grad = rng.normal(size=rig.shape)
        plan = rig.plan()
        by_pixels, by_weights = vector_jacobian(plan, rig.values(plan), grad)
        expected = rig.exact_vjp(grad)
        lengths = np.linalg.norm(rig.pixels, axis=1, keepdims=True)
        np.testing.assert_allclose(
            by_pixels[0] * lengths, expected[0] * lengths, rtol=0, atol=1e-12 * np.abs(grad).sum()
        )
        assert_close(by_weights[0], expected[1])
        assert not by_pixels[1].any()
        assert not by_weights[1].any()

    @pytest.mark.parametrize("case", [c for c in SMALL if c.in_channels > 1], ids=str)
    def test_pixel_gradients_are_tangent_whatever_the_values(self, case, rng):
        """A pixel's length changes nothing, so noise along it would be noise for nothing."""
        rig = Rig(case, edge_pixels(case.in_channels, rng), weights_of(case, rng))
        plan = rig.plan(wrt=(True, False))
        noise = rng.normal(size=(len(plan.pairs), case.num_qubits))
        values = Values(noise, np.ones_like(noise), np.arange(len(noise)))
        (found, stds), _ = vector_jacobian(plan, values, rng.normal(size=rig.shape))
        along = (found * rig.pixels).sum(1)
        np.testing.assert_allclose(along, 0, atol=1e-13 * np.abs(noise).sum())
        slopes = np.einsum("ikqc,ic->ikq", jacobian(plan, values)[0], rig.pixels)
        np.testing.assert_allclose(slopes, 0, atol=1e-12)
        assert np.isfinite(stds).all()

    @pytest.mark.parametrize("case", SMALL_CASES, ids=str)
    def test_jacobian_equals_finite_differences(self, case, rng):
        pixels = edge_pixels(case.in_channels, rng)[::2]
        pixels = pixels[np.abs(pixels).any(axis=1)]
        pixels /= np.linalg.norm(pixels, axis=1, keepdims=True)
        rig = Rig(case, pixels, weights_of(case, rng))
        plan = rig.plan()
        found = jacobian(plan, rig.values(plan))
        step = 1e-5
        for i in range(case.in_channels):
            move = step * np.eye(case.in_channels)[i]
            high, low = (case_features(case, pixels + s * move, rig.weights) for s in (1, -1))
            # Truncation is step**2 = 1e-10 times a third derivative, rounding 1e-16/step = 1e-11.
            np.testing.assert_allclose(found[0][..., i], (high - low) / (2 * step), atol=1e-7)
        for j in range(rig.spec.num_weights):
            move = step * np.eye(rig.spec.num_weights)[j]
            high, low = (case_features(case, pixels, rig.weights + s * move) for s in (1, -1))
            np.testing.assert_allclose(found[1][..., j], (high - low) / (2 * step), atol=1e-7)

    @pytest.mark.parametrize("length", [1e-30, 1e30, 1e-160, 1e-300, 3e-308, 1e300, 1e308])
    def test_very_short_and_very_long_pixels(self, length, rng):
        """Derivatives go as 1/|x|, and standard errors with them; squares would overflow."""
        directions = rng.normal(size=(3, 5))
        directions /= np.abs(directions).max(axis=1, keepdims=True)
        weights, found = weights_of(PLAIN, rng), []
        grad = rng.normal(size=(3, 3, 3)) / 10
        for scale in (1.0, length):
            rig = Rig(PLAIN, directions * scale, weights)
            plan = rig.plan()
            values = rig.values(plan)
            values.stds[:] = 0.01
            found.append(vector_jacobian(plan, values, grad))
            slopes = jacobian(plan, values)
            assert np.isfinite(slopes[0]).all()
            summed = np.einsum("ikq,ikqc->ic", grad, slopes[0])
            np.testing.assert_allclose(summed, found[-1][0][0], rtol=1e-9, atol=1e-12 / scale)
        for one, scaled in zip(found[0][0], found[1][0], strict=True):
            np.testing.assert_allclose(scaled * length, one, rtol=1e-6, atol=1e-9)
        for one, scaled in zip(found[0][1], found[1][1], strict=True):
            np.testing.assert_allclose(scaled, one, rtol=1e-9, atol=1e-12)
        assert found[0][0][1].min() > 0

    def test_an_infinite_derivative_is_no_warning(self, rng):
        """Next to the smallest normal number 1/|x| times a large outer gradient overflows."""
        rig = Rig(PLAIN, np.full((1, 5), 3e-308) * [[1, 2, 3, 4, 5]], weights_of(PLAIN, rng))
        plan = rig.plan(wrt=(True, False))
        values = rig.values(plan)
        values.stds[:] = 0.01
        (by_pixels, stds), _ = vector_jacobian(plan, values, np.full(rig.shape, 1e6))
        assert np.isinf(by_pixels).any()
        assert np.isinf(stds).all()

    def test_pixels_that_count_as_zero(self, rng):
        """The caller decides, since it depends on the dtype; directions are then |0...0>."""
        pixels = np.array([[0.0, 0, 0, 0, 0], [0, 1e-40, 0, 0, 0], [0, 0, 5e-324, 0, 0]])
        rig = Rig(PLAIN, pixels, weights_of(PLAIN, rng), is_zero=np.ones(3, bool))
        plan = rig.plan()
        np.testing.assert_array_equal(plan.directions, np.eye(5)[[0, 0, 0]])
        by_pixels, by_weights = vector_jacobian(plan, rig.values(plan), np.ones(rig.shape))
        assert not by_pixels[0].any()
        same = Rig(PLAIN, np.eye(5)[[0, 0, 0]], rig.weights)
        np.testing.assert_allclose(by_weights[0], same.exact_vjp(np.ones(rig.shape))[1], atol=1e-12)

    def test_one_channel_has_no_slope_and_no_noise(self, rng):
        """Whatever the values of the rows: a pixel of one channel is the zero state."""
        case = Case(1, 2, 1)
        rig = Rig(case, [[2.0], [-3.0], [0.0]], weights_of(case, rng))
        plan = rig.plan()
        assert len(plan.pairs) == 3 * 2 * 2 * rig.spec.ansatz.num_angles
        noise = rng.normal(size=(len(plan.pairs), 1))
        values = Values(noise, np.ones_like(noise), np.arange(len(noise)))
        by_pixels, _ = vector_jacobian(plan, values, np.ones(rig.shape))
        assert not by_pixels[0].any()
        assert not by_pixels[1].any()
        assert not jacobian(plan, values)[0].any()

    @pytest.mark.parametrize("wrt", [(True, False), (False, True), (False, False)])
    def test_only_what_is_asked_for(self, wrt, rng):
        rig = Rig(PLAIN, edge_pixels(5, rng), weights_of(PLAIN, rng))
        grad = rng.normal(size=rig.shape)
        plan = rig.plan(wrt=wrt)
        values = rig.values(plan)
        both = rig.plan()
        full = vector_jacobian(both, rig.values(both), grad)
        for found in (vector_jacobian(plan, values, grad), jacobian(plan, values)):
            assert [part is not None for part in found] == list(wrt)
        for asked, part, whole in zip(wrt, vector_jacobian(plan, values, grad), full, strict=True):
            if asked:
                np.testing.assert_allclose(part[0], whole[0], atol=1e-12)
        if not any(wrt):
            assert plan.pairs.shape == (0, 2)

    def test_no_pixels(self, rng):
        rig = Rig(PLAIN, np.zeros((0, 5)), weights_of(PLAIN, rng))
        for method in (Shift(), Spsa(num_samples=2)):
            plan = rig.plan(method)
            assert plan.pairs.shape == (0, 2)
            nothing = np.zeros((0, 3))
            values = Values(nothing, nothing, np.zeros(0, np.intp))
            by_pixels, by_weights = vector_jacobian(plan, values, np.zeros(rig.shape))
            assert by_pixels[0].shape == by_pixels[1].shape == (0, 5)
            assert by_weights[0].shape == by_weights[1].shape == rig.weights.shape
            assert not by_weights[0].any()
            shapes = [found.shape for found in jacobian(plan, values)]
            assert shapes == [(0, 3, 3, 5), (0, 3, 3, rig.spec.num_weights)]


class TestNumberOfRows:
    """At most N*K*(2R + 2C)."""

    @pytest.mark.parametrize("case", [c for c in SMALL if c.in_channels > 1], ids=str)
    def test_exact_where_nothing_is_degenerate(self, case, rng):
        rig = Rig(case, rng.normal(size=(4, case.in_channels)), weights_of(case, rng))
        cells = 4 * rig.spec.num_kernels
        by_weights = 2 * rig.spec.ansatz.num_angles
        by_pixels = 2 * case.in_channels
        for wrt, each in [
            ((True, True), by_weights + by_pixels),
            ((True, False), by_pixels),
            ((False, True), by_weights),
            ((False, False), 0),
        ]:
            plan = rig.plan(wrt=wrt)
            assert len(plan.pairs) == cells * each
            assert len(unique_pairs(plan.pairs)[0]) == cells * each

    @pytest.mark.parametrize(
        ("pixel", "pixel_rows"),
        [
            ([0.3, 0, 0, -1, 0], 10),
            ([0, 0, -7, 0, 0], 8),  # along the pixel the slope is zero
            ([1e-200, 0, 0, 0, 0], 8),
            ([0, 0, 0, 0, 0], 0),
            ([0, 0, 5e-324, 0, 0], 0),
        ],
        ids=str,
    )
    def test_fewer_for_degenerate_pixels(self, pixel, pixel_rows, rng):
        rig = Rig(PLAIN, [pixel], weights_of(PLAIN, rng))
        weight_rows = 2 * rig.spec.ansatz.num_angles
        assert len(rig.plan().pairs) == 3 * (weight_rows + pixel_rows)
        assert len(rig.plan(wrt=(True, False)).pairs) == 3 * pixel_rows

    def test_none_where_the_outer_gradient_is_zero(self, rng):
        rig = Rig(PLAIN, edge_pixels(5, rng), weights_of(PLAIN, rng))
        grad = rng.normal(size=rig.shape)
        active = rng.random(rig.shape[:2]) < 0.3
        grad[~active] = 0
        whole, plan = rig.plan(), rig.plan(active=active)
        assert 0 < len(plan.pairs) < len(whole.pairs)
        for rows in (plan.weight_rows, plan.pixel_rows):
            assert (rows[~active] == -1).all()
        sent = [rows[rows >= 0] for rows in (plan.weight_rows, plan.pixel_rows)]
        assert sorted(np.concatenate(sent)) == list(range(len(plan.pairs)))
        for part, full in zip(
            vector_jacobian(plan, rig.values(plan), grad),
            vector_jacobian(whole, rig.values(whole), grad),
            strict=True,
        ):
            np.testing.assert_allclose(part[0], full[0], atol=1e-11)
        assert len(rig.plan(active=np.zeros_like(active)).pairs) == 0

    @pytest.mark.parametrize("samples", [1, 3])
    def test_of_spsa(self, samples, rng):
        case = Case(19, 12, 5, "strongly_entangling", 2)  # wide enough: no line is drawn twice
        rig = Rig(case, rng.normal(size=(4, 19)), weights_of(case, rng))
        cells, method = 4 * rig.spec.num_kernels, Spsa(num_samples=samples)
        assert len(rig.plan(method).pairs) == cells * 4 * samples
        assert len(rig.plan(method, wrt=(False, True)).pairs) == cells * 2 * samples
        zero = Rig(case, np.zeros((4, 19)), rig.weights)
        assert len(zero.plan(method).pairs) == cells * 2 * samples

    def test_of_the_engine(self, generator):
        """With and without a forward pass before it; equal pixels are run once."""
        spec, grad = PLAIN.spec(), torch.ones(6, 3, 3, dtype=torch.float64)
        pixels = torch.randn(3, 5, generator=generator, dtype=torch.float64)
        pixels = torch.cat([pixels, -2 * pixels])
        weights = torch.rand(3, spec.num_weights, generator=generator, dtype=torch.float64)
        angles = spec.ansatz.num_angles
        for grid, distinct in [(2.0**-20, 3), (None, 6)]:
            engine = EstimatorEngine(dedupe_grid=grid)
            _, residuals = engine.evs_with_residuals(LayerCall(spec, pixels, weights))
            assert engine.last_report.num_executions == distinct * 3
            assert engine.last_report.num_rows == 18
            vjp_of(engine, spec, pixels, weights, grad, residuals=residuals)
            # u + e_i of -x is u - e_i of x, up to sign.
            assert engine.last_report.num_executions == distinct * 3 * (2 * angles + 10)
            assert engine.last_report.num_rows == 18 * (2 * angles + 10)
            vjp_of(engine, spec, pixels, weights, grad)
            assert engine.last_report.num_executions == distinct * 3 * (2 * angles + 10)
            assert engine.total_executions == distinct * 3 * (1 + 4 * angles + 20)


class Signs:
    """A generator that draws every vector of signs once.

    Args:
        first: which of them comes first.
    """

    def __init__(self, first=0):
        self.first = first

    def choice(self, options, size):
        every = np.array(list(itertools.product(options, repeat=size[-1])))
        assert len(every) == size[-2]
        return np.broadcast_to(np.roll(every, -self.first, axis=0), size)


class TestSpsa:
    @pytest.mark.parametrize("case", [Case(3, 5, 2), Case(5, 4, 3, "figure1", 3)], ids=str)
    @pytest.mark.parametrize("step", [0.01, 0.2, 3.0])
    def test_the_mean_over_all_signs_is_the_pixel_gradient(self, case, step, rng):
        rig = Rig(case, edge_pixels(case.in_channels, rng), weights_of(case, rng))
        grad = rng.normal(size=rig.shape)
        method = Spsa(step, 2**case.in_channels)
        plan = rig.plan(method, wrt=(True, False), rng=Signs())
        values = rig.values(plan)
        (by_pixels, _), _ = vector_jacobian(plan, values, grad)
        expected = rig.exact_vjp(grad)[0]
        lengths = np.linalg.norm(rig.pixels, axis=1, keepdims=True)
        np.testing.assert_allclose(by_pixels * lengths, expected * lengths, atol=1e-9)
        lines = 2 ** (case.in_channels - 1)
        assert len(plan.pairs) <= len(rig.pixels) * rig.spec.num_kernels * 2 * lines

    @pytest.mark.parametrize("pixel", [[1, 1, 1], [1, 1, -1], [1, 1, 1 + 1e-9], [1, 1, 0]], ids=str)
    def test_signs_along_the_pixel_hide_no_others(self, pixel, rng):
        """All signs, whichever comes first: those along the pixel have no slope, and no rows."""
        case = Case(3, 5, 2)
        rig = Rig(case, [pixel], weights_of(case, rng))
        grad = rng.normal(size=rig.shape)
        expected = rig.exact_vjp(grad)[0]
        for shift in range(8):
            plan = rig.plan(Spsa(0.2, 8), wrt=(True, False), rng=Signs(shift))
            (found, _), _ = vector_jacobian(plan, rig.values(plan), grad)
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
            assert len(plan.pairs) <= rig.spec.num_kernels * 2 * 4

    def test_two_channels_are_averaged_over_all_signs(self, rng):
        """Both lines are the one tangent, at different steps: neither stands for the other."""
        case = Case(2, 2, 1)
        rig = Rig(case, [[0.6, 0.8], [-1, 1], [1, 0]], weights_of(case, rng))
        grad = rng.normal(size=rig.shape)
        plan = rig.plan(Spsa(0.2, 4), wrt=(True, False), rng=Signs())
        (found, _), _ = vector_jacobian(plan, rig.values(plan), grad)
        np.testing.assert_allclose(found, rig.exact_vjp(grad)[0], atol=1e-12)

    def test_directions_are_at_right_angles_to_the_pixel(self, rng):
        rig = Rig(PLAIN, rng.normal(size=(6, 5)), weights_of(PLAIN, rng))
        plan = rig.plan(Spsa(num_samples=4), wrt=(True, False))
        noise = rng.normal(size=(len(plan.pairs), 3))
        values = Values(noise, np.ones_like(noise), np.arange(len(noise)))
        (found, _), _ = vector_jacobian(plan, values, np.ones(rig.shape))
        slopes = np.einsum("ikqc,ic->ikq", jacobian(plan, values)[0], rig.pixels)
        assert np.abs(found).min(axis=1).max() > 0.1
        np.testing.assert_allclose(slopes, 0, atol=1e-12)
        np.testing.assert_allclose((found * rig.pixels).sum(1), 0, atol=1e-12)

    @pytest.mark.parametrize("case", [Case(2, 2, 1, "user1"), Case(3, 3, 2, "user2")], ids=str)
    def test_the_mean_over_all_signs_is_the_weight_gradient_up_to_step_squared(self, case, rng):
        rig = Rig(case, rng.normal(size=(4, case.in_channels)), weights_of(case, rng))
        grad = rng.normal(size=rig.shape)
        expected, errors = rig.exact_vjp(grad)[1], []
        for step in (0.04, 0.02):
            method = Spsa(step, 2**rig.spec.num_weights)
            plan = rig.plan(method, wrt=(False, True), rng=Signs())
            _, (by_weights, _) = vector_jacobian(plan, rig.values(plan), grad)
            errors.append(np.abs(by_weights - expected).max())
        assert 0 < errors[0] < 0.1 * np.abs(expected).max()
        assert errors[0] / errors[1] == pytest.approx(4, rel=0.05)

    @pytest.mark.parametrize(("samples", "draws"), [(1, 200), (4, 100), *thorough((1, 600))])
    def test_unbiased_over_seeds(self, samples, draws, test_seed, rng):
        """Means are within five standard errors; 4*3 + 3*12 entries: false alarms below 1e-4.

        The step's bias, 1e-8 of third derivatives, is far below them.
        """
        case = Case(3, 5, 2, "figure1", 3)
        rig = Rig(case, rng.normal(size=(4, 3)), weights_of(case, rng))
        grad = rng.normal(size=rig.shape)
        found = [], []
        for draw in range(draws):
            method = Spsa(1e-4, samples)
            plan = rig.plan(method, rng=np.random.default_rng([test_seed, draw]))
            for kept, part in zip(
                found, vector_jacobian(plan, rig.values(plan), grad), strict=True
            ):
                kept.append(part[0])
        for kept, expected in zip(found, rig.exact_vjp(grad), strict=True):
            error = np.std(kept, axis=0, ddof=1) / math.sqrt(len(kept))
            assert (np.abs(np.mean(kept, axis=0) - expected) < 5 * error).all()
            # Few samples scatter, so this was no exact gradient in disguise.
            assert (error > 0).all()

    def test_samples_are_averaged(self, test_seed, rng):
        """Four samples scatter half as much as one: variances to five standard errors.

        Variances of 200 draws have standard errors of at most 10 %, and their ratio 14 %; they are
        summed over 16 entries. The bounds are five of these (false alarms below 1e-5).
        """
        case = Case(8, 3, 3, "figure1", 1)
        rig = Rig(case, rng.normal(size=(2, 8)), weights_of(case, rng))
        variances = []
        for samples in (1, 4):
            found = []
            for draw in range(200):
                generator = np.random.default_rng([test_seed, samples, draw])
                plan = rig.plan(Spsa(0.2, samples), (True, False), rng=generator)
                found.append(vector_jacobian(plan, rig.values(plan), np.ones(rig.shape))[0][0])
            variances.append(np.var(found, axis=0).sum())
        assert 4 / 1.8 < variances[0] / variances[1] < 4 * 1.8

    def test_jacobian_and_vjp_of_one_plan_agree(self, rng):
        rig = Rig(PLAIN, edge_pixels(5, rng), weights_of(PLAIN, rng))
        grad = rng.normal(size=rig.shape)
        for method in (Spsa(0.3, 3), Shift()):
            plan = rig.plan(method)
            values = rig.values(plan)
            by_pixels, by_weights = vector_jacobian(plan, values, grad)
            full = jacobian(plan, values)
            np.testing.assert_allclose(
                by_pixels[0], np.einsum("ikq,ikqc->ic", grad, full[0]), atol=1e-10
            )
            np.testing.assert_allclose(
                by_weights[0], np.einsum("ikq,ikqp->kp", grad, full[1]), atol=1e-10
            )

    def test_seeded(self, generator):
        spec, grad = PLAIN.spec(), torch.ones(2, 3, 3, dtype=torch.float64)
        pixels = torch.randn(2, 5, generator=generator, dtype=torch.float64)
        weights = torch.rand(3, spec.num_weights, generator=generator, dtype=torch.float64)
        engines = [EstimatorEngine(gradients="spsa", seed=seed) for seed in (3, 3, 4)]
        first, same, other = (vjp_of(e, spec, pixels, weights, grad)[1] for e in engines)
        assert torch.equal(first, same)
        assert not torch.equal(first, other)
        again = vjp_of(engines[0], spec, pixels, weights, grad)[1]
        assert not torch.equal(first, again)


STD_CASES = {
    "one-qubit": Case(2, 3, 1, "circuit_centric", 2),
    "own": Case(2, 2, 1, "user1"),
    "two-qubits": Case(3, 3, 2, "user2"),
    "three-qubits": Case(5, 4, 3, "figure1", 2),
}
METHODS = {"shift": Shift(), "spsa": Spsa(0.3), "spsa8": Spsa(0.3, 8)}


class TestStandardErrors:
    """Predicted standard errors against the scatter of many repetitions with shots."""

    reps = 500
    shots = 64
    margin = 5 / math.sqrt(2 * reps)
    """Five standard errors of an empirical standard deviation, relative. At most 100 entries a
    test: false alarms below 1e-4."""

    def scatter(self, rig, plan, grad, rng, *, dedupe):
        """Predicted and empirical standard errors of (pixels, weights)."""
        probabilities, which = rig.executions(plan, dedupe)
        stds = rig.spread(probabilities, self.shots)[which]
        found = [], []
        for _ in range(self.reps):
            drawn = rng.multinomial(self.shots, probabilities / probabilities.sum(1)[:, None])
            evs = (drawn / self.shots @ rig.signs)[which]
            parts = vector_jacobian(plan, Values(evs, stds, which), grad)
            for kept, part in zip(found, parts, strict=True):
                kept.append(part[0])
        return [part[1] for part in parts], [np.std(kept, axis=0, ddof=1) for kept in found]

    def rig(self, case, rng, copies=3):
        """Several copies of each pixel, up to sign and length: they share executions."""
        pixels = rng.normal(size=(2, case.in_channels))
        scales = np.resize([1.0, -1.0, 2.5], copies)
        return Rig(case, np.concatenate([s * pixels for s in scales]), weights_of(case, rng))

    @pytest.mark.parametrize(
        ("name", "method", "dedupe"),
        [
            ("one-qubit", "shift", True),
            ("one-qubit", "spsa", False),
            ("one-qubit", "spsa8", True),
            ("own", "shift", False),
            ("own", "spsa", True),
            ("own", "spsa8", False),
        ],
    )
    def test_one_qubit_is_predicted_closely(self, name, method, dedupe, rng):
        """One value a row: nothing is correlated but what was run once."""
        rig = self.rig(STD_CASES[name], rng)
        grad = rng.normal(size=rig.shape)
        plan = rig.plan(METHODS[method])
        predicted, empirical = self.scatter(rig, plan, grad, rng, dedupe=dedupe)
        for expected, found in zip(predicted, empirical, strict=True):
            assert (expected > 0).all()
            assert (np.abs(found / expected - 1) < self.margin).all()

    @pytest.mark.parametrize(
        ("name", "method", "dedupe"),
        [
            ("two-qubits", "shift", False),
            ("two-qubits", "spsa", True),
            ("two-qubits", "spsa8", False),
            ("three-qubits", "shift", True),
            ("three-qubits", "spsa", False),
            ("three-qubits", "spsa8", True),
        ],
    )
    def test_more_qubits_have_an_upper_bound(self, name, method, dedupe, rng):
        rig = self.rig(STD_CASES[name], rng)
        grad = rng.normal(size=rig.shape)
        plan = rig.plan(METHODS[method])
        predicted, empirical = self.scatter(rig, plan, grad, rng, dedupe=dedupe)
        qubits = rig.spec.num_qubits
        for bound, found in zip(predicted, empirical, strict=True):
            assert (bound >= found / (1 + self.margin)).all()
            # Of n uncorrelated values the bound is at most sqrt(n) too large; some are correlated
            # negatively.
            assert np.median(bound / found) < 1.5 * math.sqrt(qubits)

    def test_merged_executions_add_before_squaring(self, rng):
        """Nine copies of a pixel in one execution are no nine independent ones."""
        case = STD_CASES["one-qubit"]
        rig = self.rig(case, rng, copies=9)
        plan, grad = rig.plan(wrt=(False, True)), np.ones(rig.shape)
        stds = []
        for dedupe in (True, False):
            probabilities, which = rig.executions(plan, dedupe)
            spread = rig.spread(probabilities, self.shots)[which]
            evs = (probabilities @ rig.signs)[which]
            stds.append(vector_jacobian(plan, Values(evs, spread, which), grad)[1][1])
        np.testing.assert_allclose(stds[0], 3 * stds[1], rtol=1e-9)
        # Copies with opposite outer gradients cancel.
        grad[::2], grad[1::2] = 0, 0
        grad[0], grad[2] = 1, -1
        probabilities, which = rig.executions(plan, dedupe=True)
        values = Values((probabilities @ rig.signs)[which], np.ones((len(which), 1)), which)
        _, (by_weights, std) = vector_jacobian(plan, values, grad)
        np.testing.assert_allclose(by_weights, 0, atol=1e-12)
        np.testing.assert_allclose(std, 0, atol=1e-12)

    def test_by_hand(self):
        """RX(0) of the pixel (3, 4): <Z> = -0.28, d/dx = 2 x1 x2 (x2, -x1)/|x|**4 and a sign."""
        case = Case(2, 1, 1, "figure1", 1)
        rig = Rig(case, [[3.0, 4.0]], np.zeros((1, 2)))
        plan = rig.plan(wrt=(True, False))
        values = rig.values(plan)
        values.stds[:] = 0.1
        (by_pixels, stds), _ = vector_jacobian(plan, values, np.full((1, 1, 1), 2.0))
        np.testing.assert_allclose(by_pixels, [[2 * 0.1536 * 2, -2 * 0.1152 * 2]])
        # Slopes vary by 0.2**2 * ((1 + u)**2 + (1 - u)**2); then the tangent (0.8, -0.6) and 1/5.
        spread = [0.04 * (2 + 2 * u * u) for u in (0.6, 0.8)]
        along = math.sqrt(spread[0] * 0.8**2 + spread[1] * 0.6**2) / 5
        expected = [[0.8 * along, 0.6 * along]]
        np.testing.assert_allclose(stds, expected, rtol=1e-12)

    def test_unknown_ones_are_unknown(self, rng):
        rig = Rig(PLAIN, rng.normal(size=(3, 5)), weights_of(PLAIN, rng))
        plan = rig.plan()
        values = rig.values(plan)
        grad = rng.normal(size=rig.shape)
        expected = vector_jacobian(plan, values, grad)
        values.stds[:] = np.nan
        for found, sure in zip(vector_jacobian(plan, values, grad), expected, strict=True):
            np.testing.assert_array_equal(found[0], sure[0])
            assert np.isnan(found[1]).all()

    @pytest.mark.parametrize("grid", [2.0**-20, None], ids=["dedupe", "every"])
    def test_of_the_engine(self, grid, generator):
        """End to end on Aer with 100 shots, 60 times; five standard errors as above.

        Three equal pixels, taken for independent or not, are a factor of 1.7.
        """
        case = STD_CASES["own"]
        spec = case.spec()
        pixels = torch.randn(1, 2, generator=generator, dtype=torch.float64)
        pixels = torch.cat([pixels, pixels, -pixels])
        weights = 6 * torch.rand(2, spec.num_weights, generator=generator, dtype=torch.float64)
        grad = torch.randn(3, 2, 1, generator=generator, dtype=torch.float64)
        engine = EstimatorEngine(shots=100, seed=5, dedupe_grid=grid)
        found, predicted = ([], []), ([], [])
        reps = 60
        for _ in range(reps):
            parts = vjp_of(engine, spec, pixels, weights, grad)
            for i, part in enumerate(parts):
                found[i].append(part.numpy())
                predicted[i].append(engine.last_report.stds[i].numpy() ** 2)
        exact = vjp_of(ExactEngine(), spec, pixels, weights, grad)
        for got, told, truth in zip(found, predicted, exact, strict=True):
            expected = np.sqrt(np.mean(told, axis=0))
            ratio = np.std(got, axis=0, ddof=1) / expected
            # A variance from 100 shots is 1 % too small, and 4 values of 100 shots may all agree.
            assert (np.abs(ratio - 1) < 5 / math.sqrt(2 * reps) + 0.02).all()
            error = np.abs(np.mean(got, axis=0) - truth.numpy())
            assert (error < 5 * expected / math.sqrt(reps)).all()


class TestEngineJacobian:
    @pytest.mark.parametrize(
        "case", [Case(3, 5, 2), Case(1, 2, 1), Case(3, 3, 2, "user2")], ids=str
    )
    @pytest.mark.parametrize(
        ("dtype", "wrt"),
        [
            (torch.float32, (True, True)),
            (torch.float64, (True, False)),
            (torch.float32, (False, True)),
            (torch.float64, (False, False)),
        ],
    )
    def test_equals_the_default_of_the_base_class(self, case, dtype, wrt, generator):
        spec, engine = case.spec(), EstimatorEngine()
        pixels = torch.randn(3, case.in_channels, generator=generator, dtype=dtype)
        pixels[1] = 0
        weights = torch.rand(spec.num_kernels, spec.num_weights, generator=generator, dtype=dtype)
        found = jacobian_of(engine, spec, pixels, weights, wrt)
        assert engine.last_report.what == "jacobian"
        expected = Engine.jacobian(engine, LayerCall(spec, pixels, weights), wrt)
        for asked, ours, default in zip(wrt, found, expected, strict=True):
            if asked:
                assert ours.dtype == dtype
                torch.testing.assert_close(ours, default, rtol=0, atol=1e-6)
            else:
                assert ours is None
                assert default is None

    def test_costs_as_much_as_one_vjp(self, generator):
        spec, engine = PLAIN.spec(), EstimatorEngine()
        pixels = torch.randn(2, 5, generator=generator, dtype=torch.float64)
        weights = torch.rand(3, spec.num_weights, generator=generator, dtype=torch.float64)
        jacobian_of(engine, spec, pixels, weights)
        rows = 2 * 3 * (2 * spec.ansatz.num_angles + 2 * 5)
        assert engine.last_report.num_executions == rows


class TestMethods:
    def test_by_name(self):
        assert {name: type(make_gradients(name)) for name in GRADIENTS} == {
            "shift": Shift,
            "spsa": Spsa,
        }
        method = Spsa(0.1, 3)
        assert make_gradients(method) is method

    def test_unknown_name(self):
        with pytest.raises(
            ValueError, match=r"Unknown gradients 'adjoint'; expected .*shift, spsa"
        ):
            make_gradients("adjoint")

    @pytest.mark.parametrize("step", [0, -1.0, math.nan, math.inf])
    def test_bad_step(self, step):
        with pytest.raises(ValueError, match="step must be a positive number of radians"):
            Spsa(step)

    def test_bad_number_of_samples(self):
        with pytest.raises(ValueError, match="num_samples must be at least 1, got 0"):
            Spsa(num_samples=0)
