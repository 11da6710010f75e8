"""What is measured of one evaluation of a network under noise. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from qiskit import QuantumCircuit
from qiskit_aer.noise import NoiseModel

from qpc_qiskit.devices.readout import confusions_of_model
from qpc_qiskit.pauli.channels import GateErrors

Array = NDArray[np.float64]

MARGIN_EDGES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Of the bins by which flipped predictions are counted."""


@dataclass(frozen=True, eq=False)
class FeatureErrors:
    """How far the feature maps of a layer are from those without noise."""

    mse: float
    """Mean squared error over pixels and channels."""
    cosine: float
    """Of the vectors of all features of a pixel, mean over pixels; zero vectors left out."""
    scale: Array
    """(C,) of each channel: noisy = scale * ideal + shift, least squares; NaN where the ideal
    feature is constant up to rounding of the type that it was computed in."""
    shift: Array
    """(C,)."""
    qubit_rms: Array
    """(m,) root mean square error of each map of the circuits, which is Z of one qubit."""


def feature_errors(noisy: ArrayLike, ideal: ArrayLike, num_maps: int) -> FeatureErrors:
    """Compare features.

    Args:
        noisy: (N, C), channel c = k*m + j is map j of circuit k.
        ideal: (N, C).
        num_maps: m.
    """
    dtype = np.result_type(np.asarray(ideal).dtype, np.float32)
    found, known = np.asarray(noisy, np.float64), np.asarray(ideal, np.float64)
    error = (found - known) ** 2
    dots = (found * known).sum(axis=1)
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(known, axis=1)
    cosines = dots[lengths > 0] / lengths[lengths > 0]
    centered = known - known.mean(axis=0)
    spread = (centered**2).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        varies = np.sqrt(spread / len(known)) > _rounding(known, dtype)
        scale = np.where(varies, (centered * found).sum(axis=0) / spread, np.nan)
    by_channel = error.mean(axis=0)
    return FeatureErrors(
        float(error.mean()),
        float(cosines.mean()) if cosines.size else float("nan"),
        scale,
        found.mean(axis=0) - scale * known.mean(axis=0),
        np.array([np.sqrt(by_channel[j::num_maps].mean()) for j in range(num_maps)]),
    )


def _rounding(values: Array, dtype: np.dtype[Any]) -> float:
    """How far values that should be equal may differ: a hundred roundings of the largest one."""
    return 100 * float(np.finfo(dtype).eps) * float(np.abs(values).max(initial=0.0))


def margins(logits: ArrayLike) -> Array:
    """(N,) probability of the predicted class minus that of the second, from logits (N, C)."""
    array = np.asarray(logits, np.float64)
    powers = np.exp(array - array.max(axis=1, keepdims=True))
    ordered = np.sort(powers / powers.sum(axis=1, keepdims=True), axis=1)
    difference: Array = ordered[:, -1] - ordered[:, -2]
    return difference


def flips_by_margin(
    predictions: ArrayLike, ideal: ArrayLike, margin: ArrayLike
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Flipped predictions, and all, by the margin that the ideal network had.

    Args:
        predictions: (N,) classes.
        ideal: (N,) classes without noise.
        margin: (N,) of the ideal network, from 0 to 1.

    Returns:
        Counts of flips and of images, both (bins,), bins as in `MARGIN_EDGES`.
    """
    flipped = np.asarray(predictions) != np.asarray(ideal)
    bins = np.clip(
        np.digitize(np.asarray(margin, np.float64), MARGIN_EDGES[1:-1]), 0, len(MARGIN_EDGES) - 2
    )
    size = len(MARGIN_EDGES) - 1
    return np.bincount(bins[flipped], minlength=size), np.bincount(bins, minlength=size)


@dataclass(frozen=True)
class CircuitQuality:
    """What is expected of a circuit by its errors alone."""

    gate_fidelity: float
    """Product of the average gate fidelities of all errors of gates."""
    readout_fidelity: float
    """Product over measured qubits of the mean probability of a right report."""
    num_two_qubit_gates: int
    two_qubit_depth: int
    """Layers of them."""


def circuit_quality(
    circuit: QuantumCircuit, model: NoiseModel | None, measured: Sequence[int]
) -> CircuitQuality:
    """Estimate the fidelity of a circuit as the product of those of its errors.

    The average fidelity of an error on d = 2**k dimensions is (d F + 1) / (d + 1), F = Tr R / d**2
    of its Pauli-transfer matrix R (Nielsen, quant-ph/0205035).

    Args:
        circuit: as it is run; labels name errors as in Aer.
        model: of the noise; None: none.
        measured: qubits that are read out.
    """
    errors = GateErrors(NoiseModel() if model is None else model)
    fidelity = 1.0
    known: dict[int, float] = {}
    for instruction in circuit.data:
        operation = instruction.operation
        if operation.name == "barrier":
            continue
        qubits = tuple(circuit.find_bit(q).index for q in instruction.qubits)
        matrix = errors.after(operation.label or operation.name, qubits)
        if matrix is not None:
            if id(matrix) not in known:
                known[id(matrix)] = average_fidelity(matrix)
            fidelity *= known[id(matrix)]
    readout = 1.0
    if model is not None:
        for confusion in confusions_of_model(model, circuit.num_qubits)[list(measured)]:
            readout *= float(np.diag(confusion).mean())
    is_gate = [
        len(i.qubits) == 2 and i.operation.name != "barrier" and not _is_inserted(i.operation)
        for i in circuit.data
    ]
    flags = iter(is_gate)
    depth = circuit.depth(lambda _: next(flags))
    return CircuitQuality(fidelity, readout, sum(is_gate), depth)


def average_fidelity(transfer_matrix: ArrayLike) -> float:
    """Average gate fidelity of a channel from its Pauli-transfer matrix (4**k, 4**k)."""
    matrix = np.asarray(transfer_matrix, np.float64)
    dimension = round(np.sqrt(len(matrix)))
    return float((np.trace(matrix) / dimension + 1) / (dimension + 1))


def _is_inserted(operation: object) -> bool:
    """Whether it is a labelled identity that carries crosstalk."""
    label = getattr(operation, "label", None)
    return getattr(operation, "name", "") == "rzz" and bool(label)
