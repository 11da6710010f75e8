"""Peak memory of a forward and backward pass against the number of pixels.

Each case runs in a fresh process, which resets the kernel's peak counter (VmHWM; `ru_maxrss` would
be inherited from the parent) after imports, inputs and a warm-up. From the peak are subtracted the
outputs: values and both gradients.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.common import ROOT, Figure, Report, Settings, Table

PIXELS = (2048, 8192, 25088, 50176, 100352, 200704)
QUICK_PIXELS = (2048, 8192)
SHAPE = {"channels": 64, "kernels": 11, "qubits": 6}
FLAT_MIB = 8
"""Growth from the fewest to the most pixels that still counts as flat."""


def run(settings: Settings) -> Report:
    table = Table("n = 6, K = 11, L = 3, 64 channels, MiB")
    report = Report("Peak memory", [table])
    if not Path("/proc/self/clear_refs").exists():
        report.notes.append("Left out: this needs Linux.")
        return report
    for dtype in ("float32", "float64"):
        for count in settings.pick(PIXELS, QUICK_PIXELS):
            table.rows.append({"dtype": dtype, "N": count, **_case(count, dtype, settings.threads)})
            print(table.rows[-1], flush=True)
        extra = [r["engine: beyond in- and output"] for r in table.rows if r["dtype"] == dtype]
        growth = extra[-1] - extra[0]
        counts = settings.pick(PIXELS, QUICK_PIXELS)
        report.figures.append(
            Figure(
                f"engine, {dtype}: growth of the extra memory from {counts[0]:,} to "
                f"{counts[-1]:,} pixels",
                f"flat (<= {FLAT_MIB} MiB)",
                f"{growth:+.1f} MiB",
                growth <= FLAT_MIB,
            )
        )
    report.notes = [
        __doc__.split("\n\n", 1)[1].replace("\n", " ").strip(),
        "engine: `evs` and `vjp` on pixels (N, C). layer: forward and backward from images "
        "(N/49, C, 7, 7); it copies images to pixels and maps back, which grows with N.",
        "kept products: what one copy of all amplitudes, N x K x 2**(n+1) values, would take; a "
        "backward pass that kept them instead of recomputing would need at least this.",
    ]
    return report


def _case(count: int, dtype: str, threads: int) -> dict:
    row = {}
    for what in ("engine", "layer"):
        child = subprocess.run(
            [sys.executable, "-m", "benchmarks.memory", what, str(count), dtype, str(threads)],
            cwd=ROOT, check=True, capture_output=True, text=True, timeout=300,
            env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},  # freed tensors are given back
        )  # fmt: skip
        row[what] = json.loads(child.stdout.splitlines()[-1])
    itemsize = 4 if dtype == "float32" else 8
    products = count * SHAPE["kernels"] * 2 ** (SHAPE["qubits"] + 1) * itemsize
    inputs = row["layer"]["inputs"]
    layer_extra = row["layer"]["extra"]
    return {
        "in- and output": (inputs + row["layer"]["outputs"]) / 2**20,
        "engine: beyond in- and output": row["engine"]["extra"] / 2**20,
        "layer: beyond in- and output": layer_extra / 2**20,
        "layer: the same / inputs": layer_extra / inputs,
        "kept products": products / 2**20,
    }


def _child(what: str, count: int, dtype: str, threads: int) -> dict[str, int]:
    import torch

    from benchmarks.workload import Workload

    torch.set_num_threads(threads)
    work = Workload(**SHAPE, dtype=getattr(torch, dtype))
    if what == "engine":
        inputs = work.pixels(count), work.cotangent(count)
        small = work.pixels(512), work.cotangent(512)
        step = lambda pair: work.engine_step(*pair)  # noqa: E731
    else:
        inputs, small = work.images(count // 49), work.images(11)
        step = work.layer_step
    step(small)
    Path("/proc/self/clear_refs").write_text("5")  # peak := present
    before = _status_bytes("VmHWM")
    kept = step(inputs)
    peak = _status_bytes("VmHWM")
    itemsize = inputs[0].element_size()
    outputs = count * (SHAPE["kernels"] * SHAPE["qubits"] + SHAPE["channels"]) * itemsize
    del kept
    return {
        "inputs": sum(t.numel() * t.element_size() for t in inputs),
        "outputs": outputs,
        "extra": peak - before - outputs,
    }


def _status_bytes(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {key}")


if __name__ == "__main__":
    print(json.dumps(_child(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))))
