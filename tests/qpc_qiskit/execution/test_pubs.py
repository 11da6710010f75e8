"""Rows and PUBs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qiskit.primitives import DataBin

from qpc_qiskit.ansatz import make_ansatz
from qpc_qiskit.encoder import make_encoder
from qpc_qiskit.errors import EngineError
from qpc_qiskit.execution.pubs import evs_from_data, make_pub, make_rows, make_template, split_rows


@given(
    st.integers(1, 5), st.integers(1, 4), st.integers(0, 6), st.integers(1, 6), st.integers(0, 99)
)
def test_rows_round_trip(num_pixels, num_kernels, num_encoder, num_ansatz, seed):
    rng = np.random.default_rng(seed)
    encoder, ansatz = (
        rng.normal(size=(num_pixels, num_encoder)),
        rng.normal(size=(num_kernels, num_ansatz)),
    )
    rows = make_rows(encoder, ansatz)
    assert rows.shape == (num_pixels * num_kernels, num_encoder + num_ansatz)
    for k in range(num_kernels):
        for i in range(num_pixels):
            expected = np.concatenate([encoder[i], ansatz[k]])
            np.testing.assert_array_equal(rows[k * num_pixels + i], expected)
    back = split_rows(rows, num_pixels, num_kernels, num_encoder)
    np.testing.assert_array_equal(back[0], encoder)
    np.testing.assert_array_equal(back[1], ansatz)


def test_template_columns_and_pub():
    encoder, ansatz = make_encoder("multiplexor", 2), make_ansatz("circuit_centric", 2, 1)
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
    bound = pub.parameter_values.bind(template.circuit, (3,))
    assert bound.num_parameters == 0
    assert float(bound.data[0].operation.params[0]) == rows[3, 0]


def test_evs_are_unpacked_kernel_by_kernel():
    n, kernels, pixels = 2, 3, 4
    evs = np.empty((n, kernels * pixels))
    for q, k, i in np.ndindex(n, kernels, pixels):
        evs[q, k * pixels + i] = 100 * q + 10 * k + i
    found = evs_from_data(DataBin(evs=evs), "evs", pixels, kernels, n)
    assert found.shape == (pixels, kernels, n)
    for i, k, q in np.ndindex(*found.shape):
        assert found[i, k, q] == 100 * q + 10 * k + i


def test_wrong_data():
    with pytest.raises(
        EngineError, match=r"returned shape \(2, 5\) for 'evs'; expected .*\(2, 12\)"
    ):
        evs_from_data(DataBin(evs=np.zeros((2, 5))), "evs", 4, 3, 2)
    with pytest.raises(EngineError, match="returned nothing for 'evs'"):
        evs_from_data(DataBin(), "evs", 4, 3, 2)
