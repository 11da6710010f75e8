"""What a layer asks of an engine."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from qpc_qiskit.circuits.spec import LayerSpec


@dataclass(frozen=True, eq=False)
class LayerCall:
    """A layer's question to an engine: the values of some pixels.

    Tensors may lie on any device.
    """

    spec: LayerSpec
    """What the layer computes."""
    pixels: Tensor = field(repr=False)
    """(N, C), C = spec.in_channels, N >= 0; real and finite, which the connector has checked."""
    weights: Tensor = field(repr=False)
    """(K, P)."""
    layer: str | None = None
    """Its name in `model.named_modules()`, without the prefixes of wrappers, of the model that
    `use_engine` was given; None: nobody told it."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, K, m), of the values."""
        return len(self.pixels), self.spec.num_kernels, self.spec.num_maps
