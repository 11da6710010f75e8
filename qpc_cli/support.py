"""What the commands of `qpc` share: one-line errors, exit codes, what an evaluation costs."""

import json
import math
import os
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn, cast

import typer

from qpc_cli.flags import Given, engine_options, names_of, spelled, usage_errors, worded
from qpc_qiskit.backends.named import check_extra, offers
from qpc_qiskit.common.extras import require
from qpc_qiskit.common.tables import table
from qpc_qiskit.errors import BackendError, PatchesError, QPCError
from qpc_qiskit.options.economy import check_encoder
from qpc_qiskit.options.engine import EngineOptions, NoisyOptions
from qpc_qiskit.options.fields import OptionError

if TYPE_CHECKING:
    from torch import Tensor

    from qpc_qiskit.backends.survey import DeviceSummary, PatchSummary
    from qpc_qiskit.engines import EstimatorEngine, EstimatorReport
    from qpc_qiskit.layer import QuantumLayer
    from qpc_qiskit.nets import ImageClassifier

RUNTIME_ERROR, USAGE_ERROR, PENDING, INTERRUPTED = 1, 2, 75, 130
EXIT_CODES = "Exit codes: 0 done, 1 it failed, 2 wrong usage, 130 interrupted."


def say(as_json: bool, result: dict[str, Any], text: str) -> None:
    """Print a result to stdout, as JSON or as text."""
    typer.echo(json.dumps(_told(result), indent=2, allow_nan=False) if as_json else text)


def _told(value: Any) -> Any:
    """A value for JSON, which has no NaN: what is not known is null."""
    if isinstance(value, Mapping):
        return {key: _told(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_told(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def fail(message: str, code: int) -> NoReturn:
    """Say one line on stderr and leave."""
    typer.echo(f"qpc: {' '.join(message.split())}", err=True)
    raise typer.Exit(code)


@contextmanager
def reported() -> Iterator[None]:
    """Turn the errors that a user can cause into one line and an exit code."""
    try:
        yield
    except (QPCError, OSError) as error:
        if _debug():
            traceback.print_exc()
        fail(_error_text(error), RUNTIME_ERROR)
    except KeyboardInterrupt as stop:
        if _debug():
            traceback.print_exc()
        fail(str(stop) or "Stopped.", INTERRUPTED)


def _error_text(error: Exception) -> str:
    """An error as a sentence; one of the operating system begins with its file."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename2 or error.filename}: {error.strerror}."
    return str(error)


def refuse(message: str) -> NoReturn:
    """Leave, because of wrong usage."""
    fail(message, USAGE_ERROR)


@contextmanager
def backend_errors(flag: str, name: str) -> Iterator[None]:
    """Turn an unknown backend, or an option that does nothing on it, into wrong usage.

    Args:
        flag: whose value the name is; empty for an argument.
        name: of the backend. One of IBM's or of another package may be right, and the access to it
            missing.
    """
    try:
        yield
    except BackendError as error:
        if name.startswith("ibm_") or name in offers():
            raise
        flag = "--patches" if isinstance(error, PatchesError) else flag
        refuse(f"{flag}: {error}" if flag else str(error))
    except QPCError:  # some are ValueErrors as well
        raise
    except OptionError as error:
        refuse(worded(error))
    except ValueError as error:
        refuse(str(error))


def check_extras(given: Given) -> None:
    """Check that what options need is installed, before anything slow is loaded.

    Raises:
        MissingExtra: it is not: a device, as backend or noise, or IBM's Estimator.
    """
    if "backend" in given:
        check_extra(given["backend"])
    if "noise" in given:
        from noise_models.words import is_device

        if is_device(given["noise"]):
            check_extra(given["noise"], "Noise")
    if given.get("resilience"):
        require("ibm", "--resilience")


def options_of(engine: str, given: Given) -> EngineOptions:
    """The options of an engine; leave if they contradict each other or have no effect."""
    of_noisy = names_of(NoisyOptions)
    if engine != "estimator":
        for name in given:
            if engine == "noisy" and name in of_noisy:
                continue
            owners = "noisy or estimator" if name in of_noisy else "estimator"
            why = f"belongs to --engine {owners}; it has no effect with --engine {engine}."
            refuse(f"{spelled(name)} {why}")
    with usage_errors(refuse):
        options = engine_options(given)
        if engine == "noisy":
            if options.noise_model is None:
                refuse("--engine noisy needs --noise, such as fake_torino or depolarizing:0.01.")
            check_encoder(options.encoder)
            NoisyOptions(**{name: getattr(options, name) for name in NoisyOptions.model_fields})
        elif engine == "estimator":
            options.check_asked(
                has_device_noise=_is_of_device(options.noise_model or ""), is_durable=False
            )
    return options


def _is_of_device(noise: str) -> bool:
    from noise_models.words import has_device

    try:
        return has_device(noise)
    except ValueError as error:
        refuse(f"--noise: {error}")


def fitting(options: EngineOptions, layers: "Iterable[QuantumLayer]") -> EngineOptions:
    """The options with all decided that depends on the layers; leave if they do not fit."""
    with usage_errors(refuse):
        return options.for_qubits(max(layer.spec.num_qubits for layer in layers))


class Usage:
    """What an evaluation on an estimator costs, over the calls of all quantum layers.

    Args:
        network: whose layers are watched.
    """

    def __init__(self, network: "ImageClassifier") -> None:
        from qpc_qiskit.nets import quantum_layers

        self._layers = quantum_layers(network)
        self._pixels: dict[str, list[int]] = {name: [] for name in self._layers}
        self._reports: list[tuple[str, EstimatorReport]] = []

    @contextmanager
    def counting_pixels(self) -> Iterator[None]:
        """Count what each call of a layer reads, for `announce`."""

        def count(name: str, images: "Tensor") -> None:
            self._pixels[name].append(images[:, 0].numel())

        with self._after_each_call(count):
            yield

    @contextmanager
    def collecting(self, engine: "EstimatorEngine") -> Iterator[None]:
        """Keep what the engine reports of each call."""

        def keep(name: str, images: "Tensor") -> None:
            report = cast("EstimatorReport", engine.last_report)
            self._reports.append((name, replace(report, stds=())))

        with self._after_each_call(keep):
            yield

    def announce(
        self, engine: "EstimatorEngine", max_qpu_seconds: float | None, confirmed: bool
    ) -> None:
        """Say on stderr what will be sent to a device at most; leave if it is not allowed.

        Args:
            engine: for a device. `counting_pixels` has seen the same calls.
            max_qpu_seconds: allowed for all of them; None: any time, if that was confirmed.
            confirmed: see above.
        """
        forecasts = [
            engine.forecast(layer.spec, num_pixels)
            for name, layer in self._layers.items()
            for num_pixels in self._pixels[name]
        ]
        num_jobs = sum(f.num_jobs for f in forecasts)
        known = [f.qpu_seconds for f in forecasts if f.qpu_seconds is not None]
        seconds = sum(known) if len(known) == len(forecasts) else None
        cost = "QPU time unknown" if seconds is None else f"about {seconds:,.0f} s of QPU time"
        typer.echo(
            f"{engine.destination.name}: at most {sum(f.num_executions for f in forecasts):,} "
            f"circuit executions of {engine.shots or 0:,} shots in "
            f"{num_jobs} job{'s' if num_jobs != 1 else ''}, {cost}; fewer where pixels have equal "
            "directions.",
            err=True,
        )
        if max_qpu_seconds is None and not confirmed:
            fail(
                "Nothing was sent: a real device needs --max-qpu-seconds, or --yes for any time.",
                USAGE_ERROR,
            )
        if max_qpu_seconds is not None and seconds is not None and seconds > max_qpu_seconds:
            fail(
                f"Nothing was sent: that is more than --max-qpu-seconds {max_qpu_seconds:g}. Take "
                "fewer --images or --shots, or raise it.",
                RUNTIME_ERROR,
            )

    def to_dict(self, engine: "EstimatorEngine") -> dict[str, object]:
        """Totals, and where each layer's circuit was laid; plain values."""
        fields = (
            "patch",
            "patches",
            "num_two_qubit_gates",
            "two_qubit_depth",
            "predicted_fidelity",
            "encoder",
            "max_encoding_error",
            "num_references",
        )
        return {
            "backend": engine.destination.name,
            "shots": engine.shots,
            "totals": {
                "rows": self._sum("num_rows"),
                "fallbacks": self._sum("num_fallbacks"),
                "executions": engine.total_executions,
                "jobs": engine.total_pubs,
                "max_std": self._max_std,
                "num_unknown_stds": self._sum("num_unknown_stds"),
                "predicted_qpu_seconds": self._predicted_seconds,
            },
            "layers": {
                name: {field: getattr(report, field) for field in fields}
                for name, report in dict(self._reports).items()
            },
        }

    def text(self, engine: "EstimatorEngine", is_device: bool) -> str:
        """The same for people."""
        shots = "exact values" if engine.shots is None else f"{engine.shots:,} shots each"
        rows, sent, jobs = self._sum("num_rows"), engine.total_executions, engine.total_pubs
        is_plain = all(len(r.patches) < 2 and not r.num_references for _, r in self._reports)
        told = f" ({rows:,} before equal directions were merged)" if rows != sent else ""
        if not is_plain:
            told = f" for {rows:,} rows, equal directions merged and reference rows added"
        lines = [f"{sent:,} circuit executions{told}, {shots}, in {jobs:,} job{'s' * (jobs != 1)}"]
        for name, report in dict(self._reports).items():
            lines += [f"{name}: {sentence}" for sentence in _sentences(report)]
            lines += _fallen_back(name, (told for layer, told in self._reports if layer == name))
        lines += self._calibration_lines()
        if self._max_std:
            unknown = self._sum("num_unknown_stds")
            lines.append(
                f"standard error of an expectation value: {self._max_std:.2g} at most"
                + (f"; not known for {unknown:,} values" if unknown else "")
            )
        if self._predicted_seconds is not None:
            where = "predicted:" if is_device else "on the device this would take"
            lines.append(f"{where} about {self._predicted_seconds:,.0f} s of QPU time")
        return "\n".join(lines)

    def _calibration_lines(self) -> Iterator[str]:
        """What the reference rows of all calls said of each layer's patches."""
        known = [(name, r.calibration) for name, r in self._reports if r.calibration is not None]
        for name in dict.fromkeys(name for name, _ in known):
            each = [told for layer, told in known if layer == name]
            lines = sum(len(patch) for told in each for job in told.scale for patch in job)
            left = sum(told.num_not_calibrated for told in each)
            done = "calibrated" if each[0].applied else "reference rows run, but not applied"
            yield f"{name}: {done}; {left:,} of {lines:,} lines are not certain enough"
            bad = Counter(patch for told in each for job in told.bad_patches for patch in job)
            jobs = sum(len(told.bad_patches) for told in each)
            for patch, count in sorted(bad.items()):
                reasons = (job.get(patch) for told in each for job in told.bad_patches)
                yield f"{name}: bad in {count} of {jobs} jobs: {next(filter(None, reasons))}"

    @property
    def _max_std(self) -> float | None:
        known = [report.max_std for _, report in self._reports if report.max_std is not None]
        return max(known, default=None)

    @property
    def _predicted_seconds(self) -> float | None:
        told = [report.predicted_qpu_seconds for _, report in self._reports]
        known = [seconds for seconds in told if seconds is not None]
        return sum(known) if len(known) == len(told) else None

    def _sum(self, field: str) -> int:
        return sum(getattr(report, field) for _, report in self._reports)

    @contextmanager
    def _after_each_call(self, note: Callable[[str, "Tensor"], None]) -> Iterator[None]:
        def watching(name: str) -> Callable[..., None]:
            return lambda _layer, arguments, _result: note(name, arguments[0])

        hooks = [layer.register_forward_hook(watching(n)) for n, layer in self._layers.items()]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _sentences(report: "EstimatorReport") -> Iterator[str]:
    """Where a layer's circuit stood, and how a pixel was encoded."""
    if report.patch is not None:
        count, qubits = len(report.patches), ", ".join(map(str, report.patch))
        where = f"on qubits {qubits}" if count < 2 else f"on {count} patches, best on {qubits}"
        best = "" if count < 2 else " there"
        yield (
            f"{where}; {report.num_two_qubit_gates} two-qubit gates in {report.two_qubit_depth} "
            f"layers, predicted fidelity {report.predicted_fidelity:.3f}{best}"
        )
    if report.max_encoding_error:
        yield (
            f"{report.encoder} encoder: no feature is off by more than "
            f"{report.max_encoding_error:.1g} because of its fit"
        )


def _fallen_back(name: str, reports: Iterable["EstimatorReport"]) -> Iterator[str]:
    """That a layer has another encoder than was asked for."""
    known = list(reports)
    if count := sum(report.num_fallbacks for report in known):
        yield (
            f"{name}: {count:,} direction{'s' * (count != 1)} could not be fitted well enough; "
            f"since then its encoder is {known[-1].encoder}"
        )


def device_table(devices: Sequence["DeviceSummary"]) -> str:
    """Devices, one on a line, and what is to be noted of them."""
    heading = ("name", "qubits", "gates", "two-qubit error", "readout error", "calibrated")
    rows = [
        (
            device.name,
            device.num_qubits,
            " ".join((*device.two_qubit_gates, *device.one_qubit_gates)) or None,
            _error(device.median_two_qubit_error),
            _error(device.median_readout_error),
            device.calibration_time and device.calibration_time[:10],
        )
        for device in devices
    ]
    notes = [f"{device.name}: {device.note}" for device in devices if device.note]
    return "\n".join([table([heading, *rows]), *notes])


def device_text(device: "DeviceSummary") -> str:
    """What there is to say of one device."""
    if device.num_qubits is None:
        return f"{device.name}: {device.note}"
    couplers = " ".join(device.two_qubit_gates) or "none that works"
    error = _error(device.median_two_qubit_error)
    lines = [
        f"{device.name}: {device.num_qubits} qubits, {device.num_usable_qubits} of them usable",
        f"two-qubit gate: {couplers}" + (f", median error {error}" if error else ""),
        f"one-qubit gates: {' '.join(device.one_qubit_gates)}",
        f"readout: median error {_error(device.median_readout_error) or 'not known'}",
        f"calibrated: {device.calibration_time or 'not known'}",
        *([f"note: {device.note}"] if device.note else []),
    ]
    return "\n".join(lines)


def patch_text(patches: Sequence["PatchSummary"]) -> str:
    """The best patch for each size of layer, and why there is none for larger ones."""
    heading = ("n", "two-qubit gates", "depth", "fidelity", "QPU time", "qubits")
    rows = [
        (
            patch.num_qubits,
            patch.num_two_qubit_gates,
            patch.two_qubit_depth,
            f"{patch.fidelity:.3f}",
            None if patch.qpu_seconds is None else f"{patch.qpu_seconds:,.0f} s",
            ", ".join(map(str, patch.qubits)),
        )
        for patch in patches
        if patch.qubits is not None
    ]
    problems = [f"n = {p.num_qubits} and more: {p.problem}" for p in patches if p.problem]
    return "\n".join([*([table([heading, *rows])] if rows else []), *problems])


def _error(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:.2f} %"


def _debug() -> bool:
    return os.environ.get("QPC_DEBUG", "") not in ("", "0")
