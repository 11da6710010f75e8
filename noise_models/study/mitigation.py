"""Error mitigation, computed exactly on the noisy engine, with the shots that it would cost.

A mitigation is one word, or several joined by `+`:

- `none`.
- `readout`: every measured value m = a z + b is inverted to (m - b) / a, a and b being those of the
  qubit's readout, which is taken as known: the shots that calibrate it serve all rows of a device's
  day. (IBM's TREX twirls the readout first, so that b = 0; the mean is the same, but for a flip
  rate p that client 0.51.0 undoes by exp(2p) instead of 1/(1 - 2p): 5.5 % too little at p = .15.)
- `references`: rows with known answers, 2m in every layer, are run with the same shots, a line is
  fitted to each feature and inverted (`qpc_qiskit.rows.references`).
- `twirling`: errors of two-qubit gates, crosstalk included, become their average over all Pauli
  twirls: their Pauli-transfer matrix keeps its diagonal. That is the limit of many twirls, which
  share the shots of a row.
- `zne`: zero-noise extrapolation. Every two-qubit gate G, followed by its error E, is run 1, 3 and
  5 times; as G is its own inverse, that is one G followed by E (G E G) E ..., which is built
  exactly (with `twirling`, of the twirled E). A straight line by least squares is read at 0.
  One-qubit gates are not folded, as with IBM's `gate_folding`, so their errors and readout errors
  stay. Each of the three runs has all the shots, so z = sum c_i m_i has the variance
  sum c_i**2 var_i with c = (13, 4, -5) / 12. (IBM weights the three by their shot noise.)

Dynamical decoupling (`dd`) acts on idle qubits, which decay in no model here: it is refused.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from noise_models.study.measures import CircuitQuality, circuit_quality
from noise_models.study.mitigated_noise import StudiedNoise, folded, twirled
from noise_models.study.words import Mitigation
from qpc_qiskit.backends.destinations import noise_on
from qpc_qiskit.circuits.parities import read_z_string, readout_contrasts
from qpc_qiskit.circuits.spec import LayerSpec
from qpc_qiskit.circuits.unitary import unitaries
from qpc_qiskit.devices.readout import confusions_of_model
from qpc_qiskit.engines import Engine, LayerCall, NoisyEngine, NoisyReport
from qpc_qiskit.errors import EngineError
from qpc_qiskit.rows.prepared import Prepared
from qpc_qiskit.rows.references import Calibration, apply, calibrate, reference_directions

Array = NDArray[np.float64]

_KEPT_BYTES = 2**26


def extrapolation(scales: Sequence[int]) -> Array:
    """Coefficients (R,) whose product with values at the scales is their line's value at 0."""
    x = np.asarray(scales, np.float64)
    center = x.mean()
    spread = ((x - center) ** 2).sum()
    return 1 / len(x) - center * (x - center) / spread if spread else np.ones(1)


class NoisyValues:
    """Exact values under one noise, twirled and folded; the last ones are kept.

    Cells that differ by shots, repeats or what is done with the values have the same.

    Args:
        noise: of the circuits.
        encoder: see `NoisyEngine`.
        implementation: see `NoisyEngine`.
    """

    def __init__(
        self,
        noise: StudiedNoise,
        encoder: str = "multiplexor",
        implementation: str = "auto",
    ) -> None:
        self.noise = noise
        self._encoder, self._implementation = encoder, implementation
        self._engines: dict[tuple[bool, int], NoisyEngine] = {}
        self._means: OrderedDict[tuple[object, ...], Array] = OrderedDict()
        self._qualities: dict[Hashable, CircuitQuality] = {}
        self._contrasts: dict[Hashable, tuple[Array, Array]] = {}

    def engine(self, twirls: bool = False, scale: int = 1) -> NoisyEngine:
        """Of the noise, twirled or not, gates folded so many times."""
        key = twirls, scale
        if key not in self._engines:
            noise = folded(twirled(self.noise) if twirls else self.noise, scale)
            self._engines[key] = NoisyEngine(
                noise, encoder=self._encoder, implementation=self._implementation
            )
        return self._engines[key]

    def means(self, twirls: bool, scale: int, call: LayerCall) -> Array:
        """Exact values (N, K, m), float64, not to be modified.

        Raises:
            EngineError: the encoder fell back to another one.
        """
        digest = hashlib.sha256()
        for tensor in (call.pixels, call.weights):
            digest.update(repr((tensor.dtype, tensor.shape)).encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().data)
        key = twirls, scale, call.spec, digest.digest()
        if key in self._means:
            self._means.move_to_end(key)
            return self._means[key]
        engine = self.engine(twirls, scale)
        found = engine.evs(call)
        report = engine.last_report
        if isinstance(report, NoisyReport) and report.num_fallbacks:
            # The engine would go on with another encoder, from here on and for other networks too.
            self._engines.clear()
            raise EngineError(
                f"The {self._encoder} encoder cannot prepare {report.num_fallbacks} directions; "
                "half a network on another encoder would be compared with nothing. Take a deeper "
                "one, brickwall:DEPTH, or the multiplexor."
            )
        self._means[key] = found.to("cpu", torch.float64).numpy()
        while len(self._means) > 1 and sum(m.nbytes for m in self._means.values()) > _KEPT_BYTES:
            self._means.popitem(last=False)
        return self._means[key]

    def contrasts(self, spec: LayerSpec) -> tuple[Array, Array]:
        """Contrasts a and b (m,) of the readout of each feature; see `readout_contrasts`."""
        key = spec.measured_circuit
        if key not in self._contrasts:
            prepared = self.engine().prepare(spec)
            model = noise_on(prepared, self.noise)
            width = prepared.template.circuit.num_qubits
            a, b = readout_contrasts(confusions_of_model(model, width))
            qubits = _measured_qubits(prepared)
            self._contrasts[key] = a[qubits], b[qubits]
        return self._contrasts[key]

    def quality(self, spec: LayerSpec) -> CircuitQuality:
        """Of a layer's circuit as it is run."""
        key = spec.measured_circuit
        if key not in self._qualities:
            prepared = self.engine().prepare(spec)
            model = noise_on(prepared, self.noise)
            self._qualities[key] = circuit_quality(
                prepared.template.circuit, model, _measured_qubits(prepared)
            )
        return self._qualities[key]


def _measured_qubits(prepared: Prepared) -> list[int]:
    """Of each feature, which is Z on one qubit."""
    return [read_z_string(each)[0].bit_length() - 1 for each in prepared.template.observables]


@dataclass
class ShotRecord:
    """The draws of a layer, what its values cost and how sure they are."""

    generator: np.random.Generator = field(repr=False)
    line: tuple[object, Calibration] | None = field(default=None, repr=False)
    """Circuit and weights of reference rows, and the line of each feature; None: none was run."""
    num_values: int = 0
    variance: float = 0.0
    """Sum over values, of the mitigated ones."""
    num_executions: int = 0
    """Circuit executions, each of all shots."""


class MitigatedEngine(Engine):
    """Noisy values with shots and mitigation; for evaluation, without gradients.

    All draws of a layer come from one generator in the order of its calls, so that results depend
    on the seed, the batch size and the order of the images alone. A second evaluation draws on;
    an engine of its own begins anew.

    Args:
        values: exact ones, of the noise; may be shared.
        mitigation: what is done about it.
        shots: of every execution; None: exact values, as from infinitely many.
        seed: of the shots.
    """

    name = "mitigated"
    has_gradients = False

    def __init__(
        self,
        values: NoisyValues,
        mitigation: Mitigation,
        *,
        shots: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.values = values
        self.mitigation, self.shots, self.seed = mitigation, shots, seed
        self.records: dict[str, ShotRecord] = {}
        """By layer."""

    def evs(self, call: LayerCall) -> Tensor:
        """See `Engine.evs`."""
        record = self._record_of(call.layer or "")
        values, variance = self._measured(record, call)
        if self.mitigation.references:
            flat, stds = values.reshape(-1, call.spec.num_maps), np.sqrt(variance)
            first = np.zeros(len(flat), np.intp)
            line = self._calibration(record, call)
            flat, stds = apply(line, flat, stds.reshape(flat.shape), first)
            values, variance = flat.reshape(values.shape), stds.reshape(values.shape) ** 2
        record.num_values += values.size
        record.variance += float(variance.sum())
        rows = values.shape[0] * values.shape[1]
        record.num_executions += rows * len(self.mitigation.scales)
        return torch.from_numpy(values).to(call.pixels)

    def _record_of(self, layer: str) -> ShotRecord:
        if layer not in self.records:
            generator = np.random.default_rng([self.seed % 2**63, *layer.encode()])
            self.records[layer] = ShotRecord(generator)
        return self.records[layer]

    def _measured(self, record: ShotRecord, call: LayerCall) -> tuple[Array, Array]:
        """Values (N, K, m) and their variances, before reference rows correct them."""
        scales, shots = self.mitigation.scales, self.shots
        values, variance = 0.0, 0.0
        for factor, scale in zip(extrapolation(scales), scales, strict=True):
            mean = self.values.means(self.mitigation.twirls, scale, call)
            found, spread = mean, 0 * mean
            if shots is not None:
                ones = record.generator.binomial(shots, (1 + np.clip(mean, -1, 1)) / 2)
                found = 2 * ones / shots - 1
                spread = (1 - np.clip(mean, -1, 1) ** 2) / shots
            if self.mitigation.readout:
                a, b = self.values.contrasts(call.spec)
                found, spread = (found - b) / a, spread / a**2
            values, variance = values + factor * found, variance + factor**2 * spread
        return np.asarray(values), np.asarray(variance)

    def _calibration(self, record: ShotRecord, call: LayerCall) -> Calibration:
        """The line of each feature, from reference rows that are run once for its weights."""
        spec = call.spec
        of = spec.measured_circuit, call.weights.detach().cpu().numpy().tobytes()
        if record.line is None or record.line[0] != of:
            matrices = unitaries(spec.ansatz, call.weights.detach().cpu().to(torch.float64))
            known = reference_directions(matrices.numpy(), 2 * spec.num_maps, spec.z_strings)
            whole = LayerCall(
                replace(spec, in_channels=2**spec.num_qubits),
                torch.from_numpy(known.directions).to(call.weights),
                call.weights,
            )
            values, variance = self._measured(record, whole)
            rows = np.arange(len(known)), known.kernels
            stds, first = np.sqrt(variance[rows]), np.zeros(len(known), np.intp)
            record.line = of, calibrate(known.exact, values[rows], stds, first)
            record.num_executions += len(known) * len(self.mitigation.scales)
        return record.line[1]
