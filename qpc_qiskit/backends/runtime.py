"""IBM's client: fake devices and real ones, by name, as destinations.

The only module that imports qiskit_ibm_runtime (the stand-in of the service apart). A copy of a
device on a laptop and the device itself get their rows through the same Estimator; they differ in
the width of the circuit, since the Estimator measures every qubit of it and no simulator holds 133.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import Context
from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import ValidationError
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterExpression
from qiskit.primitives import (
    BaseEstimatorV2,
    BasePrimitiveJob,
    EstimatorPubLike,
    PrimitiveResult,
    PubResult,
)
from qiskit.providers import BackendV2
from qiskit.providers.exceptions import QiskitBackendNotFoundError
from qiskit_aer import AerSimulator

from qpc_qiskit.backends.aer import OPTIONS, AerEstimator, noisy_options
from qpc_qiskit.backends.destinations import (
    ONE_PATCH,
    Destination,
    JobSettings,
    Packing,
    calibration_time,
    device_cost,
    embedded,
    noise_on,
    simulated,
)
from qpc_qiskit.backends.patchwise import PatchwiseEstimator, patch_by_patch
from qpc_qiskit.common.extras import importing
from qpc_qiskit.devices.forecast import JobCost, cap_seconds
from qpc_qiskit.devices.noise import Noise
from qpc_qiskit.errors import BackendError, EngineError, FetchError
from qpc_qiskit.options.engine import shots_of
from qpc_qiskit.rows.prepared import Prepared
from qpc_qiskit.rows.pubs import JobLimits

with importing("ibm", "Every backend of IBM's"):
    from qiskit_ibm_runtime import Batch, IBMBackend, QiskitRuntimeService, Session, fake_provider
    from qiskit_ibm_runtime.api.exceptions import RequestsApiError
    from qiskit_ibm_runtime.exceptions import IBMRuntimeError
    from qiskit_ibm_runtime.executor.calculate_twirling_shots import calculate_twirling_shots
    from qiskit_ibm_runtime.executor_estimator import Estimator
    from qiskit_ibm_runtime.executor_estimator.finalize_options import finalize_estimator_options
    from qiskit_ibm_runtime.fake_provider.fake_backend import FakeBackendV2
    from qiskit_ibm_runtime.models import GateConfig
    from qiskit_ibm_runtime.options_models import EstimatorOptions
    from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

LOCAL_RANDOMIZATIONS = 8
"""Twirls of a row on a laptop, where each costs a simulation; IBM's own default is 32."""

FETCH_ATTEMPTS = 8

_LOCAL_LIMITS = JobLimits(max_rows=512, max_bytes=2**29)
_DEVICE_LIMITS = JobLimits(max_bytes=2**29, max_executions=10_000_000, max_qpu_seconds=600)
_DEVICE_JOBS_IN_FLIGHT = 4  # the service takes five submissions a minute


def fake_devices() -> dict[str, type[FakeBackendV2]]:
    """The snapshots of devices that come with IBM's client, by name."""
    classes: list[Any] = [kind for _, kind in inspect.getmembers(fake_provider, inspect.isclass)]
    found = {kind.backend_name: kind for kind in classes if issubclass(kind, FakeBackendV2)}
    return dict(sorted(found.items()))


def ibm_backends(service: QiskitRuntimeService | None = None) -> list[BackendV2]:
    """The devices of an account; `read_target` asks each what it tells of itself.

    Args:
        service: None: that of the client's saved account or environment.

    Raises:
        BackendError: no account, or no access.
    """
    try:
        service = service or QiskitRuntimeService()
        found = list(service.backends(simulator=False))
        if not found:
            _ask(service)
    except Exception as error:
        raise _no_access("IBM's devices", error) from error
    return found


def ibm_backend(
    name: str, service: QiskitRuntimeService | None = None, use_fractional_gates: bool = False
) -> BackendV2:
    """A device of an account.

    Args:
        name: `ibm_...`.
        service: None: that of the client's saved account or environment.
        use_fractional_gates: whether it has gates of any angle.

    Raises:
        BackendError: no account, no access, no such device, or none whose description is whole.
    """
    try:
        if service is None:
            service = QiskitRuntimeService()
        try:
            found = service.backend(name, use_fractional_gates=use_fractional_gates)
        except QiskitBackendNotFoundError:
            _ask(service)
            raise
    except Exception as error:  # an account, a network or a name: the client has errors for each
        raise _no_access(name, error) from error
    read_target(found)
    return found


def read_target(backend: BackendV2) -> None:
    """Have the client ask for a device's properties and build its target, which it keeps.

    Args:
        backend: of IBM's service.

    Raises:
        BackendError: it cannot.
    """
    try:
        _say_where_instructions_are(backend.configuration(), backend.properties())
        _ = backend.target
    except Exception as error:  # of the network, or of whatever the properties lack
        raise BackendError(
            f"{backend.name}: its target cannot be built from what the service tells of it "
            f"({type(error).__name__}: {error}). `qpc backends --ibm` lists the other devices."
        ) from error


def _say_where_instructions_are(configuration: Any, properties: Any) -> None:
    """Give each instruction that has properties and no coupling map the map of its properties.

    Such is `reset`. The client (0.51) begins such a map with the first properties; where those are
    of a qubit that is not operational, its TypeError is all that is known of the device.
    """
    gates = {gate.name: gate for gate in configuration.gates}
    places: dict[str, list[list[int]]] = {}
    for told in properties.gates if properties else ():
        places.setdefault(told.gate, []).append(list(told.qubits))
    for name, coupling_map in places.items():
        if name not in gates:
            configuration.gates.append(GateConfig(name, [], "", coupling_map=coupling_map))
        elif not getattr(gates[name], "coupling_map", None):
            gates[name].coupling_map = coupling_map


def _ask(service: QiskitRuntimeService) -> None:
    """Fail as the service does: the client takes an error of the list of devices for an empty one.

    Raises:
        Exception: the token was refused, the service is down, ...
    """
    service.usage()


def _no_access(what: str, error: Exception) -> BackendError:
    advice = (
        "`qpc backends --ibm` lists the devices of your account."
        if isinstance(error, QiskitBackendNotFoundError)
        else "An account is saved once with "
        "QiskitRuntimeService.save_account(token=..., instance=...)."
    )
    return BackendError(f"No access to {what}: {type(error).__name__}: {error} ({advice})")


def is_fake(backend: BackendV2) -> bool:
    """Whether it is a snapshot; `named.is_fake` asks without the client as well."""
    return isinstance(backend, FakeBackendV2)


def is_ibm(backend: BackendV2) -> bool:
    """Whether jobs go to IBM's service; `named.is_ibm` asks without the client as well."""
    return isinstance(backend, IBMBackend)


def local(
    noise: Noise | None,
    *,
    name: str,
    resilience: int = 0,
    seed: int | None = None,
    options: Mapping[str, Any] | None = None,
    qubits: Sequence[int] | None = None,
    packing: Packing = ONE_PATCH,
) -> Destination:
    """IBM's Estimator on simulated patches, with twirling and mitigation really applied.

    Args:
        noise: a device, a model, or None; see `destinations.aer`.
        name: for reports.
        resilience: level 0, 1 or 2.
        seed: of shots and twirls.
        options: of the Estimator, as nested dictionaries.
        qubits: of the device, instead of its best patch.
        packing: of the device.

    Raises:
        ValueError: options that are not known or have no effect.
    """
    given = estimator_options(resilience, options)
    if "angle_decimals" not in ((options or {}).get("simulator") or {}):
        given.simulator.angle_decimals = 12  # the default rounds angles to 1.6e-5
    if resilience and given.twirling.num_randomizations == "auto":
        given.twirling.num_randomizations = LOCAL_RANDOMIZATIONS

    def connect(prepared: Prepared) -> BaseEstimatorV2:
        model = noise_on(prepared, noise)
        circuit = prepared.template.circuit
        if mixes_parameters(circuit):
            if resilience or options:
                raise EngineError(
                    f"{name} has gates such as {GENERAL_GATE}, of which IBM's Estimator cannot "
                    "take parameters and numbers together: leave out resilience and options, or "
                    "choose a newer device."
                )
            return AerEstimator(model, seed=seed, default_shots=default_shots(given))
        width = circuit.num_qubits
        settings = OPTIONS if model is None else noisy_options(width) | {"noise_model": model}
        return Estimator(AerSimulator(**settings), given.model_copy(deep=True))

    def configure(estimator: BaseEstimatorV2, settings: JobSettings) -> None:
        if isinstance(estimator, Estimator):
            estimator.options.simulator.seed_simulator = settings.seed
        elif isinstance(estimator, PatchwiseEstimator):
            for j, each in enumerate(estimator.estimators):  # shots of their own
                seed = np.random.SeedSequence([settings.seed or 0, j]).generate_state(1)[0]
                configure(each, replace(settings, seed=int(seed)))

    about: dict[str, object] = {"mode": "local", "resilience": resilience}
    if isinstance(noise, BackendV2):
        about["calibration_time"] = calibration_time(noise)
    return Destination(
        name=name,
        prepare=lambda template: simulated(
            template, noise, qubits, packing, inverts=not _mitigates_readout(given)
        ),
        connect=patch_by_patch(connect),
        cost=cost_with(given),
        default_shots=default_shots(given),
        limits=_LOCAL_LIMITS,
        keeps_shots=True,
        limits_rzz=isinstance(noise, FakeBackendV2),
        is_transpiled=noise is not None,
        configure=None if seed is None else configure,
        about={**about, "options": dict(options or {})},
    )


GENERAL_GATE = "u3(theta, 0, 0)"


def mixes_parameters(circuit: QuantumCircuit) -> bool:
    """Whether a gate has both parameters and numbers, as u3 of the oldest snapshots."""
    return any(
        len({isinstance(value, ParameterExpression) for value in gate.operation.params}) > 1
        for gate in circuit.data
    )


class DeviceEstimator(BaseEstimatorV2):
    """IBM's Estimator for a device, in a batch or session that is opened with the first job.

    The client joins whatever batch is open around it, also where a backend is given as the mode:
    jobs are sent from a context that knows of none.

    Args:
        backend: of a `QiskitRuntimeService`.
        mode: job, batch or session.
        options: of the Estimator.
        max_session_seconds: after which the service ends a session, which is billed by the clock.
    """

    def __init__(
        self,
        backend: BackendV2,
        mode: str,
        options: EstimatorOptions,
        max_session_seconds: int | None = None,
    ) -> None:
        self._backend = backend
        self._mode = mode
        self.options = options
        self._max_session_seconds = max_session_seconds
        self._open: Batch | Session | None = None

    def run(
        self, pubs: Iterable[EstimatorPubLike], *, precision: float | None = None
    ) -> BasePrimitiveJob[PrimitiveResult[PubResult], Any]:
        """See `BaseEstimatorV2.run`.

        Raises:
            EngineError: the batch or session was ended by the service.
        """
        job: BasePrimitiveJob[PrimitiveResult[PubResult], Any]
        try:
            job = Context().run(lambda: self._estimator().run(pubs, precision=precision))
        except IBMRuntimeError as error:
            if self._open is None or "session is closed" not in str(error):
                raise
            raise EngineError(
                f"The {self._mode} on {self._backend.name} was ended by the service (its time "
                "limit, or somebody). Call the engine's close(), then run again: that opens a new "
                "one."
            ) from error
        return job

    def _estimator(self) -> BaseEstimatorV2:
        if self._mode == "job":
            return Estimator(self._backend, self.options)
        if self._open is None and self._mode == "batch":
            self._open = Batch(self._backend)
        elif self._open is None:
            self._open = Session(self._backend, max_time=self._max_session_seconds)
        return Estimator(self._open, self.options)

    def close(self) -> None:
        """End the batch or session; jobs that wait still run."""
        if self._open is not None:
            ending, self._open = self._open, None
            ending.close()


def device(
    backend: BackendV2,
    *,
    mode: str = "job",
    resilience: int = 0,
    options: Mapping[str, Any] | None = None,
    qubits: Sequence[int] | None = None,
    packing: Packing = ONE_PATCH,
    max_qpu_seconds: float | None = None,
) -> Destination:
    """One of IBM's devices, through the service.

    A job is ended by the service when it takes much longer than predicted, unless the options say
    when.

    Args:
        backend: of a `QiskitRuntimeService`.
        mode: job, batch or session.
        resilience: level 0, 1 or 2.
        options: of the Estimator, as nested dictionaries.
        qubits: to be used; None: the best are chosen.
        packing: on how many patches.
        max_qpu_seconds: also of a session, by the clock.

    Raises:
        ValueError: options that are not known or have no effect.
        BackendError: the device's description is not whole.
    """
    read_target(backend)
    given = estimator_options(resilience, options)
    if "simulator" in (options or {}):
        raise ValueError("simulator in options has no effect on a real device; leave it out.")
    session_seconds = None if max_qpu_seconds is None else max(1, int(max_qpu_seconds))
    estimator = DeviceEstimator(backend, mode, given, session_seconds)

    def configure(_: BaseEstimatorV2, settings: JobSettings) -> None:
        if settings.predicted_seconds is not None:
            estimator.options.max_execution_time = cap_seconds(settings.predicted_seconds)

    return Destination(
        name=backend.name,
        backend=backend,
        prepare=lambda template: embedded(
            template, backend, qubits, packing, inverts=not _mitigates_readout(given)
        ),
        connect=lambda prepared: estimator,
        cost=cost_with(given),
        default_shots=default_shots(given),
        limits=_DEVICE_LIMITS,
        jobs_in_flight=_DEVICE_JOBS_IN_FLIGHT,
        keeps_shots=True,
        limits_rzz=True,
        configure=None if given.max_execution_time is not None else configure,
        fetch=retrying_fetch(time.sleep),
        about={
            "mode": mode,
            "resilience": resilience,
            "options": dict(options or {}),
            "calibration_time": calibration_time(backend),
        },
        close=estimator.close,
    )


def retrying_fetch(sleep: Callable[[float], None]) -> Callable[[Any], Any]:
    """Waits for a job's result through failures of the network or the service.

    Asking again is safe. The client has tried for a quarter of a minute when it reports a failure.

    Args:
        sleep: waits for some seconds.

    Returns:
        A function from a job to its result, which raises `FetchError` when it gives up.
    """
    attempts = Retrying(
        retry=retry_if_exception(_may_pass),
        stop=stop_after_attempt(FETCH_ATTEMPTS),
        wait=wait_exponential(multiplier=2, max=60),
        sleep=sleep,
        reraise=True,
    )

    def fetch(job: Any) -> Any:
        try:
            return attempts(job.result)
        except RequestsApiError as error:
            made = attempts.statistics["attempt_number"]
            raise FetchError(
                f"The result of job {job.job_id()} could not be fetched in {made} "
                f"attempt{'s' * (made != 1)}: {error} The job is not cancelled; once the service "
                f"answers again, QiskitRuntimeService().job({job.job_id()!r}).result() has its "
                "values."
            ) from error

    return fetch


def _may_pass(error: BaseException) -> bool:
    """The client gives -1 for a network that is down and a service that kept failing."""
    status = getattr(error, "status_code", None) if isinstance(error, RequestsApiError) else None
    return status is not None and (status in (-1, 429) or status >= 500)


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


def _mitigates_readout(options: EstimatorOptions) -> bool:
    """Whether readout errors are taken out by the Estimator, or made equal by twirling."""
    final = finalize_estimator_options(options.model_copy(deep=True))
    return bool(final.resilience.measure_mitigation or final.twirling.enable_measure)


def cost_with(options: EstimatorOptions) -> Callable[[Prepared, int], JobCost]:
    """Prepared, shots asked for -> cost of a job with these options.

    Twirling rounds up to whole randomizations, zero-noise extrapolation runs every row once for
    each noise factor, with as many times the gates, and readout mitigation adds one calibration
    circuit to a job. What probabilistic error cancellation needs depends on the noise: then the
    time is not known.
    """
    final = finalize_estimator_options(options)
    resilience, twirling, execution = final.resilience, final.twirling, final.execution
    factors: tuple[float, ...] = (1,)
    if resilience.zne_mitigation:
        told = resilience.zne.noise_factors
        factors = (1, 3, 5) if told == "auto" else tuple(told)

    def cost(prepared: Prepared, shots: int) -> JobCost:
        executed = shots
        calibration = 0
        if twirling.enable_gates or twirling.enable_measure:
            randomizations, each = calculate_twirling_shots(
                shots, twirling.num_randomizations, twirling.shots_per_randomization
            )
            executed = randomizations * each
            calibration = executed
            learning = resilience.measure_noise_learning.num_randomizations
            if learning != "auto":
                calibration = learning * each
        found = device_cost(
            prepared,
            shots,
            len(factors) * executed,
            calibration if resilience.measure_mitigation else 0,
            rep_delay=execution.rep_delay,
            resets=execution.init_qubits,
            folds=sum(factors) / len(factors),
        )
        return replace(found, seconds_per_shot=None) if resilience.pec_mitigation else found

    return cost


def default_shots(options: EstimatorOptions) -> int:
    """Shots per row where nothing is asked for."""
    return int(options.default_shots or shots_of(options.default_precision))
