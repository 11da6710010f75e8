"""Checks made before anything is sent."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qiskit import QuantumCircuit
from qiskit.circuit import Gate, Parameter, ParameterVector
from qiskit.circuit.library import RZZGate, SXGate
from qiskit.providers.fake_provider import GenericBackendV2
from qiskit.quantum_info import SparsePauliOp, Statevector
from qiskit.transpiler import Target
from qiskit_aer import AerSimulator
from qiskit_ibm_runtime.fake_provider import FakeFractionalBackend, FakeManilaV2, FakeTorino

from qpc_qiskit.devices.isa import (
    check_equivalence,
    check_faulty,
    check_isa,
    check_rzz_angles,
    faulty,
    is_isa,
)
from qpc_qiskit.errors import AnsatzError, EngineError, NotISAError

MANILA = FakeManilaV2().target  # cx on the line 0-1-2-3-4


def manila_circuit():
    circuit = QuantumCircuit(5, 1)
    circuit.rz(Parameter("a"), 0)
    circuit.sx(4)
    circuit.cx(1, 2)
    circuit.barrier(0, 4)
    circuit.barrier()
    circuit.measure(3, 0)
    return circuit


def test_isa_circuits_pass():
    check_isa(manila_circuit(), MANILA)
    assert is_isa(manila_circuit(), MANILA)
    check_isa(QuantumCircuit(2), MANILA)
    anywhere = Target(num_qubits=None)
    anywhere.add_instruction(SXGate())
    circuit = QuantumCircuit(30)
    circuit.sx(29)
    check_isa(circuit, anywhere)


def test_the_first_instruction_that_is_not_supported_is_named():
    circuit = manila_circuit()
    circuit.cx(1, 3)
    circuit.h(0)
    with pytest.raises(NotISAError, match=r"'cx' on qubits \(1, 3\): only other qubits have it"):
        check_isa(circuit, MANILA)
    assert not is_isa(circuit, MANILA)
    circuit = manila_circuit()
    circuit.h(2)
    with pytest.raises(NotISAError, match=r"'h' on qubits \(2,\): no qubits have it"):
        check_isa(circuit, MANILA)
    with pytest.raises(NotISAError, match="The circuit has 6 qubits; the backend has 5"):
        check_isa(QuantumCircuit(6), MANILA)


def test_angles_that_the_hardware_does_not_have():
    circuit = QuantumCircuit(2)
    circuit.rzz(Parameter("a"), 0, 1)
    circuit.rzz(0.5, 0, 1)
    check_isa(circuit, FakeFractionalBackend().target)
    circuit.rzz(-0.5, 0, 1)
    with pytest.raises(NotISAError, match=r"'rzz' on qubits \(0, 1\): its parameters \[-0.5\]"):
        check_isa(circuit, FakeFractionalBackend().target)


def test_blocks_of_control_flow_are_checked_too():
    circuit = QuantumCircuit(3, 1)
    circuit.measure(0, 0)
    with circuit.if_test((0, 1)):
        circuit.x(2)
    check_isa(circuit, FakeTorino().target)
    with circuit.if_test((0, 1)):
        circuit.h(2)
    with pytest.raises(NotISAError, match=r"'h' on qubits \(2,\)"):
        check_isa(circuit, FakeTorino().target)


def test_faulty_is_read_from_properties():
    def backend(qubits, gates):
        gates = [SimpleNamespace(qubits=q) for q in gates]
        told = SimpleNamespace(faulty_qubits=lambda: qubits, faulty_gates=lambda: gates)
        return SimpleNamespace(properties=lambda: told)

    qubits, edges = faulty(backend([7], [[3], [5, 2], [2, 5], [0, 1]]))
    assert qubits == {3, 7}
    assert edges == {(0, 1), (2, 5)}
    nothing = frozenset(), frozenset()
    assert faulty(SimpleNamespace(properties=lambda: None)) == nothing
    assert faulty(FakeManilaV2()) == nothing
    assert faulty(GenericBackendV2(3)) == nothing
    assert faulty(AerSimulator()) == nothing


def test_check_faulty():
    circuit = manila_circuit()
    check_faulty(circuit, {}, {(0, 1), (2, 3)})
    with pytest.raises(NotISAError, match=r"'sx' stands on qubits \(4,\)"):
        check_faulty(circuit, {4}, ())
    for edge in ((1, 2), (2, 1)):
        with pytest.raises(NotISAError, match=r"'cx' stands on qubits \(1, 2\)"):
            check_faulty(circuit, (), {edge})


def rzz_circuit():
    a = ParameterVector("a", 3)
    circuit = QuantumCircuit(3)
    circuit.rzz(a[0], 0, 1)
    circuit.rx(a[1], 0)
    circuit.rzz(math.pi / 4 - a[2] / 2 + 0.25 * a[0], 1, 2)
    return circuit, tuple(a)


@given(
    st.lists(
        st.tuples(*[st.floats(-math.pi, math.pi)] * 3).map(np.array), min_size=1, max_size=5
    ).map(np.stack)
)
def test_rzz_angles_are_those_of_the_bound_circuits(rows):
    circuit, parameters = rzz_circuit()
    wrong = None
    for index, row in enumerate(rows):
        bound = circuit.assign_parameters(dict(zip(parameters, row, strict=True)))
        for each in bound.data:
            angle = each.operation.params[0]
            outside = each.name == "rzz" and not -1e-10 <= angle <= math.pi / 2 + 1e-10
            if wrong is None and outside:
                wrong = index, tuple(bound.find_bit(q).index for q in each.qubits)
    if wrong is None:
        check_rzz_angles(circuit, parameters, rows)
    else:
        with pytest.raises(NotISAError) as caught:
            check_rzz_angles(circuit, parameters, rows)
        assert f"Row {wrong[0]} of {len(rows)} gives the rzz gate on qubits {wrong[1]}" in str(
            caught.value
        )
        assert "use_fractional_gates=False" in str(caught.value)


def test_rzz_angles_at_the_ends_and_other_cases():
    circuit, parameters = rzz_circuit()
    check_rzz_angles(circuit, parameters, np.array([[0, 9, 0], [math.pi / 2, 9, 0.3]]))
    check_rzz_angles(circuit, parameters, np.empty((0, 3)))
    check_rzz_angles(manila_circuit(), parameters, np.full((1, 3), 99.0))
    with pytest.raises(NotISAError, match="the angle nan"):
        check_rzz_angles(circuit, parameters, np.array([[math.nan, 0, 0]]))
    fixed = QuantumCircuit(2)
    fixed.append(RZZGate(-0.1), [0, 1])
    with pytest.raises(NotISAError, match=r"\(0, 1\) the angle -0.1"):
        check_rzz_angles(fixed, (), np.empty((2, 0)))
    squared = QuantumCircuit(2)
    squared.rzz(parameters[0] ** 2, 0, 1)
    with pytest.raises(AnsatzError, match=r"rzz angle on \(0, 1\)"):
        check_rzz_angles(squared, parameters, np.zeros((1, 3)))


def wide_example(rng):
    """Three active qubits of forty, two observables, and their true values."""
    a = ParameterVector("a", 4)
    small = QuantumCircuit(3)
    small.rx(a[0], 0)
    small.ry(a[1], 1)
    small.iswap(0, 1)
    small.rzz(a[2], 2, 0)
    small.ecr(1, 2)
    small.u(a[3], 0.1, 0.2, 2)
    observables = [SparsePauliOp(["ZIZ", "IXY"], [1.0, 0.5]), SparsePauliOp("YII")]
    rows = rng.uniform(-3, 3, (4, 4))
    states = [Statevector(small.assign_parameters(dict(zip(a, r, strict=True)))) for r in rows]
    expected = np.array([[s.expectation_value(o).real for o in observables] for s in states])
    wide = QuantumCircuit(40)
    layout = [31, 2, 17]
    wide.barrier()
    wide.compose(small, layout, inplace=True)
    return wide, tuple(a), [o.apply_layout(layout, 40) for o in observables], rows, expected


def test_equivalent_circuits_pass(rng):
    wide, parameters, observables, rows, expected = wide_example(rng)
    check_equivalence(wide, parameters, observables, rows, expected, 1e-9)
    # Qubits that the circuit does not use are |0>; a parameter may be in no gate.
    more = [*observables, SparsePauliOp.from_sparse_list([("Z", [5], 2.0)], 40)]
    values = np.column_stack([expected, np.full(4, 2.0)])
    rows = np.column_stack([rows, np.zeros(4)])
    check_equivalence(wide, (*parameters, Parameter("b")), more, rows, values, 1e-9)


def test_other_circuits_do_not_pass(rng):
    wide, parameters, observables, rows, expected = wide_example(rng)
    off = expected.copy()
    off[2, 1] += 0.01
    with pytest.raises(EngineError, match=r"observable 1 in row 2 .* a deviation of 0.01 where"):
        check_equivalence(wide, parameters, observables, rows, off, 1e-3)
    check_equivalence(wide, parameters, observables, rows, off, 0.011)
    off[0, 0] = math.nan
    with pytest.raises(EngineError, match="observable 0 in row 0"):
        check_equivalence(wide, parameters, observables, rows, off, 1e-3)
    wide.x(31)
    with pytest.raises(EngineError, match="does not compute the same"):
        check_equivalence(wide, parameters, observables, rows, expected, 1e-3)


def test_a_vendor_gate_with_a_matrix_is_enough():
    class HalfTurn(Gate):
        def __init__(self):
            super().__init__("half_turn", 1, [])

        def __array__(self, dtype=None, copy=None):
            return np.array([[0, 1], [1, 0]], dtype)

    circuit = QuantumCircuit(50)
    circuit.append(HalfTurn(), [49])
    observable = SparsePauliOp.from_sparse_list([("Z", [49], 1.0)], 50)
    check_equivalence(circuit, (), [observable], np.empty((1, 0)), np.array([[-1.0]]), 1e-12)
