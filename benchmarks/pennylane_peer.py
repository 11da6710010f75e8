"""The layer's function in PennyLane: `default.qubit`, broadcasting, backprop, torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pennylane as qml
import torch
from torch import Tensor

from benchmarks.workload import Workload


@dataclass
class PennyLanePeer:
    """One QNode; each call of it is followed by its backward pass, so only one call's graph lives.

    A training step could not do that (its loss needs all features first): it is kind to the peer.
    """

    work: Workload
    is_joint: bool
    """Whether all kernels go into one call (weights repeated for every row) or one call each."""
    chunk: int
    """Pixels per call."""
    node: qml.QNode = field(init=False)

    def __post_init__(self) -> None:
        n = self.work.spec.num_qubits
        wires = list(range(n))[::-1]  # PennyLane's wire 0 is the highest bit, Qiskit's the lowest

        def circuit(pixels, weights):
            qml.AmplitudeEmbedding(pixels, wires=range(n), pad_with=0.0, normalize=True)
            qml.StronglyEntanglingLayers(weights, wires=wires)
            return [qml.expval(qml.PauliZ(wire)) for wire in wires]

        self.node = qml.QNode(
            circuit, qml.device("default.qubit", wires=n), interface="torch", diff_method="backprop"
        )

    @property
    def name(self) -> str:
        return f"{'all kernels' if self.is_joint else 'one kernel'} x {self.chunk:,} pixels a call"

    def step(self, pixels: Tensor, cotangent: Tensor) -> tuple[Tensor, ...]:
        """Values (N, K, n), gradients (N, C) and (K, P)."""
        spec = self.work.spec
        leaf = pixels.detach().requires_grad_()
        weights = self.work.layer.weight.detach().clone().requires_grad_()
        groups = [slice(None)]
        if not self.is_joint:
            groups = [slice(k, k + 1) for k in range(spec.num_kernels)]
        evs = torch.empty_like(cotangent)
        for start in range(0, len(pixels), self.chunk):
            rows = slice(start, start + self.chunk)
            for kernels in groups:
                values = self._values(leaf[rows], weights[kernels])
                values.backward(cotangent[rows, kernels].to(values.dtype))
                evs[rows, kernels] = values.detach().to(evs.dtype)
        return evs, leaf.grad, weights.grad

    def _values(self, pixels: Tensor, weights: Tensor) -> Tensor:
        """(N, kernels, n). Rot(phi, theta, omega) is RZ RX RZ up to quarter turns and a phase."""
        spec, count = self.work.spec, len(pixels)
        shift = weights.new_tensor([math.pi / 2, 0, -math.pi / 2])
        rotations = weights.view(len(weights), -1, spec.num_qubits, 3) + shift
        if self.is_joint:
            pixels = pixels.repeat(len(weights), 1)
            rotations = rotations.repeat_interleave(count, 0)
        else:
            rotations = rotations[0]
        values = torch.stack(self.node(pixels, rotations), -1)
        return values.view(-1, count, spec.num_qubits).transpose(0, 1)
