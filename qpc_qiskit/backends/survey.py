"""What devices there are, and what a layer would look like on them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from qiskit.providers import BackendV2
from qiskit.transpiler import Target

from qpc_qiskit.backends.destinations import calibration_time, device_cost, embedded
from qpc_qiskit.backends.named import AER, find_backend, offerers, offers
from qpc_qiskit.circuits.ansatz import make_ansatz
from qpc_qiskit.circuits.encoder import make_encoder
from qpc_qiskit.common.extras import require
from qpc_qiskit.devices.isa import faulty
from qpc_qiskit.devices.targets import BROKEN, read_device
from qpc_qiskit.errors import BackendError
from qpc_qiskit.rows.pubs import make_template

SIZES = range(2, 8)
"""Qubits of the layers that `best_patches` lays on a device."""
NUM_LAYERS = 3
"""Blocks of their ansatz, strongly_entangling."""
EXECUTIONS, SHOTS = 1000, 1024
"""What their QPU time is predicted for, as one job."""


@dataclass(frozen=True)
class DeviceSummary:
    """A device on a line."""

    name: str
    """Of the backend."""
    num_qubits: int | None = None
    """None: as many as memory holds."""
    num_usable_qubits: int | None = None
    """Those with working gates and a working measurement."""
    one_qubit_gates: tuple[str, ...] = ()
    """That most of its qubits have."""
    two_qubit_gates: tuple[str, ...] = ()
    """That most of its couplings have; none where no two-qubit gate works."""
    median_two_qubit_error: float | None = None
    """Of those that work; None: it does not tell."""
    median_readout_error: float | None = None
    """Of those that work; None: it does not tell."""
    calibration_time: str | None = None
    """ISO 8601, in UTC; None: it does not tell."""
    note: str | None = None
    """What the IBM client warns of, or why nothing is told."""


@dataclass(frozen=True)
class PatchSummary:
    """The best place on a device for a layer of the default kind."""

    num_qubits: int
    """Of the layer."""
    qubits: tuple[int, ...] | None = None
    """Of the device; None: there is no place."""
    num_two_qubit_gates: int | None = None
    """Of the circuit as sent."""
    two_qubit_depth: int | None = None
    """Layers of them."""
    fidelity: float | None = None
    """Predicted for the circuit, readout included."""
    qpu_seconds: float | None = None
    """Predicted for `EXECUTIONS` of `SHOTS`; None: the device does not tell durations."""
    problem: str | None = None
    """Why there is no place."""


AER_SUMMARY = DeviceSummary(AER, note="Simulator of Qiskit Aer: no noise unless it is given some.")


def offered_summaries() -> list[DeviceSummary]:
    """What other packages offer; their code is not run, so that nothing is known of the devices."""
    told = []
    for name, points in offers().items():
        note = f"Offered by {offerers(points)}"
        told.append(DeviceSummary(name, note=note + "; it must be one." * (len(points) > 1)))
    return told


def fake_summaries() -> Iterator[DeviceSummary]:
    """The snapshots of devices that come with IBM's client, one by one: some seconds for all.

    Raises:
        MissingExtra: IBM's client is not installed.
    """
    require("ibm", "Every `fake_...` and `ibm_...` backend")
    from qpc_qiskit.backends import runtime

    for kind in runtime.fake_devices().values():
        yield _noted(kind)


def find_summary(name: str) -> tuple[DeviceSummary, BackendV2 | None]:
    """A device by name, and the device itself; None for `aer`, which is none.

    Raises:
        BackendError: unknown name, or no access to it.
    """
    if name == AER:
        return AER_SUMMARY, None
    found: list[BackendV2] = []

    def find() -> BackendV2:
        found.append(find_backend(name))
        return found[0]

    return _noted(find), found[0]


def ibm_summaries() -> list[DeviceSummary]:
    """The devices of the saved account; the note of one that cannot be described says why.

    Raises:
        BackendError: no account, or no access.
    """
    from qpc_qiskit.backends import runtime

    def summary(backend: BackendV2) -> DeviceSummary:
        try:
            runtime.read_target(backend)
        except BackendError as error:
            return DeviceSummary(backend.name, note=str(error))
        return summarise(backend)

    return [summary(backend) for backend in runtime.ibm_backends()]


def summarise(backend: BackendV2, note: str | None = None) -> DeviceSummary:
    """A device on a line."""
    target = backend.target
    bad_qubits, bad_edges = faulty(backend)
    device = read_device(target, backend.num_qubits, bad_qubits, bad_edges)
    widths = {name: target.operation_from_name(name).num_qubits for name in device.gates}
    couplers = tuple(name for name, width in widths.items() if width == 2)
    return DeviceSummary(
        name=backend.name,
        num_qubits=backend.num_qubits,
        num_usable_qubits=int(device.usable.sum()),
        one_qubit_gates=tuple(name for name, width in widths.items() if width == 1),
        two_qubit_gates=couplers,
        median_two_qubit_error=_median_error(target, couplers),
        median_readout_error=_median_error(target, ["measure"]),
        calibration_time=calibration_time(backend),
        note=note,
    )


def best_patches(backend: BackendV2, sizes: Iterable[int] = SIZES) -> Iterator[PatchSummary]:
    """The best patch for a layer of each size, up to the first that has no place.

    The layers are the default ones: multiplexor, then strongly_entangling of three blocks. Each
    takes a second or several; they are kept in the cache of placements.

    Args:
        backend: the device.
        sizes: ascending.
    """
    for size in sizes:
        found = best_patch(backend, size)
        yield found
        if found.problem is not None:
            return


def best_patch(backend: BackendV2, num_qubits: int) -> PatchSummary:
    """The best patch for a layer of the default kind."""
    ansatz = make_ansatz("strongly_entangling", num_qubits, NUM_LAYERS)
    template = make_template(make_encoder("multiplexor", num_qubits), ansatz)
    try:
        prepared = embedded(template, backend)
    except BackendError as error:
        return PatchSummary(num_qubits, problem=str(error))
    placement = prepared.placement
    assert placement is not None
    return PatchSummary(
        num_qubits,
        qubits=placement.patch.qubits,
        num_two_qubit_gates=placement.num_two_qubit_gates,
        two_qubit_depth=placement.two_qubit_depth,
        fidelity=placement.patch.fidelity,
        qpu_seconds=device_cost(prepared, SHOTS, SHOTS).seconds(EXECUTIONS),
    )


def _noted(make: Callable[[], BackendV2]) -> DeviceSummary:
    """A summary of what is made; what the client warns of meanwhile is its note."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = summarise(make())
    notes = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    return found if not notes else DeviceSummary(**{**vars(found), "note": " ".join(notes)})


def _median_error(target: Target, names: Iterable[str]) -> float | None:
    """Over all places of some operations that work and tell their error."""
    told = [
        properties.error
        for name in names
        if name in target.operation_names
        for properties in (target[name] or {}).values()
        if properties is not None and properties.error is not None and properties.error < BROKEN
    ]
    return float(np.median(told)) if told else None
