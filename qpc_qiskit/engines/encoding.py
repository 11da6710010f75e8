"""The encoders of an engine's layers."""

from __future__ import annotations

from typing import Any

from qpc_qiskit.circuits.ansatz import Ansatz
from qpc_qiskit.circuits.brickwall import AngleCache, Progress, brickwall
from qpc_qiskit.circuits.encoder import Encoder, make_encoder
from qpc_qiskit.circuits.spec import LayerSpec
from qpc_qiskit.options.economy import BRICKWALL, split_encoder


class LayerEncoders:
    """The encoder of each layer: the one that was asked for, or one that this fell back to.

    Layers of one ansatz share a circuit, and so an encoder.

    Args:
        name: `multiplexor`, `brickwall` or `brickwall:DEPTH`.

    Raises:
        ValueError: another name.
    """

    def __init__(self, name: str) -> None:
        split_encoder(name)
        self.name = name
        """As asked for."""
        self.on_fit: Progress | None = None
        """Told of the directions whose angles are fitted, while that is done: how many, of all."""
        self._angles = AngleCache(warms=False)  # whatever was asked for before is no start
        self._encoders: dict[Ansatz, Encoder] = {}

    def of(self, spec: LayerSpec) -> Encoder:
        """That of a layer now."""
        if spec.ansatz not in self._encoders:
            self._encoders[spec.ansatz] = self._made(self.name, spec.num_qubits)
        return self._encoders[spec.ansatz]

    def fall_back(self, spec: LayerSpec) -> bool:
        """From now on a layer has its encoder's `fallback`.

        Returns:
            Whether there is one: False changes nothing.
        """
        name = self.of(spec).fallback
        if name is None:
            return False
        self._encoders[spec.ansatz] = self._made(name, spec.num_qubits)
        return True

    def adopt(self, spec: LayerSpec, num_angles: int, name: str | None) -> Encoder | None:
        """Give a layer the encoder that a circuit was made with.

        Args:
            spec: the layer.
            num_angles: that the circuit's encoder takes.
            name: of the encoder; None: not known, the number of angles decides.

        Returns:
            The encoder; None, and nothing is changed: it is neither the one that was asked for nor
            one that this falls back to.
        """
        encoder = self._made(self.name, spec.num_qubits)
        while len(encoder.parameters) != num_angles or name not in (None, encoder.name):
            if encoder.fallback is None:
                return None
            encoder = self._made(encoder.fallback, spec.num_qubits)
        self._encoders[spec.ansatz] = encoder
        return encoder

    def __getstate__(self) -> dict[str, Any]:
        """Without what is made again, and whom a copy would tell."""
        return {**self.__dict__, "_encoders": {}, "on_fit": None}

    def _made(self, name: str, num_qubits: int) -> Encoder:
        base, depth = split_encoder(name)
        if base != BRICKWALL:
            return make_encoder(name, num_qubits)
        if num_qubits == 1:  # one rotation, whatever depth the other layers have
            depth = None
        return brickwall(num_qubits, depth, cache=self._angles, on_progress=self._tell_fit)

    def _tell_fit(self, done: int, total: int) -> None:
        if self.on_fit is not None:
            self.on_fit(done, total)
