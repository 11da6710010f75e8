"""What placing a circuit needs to know of a Qiskit `Target`, as arrays; and parts of a `Target`.

Losses are -log(1 - error): they add up along a circuit. An error that the target does not tell
counts as the worst usable one of its kind, so that an uncalibrated gate is never preferred; a
target that tells none (an ideal one) has losses of 0.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from qiskit.circuit import Delay, Gate, Measure, Operation, Reset
from qiskit.transpiler import InstructionProperties, Target

from qpc_qiskit.common.arrays import Array, Mask

Qargs = tuple[int, ...]

BROKEN = 0.5
"""Gates and readouts with an error of this or more are not used; IBM gives broken gates error 1."""


@dataclass(frozen=True, eq=False)
class Device:
    """A target's usable part: N qubits, its common gates, and what they cost."""

    target: Target = field(repr=False)
    gates: tuple[str, ...]
    """One- and two-qubit gates that the usable qubits and couplings have in common."""
    usable: Mask = field(repr=False)
    """(N,) qubits with a working measurement and working gates."""
    coupled: Mask = field(repr=False)
    """(N, N), symmetric: pairs of usable qubits with working two-qubit gates."""
    losses: Mapping[str, Array] = field(repr=False)
    """Name -> (N,) for one-qubit gates and `measure`, (N, N) for two-qubit gates."""
    durations: Mapping[str, float] = field(repr=False)
    """Name -> median duration in seconds, of the gates for which one is told."""
    decay: Array = field(repr=False)
    """(N,) infidelity of an idle qubit per second: 1/(6 T1) + 1/(3 T2); 0 where unknown."""

    @property
    def num_qubits(self) -> int:
        """N."""
        return len(self.usable)


def read_device(
    target: Target,
    num_qubits: int,
    bad_qubits: Iterable[int] = (),
    bad_edges: Iterable[Qargs] = (),
) -> Device:
    """The usable part of a target.

    Args:
        target: any target, also with global operations or without error data.
        num_qubits: N of a target that has no size of its own (an ideal simulator).
        bad_qubits: not to be used, whatever the target tells.
        bad_edges: pairs of qubits not to be used, in either direction.
    """
    size = num_qubits if target.num_qubits is None else target.num_qubits
    names = [n for n in sorted(target.operation_names) if _width(target, n) in (1, 2)]
    # A synthesis does not keep to the angles of a fractional gate (rzz from 0 to pi/2).
    names = [n for n in names if not has_angle_bounds(target, n)]
    errors = {name: _errors(target, name, size) for name in names}
    if "measure" in target.operation_names:
        errors["measure"] = _errors(target, "measure", size)

    usable = np.ones(size, bool)
    usable[[q for q in bad_qubits if q < size]] = False
    singles = [n for n in names if errors[n].ndim == 1 and n != "id"]  # "id" is never put in
    common_singles = _common(singles, errors, usable)
    for name in [*common_singles, *errors.keys() & {"measure"}]:
        usable &= _works(errors[name])

    pairs = usable[:, None] & usable & ~np.eye(size, dtype=bool)
    for a, b in bad_edges:
        if max(a, b) < size:
            pairs[a, b] = pairs[b, a] = False
    # A gate that works in one direction only serves both; one broken direction condemns the pair.
    either = {n: np.fmax(errors[n], errors[n].T) for n in names if errors[n].ndim == 2}
    couplers = _common(list(either), either, pairs)
    coupled = pairs if couplers else np.zeros_like(pairs)
    for name in couplers:
        coupled &= _works(either[name])

    return Device(
        target,
        (*common_singles, *couplers),
        usable,
        coupled,
        {n: _losses(e, usable if e.ndim == 1 else pairs) for n, e in errors.items()},
        {n: d for n in errors if (d := _median(_properties(target, n), "duration")) is not None},
        _decay(target, size),
    )


def has_angle_bounds(target: Target, name: str) -> bool:
    """Whether a gate takes some angles only; before Qiskit 2.2 no target could tell."""
    ask = getattr(target, "gate_has_angle_bounds", None)
    return ask is not None and bool(ask(name))


def restrict_target(target: Target, qubits: Sequence[int]) -> Target:
    """The part of a target on some of its qubits, as a target of its own.

    Gates, measurements, resets and delays keep their properties, control flow is left out. A noise
    model made of the result is the device's own on these qubits.

    Args:
        target: the device's target.
        qubits: qubit i of the result is `qubits[i]` of the device.
    """
    told = target.qubit_properties
    result = Target(
        description=target.description,
        num_qubits=len(qubits),
        dt=target.dt,
        granularity=target.granularity,
        min_length=target.min_length,
        pulse_alignment=target.pulse_alignment,
        acquire_alignment=target.acquire_alignment,
        qubit_properties=[told[q] for q in qubits] if told else None,
        concurrent_measurements=_restrict_groups(target.concurrent_measurements, qubits),
    )
    for name in target.operation_names:
        operation = target.operation_from_name(name)
        if isinstance(operation, Gate | Measure | Reset | Delay):
            known = target[name]
            places = _places(known, operation.num_qubits, range(len(qubits)), qubits)
            if places:
                result.add_instruction(operation, places, name=name)
    return result


def shape_target(device: Device, num_qubits: int, edges: Iterable[tuple[int, int]]) -> Target:
    """A uniform target of the device's common gates, with two-qubit gates on undirected edges.

    Every gate has the device's median error and duration, so that a synthesis with a choice of
    gates knows which one is the better.
    """
    both = [direction for a, b in edges for direction in ((a, b), (b, a))]
    places: dict[int, list[Qargs]] = {1: [(i,) for i in range(num_qubits)], 2: [*both]}
    result = Target(num_qubits=num_qubits, dt=device.target.dt)
    for name in device.gates:
        gate = device.target.operation_from_name(name)
        known = list(_properties(device.target, name))
        properties = InstructionProperties(
            error=_median(known, "error"), duration=_median(known, "duration")
        )
        if at := places[gate.num_qubits]:
            uniform: dict[Qargs, InstructionProperties] = dict.fromkeys(at, properties)
            result.add_instruction(gate, uniform, name=name)
    return result


def _width(target: Target, name: str) -> int:
    """Qubits of a gate; 0 for what is no gate (control flow is told as a class)."""
    operation = target.operation_from_name(name)
    return operation.num_qubits if isinstance(operation, Gate) else 0


def _places(
    known: Mapping[Qargs | None, InstructionProperties | None] | None,
    width: int,
    wires: Sequence[int],
    qubits: Sequence[int],
) -> dict[Qargs, InstructionProperties | None]:
    """Properties by wires, where wire i is qubit `qubits[i]`; global operations are everywhere."""
    is_global = known is None or None in known
    return {
        place: None if is_global or known is None else known[at]
        for place in itertools.permutations(wires, width)
        if is_global or (known is not None and (at := tuple(qubits[w] for w in place)) in known)
    }


def _restrict_groups(
    groups: list[list[int]] | None, qubits: Sequence[int]
) -> list[list[int]] | None:
    wire = {q: i for i, q in enumerate(qubits)}
    kept = [[wire[q] for q in group if q in wire] for group in groups or ()]
    return [group for group in kept if group] or None


def _properties(target: Target, name: str) -> Iterator[InstructionProperties]:
    known = target[name] or {}
    return (properties for properties in known.values() if properties is not None)


def _median(known: Iterable[InstructionProperties], attribute: str) -> float | None:
    values = [getattr(properties, attribute) for properties in known]
    told = [v for v in values if v is not None and math.isfinite(v)]
    return float(np.median(told)) if told else None


def _errors(target: Target, name: str, size: int) -> Array:
    """Errors by qubit or by ordered pair: NaN where there is no such gate, -1 where not told."""
    operation: Operation = target.operation_from_name(name)
    errors = np.full((size,) * operation.num_qubits, np.nan)
    known = target[name]
    if known is None or None in known:
        errors[...] = -1.0
        return errors
    for qargs, properties in known.items():
        error = None if properties is None else properties.error
        errors[qargs] = -1.0 if error is None or math.isnan(error) else error
    return errors


def _works(errors: Array) -> Mask:
    return errors < BROKEN  # False for NaN


def _common(names: list[str], errors: Mapping[str, Array], where: Mask) -> list[str]:
    """The gates that work on most of the places where any does; else the most frequent one."""
    works = {name: _works(errors[name]) & where for name in names}
    counts = {name: int(mask.sum()) for name, mask in works.items()}
    anywhere = int(np.logical_or.reduce([np.zeros_like(where), *works.values()]).sum())
    common = [name for name in names if 2 * counts[name] > anywhere]
    return common or [name for name in names if counts[name] == max(counts.values()) > 0][:1]


def _losses(errors: Array, where: Mask) -> Array:
    """-log(1 - error), in a missing direction the other one's."""
    if errors.ndim == 2:
        errors = np.where(np.isnan(errors), errors.T, errors)
    told = errors[where & _works(errors) & (errors >= 0)]
    worst = told.max() if told.size else 0.0
    known = np.where(errors >= 0, errors, worst)  # NaN, too, is not told
    return -np.log1p(-np.minimum(known, 1 - 1e-9))


def _decay(target: Target, size: int) -> Array:
    """(N,) per second; the worst known value where only some qubits tell theirs."""
    told = target.qubit_properties or [None] * size
    times = [(getattr(q, "t1", None), getattr(q, "t2", None)) for q in told]
    rates = np.array([_rate(t1, 6) + _rate(t2, 3) for t1, t2 in times])
    known = rates[np.isfinite(rates)]
    return np.where(np.isfinite(rates), rates, known.max() if known.size else 0.0)


def _rate(time: float | None, weight: int) -> float:
    return 1 / (weight * time) if time is not None and time > 0 else math.nan
