"""From directions and angles to jobs."""

import numpy as np
import pytest
import torch
from cases import Case
from hypothesis import given
from hypothesis import strategies as st

from qpc_qiskit.circuits.brickwall import brickwall, error_bound
from qpc_qiskit.circuits.encoder import make_encoder
from qpc_qiskit.devices.forecast import JobCost
from qpc_qiskit.errors import EngineError, FitFailed
from qpc_qiskit.rows.planning import ReferenceRows, plan_jobs, plan_parts
from qpc_qiskit.rows.pubs import JobLimits, product_pairs
from qpc_qiskit.rows.slots import IDLE

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


REFERENCES = ReferenceRows(
    np.eye(4), 7 + np.zeros((4, SPEC.ansatz.num_angles)), np.linspace(-1, 1, 8).reshape(4, 2)
)


class TestPacked:
    def test_executions_by_hand(self):
        """7 rows on 3 patches, with 2 reference rows in each job of at most 4 executions."""
        parts, seconds = plan_parts(
            7, 4, limits=JobLimits(max_rows=4), cost=PRICED, num_patches=3, num_references=2
        )
        assert spans(parts) == [(0, 4), (4, 7)]  # 2 + 2 and 1 + 2
        assert seconds == pytest.approx((2.45, 2.35))

    def test_rows_of_all_patches_take_memory(self):
        limits = JobLimits(max_bytes=8 * 4 * 6)
        assert spans(plan_parts(6, 4, limits=limits, cost=EXACT)[0]) == [(0, 6)]
        parts, _ = plan_parts(6, 4, limits=limits, cost=EXACT, num_patches=2)
        assert spans(parts) == [(0, 3)]
        parts, _ = plan_parts(6, 4, limits=limits, cost=EXACT, num_patches=2, num_references=1)
        assert spans(parts) == [(0, 3), (3, 5)]

    @pytest.mark.parametrize(
        ("limits", "what"),
        [
            (JobLimits(max_rows=4), "rows"),
            (JobLimits(max_executions=400), "executions"),
            (JobLimits(max_qpu_seconds=0.4), "QPU seconds"),
        ],
    )
    def test_no_room_besides_the_references(self, limits, what):
        with pytest.raises(EngineError, match=f"besides 4 reference rows.* hold in {what};"):
            plan_parts(6, 4, limits=limits, cost=PRICED, num_references=4)
        assert plan_parts(6, 4, limits=limits, cost=PRICED, num_references=3)[0]

    @given(st.integers(1, 40), st.integers(1, 7), st.sampled_from([0, 4]), st.integers(5, 12))
    def test_every_job_has_all_it_needs(self, num_rows, num_patches, num_references, max_rows):
        """Every row in one slot; every reference on every patch of every job."""
        pairs = product_pairs(num_rows, 2)
        directions = np.zeros((num_rows, 4))
        directions[:, 1] = 1
        found = plan(
            directions,
            pairs,
            grid=None,
            limits=JobLimits(max_rows=max_rows),
            num_patches=num_patches,
            references=REFERENCES if num_references else None,
        )
        assert found.num_rows == 2 * num_rows
        assert len(found.rows) == found.num_rows + num_references
        asked = found.slots[(found.slots >= 0) & (found.slots < found.num_rows)]
        np.testing.assert_array_equal(np.sort(asked), np.arange(found.num_rows))
        ends = [0, *(part.stop for part in found.parts)]
        assert [part.start for part in found.parts] == ends[:-1]
        assert ends[-1] == len(found.slots)
        for part in found.parts:
            assert part.stop - part.start <= max_rows
            for patch in range(num_patches):
                here = found.slots[part, patch]
                known = set(here[here >= found.num_rows] - found.num_rows)
                assert known == set(range(num_references))
        idle = (found.slots == IDLE).sum()
        assert idle < num_patches * len(found.parts) if not num_references else idle == 0

    def test_values_of_slots(self):
        found = plan(E, product_pairs(3, 2), num_patches=4)
        rows = found.rows.values()
        wide = found.values().reshape(2, 4, rows.shape[1])
        assert (found.slots == IDLE).sum() == 2
        np.testing.assert_array_equal(
            wide[found.slots != IDLE], rows[found.slots[found.slots >= 0]]
        )
        assert (wide[found.slots == IDLE] == 0).all()
        np.testing.assert_array_equal(found.values(slice(1, 2)), found.values()[1:])

    def test_reference_rows_come_last(self):
        """They have as many channels as amplitudes, a layer's pixels may have fewer."""
        found = plan(E, product_pairs(3, 2), num_patches=2, references=REFERENCES)
        assert found.num_rows == 6
        assert found.which.max() < 6
        assert found.exact is REFERENCES.exact
        values = found.rows.values()
        angles = ENCODER.angles(torch.eye(4, dtype=torch.float64)).numpy()
        np.testing.assert_allclose(values[6:, :3], angles, rtol=0, atol=1e-12)
        np.testing.assert_array_equal(values[6:, 3:], REFERENCES.angles)
        np.testing.assert_allclose(values[:3, :3], angles[:3], rtol=0, atol=1e-12)  # padded pixels

    def test_nothing_asked_for(self):
        found = plan(np.zeros((0, 3)), np.zeros((0, 2), int), num_patches=2, references=REFERENCES)
        assert found.parts == ()
        assert found.slots.shape == (0, 2)

    def test_what_an_encoder_leaves(self):
        encoder = make_encoder("brickwall", 2)
        found = plan_jobs(
            encoder,
            np.array([[0.6, 0.8, 0], [0.0, 0.6, 0.8]]),
            np.zeros((1, SPEC.ansatz.num_angles)),
            product_pairs(2, 1),
            grid=None,
            limits=JobLimits(),
            cost=EXACT,
        )
        assert found.infidelity.shape == (2,)
        assert error_bound(torch.from_numpy(found.infidelity)).max() < 5e-4
        assert not plan(E, product_pairs(3, 1)).infidelity.any()

    def test_an_encoder_that_fails_is_told(self):
        """One layer of a brickwall is too few for three qubits."""
        directions = np.random.default_rng(0).normal(size=(4, 8))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        match = r"The brickwall:1 encoder cannot prepare 4 of 4 .*'brickwall:3' or encoder='multip"
        with pytest.raises(FitFailed, match=match) as error:
            plan_jobs(
                brickwall(3, depth=1),
                directions,
                np.zeros((1, 5)),
                product_pairs(4, 1),
                grid=None,
                limits=JobLimits(),
                cost=EXACT,
            )
        assert error.value.num_failed == 4
