"""The layer against software that is not ours: Qiskit, Aer, PennyLane, the stock TorchConnector."""

import math

import numpy as np
import pennylane as qml
import pytest
import torch
from cases import CASES, NAMED, SMALL_CASES, Case, pixels_of
from qiskit.quantum_info import SparsePauliOp, Statevector
from qiskit_aer.primitives import EstimatorV2 as AerEstimatorV2
from qiskit_machine_learning.connectors import TorchConnector
from tiers import thorough_if

from qpc_qiskit import PointwiseQNN

PENNYLANE = [
    *(c for c in NAMED if c.ansatz == "strongly_entangling"),
    Case(3, 4, 2, num_layers=1),
    Case(5, 8, 4, num_layers=5),  # n above what the channels need, ranges 1 2 3 1 2
]


def z_operators(num_qubits):
    return [SparsePauliOp("I" * (num_qubits - 1 - q) + "Z" + "I" * q) for q in range(num_qubits)]


def images_from(pixels):
    """(N, C) -> (1, C, 1, N)."""
    return pixels.T[None, :, None, :]


def maps_to_rows(maps):
    """(1, C_out, 1, N) -> (N, C_out)."""
    return maps[0, :, 0, :].T


@pytest.mark.parametrize("case", thorough_if(lambda case: case.num_qubits > 2, CASES), ids=str)
def test_equals_qiskit_statevector(case, generator):
    """More qubits in the quick tier: Aer's statevectors, in the next test."""
    layer = case.layer(generator)
    pixels = pixels_of(case.in_channels, generator, count=3)
    rows = maps_to_rows(layer(images_from(pixels))).detach().numpy()
    circuit, n = layer.circuit(), case.num_qubits
    for kernel in range(layer.spec.num_kernels):
        values = layer.parameter_values(pixels, kernel)
        for i in range(len(pixels)):
            bound = circuit.assign_parameters(values[i])
            probabilities = Statevector(bound).probabilities().reshape([2] * n)  # highest first
            expected = []
            for q in range(n):
                zero, one = probabilities.sum(tuple(set(range(n)) - {n - 1 - q}))
                expected.append(zero - one)
            found = rows[i, kernel * n : (kernel + 1) * n]
            np.testing.assert_allclose(found, expected[: len(found)], rtol=0, atol=1e-10)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_aers_estimator_on_the_layers_circuit(case, generator):
    layer = case.layer(generator)
    pixels = pixels_of(case.in_channels, generator, count=3)
    rows = maps_to_rows(layer(images_from(pixels))).detach().numpy()
    circuit, n = layer.circuit(), case.num_qubits
    observables = [[z] for z in z_operators(n)]
    values = np.concatenate(
        [layer.parameter_values(pixels, kernel) for kernel in range(layer.spec.num_kernels)]
    )
    evs = AerEstimatorV2().run([(circuit, observables, values)], precision=0.0).result()[0].data.evs
    expected = evs.reshape(n, layer.spec.num_kernels, len(pixels)).transpose(2, 1, 0)
    np.testing.assert_allclose(
        rows, expected.reshape(len(pixels), -1)[:, : case.out_channels], rtol=0, atol=1e-10
    )


def pennylane_features(case, pixels, weights):
    """(N, K*n) by default.qubit with backprop; gradients flow into both arguments."""
    n = case.num_qubits
    device = qml.device("default.qubit", wires=n)

    @qml.qnode(device, interface="torch", diff_method="backprop")
    def circuit(features, angles):
        # PennyLane's first wire is the highest bit.
        qml.AmplitudeEmbedding(features, wires=range(n)[::-1], pad_with=0.0, normalize=True)
        qml.StronglyEntanglingLayers(angles, wires=range(n))
        return [qml.expval(qml.PauliZ(q)) for q in range(n)]

    kernels = []
    for row in weights:
        # Rot(phi, theta, omega) = RZ(omega) RY(theta) RZ(phi), and
        # RY(t) = RZ(pi/2) RX(t) RZ(-pi/2): our weights are phi - pi/2, theta, omega + pi/2.
        shift = torch.tensor([math.pi / 2, 0, -math.pi / 2], dtype=row.dtype)
        angles = row.view(case.num_layers, n, 3) + shift
        kernels.append(torch.stack(circuit(pixels, angles), 1))
    return torch.cat(kernels, 1)


@pytest.mark.parametrize("case", PENNYLANE, ids=str)
def test_equals_pennylane_with_gradients(case, generator):
    layer = case.layer(generator)
    pixels = torch.randn(6, case.in_channels, generator=generator, dtype=torch.float64)
    pixels[1] = 0
    pixels[1, -1] = -2.0  # one-hot
    pixels[2, 0] = 0
    theirs = pixels.clone().requires_grad_()
    kernels = layer.weight.detach().clone().requires_grad_()
    factors = torch.randn(6, case.out_channels, generator=generator, dtype=torch.float64)
    expected = pennylane_features(case, theirs, kernels)[:, : case.out_channels]
    (expected * factors).sum().backward()

    ours = pixels.clone().requires_grad_()
    rows = maps_to_rows(layer(images_from(ours)))
    (rows * factors).sum().backward()
    torch.testing.assert_close(rows, expected, rtol=0, atol=1e-10)
    for found, wanted in ((ours.grad, theirs.grad), (layer.weight.grad, kernels.grad)):
        assert float((found - wanted).norm() / wanted.norm()) < 1e-9
        # A rounding-sized absolute part: some entries are zero in exact arithmetic.
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case", SMALL_CASES, ids=str)
def test_equals_the_stock_connector(case, generator):
    layer = case.layer(generator, torch.float32)
    # Not tiny: the stock connector squeezes 1/|x| through float32 as well.
    pixels = torch.randn(4, case.in_channels, generator=generator)
    pixels[1] = 0
    factors = torch.randn(4, layer.spec.num_features, generator=generator)

    stock = TorchConnector(
        PointwiseQNN(layer.spec), initial_weights=layer.weight.detach().flatten().numpy()
    )
    theirs = pixels.clone().requires_grad_()
    expected = stock(theirs)
    (expected * factors).sum().backward()

    ours = pixels.clone().requires_grad_()
    surplus = layer.spec.num_features - case.out_channels
    rows = maps_to_rows(layer(images_from(ours)))
    used = factors[:, : case.out_channels]
    (rows * used).sum().backward()

    torch.testing.assert_close(rows, expected[:, : case.out_channels], rtol=0, atol=1e-6)
    if surplus:  # take the cropped maps out of the stock gradients as well
        stock.zero_grad()
        theirs.grad = None
        (stock(theirs)[:, : case.out_channels] * used).sum().backward()
    for found, wanted in (
        (ours.grad, theirs.grad),
        (layer.weight.grad.flatten(), stock.weight.grad),
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=5e-6)


def test_stock_connector_without_input_gradients(generator):
    case = Case(3, 2, 2)
    layer = case.layer(generator, torch.float32)
    qnn = PointwiseQNN(layer.spec)
    qnn.input_gradients = False
    weights = layer.weight.detach().double().numpy().ravel()
    by_inputs, by_weights = qnn.backward(np.ones((2, 3)), weights)
    assert by_inputs is None
    assert by_weights.shape == (2, 2, weights.size)


def test_qnn_by_itself(generator):
    """`forward` and `backward` of the NeuralNetwork interface: batch, one sample, shapes."""
    case = Case(3, 4, 2)
    layer = case.layer(generator)
    qnn = PointwiseQNN(layer.spec)
    weights = layer.weight.detach().numpy().ravel()
    inputs = np.array([[1.0, -2.0, 0.5], [0.0, 0.0, 3.0]])
    values = qnn.forward(inputs, weights)
    rows = maps_to_rows(layer(images_from(torch.from_numpy(inputs)))).detach().numpy()
    np.testing.assert_allclose(values, rows, rtol=0, atol=1e-12)
    np.testing.assert_allclose(qnn.forward(inputs[0], weights), rows[:1], rtol=0, atol=1e-12)
    by_inputs, by_weights = qnn.backward(inputs, weights)
    assert by_inputs.shape == (2, 4, 3)
    assert by_weights.shape == (2, 4, weights.size)
    step = 1e-6
    for c in range(3):
        moved = inputs.copy()
        moved[:, c] += step
        slope = (qnn.forward(moved, weights) - values) / step
        np.testing.assert_allclose(by_inputs[:, :, c], slope, rtol=0, atol=1e-5)
