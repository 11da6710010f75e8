"""Spec, pixels and weights in place of a `LayerCall`: for one version, with a warning."""

import pytest
import torch
from cases import evs_of, jacobian_of, vjp_of
from conformance import PLAIN, grad_of, weights_of

from qpc_qiskit import EstimatorEngine, ExactEngine, use_engine
from qpc_qiskit.engines import Engine


@pytest.fixture
def arguments(generator):
    pixels = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    return PLAIN.spec(), pixels, weights_of(PLAIN, generator)


def equal(found, expected):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("make", [ExactEngine, EstimatorEngine])
def test_engines_are_called_either_way(make, arguments, generator):
    engine, grad = make(), grad_of(PLAIN, 2, generator)
    named = dict(zip(("spec", "pixels", "weights"), arguments, strict=True))
    values = evs_of(engine, *arguments)
    with pytest.deprecated_call(match=r"^evs takes a LayerCall\(spec, pixels, weights\)") as told:
        equal([engine.evs(*arguments)], [values])
    assert told[0].filename == __file__
    with pytest.deprecated_call():
        equal([engine.evs(**named)], [values])
    slopes = vjp_of(engine, *arguments, grad)
    with pytest.deprecated_call(match="^vjp takes a LayerCall"):
        equal(engine.vjp(*arguments, grad), slopes)
    with pytest.deprecated_call():
        equal(engine.vjp(**named, grad=grad, wrt=(True, True)), slopes)
    with pytest.deprecated_call():
        found, residuals = engine.evs_with_residuals(*arguments)
    equal([found], [values])
    equal(vjp_of(engine, *arguments, grad, residuals=residuals), slopes)
    with pytest.deprecated_call():
        equal(engine.jacobian(*arguments), jacobian_of(engine, *arguments))


def test_an_engine_of_a_user_with_the_old_methods(generator):
    with pytest.deprecated_call(match=r"^Halved\.\w+ takes a LayerCall") as told:

        class Halved(ExactEngine):
            def evs(self, spec, pixels, weights):
                return evs_of(ExactEngine(), spec, pixels, weights) / 2

            def evs_with_residuals(self, spec, pixels, weights):
                return self.evs(spec, pixels, weights), None

            def vjp(self, spec, pixels, weights, grad, wrt=(True, True), *, residuals=None):
                slopes = vjp_of(ExactEngine(), spec, pixels, weights, grad, wrt)
                return tuple(None if slope is None else slope / 2 for slope in slopes)

    assert [each.filename for each in told] == [__file__] * 3
    layer = PLAIN.layer(generator)
    images = torch.randn(2, 5, 1, 1, generator=generator, dtype=torch.float64)
    (expected,) = torch.autograd.grad(layer(images).sum(), layer.weight)
    with use_engine(layer, Halved()):
        with torch.no_grad():
            values = layer(images)
        with pytest.deprecated_call():  # one that calls itself as it was called before
            found = layer(images)
        found.sum().backward()
    torch.testing.assert_close(values, layer(images).detach() / 2)
    torch.testing.assert_close(layer.weight.grad, expected / 2)


def test_views_of_a_layer_are_told_to_be_none_any_more():
    with pytest.raises(TypeError, match=r"^Viewed\.for_layer is not called.*call\.layer\.$"):

        class Viewed(Engine):
            name = "viewed"

            def for_layer(self, name):
                return self

            def evs(self, call):
                raise NotImplementedError


def test_what_is_missing_is_told(arguments):
    with pytest.deprecated_call(), pytest.raises(TypeError, match="'weights'"):
        ExactEngine().evs(*arguments[:2])
