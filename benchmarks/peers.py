"""Forward and backward pass against PennyLane and tensorcircuit-ng, which agree with us first.

All compute values (N, K, n) and gradients by pixels and weights from the same arrays, in one
process, with the same cores. Ours is the connector with autograd, without images. Each peer's way
of calling (all kernels at once or one by one, pixels per call) is chosen by a trial; PennyLane is
also timed with all pixels in one call per kernel, as it is used without that care, and the ratio is
to the faster of the two.
"""

from __future__ import annotations

import torch

from benchmarks.common import Figure, Report, Settings, Table, interleaved
from benchmarks.common import torch_threads as threads
from benchmarks.pennylane_peer import PennyLanePeer
from benchmarks.workload import Workload

SHAPES = ({"qubits": 4, "channels": 16, "kernels": 8}, {"qubits": 6, "channels": 64, "kernels": 11},
          {"qubits": 7, "channels": 100, "kernels": 10})  # fmt: skip
PIXELS = (2048, 8192, 25088)
TOLERANCE = {torch.float32: 5e-5, torch.float64: 1e-11}
TRIAL_PIXELS = 2048
JAX_CHUNKS = {4: 256, 6: 256, 7: 128}
"""Pixels per call by n: the fastest of 128, 256, 512 and 2,048 (tried once; they differ by up to
1.5 times), and a divisor of every N."""
MEMORY_BYTES = 20 * 2**30


def run(settings: Settings) -> Report:
    table = Table("Forward + backward, pixels x kernels per second, best of several")
    ways = Table("How the peers were called, agreement, compile time")
    report = Report("Exact engine against PennyLane and tensorcircuit-ng", [table, ways])
    try:
        from benchmarks.tensorcircuit_peer import TensorCircuitPeer
    except ModuleNotFoundError as error:
        TensorCircuitPeer = None
        report.notes.append(f"tensorcircuit-ng was left out: {error}.")
    with threads(settings.threads):
        for dtype in (torch.float32, torch.float64):
            for shape in settings.pick(SHAPES, SHAPES[:1]):
                work = Workload(**shape, dtype=dtype)
                _measure(work, TensorCircuitPeer, settings, table, ways)
    report.figures = _figures(table)
    report.notes.append(__doc__.split("\n\n", 1)[1].replace("\n", " ").strip())
    report.notes.append(
        "PennyLane's calls are each followed by their backward pass, which bounds its memory. "
        "`whole batch` is left out where one call's saved states exceed "
        f"{MEMORY_BYTES / 2**30:.0f} GiB by estimate. JAX: compiled ahead, inputs already in its "
        "memory; compile time excluded."
    )
    return report


def _measure(work: Workload, jax_peer, settings: Settings, table: Table, ways: Table) -> None:
    dtype = str(work.dtype).removeprefix("torch.")
    case = {"n": work.qubits, "C": work.channels, "K": work.kernels, "dtype": dtype}
    penny = _fastest_pennylane(work, settings)
    jaxed = jax_peer and jax_peer(work, settings.pick(JAX_CHUNKS[work.qubits], 128))
    ways.rows.append(
        {
            **case,
            "PennyLane": penny.name,
            "tensorcircuit": jaxed.name if jaxed else "",
            "largest difference": _assert_agreement(work, penny, jaxed),
            "JAX compile s": jaxed.compile_seconds if jaxed else None,
        }
    )
    for count in settings.pick(PIXELS, (256,)):
        pixels, cotangent = work.pixels(count), work.cotangent(count)
        candidates = {
            "qpc_qiskit": lambda p=pixels, c=cotangent: work.connector_step(p, c),
            "PennyLane": lambda p=pixels, c=cotangent: penny.step(p, c),
        }
        whole = PennyLanePeer(work, is_joint=False, chunk=count)
        if _pennylane_bytes(whole) < MEMORY_BYTES:
            candidates["PennyLane, whole batch"] = lambda p=pixels, c=cotangent, peer=whole: (
                peer.step(p, c)
            )
        if jaxed:
            inputs = jaxed.inputs(pixels, cotangent)
            candidates["tensorcircuit"] = lambda i=inputs: jaxed.step(i)
        candidates["qpc_qiskit"]()  # the peers have run already, to be compared
        timings = interleaved(
            candidates,
            rounds=settings.pick(4, 2),
            budget_seconds=settings.pick(30, 2),
            slice_seconds=settings.pick(0.5, 0.1),
            warm_up=False,
        )
        table.rows.append(_row({**case, "N": count}, timings, count * work.kernels))
        print(table.rows[-1], flush=True)


def _row(case: dict, timings: dict, evaluations: int) -> dict:
    rates = {name: evaluations / t.best for name, t in timings.items()}
    row = {**case}
    for name in ("qpc_qiskit", "PennyLane", "PennyLane, whole batch", "tensorcircuit"):
        row[name] = rates.get(name)
    best = {
        "PennyLane": max(rates["PennyLane"], rates.get("PennyLane, whole batch", 0)),
        "PennyLane, whole batch": rates.get("PennyLane, whole batch"),
        "tensorcircuit": rates.get("tensorcircuit"),
    }
    for name, rate in best.items():
        row[f"ours / {name}"] = rate and rates["qpc_qiskit"] / rate
    row["runs"] = "/".join(str(len(t.seconds)) for t in timings.values())
    row["largest median / best"] = max(t.median / t.best for t in timings.values())
    return row


def _fastest_pennylane(work: Workload, settings: Settings) -> PennyLanePeer:
    count = settings.pick(TRIAL_PIXELS, 128)
    pixels, cotangent = work.pixels(count), work.cotangent(count)
    peers = [
        PennyLanePeer(work, is_joint, chunk)
        for is_joint in (False, True)
        for chunk in (count // 8, count // 2, count)
    ]
    timings = interleaved(
        {peer.name: lambda peer=peer: peer.step(pixels, cotangent) for peer in peers},
        rounds=2,
        slice_seconds=0,
        warm_up=False,
    )
    return min(peers, key=lambda peer: timings[peer.name].best)


def _pennylane_bytes(peer: PennyLanePeer) -> float:
    """Saved by one call's graph: about two states a gate, a Rot and a CNOT a qubit and block."""
    work = peer.work
    states = 4 * work.num_layers * work.qubits
    return states * peer.chunk * 2**work.qubits * 2 * work.dtype.itemsize


def _assert_agreement(work: Workload, penny: PennyLanePeer, jaxed) -> float:
    """Largest difference of values and relative difference of gradients from ours."""
    count = jaxed.chunk if jaxed else 128
    pixels, cotangent = work.pixels(count), work.cotangent(count)
    ours = work.connector_step(pixels, cotangent)
    others = {"PennyLane": penny.step(pixels, cotangent)}
    if jaxed:
        others["tensorcircuit"] = jaxed.values(jaxed.inputs(pixels, cotangent))
    largest = 0.0
    for name, theirs in others.items():
        for what, a, b in zip(("values", "by pixels", "by weights"), ours, theirs, strict=True):
            scale = 1.0 if what == "values" else float(a.abs().max())
            difference = float((a - b).abs().max()) / scale
            if not difference < TOLERANCE[work.dtype]:
                raise AssertionError(f"{name} disagrees on {what}: {difference:.1e}")
            largest = max(largest, difference)
    return largest


def _figures(table: Table) -> list[Figure]:
    figures = []
    for count, target in ((25088, 50), (2048, 40)):
        rows = [r for r in table.rows if r["N"] == count and r["n"] == 6]
        for row in rows:
            for peer in ("PennyLane, whole batch", "PennyLane", "tensorcircuit"):
                ratio = row.get(f"ours / {peer}")
                if ratio is not None:
                    what = f"ours / {peer}, n=6, N={count:,}, {row['dtype']}"
                    figures.append(Figure(what, f">= {target}x", f"{ratio:.1f}x", ratio >= target))
    return figures
