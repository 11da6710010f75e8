"""An estimator for many patches that has one for each: how a packed circuit is simulated.

Patches are disjoint and, to a simulator, independent: each is simulated alone, with the noise of
its own qubits. What a device adds, crosstalk between them, no simulator here knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from qiskit.primitives import (
    BaseEstimatorV2,
    BasePrimitiveJob,
    DataBin,
    PrimitiveJob,
    PrimitiveResult,
    PubResult,
)
from qiskit.primitives.containers import EstimatorPubLike
from qiskit.primitives.containers.estimator_pub import EstimatorPub

from qpc_qiskit.common.arrays import Array
from qpc_qiskit.rows.prepared import Prepared
from qpc_qiskit.rows.pubs import make_pub


class PatchwiseEstimator(BaseEstimatorV2):
    """Runs the PUBs of a packed circuit patch by patch.

    Args:
        prepared: with several parts.
        estimators: one for each part.
    """

    def __init__(self, prepared: Prepared, estimators: Sequence[BaseEstimatorV2]) -> None:
        self._prepared = prepared
        self.estimators = tuple(estimators)

    def run(
        self, pubs: Iterable[EstimatorPubLike], *, precision: float | None = None
    ) -> BasePrimitiveJob[PrimitiveResult[PubResult], Any]:
        """See `BaseEstimatorV2.run`; PUBs of `make_pub` with the prepared template."""
        coerced = [EstimatorPub.coerce(pub, precision) for pub in pubs]
        job: PrimitiveJob[PrimitiveResult[PubResult]] = PrimitiveJob(self._run, coerced)
        job._submit()
        return job

    def _run(self, pubs: Sequence[EstimatorPub]) -> PrimitiveResult[PubResult]:
        return PrimitiveResult([self._run_pub(pub) for pub in pubs])

    def _run_pub(self, pub: EstimatorPub) -> PubResult:
        template = self._prepared.template
        values = pub.parameter_values.as_array(template.parameters)
        jobs = [
            estimator.run([make_pub(part, own, pub.precision)])
            for estimator, part, own in zip(
                self.estimators,
                self._prepared.parts,
                np.split(values, self._prepared.num_patches, axis=1),
                strict=True,
            )
        ]
        found = [job.result()[0].data for job in jobs]
        names = [name for name in ("evs", "stds", "ensemble_standard_error") if name in found[0]]
        data: dict[str, Array] = {
            name: np.concatenate([np.asarray(each[name]) for each in found]) for name in names
        }
        return PubResult(DataBin(**data, shape=data["evs"].shape))


def patch_by_patch(
    connect: Callable[[Prepared], BaseEstimatorV2],
) -> Callable[[Prepared], BaseEstimatorV2]:
    """A `Destination.connect` for packed circuits, from one for a single patch."""

    def connect_all(prepared: Prepared) -> BaseEstimatorV2:
        if prepared.num_patches == 1:
            return connect(prepared)
        each = [connect(prepared.only(j)) for j in range(prepared.num_patches)]
        return PatchwiseEstimator(prepared, each)

    return connect_all
