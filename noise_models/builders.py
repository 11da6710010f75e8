"""Noise in a few lines: a function for each channel, `compose`, and `scale`.

    noise = compose(depolarizing(0.001, 0.01), readout(0.02, 0.03, ), name="mine")
    EstimatorEngine.from_backend("aer", noise_model=scale(noise, 2).build())

Formulas and conventions stand in `noise_models.channels`. Every function checks its arguments and
raises one `NoiseError`, a `ValueError`, that says what was expected and what came.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeVar, cast

from pydantic import ValidationError

from noise_models.channels import (
    AmplitudeDamping,
    BitFlip,
    Channel,
    Depolarizing,
    OverRotation,
    PhaseDamping,
    PhaseFlip,
    Placement,
    Readout,
    ThermalRelaxation,
    ZZCrosstalk,
)
from noise_models.spec import NoiseSpec, problem_of
from qpc_qiskit.errors import NoiseError

C = TypeVar("C", bound=Channel)


def bit_flip(
    probability: float, *, on: Placement = "every_gate", qubits: Sequence[int] | None = None
) -> BitFlip:
    """(1 - p) rho + p X rho X on each qubit of a gate.

    Args:
        probability: p.
        on: after which gates; see `noise_models.channels.Placement`.
        qubits: on these only; None: on all. The same goes for all functions here.
    """
    return _checked(BitFlip, probability=probability, on=on, qubits=qubits)


def phase_flip(
    probability: float, *, on: Placement = "every_gate", qubits: Sequence[int] | None = None
) -> PhaseFlip:
    """(1 - p) rho + p Z rho Z on each qubit of a gate."""
    return _checked(PhaseFlip, probability=probability, on=on, qubits=qubits)


def depolarizing(
    probability: float,
    two_qubit_probability: float | None = None,
    *,
    on: Placement = "every_gate",
    qubits: Sequence[int] | None = None,
) -> Depolarizing:
    """(1 - p) rho + p I/2; after a two-qubit gate (1 - p) rho + p I/4 on both together.

    The average infidelity is p/2 after one-qubit gates, 3p/4 after two-qubit gates.

    Args:
        probability: p after one-qubit gates.
        two_qubit_probability: p after two-qubit gates; None: the same.
        on: see `bit_flip`.
        qubits: see `bit_flip`; of a two-qubit gate both must be among them.
    """
    return _checked(
        Depolarizing,
        probability=probability,
        two_qubit_probability=two_qubit_probability,
        on=on,
        qubits=qubits,
    )


def amplitude_damping(
    gamma: float,
    *,
    excited_population: float = 0.0,
    on: Placement = "every_gate",
    qubits: Sequence[int] | None = None,
) -> AmplitudeDamping:
    """Kraus operators diag(1, sqrt(1 - gamma)), sqrt(gamma) |0><1| on each qubit of a gate.

    Args:
        gamma: probability that |1> decays.
        excited_population: of |1>, where the qubit tends to (generalized amplitude damping).
        on: see `bit_flip`.
        qubits: see `bit_flip`.
    """
    return _checked(
        AmplitudeDamping, gamma=gamma, excited_population=excited_population, on=on, qubits=qubits
    )


def phase_damping(
    gamma: float, *, on: Placement = "every_gate", qubits: Sequence[int] | None = None
) -> PhaseDamping:
    """Coherences of each qubit of a gate shrink by sqrt(1 - gamma)."""
    return _checked(PhaseDamping, gamma=gamma, on=on, qubits=qubits)


def thermal_relaxation(
    t1_us: float,
    t2_us: float,
    times_ns: Mapping[str, float],
    *,
    excited_population: float = 0.0,
    on: Placement = "every_gate",
    qubits: Sequence[int] | None = None,
) -> ThermalRelaxation:
    """Decay by T1 and T2 for the time of a gate, on each of its qubits; idle qubits do not decay.

    Args:
        t1_us: T1, microseconds.
        t2_us: T2, microseconds, at most 2 T1.
        times_ns: name of a gate -> nanoseconds; of `sx`, `x`, the two-qubit gate, or `measure` with
            on="before_measurement". A gate that is left out has no error.
        excited_population: of |1> in equilibrium.
        on: see `bit_flip`.
        qubits: see `bit_flip`.
    """
    return _checked(
        ThermalRelaxation,
        t1_us=t1_us,
        t2_us=t2_us,
        times_ns=dict(times_ns),
        excited_population=excited_population,
        on=on,
        qubits=qubits,
    )


def over_rotation(
    angle_rad: float,
    *,
    axis: Literal["x", "y", "z"] = "x",
    on: Placement = "every_gate",
    qubits: Sequence[int] | None = None,
) -> OverRotation:
    """exp(-i angle/2 P) on each qubit of a gate: a coherent error.

    Args:
        angle_rad: from -pi to pi.
        axis: P.
        on: see `bit_flip`.
        qubits: see `bit_flip`.
    """
    return _checked(OverRotation, angle_rad=angle_rad, axis=axis, on=on, qubits=qubits)


def zz_crosstalk(
    angle_rad: float,
    one_qubit_angle_rad: float = 0.0,
    *,
    on: Literal["every_gate", "encoder", "ansatz"] = "every_gate",
    coupling: Sequence[tuple[int, int]] | None = None,
) -> ZZCrosstalk:
    """exp(-i angle/2 ZZ) on neighbours after every moment; see `noise_models.channels.ZZCrosstalk`.

    Args:
        angle_rad: for moments with a two-qubit gate, from -pi to pi.
        one_qubit_angle_rad: for moments of one-qubit gates only.
        on: in moments of which part of the circuit.
        coupling: pairs of neighbours; None: the path 0-1-...-(n-1).
    """
    return _checked(
        ZZCrosstalk,
        angle_rad=angle_rad,
        one_qubit_angle_rad=one_qubit_angle_rad,
        on=on,
        coupling=coupling,
    )


def readout(p1_given_0: float | Sequence[float], p0_given_1: float | Sequence[float]) -> Readout:
    """Wrong reports of a measurement.

    Args:
        p1_given_0: probability to report 1 for 0; a list: of qubits 0, 1, ..., others err never.
        p0_given_1: probability to report 0 for 1, likewise.
    """
    return _checked(Readout, p1_given_0=p1_given_0, p0_given_1=p0_given_1)


def compose(
    *parts: Channel | NoiseSpec,
    name: str = "own",
    description: str = "",
    two_qubit_gate: Literal["cx", "cz", "ecr"] | None = None,
) -> NoiseSpec:
    """All of these, one after the other.

    Args:
        parts: channels, and specs whose channels are taken.
        name: of the whole.
        description: of the whole.
        two_qubit_gate: of the circuits; None: that of the specs, else cx.

    Raises:
        NoiseError: specs for different two-qubit gates, or times of a gate that is not used.
    """
    gates = {part.two_qubit_gate for part in parts if isinstance(part, NoiseSpec)}
    if two_qubit_gate is not None:
        gates = {two_qubit_gate}
    if len(gates) > 1:
        raise NoiseError(
            f"Expected specs for the same two-qubit gate, got {', '.join(sorted(gates))}; give "
            "two_qubit_gate to take one of them."
        )
    channels = [
        channel
        for part in parts
        for channel in (part.channels if isinstance(part, NoiseSpec) else (part,))
    ]
    told = {"name": name, "description": description, "two_qubit_gate": next(iter(gates), "cx")}
    return NoiseSpec.from_dict(
        told | {"channels": [channel.model_dump(exclude_none=True) for channel in channels]},
        "compose",
    )


def scale(noise: NoiseSpec | C, factor: float) -> NoiseSpec | C:
    """The same noise, so many times as strong; see `NoiseSpec.scaled`.

    Raises:
        NoiseError: a negative factor, or a value would leave its range.
    """
    if isinstance(noise, NoiseSpec):
        return noise.scaled(factor)
    alone = compose(noise, name=str(noise.model_dump()["channel"]))
    return cast("C", alone.scaled(factor).channels[0])


def _checked(kind: type[C], **arguments: object) -> C:
    given = {name: value for name, value in arguments.items() if value is not None}
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        function = str(kind.model_fields["channel"].default)
        raise NoiseError(f"{function}: {problem_of(error, given)}") from None
