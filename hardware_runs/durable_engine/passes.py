"""How far a network has come in its images."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Pass:
    """How far the network has come in the images."""

    positions: dict[str, int] = field(default_factory=dict)
    """Pixels that each layer has seen."""
    called: set[str] = field(default_factory=set)
    """Layers that the present call of the network has reached."""
    times: dict[str, int] = field(default_factory=dict)
    """How often it has reached each."""
    first: str | None = None
    """The layer that begins a call."""
    stalled: set[str] | None = None
    """Layers whose positions are still known; None: no result was missing yet."""
    is_mapped: bool = False
    """Whether it is known where a call begins."""
    has_asked: bool = False
    """Whether the service was asked what became of its jobs."""

    def begin_call(self) -> None:
        """The network is called with the next batch."""
        self.called.clear()
        self.times.clear()

    def enter(self, layer: str) -> str:
        """A layer is reached; its name, with a number if it was reached before in this call.

        Without the number, the pixels of a layer that a network uses twice would be counted in an
        order that depends on the batch size.
        """
        if not self.is_mapped and self.first in (None, layer):
            self.first = layer
            self.begin_call()
        self.times[layer] = self.times.get(layer, 0) + 1
        if self.is_mapped and self.times[layer] > 1:
            layer = f"{layer}#{self.times[layer]}"
        self.called.add(layer)
        return layer

    def advance(self, layer: str, count: int) -> tuple[int, int]:
        """Positions of the next pixels of a layer."""
        start = self.positions.get(layer, 0)
        self.positions[layer] = start + count
        return start, start + count

    def stall(self) -> None:
        """Layers behind the one that waits were not reached: their positions are unknown."""
        known = self.called if self.stalled is None else self.stalled & self.called
        self.stalled = set(known)
