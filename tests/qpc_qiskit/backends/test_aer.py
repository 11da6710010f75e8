"""Aer as an Estimator, against Qiskit's statevectors and density matrices and against Aer's counts.

`Noise` builds Aer's model and, from the same errors, evolves Qiskit's `DensityMatrix` gate by gate.
"""

import itertools
import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.primitives import StatevectorEstimator
from qiskit.primitives.containers.bindings_array import BindingsArray
from qiskit.primitives.containers.estimator_pub import EstimatorPub
from qiskit.primitives.containers.observables_array import ObservablesArray
from qiskit.quantum_info import DensityMatrix, SparsePauliOp, SuperOp
from qiskit_aer import AerSimulator
from qiskit_aer.noise import (
    NoiseModel,
    ReadoutError,
    amplitude_damping_error,
    depolarizing_error,
    pauli_error,
    thermal_relaxation_error,
)
from tiers import thorough

from qpc_qiskit.backends import aer
from qpc_qiskit.backends.aer import AerEstimator, measured_qubits, noisy_options
from qpc_qiskit.errors import EngineError
from qpc_qiskit.options.engine import precision_of


def circuit_on(num_qubits, num_layers=2):
    """Parametrized rotations and a ring of cx, in gates that noise models name."""
    circuit = QuantumCircuit(num_qubits)
    count = itertools.count()
    for layer in range(num_layers):
        for q in range(num_qubits):
            circuit.ry(Parameter(f"p{next(count)}"), q)
            circuit.rz(2 * Parameter(f"p{next(count)}") + 0.3, q)
            circuit.sx(q)
        for q in range(num_qubits if num_qubits > 2 else num_qubits - 1):
            circuit.cx(q, (q + 1 + layer % max(num_qubits - 1, 1)) % num_qubits)
    return circuit


def rows_for(circuit, shape, rng):
    return rng.uniform(0, 2 * np.pi, (*shape, circuit.num_parameters))


def features(num_qubits):
    """Z of every qubit, (n, 1), as the engine sends them."""
    return [["I" * (num_qubits - 1 - q) + "Z" + "I" * q] for q in range(num_qubits)]


def evs_of(estimator, circuit, observables, rows, precision=None):
    return estimator.run([(circuit, observables, rows)], precision=precision).result()[0].data.evs


CIRCUIT = circuit_on(3)
WEIGHTED = SparsePauliOp(["ZII", "IZZ", "III", "ZZZ"], [1, -0.5, 0.25, 3])


class TestExact:
    @pytest.mark.parametrize(
        ("observables", "shape"),
        [
            (features(3), (5,)),  # as the engine sends them: (3, 1) against (5,)
            ("ZIZ", (2, 5)),
            ([WEIGHTED, "IZI", "ZZZ"], (3,)),
            (["ZII", WEIGHTED], (4, 1)),
            ([["ZII", "IZI"]], (3, 1, 1)),
            (["ZZZ"], ()),
            ("IIZ", ()),
            (WEIGHTED, (1,)),
        ],
        ids=str,
    )
    def test_equals_statevector(self, observables, shape, rng):
        pub = (CIRCUIT, observables, rows_for(CIRCUIT, shape, rng))
        found, expected = (
            estimator.run([pub]).result()[0]
            for estimator in (AerEstimator(), StatevectorEstimator())
        )
        assert np.shape(found.data.evs) == np.shape(expected.data.evs)
        assert np.shape(found.data.stds) == np.shape(expected.data.evs)
        assert found.data.shape == expected.data.shape
        np.testing.assert_allclose(found.data.evs, expected.data.evs, rtol=0, atol=1e-12)
        assert not np.any(found.data.stds)

    @pytest.mark.parametrize("num_qubits", [1, 2, 4, 6])
    def test_every_product_of_z(self, num_qubits, rng):
        circuit = circuit_on(num_qubits)
        strings = [["".join(s)] for s in itertools.product("IZ", repeat=num_qubits)]
        rows = rows_for(circuit, (3,), rng)
        found, expected = (
            evs_of(estimator, circuit, strings, rows)
            for estimator in (AerEstimator(), StatevectorEstimator())
        )
        assert found.shape == (2**num_qubits, 3)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)

    def test_subsets_of_qubits(self, rng):
        """Only measured qubits are kept; their order must survive."""
        circuit = circuit_on(5)
        rows = rows_for(circuit, (2,), rng)
        for strings in (["IZIII", "ZIIII"], ["ZIIIZ"], ["IIIII"], ["IIIII", "IIZII"]):
            observables = [[s] for s in strings]
            np.testing.assert_allclose(
                evs_of(AerEstimator(), circuit, observables, rows),
                evs_of(StatevectorEstimator(), circuit, observables, rows),
                rtol=0,
                atol=1e-12,
            )

    def test_multiples_of_the_identity(self, rng):
        rows = rows_for(CIRCUIT, (4,), rng)
        for precision in (None, 0.1):
            result = AerEstimator(seed=1).run(
                [(CIRCUIT, SparsePauliOp("III", 0.75), rows)], precision=precision
            )
            data = result.result()[0].data
            assert data.evs.tolist() == [0.75] * 4
            assert data.stds.tolist() == [0.0] * 4

    def test_several_pubs_and_none_of_parameters(self, rng):
        bound = CIRCUIT.assign_parameters(rows_for(CIRCUIT, (), rng))
        pubs = [(bound, ["ZZI", "IIZ"]), (CIRCUIT, "ZII", rows_for(CIRCUIT, (1,), rng))]
        found = AerEstimator().run(pubs).result()
        expected = StatevectorEstimator().run(pubs).result()
        assert len(found) == 2
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours.data.evs, theirs.data.evs, atol=1e-12)
            assert ours.metadata == {"shots": None}

    def test_many_rows_of_no_parameters(self, rng):
        """Every one of them is the same circuit."""
        bound = CIRCUIT.assign_parameters(rows_for(CIRCUIT, (), rng))
        pub = EstimatorPub(bound, ObservablesArray.coerce("ZII"), BindingsArray({}, shape=(5,)))
        found, expected = (
            estimator.run([pub]).result()[0].data.evs
            for estimator in (AerEstimator(), StatevectorEstimator())
        )
        np.testing.assert_allclose(found, expected, atol=1e-12)

    def test_no_rows(self):
        assert evs_of(AerEstimator(), CIRCUIT, features(3), np.zeros((0, 12))).shape == (3, 0)

    def test_more_rows_than_one_run_takes(self, monkeypatch, rng):
        rows = rows_for(CIRCUIT, (10,), rng)
        whole = evs_of(AerEstimator(), CIRCUIT, features(3), rows)
        for limit, most in (("_ROWS_PER_RUN", 4), ("_PROBABILITIES_PER_RUN", 1)):
            monkeypatch.setattr(aer, limit, most)
            found = evs_of(AerEstimator(), CIRCUIT, features(3), rows)
            np.testing.assert_allclose(found, whole, rtol=0, atol=1e-12)

    def test_the_circuit_is_left_alone(self, rng):
        before = CIRCUIT.copy()
        evs_of(AerEstimator(readout_model()), CIRCUIT, features(3), rows_for(CIRCUIT, (2,), rng))
        assert before == CIRCUIT

    @pytest.mark.skipif("GPU" not in AerSimulator().available_devices(), reason="no GPU for Aer")
    def test_on_a_gpu(self, rng):
        rows = rows_for(CIRCUIT, (5,), rng)
        there = evs_of(AerEstimator(device="GPU"), CIRCUIT, features(3), rows)
        here = evs_of(AerEstimator(), CIRCUIT, features(3), rows)
        np.testing.assert_allclose(there, here, atol=1e-10)


class TestRefused:
    @pytest.mark.parametrize("observable", ["XZI", "IYI", "0II", "II1", "+II", "rII", "IIl"])
    def test_anything_but_products_of_z(self, observable, rng):
        job = AerEstimator().run([(CIRCUIT, [observable], rows_for(CIRCUIT, (), rng))])
        with pytest.raises(
            EngineError, match=f"products of Z only, got the observable '.*{observable[-1]}"
        ):
            job.result()

    def test_one_such_among_others(self):
        with pytest.raises(EngineError, match="products of Z only, got the observable 'XX'"):
            measured_qubits([{"ZI": 1.0}, {"IZ": 1.0, "XX": 0.5}], 2)

    def test_readout_errors_of_several_qubits(self):
        model = NoiseModel()
        model.add_readout_error(ReadoutError(np.full((4, 4), 0.25)), [0, 1])
        with pytest.raises(EngineError, match="readout error of several qubits together"):
            AerEstimator(model)

    def test_circuits_that_aer_cannot_run(self):
        circuit = QuantumCircuit(2)
        circuit.append(QuantumCircuit(2, name="mystery").to_instruction(), [0, 1])
        job = AerEstimator().run([(circuit, "ZZ")])
        with pytest.raises(Exception, match="mystery"):
            job.result()


def test_measured_qubits_ascend():
    assert measured_qubits([{"IIZI": 1.0}, {"ZIII": 1.0, "IIII": 2.0}], 4) == [1, 3]
    assert measured_qubits([{"II": 1.0}], 2) == []


def test_fusion_only_where_it_pays():
    assert "fusion_threshold" not in noisy_options(4)
    assert noisy_options(6)["fusion_threshold"] == 1


@dataclass
class Noise:
    """Errors by gate name (None: everywhere, else the gate's qubits) and readout by qubit."""

    gates: dict = field(default_factory=dict)
    """name -> {None or qubits: QuantumError}."""
    readout: dict = field(default_factory=dict)
    """None or qubit -> (2, 2) [true, reported]."""

    def model(self):
        model = NoiseModel()
        for name, errors in self.gates.items():
            for qubits, error in errors.items():
                if qubits is None:
                    model.add_all_qubit_quantum_error(error, name, warnings=False)
                else:
                    model.add_quantum_error(error, name, list(qubits), warnings=False)
        for qubit, matrix in self.readout.items():
            if qubit is None:
                model.add_all_qubit_readout_error(matrix, warnings=False)
            else:
                model.add_readout_error(matrix, [qubit], warnings=False)
        return model

    def error(self, name, qubits):
        errors = self.gates.get(name, {})
        return errors.get(qubits, errors.get(None))

    def evs(self, circuit):
        """<Z_q> of a bound circuit, one gate, one outcome and one qubit at a time."""
        n = circuit.num_qubits
        state = DensityMatrix.from_label("0" * n)
        for instruction in circuit.data:
            qubits = tuple(circuit.find_bit(q).index for q in instruction.qubits)
            state = state.evolve(instruction.operation, list(qubits))
            error = self.error(instruction.operation.name, qubits)
            if error is not None:
                state = state.evolve(SuperOp(error), list(qubits))
        for q in range(n):
            error = self.error("measure", (q,))
            if error is not None:
                state = state.evolve(SuperOp(error), [q])
        probabilities = state.probabilities()
        evs = np.zeros(n)
        for outcome, q in itertools.product(range(2**n), range(n)):
            bit = outcome >> q & 1
            flips = self.readout.get(q, self.readout.get(None, np.eye(2)))
            evs[q] += probabilities[outcome] * (flips[bit][0] - flips[bit][1])
        return evs

    def expected(self, circuit, rows):
        """(n, M)."""
        return np.stack([self.evs(circuit.assign_parameters(row)) for row in rows], axis=1)


EVERYWHERE = np.array([[0.97, 0.03], [0.08, 0.92]])
LOCAL = np.array([[0.6, 0.4], [0.15, 0.85]])
GATES = {
    "ry": {None: depolarizing_error(0.02, 1)},
    "sx": {None: amplitude_damping_error(0.05), (1,): thermal_relaxation_error(50, 70, 5)},
    "rz": {(0,): pauli_error([("X", 0.04), ("Y", 0.01), ("I", 0.95)])},
    "cx": {
        None: depolarizing_error(0.05, 2),
        (0, 1): amplitude_damping_error(0.1).tensor(pauli_error([("Z", 0.2), ("I", 0.8)])),
    },
}
FLIP = pauli_error([("X", 0.1), ("I", 0.9)])
NOISES = {
    "gates": Noise(GATES),
    "readout": Noise(readout={None: EVERYWHERE}),
    "local readout": Noise(readout={1: LOCAL}),
    "local readout over the default": Noise(readout={None: EVERYWHERE, 0: LOCAL, 2: LOCAL[::-1]}),
    "measure": Noise({"measure": {None: amplitude_damping_error(0.2)}}),
    "local measure over the default": Noise(
        {"measure": {None: amplitude_damping_error(0.2), (1,): FLIP}, "sx": {(0,): FLIP}},
    ),
    "an id error is not a measure error": Noise(
        {"id": {None: amplitude_damping_error(0.5)}, "measure": {(0,): FLIP}}
    ),
    "all": Noise(
        {**GATES, "measure": {None: FLIP, (0,): amplitude_damping_error(0.3)}},
        {None: EVERYWHERE, 1: LOCAL},
    ),
}


def readout_model():
    return NOISES["readout"].model()


def counts_evs(model, circuit, shots):
    """<Z_q> of Aer's own counts."""
    measured = circuit.copy()
    measured.measure_all()
    simulator = AerSimulator(method="density_matrix", noise_model=model, seed_simulator=11)
    counts = simulator.run(measured, shots=shots).result().get_counts()
    evs = np.zeros(circuit.num_qubits)
    for bits, count in counts.items():
        evs += count / shots * np.array([1 - 2 * int(bit) for bit in reversed(bits)])
    return evs


class TestNoise:
    @pytest.mark.parametrize("name", NOISES)
    @pytest.mark.parametrize("num_qubits", [3, 6])  # six: neighbouring noisy gates are fused
    def test_equals_density_matrices(self, name, num_qubits, rng):
        noise, circuit = NOISES[name], circuit_on(num_qubits, 1 if num_qubits == 6 else 2)
        circuit.id(0)
        rows = rows_for(circuit, (2,), rng)
        found = evs_of(AerEstimator(noise.model()), circuit, features(num_qubits), rows)
        np.testing.assert_allclose(found, noise.expected(circuit, rows), rtol=0, atol=1e-10)
        noiseless = evs_of(AerEstimator(), circuit, features(num_qubits), rows)
        assert np.abs(found - noiseless).max() > 1e-3

    @pytest.mark.parametrize("name", NOISES)
    def test_equals_the_counts_of_aer(self, name, rng):
        """Five standard errors of 100000 shots, 24 values: false alarms below 1e-4."""
        shots, circuit = 100_000, CIRCUIT.copy()
        circuit.id(0)
        model = NOISES[name].model()
        row = rows_for(circuit, (), rng)
        evs = evs_of(AerEstimator(model), circuit, features(3), row)[:, 0]
        counted = counts_evs(model, circuit.assign_parameters(row), shots)
        assert (np.abs(evs - counted) < 5 * np.sqrt((1 - evs**2) / shots)).all()

    def test_parities_under_readout_error(self, rng):
        """Independent flips shrink a parity by the product of what they shrink each value by."""
        flips = [0.05, 0.2]
        noise = Noise(readout={q: np.array([[1 - p, p], [p, 1 - p]]) for q, p in enumerate(flips)})
        circuit = circuit_on(2)
        rows = rows_for(circuit, (4,), rng)
        strings = ["IZ", "ZI", "ZZ"]
        found, plain = (
            evs_of(estimator, circuit, [[s] for s in strings], rows)
            for estimator in (AerEstimator(noise.model()), AerEstimator())
        )
        shrunk = np.array([0.9, 0.6, 0.9 * 0.6])[:, None]
        np.testing.assert_allclose(found, shrunk * plain, atol=1e-12)

    def test_readout_of_a_qubit_that_is_not_measured_has_no_effect(self, rng):
        model = Noise(readout={0: LOCAL}).model()
        rows = rows_for(CIRCUIT, (3,), rng)
        np.testing.assert_allclose(
            evs_of(AerEstimator(model), CIRCUIT, [["ZII"], ["IZI"]], rows),
            evs_of(AerEstimator(), CIRCUIT, [["ZII"], ["IZI"]], rows),
            atol=1e-12,
        )

    @pytest.mark.parametrize("name", ["local readout over the default", "all"])
    def test_subsets_of_qubits(self, name, rng):
        """The errors are those of the circuit's qubits, not of positions among the measured."""
        estimator = AerEstimator(NOISES[name].model())
        rows = rows_for(CIRCUIT, (3,), rng)
        whole = evs_of(estimator, CIRCUIT, [["IIZ"], ["IZI"], ["ZII"], ["ZIZ"], ["ZZI"]], rows)
        for strings, expected in [
            (["IZI"], whole[[1]]),
            (["ZII"], whole[[2]]),
            (["IZI", "ZII"], whole[[1, 2]]),
            (["ZIZ"], whole[[3]]),
            (["ZZI"], whole[[4]]),
        ]:
            found = evs_of(estimator, CIRCUIT, [[s] for s in strings], rows)
            np.testing.assert_allclose(found, expected, atol=1e-12)

    def test_a_model_of_nothing(self, rng):
        rows = rows_for(CIRCUIT, (3,), rng)
        np.testing.assert_allclose(
            evs_of(AerEstimator(NoiseModel()), CIRCUIT, features(3), rows),
            evs_of(AerEstimator(), CIRCUIT, features(3), rows),
            atol=1e-12,
        )


ESTIMATORS = {"noiseless": Noise(), "noisy": NOISES["all"]}


class TestShots:
    @pytest.mark.parametrize("shots", [*thorough(1, 1000), 100])
    @pytest.mark.parametrize("name", ESTIMATORS)
    def test_values_scatter_around_the_exact_ones(self, name, shots, rng):
        """2000 draws of 3 values: means within 5 standard errors, standard deviations within 5 of
        theirs (those of single shots are +-1, so kurtosis counts). False alarms below 1e-5."""
        model = NOISES["all"].model() if name == "noisy" else None
        row, reps = rows_for(CIRCUIT, (), rng), 2000
        exact = evs_of(AerEstimator(model), CIRCUIT, features(3), row)[:, 0]
        rows = np.broadcast_to(row, (reps, CIRCUIT.num_parameters))
        if name == "noisy":
            reps = 300
            rows = rows[:reps]
        estimator = AerEstimator(model, seed=3)
        result = estimator.run(
            [(CIRCUIT, features(3), rows)], precision=precision_of(shots)
        ).result()[0]
        assert result.metadata == {"shots": shots}
        evs, spread = result.data.evs, np.sqrt((1 - exact**2) / shots)
        assert (np.abs(evs.mean(axis=1) - exact) < 5 * spread / math.sqrt(reps)).all()
        fourth = np.mean((evs - exact[:, None]) ** 4, axis=1)
        error = np.sqrt(np.maximum(fourth - spread**4, spread**4 / 100) / reps)
        assert (np.abs(np.mean((evs - exact[:, None]) ** 2, axis=1) - spread**2) < 5 * error).all()
        # Multiples of 2/shots: whole shots were drawn.
        np.testing.assert_allclose((evs + 1) * shots / 2, np.rint((evs + 1) * shots / 2), atol=1e-9)

    def test_standard_errors(self, rng):
        """Those of the drawn values: sqrt((<O**2> - <O>**2) / shots)."""
        rows = rows_for(CIRCUIT, (6,), rng)
        result = AerEstimator(seed=1).run([(CIRCUIT, features(3), rows)], precision=0.1).result()[0]
        expected = np.sqrt(1 - result.data.evs**2) / 10
        np.testing.assert_allclose(result.data.stds, expected, atol=1e-12)

    def test_standard_errors_of_a_sum_hold_its_correlations(self, rng):
        """Z0 + Z1 of a Bell state is 2 or -2, Z0 - Z1 is 0: 100 shots, exact in their means."""
        circuit = QuantumCircuit(2)
        circuit.h(0)
        circuit.cx(0, 1)
        observables = [SparsePauliOp(["IZ", "ZI"], [1, 1]), SparsePauliOp(["IZ", "ZI"], [1, -1])]
        data = AerEstimator(seed=2).run([(circuit, observables)], precision=0.1).result()[0].data
        assert data.evs[1] == data.stds[1] == 0
        assert data.stds[0] == pytest.approx(math.sqrt(4 - data.evs[0] ** 2) / 10)

    def test_values_of_one_row_come_from_the_same_shots(self, rng):
        circuit = QuantumCircuit(2)
        circuit.h(0)
        circuit.cx(0, 1)
        data = AerEstimator(seed=2).run([(circuit, ["IZ", "ZI", "ZZ"])], precision=0.1)
        evs = data.result()[0].data.evs
        assert evs[0] == evs[1] != 0
        assert evs[2] == pytest.approx(1)

    def test_seeded(self, rng):
        rows = rows_for(CIRCUIT, (4,), rng)

        def draw(estimator):
            return evs_of(estimator, CIRCUIT, features(3), rows, precision=0.1)

        first, same, other = AerEstimator(seed=5), AerEstimator(seed=5), AerEstimator(seed=6)
        a, b = draw(first), draw(first)
        np.testing.assert_array_equal(a, draw(same))
        np.testing.assert_array_equal(b, draw(same))  # other calls go on in the stream
        assert (a != b).any()
        assert (a != draw(other)).any()

    def test_equal_rows_are_drawn_independently(self, rng):
        rows = np.broadcast_to(rows_for(CIRCUIT, (), rng), (8, CIRCUIT.num_parameters))
        evs = evs_of(AerEstimator(seed=5), CIRCUIT, features(3), rows, precision=0.01)
        assert len(np.unique(evs[0])) > 1

    @pytest.mark.parametrize("precision", [None, 0.0])
    def test_without_precision_they_are_exact(self, precision, rng):
        rows = rows_for(CIRCUIT, (4,), rng)
        np.testing.assert_array_equal(
            evs_of(AerEstimator(seed=1), CIRCUIT, features(3), rows, precision),
            evs_of(AerEstimator(seed=2), CIRCUIT, features(3), rows, precision),
        )

    def test_each_pub_has_its_own_precision(self, rng):
        row = rows_for(CIRCUIT, (), rng)
        pubs = [(CIRCUIT, "ZII", row, 0.5), (CIRCUIT, "ZII", row, 0.0), (CIRCUIT, "ZII", row)]
        result = AerEstimator(seed=1).run(pubs, precision=0.25).result()
        assert [r.metadata["shots"] for r in result] == [4, None, 16]

    def test_outcomes_that_rounding_leaves_below_zero(self, monkeypatch):
        """NumPy refuses to draw from probabilities of -1e-17, or of 1 + 1e-9 in all."""
        rounded = np.array([[-1e-17, 0.5, 0.5 + 1e-9, 0.0]])
        with pytest.raises(ValueError, match="pvals"):
            np.random.default_rng(1).multinomial(100, rounded)
        monkeypatch.setattr(AerEstimator, "_probabilities", lambda *_: rounded.copy())
        evs = evs_of(AerEstimator(seed=1), QuantumCircuit(2), ["IZ", "ZI", "ZZ"], [], precision=0.1)
        assert evs[2] == pytest.approx(-1)  # only the outcomes 1 and 2
        assert evs[0] == pytest.approx(-evs[1])
