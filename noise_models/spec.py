"""Noise as one word on a command line: `fake_torino`, or `depolarizing:0.01`."""

from __future__ import annotations

from collections.abc import Callable

from qiskit_aer.noise import NoiseModel, depolarizing_error

EXPECTED = "a device's name such as fake_torino, or depolarizing:P with a probability P"


def parse_noise(spec: str) -> NoiseModel | str:
    """The noise that a word stands for.

    Args:
        spec: `depolarizing:0.01`; or the name of a device, `fake_...` or `ibm_...`, which is
            returned as it is: whoever looks devices up knows which there are.

    Raises:
        ValueError: neither, or a probability that is none.

    Example:
        >>> parse_noise("depolarizing:0.01").noise_instructions
        ['cx', 'sx', 'x']
    """
    kind, colon, value = spec.partition(":")
    if not colon and kind.startswith(("fake_", "ibm_")):
        return kind
    if not colon or kind not in KINDS:
        hint = f" A probability belongs to it: {kind}:0.01." if kind in KINDS else ""
        raise ValueError(f"Unknown noise {spec!r}; expected {EXPECTED}.{hint}")
    return KINDS[kind](_probability(spec, value))


def depolarizing(probability: float) -> NoiseModel:
    """Depolarizing noise after every gate, the same for one and two qubits.

    Gates are those of the basis {rz, sx, x, cx}; rz is virtual, as on IBM's devices, and has no
    error. Readout is perfect.

    Args:
        probability: with which a gate's qubits are replaced by the maximally mixed state: the
            parameter of `qiskit_aer.noise.depolarizing_error`, after sx, x and cx alike. The
            average gate infidelity is half of it for one qubit, 3/4 of it for two.
    """
    model = NoiseModel(basis_gates=["rz", "sx", "x", "cx"])
    model.add_all_qubit_quantum_error(depolarizing_error(probability, 1), ["sx", "x"])
    model.add_all_qubit_quantum_error(depolarizing_error(probability, 2), ["cx"])
    return model


KINDS: dict[str, Callable[[float], NoiseModel]] = {"depolarizing": depolarizing}
"""Name before the colon -> what makes a model of the number behind it."""


def _probability(spec: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:  # NaN, too
        raise ValueError(f"Noise {spec!r}: expected a probability from 0 to 1, got {text!r}.")
    return value
