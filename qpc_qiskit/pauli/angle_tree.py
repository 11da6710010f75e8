"""Derivatives from the multiplexor's angles back to pixels. Pure functions.

An angle is 2 atan2(r1, r0) of the norms of two halves of a subtree of channels, at the leaves of
two channels themselves. Where both are zero the angle is 0, and so is its derivative, by
convention: the true value of a noisy circuit jumps there. ReLU, which makes such zeros, has
derivative 0 at them as well.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qpc_qiskit.circuits.directions import largest_magnitudes
from qpc_qiskit.circuits.encoder import _gray_transform


def by_directions(directions: Tensor, num_qubits: int, by_angles: Tensor) -> Tensor:
    """Derivatives by directions, from those by the angles of `multiplexor_angles`.

    Args:
        directions: canonical (N, C), C <= 2**n, float64.
        num_qubits: n.
        by_angles: (N, 2**n - 1), float64.

    Returns:
        (N, C) float64.
    """
    count, channels = directions.shape
    signed = torch.nn.functional.pad(directions, (0, 2**num_qubits - channels))
    pairs = []
    for _ in range(num_qubits):  # from the leaves to the root
        pairs.append(signed.view(count, -1, 2))
        signed = torch.linalg.vector_norm(pairs[-1], dim=2)
    by_norms = torch.zeros_like(signed)
    start = 0
    for pair in reversed(pairs):  # and back
        size = pair.shape[1]
        by_rotations = by_angles[:, start : start + size] @ _gray_transform(size).to(by_angles).T
        if size > 1:  # as the encoder does for its dropped CZ
            by_rotations[:, size // 2 :] *= -1
        start += size
        first, second = pair.unbind(2)
        square = first * first + second * second
        is_zero = square == 0
        square = square.masked_fill(is_zero, 1)
        turn = (2 * by_rotations / square).masked_fill(is_zero, 0)
        stretch = (by_norms / square.sqrt()).masked_fill(is_zero, 0)
        by_norms = torch.stack(
            [stretch * first - turn * second, stretch * second + turn * first], 2
        ).flatten(1)
    return by_norms[:, :channels]


def by_pixels(pixels: Tensor, directions: Tensor, by_direction: Tensor) -> Tensor:
    """Derivatives by pixels, from those by their canonical directions.

    The sign of a direction is a constant, its length too: so the derivative is orthogonal to the
    pixel, and inversely proportional to its length. A pixel that counts as zero has none.

    Args:
        pixels: (N, C).
        directions: of the pixels, float64.
        by_direction: (N, C) float64.

    Returns:
        (N, C), dtype of `pixels`.
    """
    scale, is_zero = largest_magnitudes(pixels)
    scale = scale.to(torch.float64)[:, None]
    scaled = pixels.to(torch.float64) / scale
    length = torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    length = length.masked_fill(is_zero[:, None], 1)
    sign = torch.where((scaled * directions).sum(1, keepdim=True) < 0, -1.0, 1.0)
    across = by_direction - directions * (directions * by_direction).sum(1, keepdim=True)
    found = (sign * across / length / scale).masked_fill(is_zero[:, None], 0)
    return found.to(pixels.dtype)
