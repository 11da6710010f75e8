"""Reference rows, and lines through what was measured on them."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from cases import SMALL_CASES, evs_of
from qiskit.quantum_info import Operator, Statevector, random_unitary
from qiskit_aer.noise import NoiseModel, ReadoutError, depolarizing_error
from references import z_matrices

from qpc_qiskit import ExactEngine
from qpc_qiskit.backends.aer import AerEstimator
from qpc_qiskit.circuits.ansatz import make_ansatz
from qpc_qiskit.circuits.directions import canonical_directions
from qpc_qiskit.circuits.encoder import make_encoder
from qpc_qiskit.circuits.observables import pauli_z
from qpc_qiskit.circuits.spec import LayerSpec
from qpc_qiskit.circuits.unitary import unitaries
from qpc_qiskit.options.engine import precision_of
from qpc_qiskit.rows.pubs import make_pub, make_template
from qpc_qiskit.rows.references import (
    Calibration,
    apply,
    bad_patches,
    calibrate,
    fit_scale,
    reference_directions,
)


def random_unitaries(num_kernels, n, rng):
    return np.stack([random_unitary(2**n, seed=rng).data for _ in range(num_kernels)])


def unit_vectors(count, n, rng):
    vectors = rng.normal(size=(count, 2**n))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def values(unitary, directions, q):
    """<Z_q>, (M,), by whole matrices."""
    n = round(math.log2(len(unitary)))
    form = unitary.conj().T @ z_matrices(n)[q] @ unitary
    return np.einsum("mi,ij,mj->m", directions, form, directions).real


class TestReferenceDirections:
    @pytest.mark.parametrize(
        ("num_kernels", "n"), [(1, 1), (3, 1), (1, 2), (2, 3), (5, 3), (11, 4)]
    )
    def test_extremal(self, num_kernels, n, rng):
        kernels = random_unitaries(num_kernels, n, rng)
        count = 2 * n + 3
        references = reference_directions(kernels, count)
        others = unit_vectors(300, n, rng)
        for r in range(count):
            q, sign = r % (2 * n) // 2, (1, -1)[r % 2]
            unitary = kernels[references.kernels[r]]
            found = sign * references.exact[r, q]
            form = unitary.conj().T @ z_matrices(n)[q] @ unitary
            assert found == pytest.approx(np.linalg.eigvalsh(sign * form.real)[-1], abs=1e-9)
            assert found >= (sign * values(unitary, others, q)).max() - 1e-9

    @pytest.mark.parametrize(("num_kernels", "n"), [(1, 1), (2, 3), (5, 2)])
    def test_exact_features_are_qiskits(self, num_kernels, n, rng):
        kernels = random_unitaries(num_kernels, n, rng)
        references = reference_directions(kernels, 4 * n)
        assert len(references) == 4 * n
        assert references.exact.shape == (4 * n, n)
        for direction, k, exact in zip(
            references.directions, references.kernels, references.exact, strict=True
        ):
            state = Statevector(direction).evolve(Operator(kernels[k]))
            found = [state.expectation_value(z).real for z in pauli_z(n)]
            np.testing.assert_allclose(found, exact, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("case", [c for c in SMALL_CASES if c.num_qubits > 1], ids=str)
    def test_exact_features_are_the_exact_engines(self, case, rng):
        """Through the layer's own unitaries; the engine encodes up to 2**n channels."""
        ansatz, n = case.spec().ansatz, case.num_qubits
        weights = torch.from_numpy(rng.uniform(-7, 7, (3, ansatz.num_weights)))
        references = reference_directions(unitaries(ansatz, weights).numpy(), 3 * n)
        spec = LayerSpec(2**n, n, 3, ansatz)
        directions = torch.from_numpy(references.directions)
        evs = evs_of(ExactEngine(), spec, directions, weights).numpy()
        found = evs[np.arange(len(references)), references.kernels]
        np.testing.assert_allclose(found, references.exact, rtol=0, atol=1e-12)
        torch.testing.assert_close(canonical_directions(directions), directions, rtol=0, atol=5e-15)

    @pytest.mark.parametrize("n", [1, 2, 3])
    @pytest.mark.parametrize("num_kernels", range(1, 9))
    def test_all_kernels_and_all_pairs(self, num_kernels, n, rng):
        """Every pair of kernel and extreme once, before any comes twice."""
        kernels = random_unitaries(num_kernels, n, rng)
        everything = 2 * n * num_kernels
        references = reference_directions(kernels, 2 * everything)
        pairs = [(r % (2 * n), int(k)) for r, k in enumerate(references.kernels)]
        assert len(set(pairs[:everything])) == everything
        assert pairs[:everything] == pairs[everything:]
        assert len(set(references.kernels[: max(2 * n, num_kernels)])) == num_kernels
        few = reference_directions(kernels, 2 * n)
        np.testing.assert_allclose(
            few.directions, references.directions[: 2 * n], rtol=0, atol=1e-9
        )

    def test_a_feature_without_any_span(self):
        """Y-like forms vanish on real vectors: no span, yet no failure."""
        sqrt_half = math.sqrt(0.5)
        to_y = sqrt_half * np.array([[1, -1j], [1, 1j]])  # Z becomes Y
        references = reference_directions(to_y[None], 2)
        np.testing.assert_allclose(references.exact, 0, atol=1e-13)

    def test_a_common_phase_or_another_solver_changes_nothing(self, rng):
        kernels = random_unitaries(3, 3, rng)
        first = reference_directions(kernels, 12)
        again = reference_directions(kernels.copy(), 12)
        np.testing.assert_array_equal(first.directions, again.directions)
        noise = 1e-13 * rng.normal(size=kernels.shape)
        moved = reference_directions(kernels * np.exp(0.3j) + noise, 12)
        np.testing.assert_allclose(moved.directions, first.directions, rtol=0, atol=1e-9)

    @pytest.mark.parametrize("n", [1, 2, 3])
    def test_equal_eigenvalues(self, n, rng):
        """Of the identity all are 1 or -1: basis states, whatever rounding makes of them."""
        for _ in range(5):
            noise = 1e-12 * rng.normal(size=(1, 2**n, 2**n))
            references = reference_directions(np.eye(2**n)[None] + noise, 2 * n)
            chosen = [0 if r % 2 == 0 else 1 << r // 2 for r in range(2 * n)]
            np.testing.assert_allclose(
                references.directions, np.eye(2**n)[chosen], rtol=0, atol=1e-6
            )

    def test_refusals(self, rng):
        kernels = random_unitaries(2, 2, rng)
        with pytest.raises(ValueError, match=r"3 references are too few for 2 qubits.*at least 4"):
            reference_directions(kernels, 3)
        for wrong in (kernels[0], kernels[:, :3, :3], kernels[:, :, :2], kernels[:0], np.eye(1)):
            with pytest.raises(ValueError, match="Expected unitaries of shape"):
                reference_directions(wrong, 8)


class TestFitScale:
    def test_a_line_without_errors(self):
        exact = np.array([-0.8, 0.1, 0.9])
        line = fit_scale(exact, 0.7 * exact + 0.05, np.array([0.1, 0.2, 0.1]))
        assert line.scale == pytest.approx(0.7, abs=1e-14)
        assert line.offset == pytest.approx(0.05, abs=1e-14)
        assert line.chi2 == pytest.approx(0, abs=1e-20)
        assert line.rms == pytest.approx(0, abs=1e-14)
        assert (line.num, line.span) == (3, pytest.approx(1.7))

    def test_against_numpy(self, rng):
        exact, measured = rng.uniform(-1, 1, 9), rng.uniform(-1, 1, 9)
        stds = rng.uniform(0.02, 0.3, 9)
        line = fit_scale(exact, measured, stds)
        coefficients, covariance = np.polyfit(exact, measured, 1, w=1 / stds, cov="unscaled")
        np.testing.assert_allclose([line.scale, line.offset], coefficients)
        np.testing.assert_allclose(line.covariance, covariance)
        residuals = (measured - np.polyval(coefficients, exact)) / stds
        assert line.chi2 == pytest.approx(residuals @ residuals)

    @pytest.mark.parametrize("unknown", [0.0, np.nan, np.inf, -1.0])
    def test_unknown_errors_come_from_the_residuals(self, unknown, rng):
        exact, measured = rng.uniform(-1, 1, 9), rng.uniform(-1, 1, 9)
        stds = np.full(9, 0.1)
        stds[4] = unknown
        line = fit_scale(exact, measured, stds)
        coefficients, covariance = np.polyfit(exact, measured, 1, cov=True)
        np.testing.assert_allclose([line.scale, line.offset], coefficients)
        np.testing.assert_allclose(line.covariance, covariance)
        assert math.isnan(line.chi2)

    def test_two_points(self):
        exact, measured = np.array([-1.0, 1.0]), np.array([-0.5, 0.7])
        line = fit_scale(exact, measured, np.array([0.1, 0.1]))
        assert (line.scale, line.offset) == (pytest.approx(0.6), pytest.approx(0.1))
        assert np.isfinite(line.covariance).all()
        unknown = fit_scale(exact, measured, np.zeros(2))
        assert unknown.scale == pytest.approx(0.6)
        assert np.isnan(unknown.covariance).all()

    @pytest.mark.parametrize("exact", [[], [0.3], [0.3, 0.3, 0.3]])
    def test_no_line(self, exact):
        exact = np.array(exact)
        line = fit_scale(exact, exact, np.full(len(exact), 0.1))
        assert math.isnan(line.scale)
        assert np.isnan(line.covariance).all()
        assert (line.num, line.span) == (len(exact), 0)

    def test_pulls_are_standard_normal(self, rng):
        """(found - true) / error over many trials; bounds of 5 standard errors, 6 of them."""
        trials, true = 4000, np.array([0.6, -0.1])
        exact = rng.uniform(-1, 1, 8)
        stds = rng.uniform(0.01, 0.05, 8)
        pulls, chi2 = [], []
        for _ in range(trials):
            line = fit_scale(exact, true[0] * exact + true[1] + stds * rng.normal(size=8), stds)
            errors = np.sqrt(line.covariance.diagonal())
            pulls.append(([line.scale, line.offset] - true) / errors)
            chi2.append(line.chi2)
        pulls = np.array(pulls)
        assert (np.abs(pulls.mean(axis=0)) < 5 / math.sqrt(trials)).all()
        assert (np.abs(pulls.std(axis=0) - 1) < 5 / math.sqrt(2 * trials)).all()
        correlation = line.covariance[0, 1] / np.prod(errors)
        assert abs((pulls[:, 0] * pulls[:, 1]).mean() - correlation) < 5 * math.sqrt(2 / trials)
        assert abs(np.mean(chi2) - 6) < 5 * math.sqrt(12 / trials)  # 8 points less 2

    def test_an_outlier_shows_in_chi2(self):
        exact = np.linspace(-1, 1, 10)
        measured = 0.8 * exact
        measured[3] += 0.3
        assert fit_scale(exact, measured, np.full(10, 0.02)).chi2 > 100


def measured_lines(exact, scale, offset, patches, shots, rng):
    """Values of lines with shot noise, and the standard errors a backend would tell."""
    means = scale[patches] * exact + offset[patches]
    evs = 2 * rng.binomial(shots, (1 + means) / 2) / shots - 1
    return evs, np.sqrt((1 - evs**2) / shots)


SCALE = np.array([[0.9, 0.85], [0.7, 0.8], [0.8, 0.6]])
OFFSET = np.array([[0.02, -0.03], [0.05, 0.0], [-0.04, 0.1]])


def lines_of(num_references, shots, rng, scale=SCALE, offset=OFFSET):
    """A calibration of three patches, every reference on every patch."""
    exact = np.tile(rng.uniform(-1, 1, (num_references, 2)), (len(scale), 1))
    exact[::num_references] = [0.9, -0.95]
    exact[1::num_references] = [-0.9, 0.95]
    patches = np.repeat(np.arange(len(scale)), num_references)
    evs, stds = measured_lines(exact, scale, offset, patches, shots, rng)
    return calibrate(exact, evs, stds, patches)


class TestCalibration:
    def test_known_lines(self, rng):
        calibration = lines_of(8, 10**6, rng)
        assert calibration.is_calibrated.all()
        pulls = (calibration.scale - SCALE) / calibration.scale_stds
        assert (np.abs(pulls) < 5).all()
        assert (np.abs(calibration.offset - OFFSET) < 0.01).all()
        assert (calibration.span >= 1.8).all()
        assert (calibration.chi2 < 5).all()
        assert not bad_patches(calibration)

    def test_chi2_is_per_degree_of_freedom(self, rng):
        exact, measured = rng.uniform(-1, 1, (5, 1)), rng.uniform(-1, 1, (5, 1))
        stds, patch = np.full((5, 1), 0.1), np.zeros(5, np.intp)
        line = fit_scale(exact[:, 0], measured[:, 0], stds[:, 0])
        calibration = calibrate(exact, measured, stds, patch)
        assert calibration.chi2.item() == pytest.approx(line.chi2 / 3)
        assert calibration.rms.item() == pytest.approx(line.rms)
        two = calibrate(exact[:2], measured[:2], stds[:2], patch[:2])
        assert np.isnan(two.chi2).all()

    def test_apply_inverts_a_line(self, rng):
        calibration = lines_of(8, 10**12, rng)
        exact, patches = rng.uniform(-1, 1, (50, 2)), rng.integers(0, 3, 50)
        measured = SCALE[patches] * exact + OFFSET[patches]
        before = measured.copy()
        found, stds = apply(calibration, measured, np.full((50, 2), 0.01), patches)
        np.testing.assert_allclose(found, exact, rtol=0, atol=1e-4)
        np.testing.assert_allclose(stds, 0.01 / SCALE[patches], rtol=1e-4)
        np.testing.assert_array_equal(measured, before)

    @pytest.mark.slow
    def test_errors_in_a_monte_carlo(self, rng):
        """Shot noise of references and of rows; bounds of 5 standard errors, and 3 % for what
        the standard errors lack: they are themselves measured, and of first order."""
        trials, shots = 3000, 2000
        exact, patches = np.array([[0.9, -0.8], [0.1, 0.0], [-1.0, 0.5]]), np.array([0, 2, 1])
        found, stds = np.empty((trials, 3, 2)), np.empty((trials, 3, 2))
        for t in range(trials):
            calibration = lines_of(4, shots, rng)
            evs, errors = measured_lines(exact, SCALE, OFFSET, patches, shots, rng)
            found[t], stds[t] = apply(calibration, evs, errors, patches)
        pulls = (found - exact) / stds
        assert (np.abs(pulls.mean(axis=0)) < 5 / math.sqrt(trials) + 0.03).all()
        assert (np.abs(pulls.std(axis=0) - 1) < 5 / math.sqrt(2 * trials) + 0.03).all()

    def test_error_formula(self):
        """Against differences: d/d(scale), d/d(offset), d/d(value)."""
        exact = np.array([[-0.9], [0.2], [0.8]])
        errors = np.array([[0.05], [0.08], [0.03]])
        measured = 0.6 * exact + 0.1 + np.array([[0.01], [-0.02], [0.015]])
        patch = np.zeros(3, np.intp)
        calibration = calibrate(exact, measured, errors, patch)
        value, error, one = np.array([[0.5]]), np.array([[0.04]]), np.zeros(1, np.intp)
        inputs = np.concatenate([measured, value])
        slopes = []
        for i in range(4):
            ends = []
            for step in (1e-6, -1e-6):
                moved = inputs.copy()
                moved[i] += step
                line = calibrate(exact, moved[:3], errors, patch)
                ends.append(apply(line, moved[3:], error, one)[0].item())
            slopes.append((ends[0] - ends[1]) / 2e-6)
        expected = np.linalg.norm(np.array(slopes) * np.concatenate([errors, error])[:, 0])
        _, stds = apply(calibration, value, error, one)
        assert stds.item() == pytest.approx(expected, rel=1e-6)

    def test_not_calibrated_stays_as_measured(self, rng):
        """A span below 0.5, a scale below 0.1 or of no significance, a patch without rows."""
        exact = np.tile(np.linspace(-1, 1, 6)[:, None], (3, 3))
        exact[:, 1] *= 0.24
        patches = np.repeat([0, 1, 3], 6)
        stds = np.full((18, 3), 0.01)
        measured = 0.8 * exact + 0.1
        measured[6:12, 0] = 0.09 * exact[6:12, 0]
        stds[6:12, 2] = 1.0
        calibration = calibrate(exact, measured, stds, patches, num_patches=5)
        expected = [
            [True, False, True],
            [False, False, False],
            [False, False, False],
            [True, False, True],
            [False, False, False],
        ]
        np.testing.assert_array_equal(calibration.is_calibrated, expected)
        assert np.isnan(calibration.scale[2]).all()
        values, errors = rng.uniform(-1, 1, (10, 3)), rng.uniform(0, 0.1, (10, 3))
        rows = np.arange(10) % 5
        found, stds = apply(calibration, values, errors, rows)
        same = ~calibration.is_calibrated[rows]
        np.testing.assert_array_equal(found[same], values[same])
        np.testing.assert_allclose(stds[same], errors[same], rtol=1e-13)
        np.testing.assert_allclose(found[~same], (values[~same] - 0.1) / 0.8, atol=1e-12)

    def test_a_negative_scale_is_not_used(self):
        exact = np.linspace(-1, 1, 6)[:, None]
        patches = np.zeros(6, np.intp)
        calibration = calibrate(exact, -0.8 * exact, np.full((6, 1), 0.01), patches)
        assert not calibration.is_calibrated.any()
        assert "scale -0.800" in bad_patches(calibration)[0]

    def test_values_are_not_clipped(self):
        exact = np.linspace(-1, 1, 6)[:, None]
        patches = np.zeros(6, np.intp)
        calibration = calibrate(exact, 0.5 * exact, np.full((6, 1), 0.01), patches)
        found, _ = apply(calibration, np.array([[0.6]]), np.array([[0.02]]), patches[:1])
        assert found.item() == pytest.approx(1.2)

    def test_unknown_errors(self, rng):
        """NaN in, NaN out, for that value alone; exact values calibrate by their residuals."""
        exact = rng.uniform(-1, 1, (6, 2))
        exact[:2] = [[1, 1], [-1, -1]]
        patches = np.zeros(6, np.intp)
        calibration = calibrate(exact, 0.8 * exact + 0.1, np.zeros((6, 2)), patches)
        assert calibration.is_calibrated.all()
        stds = np.array([[np.nan, 0.08], [0.0, 0.0]])
        found, errors = apply(calibration, np.full((2, 2), 0.5), stds, patches[:2])
        np.testing.assert_allclose(found, 0.5)
        np.testing.assert_allclose(errors, [[np.nan, 0.1], [0, 0]], atol=1e-12)

    def test_no_rows_at_all(self):
        none = np.zeros((0, 2))
        nowhere = np.zeros(0, np.intp)
        assert calibrate(none, none, none, nowhere).scale.shape == (0, 2)
        calibration = calibrate(none, none, none, nowhere, num_patches=2)
        assert not calibration.is_calibrated.any()
        found, stds = apply(calibration, none, none, nowhere)
        assert found.shape == stds.shape == (0, 2)
        assert bad_patches(calibration) == {}


class TestBadPatches:
    def patches(self, change, shots=4000, count=5, rng=None):
        """Good patches, of which number 2 is changed: (exact, values) -> values."""
        scale = np.linspace(0.75, 0.9, 2 * count).reshape(count, 2)
        exact = np.tile(rng.uniform(-1, 1, (8, 2)), (count, 1))
        exact[::8], exact[1::8] = 0.95, -0.95
        rows = np.repeat(np.arange(count), 8)
        means = scale[rows] * exact
        means[rows == 2] = change(exact[rows == 2], means[rows == 2])
        evs = 2 * rng.binomial(shots, (1 + means) / 2) / shots - 1
        return exact, evs, np.sqrt((1 - evs**2) / shots), rows

    def test_none(self, rng):
        for _ in range(20):
            data = self.patches(lambda exact, means: means, shots=200, rng=rng)
            assert bad_patches(calibrate(*data)) == {}

    @pytest.mark.parametrize(
        ("change", "pattern"),
        [
            (
                lambda exact, means: means * [1, 0.3],
                r"Patch 2, qubit 1: scale 0\.2\d\d \+- 0\.0\d\d is below 0.5 of the other patches' "
                r"median 0\.8\d\d\.",
            ),
            (
                lambda exact, means: means * [0, 1],
                r"Patch 2, qubit 0: scale -?0\.0\d\d \+- 0\.0\d\d leaves nothing of the signal\.",
            ),
            (
                lambda exact, means: means * 0,
                r"Patch 2, qubit 0: scale .*; qubit 1: scale .*signal\.",
            ),
            (
                lambda exact, means: np.where(np.arange(16).reshape(8, 2) % 3 == 2, -means, means),
                r"Patch 2, qubit \d: .*residuals of 0\.\d\d\d about the line "
                r"\(standard errors 0\.\d\d\d\)",
            ),
        ],
        ids=["weak", "one-dead", "all-dead", "scattered"],
    )
    def test_one(self, change, pattern, rng):
        calibration = calibrate(*self.patches(change, rng=rng))
        found = bad_patches(calibration)
        assert list(found) == [2]
        assert re.match(pattern, found[2]), found[2]

    def test_scatter_without_known_errors(self, rng):
        def change(exact, means):
            return means + rng.choice([-0.4, 0.4], means.shape)

        exact, evs, stds, rows = self.patches(lambda e, m: m, shots=10**4, rng=rng)
        evs[rows == 2] = change(exact[rows == 2], evs[rows == 2])
        found = bad_patches(calibrate(exact, evs, np.zeros_like(stds), rows))
        assert list(found) == [2]
        assert "other patches' median" in found[2]

    def test_small_systematic_residuals_are_tolerated(self, rng):
        """A million shots make any deviation from a line significant."""
        change = lambda exact, means: means + 0.04 * np.cos(7 * exact)  # noqa: E731
        calibration = calibrate(*self.patches(change, shots=10**6, rng=rng))
        assert calibration.chi2[2].max() > 100
        assert bad_patches(calibration) == {}
        assert list(bad_patches(calibration, min_rms=0.01)) == [2]

    def test_one_patch_is_compared_with_none(self, rng):
        exact, evs, stds, rows = self.patches(lambda exact, means: 0.3 * means, rng=rng)
        only = rows == 2
        calibration = calibrate(exact[only], evs[only], stds[only], np.zeros(8, np.intp))
        assert bad_patches(calibration) == {}
        assert list(bad_patches(calibrate(exact, evs, stds, rows))) == [2]

    @pytest.mark.parametrize(
        ("scales", "std", "bad"),
        [
            ([0.8, 0.8, 0.8], 0.01, []),
            ([0.8, 0.35, 0.8], 0.01, [1]),
            ([0.8, 0.35, 0.8], 0.02, []),  # not by four standard errors
            ([0.8, 0.35], 0.01, [1]),  # of one other patch, not of a median that it is part of
            ([0.8, 0.35], np.nan, [1]),
            ([0.15, 0.15], 0.01, []),  # all alike, and something left
            ([0.05, 0.05], 0.1, []),  # nothing is certain
            ([0.8, 0.02], 0.05, [1]),  # certainly less than half of the other's
            ([0.8, 0.02], 0.1, []),
            ([0.09, 0.09], 0.001, [0, 1]),
            ([0.09, np.nan], 0.001, [0]),
        ],
    )
    def test_scales(self, scales, std, bad):
        scale = np.array(scales)[:, None]
        covariance = np.broadcast_to(std**2 * np.eye(2), (*scale.shape, 2, 2))
        spans = np.where(np.isnan(scale), 0.0, 1.9)
        some = np.ones_like(scale)
        calibration = Calibration(
            scale, 0 * some, covariance, some > 0, some, 0.01 * some, some, spans
        )
        assert list(bad_patches(calibration)) == bad

    @pytest.mark.parametrize(
        ("rms", "noise", "bad"),
        [
            (0.11, 0.034, [1]),
            (0.09, 0.01, []),
            (0.11, 0.036, []),
            (0.11, np.nan, [1]),  # the other's is 0.01
        ],
    )
    def test_residuals(self, rms, noise, bad):
        some = np.ones((2, 1))
        calibration = Calibration(
            some,
            0 * some,
            np.zeros((2, 1, 2, 2)),
            some > 0,
            some,
            np.array([[0.01], [rms]]),
            np.array([[0.01], [noise]]),
            some,
        )
        assert list(bad_patches(calibration)) == bad
        unknown = replace(calibration, span=np.array([[1], [0.4]]))
        assert bad_patches(unknown) == {}

    def test_a_value_near_one_condemns_no_patch(self):
        """Its standard error is next to nothing, and the line bends to it."""
        exact = np.array([0.95, 0.8, -0.95, 0.0, -0.3])[:, None]
        evs = np.array([0.9999, 0.9999, -0.9999, 0.3, -0.1])[:, None]
        stds = np.sqrt((1 - evs**2) / 64)
        calibration = calibrate(exact, evs, stds, np.zeros(5, np.intp))
        assert calibration.chi2[0, 0] > 10
        assert calibration.rms[0, 0] > 0.1
        assert bad_patches(calibration) == {}

    @pytest.mark.parametrize(("shots", "scale"), [(64, 0.3), (32, 0.5), (16, 0.5), (8, 0.7)])
    def test_strong_noise_and_few_shots_condemn_no_patch(self, rng, shots, scale):
        """What is uncertain is no evidence: of 30 alike, in 20 jobs."""
        exact = np.repeat(np.array([[0.95], [-0.95], [0.9], [-0.9], [0.0], [0.3]]), 6, axis=1)
        condemned = 0
        for _ in range(20):
            all_exact = np.tile(exact, (30, 1))
            means = scale * all_exact
            evs = 2 * rng.binomial(shots, (1 + means) / 2) / shots - 1
            stds = np.sqrt((1 - evs**2) / shots)
            rows = np.repeat(np.arange(30), len(exact))
            condemned += len(bad_patches(calibrate(all_exact, evs, stds, rows)))
        assert condemned <= 1

    def test_few_shots_condemn_no_patch(self, rng):
        """At 20 shots a scale of 0.75 is uncertain by 0.2: too weak a case."""
        condemned = sum(
            len(bad_patches(calibrate(*self.patches(lambda e, m: m, shots=20, rng=rng))))
            for _ in range(50)
        )
        assert condemned == 0


def noisy_patch(num_qubits):
    """Depolarizing gates and a readout that errs more often on 1."""
    model = NoiseModel()
    model.add_all_qubit_quantum_error(depolarizing_error(0.02, 2), ["cx", "cz"])
    model.add_all_qubit_quantum_error(depolarizing_error(0.002, 1), ["ry", "rx", "sx"])
    for q in range(num_qubits):
        p, r = 0.01 + 0.01 * q, 0.06 + 0.01 * q
        model.add_readout_error(ReadoutError([[1 - p, p], [r, 1 - r]]), [q])
    return model


@pytest.mark.parametrize(("shots", "factor"), [(None, 20), (4000, 2.5)])
def test_end_to_end(shots, factor, rng):
    """A noisy patch, calibrated by 8 rows, is right on pixels that it has not seen."""
    n, num_kernels, num_pixels = 2, 3, 60
    ansatz, encoder = make_ansatz("strongly_entangling", n, 2), make_encoder("multiplexor", n)
    weights = rng.uniform(0, 2 * np.pi, (num_kernels, ansatz.num_weights))
    matrices = unitaries(ansatz, torch.from_numpy(weights)).numpy()
    references = reference_directions(matrices, 8)
    pixels = unit_vectors(num_pixels, n, rng)
    kernels = np.arange(num_pixels) % num_kernels
    exact = np.array(
        [
            [values(matrices[k], pixel[None], q)[0] for q in range(n)]
            for pixel, k in zip(pixels, kernels, strict=True)
        ]
    )
    directions = torch.from_numpy(np.concatenate([references.directions, pixels]))
    rows = np.hstack(
        [
            encoder.angles(canonical_directions(directions)).numpy(),
            ansatz.angles(weights)[np.concatenate([references.kernels, kernels])],
        ]
    )
    estimator = AerEstimator(noisy_patch(n), seed=int(rng.integers(2**31)))
    precision = 0.0 if shots is None else precision_of(shots)
    data = estimator.run([make_pub(make_template(encoder, ansatz), rows, precision)]).result()[0]
    evs, stds = data.data.evs.T, data.data.stds.T
    patch = np.zeros(len(rows), np.intp)
    calibration = calibrate(references.exact, evs[:8], stds[:8], patch[:8])
    assert calibration.is_calibrated.all()
    found, errors = apply(calibration, evs[8:], stds[8:], patch[8:])
    raw, corrected = np.abs(evs[8:] - exact).mean(), np.abs(found - exact).mean()
    assert raw > 0.03
    assert corrected < raw / factor
    if shots:
        assert (np.abs(found - exact) < 6 * errors).all()
