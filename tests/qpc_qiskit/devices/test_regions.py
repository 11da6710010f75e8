"""Connected sets, their shapes, and what a circuit loses on them, against slow obvious versions."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qiskit import QuantumCircuit
from qiskit.circuit.library import CZGate, Measure, SXGate
from qiskit.circuit.library.standard_gates import get_standard_gate_name_mapping
from qiskit.providers import QubitProperties
from qiskit.transpiler import InstructionProperties, Target

from qpc_qiskit.devices import regions
from qpc_qiskit.devices.targets import read_device


def make_target(edges, size, rng=None):
    """cz on some edges, both directions, with random errors, durations and decay times."""

    def told(scale):
        if rng is None:
            return None
        return InstructionProperties(error=rng.uniform(0, 0.1), duration=scale * 1e-8)

    target = Target(
        num_qubits=size,
        qubit_properties=None
        if rng is None
        else [QubitProperties(*rng.uniform(1e-5, 1e-4, 2)) for _ in range(size)],
    )
    target.add_instruction(
        get_standard_gate_name_mapping()["rz"], {(q,): None for q in range(size)}
    )
    target.add_instruction(SXGate(), {(q,): told(3) for q in range(size)})
    target.add_instruction(CZGate(), {e: told(7) for a, b in edges for e in ((a, b), (b, a))})
    target.add_instruction(Measure(), {(q,): told(100) for q in range(size)})
    return target


def make_device(edges, size, rng=None):
    return read_device(make_target(edges, size, rng), size)


@st.composite
def graphs(draw, max_size=7):
    size = draw(st.integers(1, max_size))
    pairs = list(itertools.combinations(range(size), 2))
    edges = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    return size, edges


def is_connected(nodes, edges):
    reached, grew = {nodes[0]}, True
    while grew:
        new = {b for e in edges for a, b in (e, e[::-1]) if a in reached and b in nodes} - reached
        reached, grew = reached | new, bool(new)
    return reached == set(nodes)


def no_loss(sets):
    return np.zeros(len(sets))


@given(graphs(), st.integers(1, 5))
def test_connected_sets_are_all_of_them(graph, n):
    size, edges = graph
    device = make_device(edges, size)
    found = regions.connected_sets(device.coupled, device.usable, n, 10_000, no_loss)
    expected = [s for s in itertools.combinations(range(size), n) if is_connected(s, edges)]
    assert [tuple(s) for s in found.tolist()] == expected


def test_connected_sets_keep_the_best_of_a_dense_graph(rng):
    size, worth = 12, rng.normal(size=12)
    device = make_device(list(itertools.combinations(range(size), 2)), size)
    found = regions.connected_sets(
        device.coupled, device.usable, 4, 50, lambda sets: worth[sets].sum(1)
    )
    every = np.array(list(itertools.combinations(range(size), 4)))
    best = every[np.argsort(worth[every].sum(1))]
    assert len(found) == 50
    # With such a loss the best set of k + 1 contains the best set of k.
    np.testing.assert_array_equal(found[0], best[0])


def test_connected_sets_are_found_only_among_usable_qubits():
    device = make_device([(0, 1), (1, 2), (2, 3)], 4)
    usable = np.array([True, True, False, True])
    coupled = device.coupled & usable & usable[:, None]
    found = regions.connected_sets(coupled, usable, 2, 9, no_loss)
    assert found.tolist() == [[0, 1]]
    assert regions.connected_sets(coupled, usable, 3, 9, no_loss).shape == (0, 3)


@given(graphs(6), st.integers(2, 5))
def test_embeddings_are_all_isomorphisms(graph, n):
    size, edges = graph
    device = make_device(edges, size)
    sets = regions.connected_sets(device.coupled, device.usable, n, 10_000, no_loss)
    if not len(sets):
        return
    shapes = regions.group_by_shape(device, sets)
    placed = {tuple(sorted(e)) for shape in shapes for e in shape.embeddings.tolist()}
    assert placed == {tuple(s) for s in sets.tolist()}
    for shape in shapes:
        wanted = {frozenset(e) for e in shape.edges}
        expected = set()
        for nodes in sets.tolist():
            for way in itertools.permutations(nodes):
                pairs = itertools.combinations(range(n), 2)
                coupled = {frozenset(p) for p in pairs if device.coupled[way[p[0]], way[p[1]]]}
                if coupled == wanted:
                    expected.add(way)
        found = [tuple(e) for e in shape.embeddings.tolist()]
        assert set(found) == expected
        assert len(found) == len(expected)
    assert [s.embeddings.shape[1] for s in shapes] == [n] * len(shapes)


def test_embeddings_are_capped(monkeypatch):
    device = make_device(list(itertools.combinations(range(8), 2)), 8)
    sets = np.array(list(itertools.combinations(range(8), 5)))
    monkeypatch.setattr(regions, "MAX_SYMMETRIES", 20)
    monkeypatch.setattr(regions, "MAX_EMBEDDINGS", 100)
    (shape,) = regions.group_by_shape(device, sets)
    assert shape.embeddings.shape == (100, 5)


@given(graphs())
def test_mean_distance(graph):
    size, edges = graph
    if size < 2 or not is_connected(tuple(range(size)), edges):
        return
    steps = np.full((size, size), np.inf)
    np.fill_diagonal(steps, 0)
    for a, b in edges:
        steps[a, b] = steps[b, a] = 1
    for k in range(size):  # Floyd and Warshall
        steps = np.minimum(steps, steps[:, k, None] + steps[k])
    device = make_device(edges, size)
    expected = steps.sum() / (size * (size - 1))
    assert regions._mean_distance(device.coupled[None])[0] == pytest.approx(expected)


def test_estimate_prefers_better_qubits_and_shapes(rng):
    star, path = np.array([[0, 1, 2, 3]]), np.array([[4, 5, 6, 7]])
    device = make_device([(0, 1), (0, 2), (0, 3), (4, 5), (5, 6), (6, 7)], 8)
    for losses in device.losses.values():
        losses[...] = 0.01
    both = regions.estimated_loss(device, np.concatenate([star, path]), 23)
    assert both[0] < both[1]
    device.losses["measure"][0] = 0.5
    assert regions.estimated_loss(device, star, 23)[0] == pytest.approx(both[0] + 0.49)
    single = regions.estimated_loss(device, np.array([[0], [1]]), 0)
    np.testing.assert_allclose(single, [0.5, 0.01])


def example_circuit():
    circuit = QuantumCircuit(3)
    circuit.sx(0)
    circuit.sx(0)
    circuit.cz(0, 1)
    circuit.barrier()
    circuit.rz(0.1, 1)
    circuit.cz(2, 1)
    circuit.sx(0)
    return circuit


def test_profile_by_hand():
    profile = regions.profile(example_circuit(), {"sx": 2.0, "cz": 5.0})
    assert dict(profile.counts) == {
        ("sx", (0,)): 3,
        ("cz", (0, 1)): 1,
        ("rz", (1,)): 1,
        ("cz", (2, 1)): 1,
    }
    # Wire 0: sx 0-2, sx 2-4, cz 4-9, sx 9-11; wire 1: cz 4-9, cz 9-14; wire 2: cz 9-14.
    np.testing.assert_allclose(profile.idle, [3, 0, 0])
    np.testing.assert_allclose(regions.profile(QuantumCircuit(2), {}).idle, [0, 0])


def test_predicted_losses_are_products_of_fidelities(rng):
    edges = [(0, 1), (1, 2), (2, 3)]
    target = make_target(edges, 4, rng)
    device = read_device(target, 4)
    profile = regions.profile(example_circuit(), device.durations)
    embeddings = np.array([[0, 1, 2], [3, 2, 1], [1, 2, 3]])
    for found, q in zip(
        np.exp(-regions.predicted_losses(device, profile, embeddings)), embeddings, strict=True
    ):
        places = {"sx": [(q[0],)] * 3, "cz": [(q[0], q[1]), (q[2], q[1])]}
        places["measure"] = [(w,) for w in q]
        fidelity = math.prod(1 - target[name][at].error for name in places for at in places[name])
        for wire, idle in zip(q, profile.idle, strict=True):
            told = target.qubit_properties[wire]
            fidelity *= math.exp(-idle * (1 / (6 * told.t1) + 1 / (3 * told.t2)))
        assert found == pytest.approx(fidelity)
    assert profile.idle[0] == pytest.approx(4e-8)
