"""Tilings: one circuit on many disjoint patches of a backend."""

import functools
import itertools
import math
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import qiskit_ibm_runtime.fake_provider as fakes
import rustworkx as rx
from hypothesis import given
from hypothesis import strategies as st
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter, ParameterVector
from qiskit.circuit.library import CZGate, Measure, RZGate, SXGate
from qiskit.providers.fake_provider import GenericBackendV2
from qiskit.quantum_info import Operator, Statevector
from qiskit.transpiler import CouplingMap, InstructionProperties, Target
from tiers import thorough, thorough_if

from qpc_qiskit.circuits.ansatz import make_ansatz
from qpc_qiskit.circuits.encoder import make_encoder
from qpc_qiskit.devices import patches, placement_cache, regions, tiling
from qpc_qiskit.devices.isa import check_faulty, check_isa
from qpc_qiskit.devices.patches import place
from qpc_qiskit.devices.targets import read_device
from qpc_qiskit.devices.tiling import information, tile
from qpc_qiskit.errors import BackendError
from qpc_qiskit.rows.pubs import make_template

LAYERS = {1: 0, 2: 1, 3: 2, 4: 5, 5: 8, 6: 13}  # enough angles to encode any 2^n amplitudes


@functools.cache
def brickwall(n, num_layers=3):
    """An encoder on a path, and the ansatz: rings that a path needs few further gates for."""
    angle = iter(ParameterVector("a", 200))
    circuit = QuantumCircuit(n, name="brickwall")
    for q in range(n):
        circuit.ry(next(angle), q)
    for layer in range(LAYERS[n]):
        for q in range(layer % 2, n - 1, 2):
            circuit.cz(q, q + 1)
            circuit.ry(next(angle), q)
            circuit.ry(next(angle), q + 1)
    circuit.compose(make_ansatz("strongly_entangling", n, num_layers).template, inplace=True)
    return circuit


@functools.cache
def multiplexor(n):
    return make_template(make_encoder("multiplexor", n), make_ansatz("figure1", n, 1)).circuit


def generic(size, gates, coupling):
    return GenericBackendV2(
        size, basis_gates=gates, coupling_map=coupling, seed=1, noise_info="cz" in gates
    ).target


GENERIC = {
    "all-to-all": lambda: generic(11, ["rx", "rz", "cz"], None),
    "ring": lambda: generic(12, ["rx", "ry", "iswap"], CouplingMap.from_ring(12)),
    "grid": lambda: generic(16, ["rx", "ry", "ecr"], CouplingMap.from_grid(4, 4, False)),
    "mixed": lambda: generic(16, ["rx", "rz", "rzz", "cz"], CouplingMap.from_grid(4, 4)),
}


@functools.cache
def device_target(name):
    if name in GENERIC:
        return GENERIC[name]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Nighthawk's errors are not typical
        return getattr(fakes, name)().target


@functools.cache
def tiled(name, n, num_patches=None, gap=0):
    # Dense devices have programs that are not solved in any time that a test may take.
    seconds = 2.0 if name in ("FakeNighthawk", "all-to-all") else 20.0
    target = device_target(name)
    return tile(brickwall(n), target, num_patches, gap=gap, seeds=(0, 1), time_limit=seconds)


def neighbours(target):
    """The physical couplings, whether or not they work."""
    graph = rx.PyGraph()
    graph.add_nodes_from(range(target.num_qubits))
    graph.add_edges_from_no_data([q for q in target.qargs if q is not None and len(q) == 2])
    return graph


def wide_circuit(placements, num_qubits):
    wide = QuantumCircuit(num_qubits)
    for each in placements:
        wide.compose(each.circuit, each.patch.qubits, inplace=True)
    return wide


def check(placements, target, circuit, *, gap=0, ratio=0.5, bad_qubits=(), bad_edges=()):
    """What every tiling has to be."""
    n, size = circuit.num_qubits, target.num_qubits
    device = read_device(target, n, bad_qubits, bad_edges)
    used = [q for each in placements for q in each.patch.qubits]
    assert len(used) == len(set(used)) == n * len(placements)
    assert device.usable[used].all()
    wide = wide_circuit(placements, size)
    check_isa(wide, target)
    check_faulty(wide, bad_qubits, bad_edges)

    distances = rx.distance_matrix(neighbours(target), null_value=np.inf)
    for a, b in itertools.combinations(placements, 2):
        assert distances[np.ix_(a.patch.qubits, b.patch.qubits)].min() > gap
    first = placements[0]
    for each in placements:
        on = np.ix_(each.patch.qubits, each.patch.qubits)
        part = rx.PyGraph.from_adjacency_matrix(device.coupled[on].astype(float))
        assert rx.is_connected(part)
        assert each.circuit.num_qubits == n
        assert set(each.circuit.parameters) == set(circuit.parameters)
        assert each.final == first.final
        assert two_qubit_gates(each.circuit) == two_qubit_gates(first.circuit)
        profile = regions.profile(each.circuit, device.durations)
        loss = regions.predicted_losses(device, profile, np.array([each.patch.qubits]))[0]
        assert each.patch.fidelity == pytest.approx(math.exp(-loss))
    fidelities = [each.patch.fidelity for each in placements]
    np.testing.assert_allclose(fidelities, sorted(fidelities, reverse=True), rtol=1e-9)
    # Directions are mended after the choice: a few one-qubit gates more.
    assert min(fidelities) >= 0.95 * ratio * max(fidelities)


def two_qubit_gates(circuit):
    """By wires, in either direction."""
    pairs = [each.qubits for each in circuit.data if len(each.qubits) == 2]
    return sorted(sorted(circuit.find_bit(q).index for q in pair) for pair in pairs)


def couplings_used(circuit):
    return {tuple(pair) for pair in two_qubit_gates(circuit)}


DIRECTED = ["FakeSherbrooke", "grid"]


@pytest.mark.parametrize(
    ("name", "n", "gap"),
    [
        ("FakeTorino", 1, 0),
        ("FakeTorino", 2, 1),
        ("FakeManilaV2", 2, 1),
        ("FakeManilaV2", 5, 0),
        ("FakeLagosV2", 2, 0),
        ("FakeLagosV2", 3, 1),
        ("FakeJakartaV2", 3, 0),
        ("ring", 3, 0),
        ("ring", 3, 1),
        ("FakeSherbrooke", 3, 0),
        ("grid", 3, 0),
        ("grid", 3, 1),
        *thorough(
            ("FakeTorino", 6, 1),
            ("FakeFez", 3, 0),
            ("FakeFez", 3, 1),
            ("FakeBoston", 4, 0),
            ("FakeNighthawk", 4, 1),
            ("all-to-all", 3, 0),
            ("mixed", 4, 1),
            ("FakeSherbrooke", 3, 1),
            ("grid", 4, 0),
        ),
    ],
)
def test_tilings_are_legal(name, n, gap):
    found = tiled(name, n, gap=gap)
    check(found, device_target(name), brickwall(n), gap=gap)
    if name not in DIRECTED:
        assert all(each.circuit is found[0].circuit for each in found)
    else:
        ways = {id(each.circuit) for each in found}
        assert 1 <= len(ways) <= 2 ** len(couplings_used(found[0].circuit))


def test_gaps_of_two():
    found = tile(brickwall(2), device_target("FakeTorino"), None, gap=2, seeds=(0,))
    check(found, device_target("FakeTorino"), brickwall(2), gap=2)
    assert 15 < len(found) < len(tiled("FakeTorino", 2, gap=1))


FINDINGS = {  # prototype: patches without and with a gap; a filter on readout left some out
    "FakeTorino": {3: (32, 23), 4: (14, 14), 6: (9, 9)},
    "FakeFez": {3: (50, 34), 4: (29, 27), 6: (20, 18)},
}


@pytest.mark.parametrize(
    ("name", "n"),
    thorough_if(
        lambda row: row != ("FakeTorino", 4), [(d, n) for d in FINDINGS for n in FINDINGS[d]]
    ),
)
def test_numbers_of_patches(name, n):
    for gap in (0, 1):
        assert len(tiled(name, n, gap=gap)) >= FINDINGS[name][n][gap] - 1


@pytest.mark.parametrize(("name", "n", "most"), [("ring", 3, 4), *thorough(("all-to-all", 3, 3))])
def test_nothing_is_left_over(name, n, most):
    assert len(tiled(name, n)) == most


def test_coupled_everywhere_with_a_gap():
    assert len(tiled("all-to-all", 3, gap=1)) == 1


# ---- optimal, by exhaustive search


def best_families(placements, target, n, gap, ratio):
    """Fidelities of all families of disjoint connected sets.

    Of the circuit that was chosen, with its best embedding into every set.
    """
    device = read_device(target, n)
    circuit = placements[0].circuit
    profile = regions.profile(circuit, device.durations)
    distances = rx.distance_matrix(neighbours(target), null_value=np.inf)
    losses = {}
    for nodes in itertools.combinations(range(device.num_qubits), n):
        ways = [
            way
            for way in itertools.permutations(nodes)
            if all(device.coupled[way[a], way[b]] for a, b in two_qubit_gates(circuit))
        ]
        if ways:
            losses[nodes] = regions.predicted_losses(device, profile, np.array(ways)).min()
    limit = min(losses.values()) - math.log(ratio)
    good = [nodes for nodes in losses if losses[nodes] <= limit + 1e-9]

    def families(start, members):
        yield members
        for i in range(start, len(good)):
            if all(distances[np.ix_(good[i], m)].min() > gap for m in members):
                yield from families(i + 1, [*members, good[i]])

    return [[math.exp(-losses[m]) for m in family] for family in families(0, [])]


SMALL = ["FakeManilaV2", "FakeQuitoV2", "FakeYorktownV2", "FakeLagosV2", "FakeJakartaV2"]


@pytest.mark.parametrize(
    ("n", "gap", "ratio"), [(2, 0, 1e-6), (2, 1, 0.5), (3, 0, 0.5), (3, 1, 1e-6)]
)
@pytest.mark.parametrize(
    "name",
    thorough_if(lambda name: name in ("FakeQuitoV2", "FakeJakartaV2"), SMALL),  # T and H as Lagos
)
def test_small_devices_are_tiled_optimally(name, n, gap, ratio):
    target = device_target(name)
    found = tile(brickwall(n), target, None, gap=gap, min_fidelity_ratio=ratio, seeds=(0,))
    check(found, target, brickwall(n), gap=gap, ratio=ratio)
    every = best_families(found, target, n, gap, ratio)
    most = max(len(family) for family in every)
    best = max(information(family) for family in every)
    assert information(each.patch.fidelity for each in found) == pytest.approx(best, rel=1e-3)
    for count in range(2, most + 1):
        exact = tile(brickwall(n), target, count, gap=gap, min_fidelity_ratio=ratio, seeds=(0,))
        best = max(math.prod(family) for family in every if len(family) == count)
        product = math.prod(each.patch.fidelity for each in exact)
        assert product == pytest.approx(best, rel=1e-3)
    with pytest.raises(BackendError, match=f"found {most} with gap={gap} and min_fidelity_ratio"):
        tile(brickwall(n), target, most + 1, gap=gap, min_fidelity_ratio=ratio, seeds=(0,))


@pytest.mark.parametrize("seed", range(20))
def test_programs_find_the_most_information(seed):
    """On all pairs of neighbours of a ring; against all families of them."""
    rng = np.random.default_rng(seed)
    pairs = np.array([(q, (q + 1) % 13) for q in range(13)])
    pool = tiling._Pool(SimpleNamespace(), pairs, rng.uniform(0.05, 1.2, len(pairs)))
    goal = tiling._Goal(None, 0, 1e-3, 5.0)
    exclusions = np.eye(13, dtype=bool)
    found = tiling._optimised(tiling._greedy(pool, exclusions, goal), exclusions, goal, 5.0)
    assert len(np.unique(pairs[found.chosen])) == 2 * len(found.chosen)
    fidelities = np.exp(-pool.losses)
    best = max(
        information(fidelities[list(family)])
        for count in range(1, 7)
        for family in itertools.combinations(range(13), count)
        if all((b - a) % 13 not in (1, 12) for a, b in itertools.combinations(family, 2))
    )
    assert found.information == pytest.approx(best, rel=1e-9)


def test_greedy_choices_alone(monkeypatch):
    """Where the integer program finds nothing in time."""
    with_program = tiled("FakeTorino", 4)
    stopped = SimpleNamespace(x=None, status=1)
    monkeypatch.setattr("scipy.optimize.milp", lambda *args, **options: stopped)
    target = device_target("FakeTorino")
    alone = tile(brickwall(4), target, None, seeds=(0, 1))
    check(alone, target, brickwall(4))
    assert 0.85 * len(with_program) <= len(alone) <= len(with_program)
    with pytest.raises(
        BackendError, match=r"until the search was stopped after 7 s\. .* raise time"
    ):
        tile(brickwall(4), target, 33, seeds=(0, 1), time_limit=7)


def test_worse_programs_are_not_taken(monkeypatch):
    """A program that was stopped early: one patch only."""

    def early(c, **options):
        return SimpleNamespace(x=np.eye(len(c))[0], status=1)

    with_program = tiled("FakeLagosV2", 2)
    monkeypatch.setattr("scipy.optimize.milp", early)
    assert len(tile(brickwall(2), device_target("FakeLagosV2"), None, seeds=(0,))) == 2
    assert len(with_program) == 2


# ---- what is asked for


@pytest.mark.parametrize("count", [*thorough(2), 7, *thorough(12)])
def test_exactly_so_many(count):
    target = device_target("FakeTorino")
    found = tile(brickwall(4), target, count, seeds=(0, 1))
    assert len(found) == count
    check(found, target, brickwall(4))
    many = tiled("FakeTorino", 4)
    if found[0].num_two_qubit_gates == many[0].num_two_qubit_gates:
        product = math.prod(each.patch.fidelity for each in found)
        assert product >= math.prod(each.patch.fidelity for each in many[:count]) * (1 - 1e-6)


@pytest.mark.parametrize(
    ("name", "circuit"),
    [
        ("FakeTorino", multiplexor),
        ("FakeLagosV2", brickwall),
        ("grid", multiplexor),
        *thorough(("FakeNighthawk", brickwall)),
    ],
)
def test_one_patch_is_a_placement(name, circuit):
    (found,) = tile(circuit(4), device_target(name), 1, seeds=range(5), bad_qubits=[1])
    alone = place(circuit(4), device_target(name), seeds=range(5), bad_qubits=[1])
    assert found.circuit == alone.circuit
    assert (found.patch, found.final) == (alone.patch, alone.final)


@pytest.mark.parametrize(
    ("name", "circuit"), [("FakeManilaV2", brickwall), ("FakeQuitoV2", multiplexor)]
)
def test_where_one_fits_it_is_the_placement(name, circuit):
    """The objective among shapes is that of `place`, too."""
    (found,) = tile(circuit(4), device_target(name), None, seeds=range(5))
    alone = place(circuit(4), device_target(name), seeds=range(5))
    assert found.circuit == alone.circuit
    assert (found.patch, found.final) == (alone.patch, alone.final)


def test_too_many():
    with pytest.raises(BackendError) as error:
        tile(brickwall(3), device_target("FakeLagosV2"), 3, gap=1, seeds=(0,))
    assert str(error.value) == (
        "Expected 3 disjoint patches for the 3 qubits of 'brickwall'; found 2 with gap=1 and "
        "min_fidelity_ratio=0.5. Ask for at most 2 (None: as many as are worth it), "
        "lower min_fidelity_ratio, or gap, or use a larger backend."
    )
    with pytest.raises(BackendError, match="The circuit has 6 qubits; the backend has 5"):
        tile(brickwall(6), device_target("FakeManilaV2"), None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_patches": 0}, "num_patches must be a positive integer, got 0"),
        ({"num_patches": True}, "num_patches must be a positive integer"),
        ({"gap": -1}, "gap must be a number of qubits, 0 or more; got -1"),
        ({"gap": 0.5}, "gap must be a number of qubits"),
        ({"min_fidelity_ratio": 0.0}, "min_fidelity_ratio must be above 0 and at most 1; got 0"),
        ({"min_fidelity_ratio": 1.1}, "min_fidelity_ratio must be"),
        ({"min_fidelity_ratio": math.nan}, "min_fidelity_ratio must be"),
        ({"seeds": ()}, "at least one seed"),
        ({"time_limit": 0}, "time_limit must be a positive number"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        tile(brickwall(2), device_target("FakeManilaV2"), **{"num_patches": None, **arguments})


def test_bad_qubits_and_edges_are_not_used():
    target = device_target("FakeTorino")
    free = tiled("FakeTorino", 3)
    bad_qubits = [each.patch.qubits[0] for each in free[:5]]
    used = [(each.patch.qubits[a], each.patch.qubits[b]) for each in free[5:15]
            for a, b in two_qubit_gates(each.circuit)[:1]]  # fmt: skip
    found = tile(
        brickwall(3), target, None, seeds=(0, 1), bad_qubits=bad_qubits, bad_edges=used, gap=1
    )
    check(found, target, brickwall(3), gap=1, bad_qubits=bad_qubits, bad_edges=used)
    assert len(found) > 10


def test_the_ratio_is_of_the_best_place():
    strict = tile(
        brickwall(2), device_target("FakeTorino"), None, seeds=(0,), min_fidelity_ratio=0.9
    )
    best = place(brickwall(2), device_target("FakeTorino"), seeds=(0,)).patch.fidelity
    assert 1 < len(strict) < len(tiled("FakeTorino", 2))
    assert all(each.patch.fidelity >= 0.9 * best - 1e-9 for each in strict)
    (only,) = tile(
        brickwall(2), device_target("FakeTorino"), None, seeds=(0,), min_fidelity_ratio=1
    )
    assert only.patch.fidelity == pytest.approx(best)


# ---- the shape


def test_the_shape_with_the_most_information(monkeypatch):
    target, circuit = device_target("FakeFez"), multiplexor(4)
    whole = tile(circuit, target, None, seeds=(0,))
    every = tiling._shapes
    shapes = every(
        device := read_device(target, 4),
        patches.candidate_sets(circuit, device, tiling._SETS, spread=True),
    )
    assert sum(tiling._is_path(shape) for shape in shapes) == 1
    assert len(shapes) == 2  # and the star
    found = []
    for shape in shapes:
        monkeypatch.setattr(tiling, "_shapes", lambda device, sets, shape=shape: [shape])
        only = tile(circuit, target, None, seeds=(0,))
        found.append(information(each.patch.fidelity for each in only))
    # The same circuit on the same sets, or one that is shorter and as good within a few percent.
    assert information(each.patch.fidelity for each in whole) >= 0.95 * max(found)


def test_a_path_is_tried_where_no_set_is_one():
    target = device_target("all-to-all")
    device = read_device(target, 4)
    sets = patches.candidate_sets(brickwall(4), device, 50, spread=True)
    shapes = tiling._shapes(device, sets)
    assert [len(shape.edges) for shape in shapes] == [6, 3]
    assert [tiling._is_path(shape) for shape in shapes] == [False, True]


def test_a_path_beyond_the_first_shapes_is_tried(monkeypatch):
    monkeypatch.setattr(patches, "SHAPES", 1)
    device = read_device(device_target("FakeNighthawk"), 4)
    sets = patches.candidate_sets(brickwall(4), device, 500, spread=True)
    shapes = tiling._shapes(device, sets)
    assert [tiling._is_path(shape) for shape in shapes] == [False, True]


def test_shapes_without_a_good_place_are_no_choice():
    (found,) = tile(
        multiplexor(4), device_target("FakeNighthawk"), None, seeds=(0,), min_fidelity_ratio=1
    )
    check([found], device_target("FakeNighthawk"), multiplexor(4))


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        ((), True),
        (((0, 1),), True),
        (((1, 0), (2, 1)), True),
        (((0, 1), (0, 2), (0, 3)), False),
        (((0, 1), (1, 2), (2, 0)), False),
    ],
)
def test_paths_are_recognised(edges, expected):
    assert tiling._is_path(SimpleNamespace(edges=edges)) == expected


def test_information():
    assert information([]) == 0
    assert information([1.0, 0.0]) == 0
    assert information([0.5]) == 0.25
    assert information([1.0, 0.5]) == pytest.approx(2 / ((1 + 4) / 2))
    assert information(iter([0.8, 0.8, 0.8])) == pytest.approx(3 * 0.64)


@given(st.lists(st.floats(0.05, 1), min_size=1, max_size=8))
def test_patches_are_kept_while_they_are_worth_it(fidelities):
    """Whatever their order: of all families of them the one with the most information."""
    pool = tiling._Pool(None, np.zeros((len(fidelities), 1), int), -np.log(fidelities))
    every = np.arange(len(fidelities))
    kept = tiling._cut(pool, every, tiling._Goal(None, 0, 0.5, 1.0))
    families = (f for r in every for f in itertools.combinations(fidelities, r + 1))
    best = max(information(family) for family in families)
    assert information(np.array(fidelities)[kept]) == pytest.approx(best)
    assert np.all(np.diff(pool.losses[kept]) >= -1e-9)
    assert len(tiling._cut(pool, every, tiling._Goal(3, 0, 0.5, 1.0))) == min(3, len(fidelities))


@pytest.mark.parametrize(("error", "count"), [(0.02, 3), (0.2, 2)])
def test_a_poor_patch_is_left_out(error, count):
    """Though it is good enough, and an explicit number shows that it fits."""
    target = make_target(6, [(0, 1), (2, 3), (4, 5)])
    target.update_instruction_properties("cz", (4, 5), InstructionProperties(error=error))
    arguments = {"seeds": (0,), "min_fidelity_ratio": 0.1}
    found = tile(brickwall(2), target, None, **arguments)
    assert [each.patch.qubits in ((4, 5), (5, 4)) for each in found] == [False, False, True][:count]
    assert len(tile(brickwall(2), target, 3, **arguments)) == 3


# ---- the circuits


def permutation(wires):
    """Qubit q goes to wire `wires[q]`."""
    size = len(wires)
    matrix = np.zeros((2**size, 2**size))
    for index in range(2**size):
        matrix[sum((index >> q & 1) << w for q, w in enumerate(wires)), index] = 1
    return matrix


@pytest.mark.parametrize(
    ("name", "n"), [("FakeLagosV2", 2), ("FakeLagosV2", 3), ("FakeSherbrooke", 3), ("grid", 3)]
)
def test_every_patch_computes_the_template(name, n, rng):
    made = brickwall(n)
    values = dict(zip(made.parameters, rng.uniform(-3, 3, len(made.parameters)), strict=True))
    wanted = Operator(made.assign_parameters(values)).data
    for circuit, final in {id(p.circuit): (p.circuit, p.final) for p in tiled(name, n)}.values():
        bound = circuit.assign_parameters(values)
        found = permutation(final).T @ Operator(bound).data
        state = permutation(final).T @ Statevector(bound).data
        assert abs(np.vdot(wanted[:, 0], state)) == pytest.approx(1)
        starts = itertools.permutations(range(n))  # wires are equal before the first gate
        overlaps = [abs(np.vdot(wanted, found @ permutation(way))) / 2**n for way in starts]
        assert max(overlaps) == pytest.approx(1)


# ---- again


def test_same_arguments_same_tiling():
    first, second = (
        tile(brickwall(2), device_target("FakeTorino"), None, seeds=(3, 1), gap=1) for _ in range(2)
    )
    assert [each.patch for each in first] == [each.patch for each in second]
    assert first[0].circuit == second[0].circuit
    assert first[0].final == second[0].final


@pytest.mark.parametrize(("name", "n"), [("FakeLagosV2", 3), ("FakeSherbrooke", 2)])
def test_cache(name, n, tmp_path, monkeypatch):
    calls = []

    def spy(*args):
        calls.append(args)
        return on_shape(*args)

    on_shape = patches.on_shape
    monkeypatch.setattr(patches, "on_shape", spy)
    arguments = {"seeds": (0,), "cache": tmp_path, "gap": 1}
    found = tile(brickwall(n), device_target(name), None, **arguments)
    assert len(calls) == 1
    fresh = brickwall.__wrapped__(n)  # equal names, other parameters
    again = tile(fresh, device_target(name), None, **arguments)
    assert set(again[0].circuit.parameters) == set(fresh.parameters)
    again = tile(brickwall(n), device_target(name), None, **arguments)
    assert len(calls) == 1
    assert [each.patch for each in again] == [each.patch for each in found]
    assert [each.circuit for each in again] == [each.circuit for each in found]
    assert {each.final for each in again} == {found[0].final}
    num_circuits = len({id(each.circuit) for each in found})
    assert num_circuits == (2 if name == "FakeSherbrooke" else 1)
    assert len({id(each.circuit) for each in again}) == num_circuits

    entries = sorted(tmp_path.iterdir())
    assert len(entries) == num_circuits
    for entry in entries:  # any that is lost makes it absent
        entry.write_bytes(b"corrupt")
        assert tile(brickwall(n), device_target(name), None, **arguments)[0].patch == found[0].patch
    assert len(calls) == 1 + num_circuits


def test_the_cache_tells_arguments_apart(tmp_path):
    arguments = {"seeds": (0,), "cache": tmp_path, "gap": 1}
    tile(brickwall(3), device_target("FakeLagosV2"), None, **arguments)
    others = [{"gap": 0}, {"min_fidelity_ratio": 0.4}, {"seeds": (1,)}, {"time_limit": 9}]
    for other in [*others, {"bad_qubits": [0]}, {"bad_edges": [(0, 1)]}]:
        tile(brickwall(3), device_target("FakeLagosV2"), None, **{**arguments, **other})
    tile(brickwall(3), device_target("FakeLagosV2"), 2, **arguments)
    assert len(list(tmp_path.iterdir())) == 8


def test_the_cache_of_one_patch_is_that_of_placements(tmp_path, monkeypatch):
    found = place(brickwall(2), device_target("FakeManilaV2"), seeds=(0,), cache=tmp_path)
    monkeypatch.setattr(patches, "_place", None)
    (again,) = tile(brickwall(2), device_target("FakeManilaV2"), 1, seeds=(0,), cache=tmp_path)
    assert again.patch == found.patch


def test_nothing_is_looked_up_without_a_cache(monkeypatch):
    monkeypatch.setattr(placement_cache, "load", None)
    tile(brickwall(2), device_target("FakeManilaV2"), None, seeds=(0,))


# ---- parts


@st.composite
def graphs(draw, max_size=8):
    size = draw(st.integers(1, max_size))
    pairs = list(itertools.combinations(range(size), 2))
    return size, draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []


def make_target(size, edges, broken=()):
    target = Target(num_qubits=size)
    target.add_instruction(RZGate(Parameter("a")), {(q,): None for q in range(size)})
    target.add_instruction(SXGate(), {(q,): None for q in range(size)})
    errors = {e: InstructionProperties(error=1.0 if e in broken else 0.01) for e in edges}
    target.add_instruction(CZGate(), errors or {(0, 1): InstructionProperties(error=1.0)})
    target.add_instruction(Measure(), {(q,): None for q in range(size)})
    return target


@given(graphs(), st.integers(0, 4))
def test_exclusions_are_the_pairs_too_near(graph, gap):
    size, edges = graph
    if not edges:
        return
    target = make_target(size, edges, edges[::3])
    rows = tiling._exclusions(read_device(target, size), gap)
    together = (rows[:, :, None] & rows[:, None, :]).any(0)
    distances = rx.distance_matrix(neighbours(target), null_value=np.inf)
    np.testing.assert_array_equal(together, distances <= gap)


@given(graphs(), st.integers(1, 4))
def test_embeddings_that_span_are_all_of_them(graph, n):
    size, edges = graph
    if not edges:
        return
    device = read_device(make_target(size, edges), size)
    sets = regions.connected_sets(
        device.coupled, device.usable, n, 10_000, lambda s: np.zeros(len(s))
    )
    if not len(sets):
        return
    wanted = [(a, a + 1) for a in range(n - 1)]
    found, which = regions.spanning_embeddings(device, sets, wanted)
    expected = {
        way
        for nodes in sets.tolist()
        for way in itertools.permutations(nodes)
        if all(device.coupled[way[a], way[b]] for a, b in wanted)
    }
    assert {tuple(way) for way in found.tolist()} == expected
    assert len(found) == len(expected)
    np.testing.assert_array_equal(np.sort(found, axis=1), sets[which])


def test_every_set_has_its_share_of_embeddings(monkeypatch):
    device = read_device(device_target("all-to-all"), 5)
    sets = np.array(list(itertools.combinations(range(11), 5)))
    monkeypatch.setattr(regions, "MAX_EMBEDDINGS", 2000)
    found, which = regions.spanning_embeddings(device, sets, [(0, 1)])
    assert np.bincount(which).tolist() == [2000 // len(sets)] * len(sets)
    assert len(found) <= 2000


def test_ranks_by_qubit(rng):
    sets = np.array(list(itertools.combinations(range(7), 3)))
    losses = rng.permutation(len(sets)).astype(float)
    ranks = regions.ranks_by_qubit(sets, losses)
    for i, nodes in enumerate(sets):
        rank = min(int((losses[(sets == q).any(1)] < losses[i]).sum()) for q in nodes)
        assert ranks[i] == pytest.approx(rank + losses[i] / len(sets))
    assert regions.ranks_by_qubit(sets[:0], losses[:0]).shape == (0,)


def test_spread_sets_cover_the_device():
    """The best ones of all would leave the poor qubits out."""
    circuit = brickwall(4)
    device = read_device(device_target("FakeNighthawk"), 4)
    spread = patches.candidate_sets(circuit, device, 200, spread=True)
    best = patches.candidate_sets(circuit, device, 200)
    usable = device.coupled.any(1).sum()
    assert len(spread) == len(best) == 200
    assert len(np.unique(best)) < 0.9 * usable
    assert len(np.unique(spread)) > 0.95 * usable
    assert spread.tolist()[0] == best.tolist()[0]
