"""The layer under measurement and its inputs, the same for every benchmark."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from qpc_qiskit import PointwiseConnector, QuantumPointwiseConv2d
from qpc_qiskit.circuits.spec import LayerSpec
from qpc_qiskit.engines import LayerCall


@dataclass
class Workload:
    """A layer of K kernels on n qubits and steps of it; inputs are seeded."""

    channels: int
    kernels: int
    qubits: int
    num_layers: int = 3
    dtype: torch.dtype = torch.float32
    layer: QuantumPointwiseConv2d = field(init=False)

    def __post_init__(self) -> None:
        self.layer = QuantumPointwiseConv2d(
            self.channels,
            self.kernels * self.qubits,
            num_layers=self.num_layers,
            num_qubits=self.qubits,
            generator=torch.Generator().manual_seed(1),
            dtype=self.dtype,
        )

    @property
    def spec(self) -> LayerSpec:
        return self.layer.spec

    def multiply_adds(self, num_pixels: int) -> int:
        """Of one product of all pixels with all kernels' real and imaginary rows."""
        return num_pixels * self.kernels * 2**self.qubits * 2 ** (self.qubits + 1)

    def _random(self, seed: int, *shape: int) -> Tensor:
        return torch.randn(*shape, dtype=self.dtype, generator=torch.Generator().manual_seed(seed))

    def pixels(self, count: int) -> Tensor:
        return self._random(2, count, self.channels)

    def cotangent(self, count: int) -> Tensor:
        """Derivative of a loss by each value: (N, K, m)."""
        return self._random(3, count, self.spec.num_kernels, self.spec.num_maps)

    def images(self, count: int) -> tuple[Tensor, Tensor]:
        """`count` images of 7 x 7 pixels and the derivative of a loss by the layer's maps."""
        images = self._random(2, count, self.channels, 7, 7).requires_grad_()
        return images, self._random(3, count, self.layer.out_channels, 7, 7)

    def engine_step(self, pixels: Tensor, cotangent: Tensor) -> tuple[Tensor, ...]:
        """`evs` and `vjp`: values (N, K, m), gradients (N, C) and (K, P)."""
        engine, weights = self.layer.engine, self.layer.weight.detach()
        call = LayerCall(self.spec, pixels, weights)
        return engine.evs(call), *engine.vjp(call, cotangent)

    def connector_step(self, pixels: Tensor, cotangent: Tensor) -> tuple[Tensor, ...]:
        """The same through autograd, without images."""
        leaf = pixels.detach().requires_grad_()
        self.layer.weight.grad = None
        features = PointwiseConnector.forward(self.layer, leaf)
        features.backward(cotangent.flatten(1))
        return features.detach().view_as(cotangent), leaf.grad, self.layer.weight.grad

    def layer_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Forward and backward from images."""
        images, cotangent = batch
        images.grad = self.layer.weight.grad = None
        self.layer(images).backward(cotangent)
