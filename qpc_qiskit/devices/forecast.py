"""What rows will cost on a device: predicted QPU seconds. Pure functions.

IBM's service charges about 2 s a job and, for every shot, the repetition delay, the reset and the
circuit itself; the delay is over 90 % of it (documentation page "Workload usage").
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qiskit import QuantumCircuit
from qiskit.transpiler import Target

SECONDS_PER_JOB = 2.0
MARGIN = 1.5
"""A job may take this many times the predicted QPU time before the service ends it."""
LONGEST_JOB_SECONDS = 10800
"""The service's own limit."""


def cap_seconds(predicted_seconds: float | None, margin: float = MARGIN) -> int:
    """QPU time after which the service ends a job, in whole seconds.

    Args:
        predicted_seconds: of the job; None: not known.
        margin: how many times of it are allowed.
    """
    if predicted_seconds is None:
        return LONGEST_JOB_SECONDS
    return min(math.ceil(predicted_seconds * margin), LONGEST_JOB_SECONDS)


def variance_after_calibration(fidelities: Iterable[float]) -> float:
    """Of values of all patches together, in units of that of a value without noise.

    Noise shrinks a value by about the fidelity, and calibration divides by that.

    Args:
        fidelities: predicted, of each patch, all of which run as many rows.

    Returns:
        The mean of 1/fidelity^2; infinite where a patch leaves nothing of a value.
    """
    squares = [1 / fidelity**2 if fidelity**2 else math.inf for fidelity in fidelities]
    return math.fsum(squares) / len(squares)


def shots_for_equal_error(shots: int, variance: float, wanted: float) -> int:
    """Shots with which values have the standard error that others have with theirs.

    Args:
        shots: of the others.
        variance: of one shot.
        wanted: the others', of one shot.
    """
    return math.ceil(shots * variance / wanted - 1e-9)


@dataclass(frozen=True, kw_only=True)
class ShotTimes:
    """Where the time of a shot goes, in seconds."""

    circuit: float
    """Gates and measurement."""
    reset: float
    """Of the qubits, before the circuit."""
    rep_delay: float
    """Between shots."""

    def total(
        self, *, rep_delay: float | None = None, resets: bool = True, folds: float = 1
    ) -> float:
        """Seconds of a shot.

        Args:
            rep_delay: instead of the backend's default.
            resets: whether qubits are reset.
            folds: how often each gate is run, as zero-noise extrapolation does.
        """
        delay = self.rep_delay if rep_delay is None else rep_delay
        return delay + self.reset * resets + self.circuit * folds


@dataclass(frozen=True, kw_only=True)
class JobCost:
    """What a job costs, from the number of its rows."""

    shots_per_row: int
    """Shots that are executed for a row: mitigation and twirling take more than is asked for."""
    shots_per_job: int = 0
    """Besides the rows, to calibrate."""
    seconds_per_shot: float | None = None
    """Predicted on the device; None: not known, or no device."""

    def seconds(self, num_rows: int) -> float | None:
        """Predicted QPU seconds of a job; None: not known."""
        if self.seconds_per_shot is None:
            return None
        shots = num_rows * self.shots_per_row + self.shots_per_job
        return SECONDS_PER_JOB + shots * self.seconds_per_shot


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


def shot_times(
    circuit: QuantumCircuit, target: Target, qubits: Sequence[int], rep_delay: float | None
) -> ShotTimes | None:
    """Where the time of a shot goes; None where durations or the repetition delay are not known."""
    duration = circuit_seconds(circuit, target, qubits)
    if duration is None or rep_delay is None:
        return None
    resets = [target["reset"].get((q,)) for q in qubits] if "reset" in target else []
    known = [told.duration or 0.0 for told in resets if told is not None]
    return ShotTimes(circuit=duration, reset=max(known, default=0.0), rep_delay=rep_delay)
