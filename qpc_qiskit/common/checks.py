"""Checks of single values that a user gives."""

import operator
from typing import SupportsIndex


def positive_integer(name: str, value: SupportsIndex) -> int:
    """`value` as an int of at least 1 (NumPy integers included, booleans not).

    Raises:
        ValueError: it is none; the message says `name`.
    """
    return _integer(name, value, 1, "a positive integer, got")


def number_of_qubits(name: str, value: SupportsIndex) -> int:
    """The same of at least 0."""
    return _integer(name, value, 0, "a number of qubits, 0 or more; got")


def _integer(name: str, value: SupportsIndex, least: int, expected: str) -> int:
    if not isinstance(value, bool):
        try:
            if (number := operator.index(value)) >= least:
                return number
        except TypeError:
            pass
    raise ValueError(f"{name} must be {expected} {value!r}.")
