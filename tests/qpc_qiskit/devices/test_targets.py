"""Reading targets and taking parts of them."""

import itertools

import numpy as np
import pytest
from qiskit.circuit import Delay, IfElseOp, Parameter
from qiskit.circuit.library import CXGate, CZGate, IGate, Measure, RXGate, RZZGate, SXGate
from qiskit.providers import BackendV2, Options, QubitProperties
from qiskit.providers.fake_provider import GenericBackendV2
from qiskit.transpiler import InstructionProperties, Target
from qiskit_aer.noise import NoiseModel
from qiskit_ibm_runtime.fake_provider import FakeManilaV2, FakeSherbrooke, FakeTorino

from qpc_qiskit.devices.targets import read_device, restrict_target, shape_target


def told(error):
    return InstructionProperties(error=error)


def line_target(cz_errors, sx_errors, readout):
    """cz from qubit i to i + 1, one direction."""
    target = Target(num_qubits=len(sx_errors))
    target.add_instruction(RXGate(Parameter("a")), {(q,): None for q in range(len(sx_errors))})
    target.add_instruction(SXGate(), {(q,): told(e) for q, e in enumerate(sx_errors)})
    target.add_instruction(IGate(), {(q,): told(1.0) for q in range(len(sx_errors))})
    target.add_instruction(CZGate(), {(q, q + 1): told(e) for q, e in enumerate(cz_errors)})
    target.add_instruction(Measure(), {(q,): told(e) for q, e in enumerate(readout)})
    return target


def test_broken_gates_and_qubits_are_left_out():
    target = line_target([0.01, 1.0, 0.02, 0.03, 0.04], [0, 0, 0, 0.7, 0, 0], [0, 0, 0, 0, 0, 0.5])
    device = read_device(target, 6)
    assert device.gates == ("rx", "sx", "cz")
    assert device.usable.tolist() == [True, True, True, False, True, False]
    assert np.argwhere(device.coupled).tolist() == [[0, 1], [1, 0]]
    device = read_device(target, 6, bad_qubits=[0, 99], bad_edges=[(2, 1), (7, 99)])
    assert device.usable.tolist() == [False, True, True, False, True, False]
    assert not device.coupled.any()
    assert not read_device(target, 6, bad_edges=[(1, 0)]).coupled.any()


def test_errors_that_are_not_told_count_as_the_worst():
    target = line_target([0.01, None, 0.02], [0.001, float("nan"), 0.1, 1.0], [None] * 4)
    device = read_device(target, 4)
    assert device.usable.tolist() == [True, True, True, False]
    np.testing.assert_allclose(device.losses["sx"][:3], -np.log1p([-0.001, -0.1, -0.1]))
    assert device.losses["cz"][1, 2] == device.losses["cz"][2, 1] == pytest.approx(-np.log1p(-0.01))
    np.testing.assert_array_equal(device.losses["measure"], 0)
    np.testing.assert_array_equal(device.decay, 0)
    assert device.durations == {}


def test_one_direction_serves_both_and_a_broken_one_condemns_both():
    target = Target(num_qubits=3)
    target.add_instruction(SXGate())
    target.add_instruction(
        CXGate(), {(0, 1): told(0.1), (1, 2): told(0.2), (2, 1): told(1.0)}, name="cx"
    )
    device = read_device(target, 3)
    assert np.argwhere(device.coupled).tolist() == [[0, 1], [1, 0]]
    assert device.losses["cx"][1, 0] == device.losses["cx"][0, 1] == pytest.approx(-np.log1p(-0.1))


def test_gates_that_only_few_places_have_are_not_common():
    target = line_target([0.01] * 4, [0.0] * 5, [0.0] * 5)
    target.add_instruction(RZZGate(Parameter("a")), {(0, 1): told(0.01)})
    device = read_device(target, 5)
    assert device.gates == ("rx", "sx", "cz")
    assert device.coupled.sum() == 8
    target = line_target([0.01, 0.01, 1.0, 0.01], [0.0] * 5, [0.0] * 5)
    target.add_instruction(RZZGate(Parameter("a")), {(q, q + 1): told(0.01) for q in range(3)})
    device = read_device(target, 5)  # both have three of four
    assert device.gates == ("rx", "sx", "cz", "rzz")
    assert np.argwhere(np.triu(device.coupled)).tolist() == [[0, 1], [1, 2]]


def test_no_gate_on_most_places():
    target = Target(num_qubits=5)
    target.add_instruction(SXGate())
    target.add_instruction(CXGate(), {(0, 1): None, (1, 2): None})
    target.add_instruction(CZGate(), {(2, 3): None, (3, 4): None})
    device = read_device(target, 5)
    assert device.gates == ("sx", "cx")
    assert device.coupled.sum() == 4


def test_global_operations():
    target = Target(num_qubits=None)
    for gate in (SXGate(), RXGate(Parameter("a")), CZGate(), Measure(), Delay(Parameter("t"))):
        target.add_instruction(gate)
    device = read_device(target, 4)
    assert device.usable.tolist() == [True] * 4
    np.testing.assert_array_equal(device.coupled, ~np.eye(4, dtype=bool))
    assert all(not losses.any() for losses in device.losses.values())
    part = restrict_target(target, [3, 1])
    assert set(part["cz"]) == {(0, 1), (1, 0)}
    assert set(part["measure"]) == {(0,), (1,)}


def test_durations_and_decay():
    device = read_device(FakeTorino().target, 133)
    assert device.durations["sx"] == pytest.approx(3.2e-8)
    assert device.durations["rz"] == 0
    first = FakeTorino().target.qubit_properties[0]
    assert device.decay[0] == pytest.approx(1 / (6 * first.t1) + 1 / (3 * first.t2))
    target = Target(
        num_qubits=3,
        qubit_properties=[QubitProperties(2.0, 1.0), QubitProperties(), QubitProperties(1.0, 1.0)],
    )
    target.add_instruction(SXGate())
    np.testing.assert_allclose(read_device(target, 3).decay, [5 / 12, 1 / 2, 1 / 2])


def test_restricted_target_keeps_what_belongs_to_its_qubits():
    backend = FakeSherbrooke()
    whole = backend.target
    qubits = (62, 61, 60, 53)
    part = restrict_target(whole, qubits)
    assert part.num_qubits == 4
    assert part.dt == whole.dt
    for attribute in ("granularity", "min_length", "pulse_alignment", "acquire_alignment"):
        assert getattr(part, attribute) == getattr(whole, attribute)
    for told, q in zip(part.qubit_properties, qubits, strict=True):
        for attribute in ("t1", "t2", "frequency"):
            assert getattr(told, attribute) == getattr(whole.qubit_properties[q], attribute)
    assert {"ecr", "rz", "sx", "x", "id", "measure", "reset", "delay"} == set(part.operation_names)
    for name in part.operation_names:
        for width in (1, 2):
            for wires in itertools.permutations(range(4), width):
                at = tuple(qubits[w] for w in wires)
                assert (wires in part[name]) == (at in whole[name])
                if wires in part[name]:
                    assert part[name][wires] == whole[name][at]
    coupled = {frozenset(qubits[w] for w in wires) for wires in part["ecr"]}
    assert coupled == {frozenset(e) for e in [(62, 61), (61, 60), (60, 53)]}


def test_control_flow_is_left_out_and_measurement_groups_are_kept():
    target = Target(num_qubits=4, concurrent_measurements=[[0, 1], [2, 3]])
    target.add_instruction(IfElseOp, name="if_else")
    target.add_instruction(Measure(), {(q,): told(0.1) for q in range(4)})
    part = restrict_target(target, [3, 1])
    assert set(part.operation_names) == {"measure"}
    assert part.concurrent_measurements == [[1], [0]]


class PartOfDevice(BackendV2):
    """The least that `NoiseModel.from_backend` asks for."""

    def __init__(self, target):
        super().__init__(name="part")
        self._part = target

    @property
    def target(self):
        return self._part

    max_circuits = None

    @classmethod
    def _default_options(cls):
        return Options()

    def run(self, run_input, **options):
        raise NotImplementedError


@pytest.mark.parametrize(
    "backend", [FakeManilaV2(), GenericBackendV2(5, seed=3)], ids=["manila", "generic"]
)
def test_noise_of_a_restricted_target_is_the_device_noise(backend):
    qubits = (3, 1, 2)
    whole = NoiseModel.from_backend(backend)
    part = NoiseModel.from_backend(PartOfDevice(restrict_target(backend.target, qubits)))
    assert set(part.noise_qubits) == {0, 1, 2}
    for name, errors in part._local_quantum_errors.items():
        for wires, error in errors.items():
            expected = whole._local_quantum_errors[name][tuple(qubits[w] for w in wires)]
            np.testing.assert_allclose(
                error.to_quantumchannel().data, expected.to_quantumchannel().data, atol=1e-12
            )
    for wires, readout in part._local_readout_errors.items():
        expected = whole._local_readout_errors[tuple(qubits[w] for w in wires)]
        np.testing.assert_array_equal(readout.probabilities, expected.probabilities)
    assert len(part._local_readout_errors) == 3


def test_shape_target_is_uniform():
    device = read_device(FakeTorino().target, 133)
    shape = shape_target(device, 3, [(0, 1), (1, 2)])
    assert set(shape["cz"]) == {(0, 1), (1, 0), (1, 2), (2, 1)}
    assert set(shape.operation_names) == {"rz", "sx", "x", "cz"}
    assert len({(p.error, p.duration) for p in shape["cz"].values()}) == 1
    assert shape["cz"][0, 1].error == pytest.approx(0.00419, abs=1e-5)
    assert set(shape_target(device, 1, []).operation_names) == {"rz", "sx", "x"}
