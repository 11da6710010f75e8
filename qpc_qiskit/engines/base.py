"""The contract between a layer and whatever evaluates it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Self

import numpy as np
from torch import Tensor

from qpc_qiskit.circuits.spec import LayerSpec
from qpc_qiskit.engines.reports import EngineReport
from qpc_qiskit.errors import EngineError


class Engine(ABC):
    """Evaluates layers. Keeps no state of any layer, so one engine may serve many.

    Every tensor may lie on any device; results have the dtype and device of `pixels`. `pixels` are
    finite (the connector has checked), real, (N, C) with C = spec.in_channels, N >= 0; `weights`
    are (K, P).
    """

    name: ClassVar[str]
    """The engine's name in `ENGINES`."""
    has_gradients: ClassVar[bool] = True
    """Whether `vjp` works."""

    def __init__(self) -> None:
        self.last_report: EngineReport | None = None
        self.total_executions = 0
        self.total_pubs = 0

    def _record(self, report: EngineReport) -> None:
        """Make it the last report, and count what it cost into the totals of this engine's life."""
        self.last_report = report
        self.total_executions += report.num_executions
        self.total_pubs += report.num_pubs

    def for_layer(self, name: str) -> Engine:
        """The engine to use for the layer of that name in a model; `use_engine` asks for each.

        Args:
            name: the layer's name in `model.named_modules()`, without the prefixes of wrappers.

        Returns:
            This engine; an engine that must tell layers apart returns a view of itself.
        """
        return self

    @abstractmethod
    def evs(self, spec: LayerSpec, pixels: Tensor, weights: Tensor) -> Tensor:
        """Expectation values: (N, K, n), entry [i, k, q] = <Z_q> of kernel k for pixel i."""

    def evs_with_residuals(
        self, spec: LayerSpec, pixels: Tensor, weights: Tensor
    ) -> tuple[Tensor, object]:
        """`evs`, and whatever of it `vjp` can use instead of evaluating again.

        Returns:
            (N, K, n); residuals, of bounded size, for one call of `vjp` with the same arguments.
        """
        return self.evs(spec, pixels, weights), None

    def vjp(
        self,
        spec: LayerSpec,
        pixels: Tensor,
        weights: Tensor,
        grad: Tensor,
        wrt: tuple[bool, bool] = (True, True),
        *,
        residuals: object = None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Vector-Jacobian product of `evs`.

        Args:
            spec: the layer.
            pixels: (N, C).
            weights: (K, P).
            grad: (N, K, n), derivative of the loss by each value.
            wrt: which of (pixels, weights) to differentiate by.
            residuals: of `evs_with_residuals`, used up here; None: everything is evaluated again.

        Returns:
            Gradients (N, C) and (K, P); None where not asked for.

        Raises:
            EngineError: this engine has no gradients.
        """
        raise EngineError(
            f"The {self.name!r} engine has no gradients, so nothing can be trained on it. Train "
            "with engine='exact', then evaluate with this one (under torch.no_grad())."
        )

    def jacobian(
        self,
        spec: LayerSpec,
        pixels: Tensor,
        weights: Tensor,
        wrt: tuple[bool, bool] = (True, True),
    ) -> tuple[Tensor | None, Tensor | None]:
        """Derivatives of every value, for the stock `TorchConnector`, which asks for nothing less.

        This default asks `vjp` for one value of one pixel at a time.

        Args:
            spec: the layer.
            pixels: (N, C).
            weights: (K, P).
            wrt: which of (pixels, weights) to differentiate by.

        Returns:
            (N, K, n, C) and (N, K, n, P), the latter by the kernel's own weights; None where not
            asked for.

        Raises:
            EngineError: this engine has no gradients.
        """
        shape = (len(pixels), spec.num_kernels, spec.num_qubits)
        found = (
            pixels.new_zeros(*shape, spec.in_channels) if wrt[0] else None,
            pixels.new_zeros(*shape, spec.num_weights) if wrt[1] else None,
        )
        for i, k, q in np.ndindex(*shape):
            unit = pixels.new_zeros(1, *shape[1:])
            unit[0, k, q] = 1
            by_pixels, by_weights = self.vjp(spec, pixels[i : i + 1], weights, unit, wrt)
            if found[0] is not None and by_pixels is not None:
                found[0][i, k, q] = by_pixels[0]
            if found[1] is not None and by_weights is not None:
                found[1][i, k, q] = by_weights[k]
        return found

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        """Engines may hold live connections and no layer state: copies of a layer share one."""
        return self
