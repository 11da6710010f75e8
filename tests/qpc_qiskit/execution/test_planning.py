"""From directions and angles to jobs."""

import numpy as np
import pytest
from cases import Case

from qpc_qiskit.encoder import make_encoder
from qpc_qiskit.errors import EngineError
from qpc_qiskit.execution.forecast import JobCost
from qpc_qiskit.execution.planning import plan_jobs, plan_parts
from qpc_qiskit.execution.pubs import JobLimits, product_pairs

SPEC = Case(3, 5, 2).spec()
ENCODER = make_encoder("multiplexor", 2)
EXACT = JobCost(shots_per_row=0)
PRICED = JobCost(shots_per_row=100, shots_per_job=50, seconds_per_shot=1e-3)


def spans(parts):
    return [(part.start, part.stop) for part in parts]


class TestParts:
    def test_by_rows(self):
        parts, seconds = plan_parts(7, 4, limits=JobLimits(max_rows=3), cost=EXACT)
        assert spans(parts) == [(0, 2), (2, 5), (5, 7)]
        assert seconds is None

    def test_seconds_of_each_job_by_hand(self):
        """2 s a job, 0.1 s a row and 0.05 s to calibrate."""
        parts, seconds = plan_parts(7, 4, limits=JobLimits(max_rows=3), cost=PRICED)
        assert spans(parts) == [(0, 2), (2, 5), (5, 7)]
        assert seconds == pytest.approx((2.25, 2.35, 2.25))

    def test_shots_that_are_executed_count(self):
        for limits in (JobLimits(max_executions=250), JobLimits(max_qpu_seconds=0.25)):
            parts, _ = plan_parts(4, 4, limits=limits, cost=PRICED)
            assert spans(parts) == [(0, 2), (2, 4)]
        parts, _ = plan_parts(4, 4, limits=JobLimits(max_executions=1), cost=EXACT)
        assert spans(parts) == [(0, 4)]  # exact values have no shots
        with pytest.raises(EngineError, match="exceeds what a job may hold in executions"):
            plan_parts(4, 4, limits=JobLimits(max_executions=99), cost=PRICED)

    def test_kept_shots_take_memory(self):
        """A row holds 4 angles of 8 bytes; 2 bytes of each of 100 shots come back."""
        limits = JobLimits(max_bytes=500)
        assert spans(plan_parts(4, 4, limits=limits, cost=PRICED)[0]) == [(0, 4)]
        parts, _ = plan_parts(4, 4, limits=limits, cost=PRICED, bytes_per_shot=2)
        assert spans(parts) == [(0, 2), (2, 4)]

    @pytest.mark.parametrize("cost", [EXACT, PRICED])
    def test_no_rows(self, cost):
        parts, seconds = plan_parts(0, 4, limits=JobLimits(max_rows=3), cost=cost)
        assert parts == ()
        assert seconds == (None if cost is EXACT else ())  # nothing sent costs nothing


def plan(directions, pairs, grid=2.0**-20, **options):
    options = {"limits": JobLimits(), "cost": PRICED, **options}
    angles = np.arange(2.0 * SPEC.ansatz.num_angles).reshape(2, -1)
    directions = np.asarray(directions, float)
    return plan_jobs(ENCODER, directions, angles, np.asarray(pairs), grid=grid, **options)


E = np.eye(3)


class TestJobs:
    def test_equal_rows_are_run_once(self):
        found = plan([E[0], E[1], E[0]], [[2, 0], [1, 0], [0, 0], [0, 1], [2, 0]])
        assert len(found.rows) == 3
        assert found.which.tolist() == [0, 1, 0, 2, 0]
        assert found.rows.pairs.tolist() == [[0, 0], [1, 0], [0, 1]]
        assert found.seconds == pytest.approx((2 + 0.35,))
        assert found.total_seconds == pytest.approx(2.35)

    def test_unless_every_one_is_to_be_run(self):
        pairs = [[2, 0], [1, 0], [0, 0], [0, 1], [2, 0]]
        found = plan([E[0], E[1], E[0]], pairs, grid=None)
        assert found.rows.pairs.tolist() == pairs
        assert found.which.tolist() == [0, 1, 2, 3, 4]

    def test_rows_are_encoder_angles_and_ansatz_angles(self):
        found = plan([E[0], [0.6, 0.8, 0]], [[1, 0], [0, 1]])
        angles = found.rows.values()
        assert angles.shape == (2, 3 + SPEC.ansatz.num_angles)
        np.testing.assert_array_equal(angles[0, 3:], np.arange(SPEC.ansatz.num_angles))
        assert angles[1, 3] == SPEC.ansatz.num_angles
        assert not np.allclose(angles[0, :3], angles[1, :3])

    def test_totals(self):
        pairs = product_pairs(3, 2)
        found = plan(E, pairs, limits=JobLimits(max_rows=2))
        assert spans(found.parts) == [(0, 2), (2, 4), (4, 6)]
        assert found.total_seconds == pytest.approx(3 * 2.25)
        assert plan(E, pairs, cost=EXACT).total_seconds is None
