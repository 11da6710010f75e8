import torch
from references import Z, on_qubits

from qpc_qiskit.circuits.observables import pauli_z, z_observables, z_signs


def test_pauli_z_is_little_endian():
    assert [op.paulis.to_labels() for op in pauli_z(3)] == [["IIZ"], ["IZI"], ["ZII"]]
    for q in range(3):
        assert (pauli_z(3)[q].to_matrix() == on_qubits({q: Z}, 3)).all()


def test_signs_are_the_diagonals():
    for n in (1, 3):
        strings = tuple(range(1, 2**n))
        signs = z_signs(strings, n)
        assert signs.shape == (len(strings), 2**n)
        assert signs.dtype == torch.float64
        for row, mask, operator in zip(signs, strings, z_observables(strings, n), strict=True):
            expected = on_qubits({q: Z for q in range(n) if mask >> q & 1}, n)
            assert (row.numpy() == expected.diagonal().real).all()
            assert (operator.to_matrix() == expected).all()
