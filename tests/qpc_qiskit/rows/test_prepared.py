"""Circuits side by side."""

import numpy as np
import pytest
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter, ParameterVector
from qiskit.quantum_info import SparsePauliOp, Statevector

from qpc_qiskit.circuits.parities import inversion
from qpc_qiskit.devices.patches import Patch, Placement
from qpc_qiskit.rows.prepared import Prepared, side_by_side
from qpc_qiskit.rows.pubs import Template


def part(gate="cx", vector=None, late=None):
    """Two wires, three parameters, and a feature that is a parity."""
    angles = ParameterVector("angle", 2) if vector is None else vector
    late = Parameter("late") if late is None else late
    circuit = QuantumCircuit(2, name="part")
    circuit.ry(angles[0], 0)
    circuit.rx(angles[1], 1)
    getattr(circuit, gate)(0, 1)
    circuit.ry(late, 1)
    return Template(
        circuit,
        (late, *angles),  # an order that is not that of the names
        (SparsePauliOp("IZ"), SparsePauliOp("ZZ", [-1])),
        (0,),
    )


def values_of(template, row):
    bound = template.circuit.assign_parameters(dict(zip(template.parameters, row, strict=True)))
    state = Statevector(bound)
    return np.array([state.expectation_value(o).real for o in template.observables])


def gates(circuit):
    return [
        (each.operation.name, [circuit.find_bit(q).index for q in each.qubits])
        for each in circuit.data
    ]


def test_where_everything_goes():
    found = side_by_side([part("cx"), part("cz")], [(3, 1), (0, 4)], 6)
    assert found.circuit.num_qubits == 6
    assert found.circuit.name == "part"
    assert gates(found.circuit) == [
        *[("ry", [3]), ("rx", [1]), ("cx", [3, 1]), ("ry", [1])],
        *[("ry", [0]), ("rx", [4]), ("cz", [0, 4]), ("ry", [4])],
    ]
    assert [p.name for p in found.parameters] == [
        *["late@0", "angle[0]@0", "angle[1]@0"],
        *["late@1", "angle[0]@1", "angle[1]@1"],
    ]
    told = [observable.to_sparse_list() for observable in found.observables]
    assert [(label, sorted(qubits), c.real) for ((label, qubits, c),) in told] == [
        ("Z", [3], 1),
        ("ZZ", [1, 3], -1),
        ("Z", [0], 1),
        ("ZZ", [0, 4], -1),
    ]
    assert found.columns == (0,)


@pytest.mark.parametrize("is_shared", [False, True])
def test_each_patch_by_itself(is_shared, rng):
    """Also where all patches have one circuit, and the same parameters."""
    one = part()
    parts = [one, one, one] if is_shared else [part("cx"), part("cz"), part("swap")]
    places = [(4, 0), (1, 5), (3, 2)]
    found = side_by_side(parts, places, 6)
    assert len(set(found.parameters)) == 9
    rows = rng.uniform(0, 6, (3, 3))
    expected = [values_of(each, row) for each, row in zip(parts, rows, strict=True)]
    np.testing.assert_allclose(
        values_of(found, rows.ravel()), np.concatenate(expected), rtol=0, atol=1e-12
    )
    assert one.circuit.parameters == set(one.parameters)  # left as it was


def test_a_vector_that_parts_share(rng):
    """Elements of one vector, as in every patch of an engine's circuit."""
    vector, late = ParameterVector("angle", 2), Parameter("late")
    parts = [part("cx", vector, late), part("cz", vector, late)]
    found = side_by_side(parts, [(0, 1), (2, 3)], 4)
    rows = rng.uniform(0, 6, (2, 3))
    expected = [values_of(each, row) for each, row in zip(parts, rows, strict=True)]
    np.testing.assert_allclose(
        values_of(found, rows.ravel()), np.concatenate(expected), rtol=0, atol=1e-12
    )


def test_one_patch_keeps_its_parameters():
    one = part()
    found = side_by_side([one], [(2, 0)], 3)
    assert found.parameters == one.parameters
    assert gates(found.circuit)[2] == ("cx", [2, 0])


def prepared(width=None):
    parts = (part("cx"), part("cz"))
    placements = tuple(
        Placement(each.circuit, (0, 1), Patch(qubits, fidelity))
        for each, qubits, fidelity in zip(parts, [(4, 3), (0, 1)], [0.9, 0.8], strict=True)
    )
    strings = (SparsePauliOp("IZ"), SparsePauliOp("ZI"), SparsePauliOp("ZZ"))
    inversions = tuple(
        inversion(strings, parts[0].observables, [a, 1], [0.1, 0.2]) for a in (0.9, 0.8)
    )
    return Prepared(parts, placements, None, width, inversions)


class TestPrepared:
    def test_on_a_device(self):
        found = prepared(6)
        assert found.num_patches == 2
        assert found.placement is found.placements[0]
        assert found.template is found.template  # parameters are made once
        assert gates(found.template.circuit)[2] == ("cx", [4, 3])
        assert gates(found.template.circuit)[6] == ("cz", [0, 1])

    def test_simulated(self):
        found = prepared()
        assert found.template.circuit.num_qubits == 4
        assert gates(found.template.circuit)[2] == ("cx", [0, 1])
        assert gates(found.template.circuit)[6] == ("cz", [2, 3])

    @pytest.mark.parametrize("width", [None, 6])
    @pytest.mark.parametrize("patch", [0, 1])
    def test_one_of_them(self, width, patch):
        whole = prepared(width)
        found = whole.only(patch)
        assert found.num_patches == 1
        assert found.template is whole.parts[patch]
        assert found.placements == (whole.placements[patch],)
        assert found.inversions == (whole.inversions[patch],)
        assert whole.num_patches == 2

    def test_nowhere(self):
        found = Prepared((part(),))
        assert found.placement is None
        assert found.template is found.parts[0]
        assert found.only(0).inversions == ()
