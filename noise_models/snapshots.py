"""Snapshots: a device's calibration, or that of some of its qubits, as a file.

A device is calibrated anew every few hours, so the noise of its name is another one every day; a
study names a file instead. A snapshot holds what Aer makes a noise model of: errors and durations
of gates, T1 and T2; and both readout errors, of which the device's `Target` has one for both:

- `NoiseModel.from_backend` (so `noise_of_patch`, and `--noise fake_torino`) takes the target's
  readout error for P(1|0) and P(0|1) alike. A snapshot takes each from the device's properties,
  where these tell them. Everything else is equal.
- In both, errors come with gates only: qubits do not decay while they idle.

Left out are gates of restricted angles (fractional gates), which no circuit here is translated to,
and control flow.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from qiskit.circuit import Delay, Gate, Measure, Parameter, Reset
from qiskit.circuit.library.standard_gates import get_standard_gate_name_mapping
from qiskit.providers import BackendV2, Options, QubitProperties
from qiskit.transpiler import InstructionProperties, Target
from qiskit_aer.noise import NoiseModel, ReadoutError

from noise_models.channels import Probability, expects
from noise_models.spec import read_text, validated
from qpc_qiskit.backends.destinations import calibration_time, noise_of_target, placed_on
from qpc_qiskit.circuits.encoder import make_encoder
from qpc_qiskit.circuits.spec import make_spec
from qpc_qiskit.common.files import parse_json, write_text
from qpc_qiskit.devices.readout import confusions_of_device
from qpc_qiskit.devices.targets import BROKEN, has_angle_bounds
from qpc_qiskit.errors import NoiseError
from qpc_qiskit.rows.pubs import make_template

FORMAT = 1

_Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_Seconds = Annotated[_Number, expects("a number of seconds of 0 or more", lambda t: t >= 0)]
_Time = Annotated[_Number, expects("a number of seconds above 0", lambda t: t > 0)]
_Wire = Annotated[int, Field(strict=True, ge=0)]
_OTHERS = {"measure": Measure(), "reset": Reset(), "delay": Delay(Parameter("t"))}


class _SnapshotPart(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class QubitCalibration(_SnapshotPart):
    """Of one qubit; None: not told."""

    t1_seconds: _Time | None = None
    t2_seconds: _Time | None = None
    """May exceed 2 T1, as calibrations do within their accuracy; Aer then takes 2 T1."""
    frequency_hz: _Number | None = None
    p1_given_0: Probability | None = None
    """Probability to report 1 for 0."""
    p0_given_1: Probability | None = None
    """Probability to report 0 for 1."""


class GateCalibration(_SnapshotPart):
    """Of one gate at one place."""

    name: str
    """Of Qiskit's standard gates, or `measure`, `reset`, `delay`."""
    qubits: tuple[_Wire, ...] = Field(min_length=1, max_length=2)
    """Places in the snapshot's list of qubits, not numbers of the device."""
    error: Probability | None = None
    """Average infidelity; None: not told."""
    seconds: _Seconds | None = None
    """Duration; None: not told."""


@dataclass(frozen=True)
class Median:
    """Over the working places of a gate, in words for people."""

    name: str
    """Of the gate; `P(1|0)` and `P(0|1)` of the readout."""
    error: str | None
    nanoseconds: int | None


class Snapshot(_SnapshotPart):
    """The calibration of some qubits of a device."""

    format: Literal[1] = 1
    """Of the file."""
    device: str = Field(min_length=1)
    """Name of the backend."""
    calibrated: str | None = None
    """ISO 8601, UTC: when the device's properties were last updated; None: it does not tell."""
    dt_seconds: _Time | None = None
    """Cycle of the device's clock."""
    qubits: tuple[_Wire, ...] = Field(min_length=1)
    """Their numbers on the device."""
    calibrations: tuple[QubitCalibration, ...]
    """One for each of `qubits`."""
    gates: tuple[GateCalibration, ...]
    """By name and place: devices tell them in an order of each process' own."""

    @field_validator("gates")
    @classmethod
    def _ordered(cls, gates: tuple[GateCalibration, ...]) -> tuple[GateCalibration, ...]:
        return tuple(sorted(gates, key=lambda gate: (gate.name, gate.qubits)))

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.calibrated is not None:
            try:
                datetime.fromisoformat(self.calibrated).astimezone(UTC)
            except (ValueError, OverflowError):
                raise ValueError(
                    f"calibrated: expected a date in ISO 8601, got {self.calibrated[:50]!r}"
                ) from None
        size = len(self.qubits)
        if len(set(self.qubits)) < size:
            raise ValueError(f"expected different qubits, got {list(self.qubits)}")
        if len(self.calibrations) != size:
            raise ValueError(
                f"expected calibrations of {size} qubits, got {len(self.calibrations)}"
            )
        known = get_standard_gate_name_mapping()
        places = Counter((gate.name, gate.qubits) for gate in self.gates)
        for (name, qubits), count in places.items():
            operation = _OTHERS.get(name) or known.get(name)
            if operation is None:
                raise ValueError(f"gates: expected standard gates of Qiskit, got {name!r}")
            if len(qubits) != operation.num_qubits or len(set(qubits)) < len(qubits):
                raise ValueError(
                    f"gates: expected {name} on {operation.num_qubits} different qubits, got "
                    f"{list(qubits)}"
                )
            if max(qubits) >= size:
                raise ValueError(
                    f"gates: expected places of qubits from 0 to {size - 1}, got {name} on "
                    f"{list(qubits)}"
                )
            if count > 1:
                raise ValueError(f"gates: {name} on {list(qubits)} is told {count} times")
        if not any(name == "measure" for name, _ in places):
            raise ValueError("gates: there is no measure")
        return self

    @property
    def coupling(self) -> tuple[tuple[int, int], ...]:
        """Pairs of places in `qubits` that some gate couples, ascending."""
        pairs = {gate.qubits for gate in self.gates if len(gate.qubits) == 2}
        return tuple(sorted({(min(a, b), max(a, b)) for a, b in pairs}))

    @property
    def digest(self) -> str:
        """`sha256:` and a hexadecimal digest: the same for equal snapshots."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

    @cached_property
    def target(self) -> Target:
        """Gates with their errors and durations, on qubits 0 to n-1."""
        return self._target(self.gates)

    def _target(self, gates: Sequence[GateCalibration]) -> Target:
        result = Target(
            f"snapshot of {self.device}",
            num_qubits=len(self.qubits),
            dt=self.dt_seconds,
            qubit_properties=[
                QubitProperties(t1=q.t1_seconds, t2=q.t2_seconds, frequency=q.frequency_hz)
                for q in self.calibrations
            ],
        )
        known = get_standard_gate_name_mapping()
        names = dict.fromkeys(gate.name for gate in gates)
        for name in names:
            places = {
                gate.qubits: InstructionProperties(duration=gate.seconds, error=gate.error)
                for gate in gates
                if gate.name == name
            }
            result.add_instruction(_OTHERS.get(name) or known[name], places, name=name)
        return result

    def noise_model(self, qubits: Sequence[int] | None = None) -> NoiseModel:
        """The noise as Aer's, with both readout errors.

        Args:
            qubits: places in `self.qubits`, which become qubits 0, 1, ...; None: all.
        """
        chosen = range(len(self.qubits)) if qubits is None else qubits
        model = noise_of_target(self._target_without_readout, chosen)
        for qubit, place in enumerate(chosen):
            told = self.calibrations[place]
            if told.p1_given_0 is not None and told.p0_given_1 is not None:
                p, q = told.p1_given_0, told.p0_given_1
                model.add_readout_error(ReadoutError([[1 - p, p], [q, 1 - q]]), [qubit])
        return model

    @cached_property
    def _target_without_readout(self) -> Target:
        """The target without the readout errors that qubits tell of both outcomes.

        Aer takes a number for each; where none is told, there is none.
        """
        both = {
            (place,)
            for place, told in enumerate(self.calibrations)
            if told.p1_given_0 is not None and told.p0_given_1 is not None
        }
        return self._target(
            [
                gate.model_copy(update={"error": 0.0})
                if gate.name == "measure" and (gate.qubits in both or gate.error is None)
                else gate
                for gate in self.gates
            ]
        )

    def medians(self) -> list[Median]:
        """Of every gate that has an error, and of the readout."""
        found = []
        for name in dict.fromkeys(gate.name for gate in self.gates):
            places = [gate for gate in self.gates if gate.name == name]
            errors = [gate.error for gate in places if gate.error and gate.error < BROKEN]
            seconds = [gate.seconds for gate in places if gate.seconds]
            if errors and name != "measure":
                times = round(1e9 * float(np.median(seconds))) if seconds else None
                found.append(Median(name, f"{float(np.median(errors)):.2e}", times))
        for field, name in (("p1_given_0", "P(1|0)"), ("p0_given_1", "P(0|1)")):
            told = [getattr(each, field) for each in self.calibrations]
            if known := [value for value in told if value is not None]:
                found.append(Median(name, f"{float(np.median(known)):.2e}", None))
        return found

    def backend(self) -> SnapshotBackend:
        """As a device, for everything that takes one: circuits are placed on its best patch."""
        return SnapshotBackend(self)

    def scaled(self, factor: float) -> Snapshot:
        """The same device, so many times as noisy.

        Errors of gates and of readout are multiplied, T1 and T2 divided by the factor. Gates with
        an error of 0.5 or more are broken, and stay as they are: no circuit uses them.

        Raises:
            NoiseError: the factor is not above 0, or an error would exceed 1.
        """
        if not (isinstance(factor, int | float) and 0 < factor < math.inf):
            raise NoiseError(
                f"Expected a factor above 0 to scale a snapshot by, got {factor!r}; for no noise "
                "use 'ideal'."
            )
        data = self.to_dict()
        data["device"] += f"-x{factor:g}" * (factor != 1)
        for each in data["calibrations"]:
            for name in each:
                scales = {"t1_seconds": 1 / factor, "t2_seconds": 1 / factor, "frequency_hz": 1}
                each[name] *= scales.get(name, factor)
        for gate in data["gates"]:
            if gate.get("error", BROKEN) < BROKEN:
                gate["error"] *= factor
        return Snapshot.from_dict(data, f"{self.device} scaled by {factor:g}")

    @classmethod
    def of(cls, backend: BackendV2, qubits: Sequence[int] | None = None) -> Snapshot:
        """Of a device as it is calibrated now.

        Args:
            backend: a fake or a real one; any with a target.
            qubits: of it; None: all.

        Raises:
            NoiseError: it has no such qubits, or tells no errors of them.
        """
        target = backend.target
        chosen = list(range(target.num_qubits)) if qubits is None else list(qubits)
        wrong = [q for q in chosen if not 0 <= q < target.num_qubits]
        if wrong or len(set(chosen)) < len(chosen) or not chosen:
            raise NoiseError(
                f"Expected different qubits of {backend.name}, from 0 to {target.num_qubits - 1}, "
                f"got {', '.join(map(str, chosen)) or 'none'}."
            )
        told = target.qubit_properties
        readouts = _asymmetric_readouts(backend, chosen)
        calibrations = [
            {
                **({} if told is None else _times_of(told[q])),
                **({} if readout is None else readout),
            }
            for q, readout in zip(chosen, readouts, strict=True)
        ]
        data = {
            "device": backend.name,
            "calibrated": calibration_time(backend),
            "dt_seconds": target.dt,
            "qubits": chosen,
            "calibrations": calibrations,
            "gates": list(_gates_of(target, chosen)),
        }
        if not any(gate.get("error") for gate in data["gates"]):
            raise NoiseError(f"{backend.name} tells no errors of these qubits.")
        return cls.from_dict({k: v for k, v in data.items() if v is not None}, backend.name)

    @classmethod
    def from_dict(cls, data: Any, source: str = "snapshot") -> Snapshot:
        """A snapshot from plain values.

        Args:
            data: as JSON gives it.
            source: the file, for errors.

        Raises:
            NoiseError: one line that names the source, the field, what was expected and what came.
        """
        return validated(cls, data, source)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without what is not told."""
        return self.model_dump(mode="json", exclude_none=True)

    @classmethod
    def load(cls, path: str | Path) -> Snapshot:
        """Read a JSON file; see `from_dict`."""
        path = Path(path)
        return cls.from_dict(parse_json(read_text(path), path, NoiseError), str(path))

    def save(self, path: str | Path) -> None:
        """Write a JSON file, a line for each gate; it is there in full or not at all."""
        path = Path(path)
        if path.suffix.lower() != ".json":
            raise NoiseError(f"{path}: expected a file whose name ends in .json.")
        write_text(path, _lines(self.to_dict()))


class SnapshotBackend(BackendV2):  # type: ignore[misc]  # qiskit has no types
    """A snapshot as a device: engines place circuits on it, and simulate its noise.

    It runs nothing by itself: give it as `noise_model` of `aer`.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__(name=f"snapshot of {snapshot.device}")
        self.snapshot = snapshot

    @property
    def target(self) -> Target:
        """Of the snapshot."""
        return self.snapshot.target

    @property
    def max_circuits(self) -> None:
        """There is no limit."""
        return

    @classmethod
    def _default_options(cls) -> Options:
        return Options()

    def properties(self) -> SimpleNamespace:
        """When it was calibrated; the rest is in the snapshot."""
        told = self.snapshot.calibrated
        date = None if told is None else datetime.fromisoformat(told).astimezone(UTC)
        return SimpleNamespace(last_update_date=date)

    def noise_of_qubits(self, qubits: Sequence[int]) -> NoiseModel:
        """See `qpc_qiskit.backends.destinations.noise_of_patch`."""
        return self.snapshot.noise_model(qubits)

    def run(self, run_input: object, **options: object) -> None:
        """It cannot."""
        raise NoiseError(f"A {self.name} runs nothing; give it as noise_model of 'aer'.")


def best_qubits(backend: BackendV2, num_qubits: int) -> tuple[int, ...]:
    """The patch of a device on which a layer of the usual kind errs least.

    That is `strongly_entangling` with 3 blocks behind the `multiplexor`; finding it takes seconds.

    Raises:
        BackendError: there is none.
    """
    ansatz = make_spec(2**num_qubits, num_qubits).ansatz
    template = make_template(make_encoder("multiplexor", num_qubits), ansatz)
    (placement,) = placed_on(template, backend)
    return tuple(placement.patch.qubits)


def _times_of(told: QubitProperties | None) -> dict[str, float]:
    found = {
        "t1_seconds": getattr(told, "t1", None),
        "t2_seconds": getattr(told, "t2", None),
        "frequency_hz": getattr(told, "frequency", None),
    }
    return {
        name: float(value)
        for name, value in found.items()
        if value is not None and math.isfinite(value) and value > 0
    }


def _asymmetric_readouts(
    backend: BackendV2, qubits: Sequence[int]
) -> list[Mapping[str, float] | None]:
    """Both readout errors of each qubit; None: the device tells none."""
    found = confusions_of_device(backend, [[q] for q in qubits])
    return [
        None if each is None else {"p1_given_0": each[0, 0, 1], "p0_given_1": each[0, 1, 0]}
        for each in found
    ]


def _gates_of(target: Target, qubits: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Every operation on these qubits that a simulation knows; unbounded standard gates."""
    wire = {q: i for i, q in enumerate(qubits)}
    known = get_standard_gate_name_mapping()
    for name in target.operation_names:
        operation = target.operation_from_name(name)
        is_gate = isinstance(operation, Gate) and type(operation) is type(known.get(name))
        if not (is_gate or isinstance(operation, Measure | Reset | Delay)):
            continue
        if is_gate and has_angle_bounds(target, name):
            continue
        for place, properties in (target[name] or {}).items():
            if place is not None and all(q in wire for q in place):
                found = {
                    "error": getattr(properties, "error", None),
                    "seconds": getattr(properties, "duration", None),
                }
                # The error of a broken gate may be told as more than 1, and one without as NaN.
                yield {"name": name, "qubits": [wire[q] for q in place]} | {
                    key: min(float(value), 1.0) if key == "error" else float(value)
                    for key, value in found.items()
                    if value is not None and math.isfinite(value)
                }


def _lines(data: Mapping[str, Any]) -> str:
    """JSON with a line for each gate and each qubit."""
    parts = []
    for name, value in data.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            rows = ",\n".join(f"    {json.dumps(each)}" for each in value)
            parts.append(f"  {json.dumps(name)}: [\n{rows}\n  ]")
        else:
            parts.append(f"  {json.dumps(name)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"
