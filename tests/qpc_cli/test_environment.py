import json

from qpc_cli.environment import environment


def test_plain_values():
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["torch_devices"][0].startswith("cpu")
    assert "CPU" in found["aer_devices"]
    assert found["libraries"]["lightning"]
