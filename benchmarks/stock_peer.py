"""The stock `TorchConnector(EstimatorQNN)` of one kernel, and a primitive that counts.

Its inputs are the encoder's angles and computing them is not timed; one observable per qubit;
parameter-shift gradients of the weights only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from qiskit.primitives import BaseEstimatorV2
from qiskit.primitives.containers.estimator_pub import EstimatorPub
from qiskit_machine_learning.connectors import TorchConnector
from qiskit_machine_learning.gradients import ParamShiftEstimatorGradient
from qiskit_machine_learning.neural_networks import EstimatorQNN

from benchmarks.workload import Workload
from qpc_qiskit.circuits.encoder import make_encoder
from qpc_qiskit.circuits.observables import pauli_z


@dataclass(frozen=True)
class Counts:
    """What an estimator was asked for."""

    jobs: int
    pubs: int
    executions: int
    """Rows of all PUBs."""


class SpyingEstimator(BaseEstimatorV2):
    """Counts what passes through to another estimator."""

    def __init__(self, estimator: BaseEstimatorV2) -> None:
        self.estimator = estimator
        self._jobs = self._pubs = self._executions = 0

    def run(self, pubs, *, precision=None):
        pubs = [EstimatorPub.coerce(pub, precision) for pub in pubs]
        self._jobs += 1
        self._pubs += len(pubs)
        self._executions += sum(pub.parameter_values.size for pub in pubs)
        return self.estimator.run(pubs, precision=precision)

    def counts(self, call) -> Counts:
        """Of one call."""
        jobs, pubs, executions = self._jobs, self._pubs, self._executions
        call()
        return Counts(self._jobs - jobs, self._pubs - pubs, self._executions - executions)


def stock_layer(work: Workload, kernel: int, estimator: BaseEstimatorV2) -> TorchConnector:
    """The stock layer of one of our kernels, with its weights."""
    network = EstimatorQNN(
        circuit=work.layer.circuit(),
        estimator=estimator,
        observables=list(pauli_z(work.qubits)),
        input_params=make_encoder("multiplexor", work.qubits).parameters,
        weight_params=work.spec.ansatz.parameters,
        gradient=ParamShiftEstimatorGradient(estimator),
        default_precision=0.0,  # its default adds noise of 1/64
    )
    return TorchConnector(network, initial_weights=work.layer.weight[kernel].detach().numpy())


def stock_inputs(work: Workload, kernel: int, pixels: torch.Tensor) -> torch.Tensor:
    """What the stock layer gets for pixels: encoder angles, float32."""
    inputs = make_encoder("multiplexor", work.qubits).parameters
    values = work.layer.parameter_values(pixels, kernel)
    columns = {parameter: i for i, parameter in enumerate(work.layer.circuit().parameters)}
    return torch.from_numpy(values[:, [columns[p] for p in inputs]]).float()
