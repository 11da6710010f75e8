"""The toolkit's own engine on the stand-in, by nothing but a device's name."""

import numpy as np
import torch

from hardware_runs.standin import Rules, Standin
from qpc_qiskit import QuantumPointwiseConv2d, use_engine
from qpc_qiskit.engines import EstimatorEngine


def test_from_backend_in_every_mode(generator):
    """Three places, one number: what jobs return depends on their content alone."""
    layer = QuantumPointwiseConv2d(4, 2)
    images = torch.rand(1, 4, 2, 2, generator=generator)
    found = []
    with Standin(Rules(noisy=False)) as standin, torch.no_grad():
        for mode in ("job", "batch", "session"):
            engine = EstimatorEngine.from_backend("ibm_manila", mode=mode, shots=4096)
            with use_engine(layer, engine):
                found.append(layer(images).numpy())
        records = standin.records()
    np.testing.assert_allclose(found[0], layer(images).detach(), atol=0.1)
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])
    assert [session["mode"] for session in records["sessions"]] == ["batch", "dedicated"]
    assert len({job["program_sha256"] for job in records["jobs"]}) == 1
    assert len(records["jobs"]) == 3
