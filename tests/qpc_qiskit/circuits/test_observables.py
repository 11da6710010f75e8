import torch
from references import Z, on_qubits

from qpc_qiskit.circuits.observables import pauli_z, z_signs


def test_pauli_z_is_little_endian():
    assert [op.paulis.to_labels() for op in pauli_z(3)] == [["IIZ"], ["IZI"], ["ZII"]]
    for q in range(3):
        assert (pauli_z(3)[q].to_matrix() == on_qubits({q: Z}, 3)).all()


def test_signs_are_the_diagonals():
    for n in (1, 3):
        signs = z_signs(n)
        assert signs.shape == (n, 2**n)
        assert signs.dtype == torch.float64
        for q in range(n):
            assert (signs[q].numpy() == on_qubits({q: Z}, n).diagonal().real).all()
