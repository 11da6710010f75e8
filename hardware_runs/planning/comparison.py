"""What the same rows would take if they were sent in other ways, before anything is sent."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from qpc_qiskit.backends.destinations import Destination
from qpc_qiskit.circuits.spec import LayerSpec
from qpc_qiskit.circuits.tail import absorb_tail
from qpc_qiskit.devices.forecast import shots_for_equal_error, variance_after_calibration
from qpc_qiskit.engines import EstimatorEngine
from qpc_qiskit.errors import BackendError, EngineError
from qpc_qiskit.options.economy import BEST, MOST_BRICKWALL_QUBITS, PLAIN, Economy
from qpc_qiskit.rows.planning import plan_parts
from qpc_qiskit.rows.prepared import Prepared

OpenEngine = Callable[[Economy], EstimatorEngine]
"""An engine that plans, for the same backend and shots."""


@dataclass(frozen=True, kw_only=True)
class Sent:
    """Jobs and executions that rows take."""

    num_executions: int
    """Of circuits, those of reference rows included."""
    num_jobs: int
    seconds: tuple[float, ...] | None
    """Predicted QPU seconds of each job; None: not known, or no device."""

    @property
    def qpu_seconds(self) -> float | None:
        """QPU seconds of all jobs; None: not known, or no device."""
        return None if self.seconds is None else math.fsum(self.seconds)


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer."""

    layer: str
    spec: LayerSpec
    num_rows: int
    """After equal directions were merged."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A way to send the rows of a run, and what it takes."""

    name: str
    economy: Economy
    is_asked: bool
    """Whether it is what was asked for."""
    problem: str | None = None
    """Why it cannot be; None: it can, and the rest is told."""
    num_patches: tuple[int, ...] = ()
    """By layer, as all tuples here."""
    num_two_qubit_gates: tuple[int, ...] = ()
    """On each patch."""
    two_qubit_depth: tuple[int, ...] = ()
    fidelity: tuple[tuple[float, float], ...] = ()
    """Of the worst and of the best patch."""
    num_executions: int = 0
    num_jobs: int = 0
    qpu_seconds: float | None = None
    cost: float | None = None
    equal_error_shots: int | None = None
    """With which values of every layer, divided by the predicted fidelity, have at most the
    standard error that the plain way's have with the shots asked for; None: not known, or exact
    values."""
    equal_error_seconds: float | None = None
    """QPU seconds of all jobs with so many shots."""


def sent(
    destination: Destination, prepared: Prepared, num_references: int, num_rows: int, shots: int
) -> Sent:
    """What rows take in one call of a layer; how they are encoded does not matter.

    Args:
        destination: to which they would be sent.
        prepared: for it.
        num_references: of each job.
        num_rows: of the call.
        shots: of each execution; 0: exact values.
    """
    parts, seconds = plan_parts(
        num_rows,
        len(prepared.parts[0].parameters),
        limits=destination.limits,
        cost=destination.cost(prepared, shots),
        bytes_per_shot=prepared.template.circuit.num_qubits * destination.keeps_shots,
        num_patches=prepared.num_patches,
        num_references=num_references,
    )
    executions = sum(part.stop - part.start for part in parts)
    return Sent(num_executions=executions, num_jobs=len(parts), seconds=seconds)


def compared(
    calls: Sequence[Call],
    asked: Economy,
    estimator: EstimatorEngine,
    open_engine: OpenEngine,
    rate: float | None,
) -> tuple[Choice, ...]:
    """What was asked for beside the plain way and the ways that save QPU time.

    Args:
        calls: of all layers.
        asked: as which the run is planned.
        estimator: which plans it.
        open_engine: for the others.
        rate: price of a second.
    """
    named = ways(asked, [call.spec for call in calls])
    if asked not in named.values():
        named = {"as asked": asked, **named}
    engines = {_of_circuits(asked): estimator}  # references change no circuit
    for economy in named.values():
        key = _of_circuits(economy)
        if key not in engines:
            engines[key] = open_engine(key)
    plain = _variances(engines[PLAIN], calls)
    return tuple(
        _choice(
            Choice(name=name, economy=economy, is_asked=economy == asked),
            calls,
            engines[_of_circuits(economy)],
            rate,
            plain,
        )
        for name, economy in named.items()
    )


def _variances(engine: EstimatorEngine, calls: Sequence[Call]) -> dict[str, float] | None:
    """Of a calibrated value of one shot, by layer; None: the layers do not fit."""
    try:
        layers = {call.layer: engine.prepare(call.spec).placements for call in calls}
    except BackendError:
        return None
    return {
        name: variance_after_calibration(each.patch.fidelity for each in placements)
        for name, placements in layers.items()
    }


def _of_circuits(economy: Economy) -> Economy:
    """What of it decides the circuits."""
    return economy.changed(num_references=0, calibrate=True)


def ways(asked: Economy, specs: Sequence[LayerSpec]) -> dict[str, Economy]:
    """The plain way, and one that saves more from step to step; no step without an effect.

    Args:
        asked: whose patches and gap are taken, if it has several.
        specs: of all layers.
    """
    num_qubits = max(spec.num_qubits for spec in specs)
    patches = None if asked.num_patches == 1 else asked.num_patches
    packed = Economy(num_patches=patches, gap=asked.gap)
    steps = {"plain": PLAIN, "packed": packed}
    name, last = "packed", packed
    if num_qubits <= MOST_BRICKWALL_QUBITS:
        name, last = f"{name}, brickwall", last.changed(encoder="brickwall")
    if any(absorb_tail(spec.ansatz.template, spec.observables).num_absorbed for spec in specs):
        name, last = f"{name}, tail", last.changed(absorb_tail=True)
    steps[name] = last
    most_maps = max(spec.num_maps for spec in specs)
    steps[f"{name}, references"] = last.changed(num_references=2 * most_maps)
    best = BEST.for_qubits(num_qubits)
    if patches is None and not asked.gap and best not in steps.values():
        steps["recommended"] = best
    return steps


def _choice(
    choice: Choice,
    calls: Sequence[Call],
    engine: EstimatorEngine,
    rate: float | None,
    plain: dict[str, float] | None,
) -> Choice:
    """Told in full.

    Args:
        choice: its name and options.
        calls: of all layers.
        engine: with its circuits.
        rate: price of a second.
        plain: see `_variances`, of the plain way.
    """
    references = choice.economy.num_references or 0
    try:
        layers = {call.layer: engine.prepare(call.spec) for call in calls}
        all_sent = _all_sent(engine, layers, calls, references, engine.shots or 0)
    except BackendError as error:
        return replace(choice, problem=str(error))
    equal_shots = _equal_error_shots(engine, calls, plain)
    equal = None
    if equal_shots is not None:
        with suppress(EngineError):  # so many that an execution exceeds a limit of jobs
            found = _all_sent(engine, layers, calls, references, equal_shots)
            equal = total_of(each.qpu_seconds for each in found)
    placements = [prepared.placements for prepared in layers.values()]
    seconds = total_of(each.qpu_seconds for each in all_sent)
    return replace(
        choice,
        num_patches=tuple(map(len, placements)),
        num_two_qubit_gates=tuple(each[0].num_two_qubit_gates for each in placements),
        two_qubit_depth=tuple(each[0].two_qubit_depth for each in placements),
        fidelity=tuple((each[-1].patch.fidelity, each[0].patch.fidelity) for each in placements),
        num_executions=sum(each.num_executions for each in all_sent),
        num_jobs=sum(each.num_jobs for each in all_sent),
        qpu_seconds=seconds,
        cost=product_of(seconds, rate),
        equal_error_shots=equal_shots,
        equal_error_seconds=equal,
    )


def _all_sent(
    engine: EstimatorEngine,
    layers: Mapping[str, Prepared],
    calls: Sequence[Call],
    references: int,
    shots: int,
) -> list[Sent]:
    return [
        sent(engine.destination, layers[call.layer], references, call.num_rows, shots)
        for call in calls
    ]


def _equal_error_shots(
    engine: EstimatorEngine, calls: Sequence[Call], plain: dict[str, float] | None
) -> int | None:
    """Enough for every layer, for a run has one number of shots."""
    own = _variances(engine, calls)
    if plain is None or own is None or engine.shots is None:
        return None
    if not all(map(math.isfinite, (*plain.values(), *own.values()))):
        return None
    return max(shots_for_equal_error(engine.shots, own[name], plain[name]) for name in own)


def total_of(values: Iterable[float | None]) -> float | None:
    """The sum; None if one of them is not known."""
    told = list(values)
    known = [value for value in told if value is not None]
    return math.fsum(known) if len(known) == len(told) else None


def product_of(value: float | None, factor: float | None) -> float | None:
    """The product; None if one of them is not known."""
    return None if value is None or factor is None else value * factor
