"""Textbook channels and a density-matrix simulation from the formulas: slow and obvious."""

import numpy as np
from qiskit.circuit.library.standard_gates import get_standard_gate_name_mapping

I2 = np.eye(2)
X = np.array([[0, 1], [1, 0]])
Y = np.array([[0, -1j], [1j, 0]])
Z = np.diag([1, -1])
ZZ = np.diag([1, -1, -1, 1])
LOWER = np.array([[0, 1], [0, 0]])  # |0><1|


def bit_flip(p):
    return [np.sqrt(1 - p) * I2, np.sqrt(p) * X]


def phase_flip(p):
    return [np.sqrt(1 - p) * I2, np.sqrt(p) * Z]


def depolarizing(p):
    """(1 - p) rho + p I/2, for I/2 = (rho + X rho X + Y rho Y + Z rho Z) / 4."""
    return [np.sqrt(1 - 3 * p / 4) * I2, *(np.sqrt(p / 4) * s for s in (X, Y, Z))]


def depolarizing_2(p):
    """(1 - p) rho + p I/4, likewise."""
    found = [np.sqrt(p / 16) * np.kron(a, b) for a in (I2, X, Y, Z) for b in (I2, X, Y, Z)]
    return [np.sqrt(1 - 15 * p / 16) * np.eye(4), *found[1:]]


def amplitude_damping(gamma, excited=0.0):
    keep = np.sqrt(1 - gamma)
    down = [np.diag([1, keep]), np.sqrt(gamma) * LOWER]
    up = [np.diag([keep, 1]), np.sqrt(gamma) * LOWER.T]
    return [np.sqrt(1 - excited) * k for k in down] + [np.sqrt(excited) * k for k in up]


def phase_damping(gamma):
    return [np.diag([1, np.sqrt(1 - gamma)]), np.diag([0, np.sqrt(gamma)])]


def thermal_relaxation(t1, t2, time, excited=0.0):
    """Damping by 1 - exp(-t/T1), then what is missing of exp(-t/T2) for the coherences."""
    gamma = 1 - np.exp(-time / t1)
    left = np.exp(-time / t2) / np.sqrt(1 - gamma)
    return product(phase_damping(1 - left**2), amplitude_damping(gamma, excited))


def rotation(pauli, angle):
    size = len(pauli)
    return [np.cos(angle / 2) * np.eye(size) - 1j * np.sin(angle / 2) * pauli]


def product(first, then):
    """Kraus operators of one channel after another."""
    return [b @ a for a in first for b in then]


def on_both(kraus):
    """Of two qubits, each of which has the channel."""
    return [np.kron(a, b) for a in kraus for b in kraus]


def superoperator(kraus):
    """On density matrices whose columns are stacked, as Qiskit's `SuperOp`."""
    return sum(np.kron(k.conj(), k) for k in kraus)


def average_fidelity(kraus):
    d = len(kraus[0])
    return (sum(abs(np.trace(k)) ** 2 for k in kraus) + d) / (d * (d + 1))


def embedded(matrix, qubits, num_qubits):
    """A matrix whose lowest bit is `qubits[0]`, on all qubits."""
    size = 2**num_qubits
    result = np.zeros((size, size), complex)
    mask = sum(1 << q for q in qubits)
    for column in range(size):
        small = sum(((column >> q) & 1) << i for i, q in enumerate(qubits))
        for row in range(len(matrix)):
            spread = sum(((row >> i) & 1) << q for i, q in enumerate(qubits))
            result[(column & ~mask) | spread, column] += matrix[row, small]
    return result


def density_matrix(circuit, noise_after):
    """The state after a bound circuit from |0...0>.

    `noise_after(index, stage, name, qubits)` lists (Kraus operators, qubits) after instruction
    `index`; `stage` is encoder before the labelled barrier, and ansatz behind it. Labelled
    identities of crosstalk count as no instructions.
    """
    n = circuit.num_qubits
    rho = np.zeros((2**n, 2**n), complex)
    rho[0, 0] = 1
    gates = get_standard_gate_name_mapping()
    stage = "encoder"
    index = 0
    for instruction in circuit.data:
        operation = instruction.operation
        qubits = [circuit.find_bit(q).index for q in instruction.qubits]
        if operation.name == "barrier":
            stage = "ansatz"
            continue
        if operation.name == "rzz":
            continue
        kind = type(gates[operation.name])
        rho = applied([kind(*map(float, operation.params)).to_matrix()], qubits, rho, n)
        for kraus, where in noise_after(index, stage, operation.name, qubits):
            rho = applied(kraus, where, rho, n)
        index += 1
    return rho


def applied(kraus, qubits, rho, num_qubits):
    wide = [embedded(k, qubits, num_qubits) for k in kraus]
    return sum(k @ rho @ k.conj().T for k in wide)


def z_values(rho, confusions=None):
    """<Z_q> of all qubits, where q reports outcome t as r with confusions[q][t, r]."""
    n = len(rho).bit_length() - 1
    found = []
    for q in range(n):
        one = sum(rho[i, i].real for i in range(len(rho)) if i >> q & 1)
        outcomes = np.array([1 - one, one])
        if confusions is not None:
            outcomes = outcomes @ confusions[q]
        found.append(outcomes[0] - outcomes[1])
    return np.array(found)
