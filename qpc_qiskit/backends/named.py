"""Backends by name: `aer`, IBM's and their snapshots, and those that other packages offer.

Another package offers a backend by an entry point of the group `qpc_qiskit.backends`: its name is
what a user writes, its object is called without arguments and gives a `BackendV2`. What is offered
is read from the packages' metadata; code of theirs runs when such a name is given, and not before.
"""

from __future__ import annotations

import difflib
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from qpc_qiskit.common.extras import require
from qpc_qiskit.errors import BackendError

if TYPE_CHECKING:
    from qiskit.providers import BackendV2

AER = "aer"
OF_IBM = ("fake_", "ibm_")
"""Begin the names that IBM's client knows."""
GROUP = "qpc_qiskit.backends"


def offers() -> dict[str, tuple[EntryPoint, ...]]:
    """What other packages offer, by name; nothing of it is loaded.

    Names that are ours are left out: they never lead to another package.
    """
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        if point.name != AER and not point.name.startswith(OF_IBM):
            found.setdefault(point.name, []).append(point)
    return {name: tuple(found[name]) for name in sorted(found)}


def check_extra(name: str, what: str = "Backend") -> None:
    """Check that what finds a backend is installed; nothing is loaded.

    Args:
        name: of the backend.
        what: it is, for the message.

    Raises:
        MissingExtra: it is one of IBM's, and IBM's client is not installed.
    """
    if name.startswith(OF_IBM):
        require("ibm", f"{what} {name!r}")


def find_backend(
    name: str, *, service: Any = None, use_fractional_gates: bool = False
) -> BackendV2:
    """A backend by its name, which is not `aer`.

    Args:
        name: a snapshot (`fake_torino`), one of IBM's devices (`ibm_torino`), or what another
            package offers.
        service: for `ibm_...`; None: that of the client's saved account or environment.
        use_fractional_gates: for `ibm_...`.

    Raises:
        BackendError: unknown name, no access to it, or another package's code failed.
        MissingExtra: it is one of IBM's, and IBM's client is not installed.
    """
    check_extra(name)
    if name.startswith("ibm_"):
        from qpc_qiskit.backends.runtime import ibm_backend

        return ibm_backend(name, service, use_fractional_gates)
    if name.startswith("fake_"):
        from qpc_qiskit.backends.runtime import fake_devices

        known = fake_devices()
        if name in known:
            return known[name]()
    points = offers().get(name, ())
    if len(points) > 1:
        raise BackendError(
            f"Backend {name!r} is offered by several packages: {offerers(points)}. Uninstall all "
            "but one of them."
        )
    return _opened(points[0]) if points else _unknown(name)


def offerers(points: tuple[EntryPoint, ...]) -> str:
    """Which packages offer a name, and what of theirs would be called."""
    return ", ".join(
        f"{point.dist.name if point.dist else '?'} ({point.value})" for point in points
    )


def _opened(point: EntryPoint) -> BackendV2:
    from qiskit.providers import BackendV2

    where = f"Backend {point.name!r} of {offerers((point,))}"
    try:
        found = point.load()()
    except Exception as error:  # whatever another package raises
        raise BackendError(f"{where} cannot be opened: {type(error).__name__}: {error}") from error
    if not isinstance(found, BackendV2):
        raise BackendError(
            f"{where}: expected a qiskit BackendV2 from the call, got {type(found).__name__}."
        )
    return found


def _unknown(name: str) -> BackendV2:
    known = list(offers())
    others = f", one of other packages ({', '.join(known)})" if known else ""
    try:
        from qpc_qiskit.backends.runtime import fake_devices

        known += fake_devices()
    except ImportError:  # without IBM's client there are no snapshots to mean
        pass
    near = difflib.get_close_matches(name, known, cutoff=0.75) or difflib.get_close_matches(
        f"fake_{name.removeprefix('fake_')}", known, cutoff=0.75
    )
    hint = f" Did you mean {', '.join(near)}?" if near else ""
    raise BackendError(
        f"Unknown backend {name!r}; expected 'aer', a fake device such as 'fake_torino'{others}, "
        f"or 'ibm_...'.{hint} `qpc backends` lists them."
    )


def is_fake(backend: BackendV2) -> bool:
    """Whether it is a snapshot, to be simulated here."""
    if not _is_of_client(backend):
        return False
    from qpc_qiskit.backends import runtime

    return runtime.is_fake(backend)


def is_ibm(backend: BackendV2) -> bool:
    """Whether jobs go to IBM's service."""
    if not _is_of_client(backend):
        return False
    from qpc_qiskit.backends import runtime

    return runtime.is_ibm(backend)


def _is_of_client(backend: BackendV2) -> bool:
    """Whether its class is of IBM's client, which need not be loaded, nor there, for any other."""
    return any(kind.__module__.startswith("qiskit_ibm_runtime") for kind in type(backend).__mro__)
