"""What mitigation computes against what it stands for: IBM's Estimator, and protocols by hand.

Nothing here knows a formula of the engine. IBM's local Estimator really twirls, calibrates and
folds; the protocols by hand are circuits whose outcomes Aer samples, one shot at a time. Values are
those of one pixel under two kernels, two features each. Bounds are 5 standard errors: with at most
12 values in a test, 1 in 100,000 seeds would fail.
"""

import numpy as np
import pytest
import torch
from cases import evs_of
from qiskit.circuit.library import CXGate
from qiskit.quantum_info import Pauli
from qiskit_aer import AerSimulator
from qiskit_ibm_runtime.executor_estimator import Estimator

from noise_models.builders import amplitude_damping, compose, depolarizing, over_rotation, readout
from noise_models.snapshots import Snapshot
from noise_models.study.mitigation import MitigatedEngine, NoisyValues
from noise_models.study.words import parse_mitigation
from qpc_qiskit.backends.destinations import noise_on, simulated
from qpc_qiskit.circuits.directions import canonical_directions
from qpc_qiskit.circuits.encoder import make_encoder
from qpc_qiskit.circuits.spec import make_spec
from qpc_qiskit.engines import EstimatorEngine, LayerCall
from qpc_qiskit.rows.pubs import make_template

SPEC = make_spec(3, 4, num_layers=2)
RNG = np.random.default_rng(3)
PIXELS = torch.from_numpy(RNG.normal(size=(1, 3)))
WEIGHTS = torch.from_numpy(RNG.uniform(0, 6, size=(SPEC.num_kernels, SPEC.num_weights)))

ON_GATES = {"on": "two_qubit_gates"}  # twirling changes one-qubit gates, which must have no errors
COHERENT = compose(amplitude_damping(0.05, **ON_GATES), over_rotation(0.25, **ON_GATES)).build()
WITH_READOUT = compose(amplitude_damping(0.03), readout([0.05, 0.1], [0.1, 0.2])).build()


def ours(noise, word, **options):
    """(values (K, n), mean variance of a value)."""
    engine = MitigatedEngine(NoisyValues(noise), parse_mitigation(word), **options)
    values = evs_of(engine, SPEC, PIXELS, WEIGHTS)[0].numpy()
    record = engine.records[""]
    return values, record.variance / record.num_values


def exact(noise, word):
    return ours(noise, word)[0]


def run(noise):
    """(bound circuits of the kernels, Aer's model, observables) without any mitigation."""
    encoder = make_encoder("multiplexor", 2)
    prepared = simulated(make_template(encoder, SPEC.ansatz), noise, inverts=False)
    template = prepared.template
    encoded = encoder.angles(canonical_directions(PIXELS))[0].numpy()
    circuits = []
    for angles in SPEC.ansatz.angles(WEIGHTS.numpy()):
        row = np.concatenate([encoded, angles[list(template.columns)]])
        values = dict(zip(template.parameters, row, strict=True))
        circuits.append(template.circuit.assign_parameters(values))
    return circuits, noise_on(prepared, noise), list(template.observables)


def assert_within(found, expected, std):
    assert (np.abs(found - expected) < 5 * np.asarray(std)).all(), (found, expected, std)


# ---- IBM's Estimator

TWIRLS_ONLY = {"enable_gates": True, "enable_measure": False, "num_randomizations": 128}


@pytest.mark.parametrize(
    ("word", "noise", "options"),
    [
        (
            "readout",
            compose(amplitude_damping(0.02, **ON_GATES), readout(0.02, 0.06)).build(),
            {"twirling": {"num_randomizations": 64}},
        ),
        (
            "twirling",
            COHERENT,
            {"resilience": {"measure_mitigation": False}, "twirling": TWIRLS_ONLY},
        ),
    ],
    ids=["TREX", "gate twirling"],
)
def test_as_ibms_estimator_does_it(word, noise, options):
    engine = EstimatorEngine.from_backend(
        "aer", noise_model=noise, resilience=1, shots=2**16, seed=4, options=options
    )
    found = evs_of(engine, SPEC, PIXELS, WEIGHTS)[0].numpy()
    (stds,) = engine.last_report.stds
    assert_within(found, exact(noise, word), stds[0].numpy())
    # Without mitigation it would be seen.
    assert (np.abs(found - exact(noise, "none")) > 5 * stds[0].numpy()).any()


@pytest.mark.parametrize("twirls", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_zero_noise_extrapolation_as_ibms_estimator_does_it(twirls):
    """Its line is weighted by shot noise, ours is not: the points of both lines are compared."""
    circuits, model, observables = run(COHERENT)
    shots = 2**16
    factors = (1, 3, 5)
    options = {
        "resilience_level": 1,
        "resilience": {
            "measure_mitigation": False,
            "zne_mitigation": True,
            "zne": {"noise_factors": factors, "extrapolator": "linear"},
        },
        "twirling": {
            "enable_gates": twirls,
            "enable_measure": False,
            "num_randomizations": 64 if twirls else 1,
        },
        "simulator": {"seed_simulator": 4, "angle_decimals": 12},
    }
    simulator = AerSimulator(method="density_matrix", noise_model=model, max_parallel_experiments=0)
    job = Estimator(simulator, options).run(
        [(circuit, observables) for circuit in circuits], precision=shots**-0.5
    )
    data = [pub.data for pub in job.result()]
    values = NoisyValues(COHERENT)
    means = np.stack(
        [values.means(twirls, scale, LayerCall(SPEC, PIXELS, WEIGHTS))[0] for scale in factors],
        axis=-1,
    )
    found = np.stack([each.evs_noise_factors for each in data])
    if twirls:  # the spread over twirls
        stds = np.stack([each.stds_noise_factors for each in data])
    else:
        stds = np.sqrt((1 - means**2) / shots)
    assert_within(found, means, stds)
    line = np.polynomial.polynomial.polyfit(factors, means.reshape(-1, 3).T, 1)[0]
    np.testing.assert_allclose(
        exact(COHERENT, "twirling+zne" if twirls else "zne"), line.reshape(means.shape[:-1])
    )


# ---- protocols by hand

BATCHES, SHOTS = 1000, 64


def sampled(circuits, model, shots, **options):
    """Aer's result, with readout error; every circuit has shots of its own."""
    measured = []
    for circuit in circuits:
        measured.append(circuit.copy())
        measured[-1].measure_all()
    simulator = AerSimulator(method="density_matrix", noise_model=model, seed_simulator=11)
    return simulator.run(measured, shots=shots, **options).result()


def signs(circuits, model, observables, shots):
    """(circuit, shot, observable) +-1."""
    result = sampled(circuits, model, shots, memory=True)
    values = {f"{i:02b}": values_of(i, observables) for i in range(4)}
    return np.array([[values[o] for o in result.get_memory(i)] for i in range(len(circuits))])


def values_of(outcome, observables):
    masks = [sum(1 << int(q) for q in np.flatnonzero(o.paulis.z[0])) for o in observables]
    return [(-1.0) ** (outcome & mask).bit_count() for mask in masks]


def means(circuits, model, observables, shots):
    """(circuit, observable)."""
    result = sampled(circuits, model, shots)
    return np.array(
        [
            sum(
                count * np.array(values_of(int(outcome, 2), observables))
                for outcome, count in result.get_counts(i).items()
            )
            / shots
            for i in range(len(circuits))
        ]
    )


def batch_means(found):
    """(circuit, batch, observable) means of batches of shots."""
    return found.reshape(len(found), BATCHES, SHOTS, -1).mean(axis=2)


def check_batches(found, noise, word):
    """Mean and variance of mitigated batches (kernel, batch, observable)."""
    values, variance = exact(noise, word), ours(noise, word, shots=SHOTS)[1]
    scatter = found.var(axis=1, ddof=1)
    assert_within(found.mean(axis=1), values, np.sqrt(scatter / BATCHES))
    # Each variance is known to sqrt(2/999); features of a kernel share its shots.
    assert scatter.mean() == pytest.approx(variance, rel=5 * np.sqrt(2 / (BATCHES - 1) / 2))


def test_nothing_is_done():
    """The batches themselves: what the other tests stand on."""
    check_batches(batch_means(signs(*run(WITH_READOUT), BATCHES * SHOTS)), WITH_READOUT, "none")


def test_readout_inverted_by_calibration_circuits():
    """All qubits prepared as 0, then as 1, tell how a value is scaled and shifted."""
    circuits, model, observables = run(WITH_READOUT)
    zeros, ones = (circuits[0].copy_empty_like() for _ in range(2))
    ones.x(range(2))
    without_gates = compose(readout([0.05, 0.1], [0.1, 0.2])).build().model
    known = means([zeros, ones], without_gates, observables, 2**18)
    a, b = (known[0] - known[1]) / 2, (known[0] + known[1]) / 2
    found = batch_means(signs(circuits, model, observables, BATCHES * SHOTS))
    check_batches((found - b) / a, WITH_READOUT, "readout")


@pytest.mark.slow  # quick: as IBM's estimator extrapolates
def test_folded_circuits_extrapolated():
    circuits, model, observables = run(WITH_READOUT)
    runs = [folded(circuit, scale) for scale in (1, 3, 5) for circuit in circuits]
    found = batch_means(signs(runs, model, observables, BATCHES * SHOTS))
    line = np.polynomial.polynomial.polyfit([1, 3, 5], found.reshape(3, -1), 1)[0]
    check_batches(line.reshape(len(circuits), BATCHES, -1), WITH_READOUT, "zne")


def folded(circuit, scale):
    result = circuit.copy_empty_like()
    for instruction in circuit.data:
        for _ in range(scale if instruction.name == "cx" else 1):
            result.append(instruction)
    return result


@pytest.mark.slow  # quick: as IBM's estimator twirls
def test_random_twirls():
    """Every cx between random Paulis and what they become behind it; one twirl for each shot."""
    circuits, model, observables = run(COHERENT)
    rng = np.random.default_rng(5)
    num_twirls = 250
    twirls = [twirl(c, rng) for c in circuits for _ in range(num_twirls)]
    outcomes = signs(twirls, model, observables, BATCHES * SHOTS // num_twirls)
    # Shot i of batch j is of another twirl than its neighbours: (kernel, twirl, batch), turned.
    by_twirl = outcomes.reshape(len(circuits), num_twirls, BATCHES * SHOTS // num_twirls, -1)
    shuffled = rng.permuted(by_twirl.reshape(len(circuits), BATCHES * SHOTS, -1), axis=1)
    values, variance = exact(COHERENT, "twirling"), ours(COHERENT, "twirling", shots=SHOTS)[1]
    of_twirls = by_twirl.mean(axis=2)
    std = of_twirls.std(axis=1, ddof=1) / np.sqrt(num_twirls)
    assert_within(of_twirls.mean(axis=1), values, std)
    scatter = batch_means(shuffled).var(axis=1, ddof=1)
    assert scatter.mean() == pytest.approx(variance, rel=5 * np.sqrt(2 / (BATCHES - 1) / 2))
    assert np.abs(exact(COHERENT, "none") - values).max() > 10 * std.max()


def twirl(circuit, rng):
    result = circuit.copy_empty_like()
    for instruction in circuit.data:
        if instruction.name != "cx":
            result.append(instruction)
            continue
        before = Pauli("".join(rng.choice(list("IXYZ"), 2)))
        put(result, before, instruction.qubits)
        result.append(instruction)
        put(result, before.evolve(CXGate(), frame="s"), instruction.qubits)
    return result


def put(circuit, pauli, qubits):
    """Up to its sign, which is a global phase."""
    for letter, qubit in zip(reversed(pauli.to_label().lstrip("-")), qubits, strict=True):
        if letter != "I":
            getattr(circuit, letter.lower())(qubit)


# ---- reference rows, which the estimator engine runs

DEVICE = Snapshot.from_dict(
    {
        "device": "two",
        "qubits": [0, 1],
        "calibrations": [
            {"t1_seconds": 1e-4, "t2_seconds": 8e-5, "p1_given_0": 0.02, "p0_given_1": 0.1},
            {"t1_seconds": 1e-4, "t2_seconds": 8e-5, "p1_given_0": 0.2, "p0_given_1": 0.05},
        ],
        "gates": [
            {"name": "cz", "qubits": pair, "error": 0.01, "seconds": 1e-7}
            for pair in ([0, 1], [1, 0])
        ]
        + [
            {"name": name, "qubits": [q], "error": error, "seconds": 3e-8}
            for q in range(2)
            for name, error in (("sx", 0.001), ("x", 0.001), ("rz", 0.0), ("measure", 0.1))
        ],
    }
).backend()
REFERENCES = {"num_references": 2 * SPEC.num_qubits, "dedupe_grid": None}
REFERENCED = {"model": compose(depolarizing(0.02), readout(0.03, 0.08)).build(), "device": DEVICE}


@pytest.mark.parametrize("noise", REFERENCED.values(), ids=REFERENCED)
def test_reference_rows_are_those_of_the_estimator_engine(noise):
    """Run by Aer with every job: exact values are the same line applied to the same values."""
    engine = EstimatorEngine.from_backend("aer", noise_model=noise, precision=0, **REFERENCES)
    found = evs_of(engine, SPEC, PIXELS, WEIGHTS)[0].numpy()
    np.testing.assert_allclose(found, exact(noise, "references"), atol=1e-6)
    assert np.abs(found - exact(noise, "none")).max() > 0.05


def test_reference_rows_with_shots():
    """Of 40 jobs each: means in their standard errors, and the standard errors that are told."""
    noise, shots, jobs = REFERENCED["model"], 1000, 40
    engine = EstimatorEngine.from_backend(
        "aer", noise_model=noise, shots=shots, seed=8, **REFERENCES
    )
    theirs, variances = [], []
    for _ in range(jobs):
        theirs.append(evs_of(engine, SPEC, PIXELS, WEIGHTS)[0].numpy())
        variances.append(float(engine.last_report.stds[0].square().mean()))
    kept = NoisyValues(noise)
    draws, records = [], []
    for seed in range(jobs):
        mitigated = MitigatedEngine(kept, parse_mitigation("references"), shots=shots, seed=seed)
        draws.append(evs_of(mitigated, SPEC, PIXELS, WEIGHTS)[0].numpy())
        records.append(mitigated.records[""])
    std = np.sqrt((np.var(theirs, axis=0) + np.var(draws, axis=0)) / jobs)
    assert_within(np.mean(theirs, axis=0), np.mean(draws, axis=0), std)
    # Theirs are estimated from the same shots, ours follow from the exact values.
    told = np.mean([record.variance / record.num_values for record in records])
    assert np.mean(variances) == pytest.approx(told, rel=0.1)
    assert records[0].num_executions == SPEC.num_kernels + 2 * SPEC.num_qubits
