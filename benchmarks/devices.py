"""Circuits on snapshots of IBM's devices: size, noise, time to place and time to run.

Circuits: multiplexor encoder, strongly entangling ansatz of three blocks. Ours: the patch that
`EstimatorEngine.from_backend` takes. Plain Qiskit: `optimization_level=3` onto the whole device,
the best of several transpiler seeds by the same prediction of its fidelity, so that only what
Qiskit searches differs. Both are simulated exactly (density matrix, readout included) with the
device's noise on their own qubits; before that, without noise, both agree with the exact engine.
Error: mean |z_noisy - z_exact| over seeded Gaussian pixels, weight sets and qubits. Placing begins
with an empty cache.
"""

from __future__ import annotations

import logging
import math
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from qiskit import QuantumCircuit
from qiskit.providers import BackendV2
from qiskit.transpiler import generate_preset_pass_manager
from qiskit_ibm_runtime.executor_estimator import Estimator
from qiskit_ibm_runtime.executor_estimator.finalize_options import finalize_estimator_options

from benchmarks.common import Figure, Report, Settings, Table, interleaved
from benchmarks.common import torch_threads as threads
from benchmarks.workload import Workload
from qpc_qiskit import EstimatorEngine
from qpc_qiskit.backends.aer import AerEstimator
from qpc_qiskit.backends.destinations import noise_of_patch
from qpc_qiskit.backends.named import find_backend
from qpc_qiskit.circuits.directions import canonical_directions
from qpc_qiskit.circuits.encoder import make_encoder
from qpc_qiskit.devices import regions
from qpc_qiskit.devices.isa import check_equivalence, faulty
from qpc_qiskit.devices.patches import embed, embed_observables, place
from qpc_qiskit.devices.targets import read_device
from qpc_qiskit.engines import LayerCall
from qpc_qiskit.engines.exact import ExactEngine
from qpc_qiskit.rows.pubs import (
    Rows,
    Template,
    by_pixel_and_kernel,
    evs_from_data,
    make_pub,
    make_template,
    product_pairs,
)

DEVICES = ("fake_torino", "fake_fez", "fake_boston")
QUBITS = (3, 4, 5, 6)
QISKIT_SEEDS = 8
PIXELS, WEIGHT_SETS = 64, 4
SHOTS = 1024
MAX_SIMULATED = 8
"""Qubits: what plain Qiskit routes over more of is not simulated."""
DESIGN = {"gates": 72, "depth": 40}
PROTOTYPE = {"gates": 173, "depth": 152, "error": 0.0621}
"""Of this circuit for n = 6 on FakeTorino, before patches were chosen by their calibration."""


@dataclass(frozen=True, eq=False)
class Wired:
    """A template on some of a device's qubits, alone."""

    template: Template
    qubits: tuple[int, ...]
    """Wire i is the device's qubit `qubits[i]`."""


def run(settings: Settings) -> Report:
    placed = Table("Size, predicted fidelity and noise of a circuit, ours and plain Qiskit's")
    walls = Table(f"Seconds for pixels of one kernel on the patch, {SHOTS:,} shots where there are")
    report = Report("Snapshots of devices", [placed, walls])
    with threads(settings.threads), _empty_cache():
        for name in settings.pick(DEVICES, DEVICES[:1]):
            for n in settings.pick(QUBITS, QUBITS[:1]):
                placed.rows += _measure(name, _workload(n, WEIGHT_SETS), settings)
                print(placed.rows[-2], placed.rows[-1], sep="\n", flush=True)
        work = _workload(settings.pick(6, 3), 1)
        walls.rows = list(_wall_times(work, settings))
        report.notes = [
            __doc__.split("\n\n", 1)[1].replace("\n", " ").strip(),
            f"For n = 6 on FakeTorino the prototype had {PROTOTYPE['gates']} two-qubit gates in "
            f"{PROTOTYPE['depth']} layers and an error of {PROTOTYPE['error']}; the "
            f"{DESIGN['gates']} in {DESIGN['depth']} that the design asks for are those of its "
            "brickwall encoder, not of this one.",
            "predicted: product of gate, idle and readout fidelities; the simulated noise is of "
            "gates and readout, idle qubits have none. seconds: of all transpiler seeds, ours with "
            "the search for a patch.",
            "Wall times: preparing is placing, transpiling and checking against the exact engine, "
            "with an empty cache. randomizations: twirls of a row, each a simulation of its own "
            "for each noise factor.",
            "The naive way, the same circuit transpiled for the wide snapshot and given to IBM's "
            f"Estimator, {_naive(_workload(3, 1))}",
        ]
    report.figures = _figures(placed)
    return report


def _workload(n: int, kernels: int) -> Workload:
    return Workload(channels=2**n, kernels=kernels, qubits=n, dtype=torch.float64)


@contextmanager
def _empty_cache() -> Iterator[None]:
    """Placements of earlier runs are neither found nor overwritten."""
    before = os.environ.get("QPC_CACHE_DIR")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["QPC_CACHE_DIR"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["QPC_CACHE_DIR"]
            else:
                os.environ["QPC_CACHE_DIR"] = before


def _measure(name: str, work: Workload, settings: Settings) -> list[dict]:
    """Two rows: our placement and plain Qiskit's."""
    backend, spec = find_backend(name), work.spec
    template = make_template(make_encoder("multiplexor", work.qubits), spec.ansatz)
    bad_qubits, bad_edges = faulty(backend)
    num_seeds = settings.pick(QISKIT_SEEDS, 2)
    results: list[Wired] = []

    def plain() -> None:
        results[:] = [_transpiled(template, backend, seed) for seed in range(num_seeds)]

    timings = interleaved(
        {
            "ours": lambda: place(
                template.circuit, backend.target, bad_qubits=bad_qubits, bad_edges=bad_edges
            ),
            "plain": plain,
        },
        rounds=settings.pick(3, 1),
        min_rounds=1,
        budget_seconds=60,
        slice_seconds=0,
    )
    pixels, weights = work.pixels(settings.pick(PIXELS, 4)), work.layer.weight.detach()
    exact = ExactEngine().evs(LayerCall(spec, pixels, weights)).numpy()
    engine = EstimatorEngine.from_backend(backend, precision=0, dedupe_grid=None)
    noisy = engine.evs(LayerCall(spec, pixels, weights)).numpy()
    told, sent = engine.last_report, engine.prepare(spec)
    ours = Wired(sent.template, told.patch)
    rows = _rows(work, pixels)
    theirs = min(results, key=lambda wired: -_predicted(wired, backend))
    _assert_agreement(theirs, rows, exact)
    _assert_agreement(ours, rows, exact)
    one = replace(rows, pairs=rows.pairs[:1])
    if not np.abs(_noisy_values(ours, backend, one)[0] - noisy[0, 0]).max() < 1e-9:
        raise AssertionError("Plain Qiskit's circuit is not evaluated as the engine's is.")
    values = {"ours": noisy}
    if len(theirs.qubits) <= MAX_SIMULATED:
        values["plain"] = by_pixel_and_kernel(
            _noisy_values(theirs, backend, rows), len(pixels), work.kernels
        )
    sides = {"ours": ("qpc_qiskit", ours), "plain": (f"Qiskit, {num_seeds} seeds", theirs)}
    return [
        {
            "device": name,
            "n": work.qubits,
            "by": who,
            "two-qubit gates": wired.template.circuit.num_nonlocal_gates(),
            "two-qubit depth": _two_qubit_depth(wired.template.circuit),
            "predicted": _predicted(wired, backend),
            "error": float(np.abs(values[side] - exact).mean()) if side in values else None,
            "seconds": timings[side].best,
            "qubits": " ".join(map(str, wired.qubits)),
        }
        for side, (who, wired) in sides.items()
    ]


def _rows(work: Workload, pixels: torch.Tensor) -> Rows:
    return Rows(
        make_encoder("multiplexor", work.qubits).angles(canonical_directions(pixels)).numpy(),
        work.spec.ansatz.angles(work.layer.weight.detach().numpy()),
        product_pairs(len(pixels), work.kernels),
    )


def _transpiled(template: Template, backend: BackendV2, seed: int) -> Wired:
    """As a user of Qiskit alone would do, cut down to the qubits that it uses."""
    manager = generate_preset_pass_manager(3, backend=backend, seed_transpiler=seed)
    wide = manager.run(template.circuit)
    final = wide.layout.final_index_layout()[: template.circuit.num_qubits]
    wires = {qubit: i for i, qubit in enumerate(wide.qubits)}
    used = {wires[q] for instruction in wide.data for q in instruction.qubits} | set(final)
    qubits = tuple(sorted(used))
    small = QuantumCircuit(len(qubits), global_phase=wide.global_phase)
    for instruction in wide.data:
        small.append(instruction.operation, [qubits.index(wires[q]) for q in instruction.qubits])
    small = embed(small, range(len(qubits)), len(qubits))
    layout = [qubits.index(q) for q in final]
    observables = embed_observables(template.observables, layout, len(qubits))
    return Wired(Template(small, template.parameters, tuple(observables), template.columns), qubits)


def _predicted(wired: Wired, backend: BackendV2) -> float:
    """The package's prediction; of the readouts only those that are measured."""
    device = read_device(backend.target, len(wired.qubits), *faulty(backend))
    profile = regions.profile(wired.template.circuit, device.durations)
    loss = regions.predicted_losses(device, profile, np.array([wired.qubits]))[0]
    measured = np.any([o.paulis.z.any(0) for o in wired.template.observables], axis=0)
    further = np.array(wired.qubits)[~measured]
    return math.exp(device.losses["measure"][further].sum() - loss)


def _two_qubit_depth(circuit: QuantumCircuit) -> int:
    return circuit.depth(lambda each: len(each.qubits) == 2 and each.operation.name != "barrier")


def _noisy_values(wired: Wired, backend: BackendV2, rows: Rows) -> np.ndarray:
    """Exact values (rows, n) under the device's noise on these qubits."""
    model = noise_of_patch(backend, wired.qubits)
    pub = make_pub(wired.template, rows.values(), 0.0)
    data = AerEstimator(model).run([pub]).result()[0].data
    return evs_from_data(data, len(rows), len(wired.template.observables))


def _assert_agreement(wired: Wired, rows: Rows, exact: np.ndarray) -> None:
    """Without noise, on a few rows."""
    few = np.linspace(0, len(rows) - 1, 3).astype(int)
    pixel, kernel = rows.pairs[few].T
    check_equivalence(
        wired.template.circuit,
        wired.template.parameters,
        wired.template.observables,
        rows.values()[few],
        exact[pixel, kernel],
        1e-8,
    )


def _wall_times(work: Workload, settings: Settings) -> Iterator[dict]:
    pixels, weights = work.pixels(settings.pick(PIXELS, 2)), work.layer.weight.detach()
    exact = ExactEngine().evs(LayerCall(work.spec, pixels, weights))
    ways: dict[str, tuple[dict[str, object], int]] = {
        "exact noisy values": ({"precision": 0}, 3),
        "level 0": ({"shots": SHOTS, "resilience": 0}, 3),
        "level 1": ({"shots": SHOTS, "resilience": 1}, 2),
        "level 2": ({"shots": SHOTS, "resilience": 2}, 1),
    }
    if settings.quick:
        del ways["level 2"]
    for name, (options, rounds) in ways.items():
        with _empty_cache():
            began = time.perf_counter()
            engine = EstimatorEngine.from_backend(
                DEVICES[0], seed=None if "precision" in options else 1, dedupe_grid=None, **options
            )
            prepared = engine.prepare(work.spec)
            prepare_seconds = time.perf_counter() - began
        found: list[torch.Tensor] = []
        call = LayerCall(work.spec, pixels, weights)
        timing = interleaved(
            {name: lambda e=engine, f=found, c=call: f.append(e.evs(c))},
            rounds=settings.pick(rounds, 1),
            min_rounds=1,
            slice_seconds=0,
            budget_seconds=120,
            warm_up=False,
        )[name]
        shots = engine.shots
        cost = engine.destination.cost(prepared, shots or 0)
        per_row, per_job = (cost.shots_per_row, cost.shots_per_job) if shots else (None, None)
        randomizations, factors = _twirls(engine.destination.connect(prepared), options)
        yield {
            "values": name,
            "n": work.qubits,
            "pixels": len(pixels),
            "prepare s": prepare_seconds,
            "run s": timing.best,
            "ms per pixel": 1e3 * timing.best / len(pixels),
            "runs": len(timing.seconds),
            "randomizations": randomizations,
            "noise factors": factors,
            "shots of a row": per_row,
            "shots of calibration": per_job,
            "error": float((found[-1] - exact).abs().mean()),
        }
        print(f"{name}: prepared {prepare_seconds:.1f} s, run {timing.best:.1f} s", flush=True)


def _twirls(estimator: object, options: dict[str, object]) -> tuple[int | None, int | None]:
    """Randomizations and noise factors of every row, as the package has set them for a laptop."""
    if not options.get("resilience"):
        return None, None
    final = finalize_estimator_options(estimator.options)
    zne = final.resilience.zne
    factors = 3 if zne.noise_factors == "auto" else len(zne.noise_factors)
    return final.twirling.num_randomizations, factors if final.resilience.zne_mitigation else 1


def _naive(work: Workload) -> str:
    """What comes of it: the error's text."""
    backend = find_backend(DEVICES[0])
    template = make_template(make_encoder("multiplexor", work.qubits), work.spec.ansatz)
    circuit = generate_preset_pass_manager(3, backend=backend, seed_transpiler=0).run(
        template.circuit
    )
    observables = [[o.apply_layout(circuit.layout)] for o in template.observables]
    values = {template.parameters: _rows(work, work.pixels(1)).values()}
    logging.disable(logging.ERROR)  # Aer would tell it for every circuit
    try:
        Estimator(backend).run([(circuit, observables, values)]).result()
    except Exception as error:  # noqa: BLE001 - its text is what is wanted
        return (
            f"fails (n = {work.qubits}): `{type(error).__name__}: {' '.join(str(error).split())}`"
        )
    finally:
        logging.disable(logging.NOTSET)
    return "did not fail this time, and should be measured."


def _figures(table: Table) -> list[Figure]:
    figures = []
    of = {(row["device"], row["n"], "Qiskit" in row["by"]): row for row in table.rows}
    ours = of.get(("fake_torino", 6, False))
    if ours is not None:
        gates, depth = ours["two-qubit gates"], ours["two-qubit depth"]
        figures += [
            Figure("two-qubit gates / depth, FakeTorino, n = 6 (asked of the brickwall encoder)",
                   f"<= {DESIGN['gates']} / {DESIGN['depth']}", f"{gates} / {depth}",
                   gates <= DESIGN["gates"] and depth <= DESIGN["depth"]),
            Figure("two-qubit gates / depth, FakeTorino, n = 6, against the prototype",
                   f"<= {PROTOTYPE['gates']} / {PROTOTYPE['depth']}", f"{gates} / {depth}",
                   gates <= PROTOTYPE["gates"] and depth <= PROTOTYPE["depth"]),
            Figure("error, FakeTorino, n = 6, against the prototype",
                   f"<= {PROTOTYPE['error']}", f"{ours['error']:.4f}",
                   ours["error"] <= PROTOTYPE["error"]),
        ]  # fmt: skip
    return figures
