"""The bridge to PyTorch through qiskit-machine-learning; the only module that imports it.

`PointwiseQNN` is a `NeuralNetwork` that asks an engine; `PointwiseConnector` is a `TorchConnector`
that asks the engine for vector-Jacobian products instead of full Jacobians and stays in torch: any
device, float32 or float64. The stock `TorchConnector` around the same `PointwiseQNN` gives the same
numbers, in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from qiskit_machine_learning.connectors import TorchConnector
from qiskit_machine_learning.neural_networks import NeuralNetwork
from torch import Tensor, nn

from qpc_qiskit.circuits.directions import check_finite
from qpc_qiskit.circuits.spec import LayerSpec
from qpc_qiskit.engines import Engine, LayerCall, make_engine
from qpc_qiskit.errors import EngineError

DTYPES = (torch.float32, torch.float64)

_COMPILED = "_orig_mod."
"""What torch.compile puts before the names inside a compiled submodule."""


class PointwiseQNN(NeuralNetwork):
    """All kernels of a layer as one neural network: C inputs, K*P weights, K*m outputs.

    Args:
        spec: the layer.
        engine: engine or its name.
    """

    def __init__(self, spec: LayerSpec, engine: str | Engine = "exact") -> None:
        self.spec = spec
        self._own_engine = make_engine(engine)
        self._overrides: list[tuple[object, tuple[Engine, str]]] = []
        super().__init__(
            num_inputs=spec.in_channels,
            num_weights=spec.num_kernels * spec.num_weights,
            sparse=False,
            output_shape=(spec.num_features,),
            input_gradients=True,
        )

    @property
    def asked(self) -> tuple[Engine, Callable[[Tensor, Tensor], LayerCall]]:
        """`engine`, and what makes pixels and weights a call of it."""
        engine, name = self._overrides[-1][1] if self._overrides else (self._own_engine, None)
        return engine, partial(LayerCall, self.spec, layer=name)

    @property
    def engine(self) -> Engine:
        """What evaluates the circuits: that of the last `use_engine` still open, or its own."""
        return self.asked[0]

    @engine.setter
    def engine(self, engine: str | Engine) -> None:
        self._own_engine = make_engine(engine)

    def override(self, token: object, engine: Engine, name: str) -> None:
        """Use another engine, as the layer of that name, until `restore(token)`."""
        self._overrides.append((token, (engine, name)))

    def restore(self, token: object) -> None:
        """End the override of that token, whatever others are open."""
        self._overrides = [entry for entry in self._overrides if entry[0] is not token]

    def __getstate__(self) -> dict[str, object]:
        """Copies and pickles made inside `use_engine` have their own engine, not a borrowed one."""
        return {**self.__dict__, "_overrides": []}

    def _call(self, inputs: np.ndarray, weights: np.ndarray) -> tuple[Engine, LayerCall]:
        pixels = torch.from_numpy(np.ascontiguousarray(inputs, np.float64))
        check_finite(pixels)
        kernels = torch.from_numpy(np.ascontiguousarray(weights, np.float64))
        engine, call = self.asked
        return engine, call(pixels, kernels.view(self.spec.num_kernels, self.spec.num_weights))

    def _forward(self, input_data: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Outputs (N, K*m), float64."""
        engine, call = self._call(input_data, weights)
        return engine.evs(call).flatten(1).numpy()

    def _backward(
        self, input_data: np.ndarray, weights: np.ndarray
    ) -> tuple[np.ndarray | None, np.ndarray]:
        """Full Jacobians (N, K*m, C) and (N, K*m, K*P).

        Costly by design: it serves the stock `TorchConnector`, which asks for nothing less.
        """
        engine, call = self._call(input_data, weights)
        by_pixel, by_own_weight = engine.jacobian(call, (self.input_gradients, True))
        assert by_own_weight is not None
        # Zero between a kernel's outputs and the others' weights.
        by_weight = np.zeros((*call.shape, *call.weights.shape))
        each = np.arange(self.spec.num_kernels)
        by_weight[:, each, :, each] = by_own_weight.transpose(0, 1).numpy()
        return (
            None if by_pixel is None else by_pixel.flatten(1, 2).numpy(),
            by_weight.reshape(len(call.pixels), self.spec.num_features, self.num_weights),
        )


class PointwiseConnector(TorchConnector):
    """Pixels (N, C) -> features (N, K*m) of a `PointwiseQNN`, differentiable once.

    Its one parameter, `weight`, has shape (K, P).

    Args:
        neural_network: what is evaluated.
        initialize: fills the weights in place; default uniform on [0, 2 pi).
        device: of the weights.
        dtype: of the weights, float32 or float64; default torch's.
    """

    def __init__(
        self,
        neural_network: PointwiseQNN,
        initialize: Callable[[Tensor], object] | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        # TorchConnector.__init__ would register the weights under two names on one memory, in
        # float32.
        nn.Module.__init__(self)
        self._neural_network = neural_network
        self._sparse = False
        spec = neural_network.spec
        weight = torch.empty(spec.num_kernels, spec.num_weights, device=device, dtype=dtype)
        with torch.no_grad():
            (initialize or uniform_angles)(weight)
        self.register_parameter("weight", nn.Parameter(weight))

    # TorchConnector makes `weight` a property without a setter. Torch's own tools (pruning,
    # parametrizations, replicas) put a plain tensor in the parameter's place, so this one gives
    # way.
    @property
    def weight(self) -> Tensor:
        """Weights of all kernels, (K, P)."""
        found = self._parameters.get("weight", self.__dict__.get("weight"))
        if found is None:  # torch asks before the parameter is registered
            raise AttributeError("weight")
        return found

    @weight.setter
    def weight(self, value: Tensor) -> None:
        self.__dict__["weight"] = value

    @weight.deleter
    def weight(self) -> None:
        self.__dict__.pop("weight", None)

    @property
    def _weights(self) -> Tensor:
        """What TorchConnector calls its weights."""
        return self.weight

    @property
    def engine(self) -> Engine:
        """What evaluates the circuits now; set it to an engine or a name."""
        return self._neural_network.engine

    @engine.setter
    def engine(self, engine: str | Engine) -> None:
        self._neural_network.engine = engine

    def forward(self, pixels: Tensor) -> Tensor:
        """Features (N, K*m) of pixels (N, C), in the dtype and on the device of the weights.

        Raises:
            ValueError: another number of axes or channels.
            TypeError: another dtype than that of the weights.
            EncodingError: a pixel is not finite.
            EngineError: the engine failed.
        """
        if torch.compiler.is_compiling():
            # Engines run outside of the graph. As a decorator this would import the compiler.
            return torch.compiler.disable(self._evaluate)(pixels)
        return self._evaluate(pixels)

    def _evaluate(self, pixels: Tensor) -> Tensor:
        qnn, weights = self._neural_network, self._weights
        if pixels.ndim != 2 or pixels.shape[1] != qnn.num_inputs:
            raise ValueError(
                f"Expected pixels of shape (N, {qnn.num_inputs}), got {tuple(pixels.shape)}."
            )
        if pixels.dtype != weights.dtype:
            raise TypeError(f"Expected {weights.dtype} pixels, got {pixels.dtype}.")
        check_finite(pixels)
        engine, call = qnn.asked
        if not torch.is_grad_enabled():  # autograd.Function would not know
            return engine.evs(call(pixels, weights)).flatten(1)
        return _EngineFunction.apply(pixels, weights, engine, call).flatten(1)


class _EngineFunction(torch.autograd.Function):
    """`Engine.evs` with `Engine.vjp` as its derivative."""

    @staticmethod
    def forward(
        ctx: Any,
        pixels: Tensor,
        weights: Tensor,
        engine: Engine,
        call: Callable[[Tensor, Tensor], LayerCall],
    ) -> Tensor:
        ctx.save_for_backward(pixels, weights)
        ctx.engine, ctx.call, ctx.residuals = engine, call, None
        if not any(ctx.needs_input_grad):
            return engine.evs(call(pixels, weights))
        evs, ctx.residuals = engine.evs_with_residuals(call(pixels, weights))
        return evs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        pixels, weights = ctx.saved_tensors
        wrt = (ctx.needs_input_grad[0], ctx.needs_input_grad[1])
        residuals, ctx.residuals = ctx.residuals, None  # used up; a second backward recomputes
        with torch.no_grad():
            call = ctx.call(pixels, weights)
            by_pixels, by_weights = ctx.engine.vjp(call, grad, wrt, residuals=residuals)
        if torch.is_grad_enabled():  # create_graph=True
            by_pixels, by_weights = (
                None if g is None else _OnceDifferentiable.apply(g, grad, pixels, weights)
                for g in (by_pixels, by_weights)
            )
        return by_pixels, by_weights, None, None


class _OnceDifferentiable(torch.autograd.Function):
    """The identity on a gradient; differentiating it again is an error."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *sources: Tensor) -> Tensor:
        return gradient.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, ...]:
        raise EngineError(
            "A quantum layer is differentiable once; its second derivative was asked for (a "
            "gradient penalty, or a second backward through create_graph=True). Detach its "
            "gradient instead."
        )


@contextmanager
def use_engine(model: nn.Module, engine: str | Engine) -> Iterator[Engine]:
    """Evaluate every quantum layer of a model on one engine, inside a `with` block.

    The switch holds for the model, also in other threads. Blocks may be nested or overlap; copies
    of the model made inside have the layers' own engines.

    Args:
        model: any module; its layers get their own engines back at the end, also after an error.
        engine: engine or its name.

    Yields:
        The engine, whose `last_report` tells what the last layer cost, and `total_executions` what
        all did.

    Raises:
        ValueError: unknown engine, or a model without quantum layers.

    Example:
        >>> with use_engine(model, "estimator"):
        ...     logits = model(images)
    """
    layers = [
        (name.replace(_COMPILED, ""), module)
        for name, module in _unwrapped(model).named_modules()
        if isinstance(module, PointwiseConnector)
    ]
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no quantum pointwise convolution, so there is no engine "
            "to choose."
        )
    chosen, token = make_engine(engine), object()
    try:
        for name, layer in layers:
            layer.neural_network.override(token, chosen, name)
        yield chosen
    finally:
        for _, layer in layers:
            layer.neural_network.restore(token)


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DataParallel, DistributedDataParallel and torch.compile."""
    while True:
        if isinstance(model, nn.parallel.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif (compiled := getattr(model, "_orig_mod", None)) is not None:
            model = compiled
        else:
            return model


def uniform_angles(weight: Tensor, generator: torch.Generator | None = None) -> None:
    """Fill weights with angles uniform on [0, 2 pi), in place."""
    with torch.no_grad():
        weight.uniform_(0, 2 * math.pi, generator=generator)
