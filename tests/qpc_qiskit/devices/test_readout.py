"""Readout errors of backends, and parities that are free of them."""

import numpy as np
import pytest
import torch
from fakes import recording
from qiskit.quantum_info import SparsePauliOp
from qiskit_aer.noise import NoiseModel, ReadoutError, depolarizing_error
from qiskit_ibm_runtime.fake_provider import FakeManilaV2, FakeTorino

from qpc_qiskit import EstimatorEngine, QuantumPointwiseConv2d, use_engine
from qpc_qiskit.backends.destinations import noise_of_patch
from qpc_qiskit.devices.readout import confusions_of_device, confusions_of_model, measured_strings
from qpc_qiskit.rows.frozen import freeze, thaw

Z = [SparsePauliOp(label) for label in ("IIZ", "IZI", "ZII")]
PARITIES = [SparsePauliOp("IZZ"), SparsePauliOp("ZZI", -1), SparsePauliOp("ZIZ")]
EQUAL = np.array([[0.9, 0.1], [0.1, 0.9]])
SKEW = np.array([[0.98, 0.02], [0.1, 0.9]])


def model(num_qubits=2, matrix=SKEW):
    noise = NoiseModel(basis_gates=["rz", "sx", "x", "cz"])
    noise.add_all_qubit_quantum_error(depolarizing_error(0.01, 2), ["cz"])
    for qubit in range(num_qubits):
        noise.add_readout_error(ReadoutError(matrix), [qubit])
    return noise


def test_of_a_model():
    noise = model(2)
    found = confusions_of_model(noise, 3)
    np.testing.assert_allclose(found, [SKEW, SKEW, np.eye(2)])


def test_of_a_snapshot_as_it_is_simulated():
    """Aer's model of a device takes the mean of both errors, and the calibration tells them."""
    backend = FakeTorino()
    simulated = confusions_of_model(noise_of_patch(backend, (3, 4)), 2)
    (told,) = confusions_of_device(backend, [(3, 4)])
    np.testing.assert_allclose(simulated[:, 0, 1], simulated[:, 1, 0])
    np.testing.assert_allclose(simulated[:, 0, 1], told[:, [0, 1], [1, 0]].mean(1), atol=2e-4)
    assert (told[:, 0, 1] != told[:, 1, 0]).all()


def test_of_a_device():
    backend = recording().backend("ibm_torino")
    (found,) = confusions_of_device(backend, [(0, 7)])
    properties = backend.properties()
    for row, qubit in zip(found, (0, 7), strict=True):
        assert row[0, 1] == properties.qubit_property(qubit, "prob_meas1_prep0")[0]
        assert row[1, 0] == properties.qubit_property(qubit, "prob_meas0_prep1")[0]


def test_without_properties():
    """The target has one error for both outcomes; without it nothing is known."""

    class Plain:
        target = FakeManilaV2().target

    (found,) = confusions_of_device(Plain(), [(2,)])
    error = Plain.target["measure"][(2,)].error
    np.testing.assert_allclose(found, [[[1 - error, error], [error, 1 - error]]])
    plain = Plain()
    plain.target = {}
    assert confusions_of_device(plain, [(2,)]) == [None]


def test_what_is_measured():
    three = np.stack([SKEW, EQUAL, SKEW])
    strings, inversions = measured_strings(Z, [three])
    assert (strings, inversions) == (tuple(Z), ())
    strings, inversions = measured_strings(PARITIES, [three, None])
    assert (strings, inversions) == (tuple(PARITIES), ())
    strings, inversions = measured_strings(PARITIES, [np.stack([EQUAL] * 3)] * 2)
    assert {s.paulis.to_labels()[0] for s in strings} == {"IZZ", "ZZI", "ZIZ"}
    assert len(inversions) == 2
    np.testing.assert_allclose(np.abs(inversions[0].matrix).max(1), 1 / 0.8**2)


def test_patches_measure_the_same():
    """Of two patches one has a skew qubit where the other has none."""
    first, second = np.stack([SKEW, EQUAL, EQUAL]), np.stack([EQUAL, EQUAL, SKEW])
    strings, inversions = measured_strings(PARITIES, [first, second])
    assert all(each.matrix.shape == (3, len(strings)) for each in inversions)
    assert len(strings) > 3


@pytest.mark.parametrize("shots", [None, 4000])
def test_absorbed_tail_is_as_good_as_none(shots):
    """Readout errors alone: with the tail they are inverted, and nothing else is wrong."""
    layer = QuantumPointwiseConv2d(4, 4, generator=torch.Generator().manual_seed(0)).double()
    images = torch.randn(
        1, 4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    noise = NoiseModel(basis_gates=["rz", "sx", "x", "cz"])
    for qubit in range(2):
        noise.add_readout_error(ReadoutError(SKEW), [qubit])
    options = {"noise_model": noise, "shots": shots, "seed": 5, "absorb_tail": True}
    with torch.no_grad():
        exact = layer(images)
        with EstimatorEngine.from_backend("aer", **options) as engine, use_engine(layer, engine):
            found = layer(images)
    error = (found - exact).abs()
    if shots is None:
        assert float(error.max()) < 1e-10
    else:
        pulls = (found - exact).flatten() / engine.last_report.stds[0].permute(1, 2, 0).flatten()
        assert float(error.max()) < 5 * engine.last_report.max_std
        assert 0.6 < float(pulls.std()) < 1.5


def test_frozen_inversions():
    layer = QuantumPointwiseConv2d(4, 4)
    engine = EstimatorEngine.from_backend("aer", noise_model=model(), absorb_tail=True)
    prepared = engine.prepare(layer.spec)
    assert len(prepared.inversions) == 1
    (found,) = thaw(freeze(prepared)).inversions
    evs = np.random.default_rng(0).uniform(-1, 1, (5, len(prepared.parts[0].observables)))
    np.testing.assert_array_equal(found.features(evs), prepared.inversions[0].features(evs))
    np.testing.assert_array_equal(
        found.stds_of_shots(evs, 10), prepared.inversions[0].stds_of_shots(evs, 10)
    )


def test_mitigation_inverts_by_itself():
    given = {"shots": 100, "absorb_tail": True}
    plain = EstimatorEngine.from_backend("fake_manila", **given)
    mitigated = EstimatorEngine.from_backend("fake_manila", resilience=1, **given)
    spec = QuantumPointwiseConv2d(4, 4).spec
    assert plain.prepare(spec).inversions
    assert not mitigated.prepare(spec).inversions
