"""Parameters that only `make test-all` runs: see the marker `slow` in pyproject.toml."""

import pytest


def thorough(*values):
    """A tuple holds the values of one row of several parameters."""
    return [
        pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.slow)
        for value in values
    ]


def thorough_if(is_thorough, values):
    """All of the values, in their order; those of which the function holds are `thorough`."""
    return [thorough(value)[0] if is_thorough(value) else value for value in values]
