import json

import pytest

from qpc_qiskit import environment as module
from qpc_qiskit.environment import environment


def test_plain_values():
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["torch_devices"][0].startswith("cpu")
    assert "CPU" in found["aer_devices"]
    assert found["libraries"]["lightning"]


@pytest.mark.parametrize(
    ("requirements", "expected"),
    [
        (["numpy>=2", 'pytest>=8; extra == "test"'], {"test": "installed"}),
        (
            ['no-such-package[all]>=1; extra == "docs"', 'pytest ; extra == "docs"'],
            {"docs": "missing no-such-package"},
        ),
        (None, {}),
    ],
)
def test_extras(monkeypatch, requirements, expected):
    monkeypatch.setattr(module, "requires", lambda name: requirements)
    assert environment()["extras"] == expected


def test_extras_of_a_checkout_that_is_not_installed(monkeypatch):
    def requires(name):
        raise module.PackageNotFoundError(name)

    monkeypatch.setattr(module, "requires", requires)
    assert environment()["extras"] == {}
