"""The exact engine's forward and backward pass against the machine's matrix product.

The limit is the time of three products of N*K * 2**n * 2**(n+1) multiply-adds (forward, gradient by
the pixels, gradient by the matrix) at the best rate that torch.mm reaches in the same run. The
engine recomputes the forward product in its backward pass, so it can reach 0.75 at most.
"""

from __future__ import annotations

import torch

from benchmarks.common import Figure, Report, Settings, Table, busy_process, interleaved
from benchmarks.common import torch_threads as threads
from benchmarks.workload import Workload

TARGET = 0.6


def run(settings: Settings) -> Report:
    images = settings.pick(512, 8)
    table = Table(f"n = 6, K = 11, L = 3, 64 channels, {images * 49:,} pixels")
    for count in range(1, settings.threads + 1):
        for dtype in (torch.float32, torch.float64):
            for is_busy in (False, True):
                with threads(count), busy_process(is_busy):
                    table.rows.append(_measure(images, dtype, count, is_busy, settings))
    report = Report("Exact engine against the machine's matrix product", [table])
    for row in table.rows:
        if row["busy core"] == "no":
            report.figures.append(
                Figure(
                    f"fraction of the GEMM limit, {row['dtype']}, {row['threads']} threads",
                    f">= {TARGET}",
                    f"engine {row['engine / limit']:.2f}, layer {row['layer / limit']:.2f}",
                    row["engine / limit"] >= TARGET,
                )
            )
    report.notes = [
        __doc__.split("\n\n", 1)[1].replace("\n", " ").strip(),
        "engine: `evs`, then `vjp` by pixels and weights. layer: forward and backward from images "
        "(B, 64, 7, 7).",
        "busy core: with another process that never pauses beside it.",
    ]
    return report


def _measure(images: int, dtype, count: int, is_busy: bool, settings: Settings) -> dict:
    work = Workload(channels=64, kernels=11, qubits=6, dtype=dtype)
    pixels, cotangent = work.pixels(images * 49), work.cotangent(images * 49)
    batch = work.images(images)
    shapes = _shapes(work, settings)
    timings = interleaved(
        {
            "engine": lambda: work.engine_step(pixels, cotangent),
            "layer": lambda: work.layer_step(batch),
            **{name: call for name, (call, _) in shapes.items()},
        },
        rounds=settings.pick(7, 2),
        slice_seconds=settings.pick(0.5, 0.05),
    )
    rates = {name: adds / timings[name].best for name, (_, adds) in shapes.items()}
    fastest = max(rates, key=rates.__getitem__)
    limit = 3 * work.multiply_adds(images * 49) / rates[fastest]
    engine, layer = timings["engine"], timings["layer"]
    return {
        "threads": count,
        "dtype": str(dtype).removeprefix("torch."),
        "busy core": "yes" if is_busy else "no",
        "limit ms": 1e3 * limit,
        "engine ms": 1e3 * engine.best,
        "layer ms": 1e3 * layer.best,
        "engine / limit": limit / engine.best,
        "layer / limit": limit / layer.best,
        "pixels x kernels / s": images * 49 * work.spec.num_kernels / engine.best,
        "best product": fastest,
        **{f"{name} Gmadd/s": rate / 1e9 for name, rate in rates.items()},
        "median / best": engine.median / engine.best,
    }


def _shapes(work: Workload, settings: Settings) -> dict:
    """Matrix products by name: call and multiply-adds of a call."""
    rows, channels = 2 * 2**work.spec.num_qubits * work.spec.num_kernels, work.spec.in_channels
    big = settings.pick(2048, 512)
    shapes = {
        "chunk": (rows, channels, 256),  # the engine's forward product
        "chunk back": (channels, rows, 256),  # its gradient by the pixels
        "square": (big, big, big),
    }
    return {name: _product(shape, work.dtype) for name, shape in shapes.items()}


def _product(shape: tuple[int, int, int], dtype):
    m, k, p = shape
    left, right = torch.randn(m, k, dtype=dtype), torch.randn(k, p, dtype=dtype)
    out = torch.empty(m, p, dtype=dtype)
    repeats = max(1, int(2e9 / (m * k * p)))

    def call():
        for _ in range(repeats):
            torch.mm(left, right, out=out)

    return call, repeats * m * k * p
