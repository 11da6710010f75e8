"""Readout errors of a backend's qubits, and what is measured so that parities are free of them.

A parity is read wrongly if an odd number of its qubits is. Where the two outcomes of a qubit err
differently, what is reported mixes parities of subsets, which no calibration line undoes: so these
are measured as well, in the same executions, and the readout is inverted (`parities`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from qiskit.providers import BackendV2
from qiskit.quantum_info import SparsePauliOp
from qiskit_aer.noise import NoiseModel

from qpc_qiskit.circuits.parities import Inversion, inversion, readout_contrasts, sub_parities
from qpc_qiskit.common.arrays import Array
from qpc_qiskit.devices.noise import measurement_noise


def confusions_of_model(noise: NoiseModel, num_qubits: int) -> Array:
    """Of the qubits of a simulation: (n, 2, 2) probabilities [true outcome, reported outcome]."""
    told = measurement_noise(noise)
    found = [told.confusion(qubit) for qubit in range(num_qubits)]
    return np.stack([np.eye(2) if each is None else each for each in found])


def confusions_of_device(
    backend: BackendV2, patches: Sequence[Sequence[int]]
) -> list[Array | None]:
    """Of a device's qubits, patch by patch: (n, 2, 2), see `confusions_of_model`.

    Taken from its calibration, which knows both outcomes; else from its target, which has one error
    for both. None for a patch where it tells none.
    """
    properties = getattr(backend, "properties", None)
    told = getattr(properties() if callable(properties) else None, "qubit_property", None)
    errors = backend.target.get("measure", None) or {}

    def confusion(qubit: int) -> list[list[float]] | None:
        known = {} if told is None else told(qubit)
        if "prob_meas1_prep0" in known and "prob_meas0_prep1" in known:
            one_for_zero, zero_for_one = (
                float(known[name][0]) for name in ("prob_meas1_prep0", "prob_meas0_prep1")
            )
        else:
            error = getattr(errors.get((qubit,)), "error", None)
            if error is None:
                return None
            one_for_zero = zero_for_one = float(error)
        return [[1 - one_for_zero, one_for_zero], [zero_for_one, 1 - zero_for_one]]

    found = [[confusion(qubit) for qubit in qubits] for qubits in patches]
    return [None if None in each else np.array(each) for each in found]


def has_parity(targets: Sequence[SparsePauliOp]) -> bool:
    """Whether a feature is measured on several qubits."""
    return any(int(target.paulis.z.sum()) > 1 for target in targets)


def measured_strings(
    targets: Sequence[SparsePauliOp], confusions: Sequence[Array | None]
) -> tuple[tuple[SparsePauliOp, ...], tuple[Inversion, ...]]:
    """What is measured on every patch, and how the features of each follow from it.

    Args:
        targets: the features, signed Z-strings on the wires of a patch.
        confusions: (n, 2, 2) of the wires, for each patch; None: not known.

    Returns:
        The same strings for all patches; an inversion for each, or none where the features are
        single qubits, whose readout a line describes, or where a readout is not known.
    """
    known = [each for each in confusions if each is not None]
    if not has_parity(targets) or len(known) < len(confusions):
        return tuple(targets), ()
    contrasts = [readout_contrasts(each) for each in known]
    offsets = np.abs([b for _, b in contrasts]).max(axis=0)
    strings = sub_parities(targets, offsets)
    return strings, tuple(inversion(strings, targets, a, b) for a, b in contrasts)
