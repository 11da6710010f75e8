"""Checks of single values that a user gives."""

import operator
from typing import SupportsIndex


def positive_integer(name: str, value: SupportsIndex) -> int:
    """`value` as an int of at least 1 (NumPy integers included, booleans not).

    Raises:
        ValueError: it is none; the message says `name`.
    """
    if not isinstance(value, bool):
        try:
            if (number := operator.index(value)) >= 1:
                return number
        except TypeError:
            pass
    raise ValueError(f"{name} must be a positive integer, got {value!r}.")
