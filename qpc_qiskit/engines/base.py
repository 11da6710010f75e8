"""The contract between a layer and whatever evaluates it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
from torch import Tensor

from qpc_qiskit.engines.calls import LayerCall
from qpc_qiskit.engines.old_calls import adapt, takes_either
from qpc_qiskit.engines.reports import EngineReport
from qpc_qiskit.errors import EngineError


class Engine(ABC):
    """Evaluates layers. Keeps no state of any layer, so one engine may serve many.

    Results have the dtype and device of `call.pixels`.
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

    @abstractmethod
    def evs(self, call: LayerCall) -> Tensor:
        """Expectation values: (N, K, m), entry [i, k, j] is map j of kernel k for pixel i."""

    @takes_either
    def evs_with_residuals(self, call: LayerCall) -> tuple[Tensor, object]:
        """`evs`, and whatever of it `vjp` can use instead of evaluating again.

        Returns:
            (N, K, m); residuals, of bounded size, for one call of `vjp` with the same arguments.
        """
        return self.evs(call), None

    @takes_either
    def vjp(
        self,
        call: LayerCall,
        grad: Tensor,
        wrt: tuple[bool, bool] = (True, True),
        *,
        residuals: object = None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Vector-Jacobian product of `evs`.

        Args:
            call: what `evs` was asked.
            grad: (N, K, m), derivative of the loss by each value.
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

    @takes_either
    def jacobian(
        self, call: LayerCall, wrt: tuple[bool, bool] = (True, True)
    ) -> tuple[Tensor | None, Tensor | None]:
        """Derivatives of every value, for the stock `TorchConnector`, which asks for nothing less.

        This default asks `vjp` for one value of one pixel at a time.

        Args:
            call: what `evs` would be asked.
            wrt: which of (pixels, weights) to differentiate by.

        Returns:
            (N, K, m, C) and (N, K, m, P), the latter by the kernel's own weights; None where not
            asked for.

        Raises:
            EngineError: this engine has no gradients.
        """
        pixels, shape = call.pixels, call.shape
        found = (
            pixels.new_zeros(*shape, call.spec.in_channels) if wrt[0] else None,
            pixels.new_zeros(*shape, call.spec.num_weights) if wrt[1] else None,
        )
        for i, k, j in np.ndindex(*shape):
            unit = pixels.new_zeros(1, *shape[1:])
            unit[0, k, j] = 1
            one = replace(call, pixels=pixels[i : i + 1])
            by_pixels, by_weights = self.vjp(one, unit, wrt)
            if found[0] is not None and by_pixels is not None:
                found[0][i, k, j] = by_pixels[0]
            if found[1] is not None and by_weights is not None:
                found[1][i, k, j] = by_weights[k]
        return found

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        adapt(cls)

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        """Engines may hold live connections and no layer state: copies of a layer share one."""
        return self
