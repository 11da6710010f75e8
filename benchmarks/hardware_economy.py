"""What a layer costs on IBM's devices and how exact it is: stock, plain, packed, brickwall + tail.

Circuits: strongly entangling ansatz of three blocks. *stock*: the whole circuit with the
multiplexor, transpiled by Qiskit at level 3 as a user of `EstimatorQNN` does, and one PUB for each
observable, so n executions of everything. *plain*: ours on the best patch, with the multiplexor.
*brickwall + tail*: ours on the best patch, encoder `brickwall`, tail absorbed. *packed*: the same
two on as many patches as the engine takes.

Errors: mean |z_noisy - z_exact| over seeded held-out pixels, half Gaussian and half post-ReLU,
kernels and features, each row on the patch that the engine sends it to; exact noisy values (density
matrix, gate and readout errors of the snapshot, infinitely many shots), so what is left is
systematic. *calibrated*: after the line through the 2n reference rows of every patch, as sent, each
weighted as its standard error at 1,024 shots would weigh it. *scale*: mean slope of these lines.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from qiskit.providers import BackendV2
from qiskit.quantum_info import SparsePauliOp

from benchmarks import brickwall, devices
from benchmarks.common import Figure, Report, Settings, Table
from benchmarks.common import torch_threads as threads
from benchmarks.workload import Workload
from qpc_qiskit import EstimatorEngine
from qpc_qiskit.backends import runtime
from qpc_qiskit.backends.aer import AerEstimator
from qpc_qiskit.backends.destinations import noise_of_patch
from qpc_qiskit.backends.named import find_backend
from qpc_qiskit.circuits.encoder import make_encoder
from qpc_qiskit.circuits.parities import inversion, make_z_string, read_z_string, readout_contrasts
from qpc_qiskit.common.arrays import Array
from qpc_qiskit.devices.forecast import SECONDS_PER_JOB, JobCost, shot_times, shots_for_equal_error
from qpc_qiskit.devices.noise import MeasurementNoise
from qpc_qiskit.devices.patches import embed_observables
from qpc_qiskit.engines import LayerCall
from qpc_qiskit.engines.exact import ExactEngine
from qpc_qiskit.rows.planning import JobPlan, plan_parts
from qpc_qiskit.rows.prepared import Prepared
from qpc_qiskit.rows.pubs import by_pixel_and_kernel, evs_from_data, make_pub, make_template
from qpc_qiskit.rows.unpacking import features, unpack

DEVICES = ("fake_torino", "fake_fez", "fake_boston")
EAGLE = "fake_sherbrooke"
"""An older family, with ECR gates: for the options only."""
TWO_DEVICES = ("fake_torino", "fake_fez")
"""For gaps, numbers of patches, readout."""
QUBITS = (3, 4, 5, 6)
CHOICE_QUBITS = (4, 6)
PIXELS, KERNELS = 24, 3
"""Pixels of either kind, and kernels."""
SHOTS = 1024
"""Of the plain way, whose standard error all others are to reach."""
STOCK_SEEDS = 5
POSITIONS, FEATURES = 49, 64
"""Of a 28x28 image: 7x7 pixels, 64 output channels."""
IMAGES = 16
FIT_PIXELS = 256
DRIFT = 1.25
AS_TOLD, INVERTED = "as told", "as told, inverted"


@dataclass(frozen=True)
class Way:
    """Options of the engine."""

    encoder: str = "multiplexor"
    tail: bool = False
    num_patches: int | None = None
    gap: int = 0


PLAIN = Way(num_patches=1)
BRICK = Way("brickwall", True, num_patches=1)
PACKED = Way()
ALL = Way("brickwall", True)
WAYS = {"plain": PLAIN, "brickwall + tail": BRICK, "packed": PACKED,
        "packed + brickwall + tail": ALL}  # fmt: skip
CHOICES = tuple(
    Way(encoder, tail) for encoder, tail in product(("multiplexor", "brickwall"), (False, True))
)
GAPS = (Way("brickwall", False, gap=1), Way("brickwall", True, gap=1))
FRACTIONS = (0.9, 0.75, 0.5)
"""Of the patches that the engine takes by itself."""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Of values, averaged over rows, patches and features."""

    raw: float
    calibrated: float
    by_kind: tuple[float, float]
    """Calibrated: Gaussian, post-ReLU."""
    scale: float
    fraction_calibrated: float
    variance: float
    """Of a value of one shot, mean."""
    calibrated_variance: float
    """The same after calibration, with what the reference rows' own shots add."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """A way on a device."""

    num_gates: int
    depth: int
    microseconds: float
    """Gates and readout."""
    shot_seconds: float
    num_patches: int
    num_columns: int
    num_device_qubits: int
    quality: Quality | None
    """None: the circuit is spread over too many qubits to be simulated."""
    is_stock: bool = False


class Bench:
    """Devices and results, each made once."""

    def __init__(self, settings: Settings, pixels: int = PIXELS, kernels: int = KERNELS) -> None:
        self.settings, self._pixels, self._kernels = settings, pixels, kernels
        self._backends: dict[str, BackendV2] = {}
        self._results: dict[tuple[str, int, Way | None], Result] = {}

    def backend(self, device: str) -> BackendV2:
        if device not in self._backends:
            self._backends[device] = find_backend(device)
        return self._backends[device]

    def result(self, device: str, n: int, way: Way | None) -> Result:
        """None: stock."""
        key = (device, n, way)
        if key not in self._results:
            found = self._stock(device, n) if way is None else self._ours(device, n, way)
            self._results[key] = found
            print(device, n, way, found, sep="\n  ", flush=True)
        return self._results[key]

    def pixels(self, work: Workload) -> torch.Tensor:
        """Gaussian, then post-ReLU."""
        count = self.settings.pick(self._pixels, 4)
        positive = brickwall._post_relu(2 * count, work.channels)
        positive = positive[positive.any(1)][:count]
        return torch.cat([work.pixels(len(positive)), positive])

    def engine(self, device: str, n: int, way: Way) -> tuple[Workload, Prepared, JobPlan]:
        """The rows of the held-out pixels, as they would be sent."""
        work = Workload(2**n, self.settings.pick(self._kernels, 2), n, dtype=torch.float64)
        engine = EstimatorEngine.from_backend(
            self.backend(device),
            precision=0,
            dedupe_grid=None,
            encoder=way.encoder,
            absorb_tail=way.tail,
            num_patches=way.num_patches,
            gap=way.gap,
            num_references=2 * n,
        )
        prepared = engine.prepare(work.spec)
        return work, prepared, engine.plan(LayerCall(work.spec, self.pixels(work), _weights(work)))

    def _ours(self, device: str, n: int, way: Way) -> Result:
        work, prepared, plan = self.engine(device, n, way)
        backend = self.backend(device)
        values = []
        for number, part in enumerate(prepared.parts):
            model = noise_of_patch(backend, prepared.placements[number].patch.qubits)
            pub = make_pub(part, _own_values(plan, prepared, number), 0.0)
            data = AerEstimator(model).run([pub]).result()[0].data
            values.append(evs_from_data(data, len(plan.slots), len(part.observables)))
        measured = np.concatenate(values, axis=1)
        evs, stds = features(prepared, measured, _stds(measured), SHOTS)
        circuit = prepared.parts[0].circuit
        return Result(
            num_gates=circuit.num_nonlocal_gates(),
            depth=devices._two_qubit_depth(circuit),
            microseconds=1e6 * prepared.times.circuit,
            shot_seconds=prepared.times.total(),
            num_patches=prepared.num_patches,
            num_columns=plan.rows.num_columns,
            num_device_qubits=backend.num_qubits,
            quality=self.quality(work, plan, evs, stds),
        )

    def _stock(self, device: str, n: int) -> Result:
        """Of several transpiler seeds that of the median predicted fidelity."""
        work, _, plan = self.engine(device, n, PLAIN)
        backend = self.backend(device)
        template = make_template(make_encoder("multiplexor", n), work.spec.ansatz)
        seeds = range(self.settings.pick(STOCK_SEEDS, 1))
        tried = [devices._transpiled(template, backend, seed) for seed in seeds]
        tried.sort(key=lambda each: devices._predicted(each, backend))
        wired = tried[len(tried) // 2]
        circuit = wired.template.circuit
        quality = None
        if len(wired.qubits) <= devices.MAX_SIMULATED:
            pub = make_pub(wired.template, plan.values(), 0.0)
            data = AerEstimator(noise_of_patch(backend, wired.qubits)).run([pub]).result()[0].data
            evs = evs_from_data(data, len(plan.slots), n)
            quality = self.quality(work, plan, evs, _stds(evs))
        times = shot_times(circuit, backend.target, wired.qubits, backend.default_rep_delay)
        return Result(
            num_gates=circuit.num_nonlocal_gates(),
            depth=devices._two_qubit_depth(circuit),
            microseconds=1e6 * times.circuit,
            shot_seconds=times.total(),
            num_patches=1,
            num_columns=plan.rows.num_columns,
            num_device_qubits=backend.num_qubits,
            quality=quality,
            is_stock=True,
        )

    def quality(self, work: Workload, plan: JobPlan, evs: Array, stds: Array) -> Quality:
        """Of noisy values (W, J*n) and their standard errors at `SHOTS` shots."""
        exact = ExactEngine().evs(LayerCall(work.spec, self.pixels(work), _weights(work))).numpy()
        num_pixels, num_kernels = len(exact), work.kernels
        found = {applies: unpack(plan, evs, stds, applies=applies) for applies in (False, True)}
        errors = {
            applies: np.abs(by_pixel_and_kernel(each.evs, num_pixels, num_kernels) - exact)
            for applies, each in found.items()
        }
        (lines,) = found[True].calibrations
        half = num_pixels // 2
        return Quality(
            raw=float(errors[False].mean()),
            calibrated=float(errors[True].mean()),
            by_kind=(float(errors[True][:half].mean()), float(errors[True][half:].mean())),
            scale=float(lines.scale.mean()),
            fraction_calibrated=float(lines.is_calibrated.mean()),
            variance=float((found[False].stds ** 2).mean() * SHOTS),
            calibrated_variance=float((found[True].stds ** 2).mean() * SHOTS),
        )


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of images."""

    jobs: int
    executions: int
    seconds: float


def cost(result: Result, n: int, shots: int, *, images: int = 1, references: bool = True) -> Cost:
    """Predicted on the device; stock: a job for every kernel, no reference rows."""
    pixels, kernels = images * POSITIONS, math.ceil(FEATURES / n)
    if result.is_stock:
        executions = n * pixels * kernels
        seconds = kernels * SECONDS_PER_JOB + executions * shots * result.shot_seconds
        return Cost(jobs=kernels, executions=executions, seconds=seconds)
    parts, seconds = plan_parts(
        pixels * kernels,
        result.num_columns,
        limits=runtime._DEVICE_LIMITS,
        cost=JobCost(shots_per_row=shots, seconds_per_shot=result.shot_seconds),
        bytes_per_shot=result.num_device_qubits,
        num_patches=result.num_patches,
        num_references=2 * n if references else 0,
    )
    executions = sum(part.stop - part.start for part in parts)
    return Cost(jobs=len(parts), executions=executions, seconds=sum(seconds))


@dataclass(frozen=True, kw_only=True)
class Ratios:
    """Against plain and stock, for one image unless said."""

    shots: int
    own: Cost
    plain: float
    stock: float | None
    plain_equal_shots: float
    both_shots: int
    both_plain: float
    both_stock: float | None
    both_plain_many: float | None
    both_stock_many: float | None


def ratios(bench: Bench, device: str, n: int, way: Way | None) -> Ratios:
    """See the notes: `plain` at equal standard error; `both`: plain and stock calibrated too."""
    plain, stock = bench.result(device, n, PLAIN), bench.result(device, n, None)
    this = bench.result(device, n, way)
    is_reference = way in (None, PLAIN)  # uncalibrated, without reference rows
    if is_reference:
        shots = SHOTS
    else:
        shots = _shots(this.quality.calibrated_variance, plain.quality.variance)
    own = cost(this, n, shots, references=not is_reference)
    of_plain = cost(plain, n, SHOTS, references=False)
    equal = cost(this, n, SHOTS, references=not is_reference)
    both_shots = _both_shots(this, plain)
    of_stock, both_stock = cost(stock, n, SHOTS).seconds, None
    if stock.quality is not None:
        both_stock = cost(stock, n, _both_shots(stock, plain)).seconds
    both = None if both_shots is None else cost(this, n, both_shots).seconds
    many = None if both_shots is None else cost(this, n, both_shots, images=IMAGES).seconds
    plain_many, stock_many = cost(plain, n, SHOTS, images=IMAGES).seconds, None
    if stock.quality is not None:
        stock_many = cost(stock, n, _both_shots(stock, plain), images=IMAGES).seconds
    return Ratios(
        shots=shots,
        own=own,
        plain=of_plain.seconds / own.seconds,
        stock=of_stock / own.seconds,
        plain_equal_shots=of_plain.seconds / equal.seconds,
        both_shots=both_shots,
        both_plain=None if both is None else cost(plain, n, SHOTS).seconds / both,
        both_stock=None if both is None or both_stock is None else both_stock / both,
        both_plain_many=None if many is None else plain_many / many,
        both_stock_many=None if many is None or stock_many is None else stock_many / many,
    )


def _both_shots(this: Result, plain: Result) -> int | None:
    if this.quality is None:
        return None
    return _shots(this.quality.calibrated_variance, plain.quality.calibrated_variance)


def _shots(variance: float, wanted: float) -> int:
    return shots_for_equal_error(SHOTS, variance, wanted)


def _stds(evs: Array) -> Array:
    """Of products of Z at `SHOTS` shots."""
    return np.sqrt(np.maximum(1 - evs**2, 0) / SHOTS)


def _weights(work: Workload) -> torch.Tensor:
    return work.layer.weight.detach()


def _own_values(plan: JobPlan, prepared: Prepared, patch: int) -> Array:
    """(W, P) what the executions run on a patch."""
    return np.split(plan.values(), prepared.num_patches, axis=1)[patch]


def run(settings: Settings) -> Report:
    bench = Bench(settings)
    qubits = settings.pick(QUBITS, QUBITS[1:2])
    names = settings.pick(DEVICES, DEVICES[1:2])
    with threads(settings.threads):
        circuits = Table("Circuits and their errors", list(_circuit_rows(bench, names, qubits)))
        economy = Table(
            f"QPU seconds of one 28x28 image: {POSITIONS} pixels, {FEATURES} channels",
            list(_economy_rows(bench, names, qubits)),
        )
        most, few = qubits[-1], settings.pick(TWO_DEVICES, names)
        cases = [
            *product(names, settings.pick(CHOICE_QUBITS, qubits), CHOICES),
            *product(settings.pick((EAGLE,), ()), (most,), CHOICES),
        ]
        choices = Table("Encoder and tail, packed", list(_choice_rows(bench, cases)))
        cases = [
            case
            for device in few
            for case in (
                *product((device,), (most,), (*CHOICES[2:], *GAPS)),
                *((device, most, way) for way in _fewer(bench.result(device, most, ALL))),
            )
        ]
        numbers = Table(
            f"Gaps and fewer patches, n = {most}, brickwall", list(_choice_rows(bench, cases))
        )
        readout = Table(
            f"Asymmetric readout, n = {most}, packed, brickwall",
            list(_readout_rows(bench, few, most)),
        )
    fits = Table("Fitting the brickwall's angles, one thread (more: `brickwall`)")
    with threads(1):
        count = settings.pick(FIT_PIXELS, 16)
        for kind, make in (("Gaussian", brickwall._gaussian), ("post-ReLU", brickwall._post_relu)):
            fits.rows += brickwall._measure(
                qubits[-1], kind, make(count, 2 ** qubits[-1]), replace(settings, quick=True)
            )
    says = Table("What it says", _says(bench, names, most, few, readout, fits))
    report = Report("Hardware economy", [says, circuits, economy, choices, numbers, readout, fits])
    if 6 in qubits:
        report.figures = list(_figures(bench, fits))
    report.notes = _notes()
    return report


def _circuit_rows(bench: Bench, names: Sequence[str], qubits: Sequence[int]):
    for device, n in product(names, qubits):
        for name, way in {"stock": None, **WAYS}.items():
            found = bench.result(device, n, way)
            yield {
                "device": device,
                "n": n,
                "way": name,
                "two-qubit gates": found.num_gates,
                "depth": found.depth,
                "µs": found.microseconds,
                "pixels per shot": found.num_patches,
                **_error_cells(found.quality),
            }


def _error_cells(quality: Quality | None) -> dict[str, object]:
    return {
        "raw error": _digits(quality and quality.raw),
        "calibrated": _digits(quality and quality.calibrated),
        "Gaussian": _digits(quality and quality.by_kind[0]),
        "post-ReLU": _digits(quality and quality.by_kind[1]),
        "scale": quality and quality.scale,
    }


def _digits(value: float | None) -> str | None:
    return None if value is None else f"{value:.4f}"


def _economy_rows(bench: Bench, names: Sequence[str], qubits: Sequence[int]):
    for device, n in product(names, qubits):
        for name, way in {"stock": None, **WAYS}.items():
            found = ratios(bench, device, n, way)
            yield {
                "device": device,
                "n": n,
                "way": name,
                "jobs": found.own.jobs,
                "executions": found.own.executions,
                "shots": found.shots,
                "seconds": found.own.seconds,
                "plain / this": found.plain,
                "stock / this": found.stock,
                "plain / this, equal shots": found.plain_equal_shots,
                "B shots": found.both_shots,
                "B plain / this": found.both_plain,
                "B stock / this": found.both_stock,
                f"B plain / this, {IMAGES} images": found.both_plain_many,
                f"B stock / this, {IMAGES} images": found.both_stock_many,
            }


def _fewer(result: Result) -> Iterator[Way]:
    for fraction in FRACTIONS:
        yield replace(ALL, num_patches=max(2, round(fraction * result.num_patches)))


def _choice_rows(bench: Bench, cases: Sequence[tuple[str, int, Way]]):
    for device, n, way in cases:
        found, ratio = bench.result(device, n, way), ratios(bench, device, n, way)
        yield {
            "device": device,
            "n": n,
            "encoder": way.encoder,
            "tail": "absorbed" if way.tail else "run",
            "gap": way.gap,
            "two-qubit gates": found.num_gates,
            "depth": found.depth,
            "pixels per shot": found.num_patches,
            **_error_cells(found.quality),
            "seconds": ratio.own.seconds,
            "plain / this": ratio.plain,
            "stock / this": ratio.stock,
            "B plain / this": ratio.both_plain,
            f"B plain / this, {IMAGES} images": ratio.both_plain_many,
        }


def _readout_rows(bench: Bench, names: Sequence[str], n: int):
    """Readout as the snapshot's properties tell it, where a noise model has the mean of both."""
    strings = [make_z_string(mask, n) for mask in range(1, 2**n)]
    for device, tail in product(names, (False, True)):
        work, prepared, plan = bench.engine(device, n, Way("brickwall", tail))
        backend = bench.backend(device)
        targets = make_template(
            make_encoder("brickwall", n), work.spec.ansatz, absorbs_tail=tail
        ).observables
        values: dict[str, list[tuple[Array, Array]]] = {}
        for number, part in enumerate(prepared.parts):
            placement = prepared.placements[number]
            pub = make_pub(
                replace(part, observables=tuple(strings)), _own_values(plan, prepared, number), 0.0
            )
            estimator = AerEstimator(noise_of_patch(backend, placement.patch.qubits))
            estimator._measurement = MeasurementNoise(None, {}, False)  # added below
            data = estimator.run([pub]).result()[0].data
            true = np.insert(evs_from_data(data, len(plan.slots), len(strings)), 0, 1, axis=1)
            own_targets = embed_observables(targets, placement.final, n)
            flips = _told_flips(backend, placement.patch.qubits)
            for kind, pair in _readouts(true, flips, strings, own_targets):
                values.setdefault(kind, []).append(pair)
        for kind, pairs in values.items():
            evs, stds = (np.concatenate(each, axis=1) for each in zip(*pairs, strict=True))
            quality = bench.quality(work, plan, evs, stds)
            print(device, tail, kind, quality, flush=True)
            yield {
                "device": device,
                "tail": "absorbed" if tail else "run",
                "readout": kind,
                "pixels per shot": prepared.num_patches,
                **_error_cells(quality),
                "variance of a shot, calibrated": quality.calibrated_variance,
            }


def _readouts(
    true: Array,
    flips: Array,
    strings: Sequence[SparsePauliOp],
    targets: Sequence[SparsePauliOp],
) -> Iterator[tuple[str, tuple[Array, Array]]]:
    """Features and standard errors of a patch.

    Args:
        true: (W, 2**n) all parities without readout errors, by mask.
        flips: (n, 2) P(1|0) and P(0|1) as the device tells them.
        strings: all but the empty one, by mask.
        targets: the features.
    """
    masks, signs = zip(*map(read_z_string, targets), strict=True)
    mean = flips.mean(1, keepdims=True) * [1, 1]
    for kind, own in (("mean of both", mean), (AS_TOLD, flips)):
        evs = _reported(true, own)[:, masks] * signs
        yield kind, (evs, _stds(evs))
    reported = _reported(true, flips)[:, 1:]
    for kind, believed in ((INVERTED, flips), (f"{INVERTED} as {DRIFT:g} of it", DRIFT * flips)):
        inverse = inversion(strings, targets, *readout_contrasts(_confusions(believed)))
        yield kind, (inverse.features(reported), inverse.stds_of_shots(reported, SHOTS))


def _told_flips(backend: BackendV2, qubits: Sequence[int]) -> Array:
    """(n, 2) P(1|0) and P(0|1)."""
    known = [backend.properties().qubit_property(qubit) for qubit in qubits]
    return np.array([[each[f"prob_meas{1 - s}_prep{s}"][0] for s in (0, 1)] for each in known])


def _confusions(flips: Array) -> Array:
    return np.stack([1 - flips[:, 0], flips[:, 0], flips[:, 1], 1 - flips[:, 1]], 1).reshape(
        -1, 2, 2
    )


def _reported(true: Array, flips: Array) -> Array:
    """Parities (W, 2**n) by mask, as qubits report them with P(1|0) and P(0|1) of (n, 2)."""
    matrix = np.ones((1, 1))
    for a, b in zip(*readout_contrasts(_confusions(flips)), strict=True):
        matrix = np.kron([[1, 0], [b, a]], matrix)  # the next qubit is the next higher bit
    return true @ matrix.T


def _figures(bench: Bench, fits: Table):
    for device in DEVICES:
        found = bench.result(device, 6, ALL)
        yield Figure(f"two-qubit gates / depth, {device}, n = 6", "<= 72 / 40",
                     f"{found.num_gates} / {found.depth}",
                     found.num_gates <= 72 and found.depth <= 40)  # fmt: skip
    plain = bench.result("fake_torino", 6, PLAIN).quality
    for name, way in (("best patch", BRICK), ("packed, mean of all patches", ALL)):
        found = bench.result("fake_torino", 6, way).quality
        ratio = plain.raw / found.raw
        yield Figure(f"plain's error / ours, raw, fake_torino, n = 6, {name}", ">= 2",
                     f"{ratio:.2f} ({plain.raw:.4f} / {found.raw:.4f})", ratio >= 2)  # fmt: skip
        yield Figure(f"calibrated error, fake_torino, n = 6, {name}", "<= 0.006",
                     _digits(found.calibrated), found.calibrated <= 0.006)  # fmt: skip
    patches = bench.result("fake_fez", 6, ALL).num_patches
    yield Figure("pixels per shot, fake_fez, n = 6", ">= 16", str(patches), patches >= 16)
    for device in ("fake_fez", "fake_boston"):
        found = ratios(bench, device, 6, ALL)
        for what, target, a, b, many in (
            ("plain", 20, found.plain, found.both_plain, found.both_plain_many),
            ("stock", 100, found.stock, found.both_stock, found.both_stock_many),
        ):
            for value, text in (
                (a, "plain's uncalibrated standard error"),
                (b, f"B: {what} calibrated as well"),
                (many, f"B, {IMAGES} images at a time"),
            ):
                yield Figure(f"QPU seconds, {what} / ours, {device}, n = 6, {text}",
                             f">= {target}", "not known" if value is None else f"{value:.1f}",
                             value is not None and value >= target)  # fmt: skip
    for row in fits.rows:
        if row["start"] == "cold":
            rate = row["pixels / s"]
            yield Figure(f"cold fits a second of one core, n = 6, {row['pixels']}", ">= 25",
                         f"{rate:.0f}", rate >= 25)  # fmt: skip


def _says(
    bench: Bench, names: Sequence[str], n: int, few: Sequence[str], readout: Table, fits: Table
) -> list[dict[str, object]]:
    says: list[tuple[str, str]] = []
    for device in names:
        plain, ours = bench.result(device, n, PLAIN), bench.result(device, n, ALL)
        one, ratio = bench.result(device, n, BRICK), ratios(bench, device, n, ALL)
        only_packed = ratios(bench, device, n, PACKED)
        says.append(
            (
                f"{device}, n = {n}",
                f"{plain.num_gates}/{plain.depth} -> {ours.num_gates}/{ours.depth} gates/depth; "
                f"error raw {plain.quality.raw:.4f} -> {one.quality.raw:.4f} on the best patch, "
                f"calibrated {plain.quality.calibrated:.4f} -> {one.quality.calibrated:.4f}, "
                f"{ours.quality.calibrated:.4f} over all {ours.num_patches} patches; one image "
                f"{ratio.own.seconds:.0f} s: {ratio.plain:.1f}x under plain, {ratio.stock:.0f}x "
                f"under stock ({ratio.both_plain:.1f}x and {ratio.both_stock or math.nan:.0f}x "
                "with these calibrated too); multiplexor, packed as well: "
                f"{only_packed.plain:.1f}x ({only_packed.both_plain:.1f}x) under plain.",
            )
        )
    ours = bench.result(names[-1], n, ALL)
    work = cost(ours, n, SHOTS)
    references = 2 * n * work.jobs
    best = SECONDS_PER_JOB + (work.executions - references) * SHOTS * ours.shot_seconds
    limit = cost(bench.result(names[-1], n, PLAIN), n, SHOTS, references=False).seconds / best
    many = ratios(bench, names[-1], n, ALL)
    says.append(
        (
            "why not more",
            f"one image is {work.executions - references} executions for its pixels, "
            f"{references} of reference rows and {SECONDS_PER_JOB:g} s of a job ({names[-1]}): "
            f"without reference rows and at equal shots it could be {limit:.1f}x under plain at "
            f"most. Calibration divides by the scale ({ours.quality.scale:.2f}), which plain's "
            f"own standard error is spared unless it is calibrated too. {IMAGES} images at a "
            f"time: {many.both_plain_many:.0f}x under plain, {many.both_stock_many or math.nan:.0f}"
            "x under stock (all calibrated).",
        )
    )

    def compared(name: str, devices: Sequence[str], ways: Sequence[Way]) -> None:
        texts = []
        for device in devices:
            found = [bench.result(device, n, way) for way in ways]
            ratio = [ratios(bench, device, n, way) for way in ways]
            patches = " / ".join(str(each.num_patches) for each in found)
            errors = " / ".join(_digits(each.quality.calibrated) for each in found)
            times = " / ".join(f"{each.both_plain_many:.1f}x" for each in ratio)
            texts.append(f"{device}: {patches} patches, calibrated {errors}, {times}")
        says.append((name, "; ".join(texts)))

    against = f"under plain (all calibrated, {IMAGES} images)"
    compared(f"tail run / absorbed, brickwall, {against}", names, CHOICES[2:])
    compared(
        f"gap 0 / 1 (crosstalk, the only reason for one, is in no snapshot), {against}",
        few,
        (ALL, GAPS[1]),
    )
    for device in few:
        ways = (ALL, *_fewer(bench.result(device, n, ALL)))
        compared(f"fewer patches, {against}", (device,), ways)

    def texts(rows, key):
        return "; ".join(key(row) for row in rows)

    told = [row for row in readout.rows if row["readout"] in (AS_TOLD, INVERTED)]
    says.append(
        (
            "readout as told, not its mean: calibrated error",
            texts(
                told,
                lambda r: f"{r['device']}, tail {r['tail']}, {r['readout']}: {r['calibrated']}",
            ),
        )
    )
    cold = [row for row in fits.rows if row["start"] == "cold"]
    says.append(
        (
            f"fits a second of one core, cold, n = {n}",
            texts(cold, lambda row: f"{row['pixels']} {row['pixels / s']:.0f}"),
        )
    )
    return [{"what": what, "numbers": numbers} for what, numbers in says]


def _notes() -> list[str]:
    paragraphs = __doc__.split("\n\n")[1:]
    return [
        *(paragraph.replace("\n", " ").strip() for paragraph in paragraphs),
        "shots, seconds, plain / this, stock / this: the plain way takes 1,024 shots, is not "
        "calibrated and has no reference rows; sigma0^2 is the mean over held-out rows and "
        "features of its (1 - z^2) / 1,024. A calibrated way takes so many shots that the mean "
        "over rows, patches and features of its calibrated variance, with what the shots of the "
        "reference rows add through the fitted line (first order, as the engine reports it), is "
        "sigma0^2. Since calibration divides by the scale, that asks more of it than of the plain "
        "way, whose values stay shrunk.",
        "B: like with like. Plain and stock are calibrated by the same 2n reference rows as well "
        "(plain's are counted, stock's are not), and all reach the calibrated standard error of "
        "plain at 1,024 shots.",
        "seconds: ceil(64/n) kernels with 2**n channels; repetition delay, reset, circuit and "
        "readout of the slowest patch for every shot, "
        f"{SECONDS_PER_JOB:g} s a job, limits of a job as on a device, no twirling. stock: a job "
        "for every kernel, its standard error taken to be plain's. Its circuit: of "
        f"{STOCK_SEEDS} transpiler seeds the one of the median predicted fidelity.",
        "The snapshots have no crosstalk, no leakage and no drift, and the simulated noise has "
        "none of idle qubits: what a shorter circuit gains there, and what a gap gains, is not in "
        "the errors.",
        "Readout: a snapshot's Target, and so its noise model, has one error for both outcomes. "
        "The engine inverts the readout of parities, and in the simulation knows it exactly, so "
        "the raw errors with a tail absorbed have none of it; the others do. The last but one "
        "table has the two errors that the snapshot's properties tell. A parity of asymmetric "
        "qubits is not an affine function of the true one, so no line calibrates it; inverted, it "
        f"is. {INVERTED} as {DRIFT:g} of it: by errors of the readout that are believed to be "
        f"{DRIFT:g} times what they are.",
        "The 72/40 that the prototype had for n = 6 is a brickwall of depth 12, whose fits end at "
        "infidelities of 1e-5; the package takes depth 13, three gates and a layer more, for 1e-8.",
        "Placements come from the cache if they were found before.",
    ]
