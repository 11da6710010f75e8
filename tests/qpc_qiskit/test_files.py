import errno
import io
import os
import re

import pytest
import qiskit
from qiskit import QuantumCircuit, qpy
from qiskit.circuit import Parameter, ParameterVector

from qpc_qiskit.errors import EngineError
from qpc_qiskit.files import FAITHFUL_QPY, as_qpy, write_bytes, write_text, written_aside

INSTALLED = tuple(map(int, re.findall(r"\d+", qiskit.__version__)[:3]))


def test_content_is_replaced_and_nothing_stays_beside_it(tmp_path):
    path = tmp_path / "file.json"
    write_bytes(path, b"old")
    write_text(path, "néw\n")
    assert path.read_bytes() == "néw\n".encode()
    assert list(tmp_path.iterdir()) == [path]


def write_half(path):
    with written_aside(path) as aside:
        assert aside.suffix == ".json"
        assert aside.parent == path.parent
        aside.write_bytes(b"ne")
        raise RuntimeError("half way")


def test_failure_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.json"
    write_bytes(path, b"old")
    with pytest.raises(RuntimeError, match="half way"):
        write_half(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_no_folder_is_told_with_the_file_that_was_wanted(tmp_path):
    path = tmp_path / "missing" / "file.json"
    with pytest.raises(FileNotFoundError) as raised:
        write_text(path, "new")
    assert raised.value.filename == str(path)


def full_disk(path, names_its_file):
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with written_aside(path) as aside:
        aside.write_bytes(b"ne")
        if names_its_file:  # as copying does: from where, to where
            error.filename, error.filename2 = "/somewhere/else", str(aside)
        raise error


@pytest.mark.parametrize("names_its_file", [False, True])
def test_a_full_disk_is_told_with_the_file_that_was_wanted(tmp_path, names_its_file):
    path = tmp_path / "file.json"
    with pytest.raises(OSError, match="No space left") as raised:
        full_disk(path, names_its_file)
    assert (raised.value.filename, raised.value.filename2) == (str(path), None)
    assert list(tmp_path.iterdir()) == []


def read_another(path, other):
    with written_aside(path):
        other.read_text()


def test_an_error_of_another_file_is_left_alone(tmp_path):
    other = tmp_path / "other"
    with pytest.raises(FileNotFoundError) as raised:
        read_another(tmp_path / "file.json", other)
    assert raised.value.filename == str(other)


@pytest.mark.parametrize("version", [qiskit.__version__, "2.3.0"], ids=["installed", "checked"])
def test_circuits_come_back_or_are_refused(monkeypatch, version):
    """Qiskit before 2.3.1 turns some differences round, where they are read back."""
    monkeypatch.setattr(qiskit, "__version__", version)
    a, b = ParameterVector("a", 2)
    for angle in (a - b / 2, -a + 0.25 * b, 1 - (a - b), a - (b - 0.5), a - (0.5 - b)):
        circuit = QuantumCircuit(1)
        circuit.rz(angle, 0)
        try:
            content = as_qpy([circuit])
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
        as_qpy([circuit])
