"""Unitaries in torch against products of Kronecker products."""

import numpy as np
import pytest
import torch
from cases import CASES, Case
from hypothesis import given
from hypothesis import strategies as st
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from references import case_unitaries, circuit_unitary

from qpc_qiskit.circuits.ansatz import Ansatz, make_ansatz
from qpc_qiskit.circuits.unitary import lower, unitaries
from qpc_qiskit.errors import AnsatzError


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equal_to_the_reference_up_to_a_phase(case, rng):
    spec = case.spec()
    weights = rng.uniform(-7, 7, (spec.num_kernels, spec.num_weights))
    found = unitaries(spec.ansatz, torch.from_numpy(weights)).numpy()
    for ours, reference in zip(found, case_unitaries(case, weights), strict=True):
        phase = np.vdot(reference, ours) / len(ours)
        assert abs(abs(phase) - 1) < 1e-12
        np.testing.assert_allclose(ours, phase * reference, rtol=0, atol=1e-12)


@given(
    st.sampled_from([c for c in CASES if c.num_qubits < 6]),
    st.integers(0, 2**31),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_unitarity(case, seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    weights = 20 * torch.randn(2, case.spec().num_weights, generator=generator, dtype=torch.float64)
    matrices = unitaries(case.spec().ansatz, weights.to(dtype))
    product = matrices.mH @ matrices
    identity = torch.eye(2**case.num_qubits, dtype=matrices.dtype).expand_as(product)
    torch.testing.assert_close(product, identity, rtol=0, atol=150 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("columns", [1, 5, 8])
def test_leading_columns(columns, generator):
    spec = Case(8, 4, 3).spec()
    weights = torch.randn(2, spec.num_weights, generator=generator)
    whole = unitaries(spec.ansatz, weights)
    assert whole.dtype == torch.complex64
    torch.testing.assert_close(unitaries(spec.ansatz, weights, columns), whole[..., :columns])


@pytest.mark.parametrize(
    "case", [Case(3, 3, 2, "circuit_centric", 2), Case(8, 4, 3, "user3")], ids=str
)
def test_differentiable(case, generator):
    weights = torch.randn(2, case.spec().num_weights, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda w: torch.view_as_real(unitaries(case.spec().ansatz, w)), weights.requires_grad_()
    )


def test_gates_keep_their_order_across_blocks(rng):
    """Gates that share one qubit only, in an order that a greedy scheduler could get wrong."""
    parameters = [Parameter(f"p{i:02}") for i in range(12)]
    circuit = QuantumCircuit(4)
    for i, p in enumerate(parameters):
        (circuit.rx if i % 2 else circuit.rz)(p, (5 * i) % 4)
        circuit.sx((i + 1) % 4)
        circuit.cx((3 * i) % 4, (3 * i + 1 + i % 3) % 4)
        if i % 4 == 0:
            circuit.cx((i + 2) % 4, i % 4)
            circuit.cx(i % 4, (i + 1) % 4)
    ansatz = make_ansatz(circuit, 4)
    weights = rng.uniform(-4, 4, (1, 12))
    reference = circuit_unitary(circuit.assign_parameters(list(weights[0])))
    found = unitaries(ansatz, torch.from_numpy(weights))[0].numpy()
    assert abs(np.vdot(reference, found)) / 16 == pytest.approx(1, abs=1e-12)


def test_unknown_gate():
    circuit = QuantumCircuit(2)
    a = Parameter("a")
    circuit.rzz(a, 0, 1)
    ansatz = Ansatz("odd", None, circuit, (a,), circuit, np.eye(1), np.zeros(1))
    with pytest.raises(AnsatzError, match="holds 'rzz', which has no torch form"):
        lower(ansatz, torch.device("cpu"))
