"""The catalog: every file is right, and stands for what it says."""

import numpy as np
import pytest
from qiskit.quantum_info import Operator, SuperOp, average_gate_fidelity
from qiskit_ibm_runtime.fake_provider import FakeFez, FakeSherbrooke, FakeTorino

from noise_models import catalog
from noise_models.channels import Readout
from qpc_qiskit.errors import NoiseError

DEVICES = {"heron_r2": FakeFez, "heron_r1": FakeTorino, "eagle_r3": FakeSherbrooke}


def test_there_is_a_baseline():
    assert catalog.find("ideal").channels == ()
    assert catalog.find("ideal").build().model.is_ideal()


@pytest.mark.parametrize("name", catalog.names())
def test_every_file_is_called_as_its_noise(name):
    spec = catalog.find(name)
    assert spec.name == name
    assert len(spec.description) > 20
    noise = spec.build()
    assert noise.name == name
    assert noise.min_qubits == 1


def test_a_name_that_is_not_there():
    with pytest.raises(NoiseError, match=r"no noise 'heron' in the catalog; expected one of eagle"):
        catalog.find("heron")


def median(target, name):
    told = [p.error for p in target[name].values() if p is not None and p.error is not None]
    return np.median([error for error in told if error < 0.5])


@pytest.mark.parametrize("name", DEVICES)
def test_presets_have_the_medians_of_their_devices(name):
    """Average gate fidelities, and both readout errors."""
    device, spec = DEVICES[name](), catalog.find(name)
    model = spec.build().model
    for gate, size in (("sx", 1), ("x", 1), (spec.two_qubit_gate, 2)):
        channel = SuperOp(model._default_quantum_errors[gate])
        error = 1 - average_gate_fidelity(channel, Operator(np.eye(2**size)))
        assert error == pytest.approx(median(device.target, gate), rel=2e-3)
    (readout,) = (c for c in spec.channels if isinstance(c, Readout))
    properties = device.properties()  # which are read from a file each time
    told = [properties.qubit_property(q) for q in range(device.num_qubits)]
    for mine, theirs in (
        (readout.p1_given_0, "prob_meas1_prep0"),
        (readout.p0_given_1, "prob_meas0_prep1"),
    ):
        assert mine == pytest.approx(np.median([q[theirs][0] for q in told]), rel=2e-3)


def test_crosstalk_of_the_preset_follows_from_its_rate():
    """Angles are zeta t / 2, for 50 kHz and the times of the gates."""
    spec = catalog.find("eagle_r3_crosstalk")
    (crosstalk,) = (c for c in spec.channels if c.channel == "zz_crosstalk")
    (relaxation,) = (c for c in spec.channels if c.channel == "thermal_relaxation")
    zeta = 2 * np.pi * 50e3
    assert crosstalk.angle_rad == pytest.approx(zeta * relaxation.times_ns["ecr"] / 2e9, rel=1e-3)
    short = zeta * relaxation.times_ns["sx"] / 2e9
    assert crosstalk.one_qubit_angle_rad == pytest.approx(short, rel=1e-3)
    others = [channel for channel in spec.channels if channel != crosstalk]
    assert others == list(catalog.find("eagle_r3").channels)
