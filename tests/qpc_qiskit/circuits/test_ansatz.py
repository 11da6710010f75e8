"""Named ansätze and users' circuits."""

import math

import numpy as np
import pytest
import torch
from cases import USER_CIRCUITS
from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister
from qiskit.circuit import Gate, Parameter, ParameterVector
from references import circuit_unitary, named_unitary

from qpc_qiskit import QuantumPointwiseConv2d
from qpc_qiskit.circuits.ansatz import ANSATZE, affine_coefficients, make_ansatz
from qpc_qiskit.errors import AnsatzError

NAMES = list(ANSATZE)


def same_up_to_phase(a, b):
    return abs(abs(np.trace(a.conj().T @ b)) / len(a) - 1) < 1e-12


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", range(1, 6))
def test_circuit_is_the_definition(name, n, rng):
    ansatz = make_ansatz(name, n, 3)
    per_layer = {
        "strongly_entangling": 3 * n,
        "figure1": 2 * n,
        "circuit_centric": 5 * n if n > 1 else 4,
    }[name]
    assert ansatz.num_weights == 3 * per_layer
    assert [p.name for p in ansatz.parameters] == [f"theta[{i}]" for i in range(3 * per_layer)]
    weights = rng.uniform(-7, 7, ansatz.num_weights)
    bound = ansatz.circuit.assign_parameters(dict(zip(ansatz.parameters, weights, strict=True)))
    assert same_up_to_phase(circuit_unitary(bound), named_unitary(name, n, 3, weights))


@pytest.mark.parametrize("name", NAMES)
def test_gates_are_native(name):
    """No parametrized cp: Aer binds it wrongly (qiskit-aer#2403)."""
    ops = make_ansatz(name, 4, 2).circuit.count_ops()
    assert set(ops) <= {"rz", "rx", "sx", "x", "cx"}


def all_ansatze():
    found = []
    for name in NAMES:
        for n in (1, 3):
            found.append(pytest.param(make_ansatz(name, n, 2), id=f"{name}-{n}"))
    for key, build in USER_CIRCUITS.items():
        circuit = build()
        found.append(pytest.param(make_ansatz(circuit, circuit.num_qubits), id=key))
    return found


@pytest.mark.parametrize("ansatz", all_ansatze())
def test_template_in_occurrence_angles_equals_the_circuit(ansatz, rng):
    weights = rng.uniform(-7, 7, (2, ansatz.num_weights))
    angles = ansatz.angles(weights)
    assert angles.shape == (2, ansatz.num_angles)
    for row, occurrence in zip(weights, angles, strict=True):
        circuit = ansatz.circuit.assign_parameters(dict(zip(ansatz.parameters, row, strict=True)))
        by_index = {p: occurrence[p.index] for p in ansatz.template.parameters}
        template = ansatz.template.assign_parameters(by_index)
        assert same_up_to_phase(circuit_unitary(template), circuit_unitary(circuit))


@pytest.mark.parametrize("ansatz", all_ansatze())
def test_every_occurrence_is_one_bare_angle(ansatz):
    found = []
    for instruction in ansatz.template.data:
        for angle in instruction.operation.params:
            if getattr(angle, "parameters", None):
                assert str(angle) == next(iter(angle.parameters)).name
                found.append(str(angle))
    assert sorted(found) == sorted(set(found))
    assert len(found) == ansatz.num_angles


@pytest.mark.parametrize("key", USER_CIRCUITS)
def test_users_circuit_is_translated_faithfully(key, rng):
    circuit = USER_CIRCUITS[key]()
    ansatz = make_ansatz(circuit, circuit.num_qubits)
    assert ansatz.name == "user"
    assert ansatz.num_layers is None
    assert ansatz.parameters == tuple(circuit.parameters)
    assert set(ansatz.circuit.count_ops()) <= {"rz", "sx", "x", "cx"}
    values = dict(zip(circuit.parameters, rng.uniform(-4, 4, ansatz.num_weights), strict=True))
    assert same_up_to_phase(
        circuit_unitary(circuit.assign_parameters(values)),
        circuit_unitary(ansatz.circuit.assign_parameters(values)),
    )


def test_users_circuit_is_not_changed_and_not_kept():
    circuit = USER_CIRCUITS["user2"]()
    before = circuit.copy()
    ansatz = make_ansatz(circuit, 2)
    assert circuit == before
    circuit.x(0)
    circuit.ry(Parameter("late"), 1)
    assert ansatz.num_weights == 2
    assert "late" not in {p.name for p in ansatz.circuit.parameters}


def test_more_than_nine_weights_stay_in_order():
    w = ParameterVector("w", 12)
    circuit = QuantumCircuit(1)
    for i in reversed(range(12)):
        circuit.rx(w[i], 0)
    assert [p.name for p in make_ansatz(circuit, 1).parameters] == [f"w[{i}]" for i in range(12)]


def test_same_arguments_share_one_ansatz():
    assert make_ansatz("figure1", 3, 2) is make_ansatz("figure1", 3, 2)
    assert make_ansatz("figure1", 3, 2) is not make_ansatz("figure1", 3, 1)


def with_measurement(c, a, b):
    c.rx(a, 0)
    c.add_register(ClassicalRegister(1))
    c.measure(0, 0)


def with_if(c, a, b):
    c.add_register(ClassicalRegister(1))
    with c.if_test((c.clbits[0], 1)):
        c.rx(a, 0)


def with_loop(c, a, b):
    with c.for_loop(range(2)):
        c.rx(a, 0)


def opaque(c, a, b):
    c.append(Gate("mystery", 1, [a]), [0])


@pytest.mark.parametrize(
    ("build", "pattern"),
    [
        (with_measurement, "Instruction 1 of the ansatz circuit is 'measure'; only unitary"),
        (lambda c, a, b: (c.rx(a, 0), c.reset(0)), "Instruction 1 .* is 'reset'"),
        (lambda c, a, b: (c.rx(a, 0), c.delay(5, 0)), "is 'delay'"),
        (lambda c, a, b: (c.rx(a, 0), c.initialize([1, 0], 0)), "is 'initialize'"),
        (with_if, "is 'if_else'; .*control flow"),
        (with_loop, "is 'for_loop'"),
        (opaque, "cannot be translated to {rz, sx, x, cx}"),
        (lambda c, a, b: c.h(0), "has no parameters, so there is nothing to train"),
        (lambda c, a, b: c.rx(a * b, 0), r"'rz' is .*a\*b, which is not affine in [ab]"),
        (lambda c, a, b: c.rx(a.sin(), 0), r"sin\(a\), which is not affine in a"),
        (lambda c, a, b: c.rz(a**2, 0), r"is a\*\*2, which is not affine in a"),
        (lambda c, a, b: c.ry(a / b, 0), "not affine in [ab]"),
        (lambda c, a, b: c.ry(1 / a, 0), "not affine in a"),
        (lambda c, a, b: c.ry(abs(a), 0), "not affine in a"),
        (lambda c, a, b: c.ry(a.exp(), 0), "not affine in a"),
        (lambda c, a, b: c.ry(a.sign(), 0), "affine"),
        (lambda c, a, b: c.rz(1j * a, 0), "which is not real"),
        (lambda c, a, b: c.u(a, b, a * b, 0), "not affine"),
        (
            lambda c, a, b: (setattr(c, "global_phase", a), c.x(0)),
            "Parameter 'a' .* no gate's angle",
        ),
        (
            lambda c, a, b: c.rx(ParameterVector("encoder", 2)[0], 0),
            r"parameter 'encoder\[0\]', a name kept for the encoder",
        ),
    ],
)
def test_circuits_that_are_not_allowed(build, pattern):
    circuit = QuantumCircuit(QuantumRegister(1))
    build(circuit, Parameter("a"), Parameter("b"))
    with pytest.raises(AnsatzError, match=pattern) as caught:
        make_ansatz(circuit, 1)
    assert isinstance(caught.value, ValueError)


def test_width_and_name():
    circuit = USER_CIRCUITS["user2"]()
    with pytest.raises(AnsatzError, match="has 2 qubits but the layer encodes into 3; give"):
        make_ansatz(circuit, 3)
    with pytest.raises(AnsatzError, match="Unknown ansatz 'Figure1'; expected one of strongly_en"):
        make_ansatz("Figure1", 3)


def test_parameters_that_cancel_are_weights_without_effect():
    a, b = Parameter("a"), Parameter("b")
    circuit = QuantumCircuit(1)
    circuit.rz(a, 0)
    circuit.rz(-a, 0)
    circuit.rx(b, 0)
    layer = QuantumPointwiseConv2d(2, 1, ansatz=circuit)
    layer(torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)).sum().backward()
    assert float(layer.weight.grad[0, 0].abs()) < 1e-6
    assert float(layer.weight.grad[0, 1].abs()) > 1e-6


def test_affine_coefficients():
    a, b = Parameter("a"), Parameter("b")
    scale, offset = affine_coefficients(2 * a - b / 4 + 1.5 + a, (b, a), "an angle")
    np.testing.assert_allclose(scale, [-0.25, 3])
    assert offset == pytest.approx(1.5)
    scale, offset = affine_coefficients(math.pi, (a, b), "an angle")
    assert not scale.any()
    assert offset == math.pi
    scale, offset = affine_coefficients((a + b).bind({b: 2.0}), (a, b), "an angle")
    np.testing.assert_array_equal(scale, [1, 0])
    assert offset == 2
