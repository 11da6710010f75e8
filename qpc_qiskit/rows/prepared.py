"""A template as it is sent: on no device, on one patch of it, or on many patches at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from qiskit import QuantumCircuit
from qiskit.circuit import Parameter

from qpc_qiskit.circuits.parities import Inversion
from qpc_qiskit.devices.forecast import ShotTimes
from qpc_qiskit.devices.patches import Placement, embed_observables
from qpc_qiskit.rows.pubs import Template


@dataclass(frozen=True, eq=False)
class Prepared:
    """A template as it is sent."""

    parts: tuple[Template, ...]
    """On the wires of each patch."""
    placements: tuple[Placement, ...] = ()
    """Where each part stands; empty where the circuit is not laid on a device."""
    times: ShotTimes | None = None
    """Of a shot on the device; None: not known, or no device."""
    width: int | None = None
    """Qubits of the device's circuit; None: it is simulated, on the wires of the parts alone."""
    inversions: tuple[Inversion, ...] = ()
    """How the features of each part follow from what is measured; empty: they are the same."""

    @property
    def num_patches(self) -> int:
        """Rows that an execution evaluates."""
        return len(self.parts)

    @property
    def placement(self) -> Placement | None:
        """Of the first, best patch."""
        return self.placements[0] if self.placements else None

    @cached_property
    def template(self) -> Template:
        """The circuit that is sent, with the parameters and observables of all patches."""
        if self.width is not None:
            return side_by_side(self.parts, [p.patch.qubits for p in self.placements], self.width)
        if len(self.parts) == 1:
            return self.parts[0]
        n = self.parts[0].circuit.num_qubits
        places = [range(j * n, (j + 1) * n) for j in range(len(self.parts))]
        return side_by_side(self.parts, places, n * len(self.parts))

    def only(self, patch: int) -> Prepared:
        """One of the parts, to be simulated."""
        return replace(self.subset([patch]), width=None)

    def subset(self, patches: Sequence[int]) -> Prepared:
        """Some of the parts, where they are."""

        def kept(each: Sequence[Any]) -> tuple[Any, ...]:
            return tuple(each[j] for j in patches) if each else ()

        return replace(
            self,
            parts=kept(self.parts),
            placements=kept(self.placements),
            inversions=kept(self.inversions),
        )


def side_by_side(
    parts: Sequence[Template], places: Sequence[Sequence[int]], width: int
) -> Template:
    """Templates on disjoint qubits of one circuit; each has parameters of its own.

    Args:
        parts: on n wires each.
        places: wire i of part j goes to qubit `places[j][i]`.
        width: qubits of the circuit.
    """
    circuit = QuantumCircuit(width, name=parts[0].circuit.name)
    parameters: list[Parameter] = []
    observables = []
    for j, (part, qubits) in enumerate(zip(parts, places, strict=True)):
        own = dict.fromkeys(part.parameters)
        for p in own:
            own[p] = p if len(parts) == 1 else Parameter(f"{p.name}@{j}")
        body = part.circuit if len(parts) == 1 else part.circuit.assign_parameters(own)
        circuit.compose(body, qubits, inplace=True)
        parameters += [own[p] for p in part.parameters]
        observables += embed_observables(part.observables, qubits, width)
    return Template(
        circuit,
        tuple(parameters),
        tuple(observables),
        parts[0].columns,
        encoder=parts[0].encoder,
    )
