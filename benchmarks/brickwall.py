"""Fitting the angles of the brickwall encoder: pixels per second of one core.

Cold: every pixel from the common starting angles. Warm: the same pixels after a random change of
their direction by 1e-2, as one step of training moves them, from their old angles. Each is one fit
of all pixels with one thread; restarts are within the time.
"""

from __future__ import annotations

import argparse

import torch

from benchmarks.common import Figure, Report, Settings, Table, interleaved
from benchmarks.common import torch_threads as threads
from qpc_qiskit.circuits.brickwall import DEPTHS, FAILURE, TOLERANCE, Fit, Known, checked_shape, fit
from qpc_qiskit.circuits.directions import canonical_directions

QUBITS = (3, 4, 5, 6)
PIXELS = {3: 8192, 4: 4096, 5: 2048, 6: 768}
TARGET = 25
"""Pixels a second, cold, at n = 6: the prototype's."""


def run(settings: Settings) -> Report:
    table = Table(f"Fits to an infidelity of {TOLERANCE:g}, one thread")
    with threads(1):
        for qubits in QUBITS:
            for kind, make in (("Gaussian", _gaussian), ("post-ReLU", _post_relu)):
                count = settings.pick(PIXELS[qubits], 16)
                table.rows += _measure(qubits, kind, make(count, 2**qubits), settings)
    report = Report("Angles of the brickwall encoder", [table])
    for row in table.rows:
        if row["qubits"] == max(QUBITS) and row["start"] == "cold":
            rate = row["pixels / s"]
            report.figures.append(
                Figure(
                    f"cold fits a second, n = {max(QUBITS)}, {row['pixels']}",
                    f">= {TARGET}",
                    f"{rate:.0f}",
                    rate >= TARGET,
                )
            )
    report.notes = [
        __doc__.split("\n\n", 1)[1].replace("\n", " ").strip(),
        "post-ReLU: six common factors and noise, negative values cut off. within: fraction of "
        f"pixels within {TOLERANCE:g}. restarted: fraction that needed a second start. failed: "
        f"pixels beyond {FAILURE:g}.",
    ]
    return report


def _measure(qubits: int, kind: str, pixels: torch.Tensor, settings: Settings) -> list[dict]:
    directions = canonical_directions(pixels)
    change = torch.randn(pixels.shape, generator=_generator(1), dtype=torch.float64)
    change *= directions != 0  # a channel that is off stays off
    change *= 1e-2 / torch.linalg.vector_norm(change, dim=1, keepdim=True).clamp(min=1e-30)
    moved = canonical_directions(directions + change)
    fits: dict[str, Fit] = {"cold": fit(directions, qubits)}
    known = Known(directions, fits["cold"].angles)
    fits["warm"] = fit(moved, qubits, known=known)
    timings = interleaved(
        {
            "cold": lambda: fit(directions, qubits),
            "warm": lambda: fit(moved, qubits, known=known),
        },
        rounds=settings.pick(3, 1),
        budget_seconds=settings.pick(30, 1),
        warm_up=False,
    )
    return [
        {
            "qubits": qubits,
            "depth": DEPTHS[qubits],
            "angles": checked_shape(qubits).num_angles,
            "pixels": kind,
            "start": start,
            "fits": len(directions),
            "pixels / s": len(directions) / timings[start].best,
            "iterations": float(found.num_iterations.double().mean()),
            "within": float((found.infidelity <= TOLERANCE).double().mean()),
            "restarted": found.num_restarted / len(directions),
            "failed": len(found.failed),
            "worst infidelity": float(found.infidelity.max()),
            "median / best": timings[start].median / timings[start].best,
        }
        for start, found in fits.items()
    ]


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _gaussian(count: int, channels: int) -> torch.Tensor:
    return torch.randn(count, channels, generator=_generator(0), dtype=torch.float64)


def _post_relu(count: int, channels: int) -> torch.Tensor:
    generator = _generator(0)
    factors = torch.randn(count, 6, generator=generator, dtype=torch.float64)
    mixing = torch.randn(6, channels, generator=generator, dtype=torch.float64) / 6**0.5
    noise = torch.randn(count, channels, generator=generator, dtype=torch.float64)
    return (0.9 * factors @ mixing + 0.5 * noise - 0.15).relu()


if __name__ == "__main__":
    from benchmarks import pages
    from benchmarks.__main__ import run_here

    parser = argparse.ArgumentParser(prog="python -m benchmarks.brickwall", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    options = parser.parse_args()
    run_here("brickwall", Settings(options.quick, 1), pages.QUICK_RESULTS)
