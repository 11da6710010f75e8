"""The exact engine against the stock `TorchConnector(EstimatorQNN)` on Aer, which agree first.

The stock network is one kernel: encoder and ansatz as one circuit, inputs are the encoder's angles
(computing them is not timed), one observable per qubit, parameter-shift gradients of the weights
only. Times are per pixel and kernel: a few pixels for the stock network, many for ours.
"""

from __future__ import annotations

import time

import torch
from qiskit_aer.primitives import EstimatorV2
from qiskit_machine_learning.connectors import TorchConnector

from benchmarks.common import Figure, Report, Settings, Table, interleaved
from benchmarks.common import torch_threads as threads
from benchmarks.stock_peer import SpyingEstimator, stock_inputs, stock_layer
from benchmarks.workload import Workload

SHAPES = ({"qubits": 4, "channels": 16, "kernels": 8}, {"qubits": 6, "channels": 64, "kernels": 11})
QUICK_SHAPES = ({"qubits": 3, "channels": 8, "kernels": 2},)
KERNEL = 1


def run(settings: Settings) -> Report:
    table = Table("Seconds per pixel and kernel, float32")
    counts = Table("What the estimator was asked for, per pixel and kernel")
    report = Report("Exact engine against EstimatorQNN and TorchConnector", [table, counts])
    with threads(settings.threads):
        for shape in settings.pick(SHAPES, QUICK_SHAPES):
            _measure(Workload(**shape), settings, table, counts)
    for row in table.rows:
        target = 1e3 if row["pass"] == "forward" else 1e6
        what = f"stock / ours, {row['pass']}, n = {row['n']}"
        ratio = row["stock / ours"]
        report.figures.append(Figure(what, f">= {target:,.0f}x", f"{ratio:,.0f}x", ratio >= target))
    report.notes = [__doc__.split("\n\n", 1)[1].replace("\n", " ").strip()]
    return report


def _measure(work: Workload, settings: Settings, table: Table, counts: Table) -> None:
    few, many = settings.pick(16, 4), settings.pick(25088, 512)
    pixels, cotangent = work.pixels(many), work.cotangent(many)
    spy = SpyingEstimator(EstimatorV2())
    stock, angles = stock_layer(work, KERNEL, spy), stock_inputs(work, KERNEL, pixels[:few])
    difference = _assert_agreement(work, stock, angles, pixels)

    graph: dict[str, torch.Tensor] = {}

    def our_forward():
        graph["ours"] = work.layer(pixels.T[None, :, None])  # one image of N pixels

    def our_backward():
        graph["ours"].backward(cotangent.flatten(1).T[None, :, None], retain_graph=True)

    unit = torch.ones(1, work.qubits)
    calls = {
        "forward": (lambda: stock(angles), few, our_forward),
        "backward": (_timed_backward(stock, angles[:1], unit), 1, our_backward),
    }
    for name, (their_call, their_pixels, our_call) in calls.items():
        work.layer.weight.grad = None
        timings = interleaved(
            {"stock": their_call, "ours": our_call},
            rounds=settings.pick(3, 1),
            min_rounds=settings.pick(2, 1),
            budget_seconds=settings.pick(60, 5),
            slice_seconds=0.5,
            warm_up=name == "forward",
        )
        theirs = timings["stock"].best / their_pixels
        ours = timings["ours"].best / (many * work.kernels)
        case = {"n": work.qubits, "pass": name}
        table.rows.append(
            {
                **case,
                "stock": theirs,
                "ours": ours,
                "stock / ours": theirs / ours,
                "stock pixels": their_pixels,
                "our pixels x kernels": many * work.kernels,
                "largest difference": difference[name],
            }
        )
        asked = spy.counts(their_call)
        counts.rows.append(
            {
                **case,
                "PUBs": asked.pubs / their_pixels,
                "executions": asked.executions / their_pixels,
            }
        )


def _timed_backward(stock: TorchConnector, angles: torch.Tensor, unit: torch.Tensor):
    features = stock(angles)
    return lambda: features.backward(unit, retain_graph=True)


def _assert_agreement(work: Workload, stock, angles, pixels) -> dict[str, float]:
    """Largest differences of the features and of one pixel's weight gradient."""
    n = work.qubits
    features = slice(KERNEL * n, (KERNEL + 1) * n)
    theirs = stock(angles[:1])
    ours = work.layer(pixels[:1, :, None, None])[:, features, 0, 0]
    began = time.perf_counter()
    theirs.sum().backward()
    print(f"n = {n}: one stock backward pass took {time.perf_counter() - began:.1f} s", flush=True)
    work.layer.weight.grad = None
    ours.sum().backward()
    differences = {
        "forward": float((theirs - ours).detach().abs().max()),
        "backward": float((stock.weight.grad - work.layer.weight.grad[KERNEL]).abs().max()),
    }
    if not max(differences.values()) < 1e-4:
        raise AssertionError(f"The stock layer disagrees: {differences}")
    return differences
