"""Versions of what results depend on."""

import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version

_LIBRARIES = (
    "numpy",
    "torch",
    "lightning",
    "qiskit",
    "qiskit-aer",
    "qiskit-ibm-runtime",
    "qiskit-machine-learning",
    "scikit-learn",
)


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that results depend on."""
    return dict(_library_versions())


@cache
def _library_versions() -> dict[str, str]:
    """Looked up once: it takes ten milliseconds."""
    return {
        "python": sys.version.split()[0],
        **{name: package_version(name) for name in _LIBRARIES},
    }


def package_version(package: str) -> str:
    """Version of an installed package, or "not installed"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
