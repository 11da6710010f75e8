"""Prepared circuits as bytes."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from qiskit.quantum_info import Statevector
from qiskit_ibm_runtime.fake_provider import FakeFez, FakeLagosV2
from tiers import thorough

from qpc_qiskit import EstimatorEngine, make_spec
from qpc_qiskit.backends.destinations import embedded
from qpc_qiskit.circuits.encoder import make_encoder
from qpc_qiskit.errors import EngineError
from qpc_qiskit.rows.frozen import freeze, thaw
from qpc_qiskit.rows.prepared import Prepared
from qpc_qiskit.rows.pubs import make_template


@pytest.mark.parametrize("backend", ["aer", "fake_torino", *thorough("fake_sherbrooke")])
def test_round_trip(backend):
    options = {"shots": 100} if backend != "aer" else {}
    prepared = EstimatorEngine.from_backend(backend, **options).prepare(make_spec(5, 6))
    found = thaw(freeze(prepared))
    assert found.template.circuit == prepared.template.circuit
    assert [p.name for p in found.template.parameters] == [
        p.name for p in prepared.template.parameters
    ]
    assert found.template.observables == prepared.template.observables
    assert found.times == prepared.times
    if backend == "aer":
        assert found.placement is None
    else:
        assert found.placement.patch == prepared.placement.patch
        assert found.placement.final == prepared.placement.final
        assert found.placement.circuit == prepared.placement.circuit


def test_full_width_of_a_device():
    """Texts of Pauli operators on more than fifty qubits are cut short by Qiskit."""
    encoder = make_encoder("multiplexor", 2)
    spec = make_spec(4, 2)
    prepared = embedded(make_template(encoder, spec.ansatz), FakeFez())
    found = thaw(freeze(prepared))
    assert found.template.circuit.num_qubits == 156
    assert found.template.observables == prepared.template.observables


@pytest.mark.slow
def test_another_process_gets_the_same_values(tmp_path, rng):
    """More than ten parameters: their order must not become that of their names."""
    prepared = EstimatorEngine().prepare(make_spec(8, 3, ansatz="circuit_centric"))
    template = prepared.template
    row = rng.uniform(0, 6, len(template.parameters))
    (tmp_path / "frozen").write_bytes(freeze(prepared))
    code = f"""
import json, pathlib
from qiskit.quantum_info import Statevector
from qpc_qiskit.rows.frozen import thaw
t = thaw(pathlib.Path({str(tmp_path / "frozen")!r}).read_bytes()).template
bound = t.circuit.assign_parameters(dict(zip(t.parameters, {row.tolist()!r}, strict=True)))
state = Statevector(bound)
print(json.dumps([state.expectation_value(o).real for o in t.observables]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    state = Statevector(
        template.circuit.assign_parameters(dict(zip(template.parameters, row, strict=True)))
    )
    expected = [state.expectation_value(o).real for o in template.observables]
    np.testing.assert_allclose(json.loads(done.stdout), expected, rtol=0, atol=1e-12)


def test_broken_and_newer_content():
    content = freeze(EstimatorEngine().prepare(make_spec(2, 1)))
    for broken in (b"", b"{}\n", content[:-20], b"x" + content, content.split(b"\n")[0]):
        with pytest.raises(EngineError, match="frozen circuit cannot be read"):
            thaw(broken)
    newer = content.replace(b'"format": 2', b'"format": 3', 1)
    with pytest.raises(EngineError, match="format 3, this version reads 2"):
        thaw(newer)


PACKINGS = [
    {"num_patches": 2, "gap": 1},
    {"num_patches": 2, "encoder": "brickwall", "absorb_tail": True},
]


def bound(prepared, row):
    """The circuit with numbers in it: parameters of several patches are made anew when thawed."""
    template = prepared.template
    return template.circuit.assign_parameters(dict(zip(template.parameters, row, strict=True)))


@pytest.mark.parametrize(
    ("options", "width"), list(zip(PACKINGS, ("full", None), strict=True)), ids=["plain", "shallow"]
)
def test_many_patches(options, width, rng):
    backend = FakeLagosV2()
    engine = EstimatorEngine.from_backend(backend, precision=0, **options)
    prepared = engine.prepare(make_spec(8, 3))
    if width is not None:
        prepared = replace(prepared, width=backend.num_qubits)
    found = thaw(freeze(prepared))
    assert found.num_patches == 2
    assert found.width == prepared.width
    names = [p.name for p in prepared.template.parameters]
    assert [p.name for p in found.template.parameters] == names
    assert len(set(names)) == len(names)
    row = rng.uniform(0, 6, len(names))
    assert bound(found, row) == bound(prepared, row)
    assert found.template.observables == prepared.template.observables
    assert len(found.inversions) == (2 if "absorb_tail" in options else 0)
    for one, other in zip(found.inversions, prepared.inversions, strict=True):
        for name, array in vars(one).items():
            np.testing.assert_array_equal(array, getattr(other, name))
    for one, other in zip(found.parts, prepared.parts, strict=True):
        assert one.columns == other.columns
        assert one.circuit == other.circuit
    for one, other in zip(found.placements, prepared.placements, strict=True):
        assert (one.patch, one.final) == (other.patch, other.final)
    assert found.times == prepared.times


def test_a_circuit_that_patches_share_is_kept_once():
    part = EstimatorEngine().prepare(make_spec(8, 3)).parts[0]
    alone, many = Prepared((part,)), Prepared((part,) * 20)
    assert len(freeze(many)) < 2 * len(freeze(alone))
    found = thaw(freeze(many))
    assert len({id(each.circuit) for each in found.parts}) == 1
    assert found.num_patches == 20
