import numpy as np
import pytest
from fakes import FakeVendorBackend
from tiers import thorough

from qpc_qiskit.backends import runtime, survey
from qpc_qiskit.backends.named import find_backend
from qpc_qiskit.errors import BackendError

NIGHTHAWK = "qiskit_ibm_runtime.fake_provider.backends.nighthawk.fake_nighthawk.DISPLAY_WARNING"
"""It warns once in a process."""


SOME = ["fake_almaden", "fake_armonk", "fake_kyoto", "fake_manila", "fake_nighthawk"]


@pytest.mark.parametrize("names", [SOME, *thorough(list(runtime.fake_devices()))], ids=len)
def test_every_snapshot_has_a_summary(names, monkeypatch):
    monkeypatch.setattr(NIGHTHAWK, True)
    devices = runtime.fake_devices()
    monkeypatch.setattr(runtime, "fake_devices", lambda: {name: devices[name] for name in names})
    found = {device.name: device for device in survey.fake_summaries()}
    assert list(found) == names
    for device in found.values():
        assert 0 < device.num_usable_qubits <= device.num_qubits
        assert device.one_qubit_gates
        assert 0 < device.median_readout_error < 0.5
        assert len(device.calibration_time) == len("2025-02-26T20:26:08+00:00")
    without = [name for name, device in found.items() if not device.two_qubit_gates]
    assert without == ["fake_armonk", "fake_kyoto"]  # one qubit; every gate of error 1
    assert all(
        (device.median_two_qubit_error is None) == (n in without) for n, device in found.items()
    )
    assert [name for name, device in found.items() if device.note] == ["fake_nighthawk"]


def test_medians_are_those_of_the_target():
    backend = find_backend("fake_manila")
    summary = survey.summarise(backend)
    errors = [backend.target["cx"][edge].error for edge in backend.target["cx"]]
    assert summary.median_two_qubit_error == np.median(errors)
    readout = [backend.target["measure"][(q,)].error for q in range(5)]
    assert summary.median_readout_error == np.median(readout)


def test_a_backend_that_tells_no_errors():
    summary = survey.summarise(FakeVendorBackend())
    assert summary.two_qubit_gates == ("iswap",)
    assert summary.median_two_qubit_error is summary.calibration_time is None
    assert survey.best_patch(FakeVendorBackend(), 2).qpu_seconds is None


def test_patches_end_where_the_device_does():
    found = list(survey.best_patches(find_backend("fake_manila"), sizes=(2, 3, 6, 7)))
    assert [patch.num_qubits for patch in found] == [2, 3, 6]
    assert "The circuit has 6 qubits; the backend has 5" in found[2].problem
    assert found[0].num_two_qubit_gates == 7
    assert found[0].fidelity > found[1].fidelity


def test_a_device_without_a_place():
    patch = survey.best_patch(find_backend("fake_kyoto"), 2)
    assert patch.qubits is None
    assert "no 2 connected healthy qubits" in patch.problem


def test_find_summary(monkeypatch):
    monkeypatch.setattr(NIGHTHAWK, True)
    assert survey.find_summary("aer") == (survey.AER_SUMMARY, None)
    summary, backend = survey.find_summary("fake_nighthawk")
    assert backend.name == summary.name == "fake_nighthawk"
    assert "not intended to represent" in summary.note
    with pytest.raises(BackendError, match="Did you mean fake_guadalupe"):
        survey.find_summary("guadelupe")
