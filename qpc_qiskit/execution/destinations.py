"""Destinations: where rows are run, and what a circuit must look like there.

A destination prepares a template: the circuit becomes one that is legal there, its observables
follow the qubits, and an Estimator primitive is found for it. Everything after that is the same on
a laptop's simulator and on 156 qubits behind a queue. `qpc_qiskit.execution.runtime` makes those
that need IBM's client.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC

import numpy as np
from qiskit import transpile
from qiskit.primitives import BackendEstimatorV2, BaseEstimatorV2
from qiskit.providers import BackendV2, Options
from qiskit.transpiler import Target
from qiskit_aer import AerError, AerSimulator
from qiskit_aer.noise import NoiseModel

from qpc_qiskit.errors import BackendError, EngineError
from qpc_qiskit.execution.aer import AerEstimator
from qpc_qiskit.execution.forecast import execution_seconds
from qpc_qiskit.execution.isa import check_faulty, check_isa, faulty
from qpc_qiskit.execution.noise import check_acts
from qpc_qiskit.execution.patches import Placement, embed, embed_observables, place
from qpc_qiskit.execution.placement_cache import cache_folder
from qpc_qiskit.execution.pubs import JobLimits, Template
from qpc_qiskit.execution.targets import restrict_target

# Jobs of at most some ten seconds: a thread in the simulator cannot be interrupted by Ctrl-C.
_EXACT_LIMITS = JobLimits(max_rows=65536)
_NOISY_LIMITS = JobLimits(max_rows=1024)

DEFAULT_SHOTS = 4096
"""Of Qiskit's primitives: precision 1/64."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """A template as it is sent, and what takes it."""

    template: Template
    estimator: BaseEstimatorV2
    placement: Placement | None = None
    """None where the circuit is not laid on a device."""
    seconds_per_shot: float | None = None
    """Predicted on the device; None: not known, or no device."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Destination:
    """Somewhere to run rows."""

    name: str
    """Of the backend."""
    prepare: Callable[[Template], Prepared] = field(repr=False)
    """Makes a template legal here; expensive, so its result is to be kept."""
    default_shots: int | None = None
    """Per row where no precision is asked for; None: exact."""
    executed_shots: Callable[[int], tuple[int, int]] = field(default=lambda n: (n, 0), repr=False)
    """Shots asked for -> shots executed for each row, and for each job besides: mitigation and
    twirling take more than is asked for."""
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
    reseed: Callable[[BaseEstimatorV2, int], None] | None = field(default=None, repr=False)
    """Gives the next job its own seed; None: the estimator has no seed, or goes on in one."""
    about: Mapping[str, object] = field(default_factory=dict)
    """What a report says of it: mode, resilience level, options, calibration time."""
    close: Callable[[], None] = field(default=lambda: None, repr=False)
    """Ends a batch or a session."""


def given_estimator(estimator: BaseEstimatorV2) -> Destination:
    """A user's own primitive, which gets the template as it is."""
    return Destination(
        name=type(estimator).__name__,
        prepare=lambda template: Prepared(template, estimator),
        is_transpiled=False,
    )


def aer(
    noise: NoiseModel | BackendV2 | None = None,
    *,
    device: str = "CPU",
    seed: int | None = None,
    options: Mapping[str, object] | None = None,
) -> Destination:
    """The Aer simulator: exact values, or shots where a precision is asked for.

    Args:
        noise: a model, whose gates the circuit is translated to; or a backend, whose noise on its
            best patch is simulated; None: none.
        device: `CPU` or `GPU`.
        seed: of the shots.
        options: of `AerSimulator`.

    Raises:
        EngineError: Aer has no such device here.
    """
    own = dict(options or {})
    given = {name: name for name in ("noise_model", "seed", "shots", "device")}
    refuse_options(own, {**given, "seed_simulator": "seed"})
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
        about["noise"] = "own NoiseModel"

    seeds = np.random.SeedSequence(seed)  # one for each circuit, or layers would share shot noise

    def prepare(template: Template) -> Prepared:
        placed, model = simulated(template, noise)
        own_seed = int(seeds.spawn(1)[0].generate_state(1)[0])
        return replace(placed, estimator=AerEstimator(model, seed=own_seed, **own))

    return Destination(
        name="aer",
        prepare=prepare,
        limits=_EXACT_LIMITS if noise is None else _NOISY_LIMITS,
        is_transpiled=noise is not None,
        about=about,
    )


def simulated(
    template: Template, noise: NoiseModel | BackendV2 | None
) -> tuple[Prepared, NoiseModel | None]:
    """A template as a simulator of n qubits takes it, and the noise of these qubits.

    Args:
        template: the layer's.
        noise: see `aer`.

    Raises:
        EngineError: a noise model has no effect on the circuit.
        BackendError: the circuit does not fit on the backend.
    """
    plain = Prepared(template, AerEstimator())
    if noise is None:
        return plain, None
    if isinstance(noise, BackendV2):
        return on_patch(template, noise)
    circuit = transpile(template.circuit, basis_gates=noise.basis_gates, optimization_level=1)
    check_acts(noise, circuit, range(circuit.num_qubits))
    return replace(plain, template=replace(template, circuit=circuit)), noise


def on_patch(template: Template, backend: BackendV2) -> tuple[Prepared, NoiseModel]:
    """A template on the best patch of a backend, alone, with the backend's noise on these qubits.

    A copy of the whole device cannot be simulated; its patch can.
    """
    placement = placed_on(template, backend)
    qubits = placement.patch.qubits
    observables = embed_observables(template.observables, placement.final, len(qubits))
    patch = _PatchBackend(restrict_target(backend.target, qubits))
    prepared = Prepared(
        Template(placement.circuit, template.parameters, tuple(observables)),
        AerEstimator(),
        placement,
        _seconds_per_shot(placement, backend),
    )
    return prepared, NoiseModel.from_backend(patch)


def placed_on(template: Template, backend: BackendV2) -> Placement:
    """The best placement of a template on a backend; from the cache if it was found before."""
    _check_target(backend)
    bad_qubits, bad_edges = faulty(backend)
    return place(
        template.circuit,
        backend.target,
        bad_qubits=bad_qubits,
        bad_edges=bad_edges,
        cache=cache_folder(),
    )


def _check_target(backend: BackendV2) -> None:
    if backend.target is None:
        raise BackendError(f"{backend.name} tells nothing of its gates (its target is None).")


def embedded(template: Template, backend: BackendV2) -> Prepared:
    """A template on the best patch of a backend, in a circuit of its full width, and checked.

    The estimator is left to the caller.
    """
    placement = placed_on(template, backend)
    width = backend.num_qubits
    circuit = embed(placement.circuit, placement.patch.qubits, width)
    check_isa(circuit, backend.target)
    check_faulty(circuit, *faulty(backend))
    observables = embed_observables(template.observables, placement.layout, width)
    sent = Template(circuit, template.parameters, tuple(observables))
    return Prepared(sent, AerEstimator(), placement, _seconds_per_shot(placement, backend))


def any_backend(
    backend: BackendV2, *, seed: int | None = None, options: Mapping[str, object] | None = None
) -> Destination:
    """Any vendor's backend, through Qiskit's `BackendEstimatorV2`."""
    refuse_options(options, {"seed_simulator": "seed", "default_precision": "precision"})
    _check_target(backend)
    own: dict[str, object] = {**(options or {}), "seed_simulator": seed}
    try:
        estimator = BackendEstimatorV2(backend=backend, options=own)
    except TypeError as error:
        raise ValueError(f"Options of BackendEstimatorV2: {error}.") from error

    def prepare(template: Template) -> Prepared:
        return replace(embedded(template, backend), estimator=estimator)

    return Destination(
        name=backend.name,
        prepare=prepare,
        default_shots=DEFAULT_SHOTS,
        limits=JobLimits(max_rows=1024),
        reseed=None if seed is None else reseed_backend_estimator,
        about={"options": dict(options or {}), "calibration_time": calibration_time(backend)},
    )


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


def reseed_backend_estimator(estimator: BaseEstimatorV2, seed: int) -> None:
    """Give the next job of a `BackendEstimatorV2` its seed."""
    estimator.options.seed_simulator = seed


def calibration_time(backend: BackendV2) -> str | None:
    """When the backend's properties were measured, ISO 8601 in UTC; None: it does not tell."""
    properties = getattr(backend, "properties", None)
    told = properties() if callable(properties) else None
    time = getattr(told, "last_update_date", None)
    return None if time is None else time.astimezone(UTC).isoformat(timespec="seconds")


def _seconds_per_shot(placement: Placement, backend: BackendV2) -> float | None:
    rep_delay = getattr(backend, "default_rep_delay", None)
    return execution_seconds(placement.circuit, backend.target, placement.patch.qubits, rep_delay)


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
