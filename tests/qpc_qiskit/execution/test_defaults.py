"""What the measurements recommend."""

import json
from pathlib import Path

import pytest
from qiskit_ibm_runtime.fake_provider import FakeManilaV2

from qpc_qiskit import EstimatorEngine
from qpc_qiskit.economy import PLAIN
from qpc_qiskit.execution.defaults import recommended

TARGET = FakeManilaV2().target
MEASURED = Path(__file__).parents[3] / "benchmarks" / "results" / "defaults.json"


@pytest.mark.parametrize(
    ("num_qubits", "encoder", "tail"),
    [
        (1, "multiplexor", False),
        (2, "multiplexor", False),
        (3, "brickwall", False),
        (5, "brickwall", False),
        (6, "brickwall", True),
        (7, "brickwall", True),
        (8, "multiplexor", True),
    ],
)
def test_one_rule_for_all_devices(num_qubits, encoder, tail):
    found = recommended(num_qubits, TARGET)
    assert (found.encoder, found.absorb_tail) == (encoder, tail)
    assert (found.patches, found.gap) == (None, 0)
    assert found.references == 2 * num_qubits
    assert found.calibrate
    assert found.for_qubits(num_qubits) == found  # every option goes with the size


def test_nothing_is_to_be_saved_without_a_device():
    assert recommended(4, None) == PLAIN


def test_engines_take_it():
    engine = EstimatorEngine.from_backend("fake_manila", **recommended(3, TARGET).for_engine())
    assert engine.num_references == 6


def test_the_measurement_says_so():
    """The rule is that of the committed table, and within its bound of the best choice."""
    tables = {table["title"]: table["rows"] for table in json.loads(MEASURED.read_text())["tables"]}
    rows = tables["What is recommended"]
    assert len({(row["device"], row["n"]) for row in rows}) == len(rows) == 4 * 4
    for row in rows:
        found = recommended(row["n"], TARGET)
        assert row["recommended"] == f"{found.encoder}{' + tail' * found.absorb_tail}"
        assert row["seconds / fastest"] <= 1.1
        assert float(row["error"]) > 2 * float(row["calibrated"])
