"""Networks around the quantum layer, built from a `NetConfig`.

A network takes raw images, floats in [0, 1], and gives one output (logit) per class. The constants
that normalise the images are buffers of the network, so that a checkpoint needs nothing beside it.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from qpc_qiskit.errors import DataError
from qpc_qiskit.layer import QuantumPointwiseConv2d
from qpc_qiskit.options import NetConfig

if TYPE_CHECKING:
    from qpc_qiskit.data import ImageData

__all__ = [
    "BUILDERS",
    "ImageClassifier",
    "NetConfig",
    "Normalise",
    "build_net",
    "check_data",
    "config_for",
    "quantum_layers",
]

CONSTANT_CHANNEL = 1e-6  # a deviation up to this is rounding, not variation
LARGE_IMAGE = 17  # from this size on a second stage keeps the pixels of the quantum layer few


class Normalise(nn.Module):
    """Subtract a mean and divide by a deviation, channel by channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    def set(self, mean: Tensor, std: Tensor) -> None:
        """Set the constants, shape (C,); the deviation of a channel that never varies becomes 1."""
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > CONSTANT_CHANNEL, std, torch.ones_like(std)))

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W), normalised."""
        return (images - self.mean[:, None, None]) / self.std[:, None, None]


class ImageClassifier(nn.Module):
    """Normalisation followed by the layers that a builder made; knows its configuration."""

    def __init__(self, config: NetConfig, layers: nn.Sequential) -> None:
        super().__init__()
        self.config = config
        self.normalise = Normalise(config.in_channels)
        self.layers = layers

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images.

        Args:
            images: floats in [0, 1], shape (B, C, H, W), dtype and device of the weights.

        Returns:
            Shape (B, num_classes).

        Raises:
            ValueError: the images have another shape than the network was built for.
        """
        expected = (self.config.in_channels, self.config.image_size, self.config.image_size)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            raise ValueError(
                f"Expected images of shape (B, {', '.join(map(str, expected))}), "
                f"found {tuple(images.shape)}."
            )
        logits: Tensor = self.layers(self.normalise(images))
        return logits


def config_for(data: "ImageData", **options: Any) -> NetConfig:
    """The configuration of a network for a data set.

    Args:
        data: gives channels, size and classes; its images must be square.
        options: the other fields of `NetConfig`.

    Raises:
        DataError: the images are not square.
    """
    channels, height, width = data.image_shape
    if height != width:
        raise DataError(f"{data.name}: expected square images, found {height}x{width}.")
    return NetConfig(
        in_channels=channels, image_size=height, num_classes=data.num_classes, **options
    )


def check_data(config: NetConfig, data: "ImageData") -> None:
    """Refuse images that a network was not built for.

    Raises:
        DataError: shape or number of classes differ.
    """
    expected = (config.in_channels, config.image_size, config.image_size)
    if data.image_shape != expected or data.num_classes != config.num_classes:
        raise DataError(
            f"The network expects images {expected} of {config.num_classes} classes; {data.name} "
            f"has {data.image_shape} of {data.num_classes}. Build it with config_for(data)."
        )


def build_net(config: NetConfig, *, seed: int = 0) -> ImageClassifier:
    """Build a network with fresh weights.

    Args:
        config: its architecture.
        seed: decides the weights; torch's own random state is left as it was.

    Returns:
        The network, float32 on the CPU, in training mode, with normalisation constants 0 and 1.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return ImageClassifier(config, BUILDERS[config.name](config))


def quantum_layers(model: nn.Module) -> dict[str, QuantumPointwiseConv2d]:
    """The quantum layers of a network by their names in it, in order."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, QuantumPointwiseConv2d)
    }


def _small(config: NetConfig) -> nn.Sequential:
    stem, size = _stem(config)
    quantum = QuantumPointwiseConv2d(
        config.width,
        config.quantum_channels,
        num_layers=config.num_layers,
        ansatz=config.ansatz,
        num_qubits=config.num_qubits,
        bias_channel=config.bias_channel,
        init=config.init,
    )
    return _joined(stem, quantum, _head(config, size))


def _small_classical(config: NetConfig) -> nn.Sequential:
    stem, size = _stem(config)
    pointwise = nn.Sequential(
        nn.Conv2d(config.width, config.quantum_channels, 1),
        nn.BatchNorm2d(config.quantum_channels),
        nn.ReLU(),
    )
    return _joined(stem, pointwise, _head(config, size))


def _joined(stem: nn.Module, pointwise: nn.Module, head: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(stem=stem, pointwise=pointwise, head=head))


def _stem(config: NetConfig) -> tuple[nn.Sequential, int]:
    """One stage for small images, two for larger ones, and the size of what they give."""
    size, channels = config.image_size, config.in_channels
    stages: list[nn.Module] = []
    for _ in range(1 if size < LARGE_IMAGE else 2):
        stages += [
            nn.Conv2d(channels, config.width, 3, padding=1),
            nn.BatchNorm2d(config.width),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
        size, channels = size // 2, config.width
    return nn.Sequential(*stages), size


def _head(config: NetConfig, size: int) -> nn.Sequential:
    features = config.quantum_channels * size**2
    return nn.Sequential(
        nn.Dropout(config.dropout), nn.Flatten(), nn.Linear(features, config.num_classes)
    )


BUILDERS: dict[str, Callable[[NetConfig], nn.Sequential]] = {
    "small": _small,
    "small-classical": _small_classical,
}
"""Builders by the name that a `NetConfig` gives."""
