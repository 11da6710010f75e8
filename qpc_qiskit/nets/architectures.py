"""The networks, layer by layer: one builder for each name that a `NetConfig` knows.

Sizes for the paper's networks (width 64, 128 quantum channels) on CIFAR-10's 32x32 images, with the
qubits n of each quantum layer and the positions (pixels per image) that it sees:

    paper-fig3a   conv 3x3 to 64, BN, ReLU, pool | Q 64->64 (n=6, K=11, 16x16) | conv 3x3, ReLU,
                  pool | Q 64->128 (n=6, K=22, 8x8) | fully connected 256
    paper-fig3b   the same with conv 1x1, BN, ReLU for each Q, and BN after the 3x3 convolution
    paper-cnn     conv 3x3 to 32, 64, 128, each with BN and ReLU, two poolings | fully connected 256
    strong        the three convolutions of paper-cnn | Q 128->64 (n=7, K=10, 8x8) | conv 3x3, ReLU
                  | Q 64->128 (n=6, K=22, 8x8) | fully connected 256

The fully connected layer of 256 has batch norm and ReLU after it. The paper does not say so; but at
its learning rate of 0.01 Adam's first steps move all weights of a unit alike, its inputs are never
negative, and without a norm 9 of 10 units are below zero for every image within 60 steps, for good.

No circuit sees a position before it was pooled: paper-fig3a evaluates 4,224 circuits per image,
strong 2,048. On raw positions (32x32) it would be 33,792.
"""

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.functional import batch_norm

from qpc_qiskit.nets.pointwise import make_pointwise, pointwise_options
from qpc_qiskit.nets.quanvolution import QuanvolutionLayer
from qpc_qiskit.nets.reference import mobilenet_tiny, resnet_bottleneck_tiny
from qpc_qiskit.nets.replace import replace_pointwise
from qpc_qiskit.options.records import NetConfig

LARGE_IMAGE = 17  # from this size on a second stage keeps the pixels of the quantum layer few


def pointwise(config: NetConfig, in_channels: int, out_channels: int) -> nn.Module:
    """The pointwise layer that a configuration names, with what follows it."""
    if config.pointwise == "classical":
        return classical_pointwise(in_channels, out_channels)
    layer = make_pointwise(config.pointwise, in_channels, out_channels, **pointwise_options(config))
    if config.norm_after == "none":
        return layer
    return nn.Sequential(OrderedDict(layer=layer, norm=nn.BatchNorm2d(out_channels)))


def classical_pointwise(in_channels: int, out_channels: int) -> nn.Sequential:
    """1x1 convolution, batch norm and ReLU, as in the paper's Fig. 3(b)."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1), nn.BatchNorm2d(out_channels), nn.ReLU()
    )


def _small(config: NetConfig) -> nn.Sequential:
    stem, size = _stem(config)
    layer = pointwise(config, config.width, config.quantum_channels)
    return _joined(stem, pointwise=layer, head=_head(config, config.quantum_channels, size))


def _small_classical(config: NetConfig) -> nn.Sequential:
    stem, size = _stem(config)
    layer = classical_pointwise(config.width, config.quantum_channels)
    return _joined(stem, pointwise=layer, head=_head(config, config.quantum_channels, size))


def _paper_cnn(config: NetConfig) -> nn.Sequential:
    stem, size = _three_convolutions(config)
    return _joined(stem, head=_head(config, 2 * config.width, size))


def _paper_fig3a(config: NetConfig) -> nn.Sequential:
    stem, size = _one_convolution(config)
    block = _quantum_block(config, config.width, nn.MaxPool2d(2))
    return _joined(stem, block=block, head=_head(config, config.quantum_channels, size // 2))


def _paper_fig3b(config: NetConfig) -> nn.Sequential:
    stem, size = _one_convolution(config)
    block = _classical_block(config, config.width, nn.MaxPool2d(2))
    return _joined(stem, block=block, head=_head(config, config.quantum_channels, size // 2))


def _strong(config: NetConfig) -> nn.Sequential:
    stem, size = _three_convolutions(config)
    block = _quantum_block(config, 2 * config.width, nn.Identity())
    return _joined(stem, block=block, head=_head(config, config.quantum_channels, size))


def _strong_classical(config: NetConfig) -> nn.Sequential:
    stem, size = _three_convolutions(config)
    block = _classical_block(config, 2 * config.width, nn.Identity())
    return _joined(stem, block=block, head=_head(config, config.quantum_channels, size))


def _quanvolution(config: NetConfig) -> nn.Sequential:
    """Windows overlap and the maps are pooled as in `small`, so that the heads are equal."""
    pools = 1 if config.image_size < LARGE_IMAGE else 2
    layer = QuanvolutionLayer(
        config.in_channels,
        config.quantum_channels,
        config.kernel_size,
        padding=config.kernel_size // 2,
        make=lambda inputs, outputs: pointwise(config, inputs, outputs),
    )
    size = config.image_size + 1 - config.kernel_size % 2  # even windows see one position more
    pooled: list[nn.Module] = [nn.MaxPool2d(2) for _ in range(pools)]
    head = _head(config, config.quantum_channels, size // 2**pools)
    # Checkpoints and ledgers know the layer by this name.
    return nn.Sequential(OrderedDict(patches=layer, pools=nn.Sequential(*pooled), head=head))


def _mobilenet(config: NetConfig) -> nn.Sequential:
    return _exchanged(
        config,
        mobilenet_tiny(
            config.in_channels,
            config.image_size,
            None,
            width=config.width,
            channels=config.quantum_channels,
        ),
    )


def _resnet(config: NetConfig) -> nn.Sequential:
    return _exchanged(
        config,
        resnet_bottleneck_tiny(
            config.in_channels,
            config.image_size,
            None,
            width=config.width,
            channels=config.quantum_channels,
        ),
    )


def _exchanged(config: NetConfig, features: nn.Sequential) -> nn.Sequential:
    """A reference network with its 1x1 convolutions exchanged, and its head."""
    if config.pointwise != "classical":
        replace_pointwise(
            features, pointwise=config.pointwise, inplace=True, **pointwise_options(config)
        )
    features.add_module("head", _head(config, config.quantum_channels, 1))
    return features


def _joined(stem: nn.Module, **parts: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(stem=stem, **parts))


def _convolution(in_channels: int, out_channels: int, *after: nn.Module) -> list[nn.Module]:
    """3x3 convolution that keeps the size, batch norm and ReLU."""
    convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1)
    return [convolution, nn.BatchNorm2d(out_channels), nn.ReLU(), *after]


def _stem(config: NetConfig) -> tuple[nn.Sequential, int]:
    """One stage for small images, two for larger ones, and the size of what they give."""
    size, channels = config.image_size, config.in_channels
    stages: list[nn.Module] = []
    for _ in range(1 if size < LARGE_IMAGE else 2):
        stages += _convolution(channels, config.width, nn.MaxPool2d(2))
        size, channels = size // 2, config.width
    return nn.Sequential(*stages), size


def _one_convolution(config: NetConfig) -> tuple[nn.Sequential, int]:
    stage = _convolution(config.in_channels, config.width, nn.MaxPool2d(2))
    return nn.Sequential(*stage), config.image_size // 2


def _three_convolutions(config: NetConfig) -> tuple[nn.Sequential, int]:
    """To width/2, width and 2*width channels; pooled after the first two."""
    width = config.width
    first = max(1, width // 2)
    return (
        nn.Sequential(
            *_convolution(config.in_channels, first, nn.MaxPool2d(2)),
            *_convolution(first, width, nn.MaxPool2d(2)),
            *_convolution(width, 2 * width),
        ),
        config.image_size // 4,
    )


def _quantum_block(config: NetConfig, channels: int, pool: nn.Module) -> nn.Sequential:
    """Fig. 3(a): no batch norm or activation after a quantum layer, ReLU after the 3x3."""
    width = config.width
    return nn.Sequential(
        OrderedDict(
            pointwise1=pointwise(config, channels, width),
            conv=nn.Conv2d(width, width, 3, padding=1),
            relu=nn.ReLU(),
            pool=pool,
            pointwise2=pointwise(config, width, config.quantum_channels),
        )
    )


def _classical_block(config: NetConfig, channels: int, pool: nn.Module) -> nn.Sequential:
    """Fig. 3(b): batch norm and ReLU after each of the three convolutions."""
    width = config.width
    return nn.Sequential(
        OrderedDict(
            pointwise1=classical_pointwise(channels, width),
            conv=nn.Sequential(*_convolution(width, width)),
            pool=pool,
            pointwise2=classical_pointwise(width, config.quantum_channels),
        )
    )


def _head(config: NetConfig, channels: int, size: int) -> nn.Sequential:
    features, classes = channels * size**2, config.num_classes
    dropout = nn.Dropout(config.dropout)
    if config.hidden == 0:
        return nn.Sequential(dropout, nn.Flatten(), nn.Linear(features, classes))
    norm = [_NORMS[config.head_norm](config.hidden)] if config.head_norm != "none" else []
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(features, config.hidden),
        *norm,
        nn.ReLU(),
        dropout,
        nn.Linear(config.hidden, classes),
    )


class HeadBatchNorm(nn.BatchNorm1d):
    """Batch norm that takes a batch of one as well: by the running statistics, which stay.

    One image has no spread. It comes alone where a last batch, or a process's share of it, is one.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, F), normalised feature by feature."""
        if self.training and len(features) == 1:
            mean, variance = self.running_mean, self.running_var
            return batch_norm(features, mean, variance, self.weight, self.bias, eps=self.eps)
        return super().forward(features)


_NORMS: dict[str, type[nn.Module]] = {"batch": HeadBatchNorm, "layer": nn.LayerNorm}


BUILDERS: dict[str, Callable[[NetConfig], nn.Sequential]] = {
    "small": _small,
    "small-classical": _small_classical,
    "paper-cnn": _paper_cnn,
    "paper-fig3a": _paper_fig3a,
    "paper-fig3b": _paper_fig3b,
    "strong": _strong,
    "strong-classical": _strong_classical,
    "quanvolution": _quanvolution,
    "mobilenet-tiny": _mobilenet,
    "resnet-bottleneck-tiny": _resnet,
}
"""Builders by the name that a `NetConfig` gives."""
