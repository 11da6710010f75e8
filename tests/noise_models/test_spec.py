import numpy as np
import pytest
from qiskit.quantum_info import DensityMatrix, Operator, SuperOp, average_gate_fidelity
from qiskit_aer.noise import NoiseModel

from noise_models.spec import parse_noise


def channels(model):
    """Superoperator of the error by gate."""
    names = model.noise_instructions
    return {name: SuperOp(model._default_quantum_errors[name]) for name in names}


def test_depolarizing_acts_on_every_gate_but_rz():
    model = parse_noise("depolarizing:0.01")
    assert isinstance(model, NoiseModel)
    assert set(model.noise_instructions) == {"sx", "x", "cx"}
    assert {"rz", "sx", "x", "cx"} <= set(model.basis_gates)
    assert "ry" not in model.basis_gates


def test_the_parameter_is_the_share_of_the_mixed_state():
    for name, channel in channels(parse_noise("depolarizing:0.3")).items():
        size = 4 if name == "cx" else 2
        state = np.zeros((size, size))
        state[0, 0] = 1
        expected = 0.7 * state + 0.3 * np.eye(size) / size
        np.testing.assert_allclose(DensityMatrix(state).evolve(channel).data, expected, atol=1e-12)
        infidelity = 1 - average_gate_fidelity(channel, Operator(np.eye(size)))
        assert infidelity == pytest.approx(0.3 * (0.75 if name == "cx" else 0.5))


def test_no_noise_at_all():
    assert parse_noise("depolarizing:0").is_ideal()


@pytest.mark.parametrize("name", ["fake_torino", "ibm_fez"])
def test_devices_are_passed_through(name):
    assert parse_noise(name) == name


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ("", "Unknown noise ''; expected a device's name such as fake_torino, or depolarizing:P"),
        ("warm", "Unknown noise 'warm'"),
        ("warm:0.1", "Unknown noise 'warm:0.1'"),
        ("fake_torino:0.1", "Unknown noise 'fake_torino:0.1'"),
        ("depolarizing", "A probability belongs to it: depolarizing:0.01"),
        ("depolarizing:", "expected a probability from 0 to 1, got ''"),
        ("depolarizing:x", "expected a probability from 0 to 1, got 'x'"),
        ("depolarizing:1.01", "got '1.01'"),
        ("depolarizing:-0.1", "got '-0.1'"),
        ("depolarizing:nan", "got 'nan'"),
    ],
)
def test_bad_specs(spec, match):
    with pytest.raises(ValueError, match=match):
        parse_noise(spec)
