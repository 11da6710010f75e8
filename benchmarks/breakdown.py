"""Where the time of a step goes: forward and backward of the layer from images, by torch.profiler.

Every operation's own time is counted under the innermost of our functions that called it. What the
operations do not account for is Python and dispatch. The split is taken with one thread: with more,
the engine's workers run beside each other and their times do not add up to the step's.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.common import Report, Settings, Table, interleaved
from benchmarks.common import torch_threads as threads
from benchmarks.workload import Workload
from qpc_qiskit import connector
from qpc_qiskit.engines import exact

PHASE = "phase: "
PHASES = {
    "unitaries, forward": (exact, "_real_rows"),
    "unitaries, backward": (torch.autograd, "grad"),
    "normalisation": (exact, "_unit_columns"),
    "finite check": (connector, "check_finite"),
    "engine": (exact, "_evs"),
    "engine, backward": (exact, "_vjp"),
}
"""Functions whose operations are counted together; those of the last two by kind of operation."""
KINDS = {
    "GEMMs": ("mm", "addmm", "addmm_"),
    "signed sums (bmm)": ("bmm", "baddbmm"),
    "elementwise": ("square_", "square", "pow_", "pow", "add", "add_", "mul", "mul_", "sum",
                    "addcmul_", "div_", "masked_fill_", "clamp_", "sub_", "abs", "sub"),
    "copies inside the engine": ("copy_", "contiguous", "clone", "cat"),
}  # fmt: skip
COLUMNS = ("unitaries, forward", "unitaries, backward", *KINDS, "normalisation", "finite check",
           "rest of the engine", "images <-> pixels, autograd", "Python and dispatch")  # fmt: skip


def run(settings: Settings) -> Report:
    milliseconds = Table("Milliseconds of a step (n = 6, K = 11, L = 3, 64 channels)")
    shares = Table("Shares in percent")
    report = Report("Breakdown of a training step", [milliseconds, shares])
    for dtype in (torch.float32, torch.float64):
        for images in settings.pick((42, 512), (8,)):  # 2,058 and 25,088 pixels
            work = Workload(channels=64, kernels=11, qubits=6, dtype=dtype)
            case = {"dtype": str(dtype).removeprefix("torch."), "N": images * 49}
            repeats = settings.pick(10, 2)
            with threads(settings.threads):
                threaded = _best_step(work, images, repeats)
            with threads(1):
                plain = _best_step(work, images, repeats)
                profiled, phases = _measure(work, images, repeats)
            total = {
                f"step, {settings.threads} threads": 1e3 * threaded,
                "step, 1 thread": 1e3 * plain,
                "profiled": 1e3 * profiled,
            }
            milliseconds.rows.append({**case, **total, **{c: 1e3 * phases[c] for c in COLUMNS}})
            shares.rows.append({**case, **{c: 100 * phases[c] / profiled for c in COLUMNS}})
    report.notes = [
        __doc__.split("\n\n", 1)[1].replace("\n", " ").strip(),
        "step: best without the profiler; profiled: mean with it, one thread. The columns add up "
        "to profiled.",
    ]
    return report


def _best_step(work: Workload, images: int, repeats: int) -> float:
    batch = work.images(images)
    return interleaved({"step": lambda: work.layer_step(batch)}, rounds=repeats)["step"].best


def _measure(work: Workload, images: int, repeats: int) -> tuple[float, Counter]:
    """Mean profiled time of a step, and seconds by column."""
    batch = work.images(images)
    with _labelled(), profile(activities=[ProfilerActivity.CPU]) as profiler:
        work.layer_step(batch)  # the profiler's own warm-up, cut off below
        began = time.perf_counter()
        with record_function(f"{PHASE}measured"):
            for _ in range(repeats):
                work.layer_step(batch)
        profiled = (time.perf_counter() - began) / repeats
    phases: Counter = Counter()
    for event in profiler.events():
        chain = _chain(event)
        if f"{PHASE}measured" in chain and not event.name.startswith(PHASE):
            phases[_column(event.name, chain)] += event.self_cpu_time_total / 1e6 / repeats
    phases["Python and dispatch"] = profiled - sum(phases.values())
    return profiled, phases


def _chain(event) -> list[str]:
    """Names of an event and all that enclose it, innermost first."""
    names = []
    while event is not None:
        names.append(event.name)
        event = event.cpu_parent
    return names


def _column(name: str, chain: list[str]) -> str:
    inner = next(n for n in chain if n.startswith(PHASE)).removeprefix(PHASE)
    if inner in COLUMNS:
        return inner
    if inner == "measured":
        return "images <-> pixels, autograd"
    operation = name.removeprefix("aten::")
    return next((k for k, names in KINDS.items() if operation in names), "rest of the engine")


@contextmanager
def _labelled() -> Iterator[None]:
    """Give the profiler our functions' names; fails if one no longer exists."""
    with ExitStack() as stack:
        for phase, (module, name) in PHASES.items():
            original = getattr(module, name)

            def labelled(*args, _original=original, _label=PHASE + phase, **kwargs):
                with record_function(_label):
                    return _original(*args, **kwargs)

            stack.enter_context(mock.patch.object(module, name, labelled))
        yield
