"""A tiny network of two quantum layers on a real device in job, batch and session mode."""

import json
import math
import os
import sys
import time

import pytest
import torch
from torch import nn

from hardware_runs import durable
from qpc_qiskit import QuantumPointwiseConv2d, use_engine

BACKEND = os.environ.get("QPC_HARDWARE_BACKEND", "ibm_fez")
BUDGET, SHOTS = 60.0, 256
# A message of IBM's client that nobody foresaw must not end a run that is paid.
pytestmark = pytest.mark.filterwarnings("default")


def network():
    """Two layers of two qubits: the second one's circuits hold the first one's results."""
    generator = torch.Generator().manual_seed(7)
    return nn.Sequential(
        QuantumPointwiseConv2d(4, 4, generator=generator),
        QuantumPointwiseConv2d(4, 2, generator=generator),
    ).eval()


def images():
    """Two, of 1x1 pixels."""
    return torch.randn(2, 4, 1, 1, generator=torch.Generator().manual_seed(8))


def test_it_is_a_test():
    """Values of another image, another layer's order or opposite sign are out of bounds."""
    model, x = network(), images()
    with torch.no_grad():
        for layer in model:
            right = layer(x)
            for wrong in (-right, right.flip(0), right.flip(1)):
                assert not is_close(wrong, right)
            x = right


def is_close(values, exact):
    """Within six standard errors, and 0.25 for the device's noise."""
    standard_error = ((1 - exact.square()).clamp(min=0) / SHOTS).sqrt()
    return bool(((values - exact).abs() <= 6 * standard_error + 0.25).all())


@pytest.fixture(scope="module")
def plan():
    """Name of the plan that the device is used under."""
    from qiskit_ibm_runtime import QiskitRuntimeService

    service = QiskitRuntimeService()
    service.backend(BACKEND)
    active = service.active_instance()
    (found,) = (each["plan"] for each in service.instances() if each["crn"] == active)
    return found


@pytest.mark.hardware
@pytest.mark.parametrize("mode", ["job", "batch", "session"])
def test_two_layers(mode, plan, tmp_path, capsys):
    if mode == "session" and plan.lower() == "open":
        pytest.skip("the Open plan has no sessions")
    model, seen = network(), []
    for layer in model:
        layer.register_forward_hook(lambda layer, given, values: seen.append((*given, values)))
    path = tmp_path / "runs.sqlite"
    settings = {"mode": mode, "shots": SHOTS, "max_qpu_seconds": BUDGET}

    def run_through():
        engine = durable(path, mode, BACKEND, **settings, wait=True)
        with engine, torch.no_grad(), use_engine(model, engine):
            model(images())
        return engine.ledger, engine.run.id

    with capsys.disabled():
        sys.stdout.write(f"\n{mode}, ledger {path}\n")
    begun = time.monotonic()
    ledger, run = run_through()
    waited = time.monotonic() - begun
    for _ in range(30):  # the service may tell the usage some time after the results
        if not ledger.state(run).budget.reserved_seconds:
            break
        time.sleep(10)
        run_through()
    attempts, budget = ledger.state(run).attempts(), ledger.state(run).budget
    with torch.no_grad():
        pairs = [
            (values, layer(given)) for (given, values), layer in zip(seen, network(), strict=False)
        ]
    with capsys.disabled():
        report = {
            "jobs": [attempt.job_id for attempt in attempts],
            "results_after_seconds": round(waited, 1),
            "usage_after_seconds": round(time.monotonic() - begun, 1),
            "predicted_seconds": math.fsum(c.predicted_seconds for c in ledger.state(run).chunks()),
            "used_seconds": budget.used_seconds,
            "held_back_seconds": budget.reserved_seconds,
            "largest_error": max(float((a - b).abs().max()) for a, b in pairs),
        }
        sys.stdout.write(f"{json.dumps(report, indent=2)}\n")
    assert [attempt.job_id is not None for attempt in attempts] == [True, True]
    assert budget.used_seconds + budget.reserved_seconds <= BUDGET
    for values, exact in pairs:
        assert is_close(values, exact)
