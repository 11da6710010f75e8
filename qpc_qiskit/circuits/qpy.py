"""Circuits as bytes: Qiskit's QPY, looked at before it is read.

QPY is no pickle, but its reader takes memory for counts that a header only states, reads the files
of old versions with other libraries, and ends in a panic of another language where it is surprised.
"""

from __future__ import annotations

import io
import math
import re
import struct
from collections.abc import Sequence

import qiskit
from qiskit import QuantumCircuit, qpy

from qpc_qiskit.errors import EngineError

_MAGIC = b"QISKIT"
_OLDEST = 15
"""What the oldest Qiskit that is taken writes."""
_TABLE = 16
"""From this version on a table tells where each circuit begins; else only the first is found."""
_HEADER = struct.Struct("!6sBBBBQcc")
_CIRCUIT = struct.Struct("!H1cHIIQIQI")
_MAX_BITS = 2**14
"""Of a circuit; no device has a tenth of it."""
FAITHFUL_QPY = (2, 3, 1)
"""The first Qiskit whose QPY (and pickle) keeps the sign of every difference of parameters."""


def circuits_to_bytes(circuits: Sequence[QuantumCircuit]) -> bytes:
    """The inverse of `circuits_from_bytes`; read back where Qiskit may write an angle wrongly.

    Raises:
        EngineError: the Qiskit that is installed writes one of the angles wrongly.
    """
    buffer = io.BytesIO()
    qpy.dump(list(circuits), buffer)
    if tuple(map(int, re.findall(r"\d+", qiskit.__version__)[:3])) < FAITHFUL_QPY:
        buffer.seek(0)
        for written, read in zip(circuits, qpy.load(buffer), strict=True):
            if _angles(written) != _angles(read):
                raise EngineError(
                    f"Qiskit {qiskit.__version__} writes an angle of the circuit {written.name!r} "
                    "wrongly (a difference in a difference of parameters). Install a newer one: "
                    f"pip install 'qiskit>={'.'.join(map(str, FAITHFUL_QPY))}'"
                )
    return buffer.getvalue()


def circuits_from_bytes(content: bytes) -> list[QuantumCircuit]:
    """Circuits that were stored.

    Raises:
        ValueError: the bytes are no circuits, or those of a Qiskit that is too old or too new.
    """
    try:
        _check(content)
        found: list[QuantumCircuit] = qpy.load(io.BytesIO(content))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of Rust is no Exception
        reason = str(error).strip().partition("\n")[0][:200]
        raise ValueError(f"no circuits ({type(error).__name__}: {reason})") from error
    return found


def _check(content: bytes) -> None:
    """Refuse counts that the bytes cannot hold."""
    magic, version, _, _, _, num_circuits, _, _ = _HEADER.unpack_from(content)
    if magic != _MAGIC or version < _OLDEST:
        raise ValueError(f"expected QPY of version {_OLDEST} or later, found {version}")
    if num_circuits > len(content) // 8:
        raise ValueError(f"{num_circuits:,} circuits in {len(content):,} bytes")
    starts: tuple[int, ...] = (_HEADER.size,) if num_circuits else ()
    if version >= _TABLE:
        starts = struct.unpack_from(f"!{num_circuits}Q", content, _HEADER.size)
    for start in starts:
        if start > len(content):
            raise ValueError("a circuit beyond the end")
        _, _, _, qubits, clbits, metadata, registers, instructions, variables = (
            _CIRCUIT.unpack_from(content, start)
        )
        if max(qubits, clbits) > _MAX_BITS:
            raise ValueError(f"a circuit on {qubits:,} qubits and {clbits:,} bits")
        if max(metadata, registers, instructions, variables) > len(content):
            raise ValueError("a circuit of more parts than bytes")


def _angles(circuit: QuantumCircuit) -> list[float]:
    """Of all gates, at a point that no simple sum brings to zero, up to rounding."""
    names = sorted(parameter.name for parameter in circuit.parameters)
    point = {p: math.sqrt(2 + names.index(p.name)) for p in circuit.parameters}
    bound = circuit.assign_parameters(point)
    return [round(float(angle), 9) for gate in bound.data for angle in gate.operation.params]
