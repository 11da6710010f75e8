"""What the estimator engine sends, what it makes of answers, and what it tells of them."""

import json
import math
import pickle

import numpy as np
import pytest
import torch
from cases import Case, evs_of, jacobian_of, vjp_of
from conformance import grad_of, weights_of
from fakes import Spy
from qiskit.primitives import DataBin, PrimitiveResult, PubResult, StatevectorEstimator
from qiskit.primitives.base import BaseEstimatorV2
from qiskit.providers.fake_provider import GenericBackendV2
from qiskit_aer.primitives import EstimatorV2 as AerEstimatorV2
from tiers import thorough

from qpc_qiskit import EstimatorEngine, ExactEngine, use_engine
from qpc_qiskit.backends.aer import AerEstimator
from qpc_qiskit.errors import BudgetError, EngineError, QPCError
from qpc_qiskit.options.engine import EngineOptions
from qpc_qiskit.rows.gradients import Spsa
from qpc_qiskit.rows.pubs import JobLimits

CASE = Case(5, 7, 3)
SPEC = CASE.spec()  # K = 3
ONE_ROW = JobLimits(max_rows=1)


def pixels_for(generator, count=4, channels=5):
    return torch.randn(count, channels, generator=generator, dtype=torch.float64)


def run(engine, generator, count=4):
    return evs_of(engine, SPEC, pixels_for(generator, count), weights_of(CASE, generator))


def values(pub, fill=0.5, **more):
    return DataBin(evs=np.full(pub.shape, fill), **more, shape=pub.shape)


class Job:
    """A primitive's job whose result is whatever a function gives."""

    def __init__(self, result, job_id):
        self._result, self._id, self.is_cancelled = result, job_id, False

    def result(self):
        return self._result()

    def job_id(self):
        return self._id

    def cancel(self):
        self.is_cancelled = True
        raise RuntimeError("too late")  # an engine must not care


class Queue(BaseEstimatorV2):
    """Jobs fail or answer only when their results are asked for.

    Args:
        broken: index of a job -> exception, or what is in the result in place of its data.
    """

    def __init__(self, broken):
        self.broken, self.jobs, self.estimator = broken, [], StatevectorEstimator()

    def run(self, pubs, *, precision=None):
        index, pubs = len(self.jobs), list(pubs)

        def result():
            broken = self.broken.get(index)
            if isinstance(broken, BaseException):
                raise broken
            if broken is not None:
                return PrimitiveResult([PubResult(broken)])
            return self.estimator.run(pubs).result()

        self.jobs.append(Job(result, f"id-{index}"))
        return self.jobs[-1]


class TestWhatIsSent:
    def test_one_pub_for_all_pixels_of_all_kernels(self, generator):
        spy = Spy()
        engine = EstimatorEngine(spy, precision=0.0)
        run(engine, generator, count=4)
        assert (spy.num_runs, spy.num_pubs, spy.num_rows) == (1, 1, 3 * 4)
        (pub,) = spy.pubs
        assert pub.parameter_values.shape == (3 * 4,)
        assert pub.observables.shape == (3, 1)
        assert pub.shape == (3, 12)
        assert pub.precision == 0.0
        assert pub.circuit.num_parameters == 7 + 27
        assert set(pub.circuit.count_ops()) <= {"ry", "rz", "rx", "sx", "x", "cx", "cz"}
        report = engine.last_report
        assert report.num_executions == report.num_rows == 12
        assert report.num_pubs == 1
        assert report.precision == 0.0

    @pytest.mark.parametrize("count", [1, 3, 10])
    @pytest.mark.parametrize("grid", [None, 2.0**-20])
    def test_executions_are_pixels_times_kernels(self, count, grid, generator):
        spy = Spy(answer=values)
        engine = EstimatorEngine(spy, dedupe_grid=grid)
        run(engine, generator, count)
        assert spy.num_rows == engine.last_report.num_executions == count * 3
        assert engine.last_report.num_rows == count * 3

    def test_equal_directions_are_run_once(self, generator):
        """Scaled, negated and repeated pixels, and zeros of either sign."""
        plain = pixels_for(generator, 3)
        pixels = torch.cat([plain, -2.5 * plain, plain[:1], torch.zeros(2, 5).double()])
        pixels[-1] = -0.0
        weights = weights_of(CASE, generator)
        once, every = Spy(AerEstimator()), Spy(AerEstimator())
        engine = EstimatorEngine(once)
        found = evs_of(engine, SPEC, pixels, weights)
        assert once.num_rows == engine.last_report.num_executions == (3 + 1) * 3
        assert engine.last_report.num_rows == 9 * 3
        assert engine.last_report.dedupe_grid == 2**-20
        reference = EstimatorEngine(every, dedupe_grid=None)
        expected = evs_of(reference, SPEC, pixels, weights)
        assert every.num_rows == reference.last_report.num_executions == 9 * 3
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        assert torch.equal(found[3:6], found[:3])

    def test_a_coarse_grid_moves_values_within_its_bound(self, generator):
        pixels = torch.rand(300, 2, generator=generator, dtype=torch.float64)
        case = Case(2, 2, 1)
        weights = weights_of(case, generator)
        grid = 1 / 16
        engine = EstimatorEngine(dedupe_grid=grid)
        found = evs_of(engine, case.spec(), pixels, weights)
        assert engine.last_report.num_executions < 300
        error = (found - evs_of(ExactEngine(), case.spec(), pixels, weights)).abs().max()
        assert 1e-4 < float(error) <= 2 * grid * math.sqrt(2)

    def test_a_fine_grid_merges_what_is_equal_alone(self, generator):
        pixels = pixels_for(generator)
        pixels = torch.cat([pixels, pixels])
        weights = weights_of(CASE, generator)
        engine = EstimatorEngine(dedupe_grid=1e-13)
        found = evs_of(engine, SPEC, pixels, weights)
        assert engine.last_report.num_executions == 4 * 3
        exact = evs_of(ExactEngine(), SPEC, pixels, weights)
        torch.testing.assert_close(found, exact, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("grid", [0, 1, -0.1, 1e-17, float("nan")])
    def test_a_grid_that_is_none(self, grid):
        with pytest.raises(ValueError, match="dedupe_grid must be at least"):
            EstimatorEngine(dedupe_grid=grid)

    @pytest.mark.parametrize("ansatz", ["strongly_entangling", "circuit_centric"])
    def test_a_training_step_through_the_connector(self, ansatz, generator):
        """N*K*(1 + 2R + 2C) executions."""
        case = Case(3, 4, 2, ansatz, 2)
        spec, spy = case.spec(), Spy(answer=values)
        layer = case.layer(generator, engine=EstimatorEngine(spy, dedupe_grid=None))
        images = torch.randn(1, 3, 2, 2, generator=generator, dtype=torch.float64)
        images.requires_grad_()
        (layer(images) ** 3).sum().backward()
        occurrences = spec.ansatz.num_angles
        assert spy.num_rows == 4 * 2 * (1 + 2 * occurrences + 2 * 3)
        assert spy.num_runs == spy.num_pubs == 2
        assert all(pub.observables.shape == (2, 1) for pub in spy.pubs)
        assert layer.engine.total_executions == spy.num_rows
        assert layer.engine.total_pubs == 2

    def test_a_step_for_weights_alone_or_by_signs(self, generator):
        case = Case(3, 4, 2, "figure1", 2)
        images = torch.randn(1, 3, 2, 2, generator=generator, dtype=torch.float64)
        spy = Spy(answer=values)
        layer = case.layer(generator, engine=EstimatorEngine(spy, dedupe_grid=None))
        (layer(images) ** 3).sum().backward()
        assert spy.num_rows == 4 * 2 * (1 + 2 * case.spec().ansatz.num_angles)
        spy = Spy(answer=values)
        layer.engine = EstimatorEngine(spy, dedupe_grid=None, gradients=Spsa(num_samples=3))
        (layer(images.requires_grad_()) ** 3).sum().backward()
        # A line that was drawn twice is run once.
        assert 4 * 2 * (1 + 2 * 3 + 2) <= spy.num_rows <= 4 * 2 * (1 + 4 * 3)

    def test_a_vjp_by_itself_needs_no_forward_values(self, generator):
        spy = Spy(answer=values)
        engine = EstimatorEngine(spy, dedupe_grid=None)
        weights, grad = weights_of(CASE, generator), grad_of(CASE, 2, generator)
        vjp_of(engine, SPEC, pixels_for(generator, 2), weights, grad)
        assert spy.num_rows == 2 * 3 * (2 * SPEC.ansatz.num_angles + 2 * 5)
        spy.calls.clear()
        vjp_of(engine, SPEC, pixels_for(generator, 2), weights, torch.zeros_like(grad))
        vjp_of(engine, SPEC, pixels_for(generator, 2), weights, grad, (False, False))
        assert spy.calls == []

    def test_images_become_one_pub_too(self, generator):
        spy = Spy()
        layer = CASE.layer(generator)
        with torch.no_grad(), use_engine(layer, EstimatorEngine(spy)) as engine:
            layer(torch.randn(2, 5, 3, 2, generator=generator, dtype=torch.float64))
            assert [len(call) for call in spy.calls] == [1]
            assert spy.pubs[0].parameter_values.shape == (3 * 12,)
            layer(torch.randn(1, 5, 1, 1, generator=generator, dtype=torch.float64))
        assert engine.last_report.num_executions == 3
        assert engine.total_executions == 39
        assert engine.total_pubs == 2

    def test_nothing_is_executed_for_no_pixels(self, generator):
        spy = Spy()
        engine = EstimatorEngine(spy)
        assert run(engine, generator, count=0).shape == (0, 3, 3)
        layer = CASE.layer(generator, engine=engine)
        assert layer(torch.empty(2, 5, 0, 3, dtype=torch.float64)).shape == (2, 7, 0, 3)
        assert spy.calls == []
        assert engine.last_report.num_executions == 0
        assert engine.last_report.num_pubs == 0
        assert engine.last_report.max_std is None

    def test_repeated_parameters_are_sent_as_occurrences(self, generator):
        spy = Spy()
        case = Case(3, 2, 2, "user2")
        weights = weights_of(case, generator)
        evs_of(EstimatorEngine(spy), case.spec(), torch.ones(1, 3, dtype=torch.float64), weights)
        (pub,) = spy.pubs
        assert pub.circuit.num_parameters == 3 + case.spec().ansatz.num_angles
        assert case.spec().ansatz.num_angles > case.spec().num_weights

    def test_the_circuit_is_made_once(self, generator):
        spy = Spy()
        engine = EstimatorEngine(spy)
        run(engine, generator)
        run(engine, generator)
        assert spy.pubs[0].circuit is spy.pubs[1].circuit
        assert engine.prepare(SPEC) is engine.prepare(CASE.layer(generator).spec)


class TestJobs:
    @pytest.mark.parametrize(
        ("limits", "sizes"),
        [
            (JobLimits(max_rows=5), [4, 4, 4]),
            (JobLimits(max_rows=1), [1] * 12),
            (JobLimits(max_rows=100), [12]),
            (JobLimits(max_bytes=7 * 8 * 34), [6, 6]),
            (JobLimits(max_executions=500), [4, 4, 4]),
        ],
    )
    def test_limits_make_several_jobs_of_equal_values(self, limits, sizes, generator):
        spy, whole = Spy(), Spy()
        pixels, weights = pixels_for(generator), weights_of(CASE, generator)
        engine = EstimatorEngine(spy, shots=100, limits=limits)
        spy.estimator = StatevectorEstimator(default_precision=0)
        exact = evs_of(EstimatorEngine(whole), SPEC, pixels, weights)
        spy.answer = lambda pub: whole.estimator.run([(*_parts(pub), 0)]).result()[0].data
        found = evs_of(engine, SPEC, pixels, weights)
        assert [len(call) for call in spy.calls] == [1] * len(sizes)
        assert [pub.parameter_values.size for pub in spy.pubs] == sizes
        assert {pub.precision for pub in spy.pubs} == {0.1}
        torch.testing.assert_close(found, exact, rtol=0, atol=1e-12)
        assert engine.last_report.num_pubs == len(sizes)
        assert engine.last_report.num_executions == 12
        assert len(set(engine.last_report.job_ids)) == len(sizes)

    def test_gradients_in_several_jobs(self, generator):
        pixels, weights = pixels_for(generator, 2), weights_of(CASE, generator)
        grad = grad_of(CASE, 2, generator)
        one, many = EstimatorEngine(), EstimatorEngine(limits=JobLimits(max_rows=50))
        for a, b in zip(
            vjp_of(one, SPEC, pixels, weights, grad),
            vjp_of(many, SPEC, pixels, weights, grad),
            strict=True,
        ):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
        assert (one.last_report.num_pubs, many.last_report.num_pubs) == (1, 8)

    def test_a_limit_below_one_row(self, generator):
        spy = Spy()
        with pytest.raises(EngineError, match=r"One row \(272 bytes, 100 shots\) .* executions"):
            run(EstimatorEngine(spy, shots=100, limits=JobLimits(max_executions=99)), generator)
        assert spy.calls == []


def _parts(pub):
    return pub.circuit, pub.observables, pub.parameter_values


class TestBrokenEstimators:
    def check_untouched(self, engine, jobs=0, executions=0):
        """Nothing but what was sent, which is paid for, is counted."""
        assert engine.last_report is None
        assert (engine.total_pubs, engine.total_executions) == (jobs, executions)
        assert engine.total_predicted_qpu_seconds == 0

    def test_one_that_raises_at_once(self, generator):
        engine = EstimatorEngine(Spy(fail_at=(0, RuntimeError("queue is closed"))))
        with pytest.raises(
            EngineError,
            match=r"^Spy: Spy failed on job 1 of 1 \(rows 0 to 11 of 12\): "
            r"RuntimeError: queue is closed$",
        ) as caught:
            run(engine, generator)
        assert isinstance(caught.value.__cause__, RuntimeError)
        self.check_untouched(engine)

    def test_one_that_raises_on_the_third_of_five_jobs(self, generator):
        spy = Spy(fail_at=(2, RuntimeError("queue is closed")))
        engine = EstimatorEngine(spy, limits=JobLimits(max_rows=3))
        with pytest.raises(
            EngineError, match=r"job 3 of 5 \(rows 6 to 8 of 15.*jobs sent: .*, .*\)"
        ):
            run(engine, generator, count=5)
        assert spy.num_runs == 3
        self.check_untouched(engine, 2, 6)
        assert run(engine, generator).shape == (4, 3, 3)  # it goes on working
        assert (engine.total_pubs, engine.total_executions) == (2 + 4, 6 + 12)

    def test_a_job_that_fails_later(self, generator):
        queue = Queue({2: OSError("gone")})
        engine = EstimatorEngine(queue, limits=JobLimits(max_rows=3))
        with pytest.raises(EngineError, match=r"Queue failed on job 3 of 5 .*OSError: gone .*id-2"):
            run(engine, generator, count=5)
        assert [job.is_cancelled for job in queue.jobs] == [False, False, True]
        self.check_untouched(engine, 3, 9)

    def test_a_backward_pass_that_fails_leaves_no_gradient(self, generator):
        spy = Spy(fail_at=(1, RuntimeError("gone")))
        layer = CASE.layer(generator, engine=EstimatorEngine(spy))
        features = layer(torch.randn(1, 5, 1, 1, generator=generator, dtype=torch.float64))
        forward = layer.engine.last_report
        with pytest.raises(EngineError, match="gone"):
            features.sum().backward()
        assert layer.weight.grad is None
        assert layer.engine.last_report is forward
        assert layer.engine.total_executions == 3

    @pytest.mark.parametrize("at", ["run", "result"])
    @pytest.mark.parametrize("kind", [QPCError, KeyboardInterrupt])
    def test_the_toolkits_own_errors_and_interrupts_pass_through(self, kind, at, generator):
        error = kind("not yet")
        broken = Spy(fail_at=(1, error)) if at == "run" else Queue({1: error})
        engine = EstimatorEngine(broken, limits=JobLimits(max_rows=6))
        with pytest.raises(kind, match="not yet") as caught:
            run(engine, generator)
        assert caught.value is error
        assert caught.value.__notes__[0].startswith(
            f"{type(broken).__name__}: at job 2 of 2 (rows 6 to 11 of 12) (jobs sent: "
        )
        self.check_untouched(engine, *((1, 6) if at == "run" else (2, 12)))

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_values_that_are_not_finite(self, generator, value):
        def answer(pub):
            data = values(pub)
            data.evs[1, 5] = value
            return data

        engine = EstimatorEngine(Spy(answer=answer))
        with pytest.raises(EngineError, match=r"36 values .* 1 are not finite; nothing of this"):
            run(engine, generator)
        self.check_untouched(engine, 1, 12)

    @pytest.mark.parametrize(
        ("answer", "pattern"),
        [
            (
                lambda pub: DataBin(evs=np.zeros(pub.shape[::-1])),
                r"shape \(12, 3\); expected shape \(3, 12\)",
            ),
            (lambda pub: DataBin(evs=np.zeros(3)), r"values of shape \(3,\)"),
            (lambda pub: DataBin(evs=np.zeros((3, 1))), r"values of shape \(3, 1\)"),
            (lambda pub: DataBin(meas=np.zeros(3)), "returned no values"),
        ],
    )
    def test_values_of_another_shape(self, generator, answer, pattern):
        engine = EstimatorEngine(Spy(answer=answer))
        with pytest.raises(EngineError, match=pattern):
            run(engine, generator)
        self.check_untouched(engine, 1, 12)

    def test_no_result_at_all(self, generator):
        class Empty(Spy):
            def _answers(self, pubs):
                return PrimitiveResult([])

        with pytest.raises(EngineError, match=r"Empty failed on job 1 of 1 .*IndexError"):
            run(EstimatorEngine(Empty(answer=values)), generator)

    def test_a_job_without_an_id(self, generator):
        class Plain(BaseEstimatorV2):
            def run(self, pubs, *, precision=None):
                class Answer:
                    def result(self):
                        return [PubResult(values(pub)) for pub in pubs]

                return Answer()

        engine = EstimatorEngine(Plain())
        assert bool((run(engine, generator) == 0.5).all())
        assert engine.last_report.job_ids == ("",)


class TestArguments:
    @pytest.mark.parametrize("precision", [-0.1, 9e-7, 5e-324, np.nan, np.inf])
    def test_bad_precision(self, precision):
        for make in (EstimatorEngine, EstimatorEngine.from_backend):
            with pytest.raises(
                ValueError, match=r"precision must be 0 .* finite .* least 1e-06, g"
            ):
                make(precision=precision)

    @pytest.mark.parametrize("shots", [0, -5, 1.5, True, "10"])
    def test_bad_shots(self, shots):
        for make in (EstimatorEngine, EstimatorEngine.from_backend):
            with pytest.raises(ValueError, match="shots must be a positive integer"):
                make(shots=shots)

    def test_shots_and_precision(self):
        with pytest.raises(ValueError, match="shots and precision contradict each other; give one"):
            EstimatorEngine(shots=100, precision=0.1)
        assert EngineOptions().standard_error is None
        assert EngineOptions(precision=0.0).standard_error == 0

    @pytest.mark.parametrize("shots", [1, 3, 10, 1000, 4095, 10_000_000])
    def test_shots_are_sent_as_the_precision_that_means_them(self, shots):
        spy = Spy(answer=values)
        engine = EstimatorEngine(spy, shots=shots)
        evs_of(engine, SPEC, torch.ones(1, 5).double(), torch.zeros(3, SPEC.num_weights).double())
        (pub,) = spy.pubs
        assert math.ceil(1 / pub.precision**2) == shots
        assert engine.shots == engine.last_report.shots == shots

    def test_shots_where_nothing_is_asked_for(self):
        assert EstimatorEngine().shots is None
        assert EstimatorEngine(Spy()).shots is None
        assert EstimatorEngine.from_backend("fake_manila").shots == 4096
        assert EstimatorEngine.from_backend("fake_manila", precision=0).shots is None
        assert EstimatorEngine.from_backend("aer", precision=0.1).shots == 100

    def test_not_an_estimator(self):
        with pytest.raises(TypeError, match=r"Expected a qiskit BaseEstimatorV2 .* got str"):
            EstimatorEngine("aer")

    def test_unknown_names(self):
        with pytest.raises(ValueError, match=r"Unknown gradients 'adjoint'.*shift, spsa"):
            EstimatorEngine(gradients="adjoint")
        with pytest.raises(ValueError, match="Unknown encoder 'basis'"):
            EstimatorEngine(encoder="basis")
        with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
            EstimatorEngine.from_backend(colour=1)


class TestBudget:
    def engine(self, **options):
        return EstimatorEngine.from_backend("fake_manila", shots=1000, seed=1, **options)

    def send(self, engine, generator, count=2):
        case = Case(3, 2, 2)
        pixels = pixels_for(generator, count, 3)
        return evs_of(engine, case.spec(), pixels, weights_of(case, generator))

    def test_is_refused_before_anything_is_sent(self, generator, monkeypatch):
        engine = self.engine(max_qpu_seconds=2.1)
        estimator = engine.destination.connect(engine.prepare(Case(3, 2, 2).spec()))
        sent = []
        monkeypatch.setattr(type(estimator), "run", lambda *a, **k: sent.append(a))
        with pytest.raises(
            BudgetError, match=r"2 executions of 1000 shots .* fake_manila.* is 2.1; nothing was"
        ):
            self.send(engine, generator)
        assert sent == []
        assert engine.total_predicted_qpu_seconds == 0
        assert engine.last_report is None

    def test_adds_up_over_calls(self, generator):
        engine = self.engine()
        self.send(engine, generator)
        each = engine.last_report.predicted_qpu_seconds
        assert each == engine.total_predicted_qpu_seconds > 2
        engine = self.engine(max_qpu_seconds=2.5 * each)
        for calls in (1, 2):
            self.send(engine, generator)
            assert engine.total_predicted_qpu_seconds == pytest.approx(calls * each)
        with pytest.raises(BudgetError, match="with what this engine sent before"):
            self.send(engine, generator)
        assert engine.total_predicted_qpu_seconds == pytest.approx(2 * each)

    def test_is_counted_for_gradients_and_jobs(self, generator):
        case = Case(3, 2, 2, "figure1", 1)
        engine = self.engine(limits=JobLimits(max_rows=4))
        grad = grad_of(case, 1, generator)
        vjp_of(engine, case.spec(), pixels_for(generator, 1, 3), weights_of(case, generator), grad)
        report = engine.last_report
        assert report.num_pubs == math.ceil(report.num_executions / 4)
        shot = engine.prepare(case.spec()).times.total()
        assert 0 < shot < 1e-3
        expected = 2 * report.num_pubs + report.num_executions * 1000 * shot
        assert report.predicted_qpu_seconds == pytest.approx(expected)

    def test_without_a_price(self, generator):
        engine = EstimatorEngine(max_qpu_seconds=10)
        with pytest.raises(BudgetError, match=r"what rows take on aer .* not known; nothing was s"):
            run(engine, generator)
        engine = EstimatorEngine.from_backend("fake_manila", precision=0, max_qpu_seconds=10)
        with pytest.raises(BudgetError, match=r"options is not known; nothing was sent"):
            run(engine, generator)

    @pytest.mark.parametrize("budget", [math.nan, math.inf, -1, -0.5, "10", None])
    def test_what_is_none(self, budget):
        for make in (EstimatorEngine, EstimatorEngine.from_backend):
            if budget is None:
                make(max_qpu_seconds=None)
                continue
            with pytest.raises(
                ValueError, match=rf"max_qpu_seconds must be a finite number .* got {budget!r}\.$"
            ):
                make(max_qpu_seconds=budget)

    def test_of_zero_sends_nothing(self, generator):
        engine = self.engine(max_qpu_seconds=0)
        with pytest.raises(BudgetError, match="is 0; nothing was sent"):
            self.send(engine, generator)
        assert self.send(engine, generator, count=0).shape == (0, 1, 2)

    def test_a_call_that_fails_is_counted(self, generator, monkeypatch):
        """What was sent is paid for, whatever becomes of it."""
        whole = self.engine()
        self.send(whole, generator, count=6)
        engine = self.engine(limits=JobLimits(max_rows=2))
        prepared = engine.prepare(Case(3, 2, 2).spec())
        shot = prepared.times.total()
        kind = type(engine.destination.connect(prepared))
        honest, runs = kind.run, []

        def run_twice(estimator, pubs, **options):
            runs.append(pubs)
            if len(runs) == 3:
                raise OSError("network is down")
            return honest(estimator, pubs, **options)

        monkeypatch.setattr(kind, "run", run_twice)
        with pytest.raises(EngineError, match=r"job 3 of 3 .*network is down"):
            self.send(engine, generator, count=6)
        assert (engine.total_pubs, engine.total_executions) == (2, 4)
        expected = 2 * 2 + 4 * 1000 * shot
        assert engine.total_predicted_qpu_seconds == pytest.approx(expected)
        monkeypatch.undo()
        # It is counted against the budget too.
        engine._max_qpu_seconds = expected + whole.last_report.predicted_qpu_seconds
        with pytest.raises(BudgetError, match="with what this engine sent before"):
            self.send(engine, generator, count=6)
        engine._max_qpu_seconds += 4 + 1e-6  # up to rounding
        self.send(engine, generator, count=6)
        assert (engine.total_pubs, engine.total_executions) == (2 + 3, 4 + 6)

    def test_without_a_price_but_without_a_budget(self, generator):
        engine = EstimatorEngine()
        run(engine, generator)
        assert engine.total_predicted_qpu_seconds == 0


class TestForecast:
    @pytest.mark.parametrize(
        ("options", "limits"),
        [({}, None), ({"resilience": 1}, JobLimits(max_rows=5))],
        ids=["plain", "TREX"],
    )
    def test_is_what_is_sent(self, limits, options, generator):
        engine = EstimatorEngine.from_backend(
            "fake_manila", shots=100, seed=1, limits=limits, **options
        )
        found = engine.forecast(SPEC, 4)
        assert engine.total_pubs == 0
        run(engine, generator, count=4)
        report = engine.last_report
        assert found.num_executions == report.num_executions == 12
        assert found.num_jobs == report.num_pubs == (1 if limits is None else 3)
        assert found.shots == report.shots == 100
        assert (
            found.qpu_seconds == report.predicted_qpu_seconds == engine.total_predicted_qpu_seconds
        )

    def test_by_hand(self):
        engine = EstimatorEngine.from_backend(
            "fake_manila", shots=1000, limits=JobLimits(max_rows=4)
        )
        shot = engine.prepare(SPEC).times.total()
        found = engine.forecast(SPEC, 5)
        assert (found.num_executions, found.num_jobs, found.shots) == (15, 4, 1000)
        assert found.qpu_seconds == pytest.approx(4 * 2 + 15 * 1000 * shot)

    def test_without_a_price(self):
        found = EstimatorEngine().forecast(SPEC, 7)
        assert (found.num_executions, found.num_jobs) == (21, 1)
        assert found.shots is found.qpu_seconds is None
        found = EstimatorEngine.from_backend("fake_manila", precision=0).forecast(SPEC, 7)
        assert found.shots is found.qpu_seconds is None
        assert EstimatorEngine(Spy(), shots=50).forecast(SPEC, 7).shots == 50

    def test_nothing(self):
        found = EstimatorEngine.from_backend("fake_manila").forecast(SPEC, 0)
        assert (found.num_executions, found.num_jobs, found.qpu_seconds) == (0, 0, 0)


class TestReports:
    def test_standard_errors_are_reported(self, generator):
        def answer(pub):
            stds = np.full(pub.shape, 0.125)
            stds[0, 0] = 0.25  # feature 0 of kernel 0 for pixel 0
            stds[2, 4 + 3] = np.nan  # feature 2 of kernel 1 for pixel 3
            return values(pub, stds=stds)

        engine = EstimatorEngine(Spy(answer=answer))
        assert bool((run(engine, generator) == 0.5).all())
        report = engine.last_report
        (stds,) = report.stds
        assert stds.shape == (4, 3, 3)
        assert stds[0, 0, 0] == report.max_std == 0.25
        assert bool(stds[3, 1, 2].isnan())
        assert report.num_unknown_stds == 1
        assert report.precision is report.shots is None
        assert report.what == "evs"
        assert report.backend == "Spy"

    def test_standard_errors_are_optional(self, generator):
        engine = EstimatorEngine(Spy(answer=values))
        run(engine, generator)
        assert engine.last_report.max_std is None
        assert engine.last_report.num_unknown_stds == 4 * 3 * 3
        assert bool(engine.last_report.stds[0].isnan().all())

    @pytest.mark.parametrize("wrt", [(True, True), (True, False), (False, True)])
    def test_standard_errors_of_gradients(self, wrt, generator):
        engine = EstimatorEngine(shots=100, seed=1)
        pixels, weights = pixels_for(generator, 2), weights_of(CASE, generator)
        found = vjp_of(engine, SPEC, pixels, weights, grad_of(CASE, 2, generator), wrt)
        report = engine.last_report
        assert report.what == "vjp"
        for value, std in zip(found, report.stds, strict=True):
            assert (value is None) == (std is None)
            if std is not None:
                assert std.shape == value.shape
                assert bool((std > 0).all())
        known = [float(std.max()) for std in report.stds if std is not None]
        assert report.max_std == max(known)
        assert report.num_unknown_stds == 0
        jacobian_of(engine, SPEC, pixels, weights, wrt)
        assert engine.last_report.what == "jacobian"

    def test_on_a_copy_of_a_device(self, generator):
        engine = EstimatorEngine.from_backend("fake_torino", shots=256, seed=1)
        case = Case(3, 2, 2)
        evs_of(engine, case.spec(), pixels_for(generator, 2, 3), weights_of(case, generator))
        report = engine.last_report
        assert report.backend == "fake_torino"
        assert report.shots == 256
        assert report.precision == 1 / 16
        assert sorted(report.patch) == sorted(report.layout)
        assert len(set(report.patch)) == 2
        assert all(0 <= qubit < 133 for qubit in report.patch)
        assert 0.9 < report.predicted_fidelity < 1
        assert report.num_two_qubit_gates >= report.two_qubit_depth > 0
        assert report.about["mode"] == "local"
        assert report.about["resilience"] == 0
        assert report.about["calibration_time"].endswith("+00:00")
        assert report.predicted_qpu_seconds > 2
        assert report.versions["qiskit"].startswith("2.")
        assert report.versions["python"]
        told = json.loads(json.dumps(report.to_dict()))
        assert told["patch"] == list(report.patch)
        assert told["about"]["calibration_time"] == report.about["calibration_time"]
        assert "stds" not in told

    def test_of_a_vjp_as_plain_values(self, generator):
        engine = EstimatorEngine()
        weights, grad = weights_of(CASE, generator), grad_of(CASE, 1, generator)
        vjp_of(engine, SPEC, pixels_for(generator, 1), weights, grad)
        told = json.loads(json.dumps(engine.last_report.to_dict()))
        assert told["engine"] == "estimator"
        assert told["what"] == "vjp"
        assert told["backend"] == "aer"
        assert told["max_std"] == 0
        assert told["shots"] is told["patch"] is told["predicted_qpu_seconds"] is None

    def test_a_report_is_not_changed_by_later_calls(self, generator):
        engine = EstimatorEngine(shots=100)
        run(engine, generator)
        first = engine.last_report
        before = first.to_dict(), first.stds[0].clone()
        run(engine, generator, count=2)
        assert engine.last_report is not first
        assert first.to_dict() == before[0]
        assert torch.equal(first.stds[0], before[1])


class TestLife:
    def test_pickle(self, generator):
        """The default can be rebuilt anywhere; somebody's live primitive cannot."""
        engine = EstimatorEngine(precision=0.0, dedupe_grid=None)
        pixels, weights = pixels_for(generator), weights_of(CASE, generator)
        before = evs_of(engine, SPEC, pixels, weights)
        copy = pickle.loads(pickle.dumps(engine))
        assert torch.equal(evs_of(copy, SPEC, pixels, weights), before)
        assert copy.last_report.num_executions == 12
        for live in (EstimatorEngine(Spy()), EstimatorEngine.from_backend("fake_manila")):
            with pytest.raises(EngineError, match=r"is a live connection and cannot be pickled"):
                pickle.dumps(live)

    def test_context_manager(self, generator):
        with EstimatorEngine.from_backend("fake_manila", shots=16) as engine:
            inside = run(engine, generator)
        assert inside.shape == (4, 3, 3)
        assert run(engine, generator).shape == (4, 3, 3)  # the next call opens again
        with EstimatorEngine() as untouched:
            pass
        untouched.close()
        with pytest.raises(RuntimeError, match="mine"), EstimatorEngine():
            raise RuntimeError("mine")

    def test_given_estimator(self):
        spy = Spy()
        engine = EstimatorEngine(spy)
        assert engine.estimator is spy
        assert engine.destination.name == "Spy"
        assert EstimatorEngine().estimator is None
        assert EstimatorEngine().destination.name == "aer"


def sampled_with(backend, seed, generator, **options):
    """Values of two calls, each for three equal pixels."""
    engine = EstimatorEngine.from_backend(
        backend, shots=200, seed=seed, dedupe_grid=None, **options
    )
    case = Case(2, 1, 1, "figure1", 1)
    pixels = torch.ones(3, 2, dtype=torch.float64)
    weights = torch.tensor([[0.3, 0.4]], dtype=torch.float64)
    return [evs_of(engine, case.spec(), pixels, weights).flatten().tolist() for _ in range(2)]


@pytest.mark.parametrize("limits", [*thorough(None), ONE_ROW])
@pytest.mark.parametrize(
    "backend", ["aer", "fake_manila", GenericBackendV2(2, seed=1)], ids=["aer", "fake", "vendor"]
)
def test_seeds(backend, limits, generator):
    """Equal seeds, equal values; every row of every job of every call has its own shot noise.

    Three rows of 200 shots are all equal by chance for less than 1 % of all seeds; these are fixed.
    """
    first = sampled_with(backend, 5, generator, limits=limits)
    assert sampled_with(backend, 5, generator, limits=limits) == first
    assert sampled_with(backend, 6, generator, limits=limits) != first
    assert first[0] != first[1]
    assert len(set(first[0])) > 1
    unseeded = [sampled_with(backend, None, generator, limits=limits) for _ in range(2)]
    assert unseeded[0] != unseeded[1]


def test_layers_do_not_share_shot_noise():
    """Two circuits on one seeded engine draw from streams of their own."""
    engine = EstimatorEngine.from_backend("aer", shots=200, seed=1, dedupe_grid=None)
    pixels = torch.ones(20, 2, dtype=torch.float64)
    found = [
        evs_of(engine, case.spec(), pixels, torch.zeros(1, case.spec().num_weights).double())
        for case in (Case(2, 1, 1, "figure1", 1), Case(2, 1, 1, "figure1", 2))
    ]
    assert not torch.equal(*found)


def test_sampled_values_scatter_as_told(generator):
    """The root mean square of (value - exact) / std is 1 for the reported standard errors.

    800 values of 1000 shots, nearly independent (those of one execution are correlated at most in
    pairs): five standard errors of 1/sqrt(800) allow false alarms below 1e-6, and no value is six
    standard errors off (2e-6). Values near +-1, whose estimated error is poor, are left out.
    """
    case = Case(3, 2, 2)
    pixels, weights = pixels_for(generator, 400, 3), weights_of(case, generator)
    exact = evs_of(ExactEngine(), case.spec(), pixels, weights)
    engine = EstimatorEngine.from_backend("aer", shots=1000, seed=3)
    error = evs_of(engine, case.spec(), pixels, weights) - exact
    (stds,) = engine.last_report.stds
    kept = exact.abs() < 0.9
    ratio = (error / stds)[kept]
    assert int(kept.sum()) > 600
    assert abs(float(ratio.square().mean().sqrt()) - 1) < 5 / math.sqrt(800)
    assert float(ratio.abs().max()) < 6


def test_aers_own_estimator_scatters_as_asked(generator):
    """Aer adds Gaussian noise of the full precision, whatever the value.

    Root mean square over 0.02 is 1 with a standard error of 1/sqrt(1600): the bounds are five of
    these (false alarms below 1e-6), and no value is six standard errors off (2e-6).
    """
    estimator = AerEstimatorV2(options={"backend_options": {"seed_simulator": 7}})
    case = Case(3, 2, 2)
    pixels, weights = pixels_for(generator, 400, 3), weights_of(case, generator)
    exact = evs_of(ExactEngine(), case.spec(), pixels, weights)
    engine = EstimatorEngine(estimator, precision=0.02)
    error = evs_of(engine, case.spec(), pixels, weights) - exact
    ratio = float(error.square().mean().sqrt()) / 0.02
    assert abs(ratio - 1) < 5 / np.sqrt(2 * error.numel())
    assert float(error.abs().max()) < 6 * 0.02
    assert engine.last_report.max_std == 0.02


def test_gradients_scatter_as_told(generator):
    """Standard errors of a vjp are upper bounds of the scatter, and not far above it.

    One feature (n = 1), so that no correlation is taken for the worst: the ratio of 24 gradients to
    their errors over 40 seeds has root mean square 1 within five times 1/sqrt(1920), plus 5 % for
    the error's own estimate from 2000 shots.
    """
    case = Case(2, 1, 1, "circuit_centric", 2)
    spec, weights = case.spec(), weights_of(case, generator)
    pixels, grad = pixels_for(generator, 8, 2), grad_of(case, 8, generator)
    exact = vjp_of(ExactEngine(), spec, pixels, weights, grad)
    ratios = []
    for seed in range(40):
        engine = EstimatorEngine(shots=2000, seed=seed, dedupe_grid=None)
        found = vjp_of(engine, spec, pixels, weights, grad)
        for value, expected, std in zip(found, exact, engine.last_report.stds, strict=True):
            ratios.append(((value - expected) / std).flatten())
    ratio = torch.cat(ratios)
    assert ratio.numel() == 40 * 24
    # The two derivatives of a pixel are the same noise twice (they are orthogonal to it).
    assert abs(float(ratio.square().mean().sqrt()) - 1) < 5 / math.sqrt(2 * 40 * 16) + 0.05


class TestGradientsWithShots:
    """What training sees: the backward pass has shot noise of its own.

    Many copies of a pixel, none merged, are as many repetitions.
    """

    shots = 4
    case = Case(3, 4, 2, "figure1", 2)  # K = 2

    def data(self, generator, copies):
        pixel = torch.randn(1, 3, generator=generator, dtype=torch.float64)
        return pixel.expand(copies, 3).contiguous(), weights_of(self.case, generator)

    def engine(self, **options):
        return EstimatorEngine(shots=self.shots, seed=1, dedupe_grid=None, **options)

    @pytest.mark.parametrize("gradients", ["shift", "spsa", Spsa(num_samples=3)], ids=str)
    def test_of_a_nonlinear_loss_are_unbiased(self, gradients, generator):
        """Loss sum f**2 / 2 of every copy: its outer gradient is the noisy value itself.

        Were a shot shared by the forward and the backward pass, the variance of a value, up to 1/4
        with four shots, would be in every mean. Means of 600 copies lie within five standard
        errors for 3 entries: false alarms below 2e-6.
        """
        copies = 600  # the bias would show from 70 of them on
        spec = self.case.spec()
        pixels, weights = self.data(generator, copies)
        engine = self.engine(gradients=gradients)
        values = evs_of(engine, spec, pixels, weights)
        found, _ = vjp_of(engine, spec, pixels, weights, values, (True, False))
        mean, error = found.mean(0), found.std(0) / math.sqrt(copies)
        exact = ExactEngine()
        outer = evs_of(exact, spec, pixels[:1], weights)
        expected, _ = vjp_of(exact, spec, pixels[:1], weights, outer, (True, False))
        assert bool(((mean - expected[0]).abs() < 5 * error).all())
        # It would show: a variance times 2 u / |x|, which the tangent formula projects away.
        unit = pixels[0] / pixels[0].norm()
        bias = ((1 - outer**2) / self.shots).sum() * 2 * unit.abs().max() / pixels[0].norm()
        assert float(bias) > 5 * float(error.max())

    @pytest.mark.slow
    def test_of_the_weights_too(self, generator):
        """The copies are summed, so 40 passes of 10 copies are the repetitions.

        8 weights of each of 2 kernels within six standard errors (t with 39 degrees of freedom):
        false alarms below 1e-5.
        """
        spec = self.case.spec()
        pixels, weights = self.data(generator, 10)
        engine, found = self.engine(), []
        for _ in range(40):
            values = evs_of(engine, spec, pixels, weights)
            found.append(vjp_of(engine, spec, pixels, weights, values, (False, True))[1])
        found = torch.stack(found) / 10
        mean, error = found.mean(0), found.std(0) / math.sqrt(40)
        exact = ExactEngine()
        outer = evs_of(exact, spec, pixels[:1], weights)
        expected = vjp_of(exact, spec, pixels[:1], weights, outer, (False, True))[1]
        assert bool(((mean - expected).abs() < 6 * error + 1e-12).all())

    def test_through_a_layer(self, generator):
        """The same of a whole layer, mixing included: loss sum y**2 / 2 of 400 equal pixels.

        3 entries within five standard errors: false alarms below 2e-6.
        """
        layer = self.case.layer(generator, engine=self.engine())
        layer.requires_grad_(False)
        pixels, _ = self.data(generator, 400)
        images = pixels.T.reshape(1, 3, 20, 20).clone().requires_grad_()
        (layer(images) ** 2 / 2).sum().backward()
        found = images.grad.reshape(3, -1)
        mean, error = found.mean(1), found.std(1) / math.sqrt(found.shape[1])
        layer.engine = "exact"
        one = pixels[0].reshape(1, 3, 1, 1).clone().requires_grad_()
        (layer(one) ** 2 / 2).sum().backward()
        expected = one.grad.flatten()
        assert bool(((mean - expected).abs() < 5 * error).all())
        assert float(error.max()) < 0.1 * float(expected.abs().max()) + 0.1

    @pytest.mark.parametrize(
        ("options", "gradients"),
        [
            ({}, "shift"),
            ({}, "spsa"),
            ({}, Spsa(num_samples=3)),
            ({"backend": "fake_manila"}, "shift"),
            ({"noise_model": "fake_manila"}, "spsa"),
        ],
        ids=str,
    )
    def test_are_orthogonal_to_the_pixel(self, options, gradients, generator):
        """Exactly, whatever the values: a pixel's length changes nothing."""
        spec = self.case.spec()
        pixels = torch.randn(6, 3, generator=generator, dtype=torch.float64)
        pixels[0] = torch.tensor([0, 0.6, 0.8])
        pixels[1] = torch.tensor([1.0, 1.0, -1.0])
        pixels[2] *= 1e6
        engine = EstimatorEngine.from_backend(
            **options, shots=5, seed=1, gradients=gradients, dedupe_grid=None
        )
        weights, grad = weights_of(self.case, generator), grad_of(self.case, 6, generator)
        found, _ = vjp_of(engine, spec, pixels, weights, grad, (True, False))
        along = (found * pixels).sum(1)
        assert bool((along.abs() <= 1e-13 * found.norm(dim=1) * pixels.norm(dim=1) + 1e-14).all())
        assert float((found.norm(dim=1) * pixels.norm(dim=1)).max()) > 0.1

    def test_are_drawn_apart_from_the_values(self, generator):
        """No row of the forward pass is a row of the backward pass."""
        spec, spy = self.case.spec(), Spy()
        engine = EstimatorEngine(spy, dedupe_grid=None)
        pixels, weights = self.data(generator, 2)
        values = evs_of(engine, spec, pixels, weights)
        vjp_of(engine, spec, pixels, weights, values)
        forward, backward = (
            pub.parameter_values.as_array(pub.circuit.parameters) for pub in spy.pubs
        )
        assert len(forward) == 4
        assert len(backward) == 4 * (2 * spec.ansatz.num_angles + 2 * 3)
        distance = np.abs(forward[:, None] - backward[None]).max(axis=2)
        assert distance.min() > 1e-6
