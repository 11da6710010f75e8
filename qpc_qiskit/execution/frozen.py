"""Prepared circuits as bytes: what a run that outlives its process, and its calibration, keeps."""

from __future__ import annotations

import io
import json
import struct
from dataclasses import asdict
from typing import Any

from qiskit import qpy
from qiskit.exceptions import QiskitError
from qiskit.quantum_info import SparsePauliOp

from qpc_qiskit.errors import EngineError
from qpc_qiskit.execution.destinations import Prepared
from qpc_qiskit.execution.forecast import ShotTimes
from qpc_qiskit.execution.patches import Patch, Placement
from qpc_qiskit.execution.pubs import Template

FORMAT = 1


def freeze(prepared: Prepared) -> bytes:
    """A prepared circuit as bytes: a line of JSON, then its circuits as QPY. No pickle."""
    template, placement, times = prepared.template, prepared.placement, prepared.times
    circuits = [template.circuit, *([] if placement is None else [placement.circuit])]
    buffer = io.BytesIO()
    qpy.dump(circuits, buffer)
    head = {
        "format": FORMAT,
        "parameters": [p.name for p in template.parameters],
        "observables": [
            [o.paulis.to_labels(), [c.real for c in o.coeffs]] for o in template.observables
        ],
        "placement": None
        if placement is None
        else {"final": placement.final, "patch": asdict(placement.patch)},
        "times": None if times is None else asdict(times),
    }
    return json.dumps(head).encode() + b"\n" + buffer.getvalue()


def thaw(content: bytes) -> Prepared:
    """What was frozen, in another process.

    Raises:
        EngineError: the bytes are none of `freeze`, or of a newer version.
    """
    line, _, body = content.partition(b"\n")
    try:
        head: dict[str, Any] = json.loads(line)
        if head["format"] != FORMAT:
            raise EngineError(
                f"The frozen circuit has format {head['format']}, this version reads {FORMAT}. Use "
                "the qpc-qiskit that wrote it, or a newer one."
            )
        circuits = qpy.load(io.BytesIO(body))
        named = {p.name: p for p in circuits[0].parameters}
        template = Template(
            circuits[0],
            tuple(named[name] for name in head["parameters"]),
            tuple(SparsePauliOp(paulis, coeffs) for paulis, coeffs in head["observables"]),
        )
        placement = None
        if head["placement"] is not None:
            patch = head["placement"]["patch"]
            placement = Placement(
                circuits[1],
                tuple(head["placement"]["final"]),
                Patch(tuple(patch["qubits"]), patch["fidelity"]),
            )
        times = None if head["times"] is None else ShotTimes(**head["times"])
    except (ValueError, KeyError, TypeError, IndexError, struct.error, QiskitError) as error:
        raise EngineError(f"The frozen circuit cannot be read: {error}") from error
    return Prepared(template, placement, times)
