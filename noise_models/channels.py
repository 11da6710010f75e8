"""Noise channels as data: their parameters, where they act, and how they get stronger.

Everything here is plain and checked; `noise_models.building` makes Aer's errors of it. Conventions,
for a state rho of one qubit and I, X, Y, Z its Paulis (Nielsen and Chuang, Quantum Computation and
Quantum Information, 10th anniversary edition, section 8.3, if nothing else is said):

- `bit_flip`: (1 - p) rho + p X rho X.
- `phase_flip`: (1 - p) rho + p Z rho Z.
- `depolarizing`: (1 - p) rho + p I/2, on two qubits (1 - p) rho + p I/4: p is Qiskit's parameter
  and the book's. PennyLane's `DepolarizingChannel` takes 3p/4 instead.
- `amplitude_damping`: Kraus operators diag(1, sqrt(1 - gamma)) and sqrt(gamma) |0><1|; with an
  excited population w the generalized channel, which tends to (1 - w) |0><0| + w |1><1|.
- `phase_damping`: Kraus operators diag(1, sqrt(1 - gamma)) and diag(0, sqrt(gamma)): coherences
  shrink by sqrt(1 - gamma).
- `thermal_relaxation`: for a gate of t seconds excitations decay by exp(-t/T1) and coherences by
  exp(-t/T2).
- `over_rotation`: exp(-i angle/2 P) after the gate, P = X, Y or Z. sx is a rotation about x by
  pi/2, so the default axis makes it one by pi/2 + angle.
- `zz_crosstalk`: exp(-i angle/2 ZZ) on neighbours. A coupling H = zeta/4 ZZ (zeta: the shift of one
  qubit's frequency, in radians per second, when the other is excited) that acts for t seconds
  gives angle = zeta t / 2.
- `readout`: the classical confusion of what is reported.

Strength: `scaled(factor)` multiplies every probability, damping parameter and angle by the factor;
of `thermal_relaxation` the gate times, which is the same as multiplying both rates. A factor of 0
is no noise, 1 changes nothing, and the average gate fidelity (of `readout`: the probability of a
right report) never rises with it. What would leave its range (a probability over 1, an angle beyond
pi) is refused: it does not saturate, for then two strengths would be one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError


def expects(text: str, is_right: Callable[[Any], object] = lambda value: True) -> WrapValidator:
    """A validator with one message, whatever is wrong: type or range."""

    def validate(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            found = handler(value)
        except ValidationError:
            found = None
        if found is None or not is_right(found):
            raise PydanticCustomError("expected", "{text}", {"text": text})
        return found

    return WrapValidator(validate)


_Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_Integer = Annotated[int, Field(strict=True)]
Probability = Annotated[_Number, expects("a probability from 0 to 1", lambda p: 0 <= p <= 1)]
Angle = Annotated[
    _Number, expects("an angle in radians from -pi to pi", lambda a: abs(a) <= math.pi)
]
Time = Annotated[_Number, expects("a time above 0", lambda t: t > 0)]
Duration = Annotated[_Number, expects("a time of 0 or more", lambda t: t >= 0)]
LARGEST_QUBIT = 15
"""More cannot be simulated as a density matrix anyway (64 GiB)."""
Qubit = Annotated[
    _Integer, expects(f"a qubit from 0 to {LARGEST_QUBIT}", lambda q: 0 <= q <= LARGEST_QUBIT)
]
Qubits = Annotated[
    tuple[Qubit, ...],
    Field(min_length=1),
    expects(
        f"a list of different qubits from 0 to {LARGEST_QUBIT}", lambda q: len(set(q)) == len(q)
    ),
]
Pair = Annotated[
    tuple[Qubit, Qubit], expects("a pair of different qubits", lambda pair: pair[0] != pair[1])
]
Coupling = Annotated[
    tuple[Pair, ...],
    Field(min_length=1),
    expects(
        f"a list of different pairs of qubits from 0 to {LARGEST_QUBIT}",
        lambda pairs: len({frozenset(pair) for pair in pairs}) == len(pairs),
    ),
]

GATES = ("sx", "x")
"""Physical one-qubit gates of the basis; rz is virtual, takes no time and has no error."""
COUPLERS = ("cx", "cz", "ecr")
"""Two-qubit gates, one of which a basis has."""
Placement: TypeAlias = Literal[
    "every_gate",
    "one_qubit_gates",
    "two_qubit_gates",
    "encoder",
    "ansatz",
    "before_measurement",
]
"""`encoder` and `ansatz`: after every gate of that part."""
Stage: TypeAlias = Literal["encoder", "ansatz"]
STAGES: tuple[Stage, ...] = ("encoder", "ansatz")


class Channel(BaseModel):
    """Base of the channels: frozen, and an unknown name is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    strengths: ClassVar[tuple[str, ...]] = ()
    """Fields that are multiplied to scale the noise."""

    @property
    def largest_qubit(self) -> int:
        """That the channel names; -1: none."""
        return -1

    def scaled(self, factor: float) -> Self:
        """The same channel, so many times as strong; see the module.

        Raises:
            ValidationError: a value would leave its range.
        """
        told = self.model_dump()
        for name in self.strengths:
            told[name] = _times(told[name], factor)
        return self.model_validate(told)


def _times(value: Any, factor: float) -> Any:
    if isinstance(value, dict):
        return {name: _times(each, factor) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_times(each, factor) for each in value)
    return None if value is None else value * factor


class GateChannel(Channel):
    """Noise that comes with gates, or with the measurement."""

    on: Placement = "every_gate"
    """After which gates; of a two-qubit gate, on both qubits. `before_measurement`: on every qubit
    that is measured, before it is."""
    qubits: Qubits | None = None
    """On these only; a two-qubit channel where both are among them. None: on all."""

    @property
    def stages(self) -> tuple[Stage, ...]:
        """In which the channel acts."""
        if self.on == "encoder":
            return ("encoder",)
        return ("ansatz",) if self.on == "ansatz" else STAGES

    @property
    def largest_qubit(self) -> int:
        """See `Channel.largest_qubit`."""
        return max(self.qubits, default=-1) if self.qubits else -1

    def acts_on(self, num_qubits: int) -> bool:
        """Whether the channel follows gates of 1 or 2 qubits."""
        others = "two_qubit_gates" if num_qubits == 1 else "one_qubit_gates"
        return self.on not in (others, "before_measurement")


class BitFlip(GateChannel):
    """X with a probability."""

    channel: Literal["bit_flip"] = "bit_flip"
    probability: Probability
    strengths = ("probability",)


class PhaseFlip(GateChannel):
    """Z with a probability."""

    channel: Literal["phase_flip"] = "phase_flip"
    probability: Probability
    strengths = ("probability",)


class Depolarizing(GateChannel):
    """The maximally mixed state with a probability; of a two-qubit gate that of both together."""

    channel: Literal["depolarizing"] = "depolarizing"
    probability: Probability
    """After one-qubit gates, and before a measurement."""
    two_qubit_probability: Probability | None = None
    """After two-qubit gates; None: the same."""
    strengths = ("probability", "two_qubit_probability")

    @model_validator(mode="after")
    def _refuse_idle(self) -> Self:
        if self.two_qubit_probability is not None and not self.acts_on(2):
            raise ValueError(f"two_qubit_probability has no effect on {self.on}; leave it out")
        return self

    @property
    def of_two_qubits(self) -> float:
        """After two-qubit gates."""
        told = self.two_qubit_probability
        return self.probability if told is None else told


class AmplitudeDamping(GateChannel):
    """Decay of |1>."""

    channel: Literal["amplitude_damping"] = "amplitude_damping"
    gamma: Probability
    """Probability that an excitation is lost."""
    excited_population: Probability = 0.0
    """That of |1> in the long run."""
    strengths = ("gamma",)


class PhaseDamping(GateChannel):
    """Loss of coherence without loss of energy."""

    channel: Literal["phase_damping"] = "phase_damping"
    gamma: Probability
    """Coherences shrink by sqrt(1 - gamma)."""
    strengths = ("gamma",)


class ThermalRelaxation(GateChannel):
    """Decay of T1 and T2 for the time of the gate, on the gate's qubits; idle qubits do not decay.

    A gate without a time has no error.
    """

    channel: Literal["thermal_relaxation"] = "thermal_relaxation"
    t1_us: Time
    t2_us: Time
    """At most twice T1."""
    times_ns: dict[Literal["sx", "x", "cx", "cz", "ecr", "measure"], Duration]
    """Name of a gate -> its duration; `measure` belongs to `before_measurement`."""
    excited_population: Probability = 0.0
    """That of |1> in the long run."""
    strengths = ("times_ns",)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.t2_us > 2 * self.t1_us:
            raise ValueError(
                f"expected t2_us of at most 2 * t1_us = {2 * self.t1_us:g}, got {self.t2_us:g}"
            )
        idle = sorted(name for name in self.times_ns if not self._has_effect(name))
        if idle:
            raise ValueError(f"times_ns of {', '.join(idle)} has no effect on {self.on}")
        if not self.times_ns:
            raise ValueError("expected the times_ns of some gates, got none")
        return self

    def _has_effect(self, name: str) -> bool:
        if name == "measure":
            return self.on == "before_measurement"
        return self.acts_on(1 if name in GATES else 2)


class OverRotation(GateChannel):
    """A coherent rotation of each of the gate's qubits, after the gate."""

    channel: Literal["over_rotation"] = "over_rotation"
    angle_rad: Angle
    axis: Literal["x", "y", "z"] = "x"
    strengths = ("angle_rad",)


class ZZCrosstalk(Channel):
    """A coherent ZZ coupling between neighbours, always on while gates take time.

    A circuit's gates are taken to moments: each as early as its qubits are free, rz in no time. In
    every moment that holds a two-qubit gate, every pair of neighbours acquires the angle, except
    pairs that a gate of the moment couples: what ZZ does there is part of the gate's calibration.
    Moments of one-qubit gates are an order of magnitude shorter; they have an angle of their own,
    0 by default.

    Source: the static ZZ coupling of neighbouring transmons, H = zeta/4 ZZ (Sundaresan et al.,
    arXiv:2007.02925; Tripathi et al., arXiv:2108.04530).
    """

    channel: Literal["zz_crosstalk"] = "zz_crosstalk"
    angle_rad: Angle
    """In a moment with a two-qubit gate."""
    one_qubit_angle_rad: Angle = 0.0
    """In a moment of one-qubit gates only."""
    on: Literal["every_gate", "encoder", "ansatz"] = "every_gate"
    """In moments of which part; `every_gate`: of both."""
    coupling: Coupling | None = None
    """Pairs of neighbours; None: the path 0-1-...-(n-1)."""
    strengths = ("angle_rad", "one_qubit_angle_rad")

    @property
    def stages(self) -> tuple[Stage, ...]:
        """In which the channel acts."""
        return STAGES if self.on == "every_gate" else (self.on,)

    @property
    def largest_qubit(self) -> int:
        """See `Channel.largest_qubit`."""
        return max((max(pair) for pair in self.coupling or ()), default=-1)


PerQubit: TypeAlias = Probability | Annotated[tuple[Probability, ...], Field(min_length=1)]


class Readout(Channel):
    """Wrong reports of a measurement, which is itself perfect."""

    channel: Literal["readout"] = "readout"
    p1_given_0: Annotated[PerQubit, expects("a probability from 0 to 1, or a list of them")]
    """Probability to report 1 where 0 was measured; a list: of qubits 0, 1, ..."""
    p0_given_1: Annotated[PerQubit, expects("a probability from 0 to 1, or a list of them")]
    """Probability to report 0 where 1 was measured; a list: of qubits 0, 1, ..."""
    strengths = ("p1_given_0", "p0_given_1")

    @model_validator(mode="after")
    def _check(self) -> Self:
        lists = [v for v in (self.p1_given_0, self.p0_given_1) if isinstance(v, tuple)]
        if len({len(each) for each in lists}) > 1:
            raise ValueError(
                f"expected lists of one length, got {len(lists[0])} values of p1_given_0 and "
                f"{len(lists[1])} of p0_given_1"
            )
        return self

    @property
    def largest_qubit(self) -> int:
        """See `Channel.largest_qubit`."""
        return max((len(v) for v in self._lists()), default=0) - 1

    def _lists(self) -> list[tuple[float, ...]]:
        return [v for v in (self.p1_given_0, self.p0_given_1) if isinstance(v, tuple)]

    def by_qubit(self) -> list[tuple[float, float]] | None:
        """(P(1|0), P(0|1)) of qubits 0, 1, ...; None: of all qubits the same."""
        if not self._lists():
            return None
        size = self.largest_qubit + 1
        pairs = [
            v if isinstance(v, tuple) else (v,) * size for v in (self.p1_given_0, self.p0_given_1)
        ]
        return list(zip(*pairs, strict=True))


AnyChannel: TypeAlias = Annotated[
    BitFlip
    | PhaseFlip
    | Depolarizing
    | AmplitudeDamping
    | PhaseDamping
    | ThermalRelaxation
    | OverRotation
    | ZZCrosstalk
    | Readout,
    Field(discriminator="channel"),
]
