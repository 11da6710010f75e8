"""From a spec to Aer's errors: which error follows which gate, and under which label."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from qiskit.circuit.library import RXGate, RYGate, RZGate, RZZGate
from qiskit.transpiler.basepasses import TransformationPass
from qiskit_aer.noise import (
    NoiseModel,
    QuantumError,
    ReadoutError,
    amplitude_damping_error,
    coherent_unitary_error,
    depolarizing_error,
    pauli_error,
    phase_damping_error,
    thermal_relaxation_error,
)

from noise_models.channels import (
    GATES,
    LARGEST_QUBIT,
    AmplitudeDamping,
    BitFlip,
    Depolarizing,
    GateChannel,
    OverRotation,
    PhaseDamping,
    PhaseFlip,
    Readout,
    ThermalRelaxation,
    ZZCrosstalk,
)
from noise_models.passes import InsertCrosstalk, LabelStages
from noise_models.spec import NoiseSpec
from qpc_qiskit.devices.noise import CircuitNoise
from qpc_qiskit.errors import NoiseError

CROSSTALK = "zz_crosstalk"
"""Label of the identities that carry it; behind it the number of a second channel."""


def build(spec: NoiseSpec, num_qubits: int | None = None) -> CircuitNoise:
    """See `NoiseSpec.build`."""
    largest = spec.largest_qubit
    if num_qubits is not None and largest >= num_qubits:
        raise NoiseError(
            f"{spec.name}: a channel is told for qubit {largest}; the circuits have qubits 0 to "
            f"{num_qubits - 1} only."
        )
    width = LARGEST_QUBIT + 1 if num_qubits is None else num_qubits
    model = NoiseModel(basis_gates=["rz", *GATES, spec.two_qubit_gate])
    on_gates = [c for c in spec.channels if isinstance(c, GateChannel)]
    crosstalk = [c for c in spec.channels if isinstance(c, ZZCrosstalk)]
    tells_stages = any(
        c.on in ("encoder", "ansatz") for c in spec.channels if isinstance(c, _Placed)
    )
    for stage in ("encoder", "ansatz") if tells_stages else (None,):
        acting = [c for c in on_gates if stage is None or stage in c.stages]
        for gate in (*GATES, spec.two_qubit_gate):
            size = 1 if gate in GATES else 2
            here = [c for c in acting if c.acts_on(size)]
            _add(model, _label(stage, gate), gate, here, size, width)
    _add(model, "measure", "measure", [c for c in on_gates if _is_last(c)], 1, width)
    passes: list[TransformationPass] = []
    for i, channel in enumerate(crosstalk):
        passes.append(_add_crosstalk(model, channel, CROSSTALK + f"_{i}" * bool(i), tells_stages))
    _add_readout(model, [c for c in spec.channels if isinstance(c, Readout)])
    if tells_stages:
        passes.append(LabelStages())
    return CircuitNoise(
        model, tuple(passes), tells_stages, name=spec.name, min_qubits=max(1, largest + 1)
    )


_Placed = GateChannel | ZZCrosstalk


def error_of(channel: GateChannel, gate: str, num_qubits: int) -> QuantumError | None:
    """The error after a gate, all of whose qubits the channel acts on; None: it has none.

    Args:
        channel: whatever its placement.
        gate: name, for times; `measure` as well.
        num_qubits: of the gate.
    """
    if isinstance(channel, Depolarizing) and num_qubits == 2:
        return depolarizing_error(channel.of_two_qubits, 2)
    one = _one_qubit_error(channel, gate)
    return one if one is None or num_qubits == 1 else one.tensor(one)


def crosstalk_error(angle_rad: float) -> QuantumError:
    """exp(-i angle/2 ZZ)."""
    return coherent_unitary_error(RZZGate(angle_rad).to_matrix())


def _one_qubit_error(channel: GateChannel, gate: str) -> QuantumError | None:
    match channel:
        case BitFlip(probability=p):
            return pauli_error([("X", p), ("I", 1 - p)])
        case PhaseFlip(probability=p):
            return pauli_error([("Z", p), ("I", 1 - p)])
        case Depolarizing(probability=p):
            return depolarizing_error(p, 1)
        case AmplitudeDamping(gamma=gamma, excited_population=excited):
            return amplitude_damping_error(gamma, excited)
        case PhaseDamping(gamma=gamma):
            return phase_damping_error(gamma)
        case ThermalRelaxation(t1_us=t1, t2_us=t2, excited_population=excited):
            time = channel.times_ns.get(gate, 0.0) / 1000  # type: ignore[call-overload]
            return thermal_relaxation_error(t1, t2, time, excited) if time else None
        case OverRotation(angle_rad=angle, axis=axis):
            rotation = {"x": RXGate, "y": RYGate, "z": RZGate}[axis]
            return coherent_unitary_error(rotation(angle).to_matrix())
        case _:
            raise AssertionError(f"no error is known for {type(channel).__name__}")


def _is_last(channel: GateChannel) -> bool:
    return channel.on == "before_measurement"


def _label(stage: str | None, name: str) -> str:
    return name if stage is None else f"{stage}.{name}"


def _add(
    model: NoiseModel,
    label: str,
    gate: str,
    channels: Sequence[GateChannel],
    size: int,
    width: int,
) -> None:
    """Add the errors after a gate: one for all places, and others where channels name qubits."""
    everywhere = _composed(error_of(c, gate, size) for c in channels if c.qubits is None)
    if everywhere is not None:
        model.add_all_qubit_quantum_error(everywhere, label)
    named = {q for c in channels for q in c.qubits or ()}
    known: dict[tuple[tuple[bool, ...], ...], QuantumError | None] = {}
    for place in itertools.permutations(range(width), size) if named else ():
        acts = tuple(tuple(c.qubits is None or q in c.qubits for q in place) for c in channels)
        if acts not in known:
            found = zip(channels, acts, strict=True)
            known[acts] = _composed(_error_where(c, gate, on) for c, on in found)
        if known[acts] is not None and named & set(place):
            # It overrides what is everywhere, which it holds.
            model.add_quantum_error(known[acts], label, place, warnings=False)


def _error_where(channel: GateChannel, gate: str, acts: tuple[bool, ...]) -> QuantumError | None:
    """The error after a gate, of which a channel acts on some qubits."""
    if all(acts):
        return error_of(channel, gate, len(acts))
    if not any(acts) or isinstance(channel, Depolarizing):  # of two qubits, where only one is meant
        return None
    one = _one_qubit_error(channel, gate)
    if one is None:
        return None
    # Aer and Qiskit: the first qubit of a gate is the last factor of a tensor product.
    return _IDENTITY.tensor(one) if acts[0] else one.tensor(_IDENTITY)


_IDENTITY = pauli_error([("I", 1.0)])


def _composed(errors: Iterable[QuantumError | None]) -> QuantumError | None:
    """Errors that follow each other; None: there are none."""
    total = None
    for error in errors:
        if error is not None:
            total = error if total is None else total.compose(error)
    return total


def _add_crosstalk(
    model: NoiseModel, channel: ZZCrosstalk, label: str, tells_stages: bool
) -> InsertCrosstalk:
    short = f"{label}_short" if channel.one_qubit_angle_rad else None
    for stage in channel.stages if tells_stages else (None,):
        for name, angle in ((label, channel.angle_rad), (short, channel.one_qubit_angle_rad)):
            if name is not None and angle:
                model.add_all_qubit_quantum_error(crosstalk_error(angle), _label(stage, name))
    return InsertCrosstalk(label, short, channel.coupling)


def _add_readout(model: NoiseModel, channels: Sequence[Readout]) -> None:
    everywhere = np.eye(2)
    size = max((len(c.by_qubit() or ()) for c in channels), default=0)
    local = [np.eye(2) for _ in range(size)]
    for channel in channels:
        pairs = channel.by_qubit()
        if pairs is None:
            assert isinstance(channel.p1_given_0, float)
            assert isinstance(channel.p0_given_1, float)
            matrix = _confusion(channel.p1_given_0, channel.p0_given_1)
            everywhere = everywhere @ matrix
            local = [each @ matrix for each in local]
        else:
            for qubit, pair in enumerate(pairs):
                local[qubit] = local[qubit] @ _confusion(*pair)
    if not np.array_equal(everywhere, np.eye(2)):
        model.add_all_qubit_readout_error(ReadoutError(everywhere))
    for qubit, matrix in enumerate(local):
        model.add_readout_error(ReadoutError(matrix), [qubit], warnings=False)


def _confusion(p1_given_0: float, p0_given_1: float) -> NDArray[np.float64]:
    return np.array([[1 - p1_given_0, p1_given_0], [p0_given_1, 1 - p0_given_1]])
