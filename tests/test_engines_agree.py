"""Every engine through the conformance suite; see `conformance.py` for how to add one."""

from typing import ClassVar

import pytest
import torch
from conformance import EvsConformance, NoGradients, VjpConformance
from qiskit.primitives import StatevectorEstimator

from qpc_qiskit import EstimatorEngine, ExactEngine
from qpc_qiskit.engines import ENGINES

FLOAT64_INSIDE = {torch.float32: 1e-6, torch.float64: 1e-10}


class TestExactEngine(EvsConformance, VjpConformance):
    atol: ClassVar = {torch.float32: 2e-6, torch.float64: 1e-12}

    @pytest.fixture
    def engine(self):
        return ExactEngine()


class TestEstimatorEngineOnAer(EvsConformance, NoGradients):
    atol = FLOAT64_INSIDE

    @pytest.fixture
    def engine(self):
        return EstimatorEngine()


class TestEstimatorEngineOnStatevectors(EvsConformance, NoGradients):
    """Qiskit's own reference primitive, which binds and evolves every row by itself."""

    atol = FLOAT64_INSIDE
    many = 10

    @pytest.fixture
    def engine(self):
        return EstimatorEngine(StatevectorEstimator())


def test_every_engine_of_the_table_is_tested():
    assert set(ENGINES) == {"exact", "estimator"}
