"""Extras of the package, and what to say where one is not installed.

A room that needs an extra says so itself: `importing` around its imports, `require` where a command
or a name asks for the room, before anything slow is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from qpc_qiskit.common.versions import package_version
from qpc_qiskit.errors import MissingExtra

EXTRAS: dict[str, dict[str, str]] = {
    "ibm": {"qiskit_ibm_runtime": "qiskit-ibm-runtime", "tenacity": "tenacity"},
    "train": {
        "jinja2": "jinja2",
        "lightning": "lightning",
        "matplotlib": "matplotlib",
        "pylatexenc": "pylatexenc",
        "sklearn": "scikit-learn",
    },
    "runs": {
        "alembic": "alembic",
        "jinja2": "jinja2",
        "matplotlib": "matplotlib",
        "sqlalchemy": "sqlalchemy",
        "tenacity": "tenacity",
    },
    "postgres": {"psycopg": "psycopg"},
    "studies": {
        "jinja2": "jinja2",
        "matplotlib": "matplotlib",
        "pandas": "pandas",
        "pyarrow": "pyarrow",
        "sklearn": "scikit-learn",
    },
    "cluster": {"dask": "dask", "distributed": "distributed"},
}
"""Extra -> what is imported -> what is installed for it."""


def require(extra: str, what: str) -> None:
    """Check that an extra is installed; nothing of it is imported.

    Args:
        extra: its name.
        what: needs it; begins the message.

    Raises:
        MissingExtra: a package of it is not there.
    """
    for module, package in EXTRAS[extra].items():
        if find_spec(module) is None:
            raise MissingExtra(_message(extra, what, package))


@contextmanager
def importing(extra: str, what: str) -> Iterator[None]:
    """Tell imports of an extra's packages that fail as one sentence; see `require`.

    Raises:
        MissingExtra: a package is not there, or in a version that lacks what is imported.
    """
    try:
        yield
    except ImportError as error:
        package = EXTRAS[extra].get((error.name or "").partition(".")[0])
        if package is None:
            raise
        told = package
        if not isinstance(error, ModuleNotFoundError) or "." in str(error.name):
            told = f"{package} in another version than {package_version(package)}"
        raise MissingExtra(_message(extra, what, told)) from error


def _message(extra: str, what: str, package: str) -> str:
    return f"{what} needs {package}. Install it: pip install 'qpc-qiskit[{extra}]'"
