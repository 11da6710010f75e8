"""The options of engines that run circuits: one record, however they are given.

    names, types, defaults, texts     fields of `EngineOptions`
    contradictions                    its validator: whoever makes one is told
    what has no effect where          `IDLE`, asked by whoever knows where the circuits run
    what a command refuses as well    `check_asked`, before anything is loaded
    on a command line                 a `Flag` beside a field; `qpc_cli.flags` makes typer options
    in Python                         the same names are keywords of `EstimatorEngine`, its
                                      `from_backend`, `planning_engine` and `durable`
    in the ledger                     `for_run`, and `of_run` to read it

`Economy` is the part that a plan compares and a report tells: how circuits are kept short and rows
share executions. `NoisyOptions` is the part that the noisy engine has as well. A field may hold an
object that only Python has (a backend, an Aer noise model, a service); what a command line, a
ledger or a report needs of it are plain values. Nothing heavy is imported.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Self

from pydantic import model_validator

from qpc_qiskit.common.checks import number_of_qubits, positive_integer
from qpc_qiskit.options.economy import AS_IT_IS, BEST, CircuitOptions, Economy, check_encoder
from qpc_qiskit.options.fields import Flag, OptionError

AER = "aer"
MODES = ("job", "batch", "session")
GRID = 2.0**-20
"""Directions whose components round to the same multiples of this are run once."""
FINEST_GRID = 2.0**-52
"""Finer cells have no integers."""
FINEST_PRECISION = 1e-6
"""A trillion shots; finer is a slip of the pen."""

OF_ESTIMATOR = (
    "precision", "shots", "dedupe_grid", "gradients", "encoder", "absorb_tail", "num_references",
    "calibrate", "limits", "max_qpu_seconds", "seed",
)  # fmt: skip
"""Options of `EstimatorEngine` itself, whoever runs the circuits."""

IDLE = {
    "aer": ("mode", "service", "use_fractional_gates"),
    "aer without a device": ("qubits", "num_patches"),
    "aer with resilience": ("device",),
    "noise": ("noise_model",),
    "no simulator": ("device",),
    "no name of IBM's": ("service", "use_fractional_gates"),
    "exact values": ("options",),
    "device": ("seed",),
    "vendor": ("mode", "resilience"),
}
"""What has no effect where circuits run: on Aer, where there is noise already, on a snapshot whose
exact values are asked for, on a device of IBM's, on any other vendor's."""

_NO_DEVICE = (
    " has no effect on aer, which is no device; leave it out, or give the noise of one "
    "({noise_model} fake_...)."
)
_WORDED = {
    "noise_model": "{noise_model} belongs to {backend} aer; {where} has its own noise.",
    "num_patches": "{num_patches}" + _NO_DEVICE,
}
"""Of options whose place is to be told; of the others, that they have no effect."""


class NoisyOptions(CircuitOptions):
    """Options of the noisy engine that a command line has as well."""

    noise_model: Annotated[
        Any, Flag(name="noise", metavar="SPEC", note="default none"), AS_IT_IS
    ] = None
    """Noise on aer: a device's name, for its noise on its best patch; a channel such as
    depolarizing:0.01; a name of the catalog (`qpc noise list`); or a file, .toml or .json."""
    shots: Annotated[int | None, Flag(low=1, note="default: exact on aer, else 4096"), AS_IT_IS] = (
        None
    )
    """Per circuit execution."""
    seed: Annotated[int | None, Flag(low=0), AS_IT_IS] = None
    """Of shots and twirls; not for a real device."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_types(self)
        for problem in self._problems():
            raise problem
        return self

    def _problems(self) -> Iterator[OptionError]:
        if self.seed is not None and self.shots is None:
            yield OptionError(
                "{seed} has no effect on exact values; give {shots}, or leave it out."
            )
        if self.absorb_tail and self.shots is not None:
            yield OptionError(
                "{absorb_tail} measures parities, which would share their shots with {engine} "
                "noisy; leave out {shots}, or use {engine} estimator."
            )


class EngineOptions(Economy, NoisyOptions):
    """Where and how circuits run: arguments of `EstimatorEngine.from_backend`, and of commands."""

    backend: Annotated[Any, Flag(metavar="NAME"), AS_IT_IS] = AER
    """aer, a snapshot of a device such as fake_torino, ibm_... (paid), or what another package
    offers; `qpc backends` lists them."""
    precision: Annotated[float | None, Flag(low=0), AS_IT_IS] = None
    """Standard error of every value, instead of shots; 0: exact, on simulators."""
    resilience: Annotated[int, Flag(low=0, high=2), AS_IT_IS] = 0
    """IBM's level: 0 none, 1 readout mitigation, 2 also zero-noise extrapolation."""
    mode: Annotated[str, Flag(metavar="|".join(MODES)), AS_IT_IS] = "job"
    """Of IBM's devices."""
    options: Annotated[Mapping[str, Any] | None, Flag(metavar="JSON", is_json=True), AS_IT_IS] = (
        None
    )
    """Options of IBM's Estimator (on aer without resilience: of AerSimulator): a JSON object, or
    @FILE with one."""
    dedupe_grid: Annotated[float | None, Flag(name="no-dedupe", switch=(None,)), AS_IT_IS] = GRID
    """Run pixels of equal direction each on its own."""
    max_qpu_seconds: Annotated[float | None, AS_IT_IS] = None
    """Budget of the run: no job is sent that could exceed it."""
    gradients: Annotated[Any, AS_IT_IS] = "shift"
    """How derivatives become rows; see `EstimatorEngine`, as for the following."""
    limits: Annotated[Any, AS_IT_IS] = None
    """Of a job, instead of the backend's own."""
    device: Annotated[str, AS_IT_IS] = "CPU"
    """Of Aer: CPU or GPU."""
    service: Annotated[Any, AS_IT_IS] = None
    """Through which a device of IBM's is found by name."""
    use_fractional_gates: Annotated[bool, AS_IT_IS] = False
    """Of IBM's devices."""
    qubits: Annotated[Any, AS_IT_IS] = None
    """Of a device, one for each of the layer's, instead of its best patch."""

    def _problems(self) -> Iterator[OptionError]:
        """What is wrong whatever runs the circuits."""
        if self.mode not in MODES:
            yield OptionError(
                f"{{mode}} must be one of {', '.join(MODES)}; got {{got!r}}.", got=self.mode
            )
        if self.resilience not in (0, 1, 2):
            yield OptionError(
                "Unknown resilience level {got!r}; expected 0, 1 or 2.", got=self.resilience
            )
        if self.shots is not None and self.precision is not None:
            yield OptionError(
                "{shots} and {precision} contradict each other; give one (precision = "
                "1/sqrt(shots))."
            )
        precision = self.precision
        if precision and not FINEST_PRECISION <= precision < math.inf:
            yield OptionError(
                f"{{precision}} must be 0 (exact) or a finite number of at least "
                f"{FINEST_PRECISION:g}, got {precision!r}."
            )
        grid = self.dedupe_grid
        if grid is not None and not FINEST_GRID <= grid < 1:
            yield OptionError(
                f"{{dedupe_grid}} must be at least {FINEST_GRID:.2g} and below 1, or None, got "
                f"{grid!r}."
            )
        if precision == 0 and self.resilience:
            yield OptionError(
                "{precision}=0 asks for exact values, which resilience cannot improve; give shots."
            )
        if self.qubits is not None and (self.num_patches != 1 or self.gap):
            yield OptionError("{qubits} are those of one patch: leave out num_patches and gap.")
        if self.num_patches is not None:
            positive_integer("num_patches", self.num_patches)
        number_of_qubits("gap", self.gap)
        if self.gap and self.num_patches == 1:
            yield OptionError(
                "{gap} has no effect on one patch; give {num_patches}, or leave it out."
            )
        if self.num_references is not None and self.num_references != 0:
            positive_integer("num_references", self.num_references)
        if not self.calibrate and self.num_references == 0:
            yield OptionError("{calibrate} has no effect without {num_references}; leave it out.")

    @classmethod
    def of(cls, backend: Any, **options: Any) -> Self:
        """The record of a backend and options by keyword; of one that has both, with no other.

        Raises:
            TypeError: there is no such option, or there are others.
            OptionError: a value that is wrong, or options that contradict each other.
        """
        if not isinstance(backend, EngineOptions):
            return cls.read(backend=backend, **options)
        if options:
            raise TypeError(f"{', '.join(options)} beside an EngineOptions: give it with them.")
        return cls.model_validate(backend)

    def refuse(self, places: Iterable[str], where: str) -> None:
        """Refuse options that have no effect where the circuits run.

        Args:
            places: keys of `IDLE`.
            where: what that is, in words.

        Raises:
            OptionError: one was given.
        """
        for option in (each for place in places for each in IDLE[place]):
            if self.is_given(option):
                text = _WORDED.get(
                    option, f"{{{option}}} has no effect on {{where}}; leave it out."
                )
                raise OptionError(text, where=where)

    def check_asked(self, *, has_device_noise: bool, is_durable: bool) -> None:
        """Refuse what a command cannot mean, before anything is loaded.

        Args:
            has_device_noise: whether the noise is that of a device, on whose qubits circuits stand.
            is_durable: for a durable run, whose budget is kept in the ledger.

        Raises:
            OptionError: an option that has no effect, or is wrong.
        """
        for problem in self._asked(has_device_noise, is_durable):
            raise problem

    def _asked(self, has_device_noise: bool, is_durable: bool) -> Iterator[OptionError]:
        backend, budget = self.backend, self.max_qpu_seconds
        has_device = backend != AER or has_device_noise
        has_noise = backend != AER or self.noise_model is not None
        if backend != AER:
            self.refuse(["noise"], backend)
        if is_durable and self.precision == 0 and backend.startswith("fake_"):
            yield OptionError(
                "{precision} 0 asks for exact values; under the noise of {name} those are "
                "{backend} aer {noise_model} {name}.",
                name=backend,
            )
        if self.is_paid:
            self.refuse(["device"], "a real device")
        exact = "{%s} has no effect on exact values; give {shots} or {precision}, or leave it out."
        if self.seed is not None and self.is_exact:
            yield OptionError(exact % "seed")
        if budget is not None and not 0 < budget < math.inf:
            yield budget_error(budget)
        if budget is not None and self.is_exact and not is_durable:
            yield OptionError(exact % "max_qpu_seconds")
        if budget is not None and (backend == AER if is_durable else not has_device):
            yield OptionError(
                "{max_qpu_seconds} has no effect on aer, which is no device; leave it out."
            )
        if is_durable and self.mode == "session" and self.is_paid and budget is None:
            yield OptionError("{mode} session is billed by the clock: it needs {max_qpu_seconds}.")
        check_encoder(self.encoder)
        if self.economy == BEST and not has_device:
            yield OptionError("{economy} best" + _NO_DEVICE)
        if not has_device:
            self.refuse(["aer without a device"], AER)
        if self.num_references != 0 and self.is_exact and not has_noise:
            yield OptionError(
                "{num_references} has no effect on exact values without noise; leave it out."
            )

    @property
    def is_paid(self) -> bool:
        """Whether jobs go to a device of IBM's."""
        return isinstance(self.backend, str) and self.backend.startswith("ibm_")

    @property
    def is_exact(self) -> bool:
        """Whether values have no shot noise, by what a command line says."""
        has_shots = self.backend != AER or bool(self.resilience) or self.shots is not None
        return self.precision == 0 or (self.precision is None and not has_shots)

    @property
    def standard_error(self) -> float | None:
        """Asked of every value, by shots or precision; 0: exact, None: as the backend has it."""
        return self.precision if self.shots is None else precision_of(self.shots)

    def of_estimator(self) -> dict[str, Any]:
        """Keywords of `EstimatorEngine`."""
        return {name: value for name, value in self.given().items() if name in OF_ESTIMATOR}

    @classmethod
    def of_run(cls, settings: Mapping[str, Any]) -> Self:
        """The options that a durable run was begun with, by its settings in the ledger.

        Noise is its name, or the digest of what has none; shots are told as their precision.
        """
        told = {name: settings.get(name) for name in _OF_RUN}  # a script may keep nothing of it
        told["dedupe_grid"] = settings.get("dedupe_grid", GRID)
        told["options"] = told["options"] or None
        return cls.model_construct(**told | dict(settings.get("engine_options", {})))

    def for_run(self) -> dict[str, Any]:
        """The settings of a durable run; `engine_options` has what differs from the defaults.

        Who asks, and how much at a time, is left out: a run goes on with other limits.
        """
        without = (*_OF_RUN, "shots", "service", "limits", "max_qpu_seconds")
        return {
            **{name: getattr(self, name) for name in _OF_RUN},
            "precision": self.standard_error,
            "options": dict(self.options or {}),
            "engine_options": self.given(*without),
        }


_OF_RUN = ("backend", "mode", "precision", "resilience", "options", "seed", "dedupe_grid")
"""That have a key of their own in the settings of a run."""


def budget_error(budget: float | None) -> OptionError:
    """That a budget is none."""
    return OptionError(f"{{max_qpu_seconds}} must be a number above 0; got {budget}.")


def _check_types(options: NoisyOptions) -> None:
    """Refuse what is no number of shots or no truth value."""
    for name in ("absorb_tail", "calibrate"):
        value = getattr(options, name, True)
        is_open = name == "absorb_tail" and value is None
        if not is_open and not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, got {value!r}.")
    if options.shots is not None:
        positive_integer("shots", options.shots)


def shots_of(precision: float) -> int:
    """Shots that Qiskit's primitives take for a precision: ceil(1 / precision**2)."""
    return math.ceil(1 / precision**2)


def precision_of(shots: int) -> float:
    """The precision for which Qiskit's primitives take exactly this many shots.

    1/sqrt(shots) itself may round to one shot more (1000 -> 1001).
    """
    precision = 1 / math.sqrt(shots)
    while shots_of(precision) > shots:
        precision = math.nextafter(precision, math.inf)
    return precision
