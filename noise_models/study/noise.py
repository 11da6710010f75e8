"""Noise of a study, fixed: every word becomes plain values that a cell's key can hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from noise_models.snapshots import Snapshot, best_qubits
from noise_models.spec import NoiseSpec
from noise_models.study.spec import NoiseAxis
from noise_models.words import find_noise, is_device, load_noise
from qpc_qiskit.devices.noise import CircuitNoise
from qpc_qiskit.errors import NoiseError


@dataclass(frozen=True, eq=False)
class FixedNoise:
    """Noise at one strength, for layers up to some number of qubits; equal if its content is."""

    kind: str
    """`spec` or `snapshot`."""
    data: Mapping[str, Any] = field(repr=False)
    """Plain values of it."""

    @property
    def content(self) -> str:
        """The same text for the same noise, whatever its name."""
        told = {k: v for k, v in self.data.items() if k not in ("name", "description", "version")}
        return json.dumps([self.kind, told], sort_keys=True)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FixedNoise) and self.content == other.content

    def __hash__(self) -> int:
        return hash(self.content)

    def build(self, num_qubits: int | None = None) -> CircuitNoise | Any:
        """What engines take; see `NoiseSpec.build` and `Snapshot.backend`."""
        if self.kind == "spec":
            return NoiseSpec.from_dict(dict(self.data)).build(num_qubits)
        return Snapshot.from_dict(dict(self.data)).backend()


class NoiseResolver:
    """Finds what the words of a study stand for; a device is asked once."""

    def __init__(self) -> None:
        self._found: dict[str, NoiseSpec | Snapshot] = {}
        self._patches: dict[tuple[str, int], Snapshot] = {}

    def at(self, axis: NoiseAxis, strength: float, num_qubits: int) -> FixedNoise:
        """The noise of an axis at a strength.

        A device's noise is that of its best patch of `num_qubits` qubits as it is (factor 1), so
        that one patch is compared with itself at all strengths.

        Raises:
            NoiseError: there is no such noise, or a value would leave its range.
            BackendError: there is no such device.
        """
        try:
            if axis.is_channel:
                word = f"{axis.noise}:{strength!r}"
                return fixed(find_noise(word))
            if isinstance(axis.noise, NoiseSpec):
                found: NoiseSpec | Snapshot = axis.noise
            else:
                found = self.find(axis.noise)
            if isinstance(found, Snapshot):
                found = self._patch(str(axis.noise), found, num_qubits)
            return fixed(found.scaled(strength))
        except NoiseError as error:
            raise NoiseError(f"noise {axis.name!r} at {strength:g}: {error}") from None

    def find(self, word: str) -> NoiseSpec | Snapshot:
        """What a word stands for; a device is read as it is calibrated now."""
        if word not in self._found:
            if is_device(word):
                from qpc_qiskit.backends.named import find_backend

                self._found[word] = Snapshot.of(find_backend(word))
            elif Path(word).suffix.lower() in (".json", ".toml"):
                self._found[word] = load_noise(Path(word))
            else:
                self._found[word] = find_noise(word)
        return self._found[word]

    def _patch(self, word: str, snapshot: Snapshot, num_qubits: int) -> Snapshot:
        if len(snapshot.qubits) <= num_qubits:
            return snapshot
        key = word, num_qubits
        if key not in self._patches:
            places = best_qubits(snapshot.backend(), num_qubits)
            self._patches[key] = restricted(snapshot, places)
        return self._patches[key]


def restricted(snapshot: Snapshot, places: tuple[int, ...]) -> Snapshot:
    """Some qubits of a snapshot.

    Args:
        snapshot: is not modified.
        places: in its list of qubits; they become places 0, 1, ...
    """
    wire = {place: i for i, place in enumerate(places)}
    data = snapshot.to_dict()
    return Snapshot.from_dict(
        data
        | {
            "qubits": [snapshot.qubits[p] for p in places],
            "calibrations": [data["calibrations"][p] for p in places],
            "gates": [
                gate | {"qubits": [wire[q] for q in gate["qubits"]]}
                for gate in data["gates"]
                if all(q in wire for q in gate["qubits"])
            ],
        }
    )


def fixed(found: NoiseSpec | Snapshot) -> FixedNoise:
    """What a word stood for, as plain values."""
    return FixedNoise("spec" if isinstance(found, NoiseSpec) else "snapshot", found.to_dict())
