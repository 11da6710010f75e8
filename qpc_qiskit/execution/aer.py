"""An exact Estimator on Aer that spends its time in the simulator.

Aer's own `EstimatorV2` copies a dictionary for every value that it reads; here each value is read
once. Its options matter more: binding parameters at run time simulates one compiled circuit for all
rows, and gate fusion costs more than it saves on a handful of qubits (benchmarks/results).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from qiskit.primitives import (
    BaseEstimatorV2,
    DataBin,
    EstimatorPub,
    EstimatorPubLike,
    PrimitiveJob,
    PrimitiveResult,
    PubResult,
)
from qiskit.quantum_info import Pauli
from qiskit_aer import AerSimulator

OPTIONS = {
    "method": "statevector",
    "runtime_parameter_bind_enable": True,
    "fusion_enable": False,
}
_ROWS_PER_RUN = 16384  # Aer takes Python numbers, and gives an object for each row


class AerExactEstimator(BaseEstimatorV2):
    """Expectation values to rounding, without shots.

    Args:
        options: of `AerSimulator`, over `OPTIONS`.
    """

    def __init__(self, **options: object) -> None:
        self._simulator = AerSimulator(**(OPTIONS | options))

    def run(
        self, pubs: Iterable[EstimatorPubLike], *, precision: float | None = None
    ) -> PrimitiveJob[PrimitiveResult[PubResult]]:
        """See `BaseEstimatorV2.run`.

        Raises:
            ValueError: a precision other than 0 is asked for, which an exact simulation has not.
        """
        coerced = [EstimatorPub.coerce(pub, precision) for pub in pubs]
        if any(pub.precision for pub in coerced):
            raise ValueError("AerExactEstimator is exact; use qiskit_aer's EstimatorV2 for shots.")
        job: PrimitiveJob[PrimitiveResult[PubResult]] = PrimitiveJob(self._run, coerced)
        job._submit()
        return job

    def _run(self, pubs: list[EstimatorPub]) -> PrimitiveResult[PubResult]:
        return PrimitiveResult([self._run_pub(pub) for pub in pubs])

    def _run_pub(self, pub: EstimatorPub) -> PubResult:
        observables = pub.observables.ravel()
        paulis = sorted({pauli for observable in observables for pauli in observable})
        by_pauli = self._values(pub, paulis)
        table = np.stack(
            [sum(c * by_pauli[p] for p, c in observable.items()) for observable in observables]
        )  # (observables, parameter rows)
        rows = np.arange(table.shape[1]).reshape(pub.parameter_values.shape)
        columns = np.arange(len(table)).reshape(pub.observables.shape)
        columns, rows = np.broadcast_arrays(columns, rows)
        evs = table[columns, rows]
        return PubResult(DataBin(evs=evs, stds=np.zeros_like(evs), shape=evs.shape))

    def _values(self, pub: EstimatorPub, paulis: list[str]) -> dict[str, np.ndarray]:
        """Expectation value of each Pauli for every parameter row."""
        circuit = pub.circuit.copy()
        parameters = list(circuit.parameters)
        for pauli in paulis:
            circuit.save_expectation_value(Pauli(pauli), range(circuit.num_qubits), label=pauli)
        values = pub.parameter_values.as_array(parameters)
        values = values.reshape(pub.parameter_values.size, len(parameters))
        found: list[dict[str, float]] = []
        for start in range(0, len(values), _ROWS_PER_RUN):
            columns = values[start : start + _ROWS_PER_RUN].T.tolist()
            binds = [dict(zip(parameters, columns, strict=True))] if parameters else None
            result = self._simulator.run(circuit, parameter_binds=binds).result()
            if not result.success:
                raise RuntimeError(f"Aer: {result.status}")
            found += [vars(experiment.data) for experiment in result.results]
        return {p: np.array([data[p] for data in found], np.float64) for p in paulis}
