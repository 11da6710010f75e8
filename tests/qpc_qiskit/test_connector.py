"""The connector by itself: pixels, not images. What it shares with the layer is tested there."""

import pytest
import torch
from cases import Case

from qpc_qiskit import ExactEngine, PointwiseConnector, PointwiseQNN

CASE = Case(5, 7, 3)


class WithoutResiduals(ExactEngine):
    def evs_with_residuals(self, *args):
        raise AssertionError("nothing here needs a gradient")


@pytest.fixture
def connector():
    return PointwiseConnector(PointwiseQNN(CASE.spec()), dtype=torch.float64)


def test_default_weights_are_angles(connector):
    assert connector.weight.shape == (3, 27)
    assert bool(((connector.weight >= 0) & (connector.weight < 2 * torch.pi)).all())
    assert list(connector.state_dict()) == ["weight"]


@pytest.mark.parametrize("shape", [(5,), (2, 4), (2, 6), (2, 5, 1)])
@pytest.mark.parametrize("engine", ["exact", "estimator"])
def test_shape(connector, shape, engine):
    connector.engine = engine
    with pytest.raises(ValueError, match=r"Expected pixels of shape \(N, 5\), got"):
        connector(torch.ones(shape, dtype=torch.float64))


@pytest.mark.parametrize("engine", ["exact", "estimator"])
def test_dtype(connector, engine):
    connector.engine = engine
    with pytest.raises(TypeError, match=r"Expected torch.float64 pixels, got torch.float32"):
        connector(torch.ones(2, 5))


def test_inference_pays_nothing_for_training(connector):
    connector.engine = WithoutResiduals()
    pixels = torch.ones(2, 5, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        assert connector(pixels).shape == (2, 9)
    with torch.inference_mode():
        assert connector(pixels).shape == (2, 9)
    connector.requires_grad_(False)
    assert connector(pixels.detach()).shape == (2, 9)
    with pytest.raises(AssertionError, match="needs a gradient"):
        connector(pixels)


def test_a_second_backward_gives_the_same(connector):
    """The first one uses up what the forward pass kept."""
    pixels = torch.rand(40, 5, dtype=torch.float64, requires_grad=True)
    loss = connector(pixels).square().sum()
    first = torch.autograd.grad(loss, [pixels, connector.weight], retain_graph=True)
    second = torch.autograd.grad(loss, [pixels, connector.weight])
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
