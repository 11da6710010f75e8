"""Slow, obvious versions of what the toolkit computes: Kronecker products, one pixel at a time.

Written from the paper (arXiv:2412.01241) and Qiskit's gate definitions, sharing no code with
`qpc_qiskit`. Conventions: channel i is the amplitude of basis state i, qubit 0 is the lowest bit.
Arrays are NumPy, float64 and complex128.
"""

from __future__ import annotations

import cmath
import math
from functools import cache

import numpy as np

X = np.array([[0, 1], [1, 0]], complex)
Y = np.array([[0, -1j], [1j, 0]])
Z = np.diag([1.0 + 0j, -1.0])
I2 = np.eye(2, dtype=complex)
H = np.array([[1, 1], [1, -1]], complex) / math.sqrt(2)
SX = np.array([[1 + 1j, 1 - 1j], [1 - 1j, 1 + 1j]]) / 2
P0 = np.diag([1.0 + 0j, 0])
P1 = np.diag([0, 1.0 + 0j])


def rotation(pauli, angle):
    """exp(-i angle pauli / 2), also for a Pauli string."""
    return math.cos(angle / 2) * np.eye(len(pauli)) - 1j * math.sin(angle / 2) * pauli


def u_gate(theta, phi, lam):
    return np.array(
        [
            [math.cos(theta / 2), -cmath.exp(1j * lam) * math.sin(theta / 2)],
            [
                cmath.exp(1j * phi) * math.sin(theta / 2),
                cmath.exp(1j * (phi + lam)) * math.cos(theta / 2),
            ],
        ]
    )


def on_qubits(factors, num_qubits):
    """Kronecker product of one 2x2 factor per qubit; missing qubits get the identity."""
    product = np.eye(1)
    for qubit in reversed(range(num_qubits)):  # the highest qubit is the leftmost factor
        product = np.kron(product, factors.get(qubit, I2))
    return product


@cache
def z_matrices(num_qubits):
    """Z on qubit q, for q = 0 .. n-1."""
    return [on_qubits({q: Z}, num_qubits) for q in range(num_qubits)]


def controlled(gate, controls, target, num_qubits):
    """`gate` on the target where every control is 1."""
    all_ones = on_qubits(dict.fromkeys(controls, P1), num_qubits)
    applied = on_qubits({**dict.fromkeys(controls, P1), target: gate}, num_qubits)
    return np.eye(2**num_qubits) - all_ones + applied


def gate_matrix(name, angles, qubits, num_qubits):
    """A gate of a Qiskit circuit on all qubits."""
    one_qubit = {
        "h": H,
        "x": X,
        "y": Y,
        "z": Z,
        "sx": SX,
        "s": np.diag([1, 1j]),
        "sdg": np.diag([1, -1j]),
        "t": np.diag([1, cmath.exp(0.25j * math.pi)]),
        "id": I2,
    }
    if name in one_qubit:
        return on_qubits({qubits[0]: one_qubit[name]}, num_qubits)
    if name in ("rx", "ry", "rz"):
        pauli = {"rx": X, "ry": Y, "rz": Z}[name]
        return on_qubits({qubits[0]: rotation(pauli, angles[0])}, num_qubits)
    if name == "u":
        return on_qubits({qubits[0]: u_gate(*angles)}, num_qubits)
    if name in ("cx", "cz"):
        gate = {"cx": X, "cz": Z}[name]
        return controlled(gate, [qubits[0]], qubits[1], num_qubits)
    if name == "cp":
        return controlled(
            np.diag([1, cmath.exp(1j * angles[0])]), [qubits[0]], qubits[1], num_qubits
        )
    if name == "crx":
        return controlled(rotation(X, angles[0]), [qubits[0]], qubits[1], num_qubits)
    if name == "ccx":
        return controlled(X, qubits[:2], qubits[2], num_qubits)
    if name == "rzz":
        return rotation(on_qubits(dict.fromkeys(qubits, Z), num_qubits), angles[0])
    if name == "swap":
        a, b = qubits
        paulis = [on_qubits({a: p, b: p}, num_qubits) for p in (I2, X, Y, Z)]
        return sum(paulis) / 2
    raise NotImplementedError(name)


def circuit_unitary(circuit):
    """Unitary of a Qiskit circuit whose parameters are bound, gate by gate, without its phase."""
    n = circuit.num_qubits
    unitary = np.eye(2**n, dtype=complex)
    for instruction in circuit.data:
        if instruction.operation.name == "barrier":
            continue
        qubits = [circuit.find_bit(q).index for q in instruction.qubits]
        angles = [float(p) for p in instruction.operation.params]
        unitary = gate_matrix(instruction.operation.name, angles, qubits, n) @ unitary
    return unitary


def named_unitary(name, num_qubits, num_layers, weights):
    """Unitary of a named ansatz, from its definition."""
    n = num_qubits
    per_layer = {"strongly_entangling": 3 * n, "figure1": 2 * n, "circuit_centric": 5 * n}[name]
    if name == "circuit_centric" and n == 1:
        per_layer = 4
    assert len(weights) == per_layer * num_layers
    unitary = np.eye(2**n, dtype=complex)
    for layer in range(num_layers):
        w = weights[layer * per_layer : (layer + 1) * per_layer]
        reach = 1 if n == 1 else 1 + layer % (n - 1)
        gates = []
        if name == "figure1":
            for q in range(n):
                gates.append(on_qubits({q: rotation(Z, w[2 * q + 1]) @ rotation(X, w[2 * q])}, n))
            reach = 1
        else:
            for q in range(n):
                a, b, c = w[3 * q : 3 * q + 3]
                gates.append(on_qubits({q: rotation(Z, c) @ rotation(X, b) @ rotation(Z, a)}, n))
        if name == "circuit_centric":
            rest = list(w[3 * n :])
            for q in range(n):
                if n > 1:
                    phase = np.diag([1, cmath.exp(1j * rest.pop(0))])
                    gates.append(controlled(phase, [q], (q + reach) % n, n))
                gates.append(on_qubits({q: rotation(X, rest.pop(0))}, n))
        elif n > 1:
            gates += [controlled(X, [q], (q + reach) % n, n) for q in range(n)]
        for gate in gates:
            unitary = gate @ unitary
    return unitary


def amplitudes(pixel, num_qubits, tiny=0.0):
    """|psi> of one pixel; one whose largest magnitude is below `tiny`, or zero, is |0...0>."""
    padded = np.zeros(2**num_qubits)
    padded[: len(pixel)] = pixel
    largest = max(abs(padded))
    if largest == 0 or largest < tiny:
        padded = np.eye(2**num_qubits)[0]
        largest = 1.0
    padded = padded / largest
    return padded / math.sqrt(sum(padded**2))


def expectations(state, num_qubits):
    """<Z_q> for q = 0 .. n-1."""
    return np.array([(state.conj() @ z @ state).real for z in z_matrices(num_qubits)])


def features(unitaries, pixels, tiny=0.0):
    """(N, K, n) for a list of K unitaries."""
    n = round(math.log2(len(unitaries[0])))
    result = np.zeros((len(pixels), len(unitaries), n))
    for i, pixel in enumerate(pixels):
        state = amplitudes(pixel, n, tiny)
        for k, unitary in enumerate(unitaries):
            result[i, k] = expectations(unitary @ state, n)
    return result


def case_unitaries(case, weights):
    """Unitaries of a `cases.Case` for weights (K, P)."""
    from cases import USER_CIRCUITS

    if case.ansatz in USER_CIRCUITS:
        circuit = USER_CIRCUITS[case.ansatz]()
        return [circuit_unitary(circuit.assign_parameters(list(row))) for row in weights]
    return [named_unitary(case.ansatz, case.num_qubits, case.num_layers, row) for row in weights]


def case_features(case, pixels, weights, tiny=0.0):
    """(N, K, n) of a `cases.Case`."""
    return features(case_unitaries(case, weights), pixels, tiny)


def central_differences(function, point, step=1e-5):
    """Gradient of a scalar function of an array, one entry at a time."""
    gradient = np.zeros_like(point)
    for index in np.ndindex(*point.shape):
        high, low = point.copy(), point.copy()
        high[index] += step
        low[index] -= step
        gradient[index] = (function(high) - function(low)) / (2 * step)
    return gradient
