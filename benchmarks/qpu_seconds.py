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

QPU seconds: of 7x7 positions an image and 64 channels; delay, reset, circuit and readout of the
slowest patch for every shot, 2 s a job, limits of a job as on a device, no twirling; stock: a job
for every kernel. All are calibrated by 2n reference rows (plain's are counted, stock's are not)
and take so many shots that the mean calibrated variance is that of plain at 1,024.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch

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
from qpc_qiskit.common.arrays import Array
from qpc_qiskit.devices.forecast import SECONDS_PER_JOB, JobCost, shot_times, shots_for_equal_error
from qpc_qiskit.engines.exact import ExactEngine
from qpc_qiskit.rows.planning import JobPlan, plan_parts
from qpc_qiskit.rows.pubs import by_pixel_and_kernel, evs_from_data, make_pub, make_template
from qpc_qiskit.rows.unpacking import features, unpack

DEVICES = ("fake_torino", "fake_fez", "fake_boston")
QUBITS = (4, 6)
PIXELS, KERNELS = 24, 3
"""Pixels of either kind, and kernels."""
SHOTS = 1024
"""Of the plain way, whose standard error all others are to reach."""
STOCK_SEEDS = 5
POSITIONS, FEATURES = 49, 64
"""Of a 28x28 image: 7x7 pixels, 64 output channels."""
IMAGES = 16
PLAIN = "plain"
BEST = "packed + brickwall + tail"
WAYS = {
    "stock": None,
    PLAIN: {"num_patches": 1},
    "brickwall + tail": {"num_patches": 1, "encoder": "brickwall", "absorb_tail": True},
    "packed": {"num_patches": None},
    BEST: {"num_patches": None, "encoder": "brickwall", "absorb_tail": True},
}
"""Options of the engine."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """A way on a device; without a variance where the circuit is too wide to be simulated."""

    cells: dict[str, object]
    """Of the table of circuits."""
    shot_seconds: float
    num_columns: int
    num_device_qubits: int
    num_patches: int = 1
    variance: float | None = None
    """Of a calibrated value of one shot, with what the reference rows' own shots add: mean."""
    is_stock: bool = False


class Bench:
    """Held-out pixels of a layer of n qubits, on a device."""

    def __init__(self, settings: Settings, device: str, n: int) -> None:
        self.settings, self.backend, self.n = settings, find_backend(device), n
        self.work = Workload(2**n, settings.pick(KERNELS, 2), n, dtype=torch.float64)
        count = settings.pick(PIXELS, 4)
        positive = brickwall._post_relu(2 * count, self.work.channels)
        positive = positive[positive.any(1)][:count]
        self.pixels = torch.cat([self.work.pixels(len(positive)), positive])
        self.weights = self.work.layer.weight.detach()
        self.exact = ExactEngine().evs(self.work.spec, self.pixels, self.weights).numpy()
        self.results = {name: self._result(options) for name, options in WAYS.items()}

    def _result(self, options: dict[str, object] | None) -> Result:
        engine = EstimatorEngine.from_backend(
            self.backend,
            precision=0,
            dedupe_grid=None,
            num_references=2 * self.n,
            **(WAYS[PLAIN] if options is None else options),
        )
        plan = engine.plan(self.work.spec, self.pixels, self.weights)
        if options is None:
            return self._stock(plan)
        prepared = engine.prepare(self.work.spec)
        values = []
        own = np.split(plan.values(), prepared.num_patches, axis=1)
        for part, placement, angles in zip(prepared.parts, prepared.placements, own, strict=True):
            model = noise_of_patch(self.backend, placement.patch.qubits)
            data = AerEstimator(model).run([make_pub(part, angles, 0.0)]).result()[0].data
            values.append(evs_from_data(data, len(plan.slots), len(part.observables)))
        measured = np.concatenate(values, axis=1)
        evs, stds = features(prepared, measured, _stds(measured), SHOTS)
        told, variance = self._quality(plan, evs, stds)
        return Result(
            cells={
                **_circuit(prepared.parts[0].circuit, prepared.times.circuit),
                "pixels per shot": prepared.num_patches,
                **told,
            },
            shot_seconds=prepared.times.total(),
            num_columns=plan.rows.num_columns,
            num_device_qubits=self.backend.num_qubits,
            num_patches=prepared.num_patches,
            variance=variance,
        )

    def _stock(self, plan: JobPlan) -> Result:
        """Of several transpiler seeds that of the median predicted fidelity."""
        template = make_template(make_encoder("multiplexor", self.n), self.work.spec.ansatz)
        seeds = range(self.settings.pick(STOCK_SEEDS, 1))
        tried = [devices._transpiled(template, self.backend, seed) for seed in seeds]
        tried.sort(key=lambda each: devices._predicted(each, self.backend))
        wired = tried[len(tried) // 2]
        circuit, told, variance = wired.template.circuit, _NO_ERRORS, None
        if len(wired.qubits) <= devices.MAX_SIMULATED:
            pub = make_pub(wired.template, plan.values(), 0.0)
            model = noise_of_patch(self.backend, wired.qubits)
            data = AerEstimator(model).run([pub]).result()[0].data
            evs = evs_from_data(data, len(plan.slots), self.n)
            told, variance = self._quality(plan, evs, _stds(evs))
        delay = self.backend.default_rep_delay
        times = shot_times(circuit, self.backend.target, wired.qubits, delay)
        return Result(
            cells={**_circuit(circuit, times.circuit), "pixels per shot": 1, **told},
            shot_seconds=times.total(),
            num_columns=plan.rows.num_columns,
            num_device_qubits=self.backend.num_qubits,
            variance=variance,
            is_stock=True,
        )

    def _quality(self, plan: JobPlan, evs: Array, stds: Array) -> tuple[dict[str, object], float]:
        """Of noisy values (W, J*n) and their standard errors at `SHOTS` shots."""
        raw, calibrated = (unpack(plan, evs, stds, applies=applies) for applies in (False, True))
        errors = [
            np.abs(by_pixel_and_kernel(each.evs, len(self.exact), self.work.kernels) - self.exact)
            for each in (raw, calibrated)
        ]
        (lines,) = calibrated.calibrations
        numbers = [f"{each.mean():.4f}" for each in errors]
        told = dict(zip(_NO_ERRORS, [*numbers, float(lines.scale.mean())], strict=True))
        return told, float((calibrated.stds**2).mean() * SHOTS)

    def shots(self, way: str) -> int | None:
        """For the calibrated standard error of plain."""
        wanted, found = self.results[PLAIN].variance, self.results[way].variance
        return None if found is None else shots_for_equal_error(SHOTS, found, wanted)

    def seconds(self, way: str, images: int) -> float | None:
        """Predicted on the device; None: not known."""
        result, shots = self.results[way], self.shots(way)
        if shots is None:
            return None
        rows, kernels = images * POSITIONS, math.ceil(FEATURES / self.n)
        if result.is_stock:
            executions = self.n * rows * kernels
            return kernels * SECONDS_PER_JOB + executions * shots * result.shot_seconds
        _, seconds = plan_parts(
            rows * kernels,
            result.num_columns,
            limits=runtime._DEVICE_LIMITS,
            cost=JobCost(shots_per_row=shots, seconds_per_shot=result.shot_seconds),
            bytes_per_shot=result.num_device_qubits,
            num_patches=result.num_patches,
            num_references=2 * self.n,
        )
        return sum(seconds)

    def ratio(self, slow: str, way: str, images: int) -> float | None:
        seconds, other = self.seconds(way, images), self.seconds(slow, images)
        return None if seconds is None or other is None else other / seconds


_NO_ERRORS: dict[str, object] = {"raw error": None, "calibrated": None, "scale": None}


def _circuit(circuit, seconds: float) -> dict[str, object]:
    return {
        "two-qubit gates": circuit.num_nonlocal_gates(),
        "depth": devices._two_qubit_depth(circuit),
        "µs": 1e6 * seconds,
    }


def _stds(evs: Array) -> Array:
    """Of products of Z at `SHOTS` shots."""
    return np.sqrt(np.maximum(1 - evs**2, 0) / SHOTS)


def run(settings: Settings) -> Report:
    names, qubits = settings.pick(DEVICES, DEVICES[1:2]), settings.pick(QUBITS, QUBITS[:1])
    with threads(settings.threads):
        found = {case: Bench(settings, *case) for case in product(names, qubits)}
    keys = [
        ({"device": device, "n": n, "way": way}, bench, way)
        for (device, n), bench in found.items()
        for way in WAYS
    ]
    circuits = [key | bench.results[way].cells for key, bench, way in keys]
    economy = [
        key
        | {"shots": bench.shots(way)}
        | {
            f"{what}, {images} images": value
            for images in (1, IMAGES)
            for what, value in (
                ("seconds", bench.seconds(way, images)),
                ("plain / this", bench.ratio(PLAIN, way, images)),
                ("stock / this", bench.ratio("stock", way, images)),
            )
        }
        for key, bench, way in keys
    ]
    tables = [Table("Circuits and their errors", circuits), Table("QPU seconds", economy)]
    report = Report("QPU seconds of a layer", tables)
    if 6 in qubits:
        report.figures = [
            figure for device in names for figure in _figures(device, found[device, 6])
        ]
    report.notes = [each.replace("\n", " ").strip() for each in __doc__.split("\n\n")[1:]]
    report.notes.append(
        "The snapshots have no crosstalk, no leakage and no drift, and the simulated noise has "
        "none of idle qubits. Placements come from the cache if they were found before."
    )
    return report


def _figures(device: str, bench: Bench):
    cells = bench.results[BEST].cells
    gates, depth = cells["two-qubit gates"], cells["depth"]
    told = f"{gates} / {depth}"
    reached = gates <= 72 and depth <= 40
    yield Figure(f"two-qubit gates / depth, {device}, n = 6", "<= 72 / 40", told, reached)
    for slow, target in ((PLAIN, 20), ("stock", 100)):
        ratio = bench.ratio(slow, BEST, IMAGES)
        told, reached = "not known", False
        if ratio is not None:
            told, reached = f"{ratio:.1f}", ratio >= target
        what = f"QPU seconds, {slow} / ours, {device}, n = 6, {IMAGES} images at a time"
        yield Figure(what, f">= {target}", told, reached)
