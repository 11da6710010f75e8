"""The state preparation circuit."""

import numpy as np
import pytest
import torch
from cases import pixels_of
from qiskit.quantum_info import Statevector
from references import amplitudes, circuit_unitary

from qpc_qiskit.circuits.directions import canonical_directions
from qpc_qiskit.circuits.encoder import make_encoder, multiplexor_angles


@pytest.mark.parametrize("n", range(1, 8))
def test_gate_counts(n):
    circuit = make_encoder("multiplexor", n).circuit
    counts = circuit.count_ops()
    assert set(counts) <= {"ry", "cz"}
    assert counts["ry"] == 2**n - 1
    assert counts.get("cz", 0) == 2**n - n - 1
    assert circuit.num_parameters == len(make_encoder("multiplexor", n).parameters) == 2**n - 1


@pytest.mark.parametrize(
    ("n", "channels"), [(1, 1), (1, 2), (2, 3), (2, 4), (3, 5), (4, 16), (4, 2), (5, 19), (6, 64)]
)
def test_prepares_the_direction(n, channels, generator):
    encoder = make_encoder("multiplexor", n)
    directions = canonical_directions(pixels_of(channels, generator))
    angles = encoder.angles(directions)
    assert angles.shape == (len(directions), 2**n - 1)
    assert angles.dtype == torch.float64
    for direction, row in zip(directions.numpy(), angles.numpy(), strict=True):
        bound = encoder.circuit.assign_parameters(dict(zip(encoder.parameters, row, strict=True)))
        state = Statevector(bound).data
        np.testing.assert_allclose(state, amplitudes(direction, n), rtol=0, atol=1e-14)


def test_prepares_the_direction_by_the_reference(generator):
    encoder = make_encoder("multiplexor", 3)
    directions = canonical_directions(torch.randn(4, 7, generator=generator, dtype=torch.float64))
    for direction, row in zip(directions.numpy(), encoder.angles(directions).numpy(), strict=True):
        bound = encoder.circuit.assign_parameters(dict(zip(encoder.parameters, row, strict=True)))
        np.testing.assert_allclose(
            circuit_unitary(bound)[:, 0], amplitudes(direction, 3), rtol=0, atol=1e-14
        )


def test_angles_by_hand():
    angles = multiplexor_angles(torch.tensor([[0.6, 0.8], [0.0, 1.0]], dtype=torch.float64), 1)
    np.testing.assert_allclose(angles, [[2 * np.arctan2(0.8, 0.6)], [np.pi]])


def test_zero_state_needs_no_rotation():
    assert not multiplexor_angles(torch.eye(1, 5, dtype=torch.float64), 3).any()


def test_no_pixels():
    assert multiplexor_angles(torch.empty(0, 5, dtype=torch.float64), 3).shape == (0, 7)


def test_encoders_are_made_once():
    assert make_encoder("multiplexor", 3) is make_encoder("multiplexor", 3)


def test_unknown():
    with pytest.raises(ValueError, match="Unknown encoder 'x'; expected one of multiplexor"):
        make_encoder("x", 2)
