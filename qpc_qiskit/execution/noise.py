"""What of an Aer noise model concerns a circuit: how it measures, and whether it acts at all."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit import QuantumCircuit
from qiskit_aer.noise import NoiseModel

from qpc_qiskit.errors import EngineError


@dataclass(frozen=True, eq=False)
class MeasurementNoise:
    """What a noise model does when a qubit is measured."""

    everywhere: NDArray[np.float64] | None
    """(2, 2) readout confusion [true outcome, reported outcome] of qubits without one of their own;
    None: no error."""
    local: dict[int, NDArray[np.float64]]
    """The same by qubit."""
    has_errors_before: bool
    """Whether quantum errors come before the readout (errors on `measure`)."""

    def confusion(self, qubit: int) -> NDArray[np.float64] | None:
        """(2, 2) of a qubit, None without readout error."""
        return self.local.get(qubit, self.everywhere)


def measurement_noise(noise_model: NoiseModel) -> MeasurementNoise:
    """Readout and measurement errors of a model.

    Raises:
        EngineError: the model has a readout error of several qubits together.
    """
    everywhere: NDArray[np.float64] | None = None
    local: dict[int, NDArray[np.float64]] = {}
    before = False
    for error in _errors(noise_model):
        if error["type"] != "roerror":
            before |= "measure" in error["operations"]
            continue
        matrix = np.asarray(error["probabilities"], np.float64)
        if matrix.shape != (2, 2):
            raise EngineError(
                "The noise model has a readout error of several qubits together; only readout "
                "errors of single qubits are supported."
            )
        if "gate_qubits" in error:
            local |= {int(qubits[0]): matrix for qubits in error["gate_qubits"]}
        else:
            everywhere = matrix
    return MeasurementNoise(everywhere, local, before)


def check_acts(noise_model: NoiseModel, circuit: QuantumCircuit, measured: Iterable[int]) -> None:
    """Refuse a model that does nothing to a circuit.

    Warns where a gate has errors on other qubits only: then the circuit is less noisy than meant.

    Args:
        noise_model: as Aer will see it.
        circuit: in the gates that Aer will run.
        measured: qubits that are read out.

    Raises:
        EngineError: no gate and no measurement of the circuit has an error.
    """
    if noise_model.is_ideal():
        return
    anywhere: set[str] = set()
    local: dict[str, set[tuple[int, ...]]] = {}
    for error in _errors(noise_model):
        for name in error["operations"]:
            if "gate_qubits" in error:
                places = {tuple(int(q) for q in qubits) for qubits in error["gate_qubits"]}
                local.setdefault(name, set()).update(places)
            else:
                anywhere.add(name)
    found: dict[str, list[tuple[int, ...]]] = {"measure": [(q,) for q in measured]}
    for instruction in circuit.data:
        operation = instruction.operation
        qubits = tuple(circuit.find_bit(q).index for q in instruction.qubits)
        found.setdefault(operation.label or operation.name, []).append(qubits)
    noisy = {
        name: sum(name in anywhere or qubits in local.get(name, ()) for qubits in places)
        for name, places in found.items()
    }
    if not any(noisy.values()):
        raise EngineError(
            f"The noise model has errors on {', '.join(sorted(anywhere | set(local)))}, of which "
            f"the circuit has none at the places given: it holds {', '.join(sorted(found))} on "
            f"qubits 0 to {circuit.num_qubits - 1}. Put the errors on these gates, or give the "
            "model basis_gates that it has errors on."
        )
    for name, on in found.items():
        if name in local and noisy[name] < len(on):
            warnings.warn(
                f"{len(on) - noisy[name]} of {len(on)} {name!r} of the circuit have no "
                f"error: the noise model has errors on {name!r} for other qubits only. For the "
                "noise of a device give the device itself as noise_model.",
                UserWarning,
                stacklevel=2,
            )


def _errors(noise_model: NoiseModel) -> list[dict[str, Any]]:
    return noise_model.to_dict()["errors"]
