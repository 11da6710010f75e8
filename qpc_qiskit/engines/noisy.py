"""The noisy engine: exact noisy expectation values, differentiable, much faster than Aer.

The circuit and its noise are those that the estimator engine runs on Aer. What is computed is the
same as by a density matrix, in another order: everything after the last gate that depends on a
pixel is folded into the observables once per call, and the encoder's states, as real vectors of
Pauli coefficients, serve all kernels. See `qpc_qiskit.pauli`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from qpc_qiskit.circuits.brickwall import Progress, error_bound
from qpc_qiskit.circuits.directions import canonical_directions
from qpc_qiskit.circuits.encoder import Encoded, Encoder
from qpc_qiskit.circuits.spec import LayerSpec
from qpc_qiskit.common.threads import run_in_workers, split_ranges
from qpc_qiskit.engines.base import Engine
from qpc_qiskit.engines.calls import LayerCall
from qpc_qiskit.engines.encoding import LayerEncoders
from qpc_qiskit.engines.exact import ExactEngine
from qpc_qiskit.engines.reports import NoisyReport
from qpc_qiskit.errors import EngineError, FitFailed
from qpc_qiskit.options.economy import BRICKWALL, split_encoder
from qpc_qiskit.options.engine import NoisyOptions
from qpc_qiskit.rows.pubs import make_template

if TYPE_CHECKING:
    from qiskit.quantum_info import SparsePauliOp

    from qpc_qiskit.devices.noise import Noise
    from qpc_qiskit.pauli.layers import Kernels, MakeRunner, NoisyLayer, Stages
    from qpc_qiskit.rows.prepared import Prepared

IMPLEMENTATIONS = ("auto", "torch", "compiled")

EQUIVALENCE_ROWS = 3
EQUIVALENCE_ATOL = 1e-8

_MIN_RANGE_PIXELS = 32
_MIN_RANGE_OBSERVABLES = 2**16  # coefficients
_ENCODED_PIXELS = 2048  # at a time: fewer are all overhead of the calls


class NoisyEngine(Engine):
    """Exact expectation values under noise.

    On the device and in the dtype of the pixels; angles are computed in float64. Gradients by
    weights are exact. Gradients by pixels go through the angles of the `multiplexor`: where all
    channels of a subtree of its angles are zero, the angles are 0 and so are their derivatives (a
    noisy value jumps there). Angles of the `brickwall` are fitted and have no derivative, so that a
    layer on it trains only where nothing before it is to be trained.

    With `shots` every value is drawn from the exact noisy distribution of its own outcomes, 1 and
    -1: features of a kernel are drawn independently, although one execution would measure them
    together. Each call draws anew. Gradients are those of the exact values.

    Args:
        noise: an Aer `NoiseModel`, a `CircuitNoise`, a device (any `BackendV2`) or its name, such
            as `fake_torino`. Circuits are translated to the model's gates, or laid on the device's
            best patch.
        encoder: see `EstimatorEngine`; it falls back in the same way.
        implementation: `torch`; `compiled`, for which the system's C compiler is needed; `auto`:
            compiled where it can be, on CPUs. All give the same, up to rounding.
        qubits: of a device, one for each of the layer's, instead of its best patch.
        shots: per value; None: exact.
        seed: of the shots; None: another one every time.
        absorb_tail: see `EstimatorEngine`; not with shots, which parities would share.

    Raises:
        TypeError: `noise` is none.
        ValueError: an argument is out of range, or would have no effect.
        BackendError: unknown device, or no access to it.
        EngineError: `compiled` without a compiler.

    Example:
        >>> engine = NoisyEngine("fake_torino")
    """

    name = "noisy"

    def __init__(
        self,
        noise: Noise | str,
        *,
        encoder: str = "multiplexor",
        implementation: str = "auto",
        qubits: Sequence[int] | None = None,
        shots: int | None = None,
        seed: int | None = None,
        absorb_tail: bool = False,
    ) -> None:
        super().__init__()
        self._encoders = LayerEncoders(encoder)
        if implementation not in IMPLEMENTATIONS:
            raise ValueError(
                f"Unknown implementation {implementation!r}; expected one of "
                f"{', '.join(IMPLEMENTATIONS)}."
            )
        if absorb_tail is None:  # which a command decides by the layers
            raise TypeError("absorb_tail must be True or False, got None.")
        NoisyOptions.read(shots=shots, seed=seed, absorb_tail=absorb_tail)
        self._noise, self._noise_name = _opened(noise, qubits)
        self._qubits = qubits
        self._implementation = implementation
        self._shots = None if shots is None else int(shots)
        self._absorbs_tail = absorb_tail
        self._generator = torch.Generator()
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)
        self._circuits: dict[Hashable, _Circuit] = {}
        if implementation == "compiled":
            from qpc_qiskit.pauli.compiled import load

            load()  # a missing compiler is told now

    @property
    def noise_name(self) -> str:
        """The noise in words."""
        return self._noise_name

    @property
    def shots(self) -> int | None:
        """Per value; None: exact."""
        return self._shots

    @property
    def on_fit(self) -> Progress | None:
        """See `EstimatorEngine.on_fit`."""
        return self._encoders.on_fit

    @on_fit.setter
    def on_fit(self, told: Progress | None) -> None:
        self._encoders.on_fit = told

    def prepare(self, spec: LayerSpec) -> Prepared:
        """The circuit of a layer as it is simulated; made and checked once.

        Raises:
            BackendError: the circuit does not fit on the device.
            EngineError: the noise cannot be represented exactly, or has no effect.
        """
        return self._circuit(spec).prepared

    def evs(self, call: LayerCall) -> Tensor:
        """See `Engine.evs`."""
        return self.evs_with_residuals(call)[0]

    def evs_with_residuals(self, call: LayerCall) -> tuple[Tensor, object]:
        """See `Engine.evs_with_residuals`; what is kept are the pixels' angles."""
        spec, pixels = call.spec, call.pixels
        with torch.no_grad():
            encoded, num_fallbacks = self._encode(spec, pixels)
            circuit = self._circuit(spec)
            layer = self._layer(circuit, pixels)
            kernels = _folded(spec, layer, _ansatz_angles(spec, circuit, call.weights))
            out = pixels.new_empty(spec.num_kernels, spec.num_maps, len(pixels))

            def fill(items: slice) -> None:
                for chunk in _parts(items, layer.chunk):
                    layer.values(kernels, encoded.angles[chunk], out[..., chunk])

            with torch.autocast(pixels.device.type, enabled=False):
                ranges = split_ranges(len(pixels), _MIN_RANGE_PIXELS, pixels.device)
                run_in_workers(fill, ranges, pixels.device)
            evs = out.permute(2, 0, 1).contiguous()
            max_std = 0.0
            if self._shots is not None:
                evs, max_std = self._drawn(evs)
        self._report(spec, circuit, layer, encoded, len(pixels), max_std, num_fallbacks)
        return evs, _Residuals(circuit, encoded.angles)

    def vjp(
        self,
        call: LayerCall,
        grad: Tensor,
        wrt: tuple[bool, bool] = (True, True),
        *,
        residuals: object = None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """See `Engine.vjp`.

        Raises:
            EngineError: the encoder's angles have no derivative, and pixels are to have one.
        """
        with torch.no_grad():
            if isinstance(residuals, _Residuals):
                circuit, encoder_angles = residuals.circuit, residuals.encoder_angles
            else:
                encoded, _ = self._encode(call.spec, call.pixels)
                circuit, encoder_angles = self._circuit(call.spec), encoded.angles
            if wrt[0] and split_encoder(circuit.encoder.name)[0] == BRICKWALL:
                raise EngineError(
                    "The angles of the brickwall encoder are fitted and have no derivative, so the "
                    "noisy engine has no gradients by pixels on it: what comes before the layer "
                    "cannot be trained. Use encoder='multiplexor', or freeze what comes before."
                )
            with torch.autocast(call.pixels.device.type, enabled=False):
                return self._vjp(circuit, call, grad, wrt, encoder_angles)

    def __getstate__(self) -> dict[str, object]:
        """Without what is made again on first use, and cannot be written to a pickle."""
        return {**self.__dict__, "_circuits": {}}

    def _vjp(
        self,
        circuit: _Circuit,
        call: LayerCall,
        grad: Tensor,
        wrt: tuple[bool, bool],
        encoder_angles: Tensor,
    ) -> tuple[Tensor | None, Tensor | None]:
        from qpc_qiskit.pauli.angle_tree import by_directions, by_pixels

        spec, pixels, weights = call.spec, call.pixels, call.weights
        layer = self._layer(circuit, pixels)
        ansatz_angles = _ansatz_angles(spec, circuit, weights)
        kernels = _folded(spec, layer, ansatz_angles)
        found = torch.empty_like(pixels, memory_format=torch.contiguous_format)

        def accumulate(items: slice) -> tuple[Tensor, Tensor] | None:
            totals = None
            if wrt[1]:
                totals = torch.zeros_like(kernels.observables), torch.zeros_like(kernels.angles)
            for chunk in _parts(items, layer.chunk):
                outer = grad[chunk].permute(1, 2, 0).to(pixels.dtype).contiguous()
                by_angles = layer.vjp(
                    kernels, encoder_angles[chunk], outer, totals, wants_angles=wrt[0]
                )
                if by_angles is not None:
                    directions = canonical_directions(pixels[chunk])
                    slopes = by_directions(directions, spec.num_qubits, by_angles)
                    found[chunk] = by_pixels(pixels[chunk], directions, slopes)
            return totals

        parts: list[tuple[Tensor, Tensor] | None] = []
        if any(wrt):
            ranges = split_ranges(len(pixels), _MIN_RANGE_PIXELS, pixels.device)
            parts = run_in_workers(accumulate, ranges, pixels.device)
        by_weights = None
        if wrt[1]:
            totals = [part for part in parts if part is not None]

            def finish(k: slice) -> Tensor:
                by_observables, by_angles = (
                    torch.stack([each[k] for each in both]).sum(0)
                    for both in zip(*totals, strict=True)
                )
                by_ansatz = layer.kernels_vjp(ansatz_angles[k], by_observables, by_angles)
                return by_ansatz @ circuit.scale.to(by_ansatz)

            ranges = _kernel_ranges(spec, weights.device)
            by_weights = torch.cat(run_in_workers(finish, ranges, weights.device))
            by_weights = by_weights.to(weights.dtype)
        return (found if wrt[0] else None), by_weights

    def _encode(self, spec: LayerSpec, pixels: Tensor) -> tuple[Encoded, int]:
        """Angles of all pixels; another encoder takes over where a fit fails, of so many."""
        num_fallbacks = 0
        while True:
            encoder = self._encoders.of(spec)
            encoded = _encoded(encoder, pixels)
            if not encoded.num_failed:
                return encoded, num_fallbacks
            num_fallbacks = num_fallbacks or encoded.num_failed
            if not self._encoders.fall_back(spec):
                raise FitFailed(
                    f"The {encoder.name} encoder cannot prepare {encoded.num_failed} of "
                    f"{len(pixels)} directions. Use the multiplexor.",
                    encoded.num_failed,
                )
            self._circuits.pop(spec.measured_circuit, None)

    def _circuit(self, spec: LayerSpec) -> _Circuit:
        key = spec.measured_circuit
        if key not in self._circuits:
            self._circuits[key] = self._prepared(spec)
        return self._circuits[key]

    def _prepared(self, spec: LayerSpec) -> _Circuit:
        """The circuit of a layer as Aer would be given it, read and checked."""
        from qiskit_aer.noise import NoiseModel

        from qpc_qiskit.backends.destinations import noise_on, simulated
        from qpc_qiskit.devices.patches import embed_observables
        from qpc_qiskit.pauli.layers import make_stages
        from qpc_qiskit.pauli.program import check_names, read_program

        encoder = self._encoders.of(spec)
        template = make_template(
            encoder, spec.ansatz, spec.observables, absorbs_tail=self._absorbs_tail
        )
        prepared = simulated(template, self._noise, self._qubits)
        sent = prepared.template
        count = len(encoder.parameters)
        parameters = sent.parameters[:count], sent.parameters[count:]
        scale = torch.from_numpy(spec.ansatz.scale)[list(sent.columns)]

        def circuit(*measured: Any) -> _Circuit:
            program = read_program(sent.circuit, *parameters, *measured)
            return _Circuit(encoder, prepared, make_stages(program), sent.columns, scale)

        targets: Sequence[SparsePauliOp] = template.observables
        if prepared.placement is not None:
            width = sent.circuit.num_qubits
            targets = embed_observables(targets, prepared.placement.final, width)
        _check_against_exact(spec, circuit(targets, None))
        model = noise_on(prepared, self._noise)
        if isinstance(self._noise, NoiseModel):  # others were put together on purpose
            check_names(self._noise, sent.circuit)
        inversion = prepared.inversions[0] if prepared.inversions else None
        return circuit(sent.observables, model, inversion)

    def _layer(self, circuit: _Circuit, pixels: Tensor) -> NoisyLayer:
        """The layer's steps for the dtype and device of some pixels."""
        from qpc_qiskit.pauli.layers import NoisyLayer

        key = pixels.dtype, pixels.device
        if key not in circuit.layers:
            make_runner, reason = self._runner(pixels.device)
            circuit.layers[key] = NoisyLayer(circuit.stages, *key, make_runner, reason)
        return circuit.layers[key]

    def _runner(self, device: torch.device) -> tuple[MakeRunner, str | None]:
        """What runs stages, and why it is not compiled where that would be preferred."""
        from qpc_qiskit.pauli.forward import TorchStage

        if self._implementation == "torch":
            return TorchStage, None
        if device.type != "cpu":
            if self._implementation == "compiled":
                raise EngineError(
                    f"The compiled kernel runs on CPUs, and the pixels are on {device}. Use "
                    "implementation='auto', or the CPU."
                )
            return TorchStage, f"the compiled kernel does not run on {device.type}"
        from qpc_qiskit.pauli.compiled import CompiledStage, load, why_not

        if self._implementation == "compiled":
            load()
        elif reason := why_not():
            return TorchStage, reason
        return CompiledStage, None

    def _drawn(self, evs: Tensor) -> tuple[Tensor, float]:
        """Means of shots, and the largest standard error."""
        assert self._shots is not None
        exact = evs.to("cpu", torch.float64).clamp(-1, 1)
        ones = torch.binomial(
            torch.full_like(exact, float(self._shots)), (1 + exact) / 2, generator=self._generator
        )
        std = ((1 - exact * exact) / self._shots).sqrt()
        return (2 * ones / self._shots - 1).to(evs), float(std.max()) if std.numel() else 0.0

    def _report(
        self,
        spec: LayerSpec,
        circuit: _Circuit,
        layer: NoisyLayer,
        encoded: Encoded,
        num_pixels: int,
        max_std: float,
        num_fallbacks: int,
    ) -> None:
        placement = circuit.prepared.placement
        self._record(
            NoisyReport(
                engine=self.name,
                num_pixels=num_pixels,
                num_kernels=spec.num_kernels,
                num_executions=0,
                max_std=max_std,
                noise=self._noise_name,
                shots=self._shots,
                implementation=layer.implementation,
                implementation_reason=layer.reason,
                encoder=circuit.encoder.name,
                num_fallbacks=num_fallbacks,
                max_encoding_error=float(
                    error_bound(encoded.infidelity).max() if num_pixels else 0.0
                ),
                patch=None if placement is None else placement.patch.qubits,
                num_strings=circuit.stages.last.num_rows,
            )
        )


@dataclass(frozen=True, eq=False)
class _Circuit:
    """A layer's circuit, ready to be evaluated."""

    encoder: Encoder
    prepared: Prepared
    stages: Stages
    columns: tuple[int, ...]
    """Of the ansatz' angles: those that the circuit holds."""
    scale: Tensor = field(repr=False)
    """(R, P) float64: of these angles by weights."""
    layers: dict[tuple[torch.dtype, torch.device], NoisyLayer] = field(default_factory=dict)

    def ansatz_angles(self, spec: LayerSpec, weights: Tensor) -> Tensor:
        """(K, R) float64, on the device of the weights."""
        offset = torch.from_numpy(spec.ansatz.offset)[list(self.columns)].to(weights.device)
        return weights.detach().to(torch.float64) @ self.scale.to(weights.device).T + offset


@dataclass(frozen=True, eq=False)
class _Residuals:
    circuit: _Circuit
    encoder_angles: Tensor


def _check_against_exact(spec: LayerSpec, circuit: _Circuit) -> None:
    """Compare the circuit as it was read, without its noise, with the exact engine.

    Raises:
        EngineError: the circuit that was translated, or what was read of it, computes something
            else.
    """
    from qpc_qiskit.pauli.layers import NoisyLayer

    one = replace(spec, num_kernels=1)
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.normal(size=(EQUIVALENCE_ROWS, spec.in_channels)))
    weights = torch.from_numpy(rng.uniform(0, 2 * np.pi, size=(1, spec.num_weights)))
    with torch.no_grad():
        encoded = circuit.encoder.encode(canonical_directions(pixels))
        layer = NoisyLayer(circuit.stages, torch.float64, pixels.device)
        found = pixels.new_empty(1, spec.num_maps, len(pixels))
        layer.values(layer.kernels(circuit.ansatz_angles(one, weights)), encoded.angles, found)
        exact = ExactEngine().evs(LayerCall(one, pixels, weights))
        difference = float((found[0].T - exact[:, 0]).abs().max())
        bound = EQUIVALENCE_ATOL + float(error_bound(encoded.infidelity).max())
    if not difference <= bound:
        raise EngineError(
            f"Without noise, the circuit that would be simulated differs from the exact engine by "
            f"{difference:.1g}; expected {bound:.1g} at most. Please report this, with the ansatz "
            "and the noise."
        )


def _encoded(encoder: Encoder, pixels: Tensor) -> Encoded:
    """Angles of pixels, a range of them by each worker where that is a plain formula."""
    if split_encoder(encoder.name)[0] == BRICKWALL:  # finds equal directions, has its own workers
        return encoder.encode(canonical_directions(pixels))
    shape = (len(pixels), len(encoder.parameters))
    angles = torch.empty(shape, dtype=torch.float64, device=pixels.device)
    infidelity = torch.zeros(len(pixels), dtype=torch.float64, device=pixels.device)

    def fill(items: slice) -> None:
        for part in _parts(items, _ENCODED_PIXELS):
            angles[part] = encoder.angles(canonical_directions(pixels[part]))

    run_in_workers(fill, split_ranges(len(pixels), _MIN_RANGE_PIXELS, pixels.device), pixels.device)
    return Encoded(angles, infidelity)


def _ansatz_angles(spec: LayerSpec, circuit: _Circuit, weights: Tensor) -> Tensor:
    """In a worker: after a product here, torch's own threads would spin and hold up the workers."""
    (found,) = run_in_workers(lambda w: circuit.ansatz_angles(spec, w), [weights], weights.device)
    return found


def _kernel_ranges(spec: LayerSpec, device: torch.device) -> list[slice]:
    """Kernels of each worker; few small observables are not worth a second one."""
    size = spec.num_maps * 4**spec.num_qubits
    return split_ranges(spec.num_kernels, max(1, _MIN_RANGE_OBSERVABLES // size), device)


def _folded(spec: LayerSpec, layer: NoisyLayer, ansatz_angles: Tensor) -> Kernels:
    """The observables of all kernels, some by each worker."""
    from qpc_qiskit.pauli.layers import Kernels

    device = ansatz_angles.device
    parts = run_in_workers(
        lambda k: layer.kernels(ansatz_angles[k]),
        _kernel_ranges(spec, device),
        device,
    )
    return Kernels(
        torch.cat([part.angles for part in parts]), torch.cat([part.observables for part in parts])
    )


def _parts(items: slice, size: int) -> Iterator[slice]:
    for start in range(items.start, items.stop, size):
        yield slice(start, min(start + size, items.stop))


def _opened(noise: object, qubits: Sequence[int] | None) -> tuple[Any, str]:
    """What `simulated` takes, and the noise in words."""
    from qiskit.providers import BackendV2
    from qiskit_aer.noise import NoiseModel

    from qpc_qiskit.devices.noise import CircuitNoise, as_circuit_noise

    if isinstance(noise, str):
        from qpc_qiskit.backends.named import find_backend

        noise = find_backend(noise)
    if isinstance(noise, BackendV2):
        return noise, noise.name
    if not isinstance(noise, NoiseModel | CircuitNoise):
        raise TypeError(
            "Expected an Aer NoiseModel, a CircuitNoise, a device or its name as noise, got "
            f"{type(noise).__name__}. Without noise use the exact engine."
        )
    if qubits is not None:
        raise ValueError("qubits has no effect on a noise model; leave it out, or give a device.")
    return noise, as_circuit_noise(noise).name
