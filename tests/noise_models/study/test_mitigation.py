"""Mitigation in the noisy engine against independent calculations."""

import numpy as np
import pytest
import torch
from cases import evs_of
from qiskit.circuit.library import CXGate
from qiskit.quantum_info import PTM, DensityMatrix, Operator, SuperOp, random_quantum_channel
from qiskit_aer.noise import QuantumError

from noise_models.builders import (
    amplitude_damping,
    compose,
    depolarizing,
    over_rotation,
    readout,
    zz_crosstalk,
)
from noise_models.snapshots import Snapshot
from noise_models.study.mitigated_noise import (
    folded,
    folded_error,
    problem_of_mitigation,
    twirled_error,
)
from noise_models.study.mitigation import MitigatedEngine, NoisyValues, extrapolation
from noise_models.study.words import Mitigation, parse_mitigation
from qpc_qiskit.backends.destinations import noise_on, simulated
from qpc_qiskit.circuits.directions import canonical_directions
from qpc_qiskit.circuits.encoder import make_encoder
from qpc_qiskit.circuits.spec import make_spec
from qpc_qiskit.engines import EstimatorEngine, ExactEngine, NoisyEngine
from qpc_qiskit.errors import EngineError, NoiseError
from qpc_qiskit.rows.pubs import make_template

SPEC = make_spec(3, 4, num_layers=2)


@pytest.fixture
def pixels(generator):
    return torch.randn(4, 3, generator=generator, dtype=torch.float64)


@pytest.fixture
def weights(generator):
    size = (SPEC.num_kernels, SPEC.num_weights)
    return 6 * torch.rand(size, generator=generator, dtype=torch.float64)


def values(noise, word, pixels, weights, **options):
    engine = MitigatedEngine(NoisyValues(noise), parse_mitigation(word), **options)
    return evs_of(engine, SPEC, pixels, weights)


def test_references_undo_depolarizing_noise_exactly(pixels, weights):
    """Of equal strength in every row, together with wrong readout: a line in each feature."""
    noise = compose(depolarizing(0.2, on="before_measurement"), readout(0.03, 0.08)).build()
    exact = evs_of(ExactEngine(), SPEC, pixels, weights)
    assert (values(noise, "none", pixels, weights) - exact).abs().max() > 0.05
    torch.testing.assert_close(values(noise, "references", pixels, weights), exact)


def test_references_help_where_noise_differs_between_rows(pixels, weights):
    noise = compose(depolarizing(0.01)).build()
    exact = evs_of(ExactEngine(), SPEC, pixels, weights)
    before = (values(noise, "none", pixels, weights) - exact).abs().mean()
    after = (values(noise, "references", pixels, weights) - exact).abs().mean()
    assert after < before / 3


def test_readout_inversion_is_exact_for_readout_errors(pixels, weights):
    noise = compose(readout([0.1, 0.02], [0.03, 0.2])).build()
    exact = evs_of(ExactEngine(), SPEC, pixels, weights)
    torch.testing.assert_close(values(noise, "readout", pixels, weights), exact)


def test_readout_inversion_leaves_the_gates_errors(pixels, weights):
    both = compose(amplitude_damping(0.02), readout(0.1, 0.03)).build()
    gates = evs_of(NoisyEngine(compose(amplitude_damping(0.02)).build()), SPEC, pixels, weights)
    torch.testing.assert_close(values(both, "readout", pixels, weights), gates)


def test_readout_follows_the_qubits_of_a_device(pixels, weights):
    """Qubits with different readout, on which a router may have moved the features."""
    snapshot = asymmetric_device()
    perfect = snapshot.model_copy(
        update={
            "calibrations": tuple(
                q.model_copy(update={"p1_given_0": 0.0, "p0_given_1": 0.0})
                for q in snapshot.calibrations
            )
        }
    )
    expected = evs_of(NoisyEngine(perfect.backend()), SPEC, pixels, weights)
    found = values(snapshot.backend(), "readout", pixels, weights)
    torch.testing.assert_close(found, expected)


def asymmetric_device():
    gates = [{"name": "cz", "qubits": [0, 1], "error": 0.01, "seconds": 1e-7}]
    gates += [{"name": "cz", "qubits": [1, 0], "error": 0.01, "seconds": 1e-7}]
    for q in range(2):
        gates += [
            {"name": "sx", "qubits": [q], "error": 0.001, "seconds": 3e-8},
            {"name": "x", "qubits": [q], "error": 0.001, "seconds": 3e-8},
            {"name": "rz", "qubits": [q], "error": 0.0, "seconds": 0.0},
            {"name": "measure", "qubits": [q], "error": 0.1, "seconds": 1e-6},
        ]
    times = {"t1_seconds": 1e-4, "t2_seconds": 8e-5}
    return Snapshot.from_dict(
        {
            "device": "two",
            "qubits": [0, 1],
            "calibrations": [
                times | {"p1_given_0": 0.02, "p0_given_1": 0.1},
                times | {"p1_given_0": 0.2, "p0_given_1": 0.05},
            ],
            "gates": gates,
        }
    )


def test_a_twirled_error_keeps_the_diagonal_and_loses_the_rest(test_seed):
    channel = random_quantum_channel(4, 4, seed=test_seed % 2**32)
    before = PTM(channel).data.real
    after = PTM(SuperOp(twirled_error(QuantumError(channel)))).data.real
    np.testing.assert_allclose(np.diag(after), np.diag(before), atol=1e-10)
    np.testing.assert_allclose(after - np.diag(np.diag(after)), 0, atol=1e-12)


def test_a_twirled_error_is_the_average_over_all_twirls(test_seed):
    channel = SuperOp(random_quantum_channel(4, 4, seed=test_seed % 2**32))
    twirls = [SuperOp(Operator.from_label(a + b)) for a in "IXYZ" for b in "IXYZ"]
    average = sum((p @ channel @ p).data for p in twirls) / 16
    np.testing.assert_allclose(
        SuperOp(twirled_error(QuantumError(channel))).data, average, atol=1e-10
    )


@pytest.mark.parametrize("scale", [3, 5])
def test_a_folded_error_is_that_of_the_gates_run_in_turn(scale, test_seed):
    error = QuantumError(random_quantum_channel(4, 4, seed=test_seed % 2**32))
    gate = SuperOp(CXGate())
    expected = SuperOp(np.eye(16))
    for _ in range(scale):
        expected = expected.compose(gate).compose(SuperOp(error))
    found = gate.compose(SuperOp(folded_error(error, "cx", scale)))
    np.testing.assert_allclose(found.data, expected.data, atol=1e-10)


def test_only_gates_that_are_their_own_inverse_are_folded():
    error = QuantumError(SuperOp(np.eye(16)))
    with pytest.raises(EngineError, match="'iswap' is not its own inverse"):
        folded_error(error, "iswap", 3)


@pytest.mark.parametrize("place", ["every_gate", "encoder"])
def test_extrapolation_as_with_explicitly_folded_circuits(place, pixels, weights):
    """Circuits with every cx written 1, 3, 5 times, one row, as density matrices on Aer."""
    noise = compose(amplitude_damping(0.03, on=place), over_rotation(0.05, on=place)).build()
    template = make_template(make_encoder("multiplexor", 2), SPEC.ansatz)
    prepared = simulated(template, noise)
    angles = make_encoder("multiplexor", 2).angles(canonical_directions(pixels[:1]))[0]
    ansatz = SPEC.ansatz.scale @ weights[0].numpy() + SPEC.ansatz.offset
    row = np.concatenate([angles.numpy(), ansatz[list(template.columns)]])
    bound = prepared.template.circuit.assign_parameters(
        dict(zip(prepared.template.parameters, row, strict=True))
    )
    means = [
        expectations(fold(bound, scale), noise_on(prepared, noise), prepared.template.observables)
        for scale in (1, 3, 5)
    ]
    expected = np.polynomial.polynomial.polyfit([1, 3, 5], np.array(means), 1)[0]
    found = values(noise, "zne", pixels[:1], weights)[0, 0]
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert abs(means[0] - means[2]).max() > 1e-3


def fold(circuit, scale):
    folded_circuit = circuit.copy_empty_like()
    for instruction in circuit.data:
        for _ in range(scale if len(instruction.qubits) == 2 and instruction.name == "cx" else 1):
            folded_circuit.append(instruction)
    return folded_circuit


def expectations(circuit, model, observables):
    from qiskit_aer import AerSimulator

    circuit = circuit.copy()
    circuit.save_density_matrix()
    simulator = AerSimulator(method="density_matrix", noise_model=model)
    result = simulator.run(circuit).result()
    state = DensityMatrix(result.data()["density_matrix"])
    return np.array([state.expectation_value(each).real for each in observables])


def test_extrapolation_coefficients():
    np.testing.assert_allclose(extrapolation([1, 3, 5]), np.array([13, 4, -5]) / 12)
    np.testing.assert_allclose(extrapolation([1]), [1])


@pytest.mark.parametrize("word", ["none", "readout", "zne", "references"])
def test_shots_scatter_as_their_variance_says(word, pixels, weights):
    noise = compose(amplitude_damping(0.02), readout(0.05, 0.1)).build()
    exact = values(noise, word, pixels, weights)
    kept = NoisyValues(noise)
    draws, variance = [], []
    for seed in range(60):
        engine = MitigatedEngine(kept, parse_mitigation(word), shots=400, seed=seed)
        draws.append(evs_of(engine, SPEC, pixels, weights))
        record = engine.records[""]
        variance.append(record.variance / record.num_values)
    found = torch.stack(draws)
    # 16 values in 60 draws: the mean square is known to 1/sqrt(480) = 5 %; 5 times that, and what
    # features of one kernel share by a line of few references.
    ratio = float((found - exact).square().mean()) / np.mean(variance)
    assert 0.7 < ratio < 1.4
    bias = (found.mean(0) - exact).abs().max()
    assert bias < 6 * float(np.sqrt(np.mean(variance) / 60))


def test_an_encoder_that_falls_back_is_an_error(weights, monkeypatch):
    """Half a network on another encoder would be compared with nothing."""
    from dataclasses import replace

    noise = NoisyValues(compose(depolarizing(0.02)).build(), "brickwall:1")
    engine = noise.engine()
    original = engine._record
    monkeypatch.setattr(
        engine, "_record", lambda report: original(replace(report, num_fallbacks=2))
    )
    with pytest.raises(EngineError, match="brickwall:1 encoder cannot prepare 2 directions"):
        evs_of(MitigatedEngine(noise, Mitigation()), SPEC, torch.ones(2, 3).double(), weights)
    assert noise.engine() is not engine


def test_draws_follow_from_the_seed(pixels, weights):
    noise = compose(depolarizing(0.02)).build()
    first, again, other = (
        values(noise, "none", pixels, weights, shots=100, seed=s) for s in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_unmitigated_values_are_those_of_the_local_estimator(pixels, weights):
    noise = compose(amplitude_damping(0.02), depolarizing(0.01)).build()
    estimator = EstimatorEngine.from_backend("aer", noise_model=noise)
    torch.testing.assert_close(
        values(noise, "none", pixels[:2], weights),
        evs_of(estimator, SPEC, pixels[:2], weights),
        atol=1e-7,
        rtol=0,
    )


@pytest.mark.parametrize(
    ("channel", "word", "reason"),
    [
        (depolarizing(0.1), "readout", "no readout error"),
        (depolarizing(0.1), "twirling", "Pauli errors"),
        (readout(0.1, 0.1), "zne", "no error of two-qubit gates"),
        (zz_crosstalk(0.1), "zne", "crosstalk cannot be folded"),
        (amplitude_damping(0.1), "twirling", None),
        (amplitude_damping(0.1), "zne", None),
        (depolarizing(0.1), "none", None),
    ],
)
def test_mitigation_that_can_do_nothing_is_told(channel, word, reason):
    found = problem_of_mitigation(parse_mitigation(word), compose(channel).build())
    assert found is None if reason is None else reason in found


def test_crosstalk_is_not_folded():
    with pytest.raises(EngineError, match="cannot fold crosstalk"):
        folded(compose(zz_crosstalk(0.1)).build(), 3)


@pytest.mark.parametrize(
    ("word", "match"),
    [
        ("dd", "can do nothing here"),
        ("zne+dd", "can do nothing here"),
        ("trex", "expected none, or one or several of"),
        ("zne+zne", "expected none, or one or several of"),
        ("readout+references", "corrects the readout twice"),
    ],
)
def test_wrong_words(word, match):
    with pytest.raises(NoiseError, match=match):
        parse_mitigation(word)


def test_words_come_back_in_one_order():
    assert parse_mitigation("zne+readout").word == "readout+zne"
    assert parse_mitigation("none") == Mitigation()
