"""Sending rows as jobs: order, jobs in flight, failures and what is cancelled."""

import logging
import re

import numpy as np
import pytest
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.primitives import DataBin, PubResult
from qiskit.primitives.base import BaseEstimatorV2
from qiskit.quantum_info import SparsePauliOp

from qpc_qiskit.errors import EngineError, NotISAError, QPCError
from qpc_qiskit.execution.destinations import Destination, Prepared
from qpc_qiskit.execution.jobs import run_rows
from qpc_qiskit.execution.pubs import Rows, Template

A, B = Parameter("a"), Parameter("b")


def template_with(gate="rx"):
    circuit = QuantumCircuit(2)
    circuit.ry(A, 0)
    if gate == "rx":
        circuit.rx(B, 1)
    else:
        circuit.rzz(2 * B - 0.5, 0, 1)
    return Template(circuit, (A, B), (SparsePauliOp("IZ"), SparsePauliOp("ZI")))


def rows_of(count, angle=0.25):
    """Row m is (m, angle)."""
    pairs = np.stack([np.arange(count), np.zeros(count, int)], axis=1)
    return Rows(np.arange(float(count))[:, None], np.array([[angle]]), pairs)


class Recorder(BaseEstimatorV2):
    """Answers a row (a, b) with a/100 and b, standard errors a/1000; keeps a diary.

    Args:
        broken: index of a job -> what its result raises.
        refused: index of a job -> what `run` raises.
    """

    def __init__(self, broken=(), refused=()):
        self.broken, self.refused = dict(broken), dict(refused)
        self.diary, self.precisions, self.seed = [], [], None
        self.seeds = []

    def run(self, pubs, *, precision=None):
        (pub,) = pubs
        index = len(self.precisions)
        if index in self.refused:
            raise self.refused[index]
        self.precisions.append(pub.precision)
        self.seeds.append(self.seed)
        self.diary.append(f"run {index}")
        return _Job(self, index, pub.parameter_values.as_array([A, B]))


class _Job:
    def __init__(self, owner, index, values):
        self.owner, self.index, self.values = owner, index, values

    def job_id(self):
        return f"id-{self.index}"

    def result(self):
        self.owner.diary.append(f"result {self.index}")
        if self.index in self.owner.broken:
            raise self.owner.broken[self.index]
        evs = self.values.T * [[0.01], [1]]
        stds = np.stack([self.values[:, 0] / 1000, np.full(len(self.values), np.nan)])
        return [PubResult(DataBin(evs=evs, stds=stds, shape=evs.shape))]

    def cancel(self):
        self.owner.diary.append(f"cancel {self.index}")
        raise RuntimeError("409: already done")


def send(estimator, *, count=5, parts=None, in_flight=1, template=None, angle=0.25, **options):
    def reseed(estimator, seed):
        estimator.seed = seed

    destination = Destination(
        name="somewhere",
        prepare=lambda t: None,
        jobs_in_flight=in_flight,
        reseed=reseed,
        limits_rzz=options.pop("limits_rzz", True),
    )
    parts = [slice(i, i + 1) for i in range(count)] if parts is None else parts
    prepared = Prepared(template or template_with(), estimator)
    precision = options.pop("precision", 0.5)
    return run_rows(destination, prepared, rows_of(count, angle), parts, precision, **options)


def test_values_come_in_the_order_of_the_rows():
    estimator = Recorder()
    parts = [slice(0, 3), slice(3, 4), slice(4, 9)]
    found = send(estimator, count=9, parts=parts, in_flight=2)
    np.testing.assert_allclose(found.evs[:, 0], np.arange(9) / 100)
    np.testing.assert_array_equal(found.evs[:, 1], 0.25)
    np.testing.assert_allclose(found.stds[:, 0], np.arange(9) / 1000)
    assert np.isnan(found.stds[:, 1]).all()
    assert found.job_ids == ("id-0", "id-1", "id-2")
    assert estimator.precisions == [0.5] * 3


@pytest.mark.parametrize("precision", [None, 0.0, 0.125])
def test_one_precision_for_all(precision):
    estimator = Recorder()
    send(estimator, precision=precision)
    assert estimator.precisions == [precision] * 5


@pytest.mark.parametrize(
    ("in_flight", "diary"),
    [
        (1, "r0 R0 r1 R1 r2 R2 r3 R3"),
        (2, "r0 r1 R0 r2 R1 r3 R2 R3"),
        (3, "r0 r1 r2 R0 r3 R1 R2 R3"),
        (9, "r0 r1 r2 r3 R0 R1 R2 R3"),
    ],
)
def test_jobs_in_flight(in_flight, diary):
    estimator = Recorder()
    send(estimator, count=4, in_flight=in_flight)
    short = " ".join(estimator.diary).replace("run ", "r").replace("result ", "R")
    assert short == diary


def test_no_rows():
    found = send(Recorder(), count=0)
    assert found.evs.shape == found.stds.shape == (0, 2)
    assert found.job_ids == ()


def test_every_job_has_its_own_seed():
    numbers = iter(range(7, 100))
    estimator = Recorder()
    send(estimator, in_flight=3, next_seed=lambda: next(numbers))
    assert estimator.seeds == [7, 8, 9, 10, 11]
    estimator = Recorder()
    send(estimator)
    assert estimator.seeds == [None] * 5


@pytest.mark.parametrize("in_flight", [1, 2, 4, 9])
class TestFailures:
    def test_a_job_that_is_refused(self, in_flight):
        estimator = Recorder(refused={2: OSError("no network")})
        with pytest.raises(
            EngineError,
            match=r"^somewhere: Recorder failed on job 3 of 5 \(5 rows in all, 2 observables\): "
            r"OSError: no network \(jobs sent: id-0, id-1\)$",
        ) as caught:
            send(estimator, in_flight=in_flight)
        assert isinstance(caught.value.__cause__, OSError)
        done = {line.split()[1] for line in estimator.diary if line.startswith("result")}
        cancelled = {line.split()[1] for line in estimator.diary if line.startswith("cancel")}
        assert done | cancelled == {"0", "1"}
        assert not done & cancelled

    def test_a_result_that_cannot_be_had(self, in_flight):
        estimator = Recorder(broken={2: ValueError("boom")})
        with pytest.raises(EngineError, match=r"failed on job 3 of 5 .*ValueError: boom"):
            send(estimator, in_flight=in_flight)
        sent = {line.split()[1] for line in estimator.diary if line.startswith("run")}
        cancelled = {line.split()[1] for line in estimator.diary if line.startswith("cancel")}
        assert cancelled == sent - {"0", "1"}
        assert {"0", "1", "2"} <= sent

    @pytest.mark.parametrize("where", ["broken", "refused"])
    @pytest.mark.parametrize(
        "error", [QPCError("pending"), KeyboardInterrupt("^C"), SystemExit(75)]
    )
    def test_what_passes_through(self, in_flight, where, error):
        estimator = Recorder(**{where: {1: error}})
        error.__notes__ = []
        with pytest.raises(type(error), match=re.escape(str(error))) as caught:
            send(estimator, in_flight=in_flight)
        assert caught.value is error
        assert error.__notes__[0].startswith("somewhere: at job 2 of 5 (jobs sent: id-0")
        if where == "refused" and in_flight > 1:
            assert estimator.diary[-1] == "cancel 0"


def test_broken_values_name_the_jobs():
    class Short(Recorder):
        def run(self, pubs, *, precision=None):
            job = super().run(pubs)
            if job.index == 1:
                job.result = lambda: [PubResult(DataBin(evs=np.full((2, 1), np.nan)))]
            return job

    with pytest.raises(EngineError, match="2 are not finite") as caught:
        send(Short(), in_flight=2)
    assert caught.value.__notes__ == ["somewhere: at job 2 of 5 (jobs sent: id-0, id-1, id-2)."]


def test_angles_that_hardware_does_not_have_are_refused_before_anything_is_sent():
    estimator = Recorder()
    template = template_with("rzz")
    send(estimator, template=template)  # 2 * 0.25 - 0.5 = 0
    assert len(estimator.diary) == 10
    estimator = Recorder()
    with pytest.raises(NotISAError, match=r"the angle -0.1; hardware has angles from 0 to pi/2"):
        send(estimator, template=template, angle=0.2)
    assert estimator.diary == []
    send(estimator, template=template, angle=0.2, limits_rzz=False)  # not IBM's
    assert len(estimator.diary) == 10


def test_every_job_is_logged(caplog):
    with caplog.at_level(logging.INFO, logger="qpc_qiskit"):
        send(Recorder(), count=3, parts=[slice(0, 2), slice(2, 3)])
    assert [record.getMessage() for record in caplog.records] == [
        "somewhere: job id-0 with rows 0 to 1 of 3",
        "somewhere: job id-1 with rows 2 to 2 of 3",
    ]
