"""An Estimator on Aer for what a layer measures, products of Z: exact or with shots, under noise.

Aer's own `EstimatorV2` ignores readout error and errors on `measure`, adds Gaussian noise instead
of drawing shots, and copies a dictionary for every value. Here every row ends in the probabilities
of its outcomes: readout error acts on these, exact values are sums over them, and shots are drawn
from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.circuit.library import IGate
from qiskit.primitives import (
    BaseEstimatorV2,
    DataBin,
    EstimatorPubLike,
    PrimitiveJob,
    PrimitiveResult,
    PubResult,
)
from qiskit.primitives.containers.estimator_pub import EstimatorPub
from qiskit_aer import AerSimulator
from qiskit_aer.noise import NoiseModel

from qpc_qiskit.common.arrays import Array
from qpc_qiskit.devices.noise import measurement_noise
from qpc_qiskit.errors import EngineError
from qpc_qiskit.options.engine import precision_of, shots_of

OPTIONS = {
    "method": "statevector",
    # One compiled circuit for all rows; gate fusion costs more than it saves on so few qubits.
    "runtime_parameter_bind_enable": True,
    "fusion_enable": False,
}
"""Of noiseless simulations."""

EXACT_METHODS = ("statevector", "density_matrix", "tensor_network")
NOISY_METHODS = ("density_matrix",)

_ROWS_PER_RUN = 16384  # Aer takes Python numbers, and gives an object for each row
_PROBABILITIES_PER_RUN = 2**22


class AerEstimator(BaseEstimatorV2):
    """Expectation values of products of Z.

    Args:
        noise_model: None: noiseless. It should match the circuits' gates; see
            `qpc_qiskit.devices.noise`.
        seed: of the shots; every call of `run` goes on in the same stream.
        default_shots: where no precision is asked for; None: exact.
        options: of `AerSimulator`, over `OPTIONS` or `noisy_options`.
    """

    def __init__(
        self,
        noise_model: NoiseModel | None = None,
        *,
        seed: int | None = None,
        default_shots: int | None = None,
        **options: object,
    ) -> None:
        self._default = None if default_shots is None else precision_of(default_shots)
        self._noise_model = noise_model
        self._measurement = None if noise_model is None else measurement_noise(noise_model)
        self._rng = np.random.default_rng(seed)
        self._options = options

    def run(
        self, pubs: Iterable[EstimatorPubLike], *, precision: float | None = None
    ) -> PrimitiveJob[PrimitiveResult[PubResult]]:
        """See `BaseEstimatorV2.run`.

        A precision of 0 gives exact values, and so does None unless there is a default; any other
        draws ceil(1 / precision**2) shots per row.
        """
        precision = self._default if precision is None else precision
        coerced = [EstimatorPub.coerce(pub, precision) for pub in pubs]
        job: PrimitiveJob[PrimitiveResult[PubResult]] = PrimitiveJob(self._run, coerced)
        job._submit()
        return job

    def _run(self, pubs: list[EstimatorPub]) -> PrimitiveResult[PubResult]:
        return PrimitiveResult([self._run_pub(pub) for pub in pubs])

    def _run_pub(self, pub: EstimatorPub) -> PubResult:
        observables = pub.observables.ravel()
        measured = measured_qubits(observables, pub.circuit.num_qubits)
        probabilities = self._probabilities(pub, measured)
        shots = shots_of(pub.precision) if pub.precision else 0
        if shots:
            probabilities = self._rng.multinomial(shots, _normalised(probabilities)) / shots
        eigenvalues = np.stack([_eigenvalues(o, measured) for o in observables])  # (O, 2**m)
        evs = eigenvalues @ probabilities.T
        stds = np.zeros_like(evs)
        if shots:
            squares = eigenvalues**2 @ probabilities.T
            stds = np.sqrt(np.maximum(squares - evs**2, 0) / shots)
        rows = np.arange(evs.shape[1]).reshape(pub.parameter_values.shape)
        columns = np.arange(len(evs)).reshape(pub.observables.shape)
        columns, rows = np.broadcast_arrays(columns, rows)
        data = DataBin(evs=evs[columns, rows], stds=stds[columns, rows], shape=rows.shape)
        return PubResult(data, metadata={"shots": shots or None})

    def _probabilities(self, pub: EstimatorPub, measured: list[int]) -> Array:
        """Of the outcomes of the measured qubits for every row, readout error included: (M, 2**m).

        The first measured qubit is the lowest bit.
        """
        circuit = pub.circuit.copy()
        parameters = list(circuit.parameters)
        noise = self._measurement
        if noise is not None and noise.has_errors_before:
            for qubit in measured:  # an identity that Aer's noise takes for a measurement
                circuit.append(IGate(label="measure"), [qubit])
        circuit.save_probabilities(measured, label="outcomes")
        rows = pub.parameter_values.as_array(parameters)
        rows = rows.reshape(pub.parameter_values.size, len(parameters))
        if not measured:  # multiples of the identity
            return np.ones((len(rows), 1))
        found = self._outcomes(circuit, parameters, rows, 2 ** len(measured))
        for position, qubit in enumerate(measured):
            confusion = None if noise is None else noise.confusion(qubit)
            if confusion is not None:
                axes = found.reshape(len(found), -1, 2, 2**position)
                found = np.einsum("mhtl,tr->mhrl", axes, confusion).reshape(found.shape)
        return found

    def _outcomes(
        self, circuit: QuantumCircuit, parameters: list[Parameter], rows: Array, size: int
    ) -> Array:
        simulator = AerSimulator(**self._simulator_options(circuit))
        step = max(1, min(_ROWS_PER_RUN, _PROBABILITIES_PER_RUN // size))
        found = np.empty((len(rows), size))
        distinct = rows if parameters else rows[:1]
        for start in range(0, len(distinct), step):
            part = distinct[start : start + step]
            binds = [dict(zip(parameters, part.T.tolist(), strict=True))] if parameters else None
            result = simulator.run(circuit, parameter_binds=binds).result()
            if not result.success:
                raise RuntimeError(f"Aer: {result.status}")
            for i, experiment in enumerate(result.results):
                found[start + i] = experiment.data.outcomes
        if not parameters:
            found[1:] = found[:1]
        return found

    def _simulator_options(self, circuit: QuantumCircuit) -> dict[str, object]:
        if self._noise_model is None:
            return {**OPTIONS, **self._options}
        noisy = noisy_options(circuit.num_qubits)
        return {**noisy, "noise_model": self._noise_model, **self._options}


def noisy_options(num_qubits: int) -> dict[str, object]:
    """Options of `AerSimulator` for a noisy circuit, where binding at run time gains nothing.

    Fusing neighbouring noisy gates doubles the speed for six qubits and costs some for four.
    """
    fusion = {"fusion_threshold": 1, "fusion_max_qubit": 2} if num_qubits >= 6 else {}
    return {"method": "density_matrix", "max_parallel_experiments": 0, **fusion}


def check_exact(options: Mapping[str, object], *, is_noisy: bool) -> None:
    """Refuse options of `AerSimulator` with which values would not be exact.

    Aer samples noise with every method but density matrices, and a matrix product state may be
    truncated: neither would show in the standard errors.

    Raises:
        ValueError: naming the method.
    """
    methods = NOISY_METHODS if is_noisy else EXACT_METHODS
    method = options.get("method", methods[0])
    if method not in methods:
        raise ValueError(
            f"method={method!r} of AerSimulator does not give exact values"
            f"{' under noise' if is_noisy else ''}; expected one of {', '.join(methods)}."
        )


def measured_qubits(observables: Iterable[dict[str, float]], num_qubits: int) -> list[int]:
    """Qubits on which some observable has a Z, ascending.

    Raises:
        EngineError: an observable has another Pauli or a projector.
    """
    strings = {string for observable in observables for string in observable}
    for string in strings:
        if set(string) - {"I", "Z"}:
            raise EngineError(
                f"This estimator measures products of Z only, got the observable {string!r}."
            )
    return [q for q in range(num_qubits) if any(string[-1 - q] == "Z" for string in strings)]


def _eigenvalues(observable: dict[str, float], measured: list[int]) -> Array:
    """(2**m,): of every outcome of the measured qubits."""
    outcome = np.arange(2 ** len(measured))
    total = np.zeros(len(outcome))
    for string, coefficient in observable.items():
        parity = np.zeros_like(outcome)
        for position, qubit in enumerate(measured):
            if string[-1 - qubit] == "Z":
                parity ^= outcome >> position & 1
        total += np.real(coefficient) * (1 - 2 * parity)
    return total


def _normalised(probabilities: Array) -> Array:
    """Without what rounding left below zero or over one in sum: NumPy refuses to draw from it."""
    clipped = np.maximum(probabilities, 0)
    return clipped / clipped.sum(axis=1, keepdims=True)
