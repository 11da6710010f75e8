"""The layer as a torch module, its errors, its circuits and their export."""

import copy
import io
import math
import pickle
import warnings

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.utils.prune
import torch.utils.checkpoint
from cases import Case, pixels_of
from hypothesis import given
from hypothesis import strategies as st
from qiskit import QuantumCircuit, qasm3, qpy
from qiskit.circuit import Parameter, ParameterVector
from qiskit.primitives import StatevectorEstimator
from tiers import thorough
from torch import nn

from qpc_qiskit import (
    ExactEngine,
    QuantumPointwiseConv1d,
    QuantumPointwiseConv2d,
    QuantumPointwiseConv3d,
    use_engine,
)
from qpc_qiskit.engines import Engine
from qpc_qiskit.errors import AnsatzError, EncodingError, EngineError

CASE = Case(5, 7, 3)


def images_of(generator, *shape, dtype=torch.float64):
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


@pytest.fixture
def layer(generator):
    return CASE.layer(generator)


@pytest.fixture
def images(generator):
    return images_of(generator, 2, 5, 3, 4)


class TestShapes:
    @pytest.mark.parametrize("shape", [(2, 5, 3, 4), (1, 5, 1, 1), (0, 5, 3, 4), (2, 5, 0, 4)])
    def test_output_shape_and_backward(self, layer, generator, shape):
        images = images_of(generator, *shape).requires_grad_()
        maps = layer(images)
        assert maps.shape == (shape[0], 7, *shape[2:])
        assert maps.dtype == torch.float64
        maps.sum().backward()
        assert images.grad.shape == shape
        assert bool(layer.weight.grad.any()) == bool(images.numel())

    def test_maps_are_contiguous_like_a_convolutions(self, layer, images):
        assert layer(images).is_contiguous()

    def test_every_pixel_is_where_it_was(self, layer, images):
        """One pixel of one image at a time gives the same maps: no transposed axes."""
        maps = layer(images)
        for b, h, w in np.ndindex(2, 3, 4):
            alone = layer(images[b, :, h, w].view(1, 5, 1, 1))
            torch.testing.assert_close(maps[b, :, h, w], alone[0, :, 0, 0], rtol=0, atol=1e-12)

    def test_one_and_three_axes_equal_two(self, generator):
        weight = CASE.layer(generator).weight.detach()
        layers = [
            cls(5, 7, num_qubits=3, dtype=torch.float64)
            for cls in (QuantumPointwiseConv1d, QuantumPointwiseConv2d, QuantumPointwiseConv3d)
        ]
        for layer in layers:
            layer.load_state_dict({"weight": weight})
        images = images_of(generator, 2, 5, 24)
        flat = layers[0](images)
        assert flat.shape == (2, 7, 24)
        torch.testing.assert_close(layers[1](images.view(2, 5, 4, 6)).flatten(2), flat)
        torch.testing.assert_close(layers[2](images.view(2, 5, 2, 3, 4)).flatten(2), flat)

    @pytest.mark.parametrize(
        "arrange",
        [
            lambda x: x.to(memory_format=torch.channels_last),
            lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
            lambda x: x.repeat_interleave(2, 3)[..., ::2],
            lambda x: x.flip(0).flip(0),
        ],
        ids=["channels_last", "transposed", "strided", "flipped"],
    )
    def test_memory_layouts(self, layer, images, arrange):
        plain = images.clone().requires_grad_()
        other = images.clone().requires_grad_()
        factors = torch.arange(2 * 7 * 3 * 4, dtype=torch.float64).view(2, 7, 3, 4)
        expected = layer(plain)
        (expected * factors).sum().backward()
        found = layer(arrange(other))
        (found * factors).sum().backward()
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(other.grad, plain.grad, rtol=1e-9, atol=1e-9)

    def test_expanded_images(self, layer, generator):
        pixel = images_of(generator, 1, 5, 1, 1).requires_grad_()
        maps = layer(pixel.expand(2, 5, 3, 3))
        torch.testing.assert_close(maps, maps[:1, :, :1, :1].expand_as(maps), rtol=0, atol=1e-13)
        maps[..., 0].sum().backward()
        assert bool(pixel.grad.any())

    def test_input_is_left_alone(self, layer, images):
        before = images.clone()
        layer(images)
        assert torch.equal(images, before)

    def test_surplus_maps_are_the_last_ones(self, generator, images):
        many = Case(5, 9, 3).layer(generator)
        few = Case(5, 7, 3).layer(generator)
        assert few.weight.shape == many.weight.shape
        few.load_state_dict(many.state_dict())
        torch.testing.assert_close(few(images), many(images)[:, :7])


class TestBiasChannel:
    def test_keeps_magnitude_and_sign(self, generator, images):
        layer = CASE.layer(generator, bias_channel=True)
        assert layer.spec.in_channels == 6
        maps = layer(images)
        for factor in (-1, 2):
            assert float((layer(factor * images) - maps).detach().abs().max()) > 1e-3

    def test_is_the_last_channel_and_equals_one(self, generator, images):
        layer = CASE.layer(generator, bias_channel=True)
        plain = Case(6, 7, 3).layer(generator)
        plain.load_state_dict(layer.state_dict())
        ones = torch.ones(2, 1, 3, 4, dtype=torch.float64)
        torch.testing.assert_close(layer(images), plain(torch.cat([images, ones], 1)))


class TestTorchModule:
    def test_one_parameter_under_one_name(self, layer):
        assert list(layer.state_dict()) == ["weight"]
        assert [name for name, _ in layer.named_parameters()] == ["weight"]
        assert layer.weight.shape == (3, 27)
        assert isinstance(layer.weight, nn.Parameter)
        assert not list(layer.buffers())

    def test_dtypes(self, generator, images):
        layer = QuantumPointwiseConv2d(5, 7, generator=generator)
        assert layer.weight.dtype == torch.float32
        single = layer(images.float())
        assert single.dtype == torch.float32
        double = layer.double()(images)
        assert double.dtype == torch.float64
        torch.testing.assert_close(single.double(), double, rtol=0, atol=5e-6)
        assert layer.to(torch.float32)(images.float()).dtype == torch.float32

    def test_default_dtype_of_torch(self):
        torch.set_default_dtype(torch.float64)
        try:
            layer = QuantumPointwiseConv2d(5, 7)
            assert layer(torch.randn(1, 5, 1, 1)).dtype == torch.float64
        finally:
            torch.set_default_dtype(torch.float32)

    def test_meta_device(self, layer, images):
        empty = QuantumPointwiseConv2d(5, 7, device="meta", dtype=torch.float64)
        assert empty.weight.is_meta
        empty.load_state_dict(layer.state_dict(), assign=True)
        torch.testing.assert_close(empty(images), layer(images), rtol=0, atol=0)
        assert layer.to("meta").weight.is_meta
        assert layer.to_empty(device="cpu").weight.shape == (3, 27)

    def test_repr(self, generator):
        assert (
            repr(CASE.layer(generator)) == "QuantumPointwiseConv2d(5, 7, num_qubits=3, "
            "num_kernels=3, ansatz='strongly_entangling', num_layers=3, engine='exact')"
        )
        user = Case(3, 3, 2, "user2").layer(generator, bias_channel=True, engine="estimator")
        assert (
            repr(user) == "QuantumPointwiseConv2d(3, 3, num_qubits=2, num_kernels=2, "
            "ansatz='user', bias_channel=True, engine='estimator')"
        )

    def test_in_a_sequential_training_lowers_the_loss(self, generator):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            QuantumPointwiseConv2d(4, 6, generator=generator),
            nn.BatchNorm2d(6),
            nn.Flatten(),
            nn.Linear(6 * 16, 2),
        )
        images = images_of(generator, 8, 2, 4, 4, dtype=torch.float32)
        labels = torch.arange(8) % 2
        optimizer = torch.optim.Adam(model[1].parameters(), lr=0.05)  # the quantum weights alone
        losses = []
        for _ in range(8):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.9 * losses[0]

    def test_deepcopy_has_its_own_weights_and_shares_the_engine(self, layer, images):
        before = layer(images)
        other = copy.deepcopy(layer)
        assert other.engine is layer.engine
        assert other.spec.ansatz is layer.spec.ansatz
        torch.testing.assert_close(other(images), before, rtol=0, atol=0)
        with torch.no_grad():
            other.weight.add_(1)
        torch.testing.assert_close(layer(images), before, rtol=0, atol=0)
        other.engine = "estimator"
        assert layer.engine.name == "exact"

    def test_state_dict_through_torch_save(self, layer, images, generator):
        buffer = io.BytesIO()
        torch.save(layer.state_dict(), buffer)
        buffer.seek(0)
        other = CASE.layer(generator)
        assert not torch.equal(other.weight, layer.weight)
        other.load_state_dict(torch.load(buffer, weights_only=True))
        assert torch.equal(other(images), layer(images))

    def test_pickle_of_the_whole_layer(self, generator):
        for case in (CASE, Case(3, 3, 2, "user2")):
            layer = case.layer(generator)
            images = images_of(generator, 1, case.in_channels, 2, 2)
            other = pickle.loads(pickle.dumps(layer))
            torch.testing.assert_close(other(images), layer(images), rtol=0, atol=0)

    def test_safetensors(self, layer, generator, tmp_path):
        model = nn.Sequential(layer, nn.Conv2d(7, 2, 1, dtype=torch.float64))
        safetensors.torch.save_model(model, tmp_path / "model.safetensors")
        safetensors.torch.save_file(layer.state_dict(), tmp_path / "layer.safetensors")
        other = nn.Sequential(CASE.layer(generator), nn.Conv2d(7, 2, 1, dtype=torch.float64))
        assert safetensors.torch.load_model(other, tmp_path / "model.safetensors") == (set(), [])
        assert torch.equal(other[0].weight, layer.weight)
        stored = safetensors.torch.load_file(tmp_path / "layer.safetensors")
        assert list(stored) == ["weight"]
        assert torch.equal(stored["weight"], layer.weight)

    def test_load_state_dict_assign(self, layer, images):
        weight = torch.zeros(3, 27, dtype=torch.float64)
        layer.load_state_dict({"weight": weight}, assign=True)
        assert layer.weight.data_ptr() == weight.data_ptr()
        expected = layer(images)
        with torch.no_grad():
            weight.add_(0.5)
        assert float((layer(images) - expected).detach().abs().max()) > 1e-3

    def test_wrong_state_dict_is_refused(self, layer):
        with pytest.raises(RuntimeError, match="size mismatch for weight"):
            layer.load_state_dict({"weight": torch.zeros(3, 26)})

    def test_replacing_the_parameter(self, layer, images):
        layer.weight = nn.Parameter(torch.zeros(3, 27, dtype=torch.float64))
        assert not layer._weights.any()
        layer(images).sum().backward()
        assert layer.weight.grad is not None

    def test_frozen(self, layer, images):
        layer.requires_grad_(False)
        assert not layer(images).requires_grad
        tracked = images.clone().requires_grad_()
        layer(tracked).square().sum().backward()
        assert bool(tracked.grad.any())
        assert layer.weight.grad is None

    def test_grad_accumulates(self, layer, images):
        layer(images).square().sum().backward()
        once = layer.weight.grad.clone()
        layer(images).square().sum().backward()
        torch.testing.assert_close(layer.weight.grad, 2 * once)

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_without_gradients(self, layer, images, mode):
        expected = layer(images).detach()
        with mode():
            maps = layer(images)
        assert not maps.requires_grad
        torch.testing.assert_close(maps.clone(), expected, rtol=0, atol=1e-12)

    def test_training_after_inference_mode(self, generator):
        """Lightning's sanity check validates under inference_mode before it trains."""
        layer = Case(5, 3, 3, "circuit_centric", 7).layer(generator)  # its shape is used only here
        images = images_of(generator, 1, 5, 2, 2)
        with torch.inference_mode():
            layer(images)
        layer(images).sum().backward()
        assert bool(layer.weight.grad.any())

    def test_functional_call(self, layer, images):
        weight = torch.ones(3, 27, dtype=torch.float64, requires_grad=True)
        maps = torch.func.functional_call(layer, {"weight": weight}, (images,))
        maps[:, 0].sum().backward()
        assert bool(weight.grad.any())
        assert layer.weight.grad is None

    def test_parametrized_weight(self, layer, images):
        """`weight` may be computed from other parameters."""

        class Doubled(nn.Module):
            def forward(self, weight):
                return 2 * weight

        raw = layer.weight.detach().clone()
        other = copy.deepcopy(layer)
        with torch.no_grad():
            other.weight.mul_(2)
        expected = other(images)
        nn.utils.parametrize.register_parametrization(layer, "weight", Doubled())
        maps = layer(images)
        torch.testing.assert_close(maps, expected, rtol=0, atol=1e-12)
        maps.sum().backward()
        original = layer.parametrizations.weight.original
        assert torch.equal(original, raw)
        assert bool(original.grad.any())

    def test_weight_norm_and_pruning(self, layer, images):
        """Tools that put a plain tensor in the parameter's place."""
        expected = layer(images)
        other = copy.deepcopy(layer)
        nn.utils.parametrizations.weight_norm(layer, "weight")
        torch.testing.assert_close(layer(images), expected, rtol=0, atol=1e-10)
        nn.utils.prune.l1_unstructured(other, "weight", 0.5)
        assert int((other.weight == 0).sum()) in (40, 41)
        maps = other(images)
        assert float((maps - expected).detach().abs().max()) > 1e-3
        maps.sum().backward()
        assert bool(other.weight_orig.grad.any())
        nn.utils.prune.remove(other, "weight")
        assert list(other.state_dict()) == ["weight"]
        torch.testing.assert_close(other(images), maps, rtol=0, atol=0)

    def test_hooks(self, layer, images):
        seen = []
        layer.register_forward_pre_hook(lambda module, args: (args[0] * 3,))
        layer.register_forward_hook(lambda module, args, output: seen.append(output.shape))
        layer.register_full_backward_hook(lambda *args: seen.append("backward"))
        layer.weight.register_hook(lambda grad: seen.append("weight"))
        layer(images.clone().requires_grad_()).sum().backward()
        assert seen[0] == (2, 7, 3, 4)
        assert set(seen[1:]) == {"backward", "weight"}

    def test_activation_checkpointing(self, layer, images):
        plain, saved = images.clone().requires_grad_(), images.clone().requires_grad_()
        layer(plain).square().sum().backward()
        torch.utils.checkpoint.checkpoint(
            layer, saved, use_reentrant=False
        ).square().sum().backward()
        torch.testing.assert_close(saved.grad, plain.grad)

    @pytest.mark.parametrize("whole", [*thorough(True), False])
    def test_compile(self, generator, recwarn, capfd, whole):
        """A graph break at the layer, without noise."""
        layer = Case(4, 6, 2).layer(generator, torch.float32)
        model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), layer, nn.Tanh())
        images = images_of(generator, 2, 3, 4, 4, dtype=torch.float32)
        expected = model(images)
        expected.square().sum().backward()
        gradients = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        torch._dynamo.reset()
        compiled = torch.compile(model if whole else layer, backend="aot_eager")
        maps = compiled(images) if whole else model[3](compiled(model[1](model[0](images))))
        maps.square().sum().backward()
        torch.testing.assert_close(maps, expected)
        for p, gradient in zip(model.parameters(), gradients, strict=True):
            torch.testing.assert_close(p.grad, gradient)
        assert len(recwarn) <= 1
        assert capfd.readouterr().err.count("\n") <= 1

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_autocast_computes_in_the_weights_dtype(self, generator, dtype):
        layer = CASE.layer(generator, torch.float32)
        half = images_of(generator, 2, 5, 3, 4).to(dtype)
        plain, cast = half.float().requires_grad_(), half.clone().requires_grad_()
        expected = layer(plain)
        expected.square().sum().backward()
        by_weight, layer.weight.grad = layer.weight.grad, None
        with torch.autocast("cpu", dtype=torch.bfloat16):
            maps = layer(cast)
            loss = maps.square().sum()
        loss.backward()
        assert maps.dtype == torch.float32
        torch.testing.assert_close(maps, expected, rtol=0, atol=0)
        torch.testing.assert_close(layer.weight.grad, by_weight)
        assert cast.grad.dtype == dtype
        torch.testing.assert_close(cast.grad, plain.grad.to(dtype))

    def test_backward_inside_autocast(self, generator):
        layer = CASE.layer(generator, torch.float32)
        images = images_of(generator, 2, 5, 3, 4, dtype=torch.float32)
        layer(images).square().sum().backward()
        expected, layer.weight.grad = layer.weight.grad, None
        with torch.autocast("cpu", dtype=torch.bfloat16):
            layer(images).square().sum().backward()
        torch.testing.assert_close(layer.weight.grad, expected)


class TestInit:
    def test_generator(self):
        def weights(seed, **options):
            generator = torch.Generator().manual_seed(seed)
            return QuantumPointwiseConv2d(5, 7, generator=generator, **options).weight

        state = torch.random.get_rng_state()
        for init in ("uniform", "normal"):
            assert torch.equal(weights(3, init=init), weights(3, init=init))
            assert not torch.equal(weights(3, init=init), weights(4, init=init))
        assert torch.equal(torch.random.get_rng_state(), state)

    def test_distributions(self, generator):
        uniform = QuantumPointwiseConv2d(64, 300, generator=generator).weight.detach()
        assert 0 <= float(uniform.min()) < 0.1
        assert 2 * math.pi - 0.1 < float(uniform.max()) <= 2 * math.pi
        normal = QuantumPointwiseConv2d(64, 300, init="normal", generator=generator).weight.detach()
        # 2700 values: five standard errors of a standard deviation are 0.1 * 5 / sqrt(5400).
        assert abs(float(normal.std()) - 0.1) < 0.007
        assert abs(float(normal.mean())) < 0.01

    def test_function(self):
        layer = QuantumPointwiseConv2d(5, 7, init=nn.init.zeros_)
        assert not layer.weight.any()
        assert layer.weight.requires_grad


class TestMathematics:
    @given(
        st.floats(-1e300, 1e300).filter(lambda c: abs(c) > 1e-300),
        st.integers(0, 2**31),
    )
    def test_scale_and_sign_have_no_effect(self, factor, seed):
        generator = torch.Generator().manual_seed(seed)
        layer = CASE.layer(generator)
        images = images_of(generator, 1, 5, 2, 2)
        images /= images.abs().amax(1, keepdim=True)  # so that factor * images is finite
        torch.testing.assert_close(layer(factor * images), layer(images), rtol=0, atol=1e-13)

    @given(st.floats(2.0**-100, 2.0**100, width=32), st.booleans(), st.integers(0, 2**31))
    def test_scale_and_sign_in_float32(self, factor, negative, seed):
        generator = torch.Generator().manual_seed(seed)
        layer = CASE.layer(generator, torch.float32)
        images = images_of(generator, 1, 5, 2, 2, dtype=torch.float32)
        scaled = (-factor if negative else factor) * images
        torch.testing.assert_close(layer(scaled), layer(images), rtol=0, atol=5e-6)

    @given(st.integers(0, 2**31), st.integers(1, 5))
    def test_permuting_and_splitting(self, seed, size):
        generator = torch.Generator().manual_seed(seed)
        layer = CASE.layer(generator)
        images = images_of(generator, size, 5, 2, 3)
        maps = layer(images)
        order = torch.randperm(size, generator=generator)
        torch.testing.assert_close(layer(images[order]), maps[order], rtol=0, atol=1e-13)
        parts = torch.cat([layer(image[None]) for image in images])
        torch.testing.assert_close(parts, maps, rtol=0, atol=1e-13)
        columns = torch.randperm(3, generator=generator)
        torch.testing.assert_close(
            layer(images[..., columns]), maps[..., columns], rtol=0, atol=1e-13
        )

    @given(st.integers(0, 2**31), st.sampled_from([torch.float32, torch.float64]))
    def test_values_lie_in_the_unit_interval(self, seed, dtype):
        generator = torch.Generator().manual_seed(seed)
        # Near the identity, one-hot pixels: values at the very ends.
        layer = CASE.layer(generator, dtype, init=torch.nn.init.zeros_)
        maps = layer(pixels_of(5, generator, dtype).T[None, :, None])
        assert float(maps.detach().abs().max()) <= 1 + 8 * torch.finfo(dtype).eps
        random = CASE.layer(generator, dtype)
        maps = random(pixels_of(5, generator, dtype).T[None, :, None])
        assert float(maps.detach().abs().max()) <= 1 + 8 * torch.finfo(dtype).eps

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_values_at_the_ends_do_not_round_beyond_them(self, generator, dtype):
        """One-hot pixels, RX by multiples of pi and any RZ: every value is 1 or -1."""
        layer = Case(16, 40, 4).layer(generator, dtype)
        with torch.no_grad():
            rx = layer.weight.view(10, -1, 3)[..., 1]
            rx.copy_(torch.pi * (rx / torch.pi).round())
        maps = layer(torch.eye(16, dtype=dtype)[None, :, None]).detach()
        assert bool((maps.abs() <= 1).all())
        torch.testing.assert_close(
            maps.abs(), torch.ones_like(maps), rtol=0, atol=60 * torch.finfo(dtype).eps
        )

    @pytest.mark.parametrize(
        "case",
        [
            Case(3, 3, 2),
            Case(4, 2, 2, "figure1", 1),
            Case(3, 2, 2, "circuit_centric", 1),
            Case(3, 3, 2, "user2"),
        ],
        ids=str,
    )
    def test_gradcheck(self, case, generator):
        layer = case.layer(generator)
        images = images_of(generator, 2, case.in_channels, 1, 2)
        images[0, 0, 0, 0] = 0
        images.requires_grad_()

        def function(images, weight):
            return torch.func.functional_call(layer, {"weight": weight}, (images,))

        weight = layer.weight.detach().clone().requires_grad_()
        assert torch.autograd.gradcheck(function, (images, weight))
        assert torch.autograd.gradcheck(lambda w: function(images.detach(), w), (weight,))
        assert torch.autograd.gradcheck(lambda x: function(x, weight.detach()), (images,))

    def test_a_zero_pixel_has_zero_gradient_and_the_zero_states_value(self, layer, images):
        images[0, :, 1, 2] = 0
        images[1, :, 0, 0] = torch.tensor([-3.0, 0, 0, 0, 0])
        images.requires_grad_()
        maps = layer(images)
        torch.testing.assert_close(maps[0, :, 1, 2], maps[1, :, 0, 0], rtol=0, atol=1e-14)
        maps.sum().backward()
        assert not images.grad[0, :, 1, 2].any()
        assert bool((images.grad != 0).any(1)[0, 0, 0])

    def test_float32_error_grows_no_faster_than_the_root_of_the_size(self, generator):
        """Exact engine, float32 against float64: within 30 eps, up to 7 qubits and 5 blocks."""
        for case in (Case(5, 7, 3), Case(64, 12, 6, num_layers=5), Case(128, 14, 7, num_layers=5)):
            layer = case.layer(generator, torch.float32)
            images = images_of(generator, 1, case.in_channels, 8, 8, dtype=torch.float32)
            single = layer(images).detach()
            double = layer.double()(images.double()).detach()
            error = float((single - double).abs().max())
            assert 0 < error < 30 * torch.finfo(torch.float32).eps


class TestSecondDerivative:
    def test_create_graph_alone_works(self, layer, images):
        images.requires_grad_()
        plain = torch.autograd.grad(layer(images).square().sum(), (images, layer.weight))
        graph = torch.autograd.grad(
            layer(images).square().sum(), (images, layer.weight), create_graph=True
        )
        for a, b in zip(graph, plain, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)

    @pytest.mark.parametrize("by", ["images", "weight"])
    def test_second_backward_is_an_error(self, layer, images, by):
        images.requires_grad_()
        source = images if by == "images" else layer.weight
        (first,) = torch.autograd.grad(layer(images).square().sum(), source, create_graph=True)
        with pytest.raises(EngineError, match="differentiable once; its second derivative"):
            first.square().sum().backward()

    def test_linear_loss_too(self, layer, images):
        """Where the outer gradient is a constant there is no other path that would fail."""
        (first,) = torch.autograd.grad(layer(images).sum(), layer.weight, create_graph=True)
        with pytest.raises(EngineError, match="differentiable once"):
            first.sum().backward()

    def test_gradient_penalty_detached_works(self, layer, images):
        images.requires_grad_()
        (first,) = torch.autograd.grad(layer(images).sum(), images, create_graph=True)
        (layer(images).sum() + first.detach().square().sum()).backward()
        assert layer.weight.grad is not None


class TestErrors:
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_pixels_that_are_not_finite(self, layer, generator, value):
        images = images_of(generator, 3, 5, 4, 6)
        images[2, 3, 1, 5] = value
        pattern = (
            rf"Pixel 59 of 72 is not finite \(channel 3 is {value}\).*"
            r"\(image 2, position \(1, 5\)\)"
        )
        with pytest.raises(EncodingError, match=pattern) as caught:
            layer(images)
        assert isinstance(caught.value, ValueError)
        assert caught.value.pixel == 59

    def test_not_finite_in_one_axis_with_bias(self, generator):
        layer = QuantumPointwiseConv1d(4, 2, bias_channel=True)
        images = torch.ones(2, 4, 3)
        images[1, 0, 2] = math.nan
        with pytest.raises(EncodingError, match=r"image 1, position \(2,\)"):
            layer(images)

    @pytest.mark.parametrize(
        ("shape", "pattern"),
        [
            ((2, 4, 3, 3), r"shape \(B, 5, H, W\), got 4 channels: \(2, 4, 3, 3\)"),
            ((2, 6, 3, 3), "got 6 channels"),
            ((2, 0, 3, 3), "got 0 channels"),
            ((5, 3, 3), r"\(B, 5, H, W\), got 3 axes: \(5, 3, 3\)"),
            ((2, 5, 3, 3, 3), "got 5 axes"),
            ((2, 5), "got 2 axes"),
        ],
    )
    def test_wrong_shape(self, layer, shape, pattern):
        with pytest.raises(ValueError, match=pattern):
            layer(torch.ones(shape, dtype=torch.float64))

    def test_expected_shape_names_the_axes(self):
        with pytest.raises(ValueError, match=r"Conv1d expected images of shape \(B, 4, W\)"):
            QuantumPointwiseConv1d(4, 2)(torch.ones(1, 4, 2, 2))
        with pytest.raises(ValueError, match=r"Conv3d expected images of shape \(B, 4, D, H, W\)"):
            QuantumPointwiseConv3d(4, 2)(torch.ones(1, 4, 2, 2))

    @pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64])
    def test_images_that_are_not_floating(self, layer, dtype):
        with pytest.raises(TypeError, match=rf"expected torch.float64 images, got {dtype}"):
            layer(torch.ones(1, 5, 2, 2).to(dtype))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
    def test_dtype_mismatch(self, layer, dtype):
        with pytest.raises(TypeError, match=rf"torch.float64 weights but got {dtype} images"):
            layer(torch.ones(1, 5, 2, 2, dtype=dtype))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_weights(self, layer, dtype):
        with pytest.raises(TypeError, match=rf"float32 or torch.float64, its weights are {dtype}"):
            QuantumPointwiseConv2d(5, 7, dtype=dtype)
        with pytest.raises(TypeError, match=rf"its weights are {dtype}"):
            layer.to(dtype)(torch.ones(1, 5, 2, 2, dtype=dtype))

    @pytest.mark.parametrize("value", [0, -1, 2.0, "4", True])
    @pytest.mark.parametrize("name", ["in_channels", "out_channels", "num_layers", "num_qubits"])
    def test_bad_sizes(self, name, value):
        sizes = {"in_channels": 4, "out_channels": 4} | {name: value}
        with pytest.raises(ValueError, match=f"{name} must be a positive integer, got {value!r}"):
            QuantumPointwiseConv2d(**sizes)

    @pytest.mark.parametrize("value", [0, -1])
    def test_bad_channels_with_a_bias_channel(self, value):
        """The bias channel does not make up for a missing channel; the value given is named."""
        with pytest.raises(ValueError, match=f"in_channels must be .* got {value}"):
            QuantumPointwiseConv2d(value, 4, bias_channel=True)

    def test_too_few_qubits(self):
        with pytest.raises(ValueError, match=r"17 channels do not fit .* use num_qubits >= 5"):
            QuantumPointwiseConv2d(17, 4, num_qubits=4)
        with pytest.raises(ValueError, match="5 channels do not fit"):
            QuantumPointwiseConv2d(4, 4, num_qubits=2, bias_channel=True)

    def test_unknown_names(self, layer):
        with pytest.raises(
            AnsatzError, match=r"Unknown ansatz 'strong'; .*figure1.*QuantumCircuit"
        ):
            QuantumPointwiseConv2d(4, 4, ansatz="strong")
        with pytest.raises(
            ValueError, match="Unknown engine 'aer'; expected one of exact, noisy, esti"
        ):
            QuantumPointwiseConv2d(4, 4, engine="aer")
        with pytest.raises(TypeError, match=r"Expected an engine or one of the names .*got int"):
            QuantumPointwiseConv2d(4, 4, engine=3)
        with pytest.raises(ValueError, match="Unknown init 'xavier'; expected 'uniform', 'normal'"):
            QuantumPointwiseConv2d(4, 4, init="xavier")
        with pytest.raises(ValueError, match="Unknown encoder 'tree'; expected one of multiplex"):
            layer.circuit("tree")
        with pytest.raises(ValueError, match="Unknown encoder 'tree'"):
            layer.parameter_values(torch.ones(1, 5), encoder="tree")

    def test_one_channel_is_a_warning_at_the_callers_line(self):
        with pytest.warns(UserWarning, match="one input channel .* bias_channel=True") as caught:
            QuantumPointwiseConv2d(1, 2)
        assert caught[0].filename == __file__
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            QuantumPointwiseConv2d(1, 2, bias_channel=True)

    def test_an_engine_without_gradients_cannot_train(self, generator, images):
        class ValuesAlone(Engine):
            name = "values alone"
            has_gradients = False

            def evs(self, call):
                return ExactEngine().evs(call)

        loss = CASE.layer(generator, engine=ValuesAlone())(images).sum()
        with pytest.raises(
            EngineError, match=r"'values alone' engine has no gradients.*engine='exact'"
        ):
            loss.backward()

    def test_parameter_values(self, layer):
        with pytest.raises(ValueError, match=r"kernels 0 to 2, kernel 3 was asked for"):
            layer.parameter_values(torch.ones(1, 5), 3)
        with pytest.raises(ValueError, match="kernel -1 was asked for"):
            layer.parameter_values(torch.ones(1, 5), -1)
        with pytest.raises(ValueError, match=r"shape \(N, 5\), got \(1, 4\)"):
            layer.parameter_values(torch.ones(1, 4))
        with pytest.raises(EncodingError, match="Pixel 1 of 2 is not finite"):
            layer.parameter_values(torch.tensor([[1.0] * 5, [math.nan] * 5]))

    def test_export(self, layer, tmp_path):
        with pytest.raises(ValueError, match="Unknown format 'qasm2'; expected one of qasm3, qpy"):
            layer.export("qasm2", tmp_path / "a")
        with pytest.raises(ValueError, match="kernel 7 was asked for"):
            layer.export("qpy", tmp_path / "a", kernel=7)
        assert not list(tmp_path.iterdir())


class TestCircuit:
    @pytest.mark.parametrize("n", range(1, 8))
    def test_parameter_count(self, n, generator):
        layer = Case(2**n, n, n).layer(generator)
        assert layer.circuit().num_parameters == 2**n - 1 + 9 * n
        assert layer.circuit().num_qubits == n
        assert layer.circuit().count_ops()["rx"] == 3 * n

    def test_users_parameters_keep_their_names(self, generator):
        layer = Case(3, 3, 2, "user2").layer(generator)
        names = {p.name for p in layer.circuit().parameters}
        assert names == {"a", "b", "encoder[0]", "encoder[1]", "encoder[2]"}

    @pytest.mark.parametrize("name", ["phi", "theta"])
    def test_users_parameters_may_have_any_name(self, name, generator):
        """phi and theta are the names that everybody uses."""
        vector = ParameterVector(name, 3)
        circuit = QuantumCircuit(2)
        circuit.rx(vector[0], 0)
        circuit.ry(vector[1], 1)
        circuit.cx(0, 1)
        circuit.ry(vector[2], 0)
        layer = QuantumPointwiseConv2d(4, 2, ansatz=circuit, dtype=torch.float64)
        images = images_of(generator, 1, 4, 1, 1)
        maps = layer(images)
        with torch.no_grad(), use_engine(layer, "estimator"):
            torch.testing.assert_close(layer(images), maps, rtol=0, atol=1e-10)
        values = layer.parameter_values(images[0, :, 0].T)
        assert values.shape == (1, 6)
        assert layer.circuit().assign_parameters(values[0]).num_parameters == 0

    def test_values_follow_the_order_of_the_circuits_parameters(self, layer):
        values = layer.parameter_values(torch.eye(5, dtype=torch.float64), 1)
        parameters = layer.circuit().parameters
        assert values.shape == (5, len(parameters))
        for column, parameter in zip(values.T, parameters, strict=True):
            if parameter.name.startswith("theta"):
                np.testing.assert_array_equal(column, layer.weight[1, parameter.index].item())

    def test_values_are_canonical(self, layer, generator):
        pixels = torch.randn(3, 5, generator=generator, dtype=torch.float64)
        values = layer.parameter_values(pixels)
        np.testing.assert_allclose(layer.parameter_values(-8 * pixels), values, atol=1e-14)
        np.testing.assert_allclose(layer.parameter_values(pixels.float()), values, atol=1e-5)

    def test_changing_the_circuit_leaves_the_layer_alone(self, layer):
        circuit = layer.circuit()
        circuit.x(0)
        assert "x" not in layer.circuit().count_ops()
        assert layer.spec.ansatz.circuit.num_parameters == 27


class TestExport:
    @pytest.fixture(params=["user2", "strongly_entangling", "circuit_centric"])
    def layer(self, request, generator):
        return Case(3, 3, 2, request.param).layer(generator)

    @staticmethod
    def read(fmt, path):
        if fmt == "qasm3":
            return qasm3.loads(path.read_text())
        with path.open("rb") as file:
            return qpy.load(file)[0]

    @pytest.mark.parametrize("kernel", [0, 1])
    @pytest.mark.parametrize("bound", [True, False])
    @pytest.mark.parametrize("fmt", ["qasm3", "qpy"])
    def test_round_trip_gives_the_same_values(self, layer, generator, tmp_path, fmt, bound, kernel):
        path = tmp_path / f"kernel.{fmt}"
        layer.export(fmt, path, kernel=kernel, bound=bound)
        circuit = self.read(fmt, path)
        assert circuit.num_qubits == 2
        num_free = 3 + (0 if bound else layer.spec.num_weights)
        assert circuit.num_parameters == num_free

        pixels = torch.randn(2, 3, generator=generator, dtype=torch.float64)
        values = dict(
            zip(
                [self.plain(p.name) for p in layer.circuit().parameters],
                layer.parameter_values(pixels, kernel).T,
                strict=True,
            )
        )
        rows = np.stack([values[self.plain(p.name)] for p in circuit.parameters], 1)
        pub = (circuit, [["IZ"], ["ZI"]], rows)
        evs = StatevectorEstimator().run([pub]).result()[0].data.evs
        maps = layer(pixels.T[None, :, None, :])[0, :, 0].detach().numpy()
        wanted = maps[kernel * 2 : kernel * 2 + 2]
        np.testing.assert_allclose(evs[: len(wanted)], wanted, rtol=0, atol=1e-10)

    @staticmethod
    def plain(name):
        """OpenQASM has no brackets in names: theta[1] is written as _theta_1_."""
        return name.replace("[", "_").replace("]", "_").strip("_")

    def test_metadata(self, layer, tmp_path):
        layer.export("qpy", tmp_path / "a.qpy", kernel=1)
        metadata = self.read("qpy", tmp_path / "a.qpy").metadata
        assert metadata["kernel"] == 1
        assert metadata["weights_bound"] is True
        assert metadata["num_qubits"] == 2
        assert "little-endian" in metadata["conventions"]["qubit_order"]

    @pytest.mark.parametrize("fmt", ["qasm3", "qpy"])
    def test_path_may_be_a_string(self, layer, tmp_path, fmt):
        layer.export(fmt, str(tmp_path / "a"))
        assert [p.name for p in tmp_path.iterdir()] == ["a"]

    @pytest.mark.parametrize("fmt", ["qasm3", "qpy"])
    def test_missing_folder(self, layer, tmp_path, fmt):
        with pytest.raises(FileNotFoundError, match="missing"):
            layer.export(fmt, tmp_path / "missing" / "a")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("fmt", ["qasm3", "qpy"])
    def test_target_that_cannot_be_replaced(self, layer, tmp_path, fmt):
        """Works for root as well, who may write anywhere: a folder cannot become a file."""
        target = tmp_path / "taken"
        target.mkdir()
        with pytest.raises(OSError, match="taken"):
            layer.export(fmt, target)
        assert [p.name for p in tmp_path.iterdir()] == ["taken"]

    def test_a_failed_write_leaves_the_old_file(self, layer, tmp_path, monkeypatch):
        from pathlib import Path

        path = tmp_path / "a.qpy"
        layer.export("qpy", path)
        before = path.read_bytes()

        def full_disk(self, content):
            with self.open("wb") as file:
                file.write(content[:10])
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", full_disk)
        with pytest.raises(OSError, match="No space left"):
            layer.export("qpy", path, kernel=1)
        monkeypatch.undo()
        assert path.read_bytes() == before
        assert [p.name for p in tmp_path.iterdir()] == ["a.qpy"]


class Named(ExactEngine):
    """Hears the layers' names."""

    def __init__(self):
        super().__init__()
        self.names = []

    def evs(self, call):
        self.names.append(call.layer)
        return super().evs(call)

    def evs_with_residuals(self, call):
        self.names.append(call.layer)
        return super().evs_with_residuals(call)

    def vjp(self, call, *args, **options):
        self.names.append(call.layer)
        return super().vjp(call, *args, **options)


class TestUseEngine:
    def test_switches_every_layer_and_restores(self, generator):
        first, second = ExactEngine(), ExactEngine()
        model = nn.Sequential(
            Case(3, 4, 2).layer(generator, engine=first),
            nn.Sequential(Case(4, 3, 2).layer(generator, engine=second)),
        )
        images = images_of(generator, 1, 3, 2, 2)
        expected = model(images).detach()
        with torch.no_grad(), use_engine(model, "estimator") as engine:
            assert model[0].engine is engine
            assert model[1][0].engine is engine
            torch.testing.assert_close(model(images), expected, rtol=0, atol=1e-10)
            assert engine.last_report.num_executions == 4 * 2
        assert model[0].engine is first
        assert model[1][0].engine is second

    def test_restores_after_an_exception(self, layer):
        before = layer.engine
        with pytest.raises(KeyError, match="mine"), use_engine(layer, "estimator"):
            raise KeyError("mine")
        assert layer.engine is before

    def test_overlapping_blocks(self, layer):
        """Blocks that end in the order they began, as two threads would do."""
        own = layer.engine
        first, second = use_engine(layer, "estimator"), use_engine(layer, "exact")
        outer = first.__enter__()
        inner = second.__enter__()
        assert layer.engine is inner
        first.__exit__(None, None, None)
        assert layer.engine is inner
        assert outer is not inner
        second.__exit__(None, None, None)
        assert layer.engine is own

    def test_copies_made_inside_have_their_own_engine(self, layer):
        with use_engine(layer, "estimator"):
            inside = copy.deepcopy(layer)
            pickled = pickle.loads(pickle.dumps(layer))
        assert inside.engine is layer.engine
        assert pickled.engine.name == "exact"

    def test_a_new_own_engine_set_inside_stays(self, layer):
        own = ExactEngine()
        with use_engine(layer, "estimator") as engine:
            layer.engine = own
            assert layer.engine is engine
        assert layer.engine is own

    def test_engines_hear_each_layers_name_without_wrappers(self, generator):
        """The same names for a model, its compiled form, and a parallel wrapper's."""

        model = nn.Sequential(nn.ReLU(), nn.Sequential(Case(3, 4, 2).layer(generator)))
        compiled = torch.compile(model, backend="eager")
        for form in (model, compiled, nn.DataParallel(model), nn.DataParallel(compiled)):
            engine = Named()
            with use_engine(form, engine):
                loss = form(images_of(generator, 1, 3, 2, 2)).sum()
                with torch.no_grad():
                    form(images_of(generator, 1, 3, 2, 2))
            loss.backward()
            assert engine.names == ["1.0"] * 3

    def test_outside_of_a_block_a_layer_has_no_name(self, generator):
        engine = Named()
        with torch.no_grad():
            Case(3, 4, 2).layer(generator, engine=engine)(images_of(generator, 1, 3, 2, 2))
        assert engine.names == [None]

    def test_two_layers_are_never_one_name(self, generator):
        """An engine that tells layers apart by name must see two layers as two."""

        model = nn.Module()
        model.module = nn.Module()
        model.head = Case(3, 4, 2).layer(generator)
        model.module.head = Case(4, 3, 2).layer(generator)
        engine = Named()
        with use_engine(model, engine):
            assert model.head.engine is engine
            assert model.module.head.engine is engine
            model.head(images_of(generator, 1, 3, 2, 2))
            model.module.head(images_of(generator, 1, 4, 2, 2))
        assert engine.names == ["head", "module.head"]

    def test_nested(self, layer):
        with use_engine(layer, "estimator") as outer:
            with use_engine(layer, "exact"):
                assert layer.engine.name == "exact"
            assert layer.engine is outer

    def test_backward_after_the_block_uses_the_engine_of_the_forward(self, generator):
        layer = Case(2, 1, 1).layer(generator)
        with use_engine(layer, "estimator") as engine:
            loss = layer(images_of(generator, 1, 2, 1, 1)).sum()
        assert layer.engine is not engine
        assert engine.last_report.what == "evs"
        loss.backward()
        assert engine.last_report.what == "vjp"

    def test_model_without_quantum_layers(self):
        with (
            pytest.raises(ValueError, match="Linear has no quantum pointwise convolution"),
            use_engine(nn.Linear(2, 2), "exact"),
        ):
            pass

    def test_unknown_engine_changes_nothing(self, layer):
        before = layer.engine
        with pytest.raises(ValueError, match="Unknown engine 'fast'"), use_engine(layer, "fast"):
            pass
        assert layer.engine is before

    def test_engine_attribute(self, layer):
        layer.engine = "estimator"
        assert layer.engine.name == "estimator"
        with pytest.raises(ValueError, match="Unknown engine 'fast'"):
            layer.engine = "fast"
        assert layer.engine.name == "estimator"


def test_a_users_circuit_without_num_qubits_sets_the_width():
    a = Parameter("a")
    circuit = QuantumCircuit(3)
    circuit.rx(a, 0)
    layer = QuantumPointwiseConv2d(4, 2, ansatz=circuit)
    assert layer.spec.num_qubits == 3
    assert layer.weight.shape == (1, 1)


def test_num_layers_has_no_effect_with_a_circuit():
    circuit = QuantumCircuit(1)
    circuit.rx(Parameter("a"), 0)
    with pytest.raises(ValueError, match="num_layers=2 has no effect with a circuit"):
        QuantumPointwiseConv2d(2, 2, ansatz=circuit, num_layers=2)
