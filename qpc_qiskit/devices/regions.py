"""Connected sets of qubits, their shapes (graphs up to isomorphism), and circuits laid on them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import rustworkx as rx
from numpy.typing import NDArray
from qiskit import QuantumCircuit

from qpc_qiskit.common.arrays import Array, Mask
from qpc_qiskit.devices.targets import Device, Qargs

Sets = NDArray[np.int64]

MAX_EMBEDDINGS = 200_000
"""Ways to lay one circuit on a device that are compared; sets with a low estimate come first."""
MAX_SYMMETRIES = 5040
"""Ways to lay a shape on one set: all of them up to seven mutually coupled qubits."""


@dataclass(frozen=True, eq=False)
class Shape:
    """A connected graph on wires 0..n-1 and the places where a device has it."""

    edges: tuple[tuple[int, int], ...]
    embeddings: Sets = field(repr=False)
    """(M, n): row by row the device's qubits that carry wires 0..n-1."""


@dataclass(frozen=True, eq=False)
class Profile:
    """What a circuit does to its wires."""

    counts: Mapping[tuple[str, Qargs], int]
    """How often each gate stands on each wires."""
    idle: Array
    """(n,) seconds between a wire's first gate and the readout in which nothing happens to it."""


def connected_sets(
    coupled: Mask, usable: Mask, size: int, width: int, loss: Callable[[Sets], Array]
) -> Sets:
    """Connected sets of qubits, grown one qubit at a time.

    Args:
        coupled: (N, N), symmetric.
        usable: (N,).
        size: qubits in a set.
        width: sets kept after each step. While there are no more than these, all are found.
        loss: (S, k) sets -> (S,) what to minimise when there are more.

    Returns:
        (S, size), each row sorted, S <= width; rows by increasing loss, then by qubits.
    """
    sets = np.flatnonzero(usable)[:, None]
    while sets.shape[1] < size:
        inside = np.zeros((len(sets), len(usable)), bool)
        np.put_along_axis(inside, sets, True, axis=1)
        which, new = np.nonzero(coupled[sets].any(axis=1) & ~inside)
        grown = np.sort(np.column_stack([sets[which], new]), axis=1)
        grown = np.unique(grown, axis=0)
        sets = grown if len(grown) <= width else best_first(grown, loss(grown))[:width]
    return best_first(sets, loss(sets))[:width]


def best_first(sets: Sets, losses: Array) -> Sets:
    """Sets by increasing loss, equals in the order they have."""
    # Rounded, so that sums in another order do not decide.
    return sets[np.argsort(np.round(losses, 12), kind="stable")]


def ranks_by_qubit(sets: Sets, losses: Array) -> Array:
    """The rank of each set among those with one of its qubits, for the qubit that suits it best.

    The first sets in this order are the best one of every qubit, then come the second best ones: a
    part of them still covers the whole device.

    Args:
        sets: (S, k).
        losses: (S,).

    Returns:
        (S,), all different: ties go to the lower loss.
    """
    count, size = sets.shape
    overall = np.empty(count, np.int64)
    overall[np.argsort(np.round(losses, 12), kind="stable")] = np.arange(count)
    qubits, position = sets.ravel(), np.repeat(overall, size)
    order = np.lexsort((position, qubits))
    ordered = qubits[order]
    ranks = np.empty(count * size)
    ranks[order] = np.arange(count * size) - np.searchsorted(ordered, ordered)
    return ranks.reshape(count, size).min(1) + overall / max(count, 1)


def estimated_loss(device: Device, sets: Sets, num_two_qubit_gates: int) -> Array:
    """Loss of a circuit on each set, before it is transpiled.

    Routing is guessed from the mean distance d within the set: 1.5 (d - 1) further gates for each
    gate. On stars, paths and T shapes of 4 to 6 qubits that is within a quarter of what the
    transpiler finds, and in the same order.

    Args:
        device: what gates cost.
        sets: (S, k) connected sets.
        num_two_qubit_gates: of the circuit before routing.

    Returns:
        (S,).
    """
    count, size = sets.shape
    loss = device.losses["measure"][sets].sum(1) if "measure" in device.losses else np.zeros(count)
    if size == 1:
        return loss
    rows, columns = sets[:, :, None], sets[:, None, :]
    inner = device.coupled[rows, columns]
    couplers = [n for n in device.gates if device.losses[n].ndim == 2]
    if not couplers:  # then no two qubits are connected
        return loss
    each = np.minimum.reduce([device.losses[n] for n in couplers])
    per_gate = (each[rows, columns] * inner).sum((1, 2)) / inner.sum((1, 2))
    seconds = max((device.durations.get(n, 0.0) for n in couplers), default=0.0)
    per_gate += device.decay[sets].mean(1) * seconds * max(size - 2, 0)
    return loss + num_two_qubit_gates * (1 + 1.5 * (_mean_distance(inner) - 1)) * per_gate


def _mean_distance(inner: Mask) -> Array:
    """(S,) mean distance between different nodes of (S, k, k) connected graphs."""
    size = inner.shape[1]
    reached = np.broadcast_to(np.eye(size, dtype=bool), inner.shape)
    steps = (inner | reached).astype(np.float32)
    total = np.zeros(len(inner))
    for _ in range(size - 1):  # a pair at distance d is unreached d times
        total += (~reached).sum((1, 2))
        reached = reached.astype(np.float32) @ steps > 0
    return total / (size * (size - 1))


def group_by_shape(device: Device, sets: Sets) -> list[Shape]:
    """The shapes of some sets, in the order of their first sets.

    Args:
        device: the couplings.
        sets: (S, n) connected sets, S > 0, best first.
    """
    inner = device.coupled[sets[:, :, None], sets[:, None, :]]
    # Most sets have the same labelled graph as another: isomorphisms are looked for once for each.
    packed = np.packbits(inner.reshape(len(sets), -1), axis=1)
    _, first, which = np.unique(packed, axis=0, return_index=True, return_inverse=True)
    which = which.reshape(-1)
    found: dict[tuple[int, ...], list[tuple[rx.PyGraph, list[int]]]] = {}
    shapes: list[tuple[rx.PyGraph, list[int]]] = []
    for label in np.argsort(first, kind="stable"):
        graph = _graph(inner[first[label]])
        alike = found.setdefault(tuple(sorted(inner[first[label]].sum(0).tolist())), [])
        for shape, labels in alike:
            if rx.is_isomorphic(shape, graph):
                labels.append(int(label))
                break
        else:
            alike.append((graph, [int(label)]))
            shapes.append(alike[-1])
    members = [np.flatnonzero(np.isin(which, labels)) for _, labels in shapes]
    return [
        Shape(
            tuple((int(a), int(b)) for a, b in graph.edge_list()),
            _embeddings(graph, sets[rows], inner[rows], which[rows]),
        )
        for (graph, _), rows in zip(shapes, members, strict=True)
    ]


def _embeddings(shape: rx.PyGraph, sets: Sets, inner: Mask, labels: NDArray[np.int64]) -> Sets:
    """(M, n): every way to lay the shape's wires on the sets, in the order of the sets."""
    ways: dict[int, Sets] = {}
    rows: list[Sets] = []
    for qubits, graph, label in zip(sets, inner, labels.tolist(), strict=True):
        if label not in ways:
            mappings = rx.graph_vf2_mapping(shape, _graph(graph), subgraph=False)
            first = itertools.islice(mappings, MAX_SYMMETRIES)
            ways[label] = np.array([[m[w] for w in range(len(qubits))] for m in first])
        rows.append(qubits[ways[label]])
        if len(rows) * len(rows[0]) >= MAX_EMBEDDINGS:
            break
    return np.concatenate(rows)


def spanning_embeddings(
    device: Device, sets: Sets, edges: Iterable[tuple[int, int]]
) -> tuple[Sets, NDArray[np.int64]]:
    """Ways to lay wires on sets whose couplings include some edges, and may be more.

    Args:
        device: the couplings.
        sets: (S, n), S > 0.
        edges: pairs of the wires 0..n-1 that need a coupling.

    Returns:
        (M, n) as `Shape.embeddings`, but of every set no more than its share of `MAX_EMBEDDINGS`;
        and (M,) the index of the set.
    """
    count, size = sets.shape
    wanted = rx.PyGraph()
    wanted.add_nodes_from(range(size))
    wanted.add_edges_from_no_data(sorted(edges))
    share = min(max(MAX_EMBEDDINGS // count, 1), MAX_SYMMETRIES)
    inner = device.coupled[sets[:, :, None], sets[:, None, :]]
    packed = np.packbits(inner.reshape(count, -1), axis=1)
    _, first, which = np.unique(packed, axis=0, return_index=True, return_inverse=True)
    which = which.reshape(-1)
    embeddings, index = [np.empty((0, size), np.int64)], [np.empty(0, np.int64)]
    for label, example in enumerate(first):
        mappings = rx.graph_vf2_mapping(
            _graph(inner[example]), wanted, subgraph=True, induced=False
        )
        ways = [sorted(m, key=m.__getitem__) for m in itertools.islice(mappings, share)]
        if ways:
            members = np.flatnonzero(which == label)
            embeddings.append(sets[members][:, np.array(ways)].reshape(-1, size))
            index.append(np.repeat(members, len(ways)))
    return np.concatenate(embeddings), np.concatenate(index)


def _graph(adjacent: Mask) -> rx.PyGraph:
    graph = rx.PyGraph()
    graph.add_nodes_from(range(len(adjacent)))
    graph.add_edges_from_no_data([(a, b) for a, b in np.argwhere(np.triu(adjacent)).tolist()])
    return graph


def profile(circuit: QuantumCircuit, durations: Mapping[str, float]) -> Profile:
    """Gate counts and idle times of a circuit on its wires.

    Args:
        circuit: one- and two-qubit gates.
        durations: name -> seconds; gates without one take no time.
    """
    gates = list(gates_of(circuit))
    start = np.full(circuit.num_qubits, np.inf)
    end, busy = np.zeros(circuit.num_qubits), np.zeros(circuit.num_qubits)
    for name, wires in gates:  # as soon as possible
        on = list(wires)
        begin, seconds = end[on].max(), durations.get(name, 0.0)
        start[on] = np.minimum(start[on], begin)
        end[on] = begin + seconds
        busy[on] += seconds
    # An idle qubit in |0>, before its first gate, loses nothing.
    idle = np.where(np.isfinite(start), end.max(initial=0.0) - start - busy, 0.0)
    return Profile(Counter(gates), idle)


def gates_of(circuit: QuantumCircuit) -> Iterator[tuple[str, Qargs]]:
    """Name and wires of every instruction but barriers."""
    wire = {qubit: i for i, qubit in enumerate(circuit.qubits)}
    for instruction in circuit.data:
        if instruction.operation.name != "barrier":
            yield instruction.operation.name, tuple(wire[q] for q in instruction.qubits)


def predicted_losses(device: Device, circuit: Profile, embeddings: Sets) -> Array:
    """-log of the predicted fidelity of a circuit for each way to lay it on a device.

    The fidelity is the product of those of its gates, of the readout of every wire, and of idling.

    Args:
        device: what gates cost.
        circuit: n wires.
        embeddings: (M, n).

    Returns:
        (M,).
    """
    loss = (device.decay[embeddings] * circuit.idle).sum(1)
    if "measure" in device.losses:
        loss += device.losses["measure"][embeddings].sum(1)
    for (name, wires), count in circuit.counts.items():
        if name in device.losses:
            loss += count * device.losses[name][tuple(embeddings[:, w] for w in wires)]
    return loss
