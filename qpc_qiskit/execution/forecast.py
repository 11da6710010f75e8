"""What rows will cost on a device: predicted QPU seconds. Pure functions.

IBM's service charges about 2 s a job and, for every execution, the repetition delay, the reset and
the circuit itself; the delay is over 90 % of it (documentation page "Workload usage").
"""

from __future__ import annotations

from collections.abc import Sequence

from qiskit import QuantumCircuit
from qiskit.transpiler import Target

SECONDS_PER_JOB = 2.0


def circuit_seconds(circuit: QuantumCircuit, target: Target, qubits: Sequence[int]) -> float | None:
    """Duration of a circuit and the measurement of its qubits, each gate as soon as it can be.

    Args:
        circuit: valid for `target` on these qubits.
        target: of the whole device.
        qubits: wire i is qubit `qubits[i]`.

    Returns:
        Seconds; None if the target tells no durations.
    """
    known = False

    def seconds(name: str, places: tuple[int, ...]) -> float:
        nonlocal known
        properties = target[name].get(places) if name in target else None
        if properties is None or properties.duration is None:
            return 0.0
        known = True
        return float(properties.duration)

    free = [0.0] * circuit.num_qubits  # when each wire is done
    for instruction in circuit.data:
        wires = [circuit.find_bit(q).index for q in instruction.qubits]
        places = tuple(qubits[wire] for wire in wires)
        end = max(free[wire] for wire in wires) + seconds(instruction.operation.name, places)
        for wire in wires:
            free[wire] = end
    total = max(free) + max(seconds("measure", (qubit,)) for qubit in qubits)
    return total if known else None


def execution_seconds(
    circuit: QuantumCircuit, target: Target, qubits: Sequence[int], rep_delay: float | None
) -> float | None:
    """Seconds of one shot: repetition delay, reset and circuit; None where they are not known."""
    duration = circuit_seconds(circuit, target, qubits)
    if duration is None or rep_delay is None:
        return None
    resets = [target["reset"].get((q,)) for q in qubits] if "reset" in target else []
    known = [told.duration or 0.0 for told in resets if told is not None]
    return rep_delay + max(known, default=0.0) + duration


def qpu_seconds(num_jobs: int, num_executions: int, seconds_each: float) -> float:
    """Predicted usage of jobs with that many shots in all."""
    return SECONDS_PER_JOB * num_jobs + num_executions * seconds_each
