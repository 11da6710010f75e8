"""Sizes of a layer."""

import json

import numpy as np
import pytest

from qpc_qiskit import LayerSpec, make_spec
from qpc_qiskit.circuits.ansatz import make_ansatz
from qpc_qiskit.circuits.spec import qubits_for
from qpc_qiskit.errors import AnsatzError


@pytest.mark.parametrize(
    ("channels", "n"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (64, 6), (65, 7), (128, 7)]
)
def test_qubits_for(channels, n):
    assert qubits_for(channels) == n


@pytest.mark.parametrize(
    ("channels", "out", "kernels"), [(16, 4, 1), (16, 5, 2), (16, 8, 2), (16, 9, 3), (2, 3, 3)]
)
def test_number_of_kernels(channels, out, kernels):
    spec = make_spec(channels, out)
    assert spec.num_kernels == kernels
    assert spec.num_features == kernels * spec.num_qubits >= out


def test_numpy_integers_are_integers():
    spec = make_spec(np.int64(5), np.int32(4))
    assert (spec.in_channels, spec.num_kernels) == (5, 2)


@pytest.mark.parametrize("value", [0, -3, 1.0, "2", True, None])
def test_not_a_size(value):
    with pytest.raises(ValueError, match=f"out_channels must be a positive integer, got {value!r}"):
        make_spec(4, value)


def test_spec_checks_itself():
    ansatz = make_ansatz("figure1", 2)
    with pytest.raises(ValueError, match=r"at least one channel, qubit and kernel.*num_kernels=0"):
        LayerSpec(4, 2, 0, ansatz)
    with pytest.raises(ValueError, match=r"5 channels do not fit into the 2\*\*2 = 4"):
        LayerSpec(5, 2, 1, ansatz)
    with pytest.raises(AnsatzError, match="ansatz has 2 qubits, the layer 3"):
        LayerSpec(5, 3, 1, ansatz)


def test_to_dict_is_plain_json():
    spec = make_spec(5, 4, ansatz="figure1", num_layers=2)
    stored = json.loads(json.dumps(spec.to_dict()))
    assert stored["ansatz"] == "figure1"
    assert stored["num_weights"] == spec.num_weights == 12
    assert stored["num_qubits"] == 3
    assert "basis state i" in stored["conventions"]["channel_order"]


def test_to_dict_of_a_users_circuit_holds_the_circuit():
    from cases import USER_CIRCUITS
    from qiskit import qasm3

    spec = make_spec(4, 2, ansatz=USER_CIRCUITS["user2"]())
    stored = json.loads(json.dumps(spec.to_dict()))
    assert stored["parameters"] == ["a", "b"]
    assert qasm3.loads(stored["circuit"]).num_parameters == 2
