"""Built noise, through the engine, against density matrices that are computed from the formulas."""

import functools

import noise_references as textbook
import numpy as np
import pytest
import torch
from cases import evs_of
from hypothesis import given, settings
from hypothesis import strategies as st
from qiskit_aer.noise import NoiseModel, depolarizing_error

from noise_models.builders import (
    amplitude_damping,
    bit_flip,
    compose,
    depolarizing,
    over_rotation,
    phase_damping,
    phase_flip,
    readout,
    scale,
    thermal_relaxation,
    zz_crosstalk,
)
from qpc_qiskit.circuits.directions import canonical_directions
from qpc_qiskit.circuits.encoder import make_encoder
from qpc_qiskit.circuits.spec import make_spec
from qpc_qiskit.devices.noise import CircuitNoise, noise_digest
from qpc_qiskit.engines import EstimatorEngine, ExactEngine
from qpc_qiskit.errors import EngineError, NoiseError

N = 3
SPEC = make_spec(2**N, N, num_layers=1)
RNG = np.random.default_rng(7)
PIXELS = torch.from_numpy(RNG.normal(size=(2, 2**N)))
WEIGHTS = torch.from_numpy(RNG.uniform(0, 6, size=(1, SPEC.num_weights)))


def measured(noise, **options):
    """(values (N, n), circuits as they are run, one for each pixel)."""
    engine = EstimatorEngine.from_backend("aer", noise_model=noise, **options)
    values = evs_of(engine, SPEC, PIXELS, WEIGHTS)[:, 0].numpy()
    template = engine.prepare(SPEC).template
    angles = make_encoder("multiplexor", N).angles(canonical_directions(PIXELS)).numpy()
    ansatz = SPEC.ansatz.angles(WEIGHTS.numpy())[0]
    rows = [[*row, *ansatz[list(template.columns)]] for row in angles]
    bind = [dict(zip(template.parameters, row, strict=True)) for row in rows]
    return values, [template.circuit.assign_parameters(b) for b in bind]


def expected(circuits, noise_after, last=(), confusions=None):
    """Values by the references; `last`: Kraus operators on every qubit before it is measured."""
    found = []
    for circuit in circuits:
        rho = textbook.density_matrix(circuit, noise_after)
        for kraus in last:
            for q in range(N):
                rho = textbook.applied(kraus, [q], rho, N)
        found.append(textbook.z_values(rho, confusions))
    return np.array(found)


def nowhere(index, stage, name, qubits):
    return []


def after(one, two=None, *, stages=("encoder", "ansatz"), sizes=(1, 2), qubits=range(N)):
    """Rule of `density_matrix`: noise after physical gates, by the number of their qubits."""

    def rule(index, stage, name, where):
        if name == "rz" or stage not in stages or len(where) not in sizes:
            return []
        if len(where) == 2 and two is not None:
            return [(two, where)]
        return [(one, [q]) for q in where if q in qubits]

    return rule


def check(spec, noise_after, **more):
    values, circuits = measured(spec.build())
    found = expected(circuits, noise_after, **more)
    np.testing.assert_allclose(values, found, atol=1e-9)
    exact = evs_of(ExactEngine(), SPEC, PIXELS, WEIGHTS)[:, 0].numpy()
    assert np.abs(values - exact).max() > 1e-3
    return values


KRAUS = {
    "bit_flip": (bit_flip, textbook.bit_flip),
    "phase_flip": (phase_flip, textbook.phase_flip),
    "amplitude_damping": (amplitude_damping, textbook.amplitude_damping),
    "phase_damping": (phase_damping, textbook.phase_damping),
    "over_rotation": (over_rotation, functools.partial(textbook.rotation, textbook.X)),
}


class TestPlacement:
    @pytest.mark.parametrize("name", KRAUS)
    def test_after_every_gate(self, name):
        ours, theirs = KRAUS[name]
        check(compose(ours(0.05)), after(theirs(0.05)))

    def test_depolarizing_after_every_gate(self):
        one, two = textbook.depolarizing(0.02), textbook.depolarizing_2(0.05)
        check(compose(depolarizing(0.02, 0.05)), after(one, two))

    def test_thermal_relaxation(self):
        times = {"sx": 400, "x": 400, "cx": 3000}

        def rule(index, stage, name, where):
            if name not in times:
                return []
            kraus = textbook.thermal_relaxation(60, 90, times[name] / 1000)
            return [(kraus, [q]) for q in where]

        check(compose(thermal_relaxation(60, 90, times)), rule)

    @pytest.mark.parametrize("name", KRAUS)
    @pytest.mark.parametrize("stage", ["encoder", "ansatz"])
    def test_one_part_only(self, name, stage):
        ours, theirs = KRAUS[name]
        spec = compose(ours(0.05, on=stage))
        assert spec.build().tells_stages
        check(spec, after(theirs(0.05), stages=[stage]))

    def test_the_parts_together_are_every_gate(self):
        parts = compose(*(depolarizing(0.03, on=stage) for stage in ("encoder", "ansatz")))
        whole = compose(depolarizing(0.03), bit_flip(0, on="encoder"))  # with a barrier as well
        np.testing.assert_allclose(measured(parts.build())[0], measured(whole.build())[0])

    @pytest.mark.parametrize(("on", "size"), [("one_qubit_gates", 1), ("two_qubit_gates", 2)])
    def test_by_the_number_of_qubits(self, on, size):
        rule = after(textbook.amplitude_damping(0.05), sizes=[size])
        check(compose(amplitude_damping(0.05, on=on)), rule)

    @pytest.mark.parametrize("name", KRAUS)
    def test_before_the_measurement(self, name):
        ours, theirs = KRAUS[name]
        if name.startswith("phase"):  # it commutes with what is measured
            values, circuits = measured(compose(ours(0.3, on="before_measurement")).build())
            np.testing.assert_allclose(values, expected(circuits, nowhere), atol=1e-9)
        else:
            spec = compose(ours(0.3, on="before_measurement"))
            check(spec, nowhere, last=[theirs(0.3)])

    def test_relaxation_while_measured(self):
        spec = compose(thermal_relaxation(10, 10, {"measure": 4000}, on="before_measurement"))
        check(spec, nowhere, last=[textbook.thermal_relaxation(10, 10, 4.0)])

    def test_on_some_qubits(self):
        rule = after(textbook.amplitude_damping(0.1), qubits=[0, 2])
        check(compose(amplitude_damping(0.1, qubits=[0, 2])), rule)

    def test_of_two_qubits_both_must_be_named(self):
        one, two = textbook.depolarizing(0.1), textbook.depolarizing_2(0.2)

        def rule(index, stage, name, where):
            if name == "rz" or not set(where) <= {0, 1}:
                return []
            return [(two if len(where) == 2 else one, where)]

        check(compose(depolarizing(0.1, 0.2, qubits=[1, 0])), rule)

    def test_some_qubits_in_one_part_and_all_in_the_other(self):
        spec = compose(bit_flip(0.1, on="encoder", qubits=[1]), phase_flip(0.05, on="ansatz"))

        def rule(index, stage, name, where):
            kraus = textbook.bit_flip(0.1) if stage == "encoder" else textbook.phase_flip(0.05)
            on = [q for q in where if stage == "ansatz" or q == 1]
            return [] if name == "rz" else [(kraus, [q]) for q in on]

        check(spec, rule)


class TestReadout:
    def test_the_same_for_all(self):
        confusion = np.array([[0.9, 0.1], [0.25, 0.75]])
        check(compose(readout(0.1, 0.25)), nowhere, confusions=[confusion] * N)

    def test_by_qubit(self):
        spec = compose(readout([0.1, 0.0, 0.2], 0.05))
        confusions = [np.array([[1 - p, p], [0.05, 0.95]]) for p in (0.1, 0.0, 0.2)]
        check(spec, nowhere, confusions=confusions)

    def test_qubits_behind_a_list_err_never(self):
        confusions = [np.array([[0.8, 0.2], [0.1, 0.9]]), np.eye(2), np.eye(2)]
        check(compose(readout([0.2], [0.1])), nowhere, confusions=confusions)

    def test_one_after_the_other(self):
        one, two = np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([[0.95, 0.05], [0.3, 0.7]])
        spec = compose(readout(0.1, 0.2), readout([0.05, 0.05], [0.3, 0.3]))
        check(spec, nowhere, confusions=[one @ two, one @ two, one])

    def test_with_shots(self):
        """5 standard errors of 40,000 shots at most; six values: false alarm 3e-6."""
        spec = compose(readout(0.1, 0.25), amplitude_damping(0.02))
        exact = measured(spec.build())[0]
        shots = measured(spec.build(), shots=40_000, seed=3)[0]
        assert np.abs(shots - exact).max() < 5 / 200


class TestComposition:
    def test_channels_act_in_their_order(self):
        """Damping and flips do not commute."""
        pair = (amplitude_damping(0.2), bit_flip(0.3))
        kraus = (textbook.amplitude_damping(0.2), textbook.bit_flip(0.3))
        one = check(compose(*pair), after(textbook.product(*kraus)))
        other = check(compose(*pair[::-1]), after(textbook.product(*kraus[::-1])))
        assert np.abs(one - other).max() > 1e-3

    def test_specs_are_flattened(self):
        inner = compose(bit_flip(0.1), name="inner", two_qubit_gate="cz")
        outer = compose(inner, readout(0.1, 0.1), name="outer")
        assert outer.channels == (bit_flip(0.1), readout(0.1, 0.1))
        assert (outer.name, outer.two_qubit_gate) == ("outer", "cz")

    def test_specs_of_different_gates(self):
        specs = [compose(name=gate, two_qubit_gate=gate) for gate in ("cx", "cz")]
        with pytest.raises(NoiseError, match="for the same two-qubit gate, got cx, cz; give two_q"):
            compose(*specs)
        assert compose(*specs, two_qubit_gate="ecr").two_qubit_gate == "ecr"

    @pytest.mark.parametrize("gate", ["cz", "ecr"])
    def test_other_two_qubit_gates(self, gate):
        spec = compose(depolarizing(0.02, 0.05), two_qubit_gate=gate)
        assert gate in spec.build().model.basis_gates
        check(spec, after(textbook.depolarizing(0.02), textbook.depolarizing_2(0.05)))

    def test_everything_at_once(self):
        times = {"sx": 400, "x": 400, "cx": 3000}
        spec = compose(
            depolarizing(0.01, 0.03, on="ansatz"),
            thermal_relaxation(60, 90, times, on="encoder"),
            over_rotation(0.05, on="two_qubit_gates"),
            amplitude_damping(0.1, on="before_measurement"),
            readout(0.02, 0.05),
        )

        def rule(index, stage, name, where):
            if name == "rz":
                return []
            found = []
            if stage == "encoder":
                kraus = textbook.thermal_relaxation(60, 90, times[name] / 1000)
                found += [(kraus, [q]) for q in where]
            elif len(where) == 2:
                found.append((textbook.depolarizing_2(0.03), where))
            else:
                found.append((textbook.depolarizing(0.01), where))
            if len(where) == 2:
                found += [(textbook.rotation(textbook.X, 0.05), [q]) for q in where]
            return found

        confusion = np.array([[0.98, 0.02], [0.05, 0.95]])
        last = [textbook.amplitude_damping(0.1)]
        check(spec, rule, last=last, confusions=[confusion] * N)


class TestStrength:
    def test_no_noise_at_all(self):
        exact = evs_of(ExactEngine(), SPEC, PIXELS, WEIGHTS)[:, 0].numpy()
        spec = compose(depolarizing(0.1), readout(0.1, 0.1), zz_crosstalk(0.1))
        for ideal in (compose(), scale(spec, 0)):
            assert ideal.build().model.is_ideal()
            np.testing.assert_allclose(measured(ideal.build())[0], exact, atol=1e-12)

    def test_values_shrink(self):
        spec = compose(depolarizing(0.01, 0.02), readout(0.01, 0.01))
        sizes = [np.abs(measured(scale(spec, f).build())[0]).sum() for f in (0, 0.5, 1, 2, 4)]
        assert (np.diff(sizes) < 0).all()

    @settings(deadline=None, max_examples=10)
    @given(st.floats(0, 4), st.floats(0, 4))
    def test_factors_multiply(self, a, b):
        spec = compose(bit_flip(0.03), thermal_relaxation(60, 90, {"sx": 30.0}), readout(0.02, 0.0))
        once, twice = scale(spec, a * b), scale(scale(spec, a), b)
        for one, other in zip(once.channels, twice.channels, strict=True):
            told = [each.model_dump() for each in (one, other)]
            for name in one.strengths:
                assert told[0][name] == pytest.approx(told[1][name], rel=1e-12)


class TestCircuitNoise:
    def test_a_word_of_old_has_the_digest_of_old(self):
        """Runs that were begun before there were specs go on."""
        model = NoiseModel(basis_gates=["rz", "sx", "x", "cx"])
        model.add_all_qubit_quantum_error(depolarizing_error(0.01, 1), ["sx", "x"])
        model.add_all_qubit_quantum_error(depolarizing_error(0.01, 2), ["cx"])
        noise = compose(depolarizing(0.01)).build()
        assert not noise.changes_circuits
        assert noise_digest(noise) == noise_digest(model)

    def test_digests_tell_passes_and_models_apart(self):
        specs = [
            compose(bit_flip(0.1)),
            compose(bit_flip(0.2)),
            compose(bit_flip(0.1, on="encoder")),
            compose(bit_flip(0.1), zz_crosstalk(0.1)),
            compose(bit_flip(0.1), zz_crosstalk(0.1, coupling=[(0, 2)])),
        ]
        digests = [noise_digest(spec.build()) for spec in specs]
        assert len(set(digests)) == len(specs)
        assert digests == [noise_digest(spec.build()) for spec in specs]

    def test_the_name_is_reported(self):
        engine = EstimatorEngine.from_backend(
            "aer", noise_model=compose(bit_flip(0.1), name="flips").build()
        )
        assert engine.destination.about["noise"] == "flips"

    @pytest.mark.parametrize(
        ("channel", "qubit"),
        [
            (bit_flip(0.1, qubits=[3]), 3),
            (readout([0.1] * 5, 0.1), 4),
            (zz_crosstalk(0.1, coupling=[(0, 1), (1, 6)]), 6),
        ],
    )
    def test_a_qubit_that_is_not_there(self, channel, qubit):
        spec = compose(channel, name="wide")
        match = f"wide: a channel is told for qubit {qubit}; the circuits have qubits 0 to 2 only"
        with pytest.raises(NoiseError, match=match):
            spec.build(N)
        match = f"The noise 'wide' is told for qubit {qubit}; the circuit has qubits 0 to 2 only"
        with pytest.raises(EngineError, match=match):
            measured(spec.build())
        spec.build(qubit + 1)

    def test_a_width_that_is_told_makes_a_smaller_model(self):
        spec = compose(bit_flip(0.1, qubits=[1]))
        values = [measured(spec.build(width))[0] for width in (None, N)]
        np.testing.assert_array_equal(*values)
        errors = [len(spec.build(width).model.to_dict()["errors"]) for width in (None, N)]
        assert errors[1] < errors[0]

    def test_noise_that_does_not_act(self):
        one = make_spec(2, 1, num_layers=1)
        weights = torch.zeros(1, one.num_weights, dtype=torch.float64)
        engine = EstimatorEngine.from_backend("aer", noise_model=compose(zz_crosstalk(0.1)).build())
        with pytest.raises(EngineError, match="has errors on zz_crosstalk, of which the circuit"):
            evs_of(engine, one, PIXELS[:, :2], weights)

    def test_mitigation_that_would_lose_labels(self):
        noise = compose(bit_flip(0.1, on="encoder"), name="part").build()
        with pytest.raises(ValueError, match="resilience rewrites the gates that the noise 'part'"):
            EstimatorEngine.from_backend("aer", noise_model=noise, resilience=1, shots=16)
        noise = compose(bit_flip(0.1)).build()
        EstimatorEngine.from_backend("aer", noise_model=noise, resilience=1, shots=16)

    def test_a_pass_that_does_not_tell_its_settings(self):
        from qiskit.transpiler.passes import Optimize1qGates

        noise = CircuitNoise(NoiseModel(), (Optimize1qGates(),))
        with pytest.raises(EngineError, match="does not tell its settings"):
            noise_digest(noise)

    @pytest.mark.parametrize("absorbs", [False, True])
    def test_other_templates(self, absorbs):
        """Parities and a fitted encoder: the barrier stands where the encoder ends."""
        noise = compose(
            depolarizing(0.002, on="encoder"), readout(0.01, 0.03), zz_crosstalk(0.01)
        ).build()
        engine = EstimatorEngine.from_backend(
            "aer", noise_model=noise, encoder="brickwall", absorb_tail=absorbs
        )
        values = evs_of(engine, SPEC, PIXELS, WEIGHTS)
        exact = evs_of(ExactEngine(), SPEC, PIXELS, WEIGHTS)
        assert 1e-4 < float((values - exact).abs().max()) < 0.3
        labels = {i.operation.label for i in engine.prepare(SPEC).template.circuit.data}
        assert {"encoder.sx", "ansatz.sx", "encoder.zz_crosstalk"} <= labels
