"""Words of a study file that need nothing heavy to be understood."""

from __future__ import annotations

from dataclasses import dataclass

from qpc_qiskit.errors import NoiseError

PARTS = ("readout", "references", "twirling", "zne")
"""Of a mitigation; `noise_models.study.mitigation` says what each does."""
ZNE_SCALES = (1, 3, 5)


@dataclass(frozen=True)
class Mitigation:
    """What is done about noise, parsed."""

    parts: tuple[str, ...] = ()
    """Of `PARTS`, in their order."""

    @property
    def word(self) -> str:
        """As a study names it."""
        return "+".join(self.parts) or "none"

    @property
    def readout(self) -> bool:
        """Whether readout is inverted."""
        return "readout" in self.parts

    @property
    def references(self) -> bool:
        """Whether reference rows calibrate the values."""
        return "references" in self.parts

    @property
    def twirls(self) -> bool:
        """Whether two-qubit errors are twirled."""
        return "twirling" in self.parts

    @property
    def extrapolates(self) -> bool:
        """Whether noise is scaled."""
        return "zne" in self.parts

    @property
    def scales(self) -> tuple[int, ...]:
        """How often two-qubit gates are run."""
        return ZNE_SCALES if self.extrapolates else (1,)


def parse_mitigation(word: str) -> Mitigation:
    """The mitigation that a word stands for.

    Raises:
        NoiseError: it is none, or can do nothing in a simulation.
    """
    parts = word.split("+")
    if "dd" in parts:
        raise NoiseError(
            "mitigation: dd (dynamical decoupling) can do nothing here: it protects idle qubits, "
            "which do not decay in any noise of a simulation; leave it to hardware."
        )
    if word == "none":
        return Mitigation()
    unknown = [part for part in parts if part not in PARTS]
    if unknown or len(set(parts)) < len(parts):
        raise NoiseError(
            f"mitigation: expected none, or one or several of {', '.join(PARTS)} joined by +, got "
            f"{word!r}."
        )
    if {"readout", "references"} <= set(parts):
        raise NoiseError(
            f"mitigation: {word!r} corrects the readout twice; reference rows see it as well. "
            "Choose one."
        )
    return Mitigation(tuple(part for part in PARTS if part in parts))
