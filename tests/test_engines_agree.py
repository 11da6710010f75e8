"""Every engine through the conformance suite; see `conformance.py` for how to add one."""

from typing import ClassVar

import pytest
import torch
from cases import CASES, evs_of, pixels_of, vjp_of
from conformance import (
    DTYPES,
    PLAIN,
    EvsConformance,
    NoGradients,
    VjpConformance,
    grad_of,
    weights_of,
)
from qiskit.primitives import StatevectorEstimator
from tiers import thorough_if

from qpc_qiskit import EstimatorEngine, ExactEngine
from qpc_qiskit.engines import ENGINES, Engine, exact
from qpc_qiskit.engines.reports import EngineReport
from qpc_qiskit.rows.pubs import JobLimits

FLOAT64_INSIDE = {torch.float32: 1e-6, torch.float64: 1e-10}


class TestExactEngine(EvsConformance, VjpConformance):
    atol: ClassVar = {torch.float32: 5e-6, torch.float64: 1e-12}

    @pytest.fixture
    def engine(self):
        return ExactEngine()


class TestExactEngineThatKeepsNothing(EvsConformance, VjpConformance):
    """As with more pixels than are kept amplitudes for: recomputed, in many chunks."""

    atol: ClassVar = {torch.float32: 5e-6, torch.float64: 1e-12}

    @pytest.fixture
    def engine(self, monkeypatch):
        monkeypatch.setattr(exact, "_KEPT_BYTES", 0)
        monkeypatch.setattr(exact, "_BLOCK_PIXELS", 128)
        monkeypatch.setitem(exact._CHUNK_BYTES, "cpu", 1)
        return ExactEngine()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_exact_engine_on_a_gpu_equals_the_cpu(dtype, generator):
    engine, spec = ExactEngine(), PLAIN.spec()
    pixels = pixels_of(5, generator, dtype, count=3000)
    weights, grad = weights_of(PLAIN, generator, dtype), grad_of(PLAIN, 3000, generator, dtype)
    arrays = [t.cuda() for t in (pixels, weights, grad)]
    there = [evs_of(engine, spec, *arrays[:2]), *vjp_of(engine, spec, *arrays)]
    here = [evs_of(engine, spec, pixels, weights), *vjp_of(engine, spec, pixels, weights, grad)]
    bound = {torch.float32: 1e-4, torch.float64: 1e-10}[dtype]
    for a, b in zip(there, here, strict=True):
        assert a.is_cuda
        torch.testing.assert_close(a.cpu(), b, rtol=bound, atol=bound)


class TestEstimatorEngineOnAer(EvsConformance, VjpConformance):
    atol = FLOAT64_INSIDE
    many = 6

    @pytest.fixture
    def engine(self):
        return EstimatorEngine()


class TestEstimatorEngineOfEveryPixel(EvsConformance, VjpConformance):
    """Without merging equal directions, and with jobs so small that most calls need several."""

    atol = FLOAT64_INSIDE
    many = 6

    @pytest.fixture
    def engine(self):
        return EstimatorEngine(dedupe_grid=None, limits=JobLimits(max_rows=500))

    def test_every_row_is_executed(self, engine, generator):
        pixels, weights = pixels_of(5, generator, count=200), weights_of(PLAIN, generator)
        evs_of(engine, PLAIN.spec(), pixels, weights)
        assert engine.last_report.num_executions == len(pixels) * PLAIN.spec().num_kernels
        assert engine.last_report.num_pubs == 2


class TestEstimatorEngineOnStatevectors(EvsConformance):
    """Qiskit's own reference primitive, which binds and evolves every row by itself.

    So of seven qubits there is nothing here: what is sent of them is compared on Aer.
    """

    atol = FLOAT64_INSIDE
    many = 3

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize(
        "case",
        thorough_if(lambda c: c.num_qubits > 2, [c for c in CASES if c.num_qubits < 7]),
        ids=str,
    )
    def test_values_equal_the_reference(self, engine, case, dtype, shared_seed):
        super().test_values_equal_the_reference(engine, case, dtype, shared_seed)

    @pytest.fixture
    def engine(self):
        return EstimatorEngine(StatevectorEstimator())


class ValuesOnly(Engine):
    """What an engine is that leaves out all that it may."""

    name = "values-only"
    has_gradients = False

    def evs(self, call):
        found = ExactEngine().evs(call)
        self._record(
            EngineReport(
                engine=self.name,
                num_pixels=len(call.pixels),
                num_kernels=call.spec.num_kernels,
                num_executions=0,
            )
        )
        return found


class TestEngineWithoutGradients(EvsConformance, NoGradients):
    atol: ClassVar = {torch.float32: 5e-6, torch.float64: 1e-12}

    @pytest.fixture
    def engine(self):
        return ValuesOnly()


def test_every_engine_of_the_table_is_tested():
    """The noisy one's noise is drawn, in tests/qpc_qiskit/engines/test_noisy_conformance.py."""
    assert set(ENGINES) == {"exact", "estimator", "noisy"}
