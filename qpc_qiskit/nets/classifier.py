"""A classifier of images: normalisation, then the layers that a builder made."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from qpc_qiskit.errors import DataError
from qpc_qiskit.layer import QuantumLayer
from qpc_qiskit.nets.architectures import BUILDERS
from qpc_qiskit.options.records import NetConfig

if TYPE_CHECKING:
    from qpc_qiskit.data.images import ImageData

CONSTANT_CHANNEL = 1e-6  # a deviation up to this is rounding, not variation


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


def quantum_layers(model: nn.Module) -> dict[str, QuantumLayer]:
    """The quantum layers of a network by their names in it, in order."""
    return {
        name: module for name, module in model.named_modules() if isinstance(module, QuantumLayer)
    }
