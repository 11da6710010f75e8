"""Noise as mitigation makes it: two-qubit errors twirled, or their gates folded. Pure functions.

What each means is told in `noise_models.study.mitigation`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from qiskit.circuit.library import get_standard_gate_name_mapping
from qiskit.quantum_info import PTM, Kraus, Pauli, SuperOp
from qiskit_aer.noise import NoiseModel, QuantumError, pauli_error

from noise_models.passes import InsertCrosstalk
from noise_models.snapshots import SnapshotBackend
from noise_models.study.words import Mitigation
from qpc_qiskit.devices.noise import CircuitNoise
from qpc_qiskit.errors import EngineError

StudiedNoise: TypeAlias = CircuitNoise | SnapshotBackend
Change = Callable[[str, QuantumError], QuantumError | None]
"""(label or name of the gate, its error) -> the error in its place."""

_ROUNDING = 1e-12


def twirled_error(error: QuantumError) -> QuantumError:
    """The average over all Pauli twirls: a Pauli error with the same diagonal of its PTM."""
    n = error.num_qubits
    diagonal = np.real(np.diag(PTM(SuperOp(error)).data))
    digits = [np.arange(4**n) >> 2 * q & 3 for q in range(n)]
    # Paulis anticommute where an odd number of their factors does: both are not I, and differ.
    differ = sum(
        (np.not_equal.outer(d, d) & np.logical_and.outer(d > 0, d > 0)).astype(int) for d in digits
    )
    probabilities = (1 - 2 * (differ % 2)) @ diagonal / 4**n
    probabilities = np.where(probabilities < _ROUNDING, 0, probabilities)
    probabilities /= probabilities.sum()
    labels = ["".join("IXYZ"[d[i]] for d in reversed(digits)) for i in range(4**n)]
    return pauli_error(
        [(Pauli(label), p) for label, p in zip(labels, probabilities, strict=True) if p]
    )


def folded_error(error: QuantumError, gate: str, scale: int) -> QuantumError:
    """What follows one gate where it is run `scale` times, each time with its error.

    Args:
        error: of the gate, on its qubits.
        gate: name of one that is its own inverse.
        scale: odd.

    Raises:
        EngineError: the gate is not its own inverse.
    """
    ideal = SuperOp(get_standard_gate_name_mapping()[gate])
    once = SuperOp(error)
    if not np.allclose((ideal @ ideal).data, np.eye(16)):
        raise EngineError(f"{gate!r} is not its own inverse, so folding needs other gates.")
    total = once
    for _ in range((scale - 1) // 2):
        # A @ B acts with B first: after the gate E, then G E G with G's next run, then E.
        total = once @ (ideal @ (once @ ideal)) @ total
    return QuantumError(Kraus(total))


def changed_model(model: NoiseModel, change: Change) -> NoiseModel:
    """A model with other errors of its gates; measurement and readout errors stay.

    Args:
        model: is not modified.
        change: is asked once for each error; None: the error is left out.
    """
    result = NoiseModel(basis_gates=model.basis_gates)
    for name, error in model._default_quantum_errors.items():
        if (found := change(name, error)) is not None:
            result.add_all_qubit_quantum_error(found, name)
    for name, places in model._local_quantum_errors.items():
        for qubits, error in places.items():
            if (found := change(name, error)) is not None:
                result.add_quantum_error(found, name, qubits, warnings=False)
    if model._default_readout_error is not None:
        result.add_all_qubit_readout_error(model._default_readout_error)
    for qubits, error in model._local_readout_errors.items():
        result.add_readout_error(error, qubits, warnings=False)
    return result


def _twirl(name: str, error: QuantumError) -> QuantumError:
    return twirled_error(error) if error.num_qubits == 2 else error


def _fold(scale: int) -> Change:
    def change(name: str, error: QuantumError) -> QuantumError:
        return folded_error(error, _gate_of(name), scale) if error.num_qubits == 2 else error

    return change


def _gate_of(label: str) -> str:
    """Name of the gate that a label stands for, see `noise_models.passes.LabelStages`."""
    return label.rpartition(".")[2]


class _ChangedBackend(SnapshotBackend):
    """A snapshot whose noise is changed after it was read; circuits are placed as on the device."""

    def __init__(self, noise: SnapshotBackend, change: Change) -> None:
        super().__init__(noise.snapshot)
        self._noise, self._change = noise, change

    def noise_of_qubits(self, qubits: Sequence[int]) -> NoiseModel:
        """See `SnapshotBackend`."""
        return changed_model(self._noise.noise_of_qubits(qubits), self._change)


def _changed(noise: StudiedNoise, change: Change) -> StudiedNoise:
    if isinstance(noise, SnapshotBackend):
        return _ChangedBackend(noise, change)
    return replace(noise, model=changed_model(noise.model, change))


def twirled(noise: StudiedNoise) -> StudiedNoise:
    """The noise with its two-qubit errors twirled, exactly averaged."""
    return _changed(noise, _twirl)


def folded(noise: StudiedNoise, scale: int) -> StudiedNoise:
    """The noise of circuits whose two-qubit gates are run `scale` times, see the module.

    Raises:
        EngineError: it has crosstalk: folded gates make other moments, hence another circuit.
    """
    if scale == 1:
        return noise
    if isinstance(noise, CircuitNoise) and any(
        isinstance(each, InsertCrosstalk) for each in noise.passes
    ):
        raise EngineError("zne cannot fold crosstalk, whose moments change with the gates.")
    return _changed(noise, _fold(scale))


def problem_of_mitigation(mitigation: Mitigation, noise: StudiedNoise) -> str | None:
    """Why a mitigation can do nothing about a noise, in words; None: it can."""
    if isinstance(noise, CircuitNoise) and noise.model.is_ideal():
        return "there is no noise" if mitigation.parts else None
    if isinstance(noise, SnapshotBackend):
        return None  # a device has errors of every kind
    model = noise.model
    errors = [*model._default_quantum_errors.items()]
    errors += [(name, e) for name, at in model._local_quantum_errors.items() for e in at.values()]
    two = [error for _, error in errors if error.num_qubits == 2]
    has_readout = model._default_readout_error is not None or bool(model._local_readout_errors)
    if mitigation.readout and not has_readout:
        return "it has no readout error"
    if mitigation.twirls and not any(_is_no_pauli_error(error) for error in two):
        return "it has no errors of two-qubit gates but Pauli errors"
    if mitigation.extrapolates:
        if not two:
            return "it has no error of two-qubit gates, which are those that are folded"
        if any(isinstance(each, InsertCrosstalk) for each in noise.passes):
            return "crosstalk cannot be folded"
    return None


def _is_no_pauli_error(error: QuantumError) -> bool:
    matrix = np.real(PTM(SuperOp(error)).data)
    return bool(np.abs(matrix - np.diag(np.diag(matrix))).max() > _ROUNDING)
