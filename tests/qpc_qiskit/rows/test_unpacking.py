"""From executions back to rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qiskit import QuantumCircuit

from qpc_qiskit.circuits.encoder import make_encoder
from qpc_qiskit.circuits.parities import inversion, make_z_string, sub_parities
from qpc_qiskit.devices.forecast import JobCost
from qpc_qiskit.rows.planning import Deal, ReferenceRows, plan_jobs
from qpc_qiskit.rows.prepared import Prepared
from qpc_qiskit.rows.pubs import JobLimits, Template, product_pairs
from qpc_qiskit.rows.slots import IDLE
from qpc_qiskit.rows.unpacking import features, unpack

N = 2
REFERENCES = ReferenceRows(
    np.eye(4),
    np.zeros((4, 3)),
    np.array([[0.9, -0.8], [-0.7, 0.6], [0.2, 0.9], [0.1, -0.9]]),
)


def plan_of(num_pixels, num_kernels, num_patches, max_rows=None, references=None):
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(num_pixels, 4))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return plan_jobs(
        make_encoder("multiplexor", 2),
        directions,
        rng.normal(size=(num_kernels, 3)),
        product_pairs(num_pixels, num_kernels),
        grid=None,
        limits=JobLimits(max_rows=max_rows),
        cost=JobCost(shots_per_row=0),
        num_patches=num_patches,
        references=references,
    )


def answered(plan, values, scale=1.0, offset=0.0):
    """What executions give if row m has `values[m]`, and idle slots anything.

    Args:
        plan: of the executions.
        values: (M + R, n).
        scale: (jobs, J, n) or one number, by which patches shrink values.
        offset: likewise, what they add.
    """
    count, num_patches = plan.slots.shape
    found = np.full((count, num_patches, N), 777.0)
    found[plan.slots != IDLE] = values[plan.slots[plan.slots != IDLE]]
    shape = (len(plan.parts), num_patches, N)
    scale, offset = np.broadcast_to(scale, shape), np.broadcast_to(offset, shape)
    for job, part in enumerate(plan.parts):
        found[part] = found[part] * scale[job] + offset[job]
    return found.reshape(count, num_patches * N)


def all_values(plan, rng):
    values = rng.uniform(-1, 1, (plan.num_rows, N))
    return values if plan.exact is None else np.concatenate([values, plan.exact])


@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 5), st.integers(5, 9), st.booleans())
def test_every_row_gets_its_own_value(pixels, kernels, patches, max_rows, is_referred):
    references = REFERENCES if is_referred else None
    plan = plan_of(pixels, kernels, patches, max_rows, references)
    values = all_values(plan, np.random.default_rng(1))
    evs = answered(plan, values)
    found = unpack(plan, evs, np.abs(evs) / 100, applies=False)
    np.testing.assert_array_equal(found.evs, values[: plan.num_rows])
    np.testing.assert_array_equal(found.stds, np.abs(values[: plan.num_rows]) / 100)
    assert len(found.calibrations) == (len(plan.parts) if is_referred else 0)
    for row, patch in enumerate(found.patch):
        assert row in plan.slots[:, patch]


@pytest.mark.parametrize("max_rows", [None, 6])
def test_each_patch_of_each_job_is_calibrated_by_its_own(max_rows, rng):
    plan = plan_of(7, 3, 3, max_rows, REFERENCES)
    assert len(plan.parts) == (1 if max_rows is None else 4)
    shape = (len(plan.parts), 3, N)
    scale, offset = rng.uniform(0.5, 0.9, shape), rng.uniform(-0.1, 0.1, shape)
    values = all_values(plan, rng)
    evs = answered(plan, values, scale, offset)
    found = unpack(plan, evs, np.full_like(evs, 0.01))
    np.testing.assert_allclose(found.evs, values[: plan.num_rows], rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        np.stack([each.scale for each in found.calibrations]), scale, rtol=0, atol=1e-12
    )
    np.testing.assert_allclose(
        np.stack([each.offset for each in found.calibrations]), offset, rtol=0, atol=1e-12
    )
    raw = unpack(plan, evs, np.full_like(evs, 0.01), applies=False)
    assert np.abs(raw.evs - values[: plan.num_rows]).max() > 0.1
    assert (raw.stds == 0.01).all()
    shrunk = np.stack([each.scale for each in found.calibrations]).min()
    assert (found.stds > 0.01).all()
    assert found.stds.max() < 3 * 0.01 / shrunk


def test_a_feature_whose_references_tell_nothing_stays_as_it_is(rng):
    exact = REFERENCES.exact.copy()
    exact[:, 1] = [0.1, 0.2, 0.3, 0.4]  # a span below 0.5
    references = ReferenceRows(REFERENCES.directions, REFERENCES.angles, exact)
    plan = plan_of(5, 2, 2, None, references)
    values = all_values(plan, rng)
    evs = answered(plan, values, 0.5)
    found = unpack(plan, evs, np.full_like(evs, 0.01))
    asked = values[: plan.num_rows]
    np.testing.assert_allclose(found.evs[:, 0], asked[:, 0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.evs[:, 1], asked[:, 1] / 2, rtol=0, atol=1e-12)
    assert (found.stds[:, 1] == 0.01).all()


def test_unknown_standard_errors_stay_unknown(rng):
    plan = plan_of(5, 2, 2, None, REFERENCES)
    values = all_values(plan, rng)
    evs = answered(plan, values, 0.8)
    found = unpack(plan, evs, np.full_like(evs, np.nan))
    np.testing.assert_allclose(found.evs, values[: plan.num_rows], rtol=0, atol=1e-12)
    assert np.isnan(found.stds).all()


def test_no_rows():
    plan = plan_of(0, 2, 2, None, REFERENCES)
    assert plan.parts == ()
    found = unpack(plan, np.zeros((0, 4)), np.zeros((0, 4)))
    assert found.evs.shape == found.stds.shape == (0, 2)


# Features of what is measured.

TARGETS = (make_z_string(0b11, 2, -1), make_z_string(0b01, 2))
STRINGS = sub_parities(TARGETS)
READOUTS = [([0.9, 0.8], [0.05, -0.1]), ([0.7, 0.95], [0.0, 0.02])]


def prepared(inversions=()):
    part = Template(QuantumCircuit(2), (), STRINGS if inversions else TARGETS, ())
    return Prepared((part, part), inversions=inversions)


def reported(truth, a, b):
    """Of Z on qubit 0, on qubit 1, and of both, of uncorrelated qubits: (W, 3)."""
    first, second = truth[:, 0] * a[0] + b[0], truth[:, 1] * a[1] + b[1]
    return np.stack([first, second, first * second], axis=1)


def test_what_is_measured_are_the_features(rng):
    evs, stds = rng.normal(size=(3, 4)), rng.normal(size=(3, 4))
    found = features(prepared(), evs, stds, 100)
    assert found[0] is evs
    assert found[1] is stds


def test_the_readout_of_each_patch_is_inverted_by_its_own(rng):
    assert [str(each.paulis[0]) for each in STRINGS] == ["IZ", "ZI", "ZZ"]
    inversions = tuple(inversion(STRINGS, TARGETS, a, b) for a, b in READOUTS)
    truth = rng.uniform(-0.9, 0.9, (6, 2, 2))  # execution, patch, qubit
    evs = np.concatenate([reported(truth[:, j], *READOUTS[j]) for j in range(2)], axis=1)
    stds = np.sqrt((1 - evs**2) / 100)
    expected = np.stack([-truth[..., 0] * truth[..., 1], truth[..., 0]], axis=2).reshape(6, 4)
    found, errors = features(prepared(inversions), evs, stds, None)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert errors.shape == (6, 4)
    _, of_shots = features(prepared(inversions), evs, stds, 100)
    assert (of_shots <= errors + 1e-12).all()  # all parities of a shot together
    # Of one qubit alone by hand: Z = (r - b) / a.
    for j, (a, _) in enumerate(READOUTS):
        np.testing.assert_allclose(of_shots[:, 2 * j + 1], stds[:, 3 * j] / a[0], rtol=1e-9)
        np.testing.assert_allclose(errors[:, 2 * j + 1], stds[:, 3 * j] / a[0], rtol=1e-9)


def test_a_plan_needs_nothing_but_slots_and_answers(rng):
    """As it is read from a ledger."""
    plan = plan_of(5, 2, 2, 8, REFERENCES)
    values = all_values(plan, rng)
    evs = answered(plan, values, 0.8)
    stds = np.full_like(evs, 0.01)
    read = Deal(
        num_rows=plan.num_rows, slots=plan.slots, parts=plan.parts, seconds=None, exact=plan.exact
    )
    np.testing.assert_array_equal(unpack(read, evs, stds).evs, unpack(plan, evs, stds).evs)
