"""Rows, jobs and PUBs, and the way back."""

import math

import numpy as np
import pytest
import torch
from cases import USER_CIRCUITS, evs_of
from hypothesis import example, given
from hypothesis import strategies as st
from qiskit.primitives import DataBin

from qpc_qiskit import ExactEngine
from qpc_qiskit.circuits.ansatz import make_ansatz
from qpc_qiskit.circuits.directions import canonical_directions
from qpc_qiskit.circuits.encoder import make_encoder
from qpc_qiskit.circuits.spec import LayerSpec
from qpc_qiskit.errors import EngineError
from qpc_qiskit.options.engine import GRID, precision_of, shots_of
from qpc_qiskit.rows.pubs import (
    JobLimits,
    Rows,
    by_pixel_and_kernel,
    concatenated,
    evs_from_data,
    make_pub,
    make_template,
    merge_directions,
    product_pairs,
    split_jobs,
    stds_from_data,
    unique_pairs,
)

SEEDS = st.integers(0, 2**32 - 1)


def code(i, k, q):
    """A value that tells its pixel, kernel and feature."""
    return 10000 * i + 100 * k + q


class TestRoundTrip:
    @given(st.integers(0, 5), st.integers(1, 4), st.integers(1, 3), st.integers(1, 7))
    def test_values_come_back_to_their_pixel_and_kernel(self, pixels, kernels, n, rows_per_job):
        """The answer is computed from the rows' values alone, job by job, as a backend would."""
        rows = Rows(
            np.arange(pixels)[:, None] * np.ones((1, 2)),  # both columns tell the pixel
            np.arange(kernels)[:, None] * np.ones((1, 3)),
            product_pairs(pixels, kernels),
        )
        assert len(rows) == pixels * kernels
        parts = []
        limits = JobLimits(max_rows=rows_per_job)
        for part in split_jobs(len(rows), limits, row_bytes=40):
            values = rows.values(part)
            assert values.shape == (part.stop - part.start, 5)
            assert (values[:, 0] == values[:, 1]).all()
            assert (values[:, 2:] == values[:, 2:3]).all()
            evs = np.stack([code(values[:, 0], values[:, 2], q) for q in range(n)])
            parts.append(evs_from_data(DataBin(evs=evs), len(values), n))
        found = by_pixel_and_kernel(concatenated(parts, n), pixels, kernels)
        assert found.shape == (pixels, kernels, n)
        assert found.flags.c_contiguous
        for index in np.ndindex(*found.shape):
            assert found[index] == code(*index)

    @given(st.integers(0, 5), st.integers(1, 4))
    def test_pairs_are_every_pixel_with_every_kernel(self, pixels, kernels):
        pairs = product_pairs(pixels, kernels)
        assert pairs.shape == (pixels * kernels, 2)
        assert pairs.dtype.kind == "i"
        expected = [[i, k] for k in range(kernels) for i in range(pixels)]
        assert pairs.tolist() == expected

    def test_values_of_any_pairs(self, rng):
        encoder, ansatz = rng.normal(size=(3, 2)), rng.normal(size=(4, 5))
        pairs = rng.integers(0, 3, size=(9, 2))
        rows = Rows(encoder, ansatz, pairs)
        for row, (i, k) in zip(rows.values(), pairs, strict=True):
            np.testing.assert_array_equal(row, [*encoder[i], *ansatz[k]])
        np.testing.assert_array_equal(rows.values(slice(2, 5)), rows.values()[2:5])

    def test_without_encoder_angles(self):
        rows = Rows(np.zeros((2, 0)), np.arange(3.0)[:, None], product_pairs(2, 3))
        assert rows.values().tolist() == [[0], [0], [1], [1], [2], [2]]

    def test_concatenation_of_no_parts(self):
        assert concatenated([], 3).shape == (0, 3)


def random_directions(rng, count, channels):
    """Canonical directions, many of them nearly or exactly equal."""
    few = rng.normal(size=(max(count // 3, 1), channels))
    few[:, rng.random(channels) < 0.2] = 0
    pixels = few[rng.integers(len(few), size=count)]
    pixels = pixels * rng.uniform(-3, 3, size=(count, 1))
    pixels += rng.choice([0, 1e-12, 1e-7, 1e-6], size=(count, 1)) * rng.normal(size=pixels.shape)
    return canonical_directions(torch.from_numpy(pixels)).numpy()


GRIDS = st.sampled_from([GRID, 2.0**-5, 0.1, 0.7, 1e-10, 1e-15])


class TestMergeDirections:
    @given(SEEDS, st.integers(1, 40), st.integers(1, 6), GRIDS)
    def test_the_first_of_a_cell_stands_for_all(self, seed, count, channels, grid):
        directions = random_directions(np.random.default_rng(seed), count, channels)
        kept, stands_for = merge_directions(directions, grid)
        cells = [tuple(np.rint(d / grid)) for d in directions]
        assert (np.diff(kept) > 0).all()
        assert len(kept) == len(set(cells))
        for cell, which in zip(cells, stands_for, strict=True):
            assert kept[which] == cells.index(cell)
        distance = np.linalg.norm(directions[kept][stands_for] - directions, axis=1)
        assert distance.max() <= grid * math.sqrt(channels) + 1e-15

    @given(SEEDS, st.integers(1, 20), st.integers(0, 20), st.integers(1, 5), GRIDS)
    def test_appending_changes_nothing_before(self, seed, count, more, channels, grid):
        directions = random_directions(np.random.default_rng(seed), count + more, channels)
        kept, stands_for = merge_directions(directions[:count], grid)
        kept_all, stands_for_all = merge_directions(directions, grid)
        np.testing.assert_array_equal(kept_all[: len(kept)], kept)
        assert (kept_all[len(kept) :] >= count).all()
        np.testing.assert_array_equal(stands_for_all[:count], stands_for)

    def test_a_grid_finer_than_32_bits_can_count(self):
        directions = np.array([[0.6, 0.8], [0.8, 0.6], [0.6, 0.8]])
        kept, stands_for = merge_directions(directions, 1e-10)
        assert kept.tolist() == [0, 1]
        assert stands_for.tolist() == [0, 1, 0]

    def test_the_two_zeros_are_one(self):
        kept, stands_for = merge_directions(np.array([[1.0, 0.0], [1.0, -0.0], [1.0, -1e-9]]))
        assert kept.tolist() == [0]
        assert stands_for.tolist() == [0, 0, 0]

    def test_of_no_directions(self):
        kept, stands_for = merge_directions(np.zeros((0, 4)))
        assert kept.shape == stands_for.shape == (0,)

    @pytest.mark.parametrize("ansatz", ["strongly_entangling", "figure1", "circuit_centric"])
    @pytest.mark.parametrize("grid", [GRID, 2.0**-6])
    def test_features_move_by_at_most_the_stated_bound(self, ansatz, grid, rng):
        channels, count = 13, 4000
        spec = LayerSpec(channels, 4, 3, make_ansatz(ansatz, 4, 3))
        weights = torch.from_numpy(rng.uniform(0, 2 * np.pi, (3, spec.num_weights)))
        pixels = rng.normal(size=(20, channels))[rng.integers(20, size=count)]
        pixels /= np.linalg.norm(pixels, axis=1, keepdims=True)
        pixels += rng.uniform(-1, 1, (count, channels)) * grid * 0.6
        directions = canonical_directions(torch.from_numpy(pixels)).numpy()
        kept, stands_for = merge_directions(directions, grid)
        if grid > GRID:
            assert len(kept) < count
        merged = torch.from_numpy(directions[kept][stands_for])
        moved = evs_of(ExactEngine(), spec, merged, weights) - evs_of(
            ExactEngine(), spec, torch.from_numpy(directions), weights
        )
        bound = 2 * grid * math.sqrt(channels)
        assert 0 < float(moved.abs().max()) <= bound + 1e-12

    def test_the_bound_of_the_docstring(self):
        assert 2 * GRID * math.sqrt(64) < 1.6e-5

    def test_the_bound_is_not_generous(self):
        """One channel's worth of it is reached: at 45 degrees <Z> turns by 2 radians a radian."""
        grid = math.sqrt(0.5) / 45  # so that (1, 1)/sqrt(2) is in the middle of a cell
        edges = np.array([45 - 0.49, 45 + 0.49]) * grid
        directions = np.stack([edges, np.sqrt(1 - edges**2)], axis=1)
        assert merge_directions(directions, grid)[1].tolist() == [0, 0]
        spec = LayerSpec(2, 1, 1, make_ansatz("figure1", 1, 1))
        evs = evs_of(ExactEngine(), spec, torch.from_numpy(directions), torch.zeros(1, 2).double())
        bound = 2 * grid * math.sqrt(2)
        assert 0.9 * bound < float((evs[0] - evs[1]).abs()) <= bound


class TestUniquePairs:
    @given(SEEDS, st.integers(0, 60), st.integers(1, 6), st.integers(1, 6))
    def test_in_order_of_first_appearance(self, seed, count, width, height):
        rng = np.random.default_rng(seed)
        pairs = np.stack(
            [rng.integers(width, size=count), rng.integers(height, size=count)], axis=1
        )
        unique, which = unique_pairs(pairs)
        np.testing.assert_array_equal(unique[which], pairs)
        expected = list(dict.fromkeys(map(tuple, pairs.tolist())))
        assert list(map(tuple, unique.tolist())) == expected

    def test_large_indices(self):
        pairs = np.array([[2**31, 2**30], [0, 2**30], [2**31, 2**30]])
        unique, which = unique_pairs(pairs)
        assert unique.tolist() == [[2**31, 2**30], [0, 2**30]]
        assert which.tolist() == [0, 1, 0]


def sizes_of(parts, num_rows):
    """Sizes, after a check that the parts are all rows once and in order."""
    assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])][: len(parts)]
    assert (parts[-1].stop if parts else 0) == num_rows
    return [part.stop - part.start for part in parts]


class TestSplitJobs:
    @given(
        num_rows=st.integers(0, 5000),
        max_rows=st.none() | st.integers(1, 6000),
        max_bytes=st.none() | st.integers(100, 10**6),
        max_executions=st.none() | st.integers(4096, 10**7),
        max_qpu_seconds=st.none() | st.floats(1.5, 1000),
        row_bytes=st.integers(1, 100),
        shots=st.none() | st.integers(1, 4096),
        seconds=st.none() | st.floats(1e-6, 1.5),
    )
    def test_whatever_the_limits(
        self,
        num_rows,
        max_rows,
        max_bytes,
        max_executions,
        max_qpu_seconds,
        row_bytes,
        shots,
        seconds,
    ):
        limits = JobLimits(
            max_rows=max_rows,
            max_bytes=max_bytes,
            max_executions=max_executions,
            max_qpu_seconds=max_qpu_seconds,
        )
        sizes = sizes_of(
            split_jobs(
                num_rows, limits, row_bytes=row_bytes, shots=shots, qpu_seconds_per_row=seconds
            ),
            num_rows,
        )

        def allowed(size, slack=1e-12):
            return (
                (max_rows is None or size <= max_rows)
                and (max_bytes is None or size * row_bytes <= max_bytes)
                and (max_executions is None or shots is None or size * shots <= max_executions)
                and (
                    max_qpu_seconds is None
                    or seconds is None
                    or size * seconds <= max_qpu_seconds * (1 + slack)
                )
            )

        assert all(allowed(size) for size in sizes)
        assert all(size > 0 for size in sizes)
        if sizes:
            assert max(sizes) - min(sizes) <= 1
        if len(sizes) > 1:  # one job fewer would have to hold more than a job may
            assert not allowed(math.ceil(num_rows / (len(sizes) - 1)), slack=-1e-12)

    @given(st.integers(1, 3000), st.integers(1, 3000))
    @example(3, 2)
    @example(2500, 1000)
    def test_nearly_equal(self, num_rows, max_rows):
        parts = split_jobs(num_rows, JobLimits(max_rows=max_rows), row_bytes=8)
        sizes = sizes_of(parts, num_rows)
        assert len(sizes) == math.ceil(num_rows / max_rows)
        assert max(sizes) <= max_rows
        assert max(sizes) - min(sizes) <= 1

    @pytest.mark.parametrize(
        ("limits", "size"),
        [
            ({}, 100),
            ({"max_rows": 40}, 40),
            ({"max_bytes": 479}, 29),
            ({"max_bytes": 480}, 30),
            ({"max_executions": 1999}, 19),
            ({"max_executions": 2000}, 20),
            ({"max_qpu_seconds": 2.4}, 9),
            ({"max_qpu_seconds": 2.5}, 10),
            ({"max_qpu_seconds": math.inf}, 100),
            ({"max_rows": 40, "max_bytes": 480, "max_executions": 2000}, 20),
        ],
        ids=str,
    )
    def test_each_kind_of_limit(self, limits, size):
        parts = split_jobs(
            100, JobLimits(**limits), row_bytes=16, shots=100, qpu_seconds_per_row=0.25
        )
        assert len(sizes_of(parts, 100)) == math.ceil(100 / size)

    def test_limits_without_what_they_count_have_no_effect(self):
        limits = JobLimits(max_executions=1, max_qpu_seconds=1e-9)
        assert split_jobs(7, limits, row_bytes=8) == [slice(0, 7)]
        assert split_jobs(7, limits, row_bytes=8, qpu_seconds_per_row=0.0) == [slice(0, 7)]

    @pytest.mark.parametrize(
        ("limits", "pattern"),
        [
            ({"max_rows": 0}, r"One row \(16 bytes, 100 shots\) .* hold in rows;"),
            ({"max_bytes": 15}, "exceeds what a job may hold in bytes; ask for fewer shots"),
            ({"max_executions": 99}, "hold in executions;"),
            ({"max_qpu_seconds": 0.24}, "hold in QPU seconds;"),
        ],
        ids=str,
    )
    def test_a_row_over_the_limit(self, limits, pattern):
        with pytest.raises(EngineError, match=pattern):
            split_jobs(5, JobLimits(**limits), row_bytes=16, shots=100, qpu_seconds_per_row=0.25)

    def test_a_row_over_the_limit_of_default_shots(self):
        with pytest.raises(EngineError, match=r"\(16 bytes, default shots\)"):
            split_jobs(5, JobLimits(max_bytes=1), row_bytes=16)

    def test_no_rows_are_no_jobs(self):
        assert split_jobs(0, JobLimits(), row_bytes=8) == []
        assert split_jobs(0, JobLimits(max_rows=3), row_bytes=8) == []


class TestShots:
    def test_precision_gives_back_the_shots(self):
        """As the primitives count them: BackendEstimatorV2, and IBM's with NumPy."""
        for shots in range(1, 20001):
            precision = precision_of(shots)
            assert shots_of(precision) == shots
            assert int(np.ceil(1.0 / precision**2)) == shots
            assert precision == pytest.approx(1 / math.sqrt(shots), rel=1e-12)

    @given(st.integers(1, 10**12))
    @example(2**31 - 1)
    @example(2**40 + 1)
    @example(10**12)
    def test_of_many_shots(self, shots):
        assert shots_of(precision_of(shots)) == shots

    def test_by_hand(self):
        assert shots_of(1 / math.sqrt(1000)) == 1001  # why precision_of exists
        assert precision_of(4096) == 1 / 64
        assert shots_of(0.3) == 12
        assert shots_of(1.0) == shots_of(7.0) == 1


class TestPub:
    @pytest.mark.parametrize(
        "ansatz", ["circuit_centric", USER_CIRCUITS["user2"]()], ids=["named", "own"]
    )
    def test_columns(self, ansatz):
        encoder, ansatz = make_encoder("multiplexor", 2), make_ansatz(ansatz, 2, 1)
        template = make_template(encoder, ansatz)
        assert template.parameters[:3] == encoder.parameters
        assert [p.name for p in template.parameters[3:]] == [
            f"theta[{i}]" for i in range(ansatz.num_angles)
        ]
        assert set(template.parameters) == set(template.circuit.parameters)
        rows = np.arange(5.0 * len(template.parameters)).reshape(5, -1)
        pub = make_pub(template, rows, 0.25)
        assert pub.precision == 0.25
        assert pub.shape == (2, 5)
        assert pub.observables.shape == (2, 1)
        assert pub.parameter_values.shape == (5,)
        assert [dict(o) for o in pub.observables.ravel().tolist()] == [{"IZ": 1}, {"ZI": 1}]
        by_name = pub.parameter_values.as_array(list(template.parameters))
        np.testing.assert_array_equal(by_name, rows)
        bound = pub.parameter_values.bind(template.circuit, (3,))
        assert bound.num_parameters == 0
        assert float(bound.data[0].operation.params[0]) == rows[3, 0]

    def test_eleven_angles_keep_their_order(self):
        """encoder[10] must not sort before encoder[2]."""
        template = make_template(make_encoder("multiplexor", 4), make_ansatz("figure1", 4, 2))
        rows = np.arange(float(len(template.parameters)))[None]
        pub = make_pub(template, rows)
        assert pub.precision is None
        bound = pub.parameter_values.bind(template.circuit, (0,))
        for symbolic, numeric in zip(template.circuit.data, bound.data, strict=True):
            if symbolic.operation.params:
                (parameter,) = symbolic.operation.params
                column = template.parameters.index(parameter)
                assert float(numeric.operation.params[0]) == column


class TestEvsFromData:
    def test_transposed(self):
        found = evs_from_data(DataBin(evs=np.array([[1, 2, 3], [4, 5, 6]])), 3, 2)
        assert found.dtype == np.float64
        assert found.flags.c_contiguous
        assert found.tolist() == [[1, 4], [2, 5], [3, 6]]

    @pytest.mark.parametrize("shape", [(3, 2), (6,), (), (2, 3, 1), (2, 4), (1, 3)], ids=str)
    def test_another_shape(self, shape):
        with pytest.raises(
            EngineError,
            match=r"returned values of shape .*; expected shape \(2, 3\) \(2 observables against "
            r"3 rows\)\. Nothing of this result is used",
        ):
            evs_from_data(DataBin(evs=np.zeros(shape)), 3, 2)

    def test_nothing(self):
        with pytest.raises(EngineError, match=r"returned no values; expected shape \(2, 3\)"):
            evs_from_data(DataBin(meas=np.zeros((2, 3))), 3, 2)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_not_finite(self, value):
        evs = np.zeros((2, 3))
        evs[1, ::2] = value
        with pytest.raises(EngineError, match=r"Of 6 values .* returned 2 are not finite"):
            evs_from_data(DataBin(evs=evs), 3, 2)


class TestStdsFromData:
    def test_transposed(self):
        found = stds_from_data(DataBin(stds=np.array([[1, 2, 3], [4, 5, 6]])), 3, 2)
        assert found.dtype == np.float64
        assert found.tolist() == [[1, 4], [2, 5], [3, 6]]

    def test_shot_noise_where_extrapolation_gave_none(self):
        data = DataBin(
            stds=np.array([[0.1, np.nan, np.inf], [-np.inf, np.nan, 0.0]]),
            ensemble_standard_error=np.array([[9, 0.2, 0.3], [0.4, np.nan, 9]]),
        )
        found = stds_from_data(data, 3, 2)
        np.testing.assert_array_equal(found, [[0.1, 0.4], [0.2, np.nan], [0.3, 0.0]])

    def test_shot_noise_alone(self):
        data = DataBin(ensemble_standard_error=np.full((2, 3), 0.5))
        assert (stds_from_data(data, 3, 2) == 0.5).all()

    def test_another_shape_counts_as_not_known(self):
        data = DataBin(stds=np.zeros((3, 2)), ensemble_standard_error=np.full((2, 3), 0.5))
        assert (stds_from_data(data, 3, 2) == 0.5).all()
        data = DataBin(stds=np.zeros((3, 2)), ensemble_standard_error=np.inf)
        assert np.isnan(stds_from_data(data, 3, 2)).all()

    def test_nothing(self):
        found = stds_from_data(DataBin(evs=np.zeros((2, 3))), 3, 2)
        assert found.shape == (3, 2)
        assert np.isnan(found).all()

    def test_what_was_returned_is_left_alone(self):
        stds = np.array([[np.nan, 1.0]])
        stds_from_data(DataBin(stds=stds, ensemble_standard_error=np.ones((1, 2))), 2, 1)
        assert np.isnan(stds[0, 0])


class TestTemplates:
    @pytest.mark.parametrize("encoder", ["multiplexor", "brickwall"])
    @pytest.mark.parametrize("name", ["strongly_entangling", "figure1", "circuit_centric"])
    def test_without_the_tail(self, name, encoder):
        """Fewer two-qubit gates, parities instead, and only the angles that are left."""
        ansatz = make_ansatz(name, 4, 2)
        whole = make_template(make_encoder(encoder, 4), ansatz)
        found = make_template(make_encoder(encoder, 4), ansatz, absorbs_tail=True)
        num_angles = len(make_encoder(encoder, 4).parameters)
        assert whole.columns == tuple(range(ansatz.num_angles))
        assert set(found.columns) <= set(whole.columns)
        assert found.columns == tuple(sorted(found.columns))
        assert [p.name for p in found.parameters] == [
            *(p.name for p in whole.parameters[:num_angles]),
            *(whole.parameters[num_angles + i].name for i in found.columns),
        ]
        assert set(found.parameters) == set(found.circuit.parameters)
        pairs = found.circuit.num_nonlocal_gates(), whole.circuit.num_nonlocal_gates()
        gone = name != "circuit_centric"  # which ends in rotations about X
        assert (pairs[0] < pairs[1]) is gone
        widths = {int(observable.paulis.z.sum()) for observable in found.observables}
        assert (max(widths) > 1) is gone
        if not gone:
            assert found.circuit == whole.circuit
            assert found.observables == whole.observables

    def test_by_default_nothing_is_left_out(self):
        ansatz = make_ansatz("strongly_entangling", 3, 1)
        encoder = make_encoder("multiplexor", 3)
        found = make_template(encoder, ansatz)
        assert len(found.parameters) == len(encoder.parameters) + ansatz.num_angles
        assert [int(o.paulis.z.sum()) for o in found.observables] == [1, 1, 1]


class TestFurtherRows:
    """Reference rows, that every job has."""

    @given(st.integers(0, 50), st.integers(0, 5), st.integers(1, 9))
    def test_leave_room(self, num_rows, num_extra, room):
        limits = JobLimits(max_rows=num_extra + room)
        parts = split_jobs(num_rows, limits, row_bytes=8, num_extra=num_extra)
        assert [i for part in parts for i in range(part.start, part.stop)] == list(range(num_rows))
        assert len(parts) == math.ceil(num_rows / room)
        assert all(part.stop - part.start <= room for part in parts)

    def test_none_fit(self):
        with pytest.raises(EngineError, match="besides 3 reference rows"):
            split_jobs(5, JobLimits(max_rows=3), row_bytes=8, num_extra=3)
        with pytest.raises(EngineError) as error:
            split_jobs(5, JobLimits(max_rows=0), row_bytes=8)
        assert "reference" not in str(error.value)

    def test_without_limits(self):
        assert split_jobs(5, JobLimits(), row_bytes=8, num_extra=3) == [slice(0, 5)]
