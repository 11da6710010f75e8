"""Destinations: where rows are run, and what a circuit must look like there.

A destination prepares a template: the circuit becomes one that is legal there, and its observables
follow the qubits. That can be kept and frozen. Then it connects: an Estimator primitive is found
for what was prepared. Everything after that is the same on a laptop's simulator and on 156 qubits
behind a queue. `qpc_qiskit.backends.runtime` makes the destinations that need IBM's client.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC
from typing import Any

import numpy as np
from qiskit import QuantumCircuit, transpile
from qiskit.exceptions import QiskitError
from qiskit.primitives import BackendEstimatorV2, BaseEstimatorV2
from qiskit.providers import BackendV2, Options
from qiskit.transpiler import Target
from qiskit_aer import AerError, AerSimulator
from qiskit_aer.noise import NoiseModel

from qpc_qiskit.backends.aer import AerEstimator, check_exact
from qpc_qiskit.backends.patchwise import patch_by_patch
from qpc_qiskit.common.arrays import Array
from qpc_qiskit.devices.forecast import JobCost, ShotTimes, shot_times
from qpc_qiskit.devices.isa import check_faulty, check_isa, faulty, is_isa
from qpc_qiskit.devices.noise import (
    ANSATZ_BEGINS,
    CircuitNoise,
    Noise,
    as_circuit_noise,
    check_acts,
    measurement_noise,
)
from qpc_qiskit.devices.patches import Placement, embed_observables, place
from qpc_qiskit.devices.placement_cache import cache_folder
from qpc_qiskit.devices.readout import (
    confusions_of_device,
    confusions_of_model,
    has_parity,
    measured_strings,
)
from qpc_qiskit.devices.targets import restrict_target
from qpc_qiskit.devices.tiling import tile
from qpc_qiskit.errors import BackendError, EngineError, NotISAError
from qpc_qiskit.rows.prepared import Prepared
from qpc_qiskit.rows.pubs import JobLimits, Template

# Jobs of at most some ten seconds: a thread in the simulator cannot be interrupted by Ctrl-C.
_EXACT_LIMITS = JobLimits(max_rows=65536)
_NOISY_LIMITS = JobLimits(max_rows=1024)

DEFAULT_SHOTS = 4096
"""Of Qiskit's primitives: precision 1/64."""


@dataclass(frozen=True, kw_only=True)
class Packing:
    """On how many patches of a device the circuit stands."""

    num_patches: int | None = 1
    """None: as many as are worth it, see `tile`."""
    gap: int = 0
    """Qubits between two patches, at least."""
    min_fidelity_ratio: float = 0.5
    """Of the best place's predicted fidelity, that each of several patches has."""


ONE_PATCH = Packing()


@dataclass(frozen=True, kw_only=True)
class JobSettings:
    """What differs from job to job."""

    seed: int | None = None
    """Of shots and twirls; None: the estimator's own."""
    predicted_seconds: float | None = None
    """Of QPU time; a device ends a job that takes much longer."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Destination:
    """Somewhere to run rows."""

    name: str
    """Of the backend."""
    prepare: Callable[[Template], Prepared] = field(repr=False)
    """Makes a template legal here; expensive, so its result is to be kept."""
    connect: Callable[[Prepared], BaseEstimatorV2] = field(repr=False)
    """Finds the estimator for what was prepared."""
    cost: Callable[[Prepared, int], JobCost] = field(
        default=lambda prepared, shots: JobCost(shots_per_row=shots), repr=False
    )
    """Prepared, shots asked for (0: exact) -> cost of a job."""
    backend: BackendV2 | None = None
    """None: no device, or it is simulated by Aer."""
    default_shots: int | None = None
    """Per row where no precision is asked for; None: exact."""
    limits: JobLimits = field(default_factory=JobLimits)
    """Of a job."""
    jobs_in_flight: int = 1
    """Jobs that may wait for their results at a time."""
    keeps_shots: bool = False
    """Whether results hold every shot of every qubit of the circuit, so that memory counts."""
    is_transpiled: bool = True
    """Whether the circuit differs from the template and is to be checked against it."""
    limits_rzz: bool = False
    """Whether rzz gates take angles from 0 to pi/2 only, as IBM's do."""
    configure: Callable[[BaseEstimatorV2, JobSettings], None] | None = field(
        default=None, repr=False
    )
    """Sets an estimator's options for its next job; None: there is nothing to set."""
    fetch: Callable[[Any], Any] = field(default=lambda job: job.result(), repr=False)
    """Waits for a job's result."""
    about: Mapping[str, object] = field(default_factory=dict)
    """What a report says of it: mode, resilience level, options, calibration time."""
    close: Callable[[], None] = field(default=lambda: None, repr=False)
    """Ends a batch or a session."""


def given_estimator(estimator: BaseEstimatorV2) -> Destination:
    """A user's own primitive, which gets the template as it is.

    Its `prepare` raises `NotISAError` if the estimator's backend, where it tells one, cannot run
    the template as it is, and `EngineError` if noise of that backend does not act on it.
    """
    backend = getattr(estimator, "backend", None) or getattr(estimator, "_backend", None)
    backend = backend() if callable(backend) else backend

    def prepare(template: Template) -> Prepared:
        if isinstance(backend, BackendV2) and backend.target is not None:
            if not is_isa(template.circuit, backend.target):
                raise NotISAError(
                    f"{type(estimator).__name__} is for {backend.name}, which cannot run the "
                    "layer's circuit as it is. Use EstimatorEngine.from_backend with the backend: "
                    "the circuit is then transpiled for it."
                )
            noise = getattr(backend.options, "noise_model", None)
            if isinstance(noise, NoiseModel):
                check_acts(noise, template.circuit, range(template.circuit.num_qubits))
        return Prepared((template,))

    return Destination(
        name=type(estimator).__name__,
        prepare=prepare,
        connect=lambda prepared: estimator,
        is_transpiled=False,
    )


def aer(
    noise: Noise | None = None,
    *,
    device: str = "CPU",
    seed: int | None = None,
    options: Mapping[str, object] | None = None,
    qubits: Sequence[int] | None = None,
    packing: Packing = ONE_PATCH,
) -> Destination:
    """The Aer simulator: exact values, or shots where a precision is asked for.

    Args:
        noise: a model, alone or as `CircuitNoise`, whose gates the circuit is translated to; or a
            backend, whose noise on its best patch is simulated; None: none.
        device: `CPU` or `GPU`.
        seed: of the shots.
        options: of `AerSimulator`.
        qubits: of the backend, instead of its best patch.
        packing: of the backend.

    Raises:
        EngineError: Aer has no such device here.
        ValueError: an option that is unknown, has an argument of its own, or makes values inexact.
    """
    own: dict[str, Any] = dict(options or {})
    given = {name: name for name in ("noise_model", "seed", "shots", "device")}
    refuse_options(own, {**given, "seed_simulator": "seed"})
    check_exact(own, is_noisy=noise is not None)
    try:
        AerSimulator(**own)
    except AerError as error:
        raise ValueError(f"Options of AerSimulator: {error.message}.") from error
    if device != "CPU":
        found = AerSimulator().available_devices()
        if device not in found:
            raise EngineError(
                f"Aer has no device {device!r} here, only {', '.join(found)}. For a GPU install "
                "qiskit-aer-gpu (CUDA, Linux) in place of qiskit-aer."
            )
        own["device"] = device
    about: dict[str, object] = {"options": own}
    if isinstance(noise, BackendV2):
        about |= {"noise": noise.name, "calibration_time": calibration_time(noise)}
    elif noise is not None:
        about["noise"] = as_circuit_noise(noise).name

    seeds = np.random.SeedSequence(seed)  # one for each circuit, or layers would share shot noise

    def connect(prepared: Prepared) -> BaseEstimatorV2:
        own_seed = int(seeds.spawn(1)[0].generate_state(1)[0])
        return AerEstimator(noise_on(prepared, noise), seed=own_seed, **own)

    return Destination(
        name="aer",
        prepare=lambda template: simulated(template, noise, qubits, packing),
        connect=patch_by_patch(connect),
        cost=lambda prepared, shots: device_cost(prepared, shots, shots),
        limits=_EXACT_LIMITS if noise is None else _NOISY_LIMITS,
        is_transpiled=noise is not None,
        about=about,
    )


def simulated(
    template: Template,
    noise: Noise | None,
    qubits: Sequence[int] | None = None,
    packing: Packing = ONE_PATCH,
    *,
    inverts: bool = True,
) -> Prepared:
    """A template as a simulator of n qubits takes it.

    A copy of a whole device cannot be simulated; its patches can.

    Args:
        template: the layer's.
        noise: see `aer`.
        qubits: see `aer`.
        packing: see `aer`.
        inverts: whether the readout of parities is inverted; mitigation does that by itself.

    Raises:
        EngineError: a noise model has gates that cannot express the circuit, or is told for a qubit
            that the circuit does not have.
        BackendError: the circuit does not fit on the backend.
    """
    if noise is None:
        return Prepared((template,))
    if isinstance(noise, BackendV2):
        prepared = _on_patches(template, noise, qubits, packing)
        if not inverts:
            return prepared

        def of_patches(patches: Sequence[Sequence[int]]) -> list[Array]:
            return [confusions_of_model(noise_of_patch(noise, p), len(p)) for p in patches]

        return _inverting(prepared, of_patches)
    given = as_circuit_noise(noise)
    prepared = Prepared((_translated(template, given),))
    if not inverts:
        return prepared
    return _inverting(
        prepared, lambda patches: [confusions_of_model(given.model, len(p)) for p in patches]
    )


def _translated(template: Template, noise: CircuitNoise) -> Template:
    """A template in the gates of a noise model, after the passes of the noise."""
    circuit = _staged(template) if noise.tells_stages else template.circuit
    if circuit.num_qubits < noise.min_qubits:
        raise EngineError(
            f"The noise {noise.name!r} is told for qubit {noise.min_qubits - 1}; the circuit has "
            f"qubits 0 to {circuit.num_qubits - 1} only."
        )
    gates = noise.model.basis_gates
    try:
        circuit = transpile(circuit, basis_gates=gates, optimization_level=1)
    except (QiskitError, ValueError) as error:
        raise EngineError(
            "The circuit cannot be translated to the noise model's basis_gates "
            f"{', '.join(gates)}: {error} Give the model basis_gates that can express "
            "every circuit, such as rz, sx, x, cx."
        ) from error
    return replace(template, circuit=noise.prepare(circuit), encoder_size=None)


def _staged(template: Template) -> QuantumCircuit:
    """The circuit with a barrier between encoder and ansatz."""
    circuit, size = template.circuit, template.encoder_size
    if size is None:
        raise EngineError(
            "Noise of the encoder or of the ansatz alone needs a template that tells where its "
            "encoder ends, as those of make_template do."
        )
    staged = circuit.copy_empty_like()
    for instruction in circuit.data[:size]:
        staged.append(instruction)
    staged.barrier(label=ANSATZ_BEGINS)
    for instruction in circuit.data[size:]:
        staged.append(instruction)
    return staged


def noise_on(prepared: Prepared, noise: Noise | None) -> NoiseModel | None:
    """The noise of a simulated circuit, on its n qubits.

    Args:
        prepared: by `simulated`.
        noise: likewise.

    Raises:
        EngineError: it has no effect on the circuit.
    """
    if noise is None:
        return None
    circuit = prepared.template.circuit
    if not isinstance(noise, BackendV2):
        model = as_circuit_noise(noise).model
        measurement_noise(model)  # refuses what cannot be simulated here
        # Noise with passes was put together on purpose; a bare model may be a device's by mistake.
        warns = isinstance(noise, NoiseModel)
        check_acts(model, circuit, range(circuit.num_qubits), warns=warns)
        return model
    assert prepared.placement is not None
    return noise_of_patch(noise, prepared.placement.patch.qubits)


def noise_of_patch(backend: BackendV2, qubits: Sequence[int]) -> NoiseModel:
    """The noise of some qubits of a backend, as qubits 0 to n-1.

    A backend that knows its noise better than its target tells has a method `noise_of_qubits`.

    Raises:
        EngineError: the backend tells no errors of them.
    """
    known = getattr(backend, "noise_of_qubits", None)
    model: NoiseModel = known(qubits) if known else noise_of_target(backend.target, qubits)
    if model.is_ideal():
        raise EngineError(
            f"{backend.name} tells no errors of qubits {', '.join(map(str, qubits))}, so it would "
            "be simulated without noise. Use 'aer' without noise_model if that is meant."
        )
    return model


def noise_of_target(target: Target, qubits: Sequence[int]) -> NoiseModel:
    """The noise that a target tells of some of its qubits, as Aer reads it; see `noise_of_patch`.

    Readout errors are those of the target, which has one for both outcomes; idle qubits do not
    decay.
    """
    return NoiseModel.from_backend(_PatchBackend(restrict_target(target, qubits)))


def placed_on(
    template: Template,
    backend: BackendV2,
    qubits: Sequence[int] | None = None,
    packing: Packing = ONE_PATCH,
) -> tuple[Placement, ...]:
    """The best placements of a template on a backend; from the cache if they were found before.

    Args:
        template: the layer's.
        backend: of any kind.
        qubits: to be used; None: the best are chosen.
        packing: how many there are.
    """
    _check_target(backend)
    bad_qubits, bad_edges = faulty(backend)
    if packing.num_patches == 1:
        one = place(
            template.circuit,
            backend.target,
            bad_qubits=bad_qubits,
            bad_edges=bad_edges,
            qubits=qubits,
            cache=cache_folder(),
        )
        return (one,)
    return tile(
        template.circuit,
        backend.target,
        packing.num_patches,
        gap=packing.gap,
        min_fidelity_ratio=packing.min_fidelity_ratio,
        bad_qubits=bad_qubits,
        bad_edges=bad_edges,
        cache=cache_folder(),
    )


def _on_patches(
    template: Template,
    backend: BackendV2,
    qubits: Sequence[int] | None,
    packing: Packing,
    width: int | None = None,
) -> Prepared:
    placements = placed_on(template, backend, qubits, packing)
    parts = tuple(
        Template(
            each.circuit,
            template.parameters,
            tuple(embed_observables(template.observables, each.final, each.circuit.num_qubits)),
            template.columns,
            encoder=template.encoder,
        )
        for each in placements
    )
    return Prepared(parts, placements, _times(placements, backend), width)


def _check_target(backend: BackendV2) -> None:
    if backend.target is None:
        raise BackendError(f"{backend.name} tells nothing of its gates (its target is None).")


def _inverting(
    prepared: Prepared,
    confusions: Callable[[Sequence[Sequence[int]]], Sequence[Array | None]],
) -> Prepared:
    """The same, with what must be measured to invert the readout of parities.

    Args:
        prepared: measures its features.
        confusions: of the device's qubits, patch by patch; without one, of wires 0 to n-1.
    """
    targets = prepared.parts[0].observables
    if not has_parity(targets):
        return prepared
    wires = tuple(range(prepared.parts[0].circuit.num_qubits))
    places = [each.patch.qubits for each in prepared.placements] or [wires]
    strings, inversions = measured_strings(targets, confusions(places))
    parts = tuple(replace(part, observables=strings) for part in prepared.parts)
    return replace(prepared, parts=parts, inversions=inversions)


def embedded(
    template: Template,
    backend: BackendV2,
    qubits: Sequence[int] | None = None,
    packing: Packing = ONE_PATCH,
    *,
    inverts: bool = True,
) -> Prepared:
    """A template on the best patches of a backend, in a circuit of its full width, and checked."""
    prepared = _on_patches(template, backend, qubits, packing, backend.num_qubits)
    if inverts:
        prepared = _inverting(prepared, lambda patches: confusions_of_device(backend, patches))
    check_runs_on(prepared.template.circuit, backend)
    return prepared


def check_runs_on(circuit: QuantumCircuit, backend: BackendV2) -> None:
    """Check that a backend, as it is now, can run a circuit as it stands.

    Raises:
        NotISAError: a gate is not one of the backend's, or stands on faulty qubits.
    """
    check_isa(circuit, backend.target)
    check_faulty(circuit, *faulty(backend))


def any_backend(
    backend: BackendV2,
    *,
    seed: int | None = None,
    options: Mapping[str, object] | None = None,
    qubits: Sequence[int] | None = None,
    packing: Packing = ONE_PATCH,
) -> Destination:
    """Any vendor's backend, through Qiskit's `BackendEstimatorV2`."""
    refuse_options(options, {"seed_simulator": "seed", "default_precision": "precision"})
    _check_target(backend)
    own: dict[str, object] = {**(options or {}), "seed_simulator": seed}
    try:
        estimator = BackendEstimatorV2(backend=backend, options=own)
    except TypeError as error:
        raise ValueError(f"Options of BackendEstimatorV2: {error}.") from error

    def configure(_: BaseEstimatorV2, settings: JobSettings) -> None:
        estimator.options.seed_simulator = settings.seed

    return Destination(
        name=backend.name,
        backend=backend,
        prepare=lambda template: embedded(template, backend, qubits, packing),
        connect=lambda prepared: estimator,
        cost=lambda prepared, shots: device_cost(prepared, shots, shots),
        default_shots=DEFAULT_SHOTS,
        limits=JobLimits(max_rows=1024),
        configure=None if seed is None else configure,
        about={"options": dict(options or {}), "calibration_time": calibration_time(backend)},
    )


def device_cost(
    prepared: Prepared, shots: int, shots_per_row: int, shots_per_job: int = 0, **timing: Any
) -> JobCost:
    """Cost of a job on a device, or on a copy of it.

    Args:
        prepared: the circuit.
        shots: asked for; 0: exact values, which have no price.
        shots_per_row: executed.
        shots_per_job: executed besides.
        timing: see `ShotTimes.total`.
    """
    each = None
    if prepared.times is not None and shots:
        each = prepared.times.total(**timing)
    return JobCost(shots_per_row=shots_per_row, shots_per_job=shots_per_job, seconds_per_shot=each)


def refuse_options(options: Mapping[str, object] | None, arguments: Mapping[str, str]) -> None:
    """Refuse options that have an argument of their own.

    Args:
        options: as a user gave them.
        arguments: option -> argument.

    Raises:
        ValueError: naming both.
    """
    for name, argument in arguments.items():
        if name in (options or {}):
            raise ValueError(f"Give {argument}=..., not {name} in options.")


def calibration_time(backend: BackendV2) -> str | None:
    """When the backend's properties were measured, ISO 8601 in UTC; None: it does not tell."""
    properties = getattr(backend, "properties", None)
    told = properties() if callable(properties) else None
    time = getattr(told, "last_update_date", None)
    return None if time is None else time.astimezone(UTC).isoformat(timespec="seconds")


def _times(placements: Sequence[Placement], backend: BackendV2) -> ShotTimes | None:
    """Of a shot on all patches: as long as on the slowest."""
    rep_delay = getattr(backend, "default_rep_delay", None)
    times = [
        shot_times(each.circuit, backend.target, each.patch.qubits, rep_delay)
        for each in placements
    ]
    known = [each for each in times if each is not None]
    if len(known) < len(times) or not known:
        return None
    return ShotTimes(
        circuit=max(each.circuit for each in known),
        reset=max(each.reset for each in known),
        rep_delay=known[0].rep_delay,
    )


class _PatchBackend(BackendV2):
    """A target that `NoiseModel.from_backend` accepts."""

    def __init__(self, target: Target) -> None:
        super().__init__(name="patch")
        self._target = target

    @property
    def target(self) -> Target:
        return self._target

    @property
    def max_circuits(self) -> None:
        return None

    @classmethod
    def _default_options(cls) -> Options:
        return Options()

    def run(self, run_input: object, **options: object) -> None:
        raise NotImplementedError("A patch is simulated by Aer, not run by itself.")
