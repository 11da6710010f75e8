"""The exact engine, Aer with and without noise, and copies of devices: one model, equal numbers."""

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from cases import Case, evs_of, jacobian_of, vjp_of
from conformance import grad_of, weights_of
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector
from qiskit.quantum_info import Statevector, average_gate_fidelity
from qiskit_aer import AerSimulator
from qiskit_aer.noise import (
    NoiseModel,
    ReadoutError,
    amplitude_damping_error,
    depolarizing_error,
    thermal_relaxation_error,
)
from qiskit_machine_learning.connectors import TorchConnector
from tiers import thorough, thorough_if
from torch import nn

from qpc_qiskit import (
    EstimatorEngine,
    ExactEngine,
    PointwiseQNN,
    QuantumPointwiseConv2d,
    make_spec,
    use_engine,
)
from qpc_qiskit.backends.named import find_backend
from qpc_qiskit.circuits.directions import canonical_directions
from qpc_qiskit.circuits.encoder import make_encoder
from qpc_qiskit.engines import LayerCall
from qpc_qiskit.rows.gradients import Spsa

NAMED = ["strongly_entangling", "figure1", "circuit_centric"]


def user_circuit(num_qubits):
    """Every kind of gate and of expression that a user may write."""
    w = ParameterVector("w", 3 * num_qubits)
    circuit = QuantumCircuit(num_qubits)
    for q in range(num_qubits):
        circuit.u(w[3 * q], 2 * w[3 * q + 1] - 0.3, w[3 * q + 2], q)
        circuit.sx(q)
    for q in range(num_qubits - 1):
        circuit.rzz(w[q], q, q + 1)
        circuit.crx(w[3 * q + 1] + w[0], q + 1, q)
        circuit.cp(-w[2], q, q + 1)
    if num_qubits > 2:
        circuit.ccx(0, num_qubits - 1, 1)
        circuit.swap(0, num_qubits - 1)
    circuit.ry(w[0] / 3, 0)
    return circuit


def spec_of(num_qubits, ansatz, num_layers=2, num_kernels=2):
    channels = max(2, 2**num_qubits - 1)  # one channel of padding
    if ansatz == "user":
        return make_spec(channels, num_kernels * num_qubits, ansatz=user_circuit(num_qubits))
    return make_spec(channels, num_kernels * num_qubits, ansatz=ansatz, num_layers=num_layers)


def weights_for(spec, generator):
    shape = (spec.num_kernels, spec.num_weights)
    return 2 * math.pi * torch.rand(shape, generator=generator, dtype=torch.float64)


def pixels_for(spec, generator, count=3):
    """Random pixels of both signs, then a one-hot, a zero, and one with zero pairs."""
    pixels = torch.randn(count + 3, spec.in_channels, generator=generator, dtype=torch.float64)
    pixels[count:] = 0
    pixels[count, -1] = -2.0
    pixels[count + 2, 0] = 1.5
    pixels[count + 2, -1] = -0.5
    return pixels


@pytest.mark.parametrize("ansatz", [*NAMED, "user"])
@pytest.mark.parametrize("num_qubits", range(1, 7))
def test_exact_equals_noiseless_aer(num_qubits, ansatz, generator):
    spec = spec_of(num_qubits, ansatz)
    pixels, weights = pixels_for(spec, generator), weights_for(spec, generator)
    exact = evs_of(ExactEngine(), spec, pixels, weights)
    for engine in (EstimatorEngine(dedupe_grid=None), EstimatorEngine.from_backend("aer")):
        found = evs_of(engine, spec, pixels, weights)
        torch.testing.assert_close(found, exact, rtol=0, atol=1e-9)
    assert engine.last_report.max_std == 0


# Devices: fake_torino and fake_fez have cz, fake_sherbrooke ecr, fake_manila cx. Every
# such gate, number of qubits and kind of ansatz stands in the quick tier, not every combination.


@cache
def backend_of(device):
    return find_backend(device)


@cache
def noisy_engine(device):
    """Exact noisy values; kept, since a circuit is transpiled for each."""
    return EstimatorEngine.from_backend(device, precision=0, dedupe_grid=None)


def noise_on(backend, qubits):
    """Noise of a device's qubits, from its calibration data: wire i is `qubits[i]`.

    A gate relaxes each of its qubits for its duration and is depolarised by what its error has more
    than that; a measurement confuses the outcomes.
    """
    target, model = backend.target, NoiseModel()
    for name in target.operation_names:
        if name in ("measure", "delay", "reset") or not isinstance(target[name], dict):
            continue
        for places, told in target[name].items():
            if told is None or not set(places) <= set(qubits):
                continue
            wires = [qubits.index(q) for q in places]
            relaxed = [
                thermal_relaxation_error(p.t1, min(p.t2, 2 * p.t1), told.duration or 0)
                for p in (target.qubit_properties[q] for q in places)
            ]
            error = relaxed[0] if len(places) == 1 else relaxed[1].tensor(relaxed[0])
            dim = 2 ** len(places)
            fidelity = average_gate_fidelity(error)
            if (told.error or 0) > 1 - fidelity:
                missing = (told.error or 0) - (1 - fidelity)
                strength = dim * missing / (dim * fidelity - 1)
                error = depolarizing_error(strength, len(places)).compose(error)
            model.add_quantum_error(error, name, wires)
    return model


def confusion_of(backend, qubit):
    """(2, 2): [prepared, reported]."""
    told = backend.target["measure"][(qubit,)]
    up = getattr(told, "prob_meas1_prep0", told.error)
    down = getattr(told, "prob_meas0_prep1", told.error)
    return np.array([[1 - up, up], [down, 1 - down]])


def rows_of(spec, pixels, weights):
    """(N, K) lists of angles: the encoder's, then those of the ansatz."""
    encoder = make_encoder("multiplexor", spec.num_qubits)
    directions = canonical_directions(pixels) + 0.0  # no -0.0: atan2 tells the two zeros apart
    encoded = encoder.angles(directions).numpy()
    kernels = spec.ansatz.angles(weights.numpy())
    return [[[*pixel, *kernel] for kernel in kernels] for pixel in encoded]


def by_density_matrix(engine, backend, spec, pixels, weights):
    """The placed circuit, bound row by row, on Aer; readout by loops. (N, K, n)."""
    prepared = engine.prepare(spec)
    template, placement = prepared.template, prepared.placement
    qubits = placement.patch.qubits
    simulator = AerSimulator(method="density_matrix", noise_model=noise_on(backend, qubits))
    confusions = [confusion_of(backend, q) for q in qubits]
    n = spec.num_qubits
    values = np.zeros((len(pixels), spec.num_kernels, n))
    for i, kernels in enumerate(rows_of(spec, pixels, weights)):
        for k, row in enumerate(kernels):
            circuit = template.circuit.assign_parameters(
                dict(zip(template.parameters, row, strict=True))
            )
            circuit.save_density_matrix(label="rho")
            state = np.asarray(simulator.run(circuit).result().data(0)["rho"])
            for q in range(n):
                wire = placement.final[q]
                for outcome in range(2**n):
                    bit = outcome >> wire & 1
                    z = confusions[wire][bit][0] - confusions[wire][bit][1]
                    values[i, k, q] += state[outcome, outcome].real * z
    return values


class TestDevices:
    @pytest.mark.parametrize(
        ("device", "num_qubits", "ansatz"),
        [
            ("fake_torino", 2, "circuit_centric"),
            ("fake_sherbrooke", 2, "strongly_entangling"),
            ("fake_manila", 4, "strongly_entangling"),
            *thorough(
                ("fake_fez", 3, "strongly_entangling"),
                ("fake_torino", 4, "strongly_entangling"),
                ("fake_fez", 4, "circuit_centric"),
                ("fake_sherbrooke", 3, "circuit_centric"),
                ("fake_sherbrooke", 4, "strongly_entangling"),
                ("fake_manila", 3, "circuit_centric"),
            ),
        ],
    )
    def test_exact_noisy_values_equal_a_density_matrix(self, device, num_qubits, ansatz, generator):
        engine, backend = noisy_engine(device), backend_of(device)
        spec = spec_of(num_qubits, ansatz, num_kernels=1)
        pixels, weights = pixels_for(spec, generator, count=1), weights_for(spec, generator)
        found = evs_of(engine, spec, pixels, weights)
        expected = by_density_matrix(engine, backend, spec, pixels, weights)
        np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-9)
        exact = evs_of(ExactEngine(), spec, pixels, weights)
        assert float((found - exact).abs().max()) > 1e-3

    @pytest.mark.parametrize(
        ("device", "num_qubits", "ansatz"),
        [
            ("fake_torino", 2, "circuit_centric"),
            ("fake_sherbrooke", 2, "user"),
            ("fake_manila", 4, "strongly_entangling"),
            *thorough(
                ("fake_fez", 1, "figure1"),
                ("fake_torino", 4, "user"),
                ("fake_fez", 4, "circuit_centric"),
                ("fake_sherbrooke", 4, "figure1"),
                ("fake_manila", 1, "user"),
            ),
        ],
    )
    def test_the_placed_circuit_without_noise_is_exact(self, device, num_qubits, ansatz, generator):
        spec = spec_of(num_qubits, ansatz)
        pixels, weights = pixels_for(spec, generator, count=1), weights_for(spec, generator)
        template = noisy_engine(device).prepare(spec).template
        exact = evs_of(ExactEngine(), spec, pixels, weights).numpy()
        for i, kernels in enumerate(rows_of(spec, pixels, weights)):
            for k, row in enumerate(kernels):
                values = dict(zip(template.parameters, row, strict=True))
                state = Statevector(template.circuit.assign_parameters(values))
                found = [state.expectation_value(z).real for z in template.observables]
                np.testing.assert_allclose(found, exact[i, k], rtol=0, atol=1e-9)

    @pytest.mark.parametrize("device", ["fake_manila", *thorough("fake_fez")])
    def test_a_pixels_sign_and_length_have_no_effect(self, device, generator):
        """Bit for bit, although the noise of the encoder depends on its angles.

        Powers of two scale without rounding; others are the same in one batch, where pixels of one
        direction are run once.
        """
        spec = spec_of(3, "strongly_entangling", num_kernels=1)
        pixels = torch.cat(
            [
                torch.randn(5, 7, generator=generator, dtype=torch.float64),
                torch.eye(7, dtype=torch.float64),
                torch.tensor([[0.8, 0, -0.5, 0, 0.1, 0.2, 0.3]], dtype=torch.float64),
                torch.tensor([[0, -0.8, 0, 0, 0.1, 0, 0.3]], dtype=torch.float64),
            ]
        )
        weights = weights_for(spec, generator)
        engine = noisy_engine(device)
        plain = evs_of(engine, spec, pixels, weights)
        for factor in (-1, 2.0**-40, -1024.0):
            assert torch.equal(evs_of(engine, spec, factor * pixels, weights), plain)
        # The same numbers, with zeros of the other sign.
        assert torch.equal(evs_of(engine, spec, 0.0 - pixels, weights), plain)
        assert torch.equal(evs_of(engine, spec, -(0.0 - pixels), weights), plain)
        for factor in (-0.3, 1e30, 7.7e-200):
            found = evs_of(engine, spec, factor * pixels, weights)
            torch.testing.assert_close(found, plain, rtol=0, atol=1e-12)
        merging = EstimatorEngine.from_backend(device, precision=0)
        factors = torch.tensor([1.0, -0.3, 1e30, -7.7e-200], dtype=torch.float64)
        many = evs_of(merging, spec, (factors[:, None, None] * pixels).flatten(0, 1), weights)
        assert merging.last_report.num_executions == len(pixels)
        assert torch.equal(many, many[: len(pixels)].repeat(4, 1, 1))

    def test_shots_scatter_around_the_exact_noisy_values(self, generator):
        """120 values, nearly independent, with the standard errors that were told.

        Their root mean square is 1 within five times 1/sqrt(240) (6e-7 by a normal distribution;
        with its longer upper tail below 1e-4), and none is six off (3e-7).
        """
        spec = spec_of(2, "strongly_entangling")
        pixels = torch.randn(30, 3, generator=generator, dtype=torch.float64)
        weights = weights_for(spec, generator)
        exact = evs_of(noisy_engine("fake_manila"), spec, pixels, weights)
        engine = EstimatorEngine.from_backend("fake_manila", shots=2000, seed=4, dedupe_grid=None)
        ratio = (evs_of(engine, spec, pixels, weights) - exact) / engine.last_report.stds[0]
        assert ratio.numel() == 120
        assert abs(float(ratio.square().mean().sqrt()) - 1) < 5 / math.sqrt(240)
        assert float(ratio.abs().max()) < 6
        # Not those of the noiseless circuit, so the test can tell.
        noiseless = evs_of(ExactEngine(), spec, pixels, weights)
        assert float((exact - noiseless).abs().max()) > 0.02

    def test_aers_own_shots_do_too(self, generator):
        spec = spec_of(2, "strongly_entangling")
        pixels = torch.randn(30, 3, generator=generator, dtype=torch.float64)
        weights = weights_for(spec, generator)
        exact = evs_of(noisy_engine("fake_manila"), spec, pixels, weights)
        engine = EstimatorEngine.from_backend(
            "aer", noise_model="fake_manila", shots=2000, seed=4, dedupe_grid=None
        )
        ratio = (evs_of(engine, spec, pixels, weights) - exact) / engine.last_report.stds[0]
        assert abs(float(ratio.square().mean().sqrt()) - 1) < 5 / math.sqrt(240)
        assert float(ratio.abs().max()) < 6


# Gradients.


def readout_noise():
    noise = NoiseModel()
    noise.add_readout_error(ReadoutError([[0.93, 0.07], [0.2, 0.8]]), [0])
    noise.add_readout_error(ReadoutError([[0.99, 0.01], [0.05, 0.95]]), [1])
    noise.add_readout_error(ReadoutError([[0.9, 0.1], [0.1, 0.9]]), [2])
    return noise


def ansatz_noise():
    """On the gates that only the ansatz has: the encoder is RY and CZ."""
    noise = NoiseModel(basis_gates=["ry", "cz", "rx", "rz", "cx"])
    noise.add_all_qubit_quantum_error(amplitude_damping_error(0.05), ["rx"])
    noise.add_all_qubit_quantum_error(depolarizing_error(0.03, 2), ["cx"])
    return noise


def everywhere_noise():
    noise = ansatz_noise()
    noise.add_all_qubit_quantum_error(amplitude_damping_error(0.04), ["ry"])
    noise.add_all_qubit_quantum_error(
        amplitude_damping_error(0.03).tensor(amplitude_damping_error(0.02)), ["cz"]
    )
    return noise


def moved_points(point, step=1e-4):
    """(M, 4, ...) moved in entry m by 1, -1, 2, -2 steps; factors that give slopes of 4th order."""
    moves = torch.eye(point.numel(), dtype=torch.float64).view(-1, 1, *point.shape)
    steps = step * torch.tensor([1.0, -1, 2, -2], dtype=torch.float64)
    factors = torch.tensor([8.0, -8, -1, 1], dtype=torch.float64) / (12 * step)
    return point + moves * steps.view(-1, *[1] * point.ndim), factors


def differences(engine, spec, pixels, weights, grad):
    """Central differences of an engine with K = 1, errors of some 1e-11: (N, C) and (1, P)."""
    points, factors = moved_points(weights[0])
    many = replace(spec, num_kernels=4 * len(points))
    evs = evs_of(engine, many, pixels, points.flatten(0, 1))  # (N, 4P, n)
    losses = torch.einsum("imq,iq->m", evs, grad[:, 0])
    by_weights = losses.view(-1, 4) @ factors
    by_pixels = []
    for pixel, outer in zip(pixels, grad[:, 0], strict=True):
        points, factors = moved_points(pixel)
        evs = evs_of(engine, spec, points.flatten(0, 1), weights)
        by_pixels.append((evs[:, 0] @ outer).view(-1, 4) @ factors)
    return torch.stack(by_pixels), by_weights[None]


def gradient_data(spec, generator):
    """Pixels with zero pairs and one-hot ones, of length one."""
    pixels = pixels_for(spec, generator, count=2)
    pixels = torch.nn.functional.normalize(pixels[[0, 1, 2, 4]])
    grad = torch.randn(
        len(pixels), spec.num_kernels, spec.num_maps, generator=generator, dtype=torch.float64
    )
    return pixels, weights_for(spec, generator), grad


@pytest.mark.parametrize("ansatz", [*NAMED, "user"])
@pytest.mark.parametrize("num_qubits", [1, 2, 3])
def test_gradients_on_noiseless_aer_equal_the_exact_ones(num_qubits, ansatz, generator):
    spec = spec_of(num_qubits, ansatz)
    pixels, weights, grad = gradient_data(spec, generator)
    pixels = torch.cat([pixels, torch.zeros_like(pixels[:1])])  # a zero pixel
    grad = torch.cat([grad, grad[:1]])
    engine = EstimatorEngine(dedupe_grid=None)
    exact = vjp_of(ExactEngine(), spec, pixels, weights, grad)
    _, residuals = engine.evs_with_residuals(LayerCall(spec, pixels, weights))
    for kept in (None, residuals):
        found = vjp_of(engine, spec, pixels, weights, grad, residuals=kept)
        for a, b in zip(found, exact, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-9)
    assert not found[0][-1].any()


class TestGradientsUnderNoise:
    """Against differences of the noisy engine itself."""

    def check(self, engine, spec, generator, exact_encoder):
        """The relative error of the gradient by pixels, which is an approximation if the encoder is
        noisy. At a zero pair the values of a noisy encoder jump, so there are no differences."""
        pixels, weights, grad = gradient_data(spec, generator)
        found = vjp_of(engine, spec, pixels, weights, grad)
        ordinary = slice(None) if exact_encoder else slice(2)
        slopes, expected = differences(engine, spec, pixels, weights, grad)
        torch.testing.assert_close(found[1], expected, rtol=0, atol=1e-8)
        if exact_encoder:
            torch.testing.assert_close(found[0], slopes, rtol=0, atol=1e-8)
        exact = vjp_of(ExactEngine(), spec, pixels, weights, grad)
        assert float((found[1] - exact[1]).norm() / exact[1].norm()) > 1e-3  # noise shows
        return float((found[0] - slopes)[ordinary].norm() / slopes[ordinary].norm())

    @pytest.mark.parametrize("ansatz", [*NAMED, "user"])
    def test_of_readout(self, ansatz, generator):
        engine = EstimatorEngine.from_backend("aer", noise_model=readout_noise(), dedupe_grid=None)
        spec = spec_of(3, ansatz, num_layers=1, num_kernels=1)
        self.check(engine, spec, generator, exact_encoder=True)

    @pytest.mark.parametrize("ansatz", NAMED)
    def test_of_the_ansatz(self, ansatz, generator):
        """Not unital, so that an error of the encoder's rows would show."""
        engine = EstimatorEngine.from_backend("aer", noise_model=ansatz_noise(), dedupe_grid=None)
        spec = spec_of(2, ansatz, num_kernels=1)
        sent = engine.prepare(spec).template.circuit.count_ops()
        assert sent["ry"] == 3
        assert sent["cz"] == 1
        self.check(engine, spec, generator, exact_encoder=True)

    @pytest.mark.parametrize("ansatz", NAMED)
    def test_of_everything(self, ansatz, generator):
        """Weights are exact all the same; pixels are an approximation, here better than 30 %."""
        engine = EstimatorEngine.from_backend(
            "aer", noise_model=everywhere_noise(), dedupe_grid=None
        )
        spec = spec_of(2, ansatz, num_kernels=1)
        error = self.check(engine, spec, generator, exact_encoder=False)
        assert 1e-6 < error < 0.3

    def test_of_a_device(self, generator):
        engine = EstimatorEngine.from_backend("fake_torino", precision=0, dedupe_grid=None)
        spec = spec_of(2, "strongly_entangling", num_layers=1, num_kernels=1)
        assert self.check(engine, spec, generator, exact_encoder=False) < 0.3


# Training.


def toy_problem(generator):
    """Images of 3 channels and one pixel whose class is the sign of the first channel."""
    images = torch.randn(8, 3, 1, 1, generator=generator, dtype=torch.float64)
    classes = torch.arange(8) % 2
    images[:, 0] = images[:, 0].abs() * (2 * classes - 1)[:, None, None]
    return images, classes


def toy_net(generator):
    """A convolution before the layer needs its pixels' gradients, a linear one comes after it."""
    torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
    return nn.Sequential(
        nn.Conv2d(3, 4, 1),
        QuantumPointwiseConv2d(4, 2, num_layers=1, generator=generator, dtype=torch.float64),
        nn.Flatten(),
        nn.Linear(2, 2),
    ).double()


def gradient_of(net, images, classes):
    net.zero_grad()
    loss = nn.functional.cross_entropy(net(images), classes)
    loss.backward()
    return torch.cat([parameter.grad.flatten() for parameter in net.parameters()]), float(
        loss.detach()
    )


ENGINES = {
    "aer-shift": lambda: EstimatorEngine(gradients="shift"),
    "aer-spsa": lambda: EstimatorEngine(gradients="spsa", seed=1),
    "aer-shots": lambda: EstimatorEngine(shots=2048, seed=1),
    "fake_manila-shift": lambda: EstimatorEngine.from_backend("fake_manila", shots=1024, seed=1),
    "fake_torino-spsa": lambda: EstimatorEngine.from_backend(
        "fake_torino", shots=1024, seed=1, gradients=Spsa(num_samples=4)
    ),
}


@pytest.mark.parametrize("kind", thorough_if(lambda kind: kind.startswith("fake"), ENGINES))
def test_a_network_trains_end_to_end(kind, generator):
    """Five steps lower the exact loss, which shot noise cannot feign, by a tenth."""
    images, classes = toy_problem(generator)
    net = toy_net(generator)
    _, before = gradient_of(net, images, classes)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.2)
    with use_engine(net, ENGINES[kind]()) as engine:
        for _ in range(5):
            gradient_of(net, images, classes)
            optimizer.step()
        assert engine.total_executions > 5 * 8
    _, after = gradient_of(net, images, classes)
    assert after < 0.9 * before


@pytest.mark.parametrize(
    ("kind", "least"),
    [
        ("aer-shift", 1 - 1e-12),
        ("aer-shots", 0.95),
        ("fake_manila-shift", 0.9),
    ],
)
def test_the_first_gradient_points_where_the_exact_one_does(kind, least, generator):
    """Cosine of the angle between the two, over all parameters of the network."""
    images, classes = toy_problem(generator)
    net = toy_net(generator)
    exact, _ = gradient_of(net, images, classes)
    with use_engine(net, ENGINES[kind]()):
        found, _ = gradient_of(net, images, classes)
    assert float(torch.cosine_similarity(found, exact, dim=0)) > least


def test_spsa_points_there_on_the_average(generator):
    """P = 6 weights and 4 channels: with 400 samples the relative error is some
    sqrt(6 / 400) = 0.12, and the cosine 0.99; the bias of step 0.2 is a few per cent."""
    images, classes = toy_problem(generator)
    net = toy_net(generator)
    exact, _ = gradient_of(net, images, classes)
    with use_engine(net, EstimatorEngine(gradients=Spsa(num_samples=400), seed=2)):
        found, _ = gradient_of(net, images, classes)
    assert float(torch.cosine_similarity(found, exact, dim=0)) > 0.95


# The stock connector.


@pytest.mark.parametrize(
    "case", [Case(3, 4, 2), Case(3, 2, 2, "circuit_centric", 1), Case(3, 2, 2, "user2")], ids=str
)
def test_equals_the_stock_connector(case, generator):
    engine = EstimatorEngine()
    layer = case.layer(generator, torch.float32, engine=engine)
    pixels = torch.randn(3, 3, generator=generator)
    pixels[1, :2] = 0
    factors = torch.randn(3, case.out_channels, generator=generator)
    stock = TorchConnector(
        PointwiseQNN(layer.spec, engine), initial_weights=layer.weight.detach().flatten().numpy()
    )
    theirs = pixels.clone().requires_grad_()
    expected = stock(theirs)
    assert expected.dtype == torch.float32
    (expected * factors).sum().backward()
    assert engine.last_report.what == "jacobian"

    ours = pixels.clone().requires_grad_()
    found = layer(ours.T[None, :, :, None])[0, :, :, 0].T
    (found * factors).sum().backward()
    assert engine.last_report.what == "vjp"
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=5e-6)
    torch.testing.assert_close(layer.weight.grad.flatten(), stock.weight.grad, rtol=1e-6, atol=5e-6)


@pytest.mark.parametrize("noise_model", [None, "fake_manila"])
def test_jacobian_and_vjp_agree(noise_model, generator):
    case = Case(3, 4, 2, "circuit_centric", 1)
    spec, weights = case.spec(), weights_of(case, generator)
    pixels = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    grad = grad_of(case, 3, generator)
    engine = EstimatorEngine.from_backend("aer", noise_model=noise_model)
    by_pixels, by_weights = jacobian_of(engine, spec, pixels, weights)
    found = vjp_of(engine, spec, pixels, weights, grad)
    torch.testing.assert_close(
        torch.einsum("ikqc,ikq->ic", by_pixels, grad), found[0], rtol=0, atol=1e-12
    )
    torch.testing.assert_close(
        torch.einsum("ikqp,ikq->kp", by_weights, grad), found[1], rtol=0, atol=1e-12
    )
