"""Patches: one circuit, transpiled once, on the few qubits of a backend that suit it best.

A patch is an ordered set of n connected qubits. How many gates a circuit needs depends on the shape
of its wires: so it is transpiled onto the shapes that connected sets of qubits of the device have,
and laid on every place where the device has that shape, in every way. The prediction of
`regions.predicted_losses` decides.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from qiskit import QuantumCircuit
from qiskit.exceptions import QiskitError
from qiskit.quantum_info import SparsePauliOp
from qiskit.transpiler import Target, generate_preset_pass_manager

from qpc_qiskit.common.arrays import Array
from qpc_qiskit.devices import placement_cache, regions
from qpc_qiskit.devices.isa import check_isa, is_isa
from qpc_qiskit.devices.regions import Sets, Shape
from qpc_qiskit.devices.targets import (
    BROKEN,
    Device,
    Qargs,
    read_device,
    restrict_target,
    shape_target,
)
from qpc_qiskit.errors import BackendError

SEEDS = tuple(range(16))
"""Of the transpiler; the best result is taken."""
SHAPES = 12
"""Transpiled with the first seeds."""
FIRST_SEEDS = 3
"""Tried on every shape."""
FINALISTS = 3
"""Shapes transpiled with all seeds."""
NEARLY = 1.05
"""Losses within this factor of the best count as equal."""
VERSION = 2
"""Of this algorithm: older placements in a cache are not used."""
_SETS = 4000  # heavy-hex devices of 156 qubits have 1500 connected sets of seven


@dataclass(frozen=True)
class Patch:
    """An ordered set of connected qubits of a backend."""

    qubits: tuple[int, ...]
    """`qubits[i]` is the backend's qubit that carries wire i."""
    fidelity: float
    """Predicted for the placed circuit: product of gate, idle and readout fidelities."""


@dataclass(frozen=True, eq=False)
class Placement:
    """A circuit that is ready to run on a patch."""

    circuit: QuantumCircuit = field(repr=False)
    """On n wires, valid for `restrict_target(target, patch.qubits)`; the template's parameters."""
    final: tuple[int, ...]
    """Qubit q of the template ends on wire `final[q]`."""
    patch: Patch

    @property
    def num_two_qubit_gates(self) -> int:
        """Of the placed circuit."""
        return int(self.circuit.num_nonlocal_gates())

    @property
    def two_qubit_depth(self) -> int:
        """Layers of two-qubit gates."""
        return _two_qubit_depth(self.circuit)

    @property
    def layout(self) -> tuple[int, ...]:
        """Qubit q of the template ends on qubit `layout[q]` of the backend."""
        return tuple(self.patch.qubits[wire] for wire in self.final)


def place(
    circuit: QuantumCircuit,
    target: Target,
    *,
    seeds: Sequence[int] = SEEDS,
    bad_qubits: Iterable[int] = (),
    bad_edges: Iterable[Qargs] = (),
    qubits: Sequence[int] | None = None,
    cache: Path | None = None,
) -> Placement:
    """Transpile a circuit onto the qubits of a backend where it is expected to run best.

    The same arguments give the same placement.

    Args:
        circuit: the template, on n qubits, without measurements.
        target: the backend's.
        seeds: of the transpiler, at least one.
        bad_qubits: never used.
        bad_edges: pairs of qubits between which no gate is used.
        qubits: the only n qubits to use, in any order. By default they are chosen.
        cache: folder with earlier placements, see `placement_cache.cache_folder`.

    Raises:
        BackendError: the backend has no such qubits, or its gates cannot express the circuit.
    """
    if not len(seeds):
        raise ValueError("Expected at least one seed of the transpiler; got none.")
    bad_qubits = sorted({int(q) for q in bad_qubits})
    bad_edges = sorted({(int(min(edge)), int(max(edge))) for edge in bad_edges})
    chosen = None if qubits is None else sorted(int(q) for q in qubits)
    if cache is None:
        return _place(circuit, target, seeds, bad_qubits, bad_edges, chosen)
    arguments = [VERSION, [int(seed) for seed in seeds], bad_qubits, bad_edges, chosen]
    key = placement_cache.key(circuit, target, arguments)
    found = placement_cache.load(cache, key, circuit)
    if found is not None:
        stored, data = found
        with suppress(KeyError, TypeError):  # another kind of entry is none
            patch = Patch(tuple(data["qubits"]), data["fidelity"])
            return Placement(stored, tuple(data["final"]), patch)
    placement = _place(circuit, target, seeds, bad_qubits, bad_edges, chosen)
    patch = placement.patch
    data = {"qubits": patch.qubits, "fidelity": patch.fidelity, "final": placement.final}
    placement_cache.store(cache, key, placement.circuit, data)
    return placement


def embed(circuit: QuantumCircuit, qubits: Sequence[int], num_qubits: int) -> QuantumCircuit:
    """A circuit on some qubits of a wider one.

    Args:
        circuit: on n wires.
        qubits: wire i goes to qubit `qubits[i]`.
        num_qubits: width of the result.
    """
    wide = QuantumCircuit(num_qubits, name=circuit.name)
    wide.compose(circuit, qubits, inplace=True)
    return wide


def embed_observables(
    observables: Sequence[SparsePauliOp], layout: Sequence[int], num_qubits: int
) -> list[SparsePauliOp]:
    """Observables of the template for a placed or embedded circuit.

    Args:
        observables: on the template's qubits.
        layout: `Placement.final` for the placed circuit, `Placement.layout` for the embedded one.
        num_qubits: width of that circuit.
    """
    return [observable.apply_layout(list(layout), num_qubits) for observable in observables]


def _place(
    circuit: QuantumCircuit,
    target: Target,
    seeds: Sequence[int],
    bad_qubits: Sequence[int],
    bad_edges: Sequence[Qargs],
    qubits: Sequence[int] | None,
) -> Placement:
    device = read_device(target, circuit.num_qubits, bad_qubits, bad_edges)
    sets = candidate_sets(circuit, device) if qubits is None else _chosen(circuit, device, qubits)
    shapes = regions.group_by_shape(device, sets)[:SHAPES]
    tried = sorted(
        (on_shape(circuit, device, shape, seeds[:FIRST_SEEDS]) for shape in shapes), key=_rank
    )
    further = seeds[FIRST_SEEDS:]
    finalists = [found.shape for found in tried[:FINALISTS]] if further else []
    tried += [on_shape(circuit, device, shape, further) for shape in finalists]
    return finished(_best(tried), device, circuit.name)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A circuit on a shape, and the best place for it."""

    circuit: QuantumCircuit
    """In the device's common gates, on the shape's wires."""
    final: tuple[int, ...]
    """See `Placement`."""
    shape: Shape
    qubits: tuple[int, ...]
    """The best place: `qubits[i]` carries wire i."""
    loss: float
    """Predicted there."""

    @functools.cached_property
    def cost(self) -> tuple[int, int, int]:
        """`cost` of the circuit: kept, since it takes as long as the rest of a comparison."""
        return cost(self.circuit)


def candidate_sets(
    circuit: QuantumCircuit, device: Device, width: int = _SETS, *, spread: bool = False
) -> Sets:
    """Connected sets of usable qubits, those with the lowest estimated loss first.

    Args:
        circuit: n qubits.
        device: where to look.
        width: sets kept where there are more.
        spread: keep the best ones of every qubit, rather than the best of all.

    Raises:
        BackendError: there are none.
    """
    size = circuit.num_qubits
    if device.num_qubits < size:
        raise BackendError(
            f"The circuit has {size} qubits; the backend has {device.num_qubits}. "
            "Use a larger backend, or a layer with fewer channels."
        )
    gates = circuit.num_nonlocal_gates()

    def loss(sets: Sets) -> Array:
        return regions.estimated_loss(device, sets, gates)

    def by_qubit(sets: Sets) -> Array:
        return regions.ranks_by_qubit(sets, loss(sets))

    order = by_qubit if spread else loss
    sets = regions.connected_sets(device.coupled, device.usable, size, width, order)
    if not len(sets):
        raise BackendError(
            f"The backend has no {size} connected healthy qubits: {int(device.usable.sum())} of "
            f"its {device.num_qubits} qubits and {int(device.coupled.sum()) // 2} couplings "
            f"between them work (an error of {BROKEN} or more, or a fault that the backend tells, "
            "rules one out). Use another backend, or wait for its next calibration."
        )
    return regions.best_first(sets, loss(sets)) if spread else sets


def _chosen(circuit: QuantumCircuit, device: Device, qubits: Sequence[int]) -> Sets:
    """The caller's qubits as the only set."""
    size = circuit.num_qubits
    if len(set(qubits)) != len(qubits) or len(qubits) != size:
        raise BackendError(f"Expected {size} different qubits, one per wire; got {list(qubits)}.")
    if not all(0 <= q < device.num_qubits for q in qubits):
        raise BackendError(
            f"Qubits {list(qubits)} are not all on the backend, which has 0 to "
            f"{device.num_qubits - 1}."
        )
    if unusable := [q for q in qubits if not device.usable[q]]:
        raise BackendError(
            f"Of the chosen qubits {list(qubits)} the backend tells that {unusable} do not work: a "
            f"fault, or an error of {BROKEN} or more. Choose others, or let them be chosen."
        )
    usable = np.zeros_like(device.usable)
    usable[list(qubits)] = True
    sets = regions.connected_sets(
        device.coupled & usable & usable[:, None], usable, size, _SETS, lambda s: np.zeros(len(s))
    )
    if not len(sets):
        raise BackendError(
            f"The chosen qubits {list(qubits)} are not connected by working two-qubit gates. "
            "Choose others, or let them be chosen."
        )
    return sets


def on_shape(
    circuit: QuantumCircuit, device: Device, shape: Shape, seeds: Sequence[int]
) -> Candidate:
    """The best of several transpilations onto a shape, on its best place.

    Those with the fewest two-qubit gates and layers are laid on every place; they differ in what
    each wire does.
    """
    uniform = shape_target(device, circuit.num_qubits, shape.edges)
    results = []
    for seed in seeds:
        manager = generate_preset_pass_manager(3, target=uniform, seed_transpiler=seed)
        try:
            results.append(manager.run(circuit))
        except QiskitError as error:
            raise BackendError(
                f"The circuit {circuit.name!r} cannot be translated into the backend's gates "
                f"{', '.join(device.gates) or '(none)'}: {error.message}"
            ) from error
    costs = [cost(result)[:2] for result in results]
    best = [result for result, each in zip(results, costs, strict=True) if each == min(costs)]
    return min((_laid(result, device, shape) for result in best), key=_rank)


def _laid(circuit: QuantumCircuit, device: Device, shape: Shape) -> Candidate:
    """A circuit for a shape, on its best place."""
    layout = circuit.layout
    final = range(circuit.num_qubits) if layout is None else layout.final_index_layout()
    profile = regions.profile(circuit, device.durations)
    losses = regions.predicted_losses(device, profile, shape.embeddings)
    place = int(np.argmin(np.round(losses, 12)))  # the first of equals, whatever the last bit
    qubits = tuple(int(q) for q in shape.embeddings[place])
    return Candidate(circuit, tuple(final), shape, qubits, float(losses[place]))


def cost(circuit: QuantumCircuit) -> tuple[int, int, int]:
    """Two-qubit gates, layers of them, all gates."""
    return circuit.num_nonlocal_gates(), _two_qubit_depth(circuit), circuit.size()


def _two_qubit_depth(circuit: QuantumCircuit) -> int:
    return int(
        circuit.depth(lambda each: len(each.qubits) == 2 and each.operation.name != "barrier")
    )


def _rank(candidate: Candidate) -> tuple[float, tuple[int, int, int]]:
    return round(candidate.loss, 12), candidate.cost


def _best(tried: Sequence[Candidate]) -> Candidate:
    """The shortest of those that are predicted to be about equally good.

    A prediction is a product of calibrated errors: too rough to pay for a few percent of it with a
    third more gates.
    """
    enough = NEARLY * min(candidate.loss for candidate in tried)
    return min((c for c in tried if c.loss <= enough), key=lambda c: (c.cost, c.loss))


def finished(found: Candidate, device: Device, name: str) -> Placement:
    """The placed circuit in the gates and directions that its very qubits have."""
    part = restrict_target(device.target, found.qubits)
    circuit = found.circuit
    if not is_isa(circuit, part):
        manager = generate_preset_pass_manager(1, target=part, seed_transpiler=0)
        # Translation and gate directions only: the circuit stands where it shall stand.
        manager.init = manager.layout = manager.routing = None
        circuit = manager.run(circuit)
        check_isa(circuit, part)
    circuit = embed(circuit, range(circuit.num_qubits), circuit.num_qubits)  # drops the layout
    circuit.name = name
    losses = regions.predicted_losses(
        device, regions.profile(circuit, device.durations), np.array([found.qubits])
    )
    return Placement(circuit, found.final, Patch(found.qubits, math.exp(-losses[0])))
