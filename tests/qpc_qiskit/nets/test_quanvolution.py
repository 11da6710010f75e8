import pytest
import torch

from qpc_qiskit import QuantumPointwiseConv2d, use_engine
from qpc_qiskit.nets import QuanvolutionLayer
from qpc_qiskit.nets.pointwise import make_pointwise


@pytest.mark.parametrize(
    ("kernel_size", "stride", "padding", "expected"),
    [(3, 1, 1, (6, 7)), (2, 2, 0, (3, 3)), (1, 1, 0, (6, 7)), (3, 2, 0, (2, 3)), (2, 1, 1, (7, 8))],
)
def test_each_position_is_the_layer_on_its_window(
    kernel_size, stride, padding, expected, generator
):
    layer = QuanvolutionLayer(
        2, 5, kernel_size, stride=stride, padding=padding, bias_channel=True, dtype=torch.float64
    )
    images = torch.randn(2, 2, 6, 7, generator=generator, dtype=torch.float64)
    maps = layer(images)
    assert maps.shape == (2, 5, *expected)
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    for row in range(expected[0]):
        for column in range(expected[1]):
            top, left = row * stride, column * stride
            window = padded[:, :, top : top + kernel_size, left : left + kernel_size]
            pixel = window.reshape(2, -1, 1, 1)
            torch.testing.assert_close(maps[:, :, row, column], layer.pointwise(pixel)[:, :, 0, 0])


def test_windows_of_one_pixel_are_the_pointwise_layer(generator):
    ours, theirs = QuanvolutionLayer(3, 4, 1), QuantumPointwiseConv2d(3, 4)
    theirs.load_state_dict(ours.pointwise.state_dict())
    images = torch.randn(2, 3, 4, 4, generator=generator)
    torch.testing.assert_close(ours(images), theirs(images))


def test_gradients_and_engines(generator):
    layer = QuanvolutionLayer(1, 3, 2, num_layers=1)
    images = torch.rand(1, 1, 3, 3, generator=generator).requires_grad_()
    layer(images).square().sum().backward()
    assert float(images.grad.abs().max()) > 0
    assert float(layer.pointwise.weight.grad.abs().max()) > 0
    with torch.no_grad(), use_engine(layer, "estimator"):
        torch.testing.assert_close(layer(images), layer.pointwise(_windows(images)))
        through_aer = layer(images)
    torch.testing.assert_close(through_aer, layer(images), atol=1e-6, rtol=0)


def _windows(images):
    return torch.nn.functional.unfold(images, 2).unflatten(2, (2, 2))


def test_any_pointwise_layer():
    layer = QuanvolutionLayer(
        1, 6, 3, make=lambda inputs, outputs: make_pointwise("conv", inputs, outputs)
    )
    assert layer(torch.rand(1, 1, 5, 5)).shape == (1, 6, 3, 3)


@pytest.mark.parametrize(
    ("shape", "match"),
    [
        ((1, 2, 4, 4), r"expected images of shape \(B, 1, H, W\), got \(1, 2, 4, 4\)"),
        ((1, 4, 4), r"got \(1, 4, 4\)"),
        ((1, 1, 2, 4), "images of at least 3 pixels a side"),
    ],
)
def test_wrong_images(shape, match):
    with pytest.raises(ValueError, match=match):
        QuanvolutionLayer(1, 4, 3)(torch.rand(shape))


@pytest.mark.parametrize("options", [{"stride": 0}, {"padding": -1}, {"kernel_size": 0}])
def test_wrong_sizes(options):
    with pytest.raises(ValueError, match="Expected kernel_size and stride of at least 1"):
        QuanvolutionLayer(1, 4, **{"kernel_size": 3, **options})
