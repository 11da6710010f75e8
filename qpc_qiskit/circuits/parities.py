"""Readout errors of parities, inverted exactly. Pure functions.

A Z-string is a product of Z on some qubits, held as a bit mask: qubit q is bit q. A readout that
reports qubit i wrongly with P(1|0) and P(0|1) turns its Z into `a_i Z_i + b_i` on average, with
a = 1 - P(1|0) - P(0|1) and b = P(0|1) - P(1|0), whatever the state. If the qubits err independently
that holds factor by factor, so with r_i the reported signs of one shot

    Z_S = E[ prod over i in S of (r_i - b_i) / a_i ]
        = sum over T in S of  prod over i in S-T of (-b_i) / prod over i in S of a_i  *  <r_T>

exactly: a parity is a combination of the *reported* parities of its subsets, all of which one
execution gives. Where b = 0 (equal errors, or flips that are averaged) only T = S is left. Every
subset of S is a symmetric difference of two, so the variance is a combination of the same parities:
the square of the bracket has the factors (1 + b_i**2 - 2 b_i r_i) / a_i**2.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from qiskit.quantum_info import SparsePauliOp

from qpc_qiskit.common.arrays import Array

_SMALLEST_CONTRAST = 1e-9


def make_z_string(mask: int, num_qubits: int, sign: int = 1) -> SparsePauliOp:
    """`sign` times the product of Z on the qubits that are bits of `mask`."""
    qubits = [q for q in range(num_qubits) if mask >> q & 1]
    return SparsePauliOp.from_sparse_list([("Z" * len(qubits), qubits, sign)], num_qubits)


def read_z_string(observable: SparsePauliOp) -> tuple[int, int]:
    """Mask and sign of what `make_z_string` makes.

    Raises:
        ValueError: it is no single product of Z with coefficient 1 or -1.
    """
    is_single = len(observable) == 1 and not observable.paulis.x.any()
    if not is_single or observable.coeffs[0] not in (1, -1):
        raise ValueError(
            "Expected one product of Z with coefficient 1 or -1, got "
            f"{' + '.join(f'({c:g}) {label}' for label, c in observable.to_list())}."
        )
    mask = sum(1 << int(q) for q in np.flatnonzero(observable.paulis.z[0]))
    return mask, int(observable.coeffs[0].real)


def readout_contrasts(confusions: ArrayLike) -> tuple[Array, Array]:
    """What each qubit's readout makes of Z on average: `a Z + b`.

    Args:
        confusions: (n, 2, 2) probabilities [true outcome, reported outcome].

    Returns:
        (n,) a; (n,) b.
    """
    matrices = np.asarray(confusions, np.float64)
    one_for_zero, zero_for_one = matrices[:, 0, 1], matrices[:, 1, 0]
    return 1 - one_for_zero - zero_for_one, zero_for_one - one_for_zero


def sub_parities(
    observables: Sequence[SparsePauliOp], b: ArrayLike | None = None
) -> tuple[SparsePauliOp, ...]:
    """The distinct Z-strings whose reported values `inversion` needs, without signs.

    Args:
        observables: signed Z-strings on n qubits.
        b: (n,) of `readout_contrasts`; None: not known, so every subset of every string, at most
            2**n - 1. With zeros fewer: only the strings themselves where all are zero.

    Returns:
        Ascending by mask; the empty string, which is 1, is not among them.
    """
    if not observables:
        return ()
    n = observables[0].num_qubits
    is_offset = np.ones(n, bool) if b is None else np.asarray(b, np.float64) != 0
    masks: set[int] = set()
    for observable in observables:
        whole, _ = read_z_string(observable)
        masks |= {t for t in _subsets(whole) if _counts(t, whole, is_offset)}
    return tuple(make_z_string(mask, n) for mask in sorted(masks - {0}))


@dataclass(frozen=True, eq=False)
class Inversion:
    """Features as a combination of S reported parities; see the module docstring."""

    matrix: Array
    """(m, S)."""
    offset: Array
    """(m,): features = evs @ matrix.T + offset."""
    square_matrix: Array
    """(m, S): of the mean squares of what one shot adds to a feature."""
    square_offset: Array
    """(m,)."""

    def features(self, evs: Array) -> Array:
        """Features (M, m) without readout error, of reported parities (M, S); not clipped."""
        return evs @ self.matrix.T + self.offset

    def stds_of_shots(self, evs: Array, shots: int) -> Array:
        """Standard errors (M, m) of the features if all parities come from the same shots.

        Exact but for taking the measured parities for the true ones, as every standard error does.
        """
        squares = evs @ self.square_matrix.T + self.square_offset
        return np.sqrt(np.maximum(squares - self.features(evs) ** 2, 0) / shots)

    def stds_bound(self, stds: Array) -> Array:
        """Upper bound (M, m) from the standard errors (M, S) of the parities alone.

        The sum of |coefficient| times standard error, which no correlation exceeds; for parities
        that were extrapolated or averaged before. NaN only where a parity that counts has NaN.
        """
        result = np.zeros((len(stds), len(self.matrix)))
        for q, row in enumerate(self.matrix):
            counts = row != 0
            result[:, q] = stds[:, counts] @ np.abs(row[counts])
        return result


def inversion(
    strings: Sequence[SparsePauliOp],
    targets: Sequence[SparsePauliOp],
    a: ArrayLike,
    b: ArrayLike,
) -> Inversion:
    """How features follow from reported parities.

    Args:
        strings: the S Z-strings that are measured, unsigned; `sub_parities(targets)` are enough.
        targets: the m features, signed Z-strings on the same qubits.
        a: per qubit, of `readout_contrasts`.
        b: per qubit, of `readout_contrasts`.

    Raises:
        ValueError: a qubit's readout tells nothing (a = 0), or a string that counts is missing.
    """
    scales, offsets = np.asarray(a, np.float64), np.asarray(b, np.float64)
    wanted = [read_z_string(target) for target in targets]
    for mask, _ in wanted:
        _check_contrasts(mask, scales, offsets)
    column = {mask: s for s, mask in enumerate(_unsigned(strings))}
    constant = len(column)  # the column of the empty string
    values = np.zeros((2, len(wanted), constant + 1))
    for row, (whole, sign) in enumerate(wanted):
        qubits = _bits(whole)
        for part in _subsets(whole):
            if not _counts(part, whole, offsets != 0):
                continue
            if part and part not in column:
                raise ValueError(
                    f"The parity of qubits {_bits(whole)} cannot be inverted without that of "
                    f"qubits {_bits(part)}, which is not measured; measure sub_parities(targets)."
                )
            inside = np.array([bool(part >> q & 1) for q in qubits], bool)
            at = column[part] if part else constant
            c, d = scales[qubits], offsets[qubits]
            values[0, row, at] += sign * np.prod(np.where(inside, 1, -d) / c)
            values[1, row, at] += np.prod(np.where(inside, -2 * d, 1 + d**2) / c**2)
    return Inversion(
        values[0, :, :constant], values[0, :, constant], values[1, :, :constant], values[1, :, -1]
    )


def _unsigned(strings: Iterable[SparsePauliOp]) -> Iterator[int]:
    for string in strings:
        mask, sign = read_z_string(string)
        if sign != 1:
            raise ValueError(f"A measured Z-string has no sign, got {string.to_list()}.")
        yield mask


def _check_contrasts(mask: int, a: Array, b: Array) -> None:
    for q in _bits(mask):
        if not (abs(a[q]) > _SMALLEST_CONTRAST and np.isfinite(a[q] + b[q])):
            raise ValueError(
                f"The readout of qubit {q} cannot be inverted: it turns Z into {a[q]:g} Z + "
                f"({b[q]:g}), which tells nothing of Z. Leave out the inversion, or use another "
                "qubit."
            )


def _bits(mask: int) -> list[int]:
    return [q for q in range(mask.bit_length()) if mask >> q & 1]


def _subsets(mask: int) -> Iterator[int]:
    """Every subset of a mask's bits, the empty one last."""
    part = mask
    while part:
        yield part
        part = (part - 1) & mask
    yield 0


def _counts(part: int, whole: int, is_offset: Array) -> bool:
    """Whether a subset is in a parity's value (all others have b) or its square (all have b)."""
    inside = all(is_offset[q] for q in _bits(part))
    return inside or all(is_offset[q] for q in _bits(whole & ~part))
