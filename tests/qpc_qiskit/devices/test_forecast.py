"""Predicted time on a device."""

import numpy as np
import pytest
from qiskit import QuantumCircuit, transpile
from qiskit.circuit import Measure, Parameter, Reset
from qiskit.circuit.library import CXGate, RZGate, SXGate
from qiskit.transpiler import InstructionProperties, Target
from qiskit_ibm_runtime.fake_provider import FakeFez

from qpc_qiskit.circuits.ansatz import make_ansatz
from qpc_qiskit.circuits.encoder import make_encoder
from qpc_qiskit.devices.forecast import (
    SECONDS_PER_JOB,
    JobCost,
    ShotTimes,
    circuit_seconds,
    shot_times,
    shots_for_equal_error,
    variance_after_calibration,
)
from qpc_qiskit.devices.tiling import information
from qpc_qiskit.rows.pubs import make_template

MEASURE = {0: 900e-9, 1: 1000e-9, 2: 1200e-9, 3: 5000e-9}
SX = {0: 20e-9, 1: 30e-9, 2: 40e-9, 3: 50e-9}
CX = {(0, 1): 300e-9, (1, 0): 350e-9, (1, 2): 400e-9, (2, 3): 500e-9}


def target_of(*, sx=SX, cx=CX, measure=MEASURE, reset=None):
    """Four qubits in a line; a duration of None is not told."""

    def told(durations):
        return {
            (q if isinstance(q, tuple) else (q,)): InstructionProperties(duration=seconds)
            for q, seconds in durations.items()
        }

    target = Target(num_qubits=4)
    target.add_instruction(SXGate(), told(sx))
    target.add_instruction(RZGate(Parameter("a")), told(dict.fromkeys(range(4), 0.0)))
    target.add_instruction(CXGate(), told(cx))
    target.add_instruction(Measure(), told(measure))
    if reset is not None:
        target.add_instruction(Reset(), told(reset))
    return target


def circuit():
    """On wires 0, 1, 2."""
    result = QuantumCircuit(3)
    result.rz(Parameter("angle"), 0)
    result.sx(0)
    result.sx(1)
    result.cx(0, 1)
    result.sx(2)
    result.sx(2)
    result.cx(1, 2)
    result.sx(0)
    return result


class TestCircuitSeconds:
    def test_by_hand(self):
        """sx on 1 ends at 30 ns, cx 0-1 at 330, cx 1-2 at 730; then the slowest of three reads."""
        found = circuit_seconds(circuit(), target_of(), [0, 1, 2])
        assert found == pytest.approx((30 + 300 + 400 + 1200) * 1e-9)

    def test_on_other_qubits(self):
        """Wires 0, 1, 2 on qubits 1, 2, 3."""
        found = circuit_seconds(circuit(), target_of(), [1, 2, 3])
        assert found == pytest.approx((40 + 400 + 500 + 5000) * 1e-9)

    def test_the_direction_of_a_gate_counts(self):
        one = QuantumCircuit(2)
        one.cx(0, 1)
        assert circuit_seconds(one, target_of(), [0, 1]) == pytest.approx(1300e-9)
        assert circuit_seconds(one, target_of(), [1, 0]) == pytest.approx(1350e-9)

    def test_gates_on_other_wires_run_at_the_same_time(self):
        wide = QuantumCircuit(2)
        for _ in range(4):
            wide.sx(0)
            wide.sx(1)
        assert circuit_seconds(wide, target_of(), [0, 1]) == pytest.approx(1120e-9)

    def test_a_barrier_waits(self):
        waiting = QuantumCircuit(2)
        waiting.sx(1)
        waiting.barrier()
        waiting.sx(0)
        assert circuit_seconds(waiting, target_of(), [0, 1]) == pytest.approx(1050e-9)

    def test_an_empty_circuit_is_measured(self):
        assert circuit_seconds(QuantumCircuit(2), target_of(), [0, 1]) == pytest.approx(1000e-9)

    def test_nothing_told(self):
        unknown = dict.fromkeys(range(4))
        target = Target(num_qubits=4)
        for gate in (SXGate(), Measure()):
            target.add_instruction(gate, {(q,): None for q in unknown})
        target.add_instruction(CXGate(), {pair: InstructionProperties() for pair in CX})
        target.add_instruction(RZGate(Parameter("a")))  # global: no properties at all
        assert circuit_seconds(circuit(), target, [0, 1, 2]) is None
        assert shot_times(circuit(), target, [0, 1, 2], 250e-6) is None

    def test_a_duration_that_is_missing_counts_as_none(self):
        """Better too little than nothing."""
        target = target_of(sx={**SX, 1: None})
        found = circuit_seconds(circuit(), target, [0, 1, 2])
        assert found == pytest.approx((20 + 300 + 400 + 1200) * 1e-9)

    def test_a_target_without_measurement(self):
        target = Target(num_qubits=2)
        target.add_instruction(SXGate(), {(0,): InstructionProperties(duration=1e-6), (1,): None})
        one = QuantumCircuit(2)
        one.sx(0)
        assert circuit_seconds(one, target, [0, 1]) == 1e-6

    @pytest.mark.parametrize("num_qubits", [1, 2, 4])
    def test_equals_qiskits_own_schedule(self, num_qubits):
        """As late as possible instead of as soon: the same length, all qubits being read last."""
        backend = FakeFez()
        template = make_template(
            make_encoder("multiplexor", num_qubits),
            make_ansatz("strongly_entangling", num_qubits, 2),
        )
        laid = transpile(
            template.circuit,
            backend,
            initial_layout=[20, 21, 22, 23][:num_qubits],
            seed_transpiler=1,
            optimization_level=1,
        )
        used = sorted({laid.find_bit(q).index for gate in laid.data for q in gate.qubits})
        small = QuantumCircuit(len(used))
        for gate in laid.data:
            small.append(gate.operation, [used.index(laid.find_bit(q).index) for q in gate.qubits])

        measured = laid.copy()
        measured.barrier(used)
        measured.add_register(*QuantumCircuit(0, len(used)).cregs)
        measured.measure(used, range(len(used)))
        values = np.linspace(0.1, 1, measured.num_parameters)
        scheduled = transpile(
            measured.assign_parameters(values),
            backend,
            optimization_level=0,
            scheduling_method="alap",
        )
        expected = scheduled.estimate_duration(backend.target, unit="s")
        found = circuit_seconds(small, backend.target, used)
        assert found == pytest.approx(expected, rel=1e-9)
        assert found > 1e-6


class TestShotTimes:
    def test_delay_reset_and_circuit(self):
        target = target_of(reset={0: 2e-6, 1: 3e-6, 2: None, 3: 9e-6})
        found = shot_times(circuit(), target, [0, 1, 2], 250e-6)
        assert found.circuit == pytest.approx(1930e-9)
        assert found.reset == 3e-6
        assert found.rep_delay == 250e-6
        assert found.total() == pytest.approx(250e-6 + 3e-6 + 1930e-9)

    def test_without_reset(self):
        found = shot_times(circuit(), target_of(), [0, 1, 2], 250e-6)
        assert found.reset == 0
        assert found.total() == pytest.approx(250e-6 + 1930e-9)

    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            ({}, 100 + 30 + 7),
            ({"rep_delay": None}, 100 + 30 + 7),
            ({"rep_delay": 0.0}, 30 + 7),
            ({"rep_delay": 20.0}, 20 + 30 + 7),
            ({"resets": False}, 100 + 7),
            ({"folds": 3.0}, 100 + 30 + 21),
            ({"rep_delay": 1.0, "resets": False, "folds": 2.5}, 1 + 17.5),
        ],
        ids=str,
    )
    def test_settings(self, settings, expected):
        times = ShotTimes(circuit=7.0, reset=30.0, rep_delay=100.0)
        assert times.total(**settings) == expected

    def test_without_a_delay_it_is_not_known(self):
        assert shot_times(circuit(), target_of(), [0, 1, 2], None) is None

    def test_the_delay_is_nine_tenths_of_it_on_a_device(self):
        backend = FakeFez()
        one = QuantumCircuit(1)
        delay = backend.default_rep_delay
        found = shot_times(one, backend.target, [5], delay).total()
        assert 0.9 < delay / found < 1


class TestJobCost:
    def test_seconds(self):
        cost = JobCost(shots_per_row=1000, shots_per_job=500, seconds_per_shot=260e-6)
        assert cost.seconds(10) == pytest.approx(SECONDS_PER_JOB + 10_500 * 260e-6)
        assert cost.seconds(0) == pytest.approx(SECONDS_PER_JOB + 0.13)

    def test_not_known(self):
        assert JobCost(shots_per_row=1000).seconds(10) is None


def test_variance_after_calibration():
    assert variance_after_calibration([1.0]) == 1
    assert variance_after_calibration(iter([0.5, 1.0])) == pytest.approx((4 + 1) / 2)
    assert variance_after_calibration([0.9, 1e-200]) == np.inf
    fidelities = [0.8, 0.5, 0.7]  # J patches take a J-th of the time
    assert information(fidelities) == pytest.approx(3 / variance_after_calibration(fidelities))


def test_shots_for_equal_error():
    assert shots_for_equal_error(1024, 2.0, 2.0) == 1024
    assert shots_for_equal_error(1024, 0.1 + 0.2, 0.3) == 1024  # whatever the last bit
    assert shots_for_equal_error(100, 1.5, 1.0) == 150
    assert shots_for_equal_error(100, 1.501, 1.0) == 151
