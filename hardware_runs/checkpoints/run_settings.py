"""Where and how a run is sent, as a command line says it: checked, and compared with a run's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hardware_runs.checkpoints.usage import UsageError
from hardware_runs.durable_engine.status import noise_of
from noise_models.words import has_device, parse_noise
from qpc_qiskit.backends.named import AER
from qpc_qiskit.backends.opening import MODES
from qpc_qiskit.common.files import parse_json, read_file
from qpc_qiskit.engines.estimator import checked_precision
from qpc_qiskit.options.economy import PLAIN, Economy, economy_of, economy_problems
from qpc_qiskit.rows.pubs import shots_of


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where and how a run is sent."""

    backend: str
    mode: str = "job"
    shots: int | None = None
    """None: the backend's default, exact on aer."""
    precision: float | None = None
    """Standard error of every value, instead of shots; 0: exact."""
    resilience: int = 0
    noise: str | None = None
    """On aer: what `parse_noise` takes."""
    options: Mapping[str, Any] | None = None
    """Of what runs the circuits."""
    dedupe: bool = True
    """Whether pixels of equal direction are run once."""
    economy: Economy = PLAIN
    """How circuits are kept short, and how rows share executions."""
    seed: int | None = None
    max_qpu_seconds: float | None = None

    @property
    def is_device(self) -> bool:
        """Whether jobs are paid."""
        return self.backend.startswith("ibm_")

    @property
    def is_exact(self) -> bool:
        """Whether values have no shot noise."""
        has_shots = self.backend != AER or bool(self.resilience) or self.shots is not None
        return self.precision == 0 or (self.precision is None and not has_shots)

    def for_engine(self) -> dict[str, Any]:
        """The arguments of `planning_engine` and `durable` that these settings are.

        Raises:
            ValueError: unknown noise.
        """
        given: dict[str, Any] = {
            "mode": self.mode,
            "shots": self.shots,
            "precision": self.precision,
            "resilience": self.resilience,
            "options": dict(self.options) if self.options else None,
        }
        if self.noise is not None:
            given["noise_model"] = parse_noise(self.noise)
        if not self.dedupe:
            given["dedupe_grid"] = None
        return given | self.economy.for_engine()

    def for_qubits(self, num_qubits: int) -> Settings:
        """The same with the reference rows counted; see `Economy.for_qubits`.

        Raises:
            UsageError: an option does not go with so many qubits.
        """
        try:
            return replace(self, economy=self.economy.for_qubits(num_qubits))
        except ValueError as error:
            raise UsageError(str(error)) from error


def check_settings(settings: Settings) -> None:
    """Refuse settings that contradict each other or have no effect, as `qpc evaluate` does.

    Raises:
        UsageError: they do.
    """
    backend, budget = settings.backend, settings.max_qpu_seconds
    if settings.noise is not None:
        try:
            parse_noise(settings.noise)
        except ValueError as error:
            raise UsageError(f"--noise: {error}") from error
    problems = [
        (
            settings.mode not in MODES,
            f"--mode must be one of {', '.join(MODES)}; got {settings.mode!r}.",
        ),
        (
            settings.shots is not None and settings.precision is not None,
            "--shots and --precision contradict each other; give one (precision = 1/sqrt(shots)).",
        ),
        (
            settings.noise is not None and backend != AER,
            f"--noise belongs to --backend aer; {backend} has its own noise.",
        ),
        (
            settings.precision == 0 and backend.startswith("fake_"),
            f"--precision 0 asks for exact values; under the noise of {backend} those are "
            f"--backend aer --noise {backend}.",
        ),
        (
            settings.seed is not None and settings.is_device,
            "--seed has no effect on a real device; leave it out.",
        ),
        (
            settings.seed is not None and settings.is_exact,
            "--seed has no effect on exact values; give --shots or --precision, or leave it out.",
        ),
        (budget is not None and not 0 < budget < math.inf, budget_problem(budget)),
        (
            budget is not None and backend == AER,
            "--max-qpu-seconds has no effect on aer, which is no device; leave it out.",
        ),
        (
            settings.mode == "session" and settings.is_device and budget is None,
            "--mode session is billed by the clock: it needs --max-qpu-seconds.",
        ),
    ]
    for is_wrong, message in problems:
        if is_wrong:
            raise UsageError(message)
    for message in economy_problems(
        settings.economy,
        has_device=backend != AER or has_device(settings.noise or ""),
        has_noise=backend != AER or settings.noise is not None,
        is_exact=settings.is_exact,
    ):
        raise UsageError(message)


def budget_problem(budget: float | None) -> str:
    """What is wrong with a budget that is none."""
    return f"--max-qpu-seconds must be a number above 0; got {budget}."


def parse_options(text: str) -> dict[str, Any]:
    """Options of what runs the circuits: a JSON object, or @ and the name of a file with one.

    Raises:
        UsageError: neither.
    """

    def problem(reason: str) -> UsageError:
        return UsageError(f"--options must be a JSON object, or @FILE with one: {reason}")

    content: str | bytes = text
    if text.startswith("@"):
        try:
            content = read_file(Path(text[1:]), problem)
        except OSError as error:
            raise UsageError(f"--options: cannot read {text[1:]}: {error.strerror}.") from error
    found = parse_json(content, text[:50], problem)
    if not isinstance(found, dict):
        raise problem(f"got {text[:50]!r}.")
    return found


def differences(
    run_settings: Mapping[str, Any], settings: Settings
) -> Iterator[tuple[str, object, object]]:
    """Name, value of the run, value now: of what is not as the run was begun with.

    Args:
        run_settings: of the ledger.
        settings: of now, its reference rows counted.
    """
    then = run_settings["precision"]
    now = checked_precision(settings.precision, settings.shots)
    if then != now:
        if settings.precision is None:
            yield "shots", _shots(then), _shots(now)
        else:
            yield "precision", then, now
    begun, asked = (
        each.to_dict() for each in (economy_of(run_settings["engine_options"]), settings.economy)
    )
    pairs = {
        "backend": (run_settings["backend"], settings.backend),
        "mode": (run_settings["mode"], settings.mode),
        "resilience": (run_settings["resilience"], settings.resilience),
        "noise": (noise_of(run_settings), settings.noise),
        "options": (run_settings["options"] or None, settings.options or None),
        "no-dedupe": (run_settings["dedupe_grid"] is None, not settings.dedupe),
        "seed": (run_settings["seed"], settings.seed),
        **{
            name.replace("_", "-"): (begun[name], asked[name])
            for name in begun
            if name != "calibrate"
        },
        "no-calibrate": (not begun["calibrate"], not asked["calibrate"]),
    }
    for name, (old, new) in pairs.items():
        if old != new:
            yield name, old, new


def _shots(precision: float | None) -> object:
    return "exact values" if precision == 0 else None if precision is None else shots_of(precision)
