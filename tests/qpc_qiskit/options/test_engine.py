import pickle
from types import SimpleNamespace

import numpy as np
import pytest

from qpc_qiskit.options.economy import BEST, PLAIN
from qpc_qiskit.options.engine import GRID, EngineOptions, NoisyOptions
from qpc_qiskit.options.fields import OptionError

DEVICE = {"has_device_noise": True, "is_durable": False}
NO_DEVICE = {"has_device_noise": False, "is_durable": False}
DURABLE = {"has_device_noise": False, "is_durable": True}


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"shots": 5, "precision": 0.1}, "shots and precision contradict each other; give one"),
        ({"mode": "lot"}, "mode must be one of job, batch, session; got 'lot'"),
        ({"gap": 1}, "gap has no effect on one patch; give num_patches, or leave it out"),
        ({"num_patches": 2, "gap": -1}, "gap must be a number of qubits, 0 or more; got -1"),
        ({"calibrate": False}, "calibrate=False has no effect without num_references"),
        ({"precision": 0, "resilience": 1}, "precision=0 asks for exact values"),
        ({"dedupe_grid": 2}, "dedupe_grid must be at least 2.2e-16 and below 1"),
        ({"num_patches": "2"}, "num_patches must be a positive integer, got '2'"),
    ],
)
def test_contradictions(given, match):
    with pytest.raises(OptionError, match=f"^{match}"):
        EngineOptions.read(**given)


def test_no_such_option():
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'; expected some of"):
        EngineOptions.read(colour=1)
    with pytest.raises(TypeError, match="shots beside an EngineOptions"):
        EngineOptions.of(EngineOptions(), shots=5)


def test_numbers_of_numpy_are_numbers():
    assert EngineOptions.read(shots=np.int64(100), seed=np.int64(1)).standard_error == 0.1


@pytest.mark.parametrize(
    ("given", "where", "match"),
    [
        ({"encoder": "cnot"}, NO_DEVICE, "encoder must be one of multiplexor, brickwall, "),
        (BEST.model_dump(), NO_DEVICE, "economy best has no effect on aer"),
        ({"num_patches": 2}, NO_DEVICE, "num_patches has no effect on aer, which is no device"),
        ({"num_patches": None, "noise_model": "x"}, NO_DEVICE, "num_patches has no effect on aer"),
        ({"num_references": None}, NO_DEVICE, "num_references has no effect on exact values"),
        ({"seed": 1}, NO_DEVICE, "seed has no effect on exact values; give shots or precision"),
        ({"seed": 1, "backend": "ibm_x"}, NO_DEVICE, "seed has no effect on a real device"),
        ({"noise_model": "x", "backend": "fake_x"}, NO_DEVICE, "noise_model belongs to backend"),
        ({"max_qpu_seconds": 0, "shots": 1}, DEVICE, "max_qpu_seconds must be a number above 0"),
        ({"max_qpu_seconds": 1}, DEVICE, "max_qpu_seconds has no effect on exact values"),
        ({"max_qpu_seconds": 1, "shots": 1}, NO_DEVICE, "max_qpu_seconds has no effect on aer"),
        ({"max_qpu_seconds": 1, "shots": 1}, DURABLE, "max_qpu_seconds has no effect on aer"),
        ({"precision": 0, "backend": "fake_x"}, DURABLE, "precision 0 asks for exact values"),
        ({"mode": "session", "backend": "ibm_x"}, DURABLE, "mode session is billed by the clock"),
    ],
)  # fmt: skip
def test_what_a_command_refuses(given, where, match):
    with pytest.raises(OptionError, match=f"^{match}"):
        EngineOptions(**given).check_asked(**where)


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({}, NO_DEVICE),
        ({"num_patches": None, "gap": 1, "num_references": 12, "noise_model": "x"}, DEVICE),
        ({"num_references": 4, "noise_model": "x"}, NO_DEVICE),
        ({"num_references": 4, "shots": 5}, NO_DEVICE),
        ({"max_qpu_seconds": 1, "shots": 5}, DEVICE),
        ({"precision": 0, "backend": "fake_x"}, NO_DEVICE),
        ({"encoder": "auto", "absorb_tail": None, "backend": "fake_x"}, DURABLE),
    ],
)
def test_what_a_command_takes(given, where):
    EngineOptions(**given).check_asked(**where)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"seed": 1}, "seed has no effect on exact values; give shots, or leave it out"),
        ({"absorb_tail": True, "shots": 9}, "absorb_tail measures parities, which would share"),
    ],
)
def test_what_has_no_effect_with_the_noisy_engine(given, match):
    with pytest.raises(OptionError, match=f"^{match}"):
        NoisyOptions.read(**given)


def test_an_error_is_worded_by_whoever_knows_names():
    with pytest.raises(OptionError) as caught:
        EngineOptions.read(num_references=0, calibrate=False)
    error = pickle.loads(pickle.dumps(caught.value))
    assert str(error) == "calibrate=False has no effect without num_references; leave it out."
    assert (
        error.worded(str.upper) == "CALIBRATE has no effect without NUM_REFERENCES; leave it out."
    )
    assert str(OptionError("{name}: {got!r}", got="{name}")) == "name: '{name}'"


def test_what_differs_from_the_defaults():
    assert EngineOptions().given() == {}
    qubits = np.array([1, 2])
    given = EngineOptions.read(shots=5, dedupe_grid=None, qubits=qubits).given("shots")
    assert given == {"dedupe_grid": None, "qubits": qubits}
    options = EngineOptions.read(backend="fake_x", seed=3, num_patches=2, encoder="brickwall")
    assert options.of_estimator() == {"seed": 3, "encoder": "brickwall"}


def test_settings_of_a_run_and_back():
    """As runs that were begun before there was this record have them."""
    options = EngineOptions.read(
        backend="fake_x", shots=1024, seed=1, num_patches=None, num_references=4, options={"a": 1}
    )
    settings = options.for_run()
    assert settings == {
        "backend": "fake_x", "mode": "job", "precision": 1 / 32, "resilience": 0,
        "options": {"a": 1}, "seed": 1, "dedupe_grid": GRID,
        "engine_options": {"num_patches": None, "num_references": 4},
    }  # fmt: skip
    found = EngineOptions.of_run(settings | {"about": {"noise": "x"}})
    assert found == options.changed(shots=None, precision=1 / 32)
    assert EngineOptions().for_run()["options"] == {}
    assert EngineOptions.of_run(EngineOptions().for_run()) == EngineOptions()
    assert EngineOptions.of_run({}).economy == PLAIN  # of a script of one's own


def test_objects_are_kept_as_they_are():
    backend = SimpleNamespace(name="own")
    assert EngineOptions.of(backend).backend is backend
