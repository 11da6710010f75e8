"""IBM's client: fake devices and real ones, by name, as destinations.

The only module that imports qiskit_ibm_runtime (the stand-in of the service apart). A copy of a
device on a laptop and the device itself get their rows through the same Estimator; they differ in
the width of the circuit, since the Estimator measures every qubit of it and no simulator holds 133.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from contextvars import Context
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal, get_args

from pydantic import ValidationError
from qiskit.primitives import (
    BaseEstimatorV2,
    BasePrimitiveJob,
    EstimatorPubLike,
    PrimitiveResult,
    PubResult,
)
from qiskit.providers import BackendV2
from qiskit_aer import AerSimulator
from qiskit_aer.noise import NoiseModel
from qiskit_ibm_runtime import Batch, IBMBackend, QiskitRuntimeService, Session, fake_provider
from qiskit_ibm_runtime.executor.calculate_twirling_shots import calculate_twirling_shots
from qiskit_ibm_runtime.executor_estimator import Estimator
from qiskit_ibm_runtime.executor_estimator.finalize_options import finalize_estimator_options
from qiskit_ibm_runtime.fake_provider.fake_backend import FakeBackendV2
from qiskit_ibm_runtime.options_models import EstimatorOptions

from qpc_qiskit.errors import BackendError
from qpc_qiskit.execution.aer import OPTIONS, noisy_options
from qpc_qiskit.execution.destinations import (
    Destination,
    Prepared,
    calibration_time,
    embedded,
    simulated,
)
from qpc_qiskit.execution.pubs import JobLimits, Template, shots_of

Mode = Literal["job", "batch", "session"]
MODES: tuple[str, ...] = get_args(Mode)

LOCAL_RANDOMIZATIONS = 8
"""Twirls of a row on a laptop, where each costs a simulation; IBM's own default is 32."""

_LOCAL_LIMITS = JobLimits(max_rows=512, max_bytes=2**29)
_DEVICE_LIMITS = JobLimits(max_bytes=2**29, max_executions=10_000_000, max_qpu_seconds=600)
_DEVICE_JOBS_IN_FLIGHT = 4  # the service takes five submissions a minute


def fake_devices() -> dict[str, type[FakeBackendV2]]:
    """The snapshots of devices that come with IBM's client, by name."""
    classes: list[Any] = [kind for _, kind in inspect.getmembers(fake_provider, inspect.isclass)]
    found = {kind.backend_name: kind for kind in classes if issubclass(kind, FakeBackendV2)}
    return dict(sorted(found.items()))


def find_backend(
    name: str, *, service: QiskitRuntimeService | None = None, use_fractional_gates: bool = False
) -> BackendV2:
    """A fake device (`fake_torino`) or one of IBM's (`ibm_torino`).

    Args:
        name: of the backend.
        service: for `ibm_...`; None: that of the client's saved account or environment.
        use_fractional_gates: for `ibm_...`.

    Raises:
        BackendError: unknown name, or no account.
    """
    if name.startswith("ibm_"):
        return _ibm_backend(name, service, use_fractional_gates)
    known = fake_devices()
    if name in known:
        return known[name]()
    near = difflib.get_close_matches(f"fake_{name.removeprefix('fake_')}", known, cutoff=0.75)
    hint = f" Did you mean {', '.join(near)}?" if near else ""
    raise BackendError(
        f"Unknown backend {name!r}; expected 'aer', a fake device such as 'fake_torino', or "
        f"'ibm_...'.{hint} `qpc backends` lists them."
    )


def ibm_backends(service: QiskitRuntimeService | None = None) -> list[BackendV2]:
    """The devices of an account, with what they tell of themselves.

    Args:
        service: None: that of the client's saved account or environment.

    Raises:
        BackendError: no account, or no access.
    """
    try:
        found = list((service or QiskitRuntimeService()).backends(simulator=False))
        for backend in found:
            _ = backend.target  # fetched now
    except Exception as error:
        raise _no_access("IBM's devices", error) from error
    return found


def _ibm_backend(
    name: str, service: QiskitRuntimeService | None, use_fractional_gates: bool
) -> BackendV2:
    try:
        if service is None:
            service = QiskitRuntimeService()
        return service.backend(name, use_fractional_gates=use_fractional_gates)
    except Exception as error:  # an account, a network or a name: the client has errors for each
        raise _no_access(name, error) from error


def _no_access(what: str, error: Exception) -> BackendError:
    return BackendError(
        f"No access to {what}: {type(error).__name__}: {error} (An account is saved once with "
        "QiskitRuntimeService.save_account(token=..., instance=...).)"
    )


def is_fake(backend: BackendV2) -> bool:
    """Whether it is a snapshot, to be simulated here."""
    return isinstance(backend, FakeBackendV2)


def is_ibm(backend: BackendV2) -> bool:
    """Whether jobs go to IBM's service."""
    return isinstance(backend, IBMBackend)


def local(
    noise: NoiseModel | BackendV2 | None,
    *,
    name: str,
    resilience: int = 0,
    seed: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> Destination:
    """IBM's Estimator on a simulated patch, with twirling and mitigation really applied.

    Args:
        noise: a device, a model, or None; see `destinations.aer`.
        name: for reports.
        resilience: level 0, 1 or 2.
        seed: of shots and twirls.
        options: of the Estimator, as nested dictionaries.

    Raises:
        ValueError: options that are not known or have no effect.
    """
    given = estimator_options(resilience, options)
    if "angle_decimals" not in ((options or {}).get("simulator") or {}):
        given.simulator.angle_decimals = 12  # the default rounds angles to 1.6e-5
    if resilience and given.twirling.num_randomizations == "auto":
        given.twirling.num_randomizations = LOCAL_RANDOMIZATIONS

    def prepare(template: Template) -> Prepared:
        prepared, model = simulated(template, noise)
        width = prepared.template.circuit.num_qubits
        settings = OPTIONS if model is None else noisy_options(width) | {"noise_model": model}
        estimator = Estimator(AerSimulator(**settings), given.model_copy(deep=True))
        return replace(prepared, estimator=estimator)

    about: dict[str, object] = {"mode": "local", "resilience": resilience}
    if isinstance(noise, BackendV2):
        about["calibration_time"] = calibration_time(noise)
    return Destination(
        name=name,
        prepare=prepare,
        default_shots=default_shots(given),
        executed_shots=executed_shots(given),
        limits=_LOCAL_LIMITS,
        keeps_shots=True,
        limits_rzz=isinstance(noise, FakeBackendV2),
        is_transpiled=noise is not None,
        reseed=None if seed is None else _reseed,
        about={**about, "options": dict(options or {})},
    )


def _reseed(estimator: BaseEstimatorV2, seed: int) -> None:
    estimator.options.simulator.seed_simulator = seed


class DeviceEstimator(BaseEstimatorV2):
    """IBM's Estimator for a device, in a batch or session that is opened with the first job.

    The client joins whatever batch is open around it, also where a backend is given as the mode:
    jobs are sent from a context that knows of none.
    """

    def __init__(self, backend: BackendV2, mode: str, options: EstimatorOptions) -> None:
        self._backend = backend
        self._mode = mode
        self._options = options
        self._open: Batch | Session | None = None

    def run(
        self, pubs: Iterable[EstimatorPubLike], *, precision: float | None = None
    ) -> BasePrimitiveJob[PrimitiveResult[PubResult], Any]:
        """See `BaseEstimatorV2.run`."""
        job: BasePrimitiveJob[PrimitiveResult[PubResult], Any]
        job = Context().run(lambda: self._estimator.run(pubs, precision=precision))
        return job

    @cached_property
    def _estimator(self) -> BaseEstimatorV2:
        if self._mode == "job":
            return Estimator(self._backend, self._options)
        self._open = (Batch if self._mode == "batch" else Session)(self._backend)
        return Estimator(self._open, self._options)

    def close(self) -> None:
        """End the batch or session; jobs that wait still run."""
        if self._open is not None:
            self._open.close()
            self._open = None
            del self._estimator


def device(
    backend: BackendV2,
    *,
    mode: str = "job",
    resilience: int = 0,
    options: Mapping[str, Any] | None = None,
) -> Destination:
    """One of IBM's devices, through the service.

    Args:
        backend: of a `QiskitRuntimeService`.
        mode: job, batch or session.
        resilience: level 0, 1 or 2.
        options: of the Estimator, as nested dictionaries.

    Raises:
        ValueError: unknown mode, or options that are not known or have no effect.
    """
    given = estimator_options(resilience, options)
    if "simulator" in (options or {}):
        raise ValueError("simulator in options has no effect on a real device; leave it out.")
    estimator = DeviceEstimator(backend, mode, given)
    return Destination(
        name=backend.name,
        prepare=lambda template: replace(embedded(template, backend), estimator=estimator),
        default_shots=default_shots(given),
        executed_shots=executed_shots(given),
        limits=_DEVICE_LIMITS,
        jobs_in_flight=_DEVICE_JOBS_IN_FLIGHT,
        keeps_shots=True,
        limits_rzz=True,
        about={
            "mode": mode,
            "resilience": resilience,
            "options": dict(options or {}),
            "calibration_time": calibration_time(backend),
        },
        close=estimator.close,
    )


def estimator_options(
    resilience: int, options: Mapping[str, Any] | None = None
) -> EstimatorOptions:
    """Checked options of IBM's Estimator.

    Raises:
        ValueError: naming the option that is unknown, wrong, or without effect.
    """
    given = dict(options or {})
    if "resilience_level" in given:
        raise ValueError("Give the resilience level as resilience=..., not in options.")
    for name in ("default_shots", "default_precision"):
        if name in given:
            raise ValueError(f"Give shots=... or precision=..., not {name} in options.")
    if "seed_simulator" in (given.get("simulator") or {}):
        raise ValueError("Give seed=..., not simulator.seed_simulator in options.")
    try:
        found = EstimatorOptions(resilience_level=resilience, **given)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "options"
        raise ValueError(
            f"Option {where!r} of the Estimator: {first['msg']}; got {first['input']!r}."
        ) from error
    twirling = found.twirling
    if "auto" not in (twirling.num_randomizations, twirling.shots_per_randomization):
        raise ValueError(
            "With both twirling.num_randomizations and twirling.shots_per_randomization set the "
            "Estimator ignores the shots that are asked for; set one of them at most."
        )
    return found


def executed_shots(options: EstimatorOptions) -> Callable[[int], tuple[int, int]]:
    """Shots asked for -> shots executed for each row, and for each job besides.

    Twirling rounds up to whole randomizations, zero-noise extrapolation runs every row once for
    each noise factor, readout mitigation adds one calibration circuit to a job. What probabilistic
    error cancellation needs depends on the noise, and is not counted.
    """
    final = finalize_estimator_options(options)
    twirling, zne = final.twirling, final.resilience.zne
    factors = 1
    if final.resilience.zne_mitigation:
        factors = 3 if zne.noise_factors == "auto" else len(zne.noise_factors)

    def executed(shots: int) -> tuple[int, int]:
        if twirling.enable_gates or twirling.enable_measure:
            randomizations, each = calculate_twirling_shots(
                shots, twirling.num_randomizations, twirling.shots_per_randomization
            )
            shots = randomizations * each
        return factors * shots, shots if final.resilience.measure_mitigation else 0

    return executed


def default_shots(options: EstimatorOptions) -> int:
    """Shots per row where nothing is asked for."""
    return int(options.default_shots or shots_of(options.default_precision))
