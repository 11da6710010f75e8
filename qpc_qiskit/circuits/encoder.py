"""Encoders: circuits that prepare a pixel's direction as amplitudes, and their angles.

Convention: channel i is the amplitude of basis state i, qubit 0 the lowest bit of i. An encoder is
one parametrized circuit per number of qubits; every pixel is a row of angles for it. It belongs to
the engine that runs circuits, not to the layer: training never needs it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import torch
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector
from torch import Tensor

from qpc_qiskit.options.economy import split_encoder

PARAMETER_NAME = "encoder"
"""Every encoder's angles are `encoder[j]`; an ansatz must not use that name."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """Angles of a batch of directions, and how well they prepare them."""

    angles: Tensor
    """(N, E) radians, float64."""
    infidelity: Tensor
    """(N,) float64, 1 - <prepared|direction>**2; zeros for an exact encoder."""
    num_restarted: int = 0
    """Fits that had to start again."""
    num_failed: int = 0
    """Pixels whose fit is not good enough; their angles are the best that were found."""


@dataclass(frozen=True, eq=False)
class Encoder:
    """A state preparation circuit and the function that gives its angles."""

    name: str
    circuit: QuantumCircuit = field(repr=False)
    """Parameters `encoder[0..E-1]`; prepares a real unit vector from |0...0>."""
    parameters: tuple[object, ...] = field(repr=False)
    """The E parameters, in the order of an angle row."""
    encode: Callable[[Tensor], Encoded] = field(repr=False)
    """Canonical directions (N, C), C <= 2**n -> angles, on the device of the directions."""
    fallback: str | None = None
    """Name of the encoder to take where this one fails; None: it never does."""

    def angles(self, directions: Tensor) -> Tensor:
        """Angles (N, E) in radians, float64, for canonical directions (N, C), C <= 2**n."""
        return self.encode(directions).angles


def make_encoder(name: str, num_qubits: int) -> Encoder:
    """The named encoder on `num_qubits` qubits.

    Args:
        name: a key of `ENCODERS`, or `brickwall:DEPTH`.
        num_qubits: n.

    Raises:
        ValueError: unknown name, or a size that it does not take.
    """
    base, depth = split_encoder(name)
    return ENCODERS[base](num_qubits) if depth is None else _brickwall(num_qubits, depth)


@cache
def multiplexor(num_qubits: int) -> Encoder:
    """RY cascade: qubit n-1, then every lower qubit under the control of all above it.

    A uniformly controlled rotation with k controls is 2**k RY gates with CZ gates between them in
    Gray-code order. Its last CZ is dropped: it only flips the target where the top control is 1,
    which the sign of those angles makes good. Two-qubit gates: 2**n - n - 1. Exact.

    Source: Mottonen et al., arXiv:quant-ph/0404089 (uniformly controlled rotations).
    """
    angles = ParameterVector(PARAMETER_NAME, 2**num_qubits - 1)
    circuit = QuantumCircuit(num_qubits, name="multiplexor")
    angle = iter(angles)
    for controls in range(num_qubits):
        target = num_qubits - 1 - controls
        circuit.ry(next(angle), target)
        for step in range(1, 2**controls):
            lowest_bit = (step & -step).bit_length() - 1
            circuit.cz(target + 1 + lowest_bit, target)
            circuit.ry(next(angle), target)

    def encode(directions: Tensor) -> Encoded:
        infidelity = torch.zeros(len(directions), dtype=torch.float64, device=directions.device)
        return Encoded(multiplexor_angles(directions, num_qubits), infidelity)

    return Encoder("multiplexor", circuit, tuple(angles), encode)


def multiplexor_angles(directions: Tensor, num_qubits: int) -> Tensor:
    """Angles of `multiplexor` for real unit vectors.

    Args:
        directions: (N, C), C <= 2**n, float64; missing channels are zero.
        num_qubits: n.

    Returns:
        (N, 2**n - 1) float64, radians, on the device of `directions`. Where a whole subtree of
        channels is zero its angles are 0.
    """
    count, channels = directions.shape
    signed = torch.nn.functional.pad(directions, (0, 2**num_qubits - channels))
    levels = []
    for controls in range(num_qubits - 1, -1, -1):  # from the leaves (qubit 0) to the root
        pairs = signed.view(count, 2**controls, 2)
        levels.append(_multiplexed(2 * torch.atan2(pairs[..., 1], pairs[..., 0])))
        signed = torch.linalg.vector_norm(pairs, dim=2)
    return torch.cat(levels[::-1], 1)


def _multiplexed(rotations: Tensor) -> Tensor:
    """Angles of the 2**k RY gates that rotate by (N, 2**k) under each control value."""
    size = rotations.shape[1]
    transform = _gray_transform(size).to(rotations.device)
    if size > 1:
        # The dropped closing CZ: where the top control is 1 the target is flipped.
        rotations = torch.cat([rotations[:, : size // 2], -rotations[:, size // 2 :]], 1)
    return rotations @ transform


@cache
@torch.inference_mode(False)  # what is cached must serve every later call
def _gray_transform(size: int) -> Tensor:
    """(control value j, gate i): (-1)**(j . gray(i)) / size, float64."""
    index = torch.arange(size)
    overlap = index[:, None] & (index ^ (index >> 1))[None, :]
    parity = torch.zeros_like(overlap)
    while bool(overlap.any()):
        parity ^= overlap & 1
        overlap >>= 1
    return (1 - 2 * parity).to(torch.float64) / size


def _brickwall(num_qubits: int, depth: int | None = None) -> Encoder:
    from qpc_qiskit.circuits.brickwall import brickwall

    return brickwall(num_qubits, depth)


ENCODERS: dict[str, Callable[[int], Encoder]] = {
    "multiplexor": multiplexor,
    "brickwall": _brickwall,
}
"""Name -> function of the number of qubits."""
