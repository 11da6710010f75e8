import numpy as np
import pytest
from noisy_circuits import CHANNELS
from qiskit.circuit.library import CZGate

from qpc_qiskit.pauli import blocks, steps
from qpc_qiskit.pauli.channels import instruction_matrix, rotation_matrix, transfer_matrix
from qpc_qiskit.pauli.program import Constant, Rotation

CZ = instruction_matrix(CZGate())


def embedded(matrix, qubits, num_qubits):
    """A local transfer matrix on all strings, entry by entry."""
    size = 4**num_qubits
    found = np.zeros((size, size))
    local = [sum((p >> 2 * q & 3) << 2 * j for j, q in enumerate(qubits)) for p in range(size)]
    rest = [p & ~sum(3 << 2 * q for q in qubits) for p in range(size)]
    for i in range(size):
        for j in range(size):
            if rest[i] == rest[j]:
                found[i, j] = matrix[local[i], local[j]]
    return found


def dense_state(operations, angles, num_qubits):
    state = np.ones(1)
    for _ in range(num_qubits):
        state = np.kron([1, 0, 0, 1], state)
    for op in operations:
        matrix = (
            op.matrix if isinstance(op, Constant) else rotation_matrix(op.pauli, angles[op.angle])
        )
        state = embedded(matrix, op.qubits, num_qubits) @ state
    return state


def stage_state(stage, angles, num_qubits):
    state = np.ones(len(stage.first))
    for step in stage.steps:
        state = step.matrix @ state
        h = step.num_pairs
        if h:
            c, s = np.cos(angles[step.angle]), np.sin(angles[step.angle])
            u, w = state[:h].copy(), state[h : 2 * h].copy()
            state[:h], state[h : 2 * h] = c * u + s * w, c * w - s * u
    found = np.zeros(4**num_qubits)
    found[stage.last] = stage.closing @ state
    return found


def random_operations(rng, kind, num_qubits=3, count=14):
    operations = []
    for j in range(count):
        a, b = map(int, rng.permutation(num_qubits)[:2])
        operations += [
            Rotation((a,), (int(rng.integers(1, 4)),), j),
            Constant((a,), transfer_matrix(CHANNELS[kind](rng, 1))),
            Constant((a, b), transfer_matrix(CHANNELS[kind](rng, 2)) @ CZ),
            Rotation((b, a), (3, int(rng.integers(1, 4))), j),
        ]
    return operations, rng.uniform(-4, 4, count)


@pytest.mark.parametrize("kind", ["pauli", "thermal", "kraus"])
def test_steps_do_what_the_operations_do(kind, rng):
    operations, angles = random_operations(rng, kind)
    stage = steps.make_stage(operations, touch_all=3)
    expected = dense_state(operations, angles, 3)
    np.testing.assert_allclose(stage_state(stage, angles, 3), expected, rtol=0, atol=1e-12)


def test_a_stage_goes_on_from_another(rng):
    operations, angles = random_operations(rng, "thermal", count=4)
    first = steps.make_stage(operations[:7], closes=False)
    assert first.closing.nnz == first.num_rows == len(first.last)
    second = steps.make_stage(operations[7:], first.last, first.touched, touch_all=3)
    state = np.zeros(64)
    state[first.last] = stage_state(first, angles, 3)[first.last]
    untouched = set(range(3)) - first.touched
    assert not any(p >> 2 * q & 3 for p in first.last for q in untouched)
    expected = dense_state(operations, angles, 3)
    joined = steps.make_stage(operations, touch_all=3)
    assert set(second.last) == set(joined.last)
    np.testing.assert_allclose(stage_state(joined, angles, 3), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_qubits", [1, 2, 4])
def test_real_channels_reach_an_even_number_of_y(num_qubits, rng):
    def prefix(kind):
        for q in range(num_qubits):
            yield Rotation((q,), (2,), q)
            yield Constant((q,), transfer_matrix(CHANNELS[kind](rng, 1)))
            if q:
                yield Constant((q - 1, q), CZ)
                yield Rotation((q - 1,), (2,), num_qubits + q)
                yield Rotation((q,), (2,), num_qubits + q)
                yield Constant((q, 0), CZ)

    kind = "thermal" if num_qubits > 1 else "damping"
    even = steps.make_stage(list(prefix(kind)), touch_all=num_qubits)
    digits = [[p >> 2 * q & 3 for q in range(num_qubits)] for p in even.last]
    assert all(row.count(2) % 2 == 0 for row in digits)
    whole = steps.make_stage(list(prefix("coherent")), touch_all=num_qubits)
    assert len(whole.last) > len(even.last)


@pytest.mark.parametrize("block_rows", [1, 8, 1000])
def test_blocks_hold_every_row_once(block_rows, rng):
    operations, _ = random_operations(rng, "pauli")
    stage = steps.make_stage(operations, touch_all=3)
    segments = list(blocks._segments(stage, block_rows))
    assert sum(map(len, segments)) == len(stage.steps)
    for segment in segments:
        parts = list(blocks._blocks(segment, block_rows))
        for j, step in enumerate(segment):
            rows = np.concatenate([part[j + 1] for part in parts])
            assert sorted(rows) == list(range(step.matrix.shape[0]))
            for part in parts:
                entries = step.matrix[part[j + 1]].tocoo()
                assert set(entries.col) <= set(part[j])
    tables = blocks.make_tables(stage, block_rows)
    assert tables.kept_rows == sum(int(s[0].matrix.shape[1]) for s in segments)
