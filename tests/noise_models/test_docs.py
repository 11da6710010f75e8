"""What docs/noise.md shows is right."""

import re
from pathlib import Path

import numpy as np
import pytest
from qiskit.quantum_info import SuperOp, average_gate_fidelity

from noise_models import builders, catalog, words
from noise_models.building import error_of
from noise_models.spec import NoiseSpec

PAGE = (Path(__file__).parents[2] / "docs" / "noise.md").read_text()


def test_the_file_is_one():
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    spec = NoiseSpec.from_toml(text, "docs/noise.md")
    noise = spec.build(4)
    assert noise.tells_stages
    assert noise.min_qubits == 4
    assert NoiseSpec.from_toml(spec.to_toml()) == spec


def test_names_and_kinds_are_all_told():
    for name in (*catalog.names(), *words.KINDS):
        assert f"`{name}" in PAGE


@pytest.mark.parametrize(
    ("channel", "infidelity"),
    [
        (builders.bit_flip, lambda p: 2 * p / 3),
        (builders.phase_flip, lambda p: 2 * p / 3),
        (builders.depolarizing, lambda p: p / 2),
        (builders.amplitude_damping, lambda g: (2 - 2 * np.sqrt(1 - g) + g) / 6),
        (builders.phase_damping, lambda g: (1 - np.sqrt(1 - g)) / 3),
        (builders.over_rotation, lambda a: 2 * np.sin(a / 2) ** 2 / 3),
    ],
)
def test_infidelities_of_the_table(channel, infidelity):
    for strength in (0.01, 0.4):
        found = 1 - average_gate_fidelity(SuperOp(error_of(channel(strength), "sx", 1)))
        assert found == pytest.approx(infidelity(strength))
    two = 1 - average_gate_fidelity(SuperOp(error_of(builders.depolarizing(0, 0.4), "cx", 2)))
    assert two == pytest.approx(3 * 0.4 / 4)
