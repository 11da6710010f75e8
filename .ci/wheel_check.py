"""The installed package in an empty folder; the argument is what the noisy engine says once."""

import sys
import warnings

import torch

from noise_models.words import parse_noise
from qpc_qiskit import EstimatorEngine, NoisyEngine, QuantumPointwiseConv2d, use_engine

layer = QuantumPointwiseConv2d(4, 2, generator=torch.Generator().manual_seed(0))
images = torch.rand(1, 4, 2, 2, generator=torch.Generator().manual_seed(1))
noise = parse_noise("depolarizing:0.01")
with warnings.catch_warnings(record=True) as told, torch.no_grad():
    warnings.simplefilter("always")
    exact = layer(images)
    with use_engine(layer, EstimatorEngine.from_backend("fake_torino", shots=64, seed=1)):
        layer(images)
    with use_engine(layer, EstimatorEngine.from_backend("aer", noise_model=noise)):
        on_aer = layer(images)
    for _ in range(2):
        with use_engine(layer, NoisyEngine(noise)) as engine:
            noisy = layer(images)
said = [str(each.message) for each in told if "computes in torch" in str(each.message)]
assert len(said) == 1, said
assert sys.argv[1] in said[0], said
assert engine.last_report.implementation == "torch"
assert float((noisy - on_aer).abs().max()) < 1e-5
print(f"works, and says once: {said[0]}")
