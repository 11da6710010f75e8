"""What a layer computes, without its weights and without how it is evaluated."""

from __future__ import annotations

import math
from dataclasses import dataclass

from qiskit import QuantumCircuit

from qpc_qiskit.ansatz import Ansatz, make_ansatz
from qpc_qiskit.errors import CircuitError

CONVENTIONS = {
    "channel_order": "channel i is the amplitude of basis state i",
    "qubit_order": "little-endian: qubit 0 is the lowest bit of i",
    "feature_order": "map k*n + q is <Z_q> of kernel k; surplus maps are cropped",
    "padding": "channels are padded with zeros to 2**n, then normalised",
    "norm": "discarded",
    "sign": "real signed amplitudes; the overall sign has no effect",
    "zero_pixel": "encoded as |0...0>, zero gradient",
}
"""Stored in every checkpoint."""


@dataclass(frozen=True)
class LayerSpec:
    """Shape and ansatz of a quantum pointwise convolution.

    Feature q of kernel k for a pixel x is <psi|U_k^+ Z_q U_k|psi>, psi = x/|x| (arXiv:2412.01241).
    """

    in_channels: int
    """C, channels that are encoded (a layer's bias channel included); at most 2**n."""
    num_qubits: int
    """n."""
    num_kernels: int
    """K, circuits side by side."""
    ansatz: Ansatz
    """On n qubits, with P weights."""

    def __post_init__(self) -> None:
        if min(self.in_channels, self.num_qubits, self.num_kernels) < 1:
            raise ValueError(
                "A layer needs at least one channel, qubit and kernel, got "
                f"in_channels={self.in_channels}, num_qubits={self.num_qubits}, "
                f"num_kernels={self.num_kernels}."
            )
        if self.in_channels > 2**self.num_qubits:
            raise ValueError(
                f"{self.in_channels} channels do not fit into the 2**{self.num_qubits} = "
                f"{2**self.num_qubits} amplitudes of {self.num_qubits} qubits; "
                f"use num_qubits >= {qubits_for(self.in_channels)}."
            )
        if self.ansatz.num_qubits != self.num_qubits:
            raise CircuitError(
                f"The ansatz has {self.ansatz.num_qubits} qubits, the layer {self.num_qubits}."
            )

    @property
    def num_weights(self) -> int:
        """P, weights of one kernel."""
        return self.ansatz.num_weights

    @property
    def num_features(self) -> int:
        """K * n."""
        return self.num_kernels * self.num_qubits

    def to_dict(self) -> dict[str, object]:
        """Plain values for a checkpoint, conventions included."""
        return {
            "in_channels": self.in_channels,
            "num_qubits": self.num_qubits,
            "num_kernels": self.num_kernels,
            "ansatz": self.ansatz.name,
            "num_layers": self.ansatz.num_layers,
            "num_weights": self.num_weights,
            "conventions": dict(CONVENTIONS),
        }


def qubits_for(channels: int) -> int:
    """Fewest qubits whose amplitudes hold `channels` values; at least one."""
    return max(1, math.ceil(math.log2(channels)))


def make_spec(
    in_channels: int,
    out_channels: int,
    *,
    num_layers: int = 3,
    ansatz: str | QuantumCircuit = "strongly_entangling",
    num_qubits: int | None = None,
) -> LayerSpec:
    """Spec of the layer that maps `in_channels` to at least `out_channels` features.

    Args:
        in_channels: encoded channels.
        out_channels: maps wanted; K = ceil(out_channels / n).
        num_layers: blocks of a named ansatz.
        ansatz: name or circuit.
        num_qubits: n; default the circuit's width, or the fewest that hold the channels.

    Raises:
        ValueError: a size is not positive, or the channels do not fit.
        CircuitError: see `make_ansatz`.
    """
    for name, value in (
        ("in_channels", in_channels),
        ("out_channels", out_channels),
        ("num_layers", num_layers),
        ("num_qubits", 1 if num_qubits is None else num_qubits),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}.")
    if num_qubits is None:
        if isinstance(ansatz, QuantumCircuit):
            num_qubits = ansatz.num_qubits
        else:
            num_qubits = qubits_for(in_channels)
    made = make_ansatz(ansatz, num_qubits, num_layers)
    return LayerSpec(in_channels, num_qubits, math.ceil(out_channels / num_qubits), made)
