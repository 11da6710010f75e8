"""A quantum convolution over windows, on the same engines as the pointwise layer."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from qpc_qiskit.layer import QuantumPointwiseConv2d


class QuanvolutionLayer(nn.Module):
    """k x k convolution with quantum circuits as kernels: unfold, then a pointwise layer.

    (B, C, H, W) -> (B, C_out, H', W'), H' = (H + 2*padding - k) // stride + 1. The C*k*k values of
    a window are the channels of one pixel of the `pointwise` layer inside, in the order of torch's
    `Unfold` (channel, row, column): amplitude-encoded into n qubits, n the fewest that hold them,
    and measured by the same engines, on hardware too. The paper's layer is k = 1.

    The quanvolution of Henderson et al. encodes each value of a window as the angle of a qubit of
    its own and leaves the circuit random (`pointwise="frozen"` in a `NetConfig` does the latter);
    here k*k*C values need log2 of as many qubits, and a window's magnitude is discarded: one that
    is the same colour everywhere says nothing of its brightness, unless `bias_channel=True`.

    Args:
        in_channels: C.
        out_channels: C_out.
        kernel_size: k.
        stride: of the windows.
        padding: zeros around the image.
        make: what builds the pointwise layer from its numbers of channels and `options`.
        options: arguments of `make`; those of `QuantumPointwiseConv2d` unless it is given.

    Raises:
        ValueError: a size is not positive, or padding negative; see also `make`.

    Source: Henderson et al., arXiv:1904.04767, for the idea; arXiv:2412.01241 for the kernels.

    Example:
        >>> QuanvolutionLayer(1, 16, 3, padding=1)(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 16, 8, 8])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        make: Callable[..., nn.Module] = QuantumPointwiseConv2d,
        **options: Any,
    ) -> None:
        super().__init__()
        if kernel_size < 1 or stride < 1 or padding < 0:
            raise ValueError(
                "Expected kernel_size and stride of at least 1 and padding of at least 0, got "
                f"{kernel_size}, {stride} and {padding}."
            )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.pointwise = make(in_channels * kernel_size**2, out_channels, **options)

    def forward(self, images: Tensor) -> Tensor:
        """Apply the circuits to every window.

        Args:
            images: (B, C, H, W), dtype of the weights.

        Returns:
            (B, C_out, H', W').

        Raises:
            ValueError: wrong number of axes or channels, or images smaller than a window.
        """
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise ValueError(
                f"QuanvolutionLayer expected images of shape (B, {self.in_channels}, H, W), got "
                f"{tuple(images.shape)}."
            )
        sizes = [self._steps(size) for size in images.shape[2:]]
        if min(sizes) < 1:
            raise ValueError(
                f"QuanvolutionLayer expected images of at least {self.kernel_size} pixels a side, "
                f"padding of {self.padding} included, got {tuple(images.shape)}."
            )
        windows = nn.functional.unfold(
            images, self.kernel_size, padding=self.padding, stride=self.stride
        )
        maps: Tensor = self.pointwise(windows.unflatten(2, sizes))
        return maps

    def _steps(self, size: int) -> int:
        return (size + 2 * self.padding - self.kernel_size) // self.stride + 1

    def extra_repr(self) -> str:
        """Arguments, as torch prints them."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}"
        )
