"""A layer of two qubits on a local backend of a vendor, given by the distribution of its client."""

import sys

import torch

from qpc_qiskit import EstimatorEngine, QuantumPointwiseConv2d, use_engine


def braket():
    """Exact values of Amazon's local simulator, but for its shots."""
    from qiskit_braket_provider import BraketLocalBackend

    return BraketLocalBackend(), 0.2


def iqm():
    """IQM's fake device of five qubits, with its noise."""
    from iqm.qiskit_iqm.fake_backends.fake_adonis import IQMFakeAdonis

    return IQMFakeAdonis(), 0.4


backend, tolerance = {"qiskit-braket-provider": braket, "iqm-client": iqm}[sys.argv[1]]()
layer = QuantumPointwiseConv2d(4, 2, num_layers=1, generator=torch.Generator().manual_seed(0))
images = torch.rand(1, 4, 2, 2, generator=torch.Generator().manual_seed(1))
with torch.no_grad():
    exact = layer(images)
    with use_engine(layer, EstimatorEngine.from_backend(backend, shots=4096)) as engine:
        measured = layer(images)
report = engine.last_report
deviation = float((measured - exact).abs().max())
assert measured.shape == exact.shape == (1, 2, 2, 2)
assert 0 < deviation < tolerance, deviation  # it measured, and what was asked
print(
    f"{type(backend).__name__}: largest deviation from the exact engine {deviation:.3f}, "
    f"{report.num_executions} circuits of {report.shots} shots"
)
