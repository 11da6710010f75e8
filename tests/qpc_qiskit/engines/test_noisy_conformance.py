"""The noisy engine through the conformance suite: with noise that does nothing it is exact."""

from functools import cache
from typing import ClassVar

import numpy as np
import pytest
import torch
from cases import CASES, evs_of
from conformance import DTYPES, EvsConformance, VjpConformance, weights_of
from qiskit_aer.noise import NoiseModel
from references import case_features

from qpc_qiskit.engines import NoisyEngine
from qpc_qiskit.pauli import compiled

NOTHING = NoiseModel(["rz", "rx", "ry", "cx", "cz"])


@cache
def shared_engine(implementation):
    """One for all tests, so that circuits are prepared once; it keeps no state of layers."""
    return NoisyEngine(NOTHING, implementation=implementation)


def without_zero_subtrees(case, generator, dtype):
    """Three of length one; in a subtree of zeros the engine's derivative is 0 by convention."""
    pixels = torch.randn(3, case.in_channels, generator=generator, dtype=torch.float64)
    pixels = torch.nn.functional.normalize(pixels).to(dtype)
    pixels[1, 0] = 0
    pixels[2, -1] *= -3
    if case.in_channels % 2:  # the last channel is a subtree of its own
        pixels[2, -1] = 1
    return pixels


class NoisyConformance(EvsConformance, VjpConformance):
    atol: ClassVar = {torch.float32: 5e-6, torch.float64: 1e-12}
    many = 280

    pixels_for_slopes = staticmethod(without_zero_subtrees)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("case", [c for c in CASES if c.num_qubits < 7], ids=str)
    def test_values_equal_the_reference(self, engine, case, dtype, shared_seed):
        """Tables for seven qubits take seconds to make."""
        super().test_values_equal_the_reference(engine, case, dtype, shared_seed)


class TestNoisyEngineInTorch(NoisyConformance):
    @pytest.fixture
    def engine(self):
        return shared_engine("torch")


@pytest.mark.skipif(compiled.find_compiler() is None, reason="no C compiler")
class TestNoisyEngineCompiled(NoisyConformance):
    @pytest.fixture
    def engine(self):
        return shared_engine("compiled")


def test_the_suite_sees_noise(generator):
    """Or it would say nothing of this engine."""
    from conformance import PLAIN
    from qiskit_aer.noise import depolarizing_error

    model = NoiseModel(["rz", "rx", "ry", "cx", "cz"])
    model.add_all_qubit_quantum_error(depolarizing_error(1e-3, 1), "ry")
    pixels = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    weights = weights_of(PLAIN, generator)
    found = evs_of(NoisyEngine(model), PLAIN.spec(), pixels, weights).numpy()
    expected = case_features(PLAIN, pixels.numpy(), weights.numpy())
    assert np.abs(found - expected).max() > 1e-4
