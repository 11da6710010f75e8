"""Engines compute the observables that a spec tells, however many: m maps a circuit, n qubits."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from cases import Case, evs_of, jacobian_of, vjp_of
from conformance import doubles, weights_of
from references import Z, amplitudes, case_unitaries, on_qubits

from noise_models.builders import compose, depolarizing, readout
from qpc_qiskit import EstimatorEngine, ExactEngine, NoisyEngine
from qpc_qiskit.circuits.spec import LayerSpec

CASE = Case(4, 4, 2, "strongly_entangling", 2)
STRINGS = (1, 2, 3)
NOISE = compose(depolarizing(0.01), readout(0.02, 0.05)).build()


@dataclass(frozen=True)
class EveryString(LayerSpec):
    @property
    def z_strings(self):
        return STRINGS


@pytest.fixture
def arguments(generator):
    plain = CASE.spec()
    spec = EveryString(plain.in_channels, plain.num_qubits, plain.num_kernels, plain.ansatz)
    pixels = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    return spec, pixels, weights_of(CASE, generator)


def test_exact_values(arguments):
    spec, pixels, weights = arguments
    assert (spec.num_maps, spec.num_features) == (3, 6)
    states = [
        [unitary @ amplitudes(pixel, 2) for unitary in case_unitaries(CASE, *doubles(weights))]
        for pixel in pixels.numpy()
    ]
    operators = [on_qubits({q: Z for q in range(2) if mask >> q & 1}, 2) for mask in STRINGS]
    values = [[[(s.conj() @ o @ s).real for o in operators] for s in row] for row in states]
    expected = torch.from_numpy(np.array(values))
    torch.testing.assert_close(evs_of(ExactEngine(), *arguments), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"absorb_tail": True}, {"num_references": 6}], ids=str)
def test_estimator(arguments, options, generator):
    engine, exact = EstimatorEngine(**options), ExactEngine()
    plain = evs_of(engine, CASE.spec(), *arguments[1:])  # another circuit of the same ansatz
    found = evs_of(engine, *arguments)
    torch.testing.assert_close(found, evs_of(exact, *arguments), rtol=0, atol=1e-8)
    torch.testing.assert_close(found[..., :2], plain, rtol=0, atol=1e-8)
    grad = torch.randn(3, 2, 3, generator=generator, dtype=torch.float64)
    for ours, known in (
        (vjp_of(engine, *arguments, grad), vjp_of(exact, *arguments, grad)),
        (jacobian_of(engine, *arguments), jacobian_of(exact, *arguments)),
    ):
        for a, b in zip(ours, known, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-7)


@pytest.mark.parametrize("absorb_tail", [False, True])
def test_noisy(arguments, absorb_tail, generator):
    engine = NoisyEngine(NOISE, absorb_tail=absorb_tail)
    aer = EstimatorEngine.from_backend(
        "aer", noise_model=NOISE, precision=0, absorb_tail=absorb_tail
    )
    found = evs_of(engine, *arguments)
    torch.testing.assert_close(found, evs_of(aer, *arguments), rtol=0, atol=1e-8)
    assert float((found - evs_of(ExactEngine(), *arguments)).abs().max()) > 1e-3
    assert evs_of(engine, CASE.spec(), *arguments[1:]).shape == (3, 2, 2)
    grad = torch.randn(3, 2, 3, generator=generator, dtype=torch.float64)
    _, by_weights = vjp_of(engine, *arguments, grad)
    _, expected = vjp_of(aer, *arguments, grad, (False, True))
    torch.testing.assert_close(by_weights, expected, rtol=0, atol=1e-7)
