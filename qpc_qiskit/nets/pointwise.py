"""What can stand where a quantum pointwise layer stands: the layer, and baselines beside it.

A baseline answers one question: what of the quantum layer does the work? To be fair each has about
as many parameters as the quantum layer in its place, P*K, which is far fewer than the C_in*C_out of
a 1x1 convolution. The classical ones get there by a factor: C_in -> r -> C_out channels instead of
one step, with the rank r, and a bias or none, chosen by `matched_rank`.

| kind | what it keeps | what it leaves out |
|---|---|---|
| `conv`, `conv-bn` | a linear map | everything quadratic, the normalisation |
| `normalised` | the norm is discarded | everything quadratic |
| `quadratic` | a quadratic form | the normalisation, the bounds, the circuit |
| `frozen` | the circuit, with random weights | training |
| `no-entanglement` | the circuit's one-qubit gates | its two-qubit gates |
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from qiskit import QuantumCircuit
from torch import Tensor, nn

from qpc_qiskit.circuits.ansatz import make_ansatz
from qpc_qiskit.circuits.spec import DEFAULT_LAYERS, make_spec, qubits_for
from qpc_qiskit.layer import QuantumPointwiseConv2d
from qpc_qiskit.options.records import NetConfig

OPTIONS = ("num_layers", "ansatz", "num_qubits", "bias_channel", "init")
"""Fields of a `NetConfig` that are arguments of a quantum layer."""

TINY = 1e-12  # torch's own bound in functional.normalize: a smaller pixel counts as zero


class MatchedConv2d(nn.Module):
    """1x1 convolution in two steps with about as many parameters as a quantum layer.

    y = W2 W1 x + b, W1 (r, C_in), W2 (C_out, r): r*(C_in + C_out) weights, and C_out biases where
    that comes closer to the count. Both are given by `matched_rank`. Where r exceeds both C_in and
    C_out the map is any linear map, written with more parameters than it needs.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        parameters: count to come close to.
        bias_channel: append a channel of ones to every pixel, as the quantum layer does.
        batch_norm: batch norm with its 2*C_out parameters, counted, instead of the biases.
        device: of the weights.
        dtype: of the weights.

    Source: the baselines that reviewers expect beside a quantum layer; see docs/experiments.md.

    Example:
        >>> layer = MatchedConv2d(16, 32, parameters=288)
        >>> layer.rank, sum(p.numel() for p in layer.parameters())
        (6, 288)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        parameters: int,
        bias_channel: bool = False,
        batch_norm: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.bias_channel, self.wanted = bias_channel, parameters
        read = in_channels + bias_channel
        rank, bias = matched_rank(read, out_channels, parameters, batch_norm=batch_norm)
        self.rank = rank
        self.inner = nn.Conv2d(read, rank, 1, bias=False, device=device, dtype=dtype)
        self.outer = nn.Conv2d(rank, out_channels, 1, bias=bias, device=device, dtype=dtype)
        self.norm = (
            nn.BatchNorm2d(out_channels, device=device, dtype=dtype)
            if batch_norm
            else nn.Identity()
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C_in, H, W) to maps (B, C_out, H, W)."""
        if self.bias_channel:
            images = torch.cat([images, torch.ones_like(images[:, :1])], 1)
        maps: Tensor = self.norm(self.outer(self._between(self.inner(self._before(images)))))
        return maps

    def _before(self, images: Tensor) -> Tensor:
        return images

    def _between(self, maps: Tensor) -> Tensor:
        return maps

    def extra_repr(self) -> str:
        """Arguments, as torch prints them."""
        return f"{self.in_channels}, {self.out_channels}, rank={self.rank}"


class NormalisedConv2d(MatchedConv2d):
    """As `MatchedConv2d`, of the direction of a pixel: y = W2 W1 x/|x| + b.

    Like the quantum layer it does not see a pixel's magnitude; unlike it, it sees the sign. A pixel
    that is zero everywhere gives b. The count is that of `MatchedConv2d`.
    """

    def _before(self, images: Tensor) -> Tensor:
        return nn.functional.normalize(images, dim=1, eps=TINY)


class QuadraticConv2d(MatchedConv2d):
    """Quadratic forms of a pixel: y_k = x^T M_k x + b_k, M_k = W1^T diag(W2[k]) W1.

    The quantum layer is quadratic forms of the direction x/|x|, with M_k = Re(U^+ Z_q U). Here the
    norm is kept and the C_out symmetric matrices share r directions, so that the count is that of
    `MatchedConv2d`. Neither M_k nor y_k is bounded.
    """

    def _between(self, maps: Tensor) -> Tensor:
        return maps.square()


class FrozenPointwiseConv2d(QuantumPointwiseConv2d):
    """A quantum layer whose random circuits are not trained: what the architecture alone does.

    The same function, count and state dictionary as `QuantumPointwiseConv2d`; its weights ask for
    no gradient, so that its trainable count is 0. Arguments are those of that class.
    """

    def __init__(self, in_channels: int, out_channels: int, **options: Any) -> None:
        super().__init__(in_channels, out_channels, **options)
        self.weight.requires_grad_(False)


class UnentangledPointwiseConv2d(QuantumPointwiseConv2d):
    """A quantum layer without its two-qubit gates: what entanglement does.

    All gates of the ansatz on one qubit stay in their order, so that the count is that of the
    quantum layer: 3nL a circuit for `strongly_entangling`, 2nL for `figure1`, 5nL for
    `circuit_centric` (whose controlled phases, two CNOTs and three RZ, leave the RZ). Gates that
    meet on a qubit make one rotation: more blocks add parameters but no functions. The encoded
    state itself stays entangled. Arguments are those of `QuantumPointwiseConv2d`, the ansatz by its
    name.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        num_layers: int = DEFAULT_LAYERS,
        ansatz: str = "strongly_entangling",
        num_qubits: int | None = None,
        bias_channel: bool = False,
        **options: Any,
    ) -> None:
        if num_qubits is None:
            num_qubits = qubits_for(in_channels + bias_channel)
        super().__init__(
            in_channels,
            out_channels,
            ansatz=without_entanglers(ansatz, num_qubits, num_layers),
            num_qubits=num_qubits,
            bias_channel=bias_channel,
            **options,
        )


def without_entanglers(ansatz: str, num_qubits: int, num_layers: int) -> QuantumCircuit:
    """A named ansatz with its gates on two qubits left out.

    Args:
        ansatz: its name.
        num_qubits: n.
        num_layers: its blocks.
    """
    whole = make_ansatz(ansatz, num_qubits, num_layers).circuit
    circuit = whole.copy_empty_like(name=f"{ansatz} without entanglers")
    circuit.global_phase = 0
    for instruction in whole.data:
        if len(instruction.qubits) == 1:
            circuit.append(instruction)
    return circuit


def matched_rank(
    in_channels: int, out_channels: int, parameters: int, *, batch_norm: bool = False
) -> tuple[int, bool]:
    """Rank of a two-step 1x1 convolution, and whether it has biases, for a number of parameters.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        parameters: wanted.
        batch_norm: there is one, with 2*C_out parameters, and no bias.

    Returns:
        Rank r >= 1 and bias with the least |r*(C_in + C_out) + extra - parameters|, extra being
        2*C_out with batch norm and else C_out or 0; of equals the one without bias, then the
        smaller. It misses by at most a quarter of C_in + C_out where C_in = C_out and there is no
        batch norm, and by half of it otherwise, unless r = 1 is too many already.
    """
    step = in_channels + out_channels
    candidates = []
    for bias in (False,) if batch_norm else (False, True):
        extra = 2 * out_channels if batch_norm else out_channels * bias
        lower = max(1, (parameters - extra) // step)
        for rank in (lower, lower + 1):
            candidates.append((abs(rank * step + extra - parameters), bias, rank))
    _, bias, rank = min(candidates)
    return rank, bias


def quantum_parameters(
    in_channels: int,
    out_channels: int,
    *,
    num_layers: int = DEFAULT_LAYERS,
    ansatz: str = "strongly_entangling",
    num_qubits: int | None = None,
    bias_channel: bool = False,
) -> int:
    """Parameters of the quantum layer with these arguments: K*P, K = ceil(C_out / n).

    Example:
        >>> quantum_parameters(64, 64), quantum_parameters(64, 128)
        (594, 1188)
    """
    spec = make_spec(
        in_channels + bias_channel,
        out_channels,
        num_layers=num_layers,
        ansatz=ansatz,
        num_qubits=num_qubits,
    )
    return spec.num_kernels * spec.num_weights


_CIRCUITS: dict[str, Callable[..., QuantumPointwiseConv2d]] = {
    "quantum": QuantumPointwiseConv2d,
    "frozen": FrozenPointwiseConv2d,
    "no-entanglement": UnentangledPointwiseConv2d,
}

_MATCHED: dict[str, tuple[type[MatchedConv2d], bool]] = {
    "conv": (MatchedConv2d, False),
    "conv-bn": (MatchedConv2d, True),
    "normalised": (NormalisedConv2d, False),
    "quadratic": (QuadraticConv2d, False),
}
"""Class and batch norm of each."""

KINDS = (*_CIRCUITS, *_MATCHED)
"""Every kind that `make_pointwise` builds."""


def make_pointwise(
    kind: str,
    in_channels: int,
    out_channels: int,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> nn.Module:
    """A quantum pointwise layer, or a baseline in its place.

    Args:
        kind: one of `KINDS`.
        in_channels: C_in.
        out_channels: C_out.
        device: of the weights.
        dtype: of the weights.
        options: arguments of `QuantumPointwiseConv2d`. A classical baseline takes `num_layers`,
            `ansatz` and `num_qubits` as what its number of parameters is matched to.

    Raises:
        ValueError: no such kind, or an option that a classical baseline cannot use; see also
            `QuantumPointwiseConv2d`.
    """
    if kind in _CIRCUITS:
        return _CIRCUITS[kind](in_channels, out_channels, device=device, dtype=dtype, **options)
    if kind not in _MATCHED:
        raise ValueError(f"Unknown pointwise layer {kind!r}; expected one of {', '.join(KINDS)}.")
    idle = sorted(options.keys() - {"num_layers", "ansatz", "num_qubits", "bias_channel"})
    if idle:
        raise ValueError(f"{', '.join(idle)} would have no effect on {kind!r}; leave it out.")
    made, batch_norm = _MATCHED[kind]
    return made(
        in_channels,
        out_channels,
        parameters=quantum_parameters(in_channels, out_channels, **options),
        bias_channel=options.get("bias_channel", False),
        batch_norm=batch_norm,
        device=device,
        dtype=dtype,
    )


def pointwise_options(config: NetConfig) -> Mapping[str, Any]:
    """Arguments of `make_pointwise` that a configuration names."""
    return {
        name: getattr(config, name)
        for name in OPTIONS
        if name != "init" or config.pointwise in _CIRCUITS
    }
