"""Noise as one word: channels, the catalog, files, devices."""

import numpy as np
import pytest
from qiskit.quantum_info import DensityMatrix, Operator, SuperOp, average_gate_fidelity
from qiskit_ibm_runtime.fake_provider import FakeManilaV2

from noise_models import builders, catalog, words
from noise_models.snapshots import Snapshot, SnapshotBackend
from noise_models.words import find_noise, has_device, parse_noise, resolved
from qpc_qiskit.devices.noise import CircuitNoise
from qpc_qiskit.errors import NoiseError


def channels(noise):
    """Superoperator of the error by gate."""
    model = noise.model
    return {name: SuperOp(model._default_quantum_errors[name]) for name in model.noise_instructions}


def test_depolarizing_acts_on_every_gate_but_rz():
    noise = parse_noise("depolarizing:0.01")
    assert isinstance(noise, CircuitNoise)
    assert not noise.changes_circuits
    assert set(noise.model.noise_instructions) == {"sx", "x", "cx"}
    assert set(noise.model.basis_gates) == {"rz", "sx", "x", "cx"}


def test_the_parameter_is_the_share_of_the_mixed_state():
    for name, channel in channels(parse_noise("depolarizing:0.3")).items():
        size = 4 if name == "cx" else 2
        state = np.zeros((size, size))
        state[0, 0] = 1
        expected = 0.7 * state + 0.3 * np.eye(size) / size
        np.testing.assert_allclose(DensityMatrix(state).evolve(channel).data, expected, atol=1e-12)
        infidelity = 1 - average_gate_fidelity(channel, Operator(np.eye(size)))
        assert infidelity == pytest.approx(0.3 * (0.75 if name == "cx" else 0.5))


@pytest.mark.parametrize("kind", words.KINDS)
def test_every_kind(kind):
    assert parse_noise(f"{kind}:0").model.is_ideal()
    assert not parse_noise(f"{kind}:0.01").model.is_ideal()
    found = find_noise(f"{kind}:1e-2")
    assert [c.channel for c in found.channels] == [kind]
    assert found.name == f"{kind}-1e-2"
    assert type(found).from_toml(found.to_toml()) == found


def test_readout_errs_alike_for_both_outcomes():
    assert find_noise("readout:0.1").channels == (builders.readout(0.1, 0.1),)


@pytest.mark.parametrize("name", ["fake_torino", "ibm_fez"])
def test_devices_are_passed_through(name):
    assert parse_noise(name) == name
    with pytest.raises(NoiseError, match="Unknown noise"):
        find_noise(name)


@pytest.mark.parametrize("name", catalog.names())
def test_names_of_the_catalog(name):
    assert parse_noise(name).name == name
    assert find_noise(name) == catalog.find(name)


@pytest.mark.parametrize("name", ["fake_mine.toml", "mine.json"])
def test_files(tmp_path, monkeypatch, name):
    """One that is called as a device is a file all the same."""
    monkeypatch.chdir(tmp_path)
    spec = builders.compose(builders.bit_flip(0.1), name="mine")
    spec.save(name)
    assert find_noise(name) == spec
    assert parse_noise(str(tmp_path / name)).name == "mine"
    assert resolved(name) == str(tmp_path / name)


def test_a_snapshot(tmp_path):
    from qiskit_ibm_runtime.fake_provider import FakeManilaV2

    path = tmp_path / "manila.json"
    snapshot = Snapshot.of(FakeManilaV2(), [0, 1])
    snapshot.save(path)
    found = parse_noise(str(path))
    assert isinstance(found, SnapshotBackend)
    assert found.snapshot == snapshot


def test_only_files_are_resolved():
    for word in ("depolarizing:0.01", "ideal", "fake_torino"):
        assert resolved(word) == word


@pytest.mark.parametrize(
    ("word", "match"),
    [
        ("", "Unknown noise ''; expected a device's name such as fake_torino, a channel with a"),
        ("warm", "Unknown noise 'warm'"),
        ("warm:0.1", "Unknown noise 'warm:0.1'"),
        ("fake_torino:0.1", "Unknown noise 'fake_torino:0.1'"),
        ("thermal_relaxation:0.1", r"phase_damping, .*\), a name of the catalog \(eagle_r3, "),
        ("depolarizing", "A number belongs to it: depolarizing:0.01"),
        ("depolarizing:", "expected a number, got ''"),
        ("depolarizing:x", "Noise 'depolarizing:x': expected a number, got 'x'"),
        ("depolarizing:1.01", "expected a probability from 0 to 1, got '1.01'"),
        ("bit_flip:-0.1", "expected a probability from 0 to 1, got '-0.1'"),
        ("phase_flip:nan", "expected a probability from 0 to 1, got 'nan'"),
        ("over_rotation:4", "expected an angle in radians from -pi to pi, got '4'"),
        ("missing.toml", "Cannot read missing.toml: No such file or directory"),
    ],
)
def test_bad_words(word, match):
    with pytest.raises(ValueError, match=match):
        parse_noise(word)


def test_which_noise_is_of_a_device(tmp_path):
    snapshot, spec = tmp_path / "manila.json", tmp_path / "spec.toml"
    Snapshot.of(FakeManilaV2()).save(snapshot)
    spec.write_text(find_noise("bit_flip:0.1").to_toml())
    for word, expected in {
        "fake_fez": True,
        str(snapshot): True,
        str(spec): False,
        "bit_flip:0.1": False,
        "": False,
    }.items():
        assert has_device(word) is expected
    with pytest.raises(NoiseError, match="Cannot read"):
        has_device("fake_missing.json")
