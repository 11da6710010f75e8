"""The estimator engine: layers evaluated by any Qiskit Estimator primitive (V2)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from qiskit.primitives import BaseEstimatorV2
from torch import Tensor

from qpc_qiskit.ansatz import Ansatz
from qpc_qiskit.directions import canonical_directions
from qpc_qiskit.encoder import Encoder, make_encoder
from qpc_qiskit.engines.base import Engine, EngineReport
from qpc_qiskit.errors import EngineError, QPCError
from qpc_qiskit.execution.pubs import Template, evs_from_data, make_pub, make_rows, make_template
from qpc_qiskit.spec import LayerSpec


class EstimatorEngine(Engine):
    """Expectation values from a primitive: one circuit and one PUB for all pixels of all kernels.

    Args:
        estimator: any `BaseEstimatorV2`; None: Aer, noiseless, and exact unless a precision is
            given. The circuit is sent as it is, in {ry, rz, rx, sx, x, cx, cz}: the estimator must
            accept these gates.
        precision: standard error asked of every value; None: the estimator's own default. For
            values that are the same every time give a seeded estimator.

    Raises:
        TypeError: `estimator` is no `BaseEstimatorV2`.
        ValueError: `precision` is negative or not finite.
    """

    name = "estimator"
    has_gradients = False

    def __init__(
        self, estimator: BaseEstimatorV2 | None = None, *, precision: float | None = None
    ) -> None:
        super().__init__()
        if estimator is not None and not isinstance(estimator, BaseEstimatorV2):
            raise TypeError(
                "Expected a qiskit BaseEstimatorV2 (Aer's EstimatorV2, StatevectorEstimator, "
                f"...), got {type(estimator).__name__}."
            )
        if precision is not None and not 0 <= precision < float("inf"):
            raise ValueError(f"precision must be a finite number >= 0, got {precision!r}.")
        self._estimator = estimator
        self._is_default = estimator is None
        self._precision = precision

    @property
    def estimator(self) -> BaseEstimatorV2:
        """The primitive in use; Aer's is made on first use."""
        if self._estimator is None:
            self._estimator = _default_estimator(self._precision)
        return self._estimator

    def evs(self, spec: LayerSpec, pixels: Tensor, weights: Tensor) -> Tensor:
        """See `Engine.evs`. Computed in float64 on the host.

        Raises:
            EngineError: the estimator failed (the original error is chained), or returned values of
                another shape or values that are not finite.
        """
        shape = (len(pixels), spec.num_kernels, spec.num_qubits)
        if len(pixels) == 0:
            self._report(spec, 0)
            return pixels.new_empty(shape)
        encoder, template = _prepared(spec.ansatz)
        encoder_angles = encoder.angles(canonical_directions(pixels.detach().cpu()))
        ansatz_angles = spec.ansatz.angles(weights.detach().cpu().numpy())
        rows = make_rows(encoder_angles.numpy(), ansatz_angles)
        data = self._run(template, rows)
        evs = evs_from_data(data, "evs", *shape)
        if not np.isfinite(evs).all():
            raise EngineError(
                f"Of {evs.size} values that the estimator returned "
                f"{int((~np.isfinite(evs)).sum())} are not finite; nothing of this result is used. "
                "Check its options (extrapolation, mitigation)."
            )
        self._report(spec, len(pixels), getattr(data, "stds", None))
        return torch.from_numpy(evs).to(pixels)

    def _report(self, spec: LayerSpec, num_pixels: int, stds: np.ndarray | None = None) -> None:
        finite = np.asarray([] if stds is None else stds, np.float64)
        finite = finite[np.isfinite(finite)]
        self._record(
            EngineReport(
                engine=self.name,
                num_pixels=num_pixels,
                num_kernels=spec.num_kernels,
                num_executions=num_pixels * spec.num_kernels,
                num_pubs=int(num_pixels > 0),
                precision=self._precision,
                max_std=float(finite.max()) if finite.size else None,
            )
        )

    def __getstate__(self) -> dict[str, object]:
        """Refuse to write a live primitive, and the credentials it may hold, into a pickle."""
        if self._estimator is not None and not self._is_default:
            raise EngineError(
                f"An engine around {type(self._estimator).__name__} is a live connection and "
                "cannot be pickled. Save the layer's state_dict instead, or set its engine to "
                "'exact' first."
            )
        return {**self.__dict__, "_estimator": None}

    def _run(self, template: Template, rows: np.ndarray) -> object:
        pub = make_pub(template, rows, self._precision)
        try:
            return self.estimator.run([pub]).result()[0].data
        except QPCError:  # the toolkit's own, such as a result that is still pending
            raise
        except Exception as error:  # whatever a vendor's primitive raises
            raise EngineError(
                f"{type(self.estimator).__name__} failed on a PUB of {len(rows)} rows and "
                f"{template.circuit.num_qubits} qubits: {type(error).__name__}: {error}"
            ) from error


@lru_cache(maxsize=64)
def _prepared(ansatz: Ansatz) -> tuple[Encoder, Template]:
    encoder = make_encoder("multiplexor", ansatz.num_qubits)
    return encoder, make_template(encoder, ansatz)


def _default_estimator(precision: float | None) -> BaseEstimatorV2:
    """Aer's, imported only now: it is heavy, and not everybody's backend."""
    if precision:
        from qiskit_aer.primitives import EstimatorV2

        return EstimatorV2(options={"backend_options": {"runtime_parameter_bind_enable": True}})
    from qpc_qiskit.execution.aer import AerExactEstimator

    return AerExactEstimator()
