"""Two small networks with 1x1 convolutions, to show `replace_pointwise` on real data.

They have the blocks of MobileNet (depthwise-separable: a 3x3 convolution of each channel alone,
then a 1x1 convolution between channels) and of ResNet-50 (bottleneck: 1x1 to fewer channels, 3x3,
1x1 back, and a shortcut with a 1x1 convolution of its own), at a size that trains in seconds.
"""

from collections import OrderedDict

from torch import Tensor, nn

LARGE_IMAGE = 17  # from this size on the first convolution has stride 2


class Bottleneck(nn.Module):
    """relu(expand(middle(reduce(x))) + shortcut(x)), each with batch norm, ReLU between them.

    Args:
        in_channels: channels read.
        width: channels of the 3x3 convolution in the middle.
        out_channels: channels given.
        stride: of the 3x3 convolution and of the shortcut.

    Source: He et al., arXiv:1512.03385, Fig. 5; the stride on the 3x3 convolution, as in
    torchvision.
    """

    def __init__(self, in_channels: int, width: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(in_channels, width, 1, bias=False)
        self.reduce_norm = nn.BatchNorm2d(width)
        self.middle = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.middle_norm = nn.BatchNorm2d(width)
        self.expand = nn.Conv2d(width, out_channels, 1, bias=False)
        self.expand_norm = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )
        self.relu = nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, in_channels, H, W) to (B, out_channels, ceil(H/stride), ceil(W/stride))."""
        maps = self.relu(self.reduce_norm(self.reduce(images)))
        maps = self.relu(self.middle_norm(self.middle(maps)))
        maps = self.expand_norm(self.expand(maps)) + self.shortcut(images)
        activated: Tensor = self.relu(maps)
        return activated


def mobilenet_tiny(
    in_channels: int = 1,
    image_size: int = 8,
    num_classes: int | None = 10,
    *,
    width: int = 16,
    channels: int = 32,
) -> nn.Sequential:
    """A 3x3 convolution and two depthwise-separable blocks, the second with stride 2.

    Args:
        in_channels: of an image.
        image_size: its height and width.
        num_classes: outputs; None ends with the pooled features (B, channels, 1, 1).
        width: channels of the first convolution.
        channels: of both blocks.

    Source: Howard et al., arXiv:1704.04861, Table 1.
    """
    return _network(
        in_channels,
        image_size,
        num_classes,
        width,
        channels,
        block1=_separable(width, channels, 1),
        block2=_separable(channels, channels, 2),
    )


def resnet_bottleneck_tiny(
    in_channels: int = 1,
    image_size: int = 8,
    num_classes: int | None = 10,
    *,
    width: int = 8,
    channels: int = 32,
) -> nn.Sequential:
    """A 3x3 convolution and two bottlenecks, both with a 1x1 shortcut, the second with stride 2.

    Args:
        in_channels: of an image.
        image_size: its height and width.
        num_classes: outputs; None ends with the pooled features (B, channels, 1, 1).
        width: channels of the first convolution and inside the bottlenecks.
        channels: that the bottlenecks give.

    Source: He et al., arXiv:1512.03385, Fig. 5 and Table 1.
    """
    return _network(
        in_channels,
        image_size,
        num_classes,
        width,
        channels,
        block1=Bottleneck(width, width, channels),
        block2=Bottleneck(channels, width, channels, stride=2),
    )


def _network(
    in_channels: int,
    image_size: int,
    num_classes: int | None,
    width: int,
    channels: int,
    **blocks: nn.Module,
) -> nn.Sequential:
    stride = 1 if image_size < LARGE_IMAGE else 2
    stem = nn.Sequential(
        nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    )
    parts = OrderedDict(stem=stem, **blocks, pool=nn.AdaptiveAvgPool2d(1))
    if num_classes is not None:
        parts["head"] = nn.Sequential(nn.Flatten(), nn.Linear(channels, num_classes))
    return nn.Sequential(parts)


def _separable(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    depthwise = nn.Conv2d(
        in_channels, in_channels, 3, stride, padding=1, groups=in_channels, bias=False
    )
    return nn.Sequential(
        OrderedDict(
            depthwise=depthwise,
            depthwise_norm=nn.BatchNorm2d(in_channels),
            depthwise_relu=nn.ReLU(),
            pointwise=nn.Conv2d(in_channels, out_channels, 1, bias=False),
            pointwise_norm=nn.BatchNorm2d(out_channels),
            pointwise_relu=nn.ReLU(),
        )
    )
