"""Rows, patches and executions."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from qpc_qiskit.rows.pubs import Rows
from qpc_qiskit.rows.slots import IDLE, fill, gather, num_executions, wide_values

sizes = st.tuples(st.integers(0, 60), st.integers(1, 9), st.integers(0, 7))


@given(sizes)
def test_every_row_once_every_reference_on_every_patch(sizes):
    num_rows, num_patches, num_references = sizes
    slots = fill(*sizes)
    assert slots.shape == (num_executions(*sizes), num_patches)
    assert sorted(slots[(slots != IDLE) & (slots < num_rows)]) == list(range(num_rows))
    for patch in range(num_patches):
        found = set(slots[:, patch][slots[:, patch] >= num_rows] - num_rows)
        assert found == set(range(num_references))
    if num_references:
        assert (slots != IDLE).all()
    else:
        assert (slots == IDLE).sum() < num_patches


@given(sizes)
def test_round_trip(sizes):
    num_rows, num_patches, num_references = sizes
    slots = fill(*sizes)
    rng = np.random.default_rng(0)
    table, numbers = rng.normal(size=(5, 2)), np.arange(num_rows + num_references)
    given = Rows(table, rng.normal(size=(7, 1)), np.stack([numbers % 5, numbers % 7], axis=1))
    rows = given.values()
    wide = wide_values(given, slots)
    assert wide.shape == (len(slots), 3 * num_patches)
    found = gather(wide.reshape(len(slots), num_patches, 3), slots, num_rows)
    np.testing.assert_array_equal(found.values, rows[:num_rows])
    np.testing.assert_array_equal(found.reference_values, rows[num_rows + found.reference])
    for row, patch in enumerate(found.patch):
        assert row in slots[:, patch]
    assert (wide.reshape(len(slots), num_patches, 3)[slots == IDLE] == 0).all()


def test_pixels_and_kernels_meet_many_patches():
    """Rows of a pixel are N apart: with N = J each would always be on the same patch."""
    num_pixels = num_patches = 8
    slots = fill(num_pixels * 6, num_patches)
    patch = gather(np.zeros((*slots.shape, 1)), slots, num_pixels * 6).patch
    for pixel in range(num_pixels):
        assert len(set(patch[pixel::num_pixels])) == 6
    for kernel in range(6):
        assert len(set(patch[kernel * num_pixels : (kernel + 1) * num_pixels])) == num_patches


def test_references_are_spread_over_a_job():
    slots = fill(1000, 10, 4)
    (executions,) = np.nonzero((slots >= 1000).all(axis=1))
    assert np.diff(executions).min() > 15
    simultaneous = slots[executions[0]] - 1000
    assert len(set(simultaneous)) == 4
