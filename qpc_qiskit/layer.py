"""Quantum pointwise convolution as a torch layer: images to pixels and back."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from qiskit import QuantumCircuit, qasm3
from torch import Tensor

from qpc_qiskit.circuits.directions import canonical_directions, check_finite
from qpc_qiskit.circuits.encoder import make_encoder
from qpc_qiskit.circuits.qpy import circuits_to_bytes
from qpc_qiskit.circuits.spec import LayerSpec, make_spec
from qpc_qiskit.common.checks import positive_integer
from qpc_qiskit.common.files import write_bytes
from qpc_qiskit.connector import DTYPES, PointwiseConnector, PointwiseQNN, uniform_angles
from qpc_qiskit.engines import Engine
from qpc_qiskit.errors import EncodingError

Init = str | Callable[[Tensor], object]

EXPORT_FORMATS = ("qasm3", "qpy")


class _QuantumPointwiseConv(PointwiseConnector):
    """Common part of the 1d, 2d and 3d layers; see `QuantumPointwiseConv2d`."""

    spatial_dims: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        num_layers: int = 3,
        ansatz: str | QuantumCircuit = "strongly_entangling",
        num_qubits: int | None = None,
        bias_channel: bool = False,
        init: Init = "uniform",
        engine: str | Engine = "exact",
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        spec = make_spec(
            positive_integer("in_channels", in_channels) + bool(bias_channel),
            out_channels,
            num_layers=num_layers,
            ansatz=ansatz,
            num_qubits=num_qubits,
        )
        if spec.in_channels == 1:
            warnings.warn(
                "With one input channel amplitude encoding keeps nothing of a pixel: every "
                "output is the same wherever the pixel is not zero. Use bias_channel=True or "
                "more channels.",
                stacklevel=2,
            )
        super().__init__(
            PointwiseQNN(spec, engine), _initializer(init, generator), device=device, dtype=dtype
        )
        _check_dtype(self._weights.dtype)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.bias_channel = bias_channel

    @property
    def spec(self) -> LayerSpec:
        """Shape, ansatz and conventions."""
        return self.neural_network.spec

    def forward(self, images: Tensor) -> Tensor:
        """Apply the layer to every pixel.

        Args:
            images: (B, in_channels, ...) with the layer's number of spatial axes, the dtype of the
                weights (under autocast any floating dtype); any memory format, B = 0 allowed.

        Returns:
            (B, out_channels, ...), values in [-1, 1], dtype and device of the weights.

        Raises:
            ValueError: wrong number of axes or channels.
            TypeError: not a floating dtype, or not that of the weights.
            EncodingError: a pixel is not finite; names image and position.
        """
        images = self._checked(images)
        spatial = images.shape[2:]
        if self.bias_channel:
            images = torch.cat([images, images.new_ones(len(images), 1, *spatial)], 1)
        channels_last = images.stride(1) == 1 and not images.is_contiguous()
        if channels_last:
            pixels = images.movedim(1, -1).flatten(0, -2)
        else:  # a view of (C, N): whole rows are copied, and the exact engine wants no other order
            pixels = images.movedim(1, 0).flatten(1).T
        try:
            features = super().forward(pixels)
        except EncodingError as error:
            raise _located(error, images) from None
        maps = features.T[: self.out_channels].unflatten(1, (len(images), *spatial))
        if channels_last:
            return maps.movedim(0, -1).contiguous().movedim(-1, 1)
        return maps.movedim(0, 1).contiguous()

    def _checked(self, images: Tensor) -> Tensor:
        """`images`, cast to the dtype of the weights under autocast."""
        name, dtype = type(self).__name__, self._weights.dtype
        axes = ("B", str(self.in_channels), *"DHW"[3 - self.spatial_dims :])
        expected = f"{name} expected images of shape ({', '.join(axes)})"
        if images.ndim != self.spatial_dims + 2:
            raise ValueError(f"{expected}, got {images.ndim} axes: {tuple(images.shape)}.")
        if images.shape[1] != self.in_channels:
            raise ValueError(f"{expected}, got {images.shape[1]} channels: {tuple(images.shape)}.")
        _check_dtype(dtype)
        if not images.is_floating_point():
            raise TypeError(
                f"{name} expected {dtype} images, got {images.dtype}; convert them first."
            )
        if torch.is_autocast_enabled(images.device.type):
            return images.to(dtype)
        if images.dtype != dtype:
            raise TypeError(
                f"{name} has {dtype} weights but got {images.dtype} images; convert one of them, "
                "for example with layer.double() or images.float()."
            )
        return images

    def circuit(self, encoder: str = "multiplexor") -> QuantumCircuit:
        """The full parametrized circuit: encoder, then ansatz.

        Its parameters are the encoder's angles `encoder[..]` and the P weights of a kernel
        (`theta[..]`, or the names of a user's circuit); `parameter_values` gives values in that
        order. All kernels and all pixels use this one circuit. Feature q is <Z> of qubit q.

        Args:
            encoder: name of the encoder.
        """
        spec = self.spec
        circuit = QuantumCircuit(spec.num_qubits, name=f"{encoder}+{spec.ansatz.name}")
        circuit.compose(make_encoder(encoder, spec.num_qubits).circuit, inplace=True)
        circuit.compose(spec.ansatz.circuit, inplace=True)
        return circuit

    def parameter_values(
        self, pixels: Tensor, kernel: int = 0, encoder: str = "multiplexor"
    ) -> NDArray[np.float64]:
        """Values for `circuit(encoder).parameters`, one row per pixel.

        Args:
            pixels: (N, C), C = spec.in_channels (the bias channel included), any floating dtype.
            kernel: 0 .. K-1.
            encoder: name of the encoder.

        Returns:
            (N, number of parameters), radians, in the order of `circuit(encoder).parameters`.

        Raises:
            ValueError: no such kernel, or wrong number of channels.
            EncodingError: a pixel is not finite.
        """
        if pixels.ndim != 2 or pixels.shape[1] != self.spec.in_channels:
            raise ValueError(
                f"Expected pixels of shape (N, {self.spec.in_channels}), got {tuple(pixels.shape)}."
            )
        check_finite(pixels)
        made = make_encoder(encoder, self.spec.num_qubits)
        angles = made.angles(canonical_directions(pixels.detach().cpu())).numpy()
        by_parameter = dict(zip(made.parameters, angles.T, strict=True))
        weights = self._kernel_weights(kernel)
        by_parameter |= {
            p: np.full(len(pixels), value)
            for p, value in zip(self.spec.ansatz.parameters, weights, strict=True)
        }
        return np.stack([by_parameter[p] for p in self.circuit(encoder).parameters], 1)

    def export(
        self,
        fmt: str,
        path: str | os.PathLike[str],
        *,
        kernel: int = 0,
        bound: bool = True,
        encoder: str = "multiplexor",
    ) -> None:
        """Write a kernel's circuit; the encoder's angles stay parameters.

        Args:
            fmt: `qasm3` (OpenQASM 3 text) or `qpy` (Qiskit's binary format).
            path: file to write; replaced as a whole or not at all.
            kernel: 0 .. K-1.
            bound: whether the trained weights are bound, or stay parameters as well.
            encoder: name of the encoder.

        Raises:
            ValueError: unknown format, or no such kernel.
            OSError: the file cannot be written.
            EngineError: an old Qiskit would write an angle wrongly.
        """
        if fmt not in EXPORT_FORMATS:
            raise ValueError(
                f"Unknown format {fmt!r}; expected one of {', '.join(EXPORT_FORMATS)}."
            )
        weights = self._kernel_weights(kernel)
        circuit = self.circuit(encoder)
        if bound:
            circuit = circuit.assign_parameters(
                dict(zip(self.spec.ansatz.parameters, weights, strict=True))
            )
        circuit.metadata = {"kernel": kernel, "weights_bound": bound, **self.spec.to_dict()}
        content = qasm3.dumps(circuit).encode() if fmt == "qasm3" else circuits_to_bytes([circuit])
        write_bytes(Path(path), content)

    def _kernel_weights(self, kernel: int) -> list[float]:
        if not 0 <= kernel < self.spec.num_kernels:
            raise ValueError(
                f"The layer has kernels 0 to {self.spec.num_kernels - 1}, kernel {kernel} was "
                "asked for."
            )
        return self._weights[kernel].detach().to("cpu", torch.float64).tolist()

    def extra_repr(self) -> str:
        """Arguments, as torch prints them."""
        spec = self.spec
        parts = [
            f"{self.in_channels}, {self.out_channels}",
            f"num_qubits={spec.num_qubits}",
            f"num_kernels={spec.num_kernels}",
            f"ansatz={spec.ansatz.name!r}",
        ]
        if spec.ansatz.num_layers is not None:
            parts.append(f"num_layers={spec.ansatz.num_layers}")
        if self.bias_channel:
            parts.append("bias_channel=True")
        return ", ".join([*parts, f"engine={self.engine.name!r}"])


class QuantumPointwiseConv2d(_QuantumPointwiseConv):
    """1x1 convolution with quantum circuits as kernels: (B, C_in, H, W) -> (B, C_out, H, W).

    Values lie in [-1, 1]. Each pixel's channel vector is amplitude-encoded into n qubits; K =
    ceil(out_channels / n) circuits with weights of their own, shared by all pixels, act on it; <Z>
    of every qubit is a map. A pixel's magnitude and sign have no effect. All-zero pixels are
    encoded as |0...0> and have zero gradient.

    The one parameter is `weight`, (K, P).

    Args:
        in_channels: C_in.
        out_channels: C_out; the K*n - C_out surplus maps are cropped.
        num_layers: blocks of a named ansatz; leave it out with a circuit, which is the whole
            ansatz.
        ansatz: `strongly_entangling` (3nL weights a kernel), `figure1` (2nL), `circuit_centric`
            (5nL), or a `QuantumCircuit` of unitary gates with angles affine in its parameters.
        num_qubits: n; default the fewest that hold the channels.
        bias_channel: append a channel that is 1 everywhere, which keeps a pixel's magnitude and
            sign.
        init: `uniform` on [0, 2 pi), `normal` (standard deviation 0.1, near the identity), or a
            function that fills the weights in place.
        engine: `exact`, `estimator`, or an engine; see `use_engine` for switching a whole model.
        generator: random numbers for `init`, on the device of the weights.
        device: of the weights.
        dtype: float32 or float64; default torch's.

    Raises:
        ValueError: a size is not positive, the channels do not fit into num_qubits, unknown engine
            or init.
        AnsatzError: unknown ansatz, or a circuit that is not allowed.
        TypeError: a dtype other than float32 and float64.

    Source: arXiv:2412.01241.

    Example:
        >>> layer = QuantumPointwiseConv2d(16, 32)
        >>> layer(torch.randn(8, 16, 4, 4)).shape
        torch.Size([8, 32, 4, 4])
    """

    spatial_dims = 2


class QuantumPointwiseConv1d(_QuantumPointwiseConv):
    """As `QuantumPointwiseConv2d`, for (B, C_in, W)."""

    spatial_dims = 1


class QuantumPointwiseConv3d(_QuantumPointwiseConv):
    """As `QuantumPointwiseConv2d`, for (B, C_in, D, H, W)."""

    spatial_dims = 3


QuantumLayer = QuantumPointwiseConv1d | QuantumPointwiseConv2d | QuantumPointwiseConv3d
"""Any of them, as a type and for `isinstance`."""


def _initializer(init: Init, generator: torch.Generator | None) -> Callable[[Tensor], object]:
    if callable(init):
        if generator is not None:
            raise ValueError("generator has no effect where init is a function; leave it out.")
        return init
    if init == "uniform":
        return lambda weight: uniform_angles(weight, generator)
    if init == "normal":
        return lambda weight: weight.normal_(0, 0.1, generator=generator)
    raise ValueError(f"Unknown init {init!r}; expected 'uniform', 'normal' or a function.")


def _check_dtype(dtype: torch.dtype) -> None:
    if dtype not in DTYPES:
        raise TypeError(
            f"A quantum layer computes in torch.float32 or torch.float64, its weights are {dtype}."
        )


def _located(error: EncodingError, images: Tensor) -> EncodingError:
    """The error with the pixel's place in the batch of images."""
    if error.pixel is None:
        return error
    place = [int(i) for i in np.unravel_index(error.pixel, (len(images), *images.shape[2:]))]
    return EncodingError(f"{error} (image {place[0]}, position {tuple(place[1:])})", error.pixel)
