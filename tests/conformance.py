"""What every engine must do: subclass `EvsConformance`, and `VjpConformance` if it has gradients.

A new engine's test file needs nothing but

    class TestMyEngine(EvsConformance, VjpConformance):
        atol: ClassVar = {torch.float32: 5e-6, torch.float64: 1e-10}

        @pytest.fixture
        def engine(self):
            return MyEngine()

`atol` is the largest error of a value against the references (an engine that computes in float64
whatever the dtype may set the same bound for both; a sampling engine sets five standard errors).
An engine without gradients subclasses `NoGradients` instead of `VjpConformance`.

What is compared with the references is drawn alike for all engines, so that a process works a
reference out once: it is slower than the engines.
"""

from functools import cache
from typing import ClassVar

import numpy as np
import pytest
import torch
from cases import CASES, SMALL_CASES, Case, evs_of, jacobian_of, pixels_of, vjp_of
from references import case_features, case_unitaries, central_differences, features
from tiers import thorough

from qpc_qiskit.engines import Engine, LayerCall
from qpc_qiskit.errors import EngineError

DTYPES = [torch.float32, torch.float64]
PLAIN = Case(5, 7, 3)


def weights_of(case, generator, dtype=torch.float64):
    spec = case.spec()
    shape = (spec.num_kernels, spec.num_weights)
    return (2 * np.pi * torch.rand(shape, generator=generator, dtype=torch.float64)).to(dtype)


def grad_of(case, count, generator, dtype=torch.float64):
    spec = case.spec()
    shape = (count, spec.num_kernels, spec.num_maps)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def drawn(seed, case, dtype, draw):
    """Pixels, which are `draw(case, generator, dtype)`, weights and an outer gradient."""
    generator = torch.Generator().manual_seed(seed)
    pixels = draw(case, generator, dtype)
    weights = weights_of(case, generator, dtype)
    return pixels, weights, grad_of(case, len(pixels), generator, dtype)


def doubles(*tensors):
    return [tensor.double().numpy() for tensor in tensors]


def every_kind(case, generator, dtype):
    return pixels_of(case.in_channels, generator, dtype)


def few_of_every_kind(case, generator, dtype):
    return pixels_of(case.in_channels, generator, dtype, count=3)


def with_zeros(case, generator, dtype):
    """Three of length one; the derivative by a pixel exists at zeros."""
    pixels = torch.randn(3, case.in_channels, generator=generator, dtype=torch.float64)
    pixels = torch.nn.functional.normalize(pixels).to(dtype)
    pixels[1, 0] = 0
    pixels[2] = 0
    pixels[2, -1] = -1
    return pixels


@cache
def reference_values(seed, case, dtype, draw):
    """(N, K, n) of what `drawn` gives for the same arguments."""
    pixels, weights, _ = drawn(seed, case, dtype, draw)
    return case_features(case, *doubles(pixels, weights), torch.finfo(dtype).tiny)


@cache
def reference_slopes_by_weights(seed, case, dtype, draw):
    """(K, P), likewise, by central differences.

    Kernels share no weights, so a step in weight j of all kernels at once, with one product per
    kernel, costs K times fewer evaluations than the plain definition.
    """
    pixels, weights, grad = doubles(*drawn(seed, case, dtype, draw))
    tiny, step = torch.finfo(dtype).tiny, 1e-5
    slopes = np.empty(weights.shape)
    for j in range(weights.shape[1]):
        high, low = weights.copy(), weights.copy()
        high[:, j] += step
        low[:, j] -= step
        slope = case_features(case, pixels, high, tiny) - case_features(case, pixels, low, tiny)
        slopes[:, j] = (slope * grad).sum((0, 2)) / (2 * step)
    return slopes


@cache
def reference_slopes_by_pixels(seed, case, dtype, draw):
    """(N, C), likewise."""
    pixels, weights, grad = doubles(*drawn(seed, case, dtype, draw))
    unitaries = case_unitaries(case, weights)
    return central_differences(lambda p: float((features(unitaries, p) * grad).sum()), pixels)


class EvsConformance:
    """Values."""

    atol: ClassVar[dict[torch.dtype, float]]
    many = 700
    """Pixels that make an engine split its work; fewer for an engine that is slow by nature."""

    def parts(self, tensor):
        """Some pixels at a time, fewer than an engine splits."""
        return tensor.split(max(self.many // 14, 1))

    @pytest.fixture
    def engine(self) -> Engine:
        raise NotImplementedError

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_values_equal_the_reference(self, engine, case, dtype, shared_seed):
        chosen = shared_seed, case, dtype, every_kind
        pixels, weights, _ = drawn(*chosen)
        evs = evs_of(engine, case.spec(), pixels, weights)
        expected = reference_values(*chosen)
        assert evs.dtype == dtype
        assert evs.device == pixels.device
        assert evs.shape == expected.shape
        np.testing.assert_allclose(evs.double().numpy(), expected, rtol=0, atol=self.atol[dtype])

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_no_pixels(self, engine, dtype):
        spec = PLAIN.spec()
        weights = torch.zeros(spec.num_kernels, spec.num_weights, dtype=dtype)
        evs = evs_of(engine, spec, torch.empty(0, 5, dtype=dtype), weights)
        assert evs.shape == (0, spec.num_kernels, spec.num_maps)
        assert evs.dtype == dtype

    def test_a_pixel_that_counts_as_zero_is_the_zero_state(self, engine, generator):
        weights = weights_of(PLAIN, generator, torch.float32)
        pixels = torch.zeros(4, 5, dtype=torch.float32)
        pixels[1] = -0.0
        pixels[2, 3] = 1e-40  # subnormal
        pixels[3, 0] = -7.0
        evs = evs_of(engine, PLAIN.spec(), pixels, weights)
        torch.testing.assert_close(
            evs, evs[-1:].expand_as(evs), rtol=0, atol=self.atol[torch.float32]
        )

    def test_input_is_left_alone(self, engine, generator):
        pixels = pixels_of(5, generator)
        weights = weights_of(PLAIN, generator)
        before = pixels.clone(), weights.clone()
        evs_of(engine, PLAIN.spec(), pixels, weights)
        assert torch.equal(pixels, before[0])
        assert torch.equal(weights, before[1])

    def test_strided_and_tracked_tensors(self, engine, generator):
        """Any strides; tensors that require gradients are read, not followed."""
        spec = PLAIN.spec()
        pixels = pixels_of(5, generator)
        weights = weights_of(PLAIN, generator)
        expected = evs_of(engine, spec, pixels, weights)
        wide = pixels.repeat_interleave(2, 1)[:, ::2].T.contiguous().T.requires_grad_()
        tracked = weights.T.contiguous().T.requires_grad_()
        assert not wide.is_contiguous()
        assert not tracked.is_contiguous()
        evs = evs_of(engine, spec, wide, tracked)
        assert not evs.requires_grad
        torch.testing.assert_close(evs, expected, rtol=0, atol=self.atol[torch.float64])

    def test_pixels_do_not_see_each_other(self, engine, generator):
        spec = PLAIN.spec()
        pixels = pixels_of(5, generator)
        weights = weights_of(PLAIN, generator)
        whole = evs_of(engine, spec, pixels, weights)
        order = torch.randperm(len(pixels), generator=generator)
        permuted = evs_of(engine, spec, pixels[order], weights)
        parts = [
            evs_of(engine, spec, part, weights) for part in pixels.split([1, 7, len(pixels) - 8])
        ]
        atol = self.atol[torch.float64]
        torch.testing.assert_close(permuted, whole[order], rtol=0, atol=atol)
        torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=atol)

    def test_many_pixels(self, engine, generator):
        """Enough for an engine that splits its work, under every grad mode."""
        spec, weights = PLAIN.spec(), weights_of(PLAIN, generator)
        pixels = pixels_of(5, generator, count=self.many)
        few = torch.cat([evs_of(engine, spec, part, weights) for part in self.parts(pixels)])
        atol = self.atol[torch.float64]
        with torch.no_grad():
            torch.testing.assert_close(
                evs_of(engine, spec, pixels, weights), few, rtol=0, atol=atol
            )
        with torch.inference_mode():
            torch.testing.assert_close(
                evs_of(engine, spec, pixels, weights), few, rtol=0, atol=atol
            )
            inside = pixels + 0
            torch.testing.assert_close(
                evs_of(engine, spec, inside, weights), few, rtol=0, atol=atol
            )
        tracked = pixels.clone().requires_grad_()
        torch.testing.assert_close(
            evs_of(engine, spec, tracked, weights.requires_grad_()), few, rtol=0, atol=atol
        )

    def test_one_engine_serves_many_layers(self, engine, generator):
        """Interleaved calls with other shapes and weights leave no trace."""
        other = Case(6, 4, 3, "circuit_centric", 2)
        first, second = weights_of(PLAIN, generator), weights_of(PLAIN, generator)
        pixels = pixels_of(5, generator)
        alone = evs_of(engine, PLAIN.spec(), pixels, first)
        evs_of(engine, other.spec(), pixels_of(6, generator), weights_of(other, generator))
        evs_of(engine, PLAIN.spec(), pixels, second)
        torch.testing.assert_close(
            evs_of(engine, PLAIN.spec(), pixels, first),
            alone,
            rtol=0,
            atol=self.atol[torch.float64],
        )

    def test_after_inference_mode(self, engine, generator):
        """What is cached for an ansatz under inference_mode is good for training afterwards."""
        case = Case(6, 3, 3, "strongly_entangling", 6)  # a shape that no other test uses
        pixels, weights = pixels_of(6, generator), weights_of(case, generator)
        with torch.inference_mode():
            inside = evs_of(engine, case.spec(), pixels, weights)
        torch.testing.assert_close(
            inside.clone(),
            evs_of(engine, case.spec(), pixels, weights),
            rtol=0,
            atol=self.atol[torch.float64],
        )

    def test_report(self, engine, generator):
        spec = PLAIN.spec()
        pixels = pixels_of(5, generator)
        evs_of(engine, spec, pixels, weights_of(PLAIN, generator))
        report = engine.last_report
        assert report.engine == engine.name
        assert report.num_pixels == len(pixels)
        assert report.num_kernels == spec.num_kernels
        # None is executed, or each pixel with each kernel at most once.
        assert 0 <= report.num_executions <= len(pixels) * spec.num_kernels
        assert engine.total_executions == report.num_executions
        assert report.to_dict()["num_executions"] == report.num_executions


class VjpConformance:
    """Vector-Jacobian products. `rtol` is measured against the largest entry of the gradient."""

    rtol: ClassVar = {torch.float32: 2e-5, torch.float64: 1e-6}

    @staticmethod
    def assert_gradient_close(actual, expected, rtol):
        # One that is 0 by cancellation keeps the rounding of terms of the order of 1.
        scale = max(float(np.abs(expected).max()), 0.1)
        np.testing.assert_allclose(actual.double().numpy(), expected, rtol=0, atol=rtol * scale)

    def test_declared(self, engine):
        assert engine.has_gradients

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("case", SMALL_CASES, ids=str)
    def test_by_weights_equals_finite_differences(self, engine, case, dtype, shared_seed):
        chosen = shared_seed, case, dtype, few_of_every_kind
        _, by_weights = vjp_of(engine, case.spec(), *drawn(*chosen))
        assert by_weights.dtype == dtype
        self.assert_gradient_close(
            by_weights, reference_slopes_by_weights(*chosen), self.rtol[dtype]
        )

    pixels_for_slopes = staticmethod(with_zeros)
    """Where the engine's derivative by pixels is the mathematical one."""

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("case", [c for c in SMALL_CASES if c.in_channels > 1], ids=str)
    def test_by_pixels_equals_finite_differences(self, engine, case, dtype, shared_seed):
        chosen = shared_seed, case, dtype, self.pixels_for_slopes
        by_pixels, _ = vjp_of(engine, case.spec(), *drawn(*chosen))
        assert by_pixels.dtype == dtype
        self.assert_gradient_close(by_pixels, reference_slopes_by_pixels(*chosen), self.rtol[dtype])

    def test_gradient_is_orthogonal_to_the_pixel(self, engine, generator):
        """A pixel's length has no effect."""
        for case in (PLAIN, Case(1, 2, 1)):
            pixels = torch.randn(6, case.in_channels, generator=generator, dtype=torch.float64)
            grad = grad_of(case, 6, generator)
            by_pixels, _ = vjp_of(engine, case.spec(), pixels, weights_of(case, generator), grad)
            norms = pixels.norm(dim=1) * by_pixels.norm(dim=1)
            cosines = (pixels * by_pixels).sum(1).abs()
            assert bool((cosines <= 1e-9 * norms + 1e-9).all())
            if case is PLAIN:
                assert float(norms.min()) > 1e-3

    def test_a_scaled_pixel_has_the_inversely_scaled_gradient(self, engine, generator):
        spec, weights = PLAIN.spec(), weights_of(PLAIN, generator)
        pixels = torch.randn(6, 5, generator=generator, dtype=torch.float64)
        grad = grad_of(PLAIN, 6, generator)
        plain = vjp_of(engine, spec, pixels, weights, grad)
        for factor in (-1.0, 1e-30, 3e100, -1e-290):
            scaled = vjp_of(engine, spec, factor * pixels, weights, grad)
            torch.testing.assert_close(scaled[0] * factor, plain[0], rtol=1e-6, atol=1e-7)
            torch.testing.assert_close(scaled[1], plain[1], rtol=1e-6, atol=1e-7)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_a_zero_pixel_has_zero_gradient(self, engine, dtype, generator):
        pixels = torch.randn(4, 5, generator=generator, dtype=torch.float64).to(dtype)
        pixels[0] = 0
        pixels[2] = torch.finfo(dtype).tiny / 4
        weights = weights_of(PLAIN, generator, dtype)
        grad = grad_of(PLAIN, 4, generator, dtype)
        by_pixels, by_weights = vjp_of(engine, PLAIN.spec(), pixels, weights, grad)
        assert torch.equal(by_pixels[::2], torch.zeros(2, 5, dtype=dtype))
        assert bool((by_pixels[1::2] != 0).any(1).all())
        assert bool(by_weights.isfinite().all())

    def test_linear_in_the_outer_gradient(self, engine, generator):
        spec, weights = PLAIN.spec(), weights_of(PLAIN, generator)
        pixels = torch.randn(4, 5, generator=generator, dtype=torch.float64)
        a, b = grad_of(PLAIN, 4, generator), grad_of(PLAIN, 4, generator)
        both = vjp_of(engine, spec, pixels, weights, 2 * a - 3 * b)
        by_a, by_b = (vjp_of(engine, spec, pixels, weights, g) for g in (a, b))
        for i in range(2):
            torch.testing.assert_close(both[i], 2 * by_a[i] - 3 * by_b[i], rtol=1e-7, atol=1e-8)

    def test_many_pixels_have_the_sum_of_the_weight_gradients(self, engine, generator):
        spec, weights = PLAIN.spec(), weights_of(PLAIN, generator)
        pixels = pixels_of(5, generator, count=self.many)
        grad = grad_of(PLAIN, len(pixels), generator)
        whole = vjp_of(engine, spec, pixels, weights, grad)
        parts = [
            vjp_of(engine, spec, p, weights, g)
            for p, g in zip(self.parts(pixels), self.parts(grad), strict=True)
        ]
        torch.testing.assert_close(whole[0], torch.cat([p for p, _ in parts]), rtol=1e-7, atol=1e-8)
        torch.testing.assert_close(whole[1], sum(w for _, w in parts), rtol=1e-7, atol=1e-8)

    @pytest.mark.parametrize("wrt", [(True, False), (False, True), (False, False)])
    def test_only_what_is_asked_for(self, engine, wrt, generator):
        spec, weights = PLAIN.spec(), weights_of(PLAIN, generator)
        pixels = torch.randn(4, 5, generator=generator, dtype=torch.float64)
        grad = grad_of(PLAIN, 4, generator)
        both = vjp_of(engine, spec, pixels, weights, grad)
        some = vjp_of(engine, spec, pixels, weights, grad, wrt)
        for wanted, full, part in zip(wrt, both, some, strict=True):
            if wanted:
                torch.testing.assert_close(part, full, rtol=1e-7, atol=1e-8)
            else:
                assert part is None

    def test_no_pixels_have_zero_weight_gradients(self, engine, generator):
        spec, weights = PLAIN.spec(), weights_of(PLAIN, generator)
        empty = torch.empty(0, 5, dtype=torch.float64)
        by_pixels, by_weights = vjp_of(engine, spec, empty, weights, grad_of(PLAIN, 0, generator))
        assert by_pixels.shape == (0, 5)
        assert torch.equal(by_weights, torch.zeros_like(weights))

    def test_strided_gradients(self, engine, generator):
        spec, weights = PLAIN.spec(), weights_of(PLAIN, generator)
        pixels = torch.randn(4, 5, generator=generator, dtype=torch.float64)
        ones = torch.ones(4, spec.num_kernels, spec.num_maps, dtype=torch.float64)
        expanded = torch.ones(1, 1, 1, dtype=torch.float64).expand_as(ones)  # as sum() gives
        for a, b in zip(
            vjp_of(engine, spec, pixels, weights, expanded),
            vjp_of(engine, spec, pixels, weights, ones),
            strict=True,
        ):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-8)
        assert torch.equal(ones, torch.ones_like(ones))

    @pytest.mark.parametrize("count", [4, *thorough(700)])
    def test_residuals_change_nothing(self, engine, count, generator):
        """`evs_with_residuals` gives the values of `evs`, and `vjp` the same with and without."""
        spec, weights = PLAIN.spec(), weights_of(PLAIN, generator)
        pixels = pixels_of(5, generator, count=min(count, self.many))
        grad = grad_of(PLAIN, len(pixels), generator)
        evs, residuals = engine.evs_with_residuals(LayerCall(spec, pixels, weights))
        assert not evs.requires_grad
        torch.testing.assert_close(evs, evs_of(engine, spec, pixels, weights), rtol=0, atol=1e-12)
        using = vjp_of(engine, spec, pixels, weights, grad, residuals=residuals)
        for a, b in zip(using, vjp_of(engine, spec, pixels, weights, grad), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize(
        "case", [Case(3, 5, 2), Case(1, 2, 1), Case(3, 3, 2, "user2")], ids=str
    )
    def test_jacobian_is_one_vjp_for_each_value(self, engine, case, dtype, generator):
        spec, weights = case.spec(), weights_of(case, generator, dtype)
        channels = case.in_channels
        pixels = torch.randn(4, channels, generator=generator, dtype=torch.float64).to(dtype)
        pixels[1] = 0
        pixels[2] = -torch.eye(channels)[-1]
        by_pixels, by_weights = jacobian_of(engine, spec, pixels, weights)
        values = (len(pixels), spec.num_kernels, spec.num_maps)
        assert by_pixels.shape == (*values, channels)
        assert by_weights.shape == (*values, spec.num_weights)
        assert by_pixels.dtype == by_weights.dtype == dtype
        for i, k, q in np.ndindex(*values):
            unit = torch.zeros(values, dtype=dtype)
            unit[i, k, q] = 1
            expected = vjp_of(engine, spec, pixels, weights, unit)
            rows = torch.zeros_like(pixels), torch.zeros_like(weights)
            rows[0][i] = by_pixels[i, k, q]
            rows[1][k] = by_weights[i, k, q]
            for found, one in zip(rows, expected, strict=True):
                self.assert_gradient_close(found, one.double().numpy(), self.rtol[dtype])

    @pytest.mark.parametrize("wrt", [(True, False), (False, True), (False, False)])
    def test_jacobian_by_what_is_asked_for(self, engine, wrt, generator):
        case = Case(3, 5, 2)
        spec, weights = case.spec(), weights_of(case, generator)
        pixels = torch.randn(2, 3, generator=generator, dtype=torch.float64)
        both, some = (jacobian_of(engine, spec, pixels, weights, w) for w in ((True, True), wrt))
        for wanted, full, part in zip(wrt, both, some, strict=True):
            if wanted:
                torch.testing.assert_close(part, full, rtol=1e-9, atol=1e-10)
            else:
                assert part is None

    def test_jacobian_of_no_pixels(self, engine, generator):
        spec, weights = PLAIN.spec(), weights_of(PLAIN, generator)
        found = jacobian_of(engine, spec, torch.empty(0, 5, dtype=torch.float64), weights)
        shapes = [tuple(part.shape) for part in found]
        assert shapes == [(0, 3, 3, 5), (0, 3, 3, spec.num_weights)]

    def test_training_after_inference_mode(self, engine, generator):
        """A validation pass under inference_mode comes first in Lightning's sanity check."""
        case = Case(7, 3, 3, "figure1", 6)  # a shape that no other test uses
        pixels, weights = pixels_of(7, generator), weights_of(case, generator)
        grad = grad_of(case, len(pixels), generator)
        with torch.inference_mode():
            evs_of(engine, case.spec(), pixels, weights)
        _, by_weights = vjp_of(engine, case.spec(), pixels, weights, grad)
        assert bool((by_weights != 0).any())


class NoGradients:
    """An engine that only evaluates says so."""

    def test_declared(self, engine):
        assert not engine.has_gradients

    def test_vjp_says_what_to_do(self, engine, generator):
        weights = weights_of(PLAIN, generator)
        pixels = torch.randn(2, 5, generator=generator, dtype=torch.float64)
        with pytest.raises(
            EngineError, match=rf"'{engine.name}' engine has no gradients.*engine='exact'"
        ):
            vjp_of(engine, PLAIN.spec(), pixels, weights, grad_of(PLAIN, 2, generator))
        with pytest.raises(EngineError, match="has no gradients"):
            jacobian_of(engine, PLAIN.spec(), pixels, weights)
