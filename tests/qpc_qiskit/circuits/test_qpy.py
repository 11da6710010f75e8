import io
import re

import pytest
import qiskit
from qiskit import QuantumCircuit, qpy
from qiskit.circuit import Parameter, ParameterVector

from qpc_qiskit.circuits.qpy import FAITHFUL_QPY, circuits_to_bytes
from qpc_qiskit.errors import EngineError

INSTALLED = tuple(map(int, re.findall(r"\d+", qiskit.__version__)[:3]))


@pytest.mark.parametrize("version", [qiskit.__version__, "2.3.0"], ids=["installed", "checked"])
def test_circuits_come_back_or_are_refused(monkeypatch, version):
    """Qiskit before 2.3.1 turns some differences round, where they are read back."""
    monkeypatch.setattr(qiskit, "__version__", version)
    a, b = ParameterVector("a", 2)
    for angle in (a - b / 2, -a + 0.25 * b, 1 - (a - b), a - (b - 0.5), a - (0.5 - b)):
        circuit = QuantumCircuit(1)
        circuit.rz(angle, 0)
        try:
            content = circuits_to_bytes([circuit])
        except EngineError:
            if INSTALLED >= FAITHFUL_QPY:
                raise
            continue
        (read,) = qpy.load(io.BytesIO(content))
        values = [0.3, 0.7]
        found, wanted = (
            each.assign_parameters(values).data[0].operation.params[0] for each in (read, circuit)
        )
        assert found == pytest.approx(wanted, abs=1e-12)


def test_a_circuit_that_is_written_wrongly(monkeypatch):
    monkeypatch.setattr(qiskit, "__version__", "2.3.0")
    monkeypatch.setattr(qpy, "load", lambda file: [QuantumCircuit(1)])
    circuit = QuantumCircuit(1)
    circuit.rx(Parameter("a"), 0)
    with pytest.raises(EngineError, match=r"Qiskit 2\.3\.0 writes an angle .* 'qiskit>=2\.3\.1'"):
        circuits_to_bytes([circuit])
