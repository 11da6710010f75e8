"""Placements on disk."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from qiskit import QuantumCircuit
from qiskit.circuit import Gate, Parameter, ParameterVector
from qiskit.circuit.library import CZGate, SXGate, UnitaryGate
from qiskit.providers import QubitProperties
from qiskit.transpiler import InstructionProperties, Target

from qpc_qiskit.devices import placement_cache
from qpc_qiskit.devices.placement_cache import cache_folder, key, load, store

ANGLES = 12  # so that theta[10] sorts before theta[2] as text


def make_circuit(names=("theta", "phi")):
    theta, phi = ParameterVector(names[0], ANGLES), Parameter(names[1])
    circuit = QuantumCircuit(2, name="template")
    for angle in theta:
        circuit.rz(2 * angle + phi, 0)
        circuit.cz(0, 1)
    return circuit


def make_target(error=0.1, duration=1e-7, t1=1.0, edge=(0, 1)):
    target = Target(num_qubits=2, qubit_properties=[QubitProperties(t1=t1), QubitProperties()])
    target.add_instruction(SXGate())
    properties = InstructionProperties(error=error, duration=duration)
    target.add_instruction(CZGate(), {edge: properties})
    return target


def test_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("QPC_CACHE_DIR", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("QPC_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "qpc-qiskit"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "qpc-qiskit"


def test_key_depends_on_content_only():
    same = key(make_circuit(), make_target(), [1])
    assert key(make_circuit(), make_target(), [1]) == same
    longer, unitary, other_unitary = make_circuit(), make_circuit(), make_circuit()
    longer.x(0)
    unitary.append(UnitaryGate(np.eye(4)), [0, 1])
    other_unitary.append(UnitaryGate(np.diag([1, 1, 1, -1])), [0, 1])
    own, other_own = make_circuit(), make_circuit()
    for circuit, angle in ((own, 0.1), (other_own, 0.2)):
        gate = Gate("own", 1, [])
        gate.definition = QuantumCircuit(1)
        gate.definition.rx(angle, 0)
        circuit.append(gate, [0])
    keys = [
        same,
        *(key(c, make_target(), [1]) for c in (longer, unitary, other_unitary, own, other_own)),
        key(make_circuit(("theta", "psi")), make_target(), [1]),
        key(make_circuit(), make_target(error=0.2), [1]),
        key(make_circuit(), make_target(error=None), [1]),
        key(make_circuit(), make_target(error=math.nan), [1]),
        key(make_circuit(), make_target(duration=2e-7), [1]),
        key(make_circuit(), make_target(t1=2.0), [1]),
        key(make_circuit(), make_target(edge=(1, 0)), [1]),
        key(make_circuit(), make_target(), [2]),
    ]
    assert len(set(keys)) == len(keys)


def test_round_trip_with_fresh_parameters(tmp_path):
    store(tmp_path / "new", "name", make_circuit(), {"qubits": [3, 4], "fidelity": 0.1 + 0.2})
    template = make_circuit()  # equal names, other parameters
    circuit, data = load(tmp_path / "new", "name", template)
    assert data == {"qubits": [3, 4], "fidelity": 0.1 + 0.2}
    assert circuit == template
    assert circuit.name == "template"
    assert list(circuit.parameters) == list(template.parameters)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["name.placement"]


def test_round_trip_through_another_process(tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path\n"
        "from test_placement_cache import key, make_circuit, make_target, store\n"
        "name = key(make_circuit(), make_target(), [])\n"
        "store(Path(sys.argv[3]), name, make_circuit(), {'final': [1, 0]})\n"
    )
    here = os.path.dirname(__file__)  # noqa: PTH120
    subprocess.run([sys.executable, "-c", code, here, os.getcwd(), str(tmp_path)], check=True)  # noqa: PTH109
    template = make_circuit()
    circuit, data = load(tmp_path, key(template, make_target(), []), template)
    assert circuit == template
    assert data == {"final": [1, 0]}


def test_absent_corrupt_and_foreign_entries_count_as_absent(tmp_path):
    template = make_circuit()
    assert load(tmp_path, "name", template) is None
    store(tmp_path, "name", template, {})
    path = tmp_path / "name.placement"
    content = path.read_bytes()
    for position in range(0, len(content), 37):
        flipped = bytearray(content)
        flipped[position] ^= 1
        path.write_bytes(flipped)
        assert load(tmp_path, "name", template) is None
    for wrong in (b"", b"\n", content[:-1], b"text", content[65:]):
        path.write_bytes(wrong)
        assert load(tmp_path, "name", template) is None
    path.write_bytes(content)
    assert load(tmp_path, "name", template) is not None
    assert load(tmp_path, "name", make_circuit(("theta", "psi"))) is None
    path.rename(tmp_path / "other.placement")
    assert load(tmp_path, "other", template) is None


def test_valid_checksum_of_something_else(tmp_path):
    path = tmp_path / "name.placement"
    header = json.dumps({"key": "name", "data": {}}).encode()
    for content in (b"[]\n", b"{}\n", b"\xff\n", header + b"\nno circuit", header + b"\nQISKIT"):
        path.write_bytes(placement_cache._checksum(content) + b"\n" + content)
        assert load(tmp_path, "name", make_circuit()) is None


def test_a_disk_that_cannot_be_written_to_does_not_matter(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("")
    store(file / "below", "name", make_circuit(), {})  # a folder cannot be made there
    assert load(file / "below", "name", make_circuit()) is None

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(placement_cache, "write_bytes", full)
    store(tmp_path, "name", make_circuit(), {})
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("size", [1, 3])
def test_circuits_without_parameters(tmp_path, size):
    circuit = QuantumCircuit(size, global_phase=0.5)
    circuit.sx(0)
    store(tmp_path, "name", circuit, {})
    assert load(tmp_path, "name", circuit)[0] == circuit
