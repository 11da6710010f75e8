"""Circuits in QPY, Qiskit's own format, written so that they can be read back as they were."""

import io
import math
import re
from collections.abc import Sequence

import qiskit
from qiskit import QuantumCircuit, qpy

from qpc_qiskit.errors import EngineError

FAITHFUL_QPY = (2, 3, 1)
"""The first Qiskit whose QPY (and pickle) keeps the sign of every difference of parameters."""


def as_qpy(circuits: Sequence[QuantumCircuit]) -> bytes:
    """Circuits in QPY. A Qiskit that may write an angle wrongly is read back, and compared.

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


def _angles(circuit: QuantumCircuit) -> list[float]:
    """Of all gates, at a point that no simple sum brings to zero, up to rounding."""
    names = sorted(parameter.name for parameter in circuit.parameters)
    point = {p: math.sqrt(2 + names.index(p.name)) for p in circuit.parameters}
    bound = circuit.assign_parameters(point)
    return [round(float(angle), 9) for gate in bound.data for angle in gate.operation.params]
