"""What the estimator engine sends, and what it makes of broken answers."""

import pickle

import numpy as np
import pytest
import torch
from cases import Case
from conformance import weights_of
from qiskit.primitives import BaseEstimatorV2, DataBin, PubResult, StatevectorEstimator

from qpc_qiskit import EstimatorEngine, use_engine
from qpc_qiskit.errors import EngineError, QPCError

CASE = Case(5, 7, 3)


class Spy(BaseEstimatorV2):
    """Keeps the PUBs; answers with `answer(pub)`, by default rightly."""

    def __init__(self, answer=None):
        self.calls = []
        self.answer = answer

    def run(self, pubs, *, precision=None):
        self.calls.append(list(pubs))
        if self.answer is None:
            return StatevectorEstimator().run(self.calls[-1])
        data = self.answer(self.calls[-1][0])

        class Job:
            def result(self):
                return [PubResult(data)]

        return Job()


def run(engine, generator, count=4):
    pixels = torch.randn(count, 5, generator=generator, dtype=torch.float64)
    return engine.evs(CASE.spec(), pixels, weights_of(CASE, generator))


def test_one_pub_for_all_pixels_of_all_kernels(generator):
    spy = Spy()
    engine = EstimatorEngine(spy, precision=0.0)
    run(engine, generator, count=4)
    assert len(spy.calls) == 1
    (pub,) = spy.calls[0]
    assert pub.parameter_values.shape == (3 * 4,)
    assert pub.observables.shape == (3, 1)
    assert pub.shape == (3, 12)
    assert pub.precision == 0.0
    assert pub.circuit.num_parameters == 7 + 27
    assert set(pub.circuit.count_ops()) <= {"ry", "rz", "rx", "sx", "x", "cx", "cz"}
    report = engine.last_report
    assert report.num_executions == 12
    assert report.num_pubs == 1
    assert report.precision == 0.0
    assert report.to_dict()["engine"] == "estimator"


def test_images_become_one_pub_too(generator):
    spy = Spy()
    layer = CASE.layer(generator)
    with torch.no_grad(), use_engine(layer, EstimatorEngine(spy)) as engine:
        layer(torch.randn(2, 5, 3, 2, generator=generator, dtype=torch.float64))
        assert [len(call) for call in spy.calls] == [1]
        assert spy.calls[0][0].parameter_values.shape == (3 * 12,)
        layer(torch.randn(1, 5, 1, 1, generator=generator, dtype=torch.float64))
    assert engine.last_report.num_executions == 3
    assert engine.total_executions == 39
    assert engine.total_pubs == 2


def test_nothing_is_executed_for_no_pixels(generator):
    spy = Spy()
    engine = EstimatorEngine(spy)
    assert run(engine, generator, count=0).shape == (0, 3, 3)
    layer = CASE.layer(generator, engine=engine)
    assert layer(torch.empty(2, 5, 0, 3, dtype=torch.float64)).shape == (2, 7, 0, 3)
    assert spy.calls == []
    assert engine.last_report.num_executions == 0
    assert engine.last_report.num_pubs == 0


def test_repeated_parameters_are_sent_as_occurrences(generator):
    spy = Spy()
    case = Case(3, 2, 2, "user2")
    weights = weights_of(case, generator)
    EstimatorEngine(spy).evs(case.spec(), torch.ones(1, 3, dtype=torch.float64), weights)
    (pub,) = spy.calls[0]
    assert pub.circuit.num_parameters == 3 + case.spec().ansatz.num_angles
    assert case.spec().ansatz.num_angles > case.spec().num_weights


def values(pub, fill=0.5, **more):
    return DataBin(evs=np.full(pub.shape, fill), **more, shape=pub.shape)


def test_standard_errors_are_reported(generator):
    def answer(pub):
        stds = np.full(pub.shape, 0.125)
        stds[0, 0] = 0.25
        stds[0, 1] = np.nan
        return values(pub, stds=stds)

    engine = EstimatorEngine(Spy(answer))
    assert bool((run(engine, generator) == 0.5).all())
    assert engine.last_report.max_std == 0.25
    assert engine.last_report.precision is None


def test_standard_errors_are_optional(generator):
    engine = EstimatorEngine(Spy(values))
    run(engine, generator)
    assert engine.last_report.max_std is None


def test_an_estimator_that_raises(generator):
    def answer(pub):
        raise RuntimeError("queue is closed")

    with pytest.raises(
        EngineError, match="Spy failed on a PUB of 12 rows and 3 qubits: RuntimeError: queue is clo"
    ) as caught:
        run(EstimatorEngine(Spy(answer)), generator)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_the_toolkits_own_errors_pass_through(generator):
    class Pending(QPCError):
        pass

    def answer(pub):
        raise Pending("not yet")

    with pytest.raises(Pending, match="not yet"):
        run(EstimatorEngine(Spy(answer)), generator)


def test_an_interrupt_passes_through(generator):
    def answer(pub):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(EstimatorEngine(Spy(answer)), generator)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite(generator, value):
    def answer(pub):
        data = values(pub)
        data.evs[1, 5] = value
        return data

    engine = EstimatorEngine(Spy(answer))
    with pytest.raises(EngineError, match=r"36 values .* 1 are not finite; nothing of this result"):
        run(engine, generator)
    assert engine.last_report is None


@pytest.mark.parametrize(
    ("answer", "pattern"),
    [
        (
            lambda pub: DataBin(evs=np.zeros(pub.shape[::-1])),
            r"shape \(12, 3\) for 'evs'; expected",
        ),
        (lambda pub: DataBin(evs=np.zeros(3)), r"shape \(3,\) for 'evs'"),
        (lambda pub: DataBin(meas=np.zeros(3)), "nothing for 'evs'"),
    ],
)
def test_values_of_another_shape(generator, answer, pattern):
    with pytest.raises(EngineError, match=pattern):
        run(EstimatorEngine(Spy(answer)), generator)


@pytest.mark.parametrize("precision", [-0.1, np.nan, np.inf])
def test_bad_precision(precision):
    with pytest.raises(ValueError, match="precision must be a finite number >= 0"):
        EstimatorEngine(precision=precision)


def test_not_an_estimator():
    with pytest.raises(TypeError, match=r"Expected a qiskit BaseEstimatorV2 .* got str"):
        EstimatorEngine("aer")


def test_pickle():
    """The default can be rebuilt anywhere; somebody's live primitive cannot."""
    engine = EstimatorEngine(precision=0.0)
    assert engine.estimator is engine.estimator
    assert isinstance(pickle.loads(pickle.dumps(engine)).estimator, type(engine.estimator))
    with pytest.raises(EngineError, match="around Spy is a live connection and cannot be pickled"):
        pickle.dumps(EstimatorEngine(Spy()))


def test_sampled_values_scatter_as_asked(generator):
    """Aer with shot noise of standard error 0.02 on 1200 values.

    Their root mean square over 0.02 is 1 with a standard error of 1/sqrt(2400): the bounds are five
    of these (false alarms below 1e-6), and no value is six standard errors off (3e-6).
    """
    from qiskit_aer.primitives import EstimatorV2

    estimator = EstimatorV2(options={"backend_options": {"seed_simulator": 7}})
    pixels = torch.randn(400, 3, generator=generator, dtype=torch.float64)
    case = Case(3, 2, 2)
    weights = weights_of(case, generator)
    noisy = EstimatorEngine(estimator, precision=0.02)
    error = noisy.evs(case.spec(), pixels, weights) - EstimatorEngine().evs(
        case.spec(), pixels, weights
    )
    ratio = float(error.square().mean().sqrt()) / 0.02
    # Aer adds Gaussian noise of the full precision, whatever the value.
    assert abs(ratio - 1) < 5 / np.sqrt(2 * error.numel())
    assert float(error.abs().max()) < 6 * 0.02
