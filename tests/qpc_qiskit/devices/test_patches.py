"""Placing a circuit on the qubits of a backend."""

import functools
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.circuit.library import CZGate, Measure, RZGate, SXGate
from qiskit.providers.fake_provider import GenericBackendV2
from qiskit.quantum_info import SparsePauliOp, Statevector
from qiskit.transpiler import (
    CouplingMap,
    InstructionProperties,
    Target,
    generate_preset_pass_manager,
)
from qiskit_ibm_runtime.fake_provider import (
    FakeFez,
    FakeFractionalBackend,
    FakeManilaV2,
    FakeSherbrooke,
    FakeTorino,
)
from tiers import thorough_if

from qpc_qiskit.circuits.encoder import make_encoder
from qpc_qiskit.circuits.spec import make_spec
from qpc_qiskit.devices import patches, placement_cache
from qpc_qiskit.devices.isa import check_isa
from qpc_qiskit.devices.patches import embed, embed_observables, place
from qpc_qiskit.devices.targets import restrict_target
from qpc_qiskit.errors import BackendError
from qpc_qiskit.rows.pubs import make_template


@functools.cache
def template(n):
    return make_template(make_encoder("multiplexor", n), make_spec(2**n, n).ansatz)


def generic(size, gates, coupling):
    return GenericBackendV2(
        size, basis_gates=gates, coupling_map=coupling, seed=1, noise_info="cz" in gates
    ).target


def everywhere():
    """Ideal, no size of its own, no couplings: a simulator."""
    target = Target(num_qubits=None)
    for gate in (RZGate(Parameter("a")), SXGate(), CZGate(), Measure()):
        target.add_instruction(gate)
    return target


TARGETS = {
    "torino": lambda: FakeTorino().target,
    "fez": lambda: FakeFez().target,
    "sherbrooke": lambda: FakeSherbrooke().target,  # ecr, one direction
    "manila": lambda: FakeManilaV2().target,  # cx
    "fractional": lambda: FakeFractionalBackend().target,  # rx, rzz from 0 to pi/2
    "ring": lambda: generic(6, ["rx", "ry", "iswap"], CouplingMap.from_ring(6)),
    "grid": lambda: generic(9, ["rx", "ry", "ecr"], CouplingMap.from_grid(3, 3, False)),
    "mixed": lambda: generic(9, ["rx", "rz", "rzz", "cz"], CouplingMap.from_grid(3, 3)),
    "all": lambda: generic(27, ["rx", "rz", "cz"], None),
    "everywhere": everywhere,
}


@functools.cache
def target(name):
    return TARGETS[name]()


@functools.cache
def placed(name, n):
    return place(template(n).circuit, target(name), seeds=(0, 1))


def observables(n):
    """Every Z, and something that tells phases apart."""
    single = [SparsePauliOp.from_sparse_list([("Z", [q], 1.0)], n) for q in range(n)]
    return [*single, SparsePauliOp("XYZXYZ"[:n]), SparsePauliOp("YXXZYY"[:n])]


def values(circuit, parameters, row, operators):
    state = Statevector(circuit.assign_parameters(dict(zip(parameters, row, strict=True))))
    return [state.expectation_value(operator).real for operator in operators]


SMALL = ("manila", "fractional")
CASES = [(name, n) for name in TARGETS for n in range(1, 7) if n < 6 or name not in SMALL]


@pytest.mark.parametrize(("name", "n"), thorough_if(lambda row: row[1] > 3, CASES))
def test_placed_circuits_compute_the_same(name, n, rng):
    found, made = placed(name, n), template(n)
    part = restrict_target(target(name), found.patch.qubits)
    check_isa(found.circuit, part)
    assert found.circuit.num_qubits == n
    assert set(found.circuit.parameters) == set(made.parameters)
    assert sorted(found.final) == list(range(n))
    assert len(set(found.patch.qubits)) == n
    row = rng.uniform(-3, 3, len(made.parameters))
    mapped = embed_observables(observables(n), found.final, n)
    np.testing.assert_allclose(
        values(found.circuit, made.parameters, row, mapped),
        values(made.circuit, made.parameters, row, observables(n)),
        atol=1e-9,
    )


@pytest.mark.parametrize(("name", "n"), [("manila", 3), ("ring", 4), ("grid", 4), ("mixed", 3)])
def test_embedded_circuits_compute_the_same(name, n, rng):
    found, made = placed(name, n), template(n)
    width = target(name).num_qubits
    wide = embed(found.circuit, found.patch.qubits, width)
    check_isa(wide, target(name))
    assert found.layout == tuple(found.patch.qubits[w] for w in found.final)
    row = rng.uniform(-3, 3, len(made.parameters))
    mapped = embed_observables(observables(n), found.layout, width)
    np.testing.assert_allclose(
        values(wide, made.parameters, row, mapped),
        values(made.circuit, made.parameters, row, observables(n)),
        atol=1e-9,
    )


def product_of_fidelities(circuit, whole, qubits):
    """Of gates and readout, straight from the target."""
    fidelity = math.prod(1 - whole["measure"][(q,)].error for q in qubits)
    for each in circuit.data:
        at = tuple(qubits[circuit.find_bit(q).index] for q in each.qubits)
        fidelity *= 1 - whole[each.name][at].error
    return fidelity


@pytest.mark.parametrize("name", ["torino", "sherbrooke"])
def test_predicted_fidelity(name):
    found = placed(name, 4)
    gates = product_of_fidelities(found.circuit, target(name), found.patch.qubits)
    assert 0.9 * gates < found.patch.fidelity < gates  # idling costs the rest


def test_gates_with_few_angles_are_not_used():
    assert "rzz" in target("fractional").operation_names
    assert set(placed("fractional", 4).circuit.count_ops()) == {"rx", "rz", "cx"}


def test_counts():
    found = placed("torino", 4)
    assert found.num_two_qubit_gates == found.circuit.count_ops()["cz"]
    circuit = found.circuit.copy()
    circuit.barrier(0, 1)
    circuit.cz(0, 1)
    counted = patches.Placement(circuit, found.final, found.patch)
    assert counted.num_two_qubit_gates == found.num_two_qubit_gates + 1
    assert counted.two_qubit_depth <= found.two_qubit_depth + 1


def line(errors, readout):
    """cz on a line, with these errors; otherwise ideal."""
    size = len(readout)
    result = Target(num_qubits=size)
    result.add_instruction(RZGate(Parameter("a")), {(q,): None for q in range(size)})
    result.add_instruction(SXGate(), {(q,): None for q in range(size)})
    told = [InstructionProperties(error=e) for e in errors]
    result.add_instruction(
        CZGate(), {e: p for q, p in enumerate(told) for e in ((q, q + 1), (q + 1, q))}
    )
    result.add_instruction(
        Measure(), {(q,): InstructionProperties(error=e) for q, e in enumerate(readout)}
    )
    return result


@settings(max_examples=15)
@given(
    st.lists(st.sampled_from([0.01, 0.02, 0.05, 0.9]), min_size=5, max_size=5),
    st.lists(st.sampled_from([0.01, 0.1, 0.3]), min_size=6, max_size=6),
)
def test_the_best_place_of_a_line_is_found(errors, readout):
    device = line(errors, readout)
    candidates = []
    for start in range(4):  # three qubits on a path: one shape, in two directions
        if max(errors[start : start + 2]) > 0.5:
            continue
        for qubits in (range(start, start + 3), range(start + 2, start - 1, -1)):
            circuit = on_path()
            counts = circuit.count_ops()
            assert counts["cz"] == circuit.num_nonlocal_gates()
            fidelity = 1.0
            for each in circuit.data:
                at = [qubits[circuit.find_bit(q).index] for q in each.qubits]
                fidelity *= 1 - errors[min(at)] if len(at) == 2 else 1
            candidates.append(fidelity * math.prod(1 - readout[q] for q in qubits))
    if not candidates:
        with pytest.raises(BackendError, match="no 3 connected healthy qubits"):
            place(template(3).circuit, device, seeds=(0,))
    else:
        found = place(template(3).circuit, device, seeds=(0,))
        assert found.patch.fidelity == pytest.approx(max(candidates))
        assert product_or_one(found, errors, readout) == pytest.approx(found.patch.fidelity)


def product_or_one(found, errors, readout):
    fidelity = math.prod(1 - readout[q] for q in found.patch.qubits)
    for each in found.circuit.data:
        at = [found.patch.qubits[found.circuit.find_bit(q).index] for q in each.qubits]
        fidelity *= 1 - errors[min(at)] if len(at) == 2 else 1
    return fidelity


@functools.cache
def on_path():
    """What the transpiler makes of the template on three wires in a row, by itself."""
    return place(template(3).circuit, line([0.0] * 2, [0.0] * 3), seeds=(0,)).circuit


def test_better_than_the_transpiler_alone():
    """The same product for what the preset pass manager finds on the whole device."""
    whole, circuit = target("sherbrooke"), template(5).circuit
    alone = []
    for seed in range(3):
        wide = generate_preset_pass_manager(3, target=whole, seed_transpiler=seed).run(circuit)
        used = sorted({wide.find_bit(q).index for each in wide.data for q in each.qubits})
        small = QuantumCircuit(len(used))
        for each in wide.data:
            small.append(each.operation, [used.index(wide.find_bit(q).index) for q in each.qubits])
        alone.append(product_of_fidelities(small, whole, used))
    ours = placed("sherbrooke", 5)
    assert product_of_fidelities(ours.circuit, whole, ours.patch.qubits) > max(alone)


def test_same_arguments_same_placement():
    first, second = (place(template(4).circuit, target("fez"), seeds=(3, 1)) for _ in range(2))
    assert first.circuit == second.circuit
    assert (first.patch, first.final) == (second.patch, second.final)


def test_more_seeds_are_never_worse():
    found = place(template(4).circuit, target("sherbrooke"), seeds=range(8))
    assert found.num_two_qubit_gates <= 41  # of a star; measured when this was written
    with pytest.raises(ValueError, match="at least one seed"):
        place(template(4).circuit, target("sherbrooke"), seeds=())


def test_bad_qubits_and_edges_are_not_used():
    circuit, whole = template(3).circuit, target("torino")
    free = place(circuit, whole, seeds=(0,)).patch.qubits
    other = place(circuit, whole, seeds=(0,), bad_qubits=[free[0]]).patch.qubits
    assert free[0] not in other
    edges = [(a, b) for a, b in itertools.permutations(free, 2) if (a, b) in whole["cz"]]
    other = place(circuit, whole, seeds=(0,), bad_edges=edges[:1])
    used = {
        frozenset(other.patch.qubits[other.circuit.find_bit(q).index] for q in each.qubits)
        for each in other.circuit.data
    }
    assert frozenset(edges[0]) not in used


def test_chosen_qubits():
    circuit, whole = template(3).circuit, target("torino")
    found = place(circuit, whole, seeds=(0,), qubits=[2, 0, 1])
    assert sorted(found.patch.qubits) == [0, 1, 2]
    assert found.patch == place(circuit, whole, seeds=(0,), qubits=(0, 1, 2)).patch
    for qubits, message in [
        ((0, 1), r"Expected 3 different qubits, one per wire; got \[0, 1\]"),
        ((0, 1, 1), "Expected 3 different qubits"),
        ((0, 1, 133), "not all on the backend, which has 0 to 132"),
        ((0, 1, 5), "not connected by working two-qubit gates"),
    ]:
        with pytest.raises(BackendError, match=message):
            place(circuit, whole, qubits=qubits)
    with pytest.raises(BackendError, match=r"tells that \[1\] do not work"):
        place(circuit, whole, qubits=(0, 1, 2), bad_qubits=[1])


def test_backends_that_cannot():
    with pytest.raises(BackendError, match="The circuit has 6 qubits; the backend has 5"):
        place(template(6).circuit, target("manila"))
    with pytest.raises(
        BackendError, match="no 3 connected healthy qubits: 3 of its 5 qubits and 0"
    ):
        place(template(3).circuit, target("manila"), bad_qubits=[1, 3], bad_edges=[(9, 4)])
    poor = Target(num_qubits=2)
    poor.add_instruction(SXGate())
    poor.add_instruction(CZGate())
    with pytest.raises(BackendError, match="cannot be translated into the backend's gates sx, cz"):
        place(template(2).circuit, poor)


def test_cache(tmp_path, monkeypatch):
    made = template(2)
    found = place(made.circuit, target("manila"), seeds=(0,), cache=tmp_path)
    monkeypatch.setattr(patches, "_place", None)  # not called again
    other = make_template(make_encoder("multiplexor", 2), make_spec(4, 2).ansatz)
    again = place(other.circuit, target("manila"), seeds=(0,), cache=tmp_path)
    assert again.circuit == found.circuit
    assert (again.patch, again.final) == (found.patch, found.final)
    assert set(again.circuit.parameters) <= set(other.parameters)
    monkeypatch.undo()
    for arguments in (
        {"seeds": (1,)},
        {"bad_qubits": [4]},
        {"bad_edges": [(3, 4)]},
        {"qubits": (np.int64(0), 1)},
    ):
        place(made.circuit, target("manila"), cache=tmp_path, **{"seeds": (0,), **arguments})
    assert len(list(tmp_path.iterdir())) == 5


def test_corrupt_cache_entries_are_written_again(tmp_path):
    arguments = (template(2).circuit, target("manila"))
    found = place(*arguments, seeds=(0,), cache=tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(b"corrupt")
    again = place(*arguments, seeds=(0,), cache=tmp_path)
    assert again.circuit == found.circuit
    assert placement_cache.load(tmp_path, path.stem, arguments[0]) is not None


def test_the_folder_of_the_cache_is_optional(monkeypatch):
    monkeypatch.setattr(Path, "home", None)  # nothing is looked up
    assert place(template(1).circuit, target("manila"), seeds=(0,)).patch.qubits == (3,)
