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

from qpc_qiskit.backends.destinations import Destination, JobSettings
from qpc_qiskit.backends.jobs import check_rows, collect, run_plan, send
from qpc_qiskit.errors import EngineError, FetchError, NotISAError, QPCError
from qpc_qiskit.rows.planning import JobPlan
from qpc_qiskit.rows.prepared import Prepared
from qpc_qiskit.rows.pubs import Rows, Template

A, B = Parameter("a"), Parameter("b")


def template_with(gate="rx"):
    circuit = QuantumCircuit(2)
    circuit.ry(A, 0)
    if gate == "rx":
        circuit.rx(B, 1)
    else:
        circuit.rzz(2 * B - 0.5, 0, 1)
    return Template(circuit, (A, B), (SparsePauliOp("IZ"), SparsePauliOp("ZI")), (0,))


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
        self.diary, self.precisions = [], []
        self.settings = None
        self.configured = []

    def run(self, pubs, *, precision=None):
        (pub,) = pubs
        index = len(self.precisions)
        if index in self.refused:
            raise self.refused[index]
        self.precisions.append(pub.precision)
        self.configured.append(self.settings)
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


def configure(estimator, settings):
    estimator.settings = settings


def plan_of(count, parts=None, seconds=None, angle=0.25):
    """A job for every row, unless told otherwise."""
    parts = [slice(i, i + 1) for i in range(count)] if parts is None else parts
    numbers = np.arange(count)
    return JobPlan(
        rows=rows_of(count, angle),
        num_rows=count,
        which=numbers,
        slots=numbers[:, None],
        parts=tuple(parts),
        seconds=seconds,
    )


def run(
    estimator,
    *,
    count=5,
    in_flight=1,
    template=None,
    precision=0.5,
    next_seed=lambda: 0,
    on_sent=lambda job: None,
    destination=None,
    **plan,
):
    destination = {"configure": configure, "limits_rzz": True, **(destination or {})}
    destination = Destination(
        name="somewhere",
        prepare=Prepared,
        connect=lambda prepared: estimator,
        jobs_in_flight=in_flight,
        **destination,
    )
    prepared = Prepared((template or template_with(),))
    return run_plan(
        destination,
        prepared,
        estimator,
        plan_of(count, **plan),
        precision,
        next_seed=next_seed,
        on_sent=on_sent,
    )


def test_values_come_in_the_order_of_the_rows():
    estimator = Recorder()
    parts = [slice(0, 3), slice(3, 4), slice(4, 9)]
    found = run(estimator, count=9, parts=parts, in_flight=2)
    np.testing.assert_allclose(found.evs[:, 0], np.arange(9) / 100)
    np.testing.assert_array_equal(found.evs[:, 1], 0.25)
    np.testing.assert_allclose(found.stds[:, 0], np.arange(9) / 1000)
    assert np.isnan(found.stds[:, 1]).all()
    assert found.job_ids == ("id-0", "id-1", "id-2")
    assert estimator.precisions == [0.5] * 3


@pytest.mark.parametrize("precision", [None, 0.0, 0.125])
def test_one_precision_for_all(precision):
    estimator = Recorder()
    run(estimator, precision=precision)
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
    run(estimator, count=4, in_flight=in_flight)
    short = " ".join(estimator.diary).replace("run ", "r").replace("result ", "R")
    assert short == diary


def test_no_rows():
    found = run(Recorder(), count=0)
    assert found.evs.shape == found.stds.shape == (0, 2)
    assert found.job_ids == ()


def test_every_job_has_its_own_settings():
    numbers = iter(range(7, 100))
    estimator = Recorder()
    run(
        estimator,
        count=3,
        in_flight=2,
        next_seed=lambda: next(numbers),
        seconds=(2.5, 3.5, 4.5),
    )
    assert estimator.configured == [
        JobSettings(seed=7, predicted_seconds=2.5),
        JobSettings(seed=8, predicted_seconds=3.5),
        JobSettings(seed=9, predicted_seconds=4.5),
    ]
    estimator = Recorder()
    run(estimator, count=1)
    assert estimator.configured == [JobSettings(seed=0, predicted_seconds=None)]
    estimator = Recorder()
    run(estimator, count=2, destination={"configure": None})
    assert estimator.configured == [None, None]


@pytest.mark.parametrize("in_flight", [1, 2, 9])
def test_jobs_are_told_as_they_are_sent(in_flight):
    estimator, told = Recorder(), []

    def on_sent(job):
        told.append(job)
        assert estimator.diary[-1] == f"run {job}"

    run(estimator, in_flight=in_flight, on_sent=on_sent)
    assert told == [0, 1, 2, 3, 4]
    told.clear()
    estimator = Recorder(refused={3: OSError("no network")})
    with pytest.raises(EngineError, match="job 4 of 5"):
        run(estimator, in_flight=in_flight, on_sent=on_sent)
    assert told == [0, 1, 2]  # what was refused was not sent


def test_the_destination_waits_for_results():
    fetched = []

    def fetch(job):
        fetched.append(job.job_id())
        return job.result()

    run(Recorder(), count=3, destination={"fetch": fetch})
    assert fetched == ["id-0", "id-1", "id-2"]


def test_a_result_that_could_not_be_fetched_cancels_nothing():
    """Its values are paid for, and so are those of the jobs that wait."""

    def fetch(job):
        if job.index == 1:
            raise FetchError("not reachable")
        return job.result()

    estimator = Recorder()
    with pytest.raises(FetchError, match="not reachable") as caught:
        run(estimator, in_flight=3, destination={"fetch": fetch})
    assert [line for line in estimator.diary if line.startswith("cancel")] == []
    (note,) = caught.value.__notes__
    assert note == (
        "somewhere: at job 2 of 5 (rows 1 to 1 of 5) (jobs sent: id-0, id-1, id-2, id-3)."
    )


def test_send_and_collect_one_by_one():
    """What a caller needs that sends today and collects tomorrow."""
    estimator = Recorder()
    destination = Destination(
        name="somewhere",
        prepare=Prepared,
        connect=lambda prepared: estimator,
        configure=configure,
    )
    settings = JobSettings(seed=3)
    rows = rows_of(4).values(slice(1, 3))
    job = send(destination, estimator, template_with(), rows, 0.25, settings)
    assert estimator.configured == [settings]
    assert estimator.diary == ["run 0"]
    evs, stds = collect(destination, job, 2, 2)
    np.testing.assert_allclose(evs, [[0.01, 0.25], [0.02, 0.25]])
    np.testing.assert_allclose(stds, [[0.001, np.nan], [0.002, np.nan]])
    with pytest.raises(EngineError, match=r"values of shape \(2, 2\); expected shape \(2, 3\)"):
        collect(destination, job, 3, 2)


def test_rows_can_be_checked_alone():
    destination = Destination(
        name="somewhere", prepare=Prepared, connect=lambda prepared: None, limits_rzz=True
    )
    prepared = Prepared((template_with("rzz"),))
    check_rows(destination, prepared, plan_of(3))
    with pytest.raises(NotISAError, match="hardware has angles from 0 to pi/2"):
        check_rows(destination, prepared, plan_of(3, angle=0.2))


@pytest.mark.parametrize("in_flight", [1, 2, 4, 9])
class TestFailures:
    def test_a_job_that_is_refused(self, in_flight):
        estimator = Recorder(refused={2: OSError("no network")})
        with pytest.raises(
            EngineError,
            match=r"^somewhere: Recorder failed on job 3 of 5 \(rows 2 to 2 of 5\): "
            r"OSError: no network \(jobs sent: id-0, id-1\)$",
        ) as caught:
            run(estimator, in_flight=in_flight)
        assert isinstance(caught.value.__cause__, OSError)
        done = {line.split()[1] for line in estimator.diary if line.startswith("result")}
        cancelled = {line.split()[1] for line in estimator.diary if line.startswith("cancel")}
        assert done | cancelled == {"0", "1"}
        assert not done & cancelled

    def test_a_result_that_cannot_be_had(self, in_flight):
        estimator = Recorder(broken={2: ValueError("boom")})
        with pytest.raises(EngineError, match=r"failed on job 3 of 5 .*ValueError: boom"):
            run(estimator, in_flight=in_flight)
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
            run(estimator, in_flight=in_flight)
        assert caught.value is error
        assert error.__notes__[0].startswith(
            "somewhere: at job 2 of 5 (rows 1 to 1 of 5) (jobs sent: id-0"
        )
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
        run(Short(), in_flight=2)
    assert caught.value.__notes__ == [
        "somewhere: at job 2 of 5 (rows 1 to 1 of 5) (jobs sent: id-0, id-1, id-2)."
    ]


def test_angles_that_hardware_does_not_have_are_refused_before_anything_is_sent():
    estimator = Recorder()
    template = template_with("rzz")
    run(estimator, template=template)  # 2 * 0.25 - 0.5 = 0
    assert len(estimator.diary) == 10
    estimator = Recorder()
    with pytest.raises(NotISAError, match=r"the angle -0.1; hardware has angles from 0 to pi/2"):
        run(estimator, template=template, angle=0.2)
    assert estimator.diary == []
    run(estimator, template=template, angle=0.2, destination={"limits_rzz": False})  # not IBM's
    assert len(estimator.diary) == 10


def test_every_job_is_logged(caplog):
    with caplog.at_level(logging.INFO, logger="qpc_qiskit"):
        run(Recorder(), count=3, parts=[slice(0, 2), slice(2, 3)])
    assert [record.getMessage() for record in caplog.records] == [
        "somewhere: job id-0 sent, rows 0 to 1 of 3",
        "somewhere: job id-1 sent, rows 2 to 2 of 3",
    ]
