"""What the measurements recommend."""

import json
from pathlib import Path

import pytest

from qpc_qiskit import EstimatorEngine
from qpc_qiskit.options.economy import BEST, best_options

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
    found = BEST.for_qubits(num_qubits)
    assert (found.encoder, found.absorb_tail) == (encoder, tail)
    assert (found.num_patches, found.gap) == (None, 0)
    assert found.num_references == 2 * num_qubits
    assert found.calibrate
    assert found.for_qubits(num_qubits) == found  # every option goes with the size


def test_engines_take_it():
    engine = EstimatorEngine.from_backend("fake_manila", **best_options(3))
    assert engine.num_references == 6


def test_the_measurement_says_so():
    """The rule is that of the committed table, and within its bound of the best choice."""
    tables = {table["title"]: table["rows"] for table in json.loads(MEASURED.read_text())["tables"]}
    rows = tables["What is recommended"]
    assert len({(row["device"], row["n"]) for row in rows}) == len(rows) == 4 * 4
    for row in rows:
        found = BEST.for_qubits(row["n"])
        assert row["recommended"] == f"{found.encoder}{' + tail' * found.absorb_tail}"
        assert row["seconds / fastest"] <= 1.1
        assert float(row["error"]) > 2 * float(row["calibrated"])
