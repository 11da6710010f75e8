"""What a layer computes, without its weights and without how it is evaluated."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, replace

from qiskit import QuantumCircuit, qasm3
from qiskit.quantum_info import SparsePauliOp
from torch import Tensor

from qpc_qiskit.circuits.ansatz import USER_ANSATZ, Ansatz, make_ansatz
from qpc_qiskit.circuits.observables import single_z, z_observables, z_signs
from qpc_qiskit.common.checks import positive_integer
from qpc_qiskit.errors import AnsatzError

DEFAULT_LAYERS = 3

CONVENTIONS = {
    "version": 1,
    "channel_order": "channel i is the amplitude of basis state i",
    "qubit_order": "little-endian: qubit 0 is the lowest bit of i",
    "feature_order": "map k*n + q is <Z_q> of kernel k; surplus maps are cropped",
    "padding": "channels are padded with zeros to 2**n, then normalised",
    "norm": "discarded",
    "sign": "real signed amplitudes; the overall sign has no effect",
    "zero_pixel": "no component reaches the smallest normal number: |0...0>, zero gradient",
    "bias_channel": "a constant 1 after the last channel",
    "strongly_entangling": "theta[(l*n + q)*3 + j]: RZ RX RZ on qubit q, then CNOTs q -> q + r",
    "figure1": "theta[(l*n + q)*2 + j]: RX RZ on qubit q, then CNOTs q -> q + 1",
    "circuit_centric": "theta[l*5n + ...]: 3n as strongly_entangling, then per qubit q the "
    "controlled phase q -> q + r and the RX on q; 4 per block for one qubit",
    "range": "r = l mod (n - 1) + 1 in block l",
}
"""Stored in every checkpoint. Readers compare the version; a change of meaning needs a new one."""


@dataclass(frozen=True)
class LayerSpec:
    """Shape and ansatz of a quantum pointwise convolution.

    Map j of kernel k for a pixel x is <psi|U_k^+ O_j U_k|psi>, psi = x/|x|, with the observables
    O_0 .. O_(m-1): Z of every qubit, so that m = n (arXiv:2412.01241).
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
            raise AnsatzError(
                f"The ansatz has {self.ansatz.num_qubits} qubits, the layer {self.num_qubits}."
            )

    @property
    def num_weights(self) -> int:
        """P, weights of one kernel."""
        return self.ansatz.num_weights

    @property
    def z_strings(self) -> tuple[int, ...]:
        """The m observables, products of Z: bit q of each is qubit q."""
        return single_z(self.num_qubits)

    @property
    def num_maps(self) -> int:
        """m, feature maps of one circuit."""
        return len(self.z_strings)

    @property
    def num_features(self) -> int:
        """K * m."""
        return self.num_kernels * self.num_maps

    @property
    def observables(self) -> tuple[SparsePauliOp, ...]:
        """The m observables as operators on the layer's qubits."""
        return z_observables(self.z_strings, self.num_qubits)

    @property
    def signs(self) -> Tensor:
        """(m, 2**n) float64: eigenvalue of each observable in each basis state."""
        return z_signs(self.z_strings, self.num_qubits)

    @property
    def measured_circuit(self) -> Hashable:
        """The same for layers that share a circuit and what is measured on it."""
        return self.ansatz, self.z_strings

    def to_dict(self) -> dict[str, object]:
        """Plain values for a checkpoint, conventions included.

        A user's circuit is stored as OpenQASM 3, with its parameters in the order of a weight row.
        """
        own: dict[str, object] = {}
        if self.ansatz.name == USER_ANSATZ:
            own["circuit"] = qasm3.dumps(self.ansatz.circuit)
            own["parameters"] = [p.name for p in self.ansatz.parameters]
        return {
            "in_channels": self.in_channels,
            "num_qubits": self.num_qubits,
            "num_kernels": self.num_kernels,
            "ansatz": self.ansatz.name,
            "num_layers": self.ansatz.num_layers,
            "num_weights": self.num_weights,
            **own,
            "conventions": dict(CONVENTIONS),
        }


def qubits_for(channels: int) -> int:
    """Fewest qubits whose amplitudes hold `channels` values; at least one."""
    return max(1, math.ceil(math.log2(channels)))


def make_spec(
    in_channels: int,
    out_channels: int,
    *,
    num_layers: int = DEFAULT_LAYERS,
    ansatz: str | QuantumCircuit = "strongly_entangling",
    num_qubits: int | None = None,
) -> LayerSpec:
    """Spec of the layer that maps `in_channels` to at least `out_channels` features.

    Args:
        in_channels: encoded channels.
        out_channels: maps wanted; K = ceil(out_channels / m).
        num_layers: blocks of a named ansatz.
        ansatz: name or circuit.
        num_qubits: n; default the circuit's width, or the fewest that hold the channels.

    Raises:
        ValueError: a size is not positive, or the channels do not fit.
        AnsatzError: see `make_ansatz`.
    """
    in_channels = positive_integer("in_channels", in_channels)
    out_channels = positive_integer("out_channels", out_channels)
    num_layers = positive_integer("num_layers", num_layers)
    if num_qubits is not None:
        num_qubits = positive_integer("num_qubits", num_qubits)
    if isinstance(ansatz, QuantumCircuit) and num_layers != DEFAULT_LAYERS:
        raise ValueError(
            f"num_layers={num_layers} has no effect with a circuit, which is the whole ansatz; "
            "leave it out."
        )
    if num_qubits is None:
        if isinstance(ansatz, QuantumCircuit):
            num_qubits = ansatz.num_qubits
        else:
            num_qubits = qubits_for(in_channels)
    made = make_ansatz(ansatz, num_qubits, num_layers)
    one = LayerSpec(in_channels, num_qubits, 1, made)
    return replace(one, num_kernels=math.ceil(out_channels / one.num_maps))
