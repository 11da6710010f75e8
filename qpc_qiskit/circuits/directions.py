"""From pixels to canonical directions: what an encoder sees of a pixel.

Amplitude encoding keeps only a pixel's direction and, since <Z> is a quadratic form, not even its
sign. The canonical direction fixes both in float64, so that f(c*x) = f(x) on every engine, a noisy
encoder included.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qpc_qiskit.errors import EncodingError

SIGN_TOLERANCE = 2.0**-20
"""Components within this fraction of the largest count as largest when the sign is chosen."""


def check_finite(pixels: Tensor) -> None:
    """Refuse pixels (N, C) that hold NaN or infinity.

    Raises:
        EncodingError: naming the first such pixel and channel.
    """
    if bool(torch.isfinite(pixels.sum())):  # one fast pass; an overflow is told apart below
        return
    bad = torch.nonzero(~torch.isfinite(pixels))
    if len(bad) == 0:
        return
    pixel, channel = (int(i) for i in bad[0])
    value = float(pixels[pixel, channel])
    raise EncodingError(
        f"Pixel {pixel} of {len(pixels)} is not finite (channel {channel} is {value}) and cannot "
        "be amplitude-encoded. Check the layer before this one for overflow.",
        pixel,
    )


def largest_magnitudes(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Scale of each pixel and whether it counts as zero.

    A pixel whose largest magnitude is zero or subnormal in the dtype of `pixels` counts as zero: it
    is encoded as |0...0> and has zero gradient.

    Args:
        pixels: real (N, C), float32 or float64.

    Returns:
        (N,) largest magnitude, 1 where the pixel counts as zero; (N,) bool, true where it does.
    """
    if pixels.shape[1] == 0 or len(pixels) == 0:  # amax refuses empty axes
        scale = pixels.new_zeros(len(pixels))
    else:
        scale = pixels.abs().amax(1)  # several times faster than vector_norm(ord=inf) on a CPU
    is_zero = scale < torch.finfo(pixels.dtype).tiny
    return scale.masked_fill(is_zero, 1), is_zero


def canonical_directions(pixels: Tensor) -> Tensor:
    """Unit vectors in float64 that are the same for x and c*x, up to rounding, for every c != 0.

    A pixel is divided by its largest magnitude, normalised, and its sign fixed: the first component
    with |x_i| >= (1 - 2**-20) of the largest becomes positive. A pixel that counts as zero becomes
    (1, 0, ..., 0).

    Args:
        pixels: real (N, C), float32 or float64, finite; not modified.

    Returns:
        (N, C) float64, on the device of `pixels`.
    """
    scale, is_zero = largest_magnitudes(pixels)
    directions = pixels.to(torch.float64) / scale.to(torch.float64)[:, None]
    directions[is_zero] = 0
    directions[is_zero, 0] = 1
    directions /= torch.linalg.vector_norm(directions, dim=1, keepdim=True)
    magnitude = directions.abs()
    leads = magnitude >= (1 - SIGN_TOLERANCE) * magnitude.amax(1, keepdim=True)
    first = leads.to(torch.int8).argmax(1, keepdim=True)
    sign = torch.where(directions.gather(1, first) < 0, -1.0, 1.0)
    return (
        directions * sign + 0.0
    )  # no -0.0: encoder angles would differ, and noise tells them apart
