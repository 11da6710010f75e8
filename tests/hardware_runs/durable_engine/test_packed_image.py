"""A whole image of the digits network: packed, brickwall, calibrated, durable, on the stand-in."""

import pytest
import torch
from durable_runs import RULES, Clock, Script, check_paid_once
from qiskit_ibm_runtime.fake_provider import FakeJakartaV2
from sklearn.datasets import load_digits

from qpc_qiskit import EstimatorEngine, ExactEngine
from qpc_qiskit.nets import NetConfig, build_net, quantum_layers

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_backoff")]

SHALLOW = {"encoder": "brickwall", "absorb_tail": True, "mode": "batch"}


def digit():
    """(1, 1, 8, 8)."""
    return torch.as_tensor(load_digits().images[7], dtype=torch.float32)[None, None] / 16


@pytest.mark.parametrize(
    ("name", "is_noisy", "config", "given", "fake"),
    [
        # two patches of three qubits with the device's noise, simulated together
        (
            "ibm_jakarta",
            True,
            NetConfig(width=8, quantum_channels=6),
            {"num_patches": 2, "num_references": 12, "shots": 1024},
            FakeJakartaV2,
        ),
        # the demo's own network, on as many patches as ibm_fez has; too wide for noise
        (
            "ibm_fez",
            False,
            NetConfig(),
            {"num_patches": None, "num_references": 8, "shots": 1024},
            None,
        ),
    ],
    ids=["small patches with noise", "full width"],
)
def test_whole_image(start, tmp_path, name, is_noisy, config, given, fake):
    """Equal to a direct packed run, and to exact within error bars and what calibration leaves."""
    standin = start(noisy=is_noisy)
    given = {**SHALLOW, **given}
    net, image = build_net(config).eval(), digit()
    backend = standin.service().backend(name)
    script = Script(tmp_path / "runs.sqlite", backend, Clock(standin), net, rules=RULES, **given)
    values = script.finish(image)
    check_paid_once(script, standin)

    ((layer_name, layer),) = quantum_layers(net).items()
    seen = []
    layer.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    with torch.no_grad():
        layer.engine = ExactEngine()
        net(image)
        with EstimatorEngine.from_backend(backend, **given) as engine:
            layer.engine = engine
            direct = net(image)
            report = engine.last_report
    assert torch.equal(values, direct)
    ledger, run_id = script.ledger()
    executions = sum(chunk.num_rows for chunk in ledger.state(run_id).chunks(layer=layer_name))
    assert executions == report.num_executions
    rows = 16 * layer.spec.num_kernels
    assert executions == -(-rows // len(report.patches)) + given["num_references"]
    assert len(report.patches) >= (2 if is_noisy else 20)

    (_, exact), (_, measured) = seen
    bias = torch.zeros_like(exact)
    if fake is not None:  # what calibration leaves, without shots
        options = {**given, "shots": None, "mode": None}
        options = {k: v for k, v in options.items() if v is not None}
        layer.engine = EstimatorEngine.from_backend("aer", noise_model=fake(), **options)
        with torch.no_grad():
            net(image)
        assert layer.engine.last_report.patches == report.patches
        bias = seen[2][1] - exact
        assert 0.005 < (bias**2).mean().sqrt() < 0.05
    errors = (measured - exact - bias).flatten()
    std = torch.as_tensor(report.stds[0]).flatten()
    # Five standard errors of the root mean square of 96 values are 5 / sqrt(2 * 96) = 0.36.
    assert 0.6 < (errors**2).mean().sqrt() / (std**2).mean().sqrt() < 1.4
    assert errors.abs().max() < 6 * std.max()
