"""Which options pay on which device: encoder, tail, packing and reference rows, n = 3 to 6.

Circuits, errors and QPU seconds are those of `hardware_economy`, taken with fewer pixels and
kernels. Every choice is packed on the patches that the engine takes by itself, without a gap, and
has 2n reference rows in every job. *seconds*: to reach the calibrated standard error that the plain
way (multiplexor, best patch, one row an execution) has at 1,024 shots.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

from benchmarks.common import Figure, Report, Settings, Table
from benchmarks.common import torch_threads as threads
from benchmarks.hardware_economy import IMAGES, PLAIN, SHOTS, Bench, Way, cost
from qpc_qiskit.devices.forecast import shots_for_equal_error
from qpc_qiskit.options.economy import BEST, Economy

FAMILIES = {
    "fake_sherbrooke": "Eagle r3",
    "fake_torino": "Heron r1",
    "fake_fez": "Heron r2",
    "fake_boston": "Heron r3",
}
QUBITS = (3, 4, 5, 6)
CHOICES = (Way(), Way("brickwall"), Way("brickwall", True))
"""The multiplexor with an absorbed tail is never near the best of these."""
PIXELS, KERNELS = 8, 2
WITHIN = 1.1
"""A recommended choice takes at most so many times the seconds of the best one."""


def run(settings: Settings) -> Report:
    bench = Bench(settings, PIXELS, KERNELS)
    devices = settings.pick(list(FAMILIES), ["fake_fez"])
    qubits = settings.pick(QUBITS, QUBITS[:1])
    cases = list(product(devices, qubits))
    with threads(settings.threads):
        choices = Table("Choices", [row for case in cases for row in _choices(bench, *case)])
        found = Table("What is recommended", [_recommended(bench, *case) for case in cases])
    report = Report("Defaults by device", [found, choices])
    report.figures = list(_figures(found.rows))
    report.notes = [
        " ".join(__doc__.split("\n\n", 1)[1].split()),
        f"Seconds for one image of 7x7 positions and 64 channels, and for {IMAGES} of them sent "
        "together, where reference rows weigh less. error: mean |z_noisy - z_exact| as measured, "
        "and calibrated, at infinitely many shots.",
        "The snapshots have no crosstalk, no leakage and no drift. The tail is that of three "
        "blocks of the strongly entangling ansatz; another ansatz has another one.",
    ]
    return report


def _choices(bench: Bench, device: str, n: int) -> Iterator[dict[str, object]]:
    for way in CHOICES:
        found = bench.result(device, n, way)
        (one, many), plain = (_seconds(bench, device, n, each) for each in (way, PLAIN))
        yield {
            "device": device,
            "family": FAMILIES[device],
            "n": n,
            "encoder": way.encoder,
            "tail": "absorbed" if way.tail else "run",
            "two-qubit gates": found.num_gates,
            "depth": found.depth,
            "patches": found.num_patches,
            "error": f"{found.quality.raw:.4f}",
            "calibrated": f"{found.quality.calibrated:.4f}",
            "seconds": one,
            f"seconds, {IMAGES} images": many,
            "plain / this": plain[0] / one,
            f"plain / this, {IMAGES} images": plain[1] / many,
        }


def _seconds(bench: Bench, device: str, n: int, way: Way) -> tuple[float, float]:
    """Of one image and of many, at the calibrated standard error of plain."""
    this, plain = (bench.result(device, n, each) for each in (way, PLAIN))
    shots = shots_for_equal_error(
        SHOTS, this.quality.calibrated_variance, plain.quality.calibrated_variance
    )
    return cost(this, n, shots).seconds, cost(this, n, shots, images=IMAGES).seconds


def _recommended(bench: Bench, device: str, n: int) -> dict[str, object]:
    """Beside the best choice of each kind."""
    chosen = _way(BEST.for_qubits(n))
    times = {way: _seconds(bench, device, n, way) for way in CHOICES}
    errors = {way: bench.result(device, n, way).quality for way in CHOICES}
    return {
        "device": device,
        "n": n,
        "recommended": _named(chosen),
        "fastest": _named(min(times, key=lambda way: times[way][0])),
        "seconds / fastest": times[chosen][0] / min(one for one, _ in times.values()),
        f"the same, {IMAGES} images": times[chosen][1] / min(many for _, many in times.values()),
        "most exact": _named(min(errors, key=lambda way: errors[way].calibrated)),
        "error": f"{errors[chosen].raw:.4f}",
        "calibrated": f"{errors[chosen].calibrated:.4f}",
        "calibrated / most exact": errors[chosen].calibrated
        / min(each.calibrated for each in errors.values()),
    }


def _way(economy: Economy) -> Way:
    return Way(economy.encoder, economy.absorb_tail, economy.num_patches, economy.gap)


def _named(way: Way) -> str:
    return f"{way.encoder}{' + tail' * way.tail}"


def _figures(rows: Sequence[dict[str, object]]) -> Iterator[Figure]:
    worst = max(float(row["seconds / fastest"]) for row in rows)
    yield Figure("seconds of the recommended choice / the fastest, worst of all",
                 f"<= {WITHIN}", f"{worst:.3f}", worst <= WITHIN)  # fmt: skip
    ratio = min(float(row["error"]) / float(row["calibrated"]) for row in rows)
    yield Figure("error as measured / calibrated, least of all", "> 1",
                 f"{ratio:.1f}", ratio > 1)  # fmt: skip
