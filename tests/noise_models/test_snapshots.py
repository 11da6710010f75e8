"""Snapshots against the device's own noise: equal, but for the readout of both outcomes."""

import json
from datetime import UTC, datetime

import numpy as np
import pytest
import torch
from cases import evs_of
from fakes import FakeVendorBackend
from qiskit import QuantumCircuit, transpile
from qiskit.quantum_info import SparsePauliOp
from qiskit_aer.noise import NoiseModel
from qiskit_ibm_runtime.fake_provider import FakeManilaV2, FakeSherbrooke, FakeTorino

from noise_models.snapshots import Snapshot, best_qubits
from qpc_qiskit.backends.aer import AerEstimator
from qpc_qiskit.backends.destinations import noise_of_patch
from qpc_qiskit.circuits.spec import make_spec
from qpc_qiskit.devices.noise import measurement_noise
from qpc_qiskit.engines import EstimatorEngine
from qpc_qiskit.errors import NoiseError

CASES = [
    (FakeManilaV2, [3, 1, 2]),
    (FakeManilaV2, None),
    (FakeTorino, [5, 4, 3, 2]),  # cz
    (FakeSherbrooke, [62, 63, 64]),  # ecr, in one direction
]
RNG = np.random.default_rng(5)


@pytest.fixture(scope="module")
def manila():
    return Snapshot.of(FakeManilaV2(), [1, 2, 3])


def quantum_errors(model):
    """All but readout, in an order of their own."""
    told = model.to_dict(serializable=True)["errors"]
    kept = [{k: v for k, v in e.items() if k != "id"} for e in told if e["type"] != "roerror"]
    return sorted(json.dumps(each, sort_keys=True) for each in kept)


class TestAgainstTheDevice:
    @pytest.mark.parametrize(("device", "qubits"), CASES)
    def test_the_noise_of_a_patch_but_for_the_readout(self, device, qubits):
        backend = device()
        snapshot = Snapshot.of(backend, qubits)
        ours, theirs = snapshot.noise_model(), noise_of_patch(backend, snapshot.qubits)
        assert quantum_errors(ours) == quantum_errors(theirs)
        assert set(ours.basis_gates) == set(theirs.basis_gates)
        ours, theirs = measurement_noise(ours), measurement_noise(theirs)
        for wire, qubit in enumerate(snapshot.qubits):
            told = backend.properties().qubit_property(qubit)
            found = ours.confusion(wire)
            assert found[0, 1] == pytest.approx(told["prob_meas1_prep0"][0])
            assert found[1, 0] == pytest.approx(told["prob_meas0_prep1"][0])
            np.testing.assert_allclose(found.sum(axis=1), 1)
            both = theirs.confusion(wire)  # IBM's error of the target is the mean of the two
            assert both[0, 1] == both[1, 0] == pytest.approx((found[0, 1] + found[1, 0]) / 2)

    def test_what_it_tells(self):
        backend = FakeManilaV2()
        found = Snapshot.of(backend, [2, 1])
        assert found.device == "fake_manila"
        assert found.qubits == (2, 1)
        assert found.coupling == ((0, 1),)
        date = datetime.fromisoformat(found.calibrated)
        assert date == backend.properties().last_update_date.astimezone(UTC)
        assert found.calibrations[0].t1_seconds == backend.target.qubit_properties[2].t1
        (cx,) = (g for g in found.gates if (g.name, g.qubits) == ("cx", (1, 0)))
        assert cx.error == backend.target["cx"][(1, 2)].error
        assert cx.seconds == backend.target["cx"][(1, 2)].duration

    def test_a_device_that_tells_no_errors(self):
        with pytest.raises(NoiseError, match="fake_vendor tells no errors of these qubits"):
            Snapshot.of(FakeVendorBackend())

    @pytest.mark.parametrize("qubits", [[0, 5], [-1], [1, 1], []])
    def test_qubits_that_it_does_not_have(self, qubits):
        with pytest.raises(NoiseError, match="Expected different qubits of fake_manila, from 0 to"):
            Snapshot.of(FakeManilaV2(), qubits)

    def test_the_best_qubits_are_those_of_the_engine(self):
        backend = FakeManilaV2()
        spec = make_spec(8, 3)
        engine = EstimatorEngine.from_backend("aer", noise_model=backend)
        assert best_qubits(backend, 3) == engine.prepare(spec).placement.patch.qubits


def z(qubit, num_qubits):
    return SparsePauliOp.from_sparse_list([("Z", [qubit], 1.0)], num_qubits=num_qubits)


class TestPatchAgainstTheWholeDevice:
    """The same circuit on three of Manila's five qubits, simulated alone and on all of them."""

    @staticmethod
    def values(circuit, observables, model):
        pub = (circuit, observables)
        return AerEstimator(model).run([pub]).result()[0].data.evs

    @pytest.mark.parametrize("qubits", [[3, 2, 1], [0, 1, 2]])
    def test_the_values_are_the_same(self, qubits):
        backend = FakeManilaV2()
        circuit = QuantumCircuit(3)
        for _ in range(3):
            for q in range(3):
                circuit.ry(RNG.uniform(0, 6), q)
            circuit.cx(0, 1)
            circuit.cx(2, 1)
        wide = transpile(circuit, backend, initial_layout=qubits, optimization_level=0)
        small = QuantumCircuit(3)
        for i in wide.data:
            on = [qubits.index(wide.find_bit(q).index) for q in i.qubits]
            small.append(i.operation, on)
        whole = NoiseModel.from_backend(backend)
        on_device = [
            SparsePauliOp.from_sparse_list([("Z", [q], 1.0)], num_qubits=5) for q in qubits
        ]
        on_patch = [
            SparsePauliOp.from_sparse_list([("Z", [q], 1.0)], num_qubits=3) for q in range(3)
        ]
        expected = self.values(wide, on_device, whole)
        found = self.values(small, on_patch, noise_of_patch(backend, qubits))
        np.testing.assert_allclose(found, expected, atol=1e-12)
        # A snapshot differs by its readout alone: <Z> is reported as (1 - p - q) <Z> + q - p.
        ours = self.values(small, on_patch, Snapshot.of(backend, qubits).noise_model())
        readout = measurement_noise(whole)
        for place, qubit in enumerate(qubits):
            p = q = readout.confusion(qubit)[0, 1]
            bare = (expected[place] - q + p) / (1 - p - q)
            told = backend.properties().qubit_property(qubit)
            p, q = told["prob_meas1_prep0"][0], told["prob_meas0_prep1"][0]
            # Aer leaves out terms of an error with tiny probabilities (measured: 1e-9 of the trace
            # for each two-qubit gate), so that probabilities do not quite sum to 1.
            assert ours[place] == pytest.approx((1 - p - q) * bare + q - p, abs=1e-7)


class TestAsABackend:
    SPEC = make_spec(8, 3, num_layers=1)
    PIXELS = torch.from_numpy(RNG.normal(size=(2, 8)))
    WEIGHTS = torch.from_numpy(RNG.uniform(0, 6, size=(1, SPEC.num_weights)))

    def test_engines_place_circuits_on_it(self, manila):
        engine = EstimatorEngine.from_backend("aer", noise_model=manila.backend())
        found = evs_of(engine, self.SPEC, self.PIXELS, self.WEIGHTS)
        placement = engine.prepare(self.SPEC).placement
        assert sorted(placement.patch.qubits) == [0, 1, 2]
        about = engine.last_report.about
        assert about["noise"] == "snapshot of fake_manila"
        assert about["calibration_time"] == manila.calibrated
        device = EstimatorEngine.from_backend("aer", noise_model="fake_manila", qubits=[1, 2, 3])
        expected = evs_of(device, self.SPEC, self.PIXELS, self.WEIGHTS)
        assert float((found - expected).abs().max()) < 0.08  # the readout
        assert float((found - expected).abs().max()) > 1e-4

    def test_the_readout_is_that_of_the_patchs_qubits(self, manila):
        model = manila.backend().noise_of_qubits([2, 0])
        noise = measurement_noise(model)
        for wire, place in enumerate([2, 0]):
            told = manila.calibrations[place]
            assert noise.confusion(wire)[0, 1] == told.p1_given_0
            assert noise.confusion(wire)[1, 0] == told.p0_given_1

    def test_with_mitigation(self, manila):
        engine = EstimatorEngine.from_backend(
            "aer", noise_model=manila.backend(), resilience=1, shots=64, seed=1
        )
        found = evs_of(engine, self.SPEC, self.PIXELS[:1], self.WEIGHTS)
        assert torch.isfinite(found).all()

    def test_it_runs_nothing_by_itself(self, manila):
        with pytest.raises(NoiseError, match="runs nothing; give it as noise_model of 'aer'"):
            manila.backend().run(None)


class TestStrength:
    def test_everything_is_scaled(self, manila):
        found = manila.scaled(2)
        assert found.device == "fake_manila-x2"
        for old, new in zip(manila.calibrations, found.calibrations, strict=True):
            assert new.t1_seconds == pytest.approx(old.t1_seconds / 2)
            assert new.t2_seconds == pytest.approx(old.t2_seconds / 2)
            assert new.p1_given_0 == pytest.approx(2 * old.p1_given_0)
            assert new.p0_given_1 == pytest.approx(2 * old.p0_given_1)
            assert new.frequency_hz == old.frequency_hz
        for old, new in zip(manila.gates, found.gates, strict=True):
            assert new.error == (None if old.error is None else pytest.approx(2 * old.error))
            assert new.seconds == old.seconds

    def test_one_changes_nothing(self, manila):
        assert manila.scaled(1) == manila

    def test_values_shrink(self, manila):
        spec, pixels, weights = TestAsABackend.SPEC, TestAsABackend.PIXELS, TestAsABackend.WEIGHTS
        sizes = []
        for factor in (0.01, 3):
            backend = manila.scaled(factor).backend()
            engine = EstimatorEngine.from_backend("aer", noise_model=backend)
            sizes.append(float(evs_of(engine, spec, pixels, weights).abs().sum()))
        assert sizes[1] < sizes[0]

    @pytest.mark.parametrize("factor", [0, -1, float("inf"), float("nan")])
    def test_bad_factors(self, manila, factor):
        with pytest.raises(NoiseError, match="Expected a factor above 0 to scale a snapshot by"):
            manila.scaled(factor)

    def test_too_strong(self, manila):
        with pytest.raises(NoiseError, match=r"fake_manila scaled by 100: calibrations\[0\].p"):
            manila.scaled(100)


class TestFiles:
    def test_equal_whatever_the_order_of_the_gates(self, manila):
        """A device tells them in another order in every process."""
        data = manila.to_dict()
        found = Snapshot.from_dict(data | {"gates": data["gates"][::-1]})
        assert found == manila
        assert found.digest == manila.digest

    @pytest.mark.parametrize(("device", "qubits"), CASES[::3])
    def test_round_trip(self, device, qubits, tmp_path):
        snapshot = Snapshot.of(device(), qubits)
        snapshot.save(tmp_path / "a.json")
        found = Snapshot.load(tmp_path / "a.json")
        assert found == snapshot
        assert found.digest == snapshot.digest
        assert found.scaled(2).digest != snapshot.digest
        assert quantum_errors(found.noise_model()) == quantum_errors(snapshot.noise_model())

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({"format": 2}, "a.json: format: expected 1, got 2"),
            ({"colour": 1}, "a.json: colour: there is no such field"),
            ({"qubits": [1, 1, 2]}, r"expected different qubits, got \[1, 1, 2\]"),
            ({"qubits": [1, 2]}, "expected calibrations of 2 qubits, got 3"),
            ({"qubits": "1,2,3"}, "qubits: expected a list, got '1,2,3'"),
            ({"gates": []}, "there is no measure"),
            ({"gates": [{"name": "cx", "qubits": [0]}]}, r"expected cx on 2 different qubits, got"),
            ({"gates": [{"name": "cx", "qubits": [0, 3]}]}, "places of qubits from 0 to 2, got cx"),
            ({"gates": [{"name": "warp", "qubits": [0]}]}, "standard gates of Qiskit, got 'warp'"),
            ({"gates": [{"name": "sx", "qubits": [0]}] * 2}, r"sx on \[0\] is told 2 times"),
            (
                {"gates": [{"name": "sx", "qubits": [0], "error": -1}]},
                r"gates\[0\].error: expected a probability from 0 to 1, got -1",
            ),
            (
                {"calibrations": [{"t1_seconds": 0}] * 3},
                r"calibrations\[0\].t1_seconds: expected a number of seconds above 0, got 0",
            ),
        ],
    )
    def test_bad_files(self, manila, tmp_path, change, match):
        path = tmp_path / "a.json"
        path.write_text(json.dumps(manila.to_dict() | change))
        with pytest.raises(NoiseError, match=match) as caught:
            Snapshot.load(path)
        assert "\n" not in str(caught.value)

    def test_another_suffix(self, manila, tmp_path):
        with pytest.raises(NoiseError, match=r"a.toml: expected a file whose name ends in .json"):
            manila.save(tmp_path / "a.toml")

    def test_readout_that_is_told_by_the_target_alone(self, manila):
        """Or by nobody: then there is none."""
        data = manila.to_dict()
        for each in data["calibrations"]:
            del each["p1_given_0"], each["p0_given_1"]
        noise = measurement_noise(Snapshot.from_dict(data).noise_model())
        (measure,) = (
            g["error"] for g in data["gates"] if g["name"] == "measure" and g["qubits"] == [0]
        )
        assert noise.confusion(0)[0, 1] == noise.confusion(0)[1, 0] == pytest.approx(measure)
        for gate in data["gates"]:
            if gate["name"] == "measure":
                del gate["error"]
        noise = measurement_noise(Snapshot.from_dict(data).noise_model())
        assert noise.confusion(0) is None
