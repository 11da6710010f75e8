"""Placements on disk, by the content of what they were made of.

An entry is one file: a checksum of the rest, a line of JSON with key and data, the circuit as QPY.
What cannot be read, or is of something else, counts as absent and is written again; a disk that
cannot be written to never fails a run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import qiskit
from platformdirs import user_cache_path
from qiskit import QuantumCircuit
from qiskit.circuit import Instruction
from qiskit.exceptions import QiskitError
from qiskit.transpiler import Target

from qpc_qiskit.circuits.qpy import circuits_from_bytes, circuits_to_bytes
from qpc_qiskit.common.files import parse_json, read_file, write_bytes
from qpc_qiskit.errors import EngineError


def cache_folder() -> Path:
    """`$QPC_CACHE_DIR`, else of the system, which on Linux is `$XDG_CACHE_HOME` or `~/.cache`."""
    return Path(os.environ.get("QPC_CACHE_DIR") or user_cache_path("qpc-qiskit"))


def key(circuit: QuantumCircuit, target: Target, arguments: object) -> str:
    """What a placement is stored under: a hash of everything that it depends on.

    Args:
        circuit: the template.
        target: the backend's.
        arguments: whatever else matters, as JSON.
    """
    content = [qiskit.__version__, _circuit_content(circuit), _target_content(target), arguments]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def load(
    folder: Path, name: str, template: QuantumCircuit
) -> tuple[QuantumCircuit, dict[str, Any]] | None:
    """A stored circuit, in the parameters of `template`, and the data stored with it.

    Args:
        folder: see `cache_folder`.
        name: see `key`.
        template: the circuit that the key was made of.

    Returns:
        None if there is no valid entry.
    """
    try:
        stored = read_file(_path(folder, name), ValueError)
        checksum, _, content = stored.partition(b"\n")
        if checksum != _checksum(content):
            return None
        head, _, body = content.partition(b"\n")
        header = parse_json(head, name, ValueError, finite=False)
        if header["key"] != name:
            return None
        (circuit,) = circuits_from_bytes(body)
        own = {p.name: p for p in template.parameters}
        values = {p: own[p.name] for p in circuit.parameters}
        circuit.assign_parameters(values, inplace=True)  # a copy would get another name
        return circuit, dict(header["data"])
    except (OSError, ValueError, KeyError, TypeError, QiskitError):
        return None


def store(folder: Path, name: str, circuit: QuantumCircuit, data: dict[str, Any]) -> None:
    """Write an entry, or leave it where the disk does not allow it.

    Args:
        folder: made if it does not exist.
        name: see `key`.
        circuit: its parameters are found again by their names.
        data: whatever belongs to it, as JSON.
    """
    head = json.dumps({"key": name, "data": data}).encode()
    with contextlib.suppress(OSError, EngineError):  # the latter of a Qiskit that writes it wrongly
        content = head + b"\n" + circuits_to_bytes([circuit])
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(_path(folder, name), _checksum(content) + b"\n" + content)


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.placement"


def _circuit_content(circuit: QuantumCircuit) -> list[Any]:
    wire = {qubit: i for i, qubit in enumerate(circuit.qubits)}
    instructions = [
        [_operation_content(each.operation), [wire[q] for q in each.qubits]]
        for each in circuit.data
    ]
    names = [p.name for p in circuit.parameters]
    return [circuit.name, circuit.num_qubits, str(circuit.global_phase), names, instructions]


def _operation_content(operation: Instruction) -> list[Any]:
    """Name and parameters; and the definition of what is not of Qiskit's library."""
    content: list[Any] = [operation.name, [_parameter_content(p) for p in operation.params]]
    ours = operation.base_class.__module__.startswith("qiskit.circuit.library")
    if not ours and operation.definition is not None:
        content.append(_circuit_content(operation.definition))
    return content


def _parameter_content(parameter: object) -> str:
    # The text of an array is abridged, that of an expression and of a number is not.
    return repr(parameter.tolist()) if isinstance(parameter, np.ndarray) else str(parameter)


def _target_content(target: Target) -> list[Any]:
    operations = []
    for name in sorted(target.operation_names):
        operation = target.operation_from_name(name)
        if isinstance(operation, type):  # control flow
            continue
        known = target[name] or {None: None}
        places = [
            [at, getattr(told, "error", None), getattr(told, "duration", None)]
            for at, told in known.items()
        ]
        places.sort(key=lambda place: place[0] or ())
        operations.append([name, [str(p) for p in operation.params], places])
    qubits = [
        [getattr(q, "t1", None), getattr(q, "t2", None)] for q in target.qubit_properties or ()
    ]
    return [target.num_qubits, target.dt, qubits, operations]
