"""What a job holds: decoded, identified, measured, and executed on a simulated device.

The only module of the stand-in, with `server`, that imports qiskit_ibm_runtime.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any

from ibm_quantum_schemas.common import CompressedTensorModel
from ibm_quantum_schemas.executor.version_2_0 import QuantumProgramResultModel
from qiskit import QuantumCircuit, qpy
from qiskit.transpiler import Target
from qiskit_aer import AerSimulator
from qiskit_ibm_runtime.fake_provider import (
    FakeFez,
    FakeFractionalBackend,
    FakeGuadalupeV2,
    FakeJakartaV2,
    FakeLagosV2,
    FakeManilaV2,
    FakeTorino,
)
from qiskit_ibm_runtime.fake_provider.executor.run_quantum_program import run_quantum_program
from qiskit_ibm_runtime.options_models.simulator import SimulatorOptions
from qiskit_ibm_runtime.quantum_program.converters.converters_2_0 import passthrough_data_to_2_0
from qiskit_ibm_runtime.quantum_program.params_converters import QUANTUM_PROGRAM_PARAMS_CONVERTERS
from qiskit_ibm_runtime.utils.utils import is_isa_circuit

from hardware_runs.standin.protocol import date_text, seconds_of

_DEVICES: Mapping[str, Any] = {
    "ibm_manila": FakeManilaV2,  # 5 qubits in a line, cx
    "ibm_lagos": FakeLagosV2,  # 7 qubits, cx
    "ibm_jakarta": FakeJakartaV2,  # 7 qubits, cx
    "ibm_guadalupe": FakeGuadalupeV2,  # 16 qubits, cx: about 10 s per row with noise
    "ibm_fractional": FakeFractionalBackend,  # 5 qubits, cz; rx and rzz if asked for
    "ibm_torino": FakeTorino,  # 133 qubits, cz: without noise
    "ibm_fez": FakeFez,  # 156 qubits, cz: without noise
}
_WIDEST_NOISY = 16
_SUB_JOB_SECONDS = 2.0
_DRIFT = 1.25  # of every error, per calibration


@cache
def device(name: str) -> Any:
    """The fake device behind a name.

    Raises:
        KeyError: no such device.
    """
    return _DEVICES[name]()


def device_names() -> tuple[str, ...]:
    """All that the stand-in has."""
    return tuple(_DEVICES)


def has_noise(name: str) -> bool:
    """Whether a device is narrow enough to be simulated with its noise."""
    return int(device(name).num_qubits) <= _WIDEST_NOISY


def configuration(name: str) -> dict[str, Any]:
    """What GET /backends/NAME/configuration answers."""
    fake = device(name)
    return {**_snapshot(name, fake.conf_filename), "backend_name": name}


@cache
def _snapshot(name: str, filename: str) -> dict[str, Any]:
    data: dict[str, Any] = device(name)._load_json(filename)
    return data


def properties(name: str, calibrations: list[float]) -> dict[str, Any]:
    """What GET /backends/NAME/properties answers.

    Args:
        name: of the device.
        calibrations: times of all calibrations after the snapshot's own; each has its date and
            errors a quarter larger than before. (What jobs return does not change.)
    """
    found = _properties(name)
    if not calibrations:
        return found
    found = deepcopy(found)
    date = date_text(calibrations[-1])
    for entry in _entries(found):
        entry["date"] = date
        if entry["name"].endswith("_error"):
            entry["value"] = min(0.5, entry["value"] * _DRIFT ** len(calibrations))
    return {**found, "last_update_date": date}


def not_operational(properties: dict[str, Any], where: Sequence[Sequence[int]]) -> dict[str, Any]:
    """What a device says when some of its qubits, or gates on two of them, are out of order."""
    if not where:
        return properties
    found = deepcopy(properties)
    broken = {"name": "operational", "unit": "", "value": 0, "date": found["last_update_date"]}
    wanted = [set(each) for each in where]
    for qubit, entries in enumerate(found["qubits"]):
        if {qubit} in wanted:
            entries[:] = [each for each in entries if each["name"] != "operational"] + [broken]
    for gate in found["gates"]:
        if len(gate["qubits"]) == 2 and set(gate["qubits"]) in wanted:
            gate["parameters"].append(broken)
    return found


@cache
def _properties(name: str) -> dict[str, Any]:
    """Of the snapshot, with dates in UTC as the service gives them: the client drops an offset."""
    found = deepcopy(_snapshot(name, device(name).props_filename))
    for entry in _entries(found):
        entry["date"] = date_text(seconds_of(entry["date"]))
    date = date_text(seconds_of(found["last_update_date"]))
    return {**found, "backend_name": name, "last_update_date": date}


def _entries(properties: dict[str, Any]) -> list[dict[str, Any]]:
    return [e for qubit in properties["qubits"] for e in qubit] + [
        e for gate in properties["gates"] for e in gate["parameters"]
    ]


@dataclass(frozen=True)
class Program:
    """A decoded job."""

    backend: str
    decoded: Any
    """The client's QuantumProgram."""
    sha256: str
    """Of all that decides the result; see `_canonical`."""
    shots: int
    num_executions: int
    seconds: float
    """On the QPU, by IBM's formula."""
    refusal: str | None
    """Why the device cannot run it: the client does not check circuits."""


def decode(backend: str, params: dict[str, Any]) -> Program:
    """The program in what was posted.

    Args:
        backend: name of the device.
        params: of the job, as they come out of the JSON.

    Raises:
        ValueError, KeyError: not the inputs of an executor job.
    """
    converter = QUANTUM_PROGRAM_PARAMS_CONVERTERS[params["schema_version"]]
    program, options = converter.decoder(converter.model.model_validate(params))
    for item in program.items:
        if hasattr(item, "samplex"):
            item.samplex.finalize()
    target = device(backend).target
    refusals = [is_isa_circuit(item.circuit, target) for item in program.items]
    rep_delay = options.execution.rep_delay if hasattr(options, "execution") else options.rep_delay
    if rep_delay is None:
        rep_delay = configuration(backend)["default_rep_delay"] * 1e-6
    executions = [program.shots * item.size() for item in program.items]
    return Program(
        backend=backend,
        decoded=program,
        sha256=hashlib.sha256(_canonical(backend, program, params).encode()).hexdigest(),
        shots=program.shots,
        num_executions=sum(executions),
        seconds=_SUB_JOB_SECONDS
        + sum(
            count * (rep_delay + _reset_seconds(target) + circuit_seconds(item.circuit, target))
            for count, item in zip(executions, program.items, strict=True)
        ),
        refusal=next(filter(None, refusals), None),
    )


def execute(program: Program, *, noisy: bool) -> str:
    """The result's JSON, as the service writes it; its bits depend on the program alone.

    Args:
        program: to be run.
        noisy: with the device's noise, unless it is too wide for that.
    """
    result = run_quantum_program(
        _simulator(program.backend, noisy),
        program.decoded,
        SimulatorOptions(seed_simulator=int(program.sha256[:7], 16), angle_decimals=12),
    )
    data = [
        {
            "results": {
                name: CompressedTensorModel.from_numpy(array) for name, array in item.items()
            },
            "metadata": {},
        }
        for item in result
    ]
    text: str = QuantumProgramResultModel(
        schema_version="v2.0",
        data=data,
        metadata={"chunk_timing": []},
        passthrough_data=passthrough_data_to_2_0(program.decoded.passthrough_data),
        semantic_role=program.decoded._semantic_role,
    ).model_dump_json()
    return text


@cache
def _simulator(name: str, noisy: bool) -> Any:
    fake = device(name)
    if noisy and has_noise(name):
        return AerSimulator.from_backend(fake, max_parallel_experiments=0)
    method = "automatic" if has_noise(name) else "matrix_product_state"
    return AerSimulator(method=method, max_parallel_experiments=0)


def circuit_seconds(circuit: QuantumCircuit, target: Target) -> float:
    """Duration of the longest path."""
    free: dict[Any, float] = defaultdict(float)
    for instruction in circuit.data:
        operation, qubits = instruction.operation, instruction.qubits
        start = max((free[qubit] for qubit in qubits), default=0.0)
        indices = tuple(circuit.find_bit(qubit).index for qubit in qubits)
        for qubit in qubits:
            free[qubit] = start + _instruction_seconds(operation, indices, target)
    return max(free.values(), default=0.0)


def _instruction_seconds(operation: Any, qubits: tuple[int, ...], target: Target) -> float:
    if operation.name == "delay":
        scale = {"dt": target.dt or 0.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
        return float(operation.duration) * scale[operation.unit]
    if operation.name not in target.operation_names:  # barriers
        return 0.0
    properties = (target[operation.name] or {}).get(qubits)
    return float(getattr(properties, "duration", None) or 0.0)


def _reset_seconds(target: Target) -> float:
    if "reset" not in target.operation_names:
        return 0.0
    return max(float(getattr(p, "duration", None) or 0.0) for p in target["reset"].values())


def _canonical(backend: str, program: Any, params: dict[str, Any]) -> str:
    """Text that two postings share if, and only if, they ask for the same.

    Left out are names and ids that a process gives to what it builds (of circuits, of parameters,
    of basis changes), the tags, and data that are only passed through.
    """
    posted = params["quantum_program"]
    parts = {
        "backend": backend,
        "circuits": [_circuit_text(item.circuit) for item in program.items],
        **{
            name: _plain(value)
            for name, value in posted.items()
            if name not in ("circuits", "passthrough_data", "semantic_role")
        },
    }
    text = json.dumps(parts, default=str)
    order: dict[str, str] = {}
    return re.sub(r"basis\d+", lambda m: order.setdefault(m.group(), f"basis.{len(order)}"), text)


def _plain(value: Any) -> Any:
    """JSON within strings of JSON, unfolded, and circuits within as text."""
    if isinstance(value, dict):
        return {
            key: _qpy_text(entry) if key == "circuit_base64" else _plain(entry)
            for key, entry in value.items()
        }
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return _plain(json.loads(value))
        except json.JSONDecodeError:
            return value
    return value


def _qpy_text(text: str) -> list[str]:
    return [_circuit_text(c) for c in qpy.load(io.BytesIO(base64.b64decode(text)))]


def _circuit_text(circuit: QuantumCircuit) -> str:
    lines = []
    for instruction in circuit.data:
        operation = instruction.operation
        parameters = [
            _circuit_text(entry) if isinstance(entry, QuantumCircuit) else str(entry)
            for entry in operation.params
        ]
        bits = [circuit.find_bit(b).index for b in (*instruction.qubits, *instruction.clbits)]
        duration = (operation.duration, operation.unit) if operation.name == "delay" else ""
        lines.append(f"{operation.name} {parameters} {bits} {duration}")
    return "\n".join(lines)
