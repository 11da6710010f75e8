"""The noisy engine against density matrices: our own slow ones, Aer's and PennyLane's."""

import math
import pickle
import warnings

import numpy as np
import pennylane as qml
import pytest
import torch
from cases import evs_of, vjp_of
from hypothesis import given, settings
from hypothesis import strategies as st
from noisy_circuits import (
    CHANNELS,
    DEVICE,
    LOGICAL,
    aer_signs,
    bound_circuit,
    noise_model,
    readout_channel,
    reported_signs,
)
from qiskit import QuantumCircuit
from qiskit_aer import AerSimulator
from qiskit_aer.noise import (
    NoiseModel,
    amplitude_damping_error,
    depolarizing_error,
    pauli_error,
)
from tiers import thorough
from torch import nn

from noise_models.words import parse_noise
from qpc_qiskit import EstimatorEngine, ExactEngine, QuantumPointwiseConv2d, make_spec, use_engine
from qpc_qiskit.circuits.directions import canonical_directions
from qpc_qiskit.circuits.encoder import make_encoder
from qpc_qiskit.engines import LayerCall, NoisyEngine, make_engine, noisy
from qpc_qiskit.errors import BackendError, EngineError
from qpc_qiskit.pauli import compiled
from qpc_qiskit.pauli.layers import NoisyLayer

NAMED = ["strongly_entangling", "figure1", "circuit_centric"]
NEEDS_COMPILER = pytest.mark.skipif(compiled.find_compiler() is None, reason="no C compiler")
IMPLEMENTATIONS = ["torch", pytest.param("compiled", marks=NEEDS_COMPILER)]


def spec_of(num_qubits, ansatz="strongly_entangling", num_kernels=1, num_layers=1):
    if isinstance(ansatz, QuantumCircuit):
        return make_spec(2**num_qubits, num_qubits * num_kernels, ansatz=ansatz)
    return make_spec(
        2**num_qubits, num_qubits * num_kernels, ansatz=ansatz, num_layers=num_layers,
        num_qubits=num_qubits,
    )  # fmt: skip


def pixels_of(rng, channels, count=3):
    """Ordinary ones, then zero, one-hot and sparse ones."""
    ordinary = rng.normal(size=(count, channels))
    sparse = np.where(rng.uniform(size=(1, channels)) < 0.5, 0, rng.normal(size=(1, channels)))
    one_hot = -np.eye(channels)[[int(rng.integers(channels))]]
    return torch.from_numpy(np.concatenate([ordinary, np.zeros((1, channels)), one_hot, sparse]))


def weights_of(rng, spec):
    shape = (spec.num_kernels, spec.num_weights)
    return torch.from_numpy(rng.uniform(0, 2 * np.pi, shape))


def slow_values(engine, spec, pixels, weights, model, signs=reported_signs):
    """(N, K, n): bound circuits, one at a time."""
    encoder = make_encoder("multiplexor", spec.num_qubits)
    directions = canonical_directions(pixels)
    prepared = engine.prepare(spec)
    rows = []
    for angles in spec.ansatz.angles(weights.numpy()):
        circuits = bound_circuit(prepared, encoder, angles, directions)
        rows.append([signs(circuit, model) for circuit in circuits])
    return torch.from_numpy(np.array(rows)).transpose(0, 1)


def assert_close(found, expected, atol):
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=atol)


# Values.


@settings(max_examples=12)
@given(
    num_qubits=st.integers(1, 3),
    ansatz=st.sampled_from(NAMED),
    one=st.sampled_from(list(CHANNELS)),
    two=st.sampled_from(list(CHANNELS)),
    basis=st.sampled_from([LOGICAL, DEVICE]),
    is_local=st.booleans(),
    implementation=st.sampled_from(["torch", "auto"]),
    seed=st.integers(0, 2**20),
)
def test_equals_density_matrices(
    num_qubits, ansatz, one, two, basis, is_local, implementation, seed
):
    """1e-11: rounding of some hundred gates."""
    rng = np.random.default_rng(seed)
    model = noise_model(rng, one, two, basis=basis, num_qubits=num_qubits * is_local)
    spec = spec_of(num_qubits, ansatz)
    pixels, weights = pixels_of(rng, 2**num_qubits, count=1)[[0, 3]], weights_of(rng, spec)
    engine = NoisyEngine(model, implementation=implementation)
    expected = slow_values(engine, spec, pixels, weights, model)
    assert_close(evs_of(engine, spec, pixels, weights), expected, 1e-11)
    assert_close(evs_of(engine, spec, pixels.float(), weights.float()), expected, 1e-5)


@settings(max_examples=8)
@given(
    num_qubits=st.integers(1, 4),
    one=st.sampled_from(list(CHANNELS)),
    two=st.sampled_from(list(CHANNELS)),
    is_local=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_equals_aer(num_qubits, one, two, is_local, seed):
    """1e-8: Aer leaves out terms of an error with a probability below 1e-10."""
    rng = np.random.default_rng(seed)
    model = noise_model(rng, one, two, num_qubits=num_qubits * is_local)
    spec = spec_of(num_qubits)
    pixels, weights = pixels_of(rng, 2**num_qubits, count=1), weights_of(rng, spec)
    engine = NoisyEngine(model)
    expected = slow_values(engine, spec, pixels, weights, model, aer_signs)
    assert_close(evs_of(engine, spec, pixels, weights), expected, 1e-8)


def depolarizing_model(one=0.002, two=0.01, basis=LOGICAL):
    model = NoiseModel(list(basis))
    model.add_all_qubit_quantum_error(depolarizing_error(one, 1), [g for g in basis if g[0] != "c"])
    model.add_all_qubit_quantum_error(depolarizing_error(two, 2), [g for g in basis if g[0] == "c"])
    return model


@pytest.mark.parametrize("encoder", ["multiplexor", "brickwall"])
@pytest.mark.parametrize("ansatz", NAMED)
def test_every_ansatz_and_encoder_equals_the_estimator_on_aer(ansatz, encoder, rng):
    model = noise_model(rng, "damping", "depolarizing")
    spec = spec_of(4, ansatz, num_kernels=2, num_layers=2)
    pixels, weights = pixels_of(rng, 16), weights_of(rng, spec)
    engine = NoisyEngine(model, encoder=encoder)
    aer = EstimatorEngine.from_backend("aer", noise_model=model, encoder=encoder, dedupe_grid=None)
    found, expected = (evs_of(each, spec, pixels, weights) for each in (engine, aer))
    assert_close(found, expected, 1e-8)
    assert float((expected - evs_of(ExactEngine(), spec, pixels, weights)).abs().max()) > 1e-2


@pytest.mark.parametrize(("num_qubits", "encoder"), [(5, "brickwall"), (6, "multiplexor")])
def test_many_qubits_equal_aer(num_qubits, encoder, rng):
    model = noise_model(rng, "thermal", "depolarizing")
    spec = spec_of(num_qubits, num_layers=2)
    pixels, weights = pixels_of(rng, 2**num_qubits, count=1), weights_of(rng, spec)
    aer = EstimatorEngine.from_backend("aer", noise_model=model, encoder=encoder, dedupe_grid=None)
    found = evs_of(NoisyEngine(model, encoder=encoder), spec, pixels, weights)
    assert_close(found, evs_of(aer, spec, pixels, weights), 1e-8)


@pytest.mark.parametrize(
    ("device", "num_qubits"),
    [("fake_torino", 2), ("fake_sherbrooke", 3), ("fake_manila", 3), *thorough(("fake_manila", 4))],
)
def test_patches_of_devices_equal_aer(device, num_qubits, rng):
    """cz, ecr and cx; circuits that a transpiler may route."""
    spec = spec_of(num_qubits, num_kernels=2, num_layers=2)
    pixels, weights = pixels_of(rng, 2**num_qubits), weights_of(rng, spec)
    engine = NoisyEngine(device)
    aer = EstimatorEngine.from_backend("aer", noise_model=device, dedupe_grid=None)
    assert_close(evs_of(engine, spec, pixels, weights), evs_of(aer, spec, pixels, weights), 1e-8)
    report = engine.last_report
    assert len(report.patch) == num_qubits
    assert report.noise == device


def test_on_given_qubits_of_a_device(rng):
    spec = spec_of(2)
    pixels, weights = pixels_of(rng, 4), weights_of(rng, spec)
    engine = NoisyEngine("fake_manila", qubits=(0, 1))
    best = evs_of(NoisyEngine("fake_manila"), spec, pixels, weights)
    aer = EstimatorEngine.from_backend(
        "aer", noise_model="fake_manila", qubits=(0, 1), dedupe_grid=None
    )
    found = evs_of(engine, spec, pixels, weights)
    assert_close(found, evs_of(aer, spec, pixels, weights), 1e-8)
    assert set(engine.last_report.patch) == {0, 1}
    assert float((found - best).abs().max()) > 1e-4


@pytest.mark.slow
def test_a_device_whose_circuit_begins_the_ansatz_early(rng):
    """Six qubits are routed, so that there is a mixed stage, which `begin_early` makes by hand."""
    spec = spec_of(6, num_layers=2)
    pixels, weights = pixels_of(rng, 64, count=1)[:1], weights_of(rng, spec)
    engine = NoisyEngine("fake_torino")
    found = evs_of(engine, spec, pixels, weights)
    assert engine._circuit(spec).stages.mixed is not None
    aer = EstimatorEngine.from_backend("aer", noise_model="fake_torino", dedupe_grid=None)
    assert_close(found, evs_of(aer, spec, pixels, weights), 2e-8)


@pytest.mark.parametrize("word", ["heron_r2", "eagle_r3_crosstalk", "over_rotation:0.05"])
def test_noise_with_passes_equals_aer(word, rng):
    """Labels of gates, inserted crosstalk and coherent errors."""
    noise = parse_noise(word)
    spec = spec_of(3, num_kernels=2)
    pixels, weights = pixels_of(rng, 8), weights_of(rng, spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        aer = EstimatorEngine.from_backend("aer", noise_model=noise, dedupe_grid=None)
        expected = evs_of(aer, spec, pixels, weights)
    assert_close(evs_of(NoisyEngine(noise), spec, pixels, weights), expected, 1e-8)


@pytest.mark.parametrize("noise", ["fake_manila", "model"])
def test_absorbed_tail_and_inverted_readout_equal_aer(noise, rng):
    noise = noise_model(rng, "damping", "pauli") if noise == "model" else noise
    spec = spec_of(3, num_kernels=2)
    pixels, weights = pixels_of(rng, 8), weights_of(rng, spec)
    options = {"encoder": "brickwall", "absorb_tail": True}
    engine = NoisyEngine(noise, **options)
    aer = EstimatorEngine.from_backend("aer", noise_model=noise, dedupe_grid=None, **options)
    found = evs_of(engine, spec, pixels, weights)
    assert engine.prepare(spec).inversions
    assert_close(found, evs_of(aer, spec, pixels, weights), 1e-8)


def test_readout_equals_counts(rng):
    """Aer's own measurement; 5 standard errors, 9 values: a false alarm once in 200,000 seeds."""
    model = noise_model(rng, "damping", "depolarizing", num_qubits=3)
    spec, shots = spec_of(3), 40_000
    pixels, weights = pixels_of(rng, 8, count=1)[[0, 2, 3]], weights_of(rng, spec)
    engine = NoisyEngine(model)
    found = evs_of(engine, spec, pixels, weights)
    simulator = AerSimulator(method="density_matrix", noise_model=model, seed_simulator=5)

    def counted(circuit, _):
        measured = circuit.copy()
        measured.measure_all()
        counts = simulator.run(measured, shots=shots).result().get_counts()
        signs = np.zeros(3)
        for bits, count in counts.items():
            signs += count * (1 - 2 * np.array([int(b) for b in bits[::-1]]))
        return signs / shots

    expected = slow_values(engine, spec, pixels, weights, model, counted)
    std = ((1 - found**2) / shots).sqrt()
    assert bool(((found - expected).abs() < 5 * std).all())
    plain = evs_of(NoisyEngine(depolarizing_model()), spec, pixels, weights)
    assert bool(((plain - expected).abs() > 5 * std).any())  # readout shows


def test_equals_pennylane(rng):
    """The third opinion, from the logical circuit as drawn in the paper."""
    n, one, two, gamma = 3, 0.01, 0.03, 0.02
    model = NoiseModel(LOGICAL)
    damping = depolarizing_error(one, 1).compose(amplitude_damping_error(gamma))
    model.add_all_qubit_quantum_error(damping, ["rx", "ry"])
    model.add_all_qubit_quantum_error(pauli_error([("XZ", two), ("II", 1 - two)]), ["cx", "cz"])
    spec = spec_of(n, num_layers=1)
    pixels, weights = pixels_of(rng, 8), weights_of(rng, spec)
    engine = NoisyEngine(model)
    found = evs_of(engine, spec, pixels, weights)[:, 0]
    operations = {"ry": qml.RY, "rx": qml.RX, "rz": qml.RZ, "cz": qml.CZ, "cx": qml.CNOT}

    @qml.qnode(qml.device("default.mixed", wires=n))
    def circuit(bound):
        for instruction in bound.data:
            name = instruction.operation.name
            qubits = [bound.find_bit(q).index for q in instruction.qubits]
            operations[name](*map(float, instruction.operation.params), wires=qubits)
            if name in ("rx", "ry"):
                # Aer's parameter mixes in the maximally mixed state, PennyLane's a Pauli.
                qml.DepolarizingChannel(0.75 * one, wires=qubits)
                qml.AmplitudeDamping(gamma, wires=qubits)
            if name in ("cx", "cz"):  # the label's last letter is the gate's first qubit
                both = np.kron([[1, 0], [0, -1]], [[0, 1], [1, 0]])
                kraus = [math.sqrt(1 - two) * np.eye(4), math.sqrt(two) * both]
                qml.QubitChannel(kraus, wires=qubits)
        return [qml.expval(qml.PauliZ(q)) for q in range(n)]

    encoder = make_encoder("multiplexor", n)
    angles = spec.ansatz.angles(weights.numpy())[0]
    bound = bound_circuit(engine.prepare(spec), encoder, angles, canonical_directions(pixels))
    expected = torch.from_numpy(np.array([circuit(each) for each in bound], float))
    assert_close(found, expected, 1e-10)


# Gradients.


def differences(engine, spec, pixels, weights, grad, step=1e-4):
    """Central, by pixels and by weights."""

    def loss(p, w):
        return float((evs_of(engine, spec, p, w) * grad).sum())

    found = []
    for which, point in enumerate((pixels, weights)):
        slopes = torch.zeros_like(point)
        for index in np.ndindex(*point.shape):
            ends = []
            for sign in (1, -1):
                moved = [pixels.clone(), weights.clone()]
                moved[which][index] += sign * step
                ends.append(loss(*moved))
            slopes[index] = (ends[0] - ends[1]) / (2 * step)
        found.append(slopes)
    return found


@pytest.mark.parametrize(
    ("noise", "implementation"),
    [("thermal", "torch"), pytest.param("fake_manila", "compiled", marks=NEEDS_COMPILER)],
)
def test_gradients_equal_differences_of_aer(noise, implementation, rng):
    """1e-6: step**2, and Aer's 1e-9 divided by the step."""
    if noise == "thermal":
        noise = noise_model(rng, "thermal", "kraus")
    spec = spec_of(2, num_kernels=2)
    pixels = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(2, 4))))
    weights = weights_of(rng, spec)
    grad = torch.from_numpy(rng.normal(size=(2, 2, 2)))
    aer = EstimatorEngine.from_backend("aer", noise_model=noise, dedupe_grid=None)
    expected = differences(aer, spec, pixels, weights, grad)
    found = vjp_of(NoisyEngine(noise, implementation=implementation), spec, pixels, weights, grad)
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, 1e-6)


@pytest.mark.parametrize(
    ("kind", "implementation"),
    [
        ("kraus", "torch"),
        ("thermal", "torch"),
        ("mixed", "torch"),
        pytest.param("mixed", "compiled", marks=NEEDS_COMPILER),
    ],
)
def test_gradients_equal_differences(kind, implementation, rng):
    """Of the engine itself; in `mixed`, rotations of kernels come before those of pixels."""
    model = depolarizing_model() if kind == "mixed" else noise_model(rng, kind, kind)
    spec = spec_of(3, num_kernels=2, num_layers=2)
    engine = NoisyEngine(model, implementation=implementation)
    if kind == "mixed":
        begin_early(engine, spec)
    pixels = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(3, 8))))
    pixels[1, 2] = 0
    pixels[2] *= 7
    weights = weights_of(rng, spec)
    grad = torch.from_numpy(rng.normal(size=(3, 2, 3)))
    found = vjp_of(engine, spec, pixels, weights, grad)
    for a, b in zip(found, differences(engine, spec, pixels, weights, grad, 1e-5), strict=True):
        assert_close(a, b, 1e-6)
    single = vjp_of(engine, spec, pixels.float(), weights.float(), grad.float())
    for a, b in zip(single, found, strict=True):
        assert a.dtype == torch.float32
        assert_close(a, b, 2e-5)


def begin_early(engine, spec):
    """Let the ansatz begin on qubit 2 before the encoder's last rotations, as a router might."""
    from qpc_qiskit.pauli import layers, program

    circuit = engine._circuit(spec)
    read = circuit.stages.program
    rotations = [op for op in read.suffix if isinstance(op, program.Rotation)]
    early = next(op for op in rotations if op.qubits == (2,))
    operations = list(read.shared)
    place = next(
        i for i, op in enumerate(operations)
        if isinstance(op, program.Constant) and op.qubits == (2, 0)
    )  # fmt: skip
    operations.insert(place, early)
    rest = [op for op in read.suffix if op is not early]
    parts = program._split([*operations, *rest], read.encoder.any(axis=1))
    made = layers.make_stages(program.replace(read, **dict(zip(
        ("shared", "mixed", "suffix"), map(tuple, parts), strict=True
    ))))  # fmt: skip
    assert made.mixed is not None
    engine._circuits[spec.ansatz] = noisy.replace(circuit, stages=made, layers={})


def test_an_all_zero_subtree_has_zero_derivative(rng):
    """Documented: the angles of channels 4..7 are 0 there, and so is their derivative."""
    spec = spec_of(3)
    pixels = torch.from_numpy(rng.normal(size=(1, 8)))
    pixels[0, 4:] = 0
    grad = torch.from_numpy(rng.normal(size=(1, 1, 3)))
    engine = NoisyEngine(depolarizing_model())
    by_pixels, _ = vjp_of(engine, spec, pixels, weights_of(rng, spec), grad)
    assert torch.equal(by_pixels[:, 4:], torch.zeros(1, 4, dtype=torch.float64))
    assert bool((by_pixels[:, :4] != 0).all())


def test_brickwall_has_gradients_by_weights_only(rng):
    spec = spec_of(2)
    pixels, weights = pixels_of(rng, 4), weights_of(rng, spec)
    grad = torch.from_numpy(rng.normal(size=(len(pixels), 1, 2)))
    engine = NoisyEngine(noise_model(rng, "damping", "pauli"), encoder="brickwall")
    with pytest.raises(EngineError, match="brickwall encoder are fitted and have no derivative"):
        vjp_of(engine, spec, pixels, weights, grad)
    _, found = vjp_of(engine, spec, pixels, weights, grad, (False, True))
    _, expected = differences(engine, spec, pixels[:0], weights, grad[:0])
    step = 1e-4
    for j in range(spec.num_weights):
        moved = [weights.clone(), weights.clone()]
        moved[0][0, j] += step
        moved[1][0, j] -= step
        high, low = (float((evs_of(engine, spec, pixels, w) * grad).sum()) for w in moved)
        expected[0, j] = (high - low) / (2 * step)
    assert_close(found, expected, 1e-6)


def test_noise_aware_training_lowers_the_noisy_loss(generator):
    images = torch.randn(8, 3, 1, 1, generator=generator, dtype=torch.float64)
    classes = torch.arange(8) % 2
    images[:, 0] = images[:, 0].abs() * (2 * classes - 1)[:, None, None]
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1),
        QuantumPointwiseConv2d(4, 2, num_layers=1, generator=generator, dtype=torch.float64),
        nn.Flatten(),
        nn.Linear(2, 2),
    ).double()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.2)
    losses = []
    with use_engine(net, NoisyEngine(depolarizing_model(0.02, 0.1))):
        for _ in range(6):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(images), classes)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]


# Implementations, chunks and threads.


@pytest.fixture
def case(rng):
    spec = spec_of(4, num_kernels=3, num_layers=2)
    pixels = torch.from_numpy(rng.normal(size=(150, 16)))
    grad = torch.from_numpy(rng.normal(size=(150, 3, 4)))
    return spec, pixels, weights_of(rng, spec), grad


def everything(engine, case):
    spec, pixels, weights, grad = case
    return [evs_of(engine, spec, pixels, weights), *vjp_of(engine, spec, pixels, weights, grad)]


@NEEDS_COMPILER
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("pauli", torch.float64),
        ("thermal", torch.float32),
        ("kraus", torch.float32),
        ("kraus", torch.float64),
        ("fake_manila", torch.float64),
    ],
    ids=str,
)
def test_compiled_equals_torch(kind, dtype, case, rng):
    noise = kind if kind == "fake_manila" else noise_model(rng, kind, kind)
    spec, *arrays = case
    case = (spec, *(a.to(dtype) for a in arrays))
    atol = 2e-5 if dtype == torch.float32 else 1e-12
    found, expected = (
        everything(NoisyEngine(noise, implementation=each), case) for each in ("compiled", "torch")
    )
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == dtype
        scale = max(1.0, float(b.abs().max()))
        torch.testing.assert_close(a, b, rtol=0, atol=atol * scale)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_chunks_and_threads_change_nothing(implementation, case, monkeypatch):
    model = depolarizing_model()
    expected = everything(NoisyEngine(model, implementation=implementation), case)
    original = NoisyLayer.__init__

    def small(self, *arguments):
        original(self, *arguments)
        self.chunk = 24

    monkeypatch.setattr(NoisyLayer, "__init__", small)
    before = torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        try:
            found = everything(NoisyEngine(model, implementation=implementation), case)
        finally:
            torch.set_num_threads(before)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_real_channels_need_half_of_the_strings(case):
    spec = case[0]
    engine = NoisyEngine(depolarizing_model(), implementation="torch")
    everything(engine, case)
    assert engine.last_report.num_strings == 136  # of 256: an even number of Y
    model = depolarizing_model()
    model.add_all_qubit_quantum_error(CHANNELS["coherent"](np.random.default_rng(1), 1), "ry")
    other = NoisyEngine(model)
    evs_of(other, spec, *case[1:3])
    assert other.last_report.num_strings == 256


# Shots.


def test_shots(rng):
    """Binomial: mean and variance of 400 draws in standard errors, seeded."""
    spec, shots = spec_of(2, num_kernels=2), 50
    pixels, weights = pixels_of(rng, 4, count=1)[:1], weights_of(rng, spec)
    many = pixels.expand(400, -1)
    model = depolarizing_model()
    exact = evs_of(NoisyEngine(model), spec, pixels, weights)
    engine = NoisyEngine(model, shots=shots, seed=3)
    drawn = evs_of(engine, spec, many, weights)
    std = ((1 - exact[0] ** 2) / shots).sqrt()
    assert engine.last_report.max_std == pytest.approx(float(std.max()), abs=1e-12)
    assert engine.last_report.shots == shots
    assert bool(((drawn.mean(0) - exact[0]).abs() < 5 * std / 20).all())
    assert bool(((drawn.var(0) / std**2 - 1).abs() < 5 * math.sqrt(2 / 400)).all())
    counts = (drawn + 1) / 2 * shots
    assert_close(counts, counts.round(), 1e-9)
    again = evs_of(engine, spec, many, weights)
    assert not torch.equal(again, drawn)  # calls do not share their noise
    same = NoisyEngine(model, shots=shots, seed=3)
    assert torch.equal(evs_of(same, spec, many, weights), drawn)
    other = NoisyEngine(model, shots=shots, seed=4)
    assert not torch.equal(evs_of(other, spec, many, weights), drawn)


def test_a_pickled_engine_goes_on_where_it_was(case):
    spec, pixels, weights, _ = case
    engine = NoisyEngine(depolarizing_model(), shots=20, seed=3)
    evs_of(engine, spec, pixels, weights)
    copy = pickle.loads(pickle.dumps(engine))
    found, expected = (evs_of(each, spec, pixels, weights) for each in (copy, engine))
    assert torch.equal(found, expected)


def test_gradients_with_shots_are_those_of_the_exact_values(case):
    spec, pixels, weights, grad = case
    model = depolarizing_model()
    expected = vjp_of(NoisyEngine(model), spec, pixels, weights, grad)
    engine = NoisyEngine(model, shots=10)
    _, residuals = engine.evs_with_residuals(LayerCall(spec, pixels, weights))
    for a, b in zip(
        vjp_of(engine, spec, pixels, weights, grad, residuals=residuals), expected, strict=True
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


# What is refused.


@pytest.mark.parametrize(
    ("arguments", "kind", "match"),
    [
        ((None,), TypeError, "Expected an Aer NoiseModel.*got NoneType.*exact engine"),
        ((NoiseModel(), {"implementation": "numpy"}), ValueError, "Unknown implementation 'numpy'"),
        ((NoiseModel(), {"encoder": "mux"}), ValueError, "Unknown encoder 'mux'"),
        ((NoiseModel(), {"shots": 0}), ValueError, "shots must be a positive integer"),
        ((NoiseModel(), {"seed": 1}), ValueError, "seed has no effect on exact values"),
        ((NoiseModel(), {"qubits": (0,)}), ValueError, "qubits has no effect on a noise model"),
        ((NoiseModel(), {"absorb_tail": 1}), TypeError, "absorb_tail must be True or False"),
        (
            (NoiseModel(), {"absorb_tail": True, "shots": 9}),
            ValueError,
            "parities, which would share their shots",
        ),
        (("fake_turino",), BackendError, "Did you mean fake_torino"),
    ],
)
def test_wrong_arguments(arguments, kind, match):
    noise, options = (*arguments, {})[:2]
    with pytest.raises(kind, match=match):
        NoisyEngine(noise, **options)


def test_by_name_it_says_what_it_needs():
    with pytest.raises(EngineError, match=r"needs to know which noise.*NoisyEngine\(noise\)"):
        make_engine("noisy")


def with_error(error, names, **options):
    model = NoiseModel(LOGICAL)
    model.add_all_qubit_quantum_error(depolarizing_error(0.01, 1), ["ry"])
    model.add_all_qubit_quantum_error(error, names, **options)
    return model


def two_qubit_readout():
    model = depolarizing_model()
    model.add_readout_error((np.eye(4) * 0.9 + np.full((4, 4), 0.025)).tolist(), [0, 1])
    return model


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (with_error(depolarizing_error(0.01, 2), "crosstalk"), "errors on crosstalk: no gate"),
        (with_error(depolarizing_error(0.01, 4), "big"), "errors on big: no gate"),
        (NoiseModel(["rz", "cx"]), "cannot be translated"),
        (depolarizing_model(basis=["u", "crx", "cx"]), None),
    ],
)
def test_what_cannot_be_represented_is_refused(model, match, rng):
    spec = spec_of(2)
    pixels, weights = pixels_of(rng, 4), weights_of(rng, spec)
    if match is None:
        evs_of(NoisyEngine(model), spec, pixels, weights)
        return
    with pytest.raises(EngineError, match=match):
        evs_of(NoisyEngine(model), spec, pixels, weights)


def test_readout_errors_of_two_qubits_are_refused(rng):
    spec = spec_of(2)
    with pytest.raises(EngineError, match="readout error of several qubits together"):
        NoisyEngine(two_qubit_readout()).prepare(spec)


def test_noise_without_effect_is_refused():
    model = NoiseModel(["rz", "sx", "x", "cx", "swap"])
    model.add_all_qubit_quantum_error(depolarizing_error(0.1, 2), "swap")
    with pytest.raises(EngineError, match="of which the circuit has none"):
        NoisyEngine(model).prepare(spec_of(2))


def test_local_readout_of_one_qubit_only(rng):
    """No qubit takes another's."""
    model = depolarizing_model()
    model.add_readout_error(readout_channel(rng), [1])
    spec = spec_of(3)
    pixels, weights = pixels_of(rng, 8), weights_of(rng, spec)
    with pytest.warns(UserWarning, match="2 of 3 'measure' of the circuit have no error"):
        changed = evs_of(NoisyEngine(model), spec, pixels, weights)
    plain = evs_of(NoisyEngine(depolarizing_model()), spec, pixels, weights)
    assert_close(changed[..., [0, 2]], plain[..., [0, 2]], 1e-14)
    assert float((changed[..., 1] - plain[..., 1]).abs().min()) > 1e-6


def test_no_pixels_and_report(case):
    spec, pixels, weights, _ = case
    engine = NoisyEngine(depolarizing_model())
    assert evs_of(engine, spec, pixels[:0], weights).shape == (0, 3, 4)
    evs_of(engine, spec, pixels, weights)
    report = engine.last_report
    assert (report.num_executions, report.num_pixels, report.max_std) == (0, 150, 0.0)
    assert report.noise == engine.noise_name == "own NoiseModel"
    assert report.to_dict()["encoder"] == "multiplexor"
