"""Prepared circuits as bytes: what a run that outlives its process, and its calibration, keeps."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
from qiskit import QuantumCircuit
from qiskit.exceptions import QiskitError
from qiskit.quantum_info import SparsePauliOp

from qpc_qiskit.circuits.parities import Inversion
from qpc_qiskit.circuits.qpy import circuits_from_bytes, circuits_to_bytes
from qpc_qiskit.common.files import parse_json
from qpc_qiskit.devices.forecast import ShotTimes
from qpc_qiskit.devices.patches import Patch, Placement
from qpc_qiskit.errors import EngineError
from qpc_qiskit.rows.prepared import Prepared
from qpc_qiskit.rows.pubs import Template

FORMAT = 2


def freeze(prepared: Prepared) -> bytes:
    """A prepared circuit as bytes: a line of JSON, then its circuits as QPY. No pickle.

    Patches mostly share one circuit, which is written once.

    Raises:
        EngineError: an old Qiskit would write an angle wrongly.
    """
    circuits = list({id(part.circuit): part.circuit for part in prepared.parts}.values())
    which = {id(circuit): i for i, circuit in enumerate(circuits)}
    body = circuits_to_bytes(circuits)
    head = {
        "format": FORMAT,
        "parameters": [p.name for p in prepared.parts[0].parameters],
        "columns": prepared.parts[0].columns,
        "encoder": prepared.parts[0].encoder,
        "parts": [
            {
                "circuit": which[id(part.circuit)],
                "observables": [
                    [o.paulis.to_labels(), [c.real for c in o.coeffs]] for o in part.observables
                ],
            }
            for part in prepared.parts
        ],
        "placements": [
            {"final": placement.final, "patch": asdict(placement.patch)}
            for placement in prepared.placements
        ],
        "times": None if prepared.times is None else asdict(prepared.times),
        "width": prepared.width,
        "inversions": [
            {name: array.tolist() for name, array in vars(each).items()}
            for each in prepared.inversions
        ],
    }
    return json.dumps(head).encode() + b"\n" + body


def thaw(content: bytes) -> Prepared:
    """What was frozen, in another process.

    Raises:
        EngineError: the bytes are none of `freeze`, or of another version.
    """
    line, _, body = content.partition(b"\n")
    try:
        head: dict[str, Any] = parse_json(line, "its first line", ValueError, finite=False)
        if head["format"] != FORMAT:
            raise EngineError(
                f"The frozen circuit has format {head['format']}, this version reads {FORMAT}. Use "
                "the qpc-qiskit that wrote it."
            )
        circuits = circuits_from_bytes(body)
        parts = tuple(_part(circuits[each["circuit"]], each, head) for each in head["parts"])
        placements = tuple(
            Placement(
                part.circuit,
                tuple(each["final"]),
                Patch(tuple(each["patch"]["qubits"]), each["patch"]["fidelity"]),
            )
            for part, each in zip(parts, head["placements"], strict=False)
        )
        times = None if head["times"] is None else ShotTimes(**head["times"])
        inversions = tuple(
            Inversion(**{name: np.array(values) for name, values in each.items()})
            for each in head["inversions"]
        )
        return Prepared(parts, placements, times, head["width"], inversions)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, QiskitError) as error:
        raise EngineError(f"The frozen circuit cannot be read: {error}") from error


def _part(circuit: QuantumCircuit, told: dict[str, Any], head: dict[str, Any]) -> Template:
    named = {p.name: p for p in circuit.parameters}
    return Template(
        circuit,
        tuple(named[name] for name in head["parameters"]),
        tuple(SparsePauliOp(paulis, coeffs) for paulis, coeffs in told["observables"]),
        tuple(head["columns"]),
        encoder=head.get("encoder"),
    )
